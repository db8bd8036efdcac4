"""A sticker through a pipeline or ranges of the user's own: made, recorded, verified with
consent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commandline import physadv

from physadv.core.errors import BundleError, OptionError
from physadv.patches.bundle import PatchBundle
from physadv.patches.config import PatchConfig
from physadv.patches.patch_run import PatchRun, checkpoint_key
from physadv.patches.reverify import verify_bundle
from physadv.patches.task import PatchTask

STAGES = """
from pathlib import Path
from kornia.augmentation import RandomMotionBlur

def blurred():
    Path("called").touch()
    return [RandomMotionBlur(3, 35.0, 0.5, p=1.0)]
"""


@pytest.fixture
def settings(own_model: str) -> PatchConfig:
    Path("own_eot.py").write_text(STAGES)
    return PatchConfig(
        model=own_model,
        steps=3,
        draws=4,
        test_draws=40,
        resolution=16,
        lr=0.1,
        eot="own_eot:blurred",
    )


def finished(settings: PatchConfig, out: Path) -> PatchBundle:
    run = PatchRun(settings, out)
    for _ in run.steps(validate_every=3):
        pass
    return run.finish()[0]


def test_an_own_pipeline_is_used_and_recorded(settings: PatchConfig, tmp_path: Path) -> None:
    """Stages of a factory stand after the built-in ones, change the patch, and are on the card."""
    task = PatchTask.from_config(settings)
    assert task.stages.names[-1] == "RandomMotionBlur"
    own = finished(settings, tmp_path / "own")
    plain = finished(replace(settings, eot="default"), tmp_path / "plain")
    assert not torch.equal(own.patch, plain.patch)
    assert own.card.optimisation["eot"] == "own_eot:blurred"


def test_verify_runs_no_code_that_a_card_names(settings: PatchConfig, tmp_path: Path) -> None:
    """A card's own pipeline is refused, uncalled, until the user names it; then it agrees."""
    bundle = finished(settings, tmp_path / "own")
    Path("called").unlink()
    with pytest.raises(BundleError, match="--eot own_eot:blurred"):
        verify_bundle(bundle, given={"model": settings.model})
    assert not Path("called").exists()
    assert verify_bundle(bundle, given={"model": settings.model, "eot": "own_eot:blurred"}).agrees


def test_ranges_from_a_file_are_recorded_and_verified_without_it(
    settings: PatchConfig, tmp_path: Path
) -> None:
    """The card holds the ranges themselves, so the file may be gone when the bundle is verified."""
    file = tmp_path / "my.toml"
    file.write_text("jpeg_quality = [20, 30]\nyaw_deg = [-5, 5]\n")
    own = replace(settings, eot="default", eot_ranges=str(file))
    bundle = finished(own, tmp_path / "out")
    assert bundle.card.eot["jpeg_quality"] == [20.0, 30.0]
    assert bundle.card.eot["yaw_deg"] == [-5.0, 5.0]
    file.unlink()
    assert verify_bundle(bundle, given={"model": settings.model}).agrees


def test_a_checkpoint_belongs_to_the_ranges_of_its_file(
    settings: PatchConfig, tmp_path: Path
) -> None:
    """Another content of the file is another run; without a file the key is what it was."""
    file = tmp_path / "my.toml"
    own = replace(settings, eot="default", eot_ranges=str(file))
    keys = set()
    for text in ("yaw_deg = [-5, 5]", "yaw_deg = [-6, 6]"):
        file.write_text(text)
        keys.add(checkpoint_key(own, ()))
    assert len(keys | {checkpoint_key(replace(own, eot_ranges=None), ())}) == 3


def test_the_command_takes_ranges_and_pipelines(settings: PatchConfig, tmp_path: Path) -> None:
    """--eot module:factory and --eot-ranges FILE work together; a misspelled name is one line."""
    Path("my.toml").write_text("yaw_deg = [-5, 5]")
    words = [
        "patch",
        "--steps",
        "1",
        "--draws",
        "2",
        "--test-draws",
        "8",
        "--resolution",
        "16",
        "--eot",
        "own_eot:blurred",
    ]
    words += [
        "--faces",
        "plain",
        "--model",
        settings.model,
        "--eot-ranges",
        "my.toml",
        "--out",
        "out",
    ]
    run = physadv(Path.cwd(), *words)
    assert run.returncode == 0, run.stderr
    assert 'eot = "own_eot:blurred"' in Path("out/card.toml").read_text()

    Path("my.toml").write_text("yaw = [-5, 5]")
    with pytest.raises(OptionError, match="Did you mean"):
        PatchTask.from_config(replace(settings, eot_ranges="my.toml"))
