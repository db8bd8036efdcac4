"""The promise of a cloak check on photos of people, with the recognizers that users have."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from physadv.core.image_io import list_images
from physadv.core.torch_threads import calm_threads
from physadv.models.faces.embedders import load_embedder
from physadv.models.faces.face_detection import default_finders
from physadv.privacy.check.embeddings import EmbeddingPlan
from physadv.privacy.check.protection_verdict import ProtectionVerdict
from physadv.privacy.check.run_cloak_check import run_cloak_check
from physadv.privacy.cloak_task import CloakTask
from physadv.privacy.config import CloakConfig

pytestmark = pytest.mark.slow
pytest.importorskip("dlib", reason="needs the extra faces")
PEOPLE = 20

Check = Callable[..., tuple[ProtectionVerdict, dict[str, str]]]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Check:
    """check("bare" or "marked", recognizers): verdict and roles of photos of 20 people, one each
    cloaked by dlib alone in mode high, lying alone in a folder: with their metadata or as pixels.
    """
    root = tmp_path_factory.mktemp("promise")
    everyone = sorted((shared_data / "faces").iterdir())[::4][:PEOPLE]
    for person in everyone:
        for name, file in zip(("a", "b"), list_images(person), strict=False):
            folders = ("originals", "cloaking") if name == "a" else ("originals",)
            for folder in folders:
                (root / folder / person.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, root / folder / person.name / f"{name}.jpg")

    config = CloakConfig(photos=str(root / "cloaking"), mode="high", embedder=("dlib",))
    with calm_threads():
        for _ in CloakTask.from_config(config, root / "cloaked").run():
            pass
    for file in sorted((root / "cloaked").glob("*/*.jpg")):
        for folder in ("marked", "bare"):
            (root / folder / file.parent.name).mkdir(parents=True)
        shutil.copy(file, root / "marked" / file.parent.name)
        pixels = np.asarray(Image.open(file))
        Image.fromarray(pixels).save(root / "bare" / file.parent.name / file.name, quality=95)

    def run(folder: str, *names: str) -> tuple[ProtectionVerdict, dict[str, str]]:
        weights = {
            "mobilefacenet": shared_data / "weights" / "mobilefacenet_foamliu.pt",
            "edgeface-xs": shared_data / "weights" / "edgeface_xs_q.pt",
        }
        result = run_cloak_check(
            root / folder,
            root / "originals",
            [load_embedder(name, weights=weights.get(name)) for name in names],
            default_finders(),
            folder=root / "-".join((folder, *(Path(name).stem for name in names))),
            plan=EmbeddingPlan(channels=("png", "half"), baselines=False),
            adaptive=False,
        )
        assert result.cloaked == PEOPLE
        return result.verdict, {r["name"]: r["role"] for r in result.recognizers}

    return run


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """dlib's net as ONNX, under two other names."""
    pytest.importorskip("onnx")
    root, dlib = tmp_path_factory.mktemp("exported"), load_embedder("dlib")
    net = dlib.net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    batch = {"x": {0: "b"}, "y": {0: "b"}}
    torch.onnx.export(
        net,
        (torch.rand(1, 3, 150, 150),),
        str(root / "net.onnx"),
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes=batch,
    )
    descriptor = """weights = "net.onnx"
size = 150
alignment = "dlib"
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
dimension = 128
metric = "euclidean"
license = "CC0-1.0"
threshold = -0.608
"""
    for name in ("first", "second"):
        (root / f"{name}.toml").write_text(descriptor, encoding="utf-8")
    return [str(root / "first.toml"), str(root / "second.toml")]


@pytest.mark.parametrize("folder", ["bare", "marked"])
def test_the_cloaks_own_recognizer_proves_nothing(check: Check, folder: str) -> None:
    """It matches none of 20 people, which is enough photos, and is amber all the same."""
    verdict, roles = check(folder, "dlib")
    assert roles == {"dlib": "unknown" if folder == "bare" else "surrogate"}
    assert verdict.light == "amber"
    assert verdict.words.startswith("not proven")


@pytest.mark.parametrize("folder", ["bare", "marked"])
def test_a_surrogate_exported_anew_proves_nothing(
    check: Check, exported: list[str], folder: str
) -> None:
    """Under another name and hash, alone twice or beside the surrogate itself."""
    for names in (exported, ["dlib", *exported]):
        verdict, roles = check(folder, *names)
        assert "held-out" not in roles.values()
        assert verdict.light == "amber"
        assert verdict.words.startswith("not proven")


def test_one_recognizer_held_out_is_not_enough(check: Check, exported: list[str]) -> None:
    """Nor with the surrogate exported anew beside it."""
    for names in (["edgeface-xs"], ["edgeface-xs", *exported]):
        verdict, roles = check("marked", *names)
        assert [name for name, role in roles.items() if role == "held-out"] == ["edgeface-xs"]
        assert verdict.light != "green"
        assert any("One recognizer is known" in reason for reason in verdict.reasons)


def test_recognizers_without_a_part_are_known_to_be_judges(check: Check) -> None:
    """By the mark alone, and by nothing where it is gone."""
    names = ("dlib", "mobilefacenet", "edgeface-xs")
    assert list(check("marked", *names)[1].values()) == ["surrogate", "held-out", "held-out"]
    verdict, roles = check("bare", *names)
    assert set(roles.values()) == {"unknown"}
    assert verdict.light != "green"
