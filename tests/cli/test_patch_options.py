"""What `physadv patch` makes of --victim, --weights, --share and names of ready-made bundles."""

from __future__ import annotations

from pathlib import Path

import pytest

from physadv.core.errors import OptionError
from physadv.core.package_data import bundle_folder, patches_dir
from physadv_cli.commands.patch_command import parse_models
from physadv_cli.configured import parse_numbers


def test_weights_find_their_models() -> None:
    """A file alone belongs to the first victim; NAME=FILE to its own; the rest of the victims are
    the ensemble."""
    assert parse_models(["a"], []) == ("a", None, ())
    assert parse_models(["a", "b"], ["f.pt"]) == ("a", "f.pt", ("b",))
    assert parse_models(["a", "m:make"], ["m:make=g.pt", "a=f.pt"]) == (
        "a",
        "f.pt",
        ("m:make=g.pt",),
    )
    assert parse_models(["a", "a"], []) == ("a", None, ())


@pytest.mark.parametrize("weights", [["c=f.pt"], ["f.pt", "a=g.pt"]])
def test_weights_of_nobody_are_refused(weights: list[str]) -> None:
    """Weights of a victim that is not named, or given twice, are one clear error."""
    with pytest.raises(OptionError, match="--weights"):
        parse_models(["a", "b"], weights)


def test_shares_are_numbers_or_ranges() -> None:
    """0.4 stands for itself, 0.3:0.5 for a range; words are refused."""
    assert parse_numbers("0.4", "--share", ":") == (0.4, 0.4)
    assert parse_numbers("0.3:0.5", "--share", ":") == (0.3, 0.5)
    with pytest.raises(OptionError, match=r"0\.3:0\.5"):
        parse_numbers("half", "--share", ":")


def test_ready_made_names_stand_for_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare name is looked up beside the package; a folder that exists here is taken as it is."""
    monkeypatch.chdir(tmp_path)
    assert bundle_folder(Path("stop-sticker-signs-v1")) == patches_dir() / "stop-sticker-signs-v1"
    (tmp_path / "stop-sticker-signs-v1").mkdir()
    assert bundle_folder(Path("stop-sticker-signs-v1")) == Path("stop-sticker-signs-v1")
    assert bundle_folder(Path("nowhere")) == Path("nowhere")
