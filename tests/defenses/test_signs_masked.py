"""The ready-made model behind patch defenses: what it was trained for is there, and its sibling
lacks it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from physadv.core.image_io import save_png, to_tensor
from physadv.core.rows import read_rows
from physadv.core.sign_artwork import sign_face
from physadv.defenses.load_model import load_model
from physadv.defenses.registry import certified_defense
from physadv.models.architectures.signnet import STOP
from physadv.models.classifiers import resize_images
from physadv_cli.main import app


def stop_signs() -> Tensor:
    """The stop face drawn by code, filling the picture as GTSRB's do, before three grays."""
    face = to_tensor(sign_face("stop", 256).rgba)
    scenes = torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1, 1).expand(3, 3, 288, 288).clone()
    scenes[..., 16:272, 16:272] = face[:3] * face[3:] + scenes[..., 16:272, 16:272] * (1 - face[3:])
    return resize_images(scenes, 64, 64)


@pytest.mark.parametrize("name", ["patchcleanser", "derandomized", "patchguard"])
def test_a_stop_sign_is_proven_by_every_defense_at_its_defaults(name: str) -> None:
    """Read and certified behind each of them; patches of the size, random and by the slope, leave
    the verdict."""
    model = load_model(f"signs-masked+{name}")
    found = certified_defense(model)
    assert found is not None
    proof, images = found[0], stop_signs()
    labels = torch.full((3,), STOP)
    assert proof.certify(images, labels).all()
    assert not proof.certify(images, labels - 1).any()
    image, side = images[:1].clone().requires_grad_(True), proof.patch[0]
    (slope,) = torch.autograd.grad(model(image)[0, STOP], image)
    draw = torch.Generator().manual_seed(0)
    for content in (torch.rand(slope.shape, generator=draw), (slope < 0).float()):
        for top, left in ((0, 0), (29, 29), (25, 40)):
            moved = images[:1].clone()
            moved[..., top : top + side, left : left + side] = content[
                ..., top : top + side, left : left + side
            ]
            assert int(model(moved).argmax()) == STOP


def test_the_plain_model_proves_nothing_here() -> None:
    """Without masked training the same sign is read, and not certified."""
    found = certified_defense(load_model("signs+patchcleanser:masks4"))
    assert found is not None
    assert not found[0].certify(stop_signs(), torch.full((3,), STOP)).any()


def test_certify_as_a_user_types_it(tmp_path: Path) -> None:
    """`certify --method patch` on a folder of signs: one row each, with the size proven, and a
    share that says so."""
    (tmp_path / "data" / "stop").mkdir(parents=True)
    for i, image in enumerate(stop_signs()):
        save_png(tmp_path / "data" / "stop" / f"{i}.png", image)
    words = [
        "--method",
        "patch",
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    result = CliRunner().invoke(
        app, ["certify", "--victim", "signs-masked+patchcleanser:patch9,masks4", *words]
    )
    assert result.exit_code == 0, result.output
    rows = list(read_rows(tmp_path / "out" / "rows.jsonl"))
    assert [(r["predicted"], r["radius"]) for r in rows if "predicted" in r] == [(STOP, 9.0)] * 3
    assert "one patch of 9 x 9 px in 64 x 64 px" in result.stdout
