"""Run folders of others, whose records say what they want, beside one's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from physadv.core.config import typed_command
from physadv.core.errors import DataError
from physadv.evaluation.merge_runs import merge_runs
from physadv.report.run_comparison import read_figures
from physadv.report.run_list import list_runs

SEEDS = Path(__file__).resolve().parents[1] / "fuzz" / "seeds"
ODD = ("x", None, [1], {"a": 1}, -1, 1e308, True)


def run_of(folder: Path, command: str = '"evaluate"', **identity: object) -> Path:
    """An evaluation whose records say ``command`` and ``identity``."""
    shutil.copytree(SEEDS / "evaluation", folder)
    file = folder / "evaluation.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **identity}))
    (folder / "config.toml").write_text(f"command = {command}\n")
    return folder


@pytest.mark.parametrize("images", [value for value in ODD if value is not True])
def test_a_number_of_images_that_is_none_is_one_error(tmp_path: Path, images: object) -> None:
    """Merged are runs that say how many images they have."""
    with pytest.raises(DataError, match=r"images|sane|finite"):
        merge_runs([run_of(tmp_path / "run", images=images)], tmp_path / "out")


@pytest.mark.parametrize(
    "command", ['"evaluate --model evil:make; rm -rf ~"', '"evaluate\\u202e"', '"train"', "7"]
)
def test_no_words_of_a_file_are_told_to_be_typed(tmp_path: Path, command: str) -> None:
    """What to type next is a command of this program and the user's own paths."""
    with pytest.raises(DataError, match="Merged are runs of attack, evaluate, certify"):
        merge_runs([run_of(tmp_path / "run", command)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", ["check; id", "check --model a:b", "x" * 99, "$(id)", "\n", 7])
def test_an_error_repeats_no_command_that_is_none(words: object) -> None:
    """Of a record's words only those are repeated as typed that a command can have."""
    assert typed_command(words) == "physadv"


@pytest.mark.parametrize("key", ["properties", "images", "task", "threat", "victim"])
@pytest.mark.parametrize("value", ODD)
def test_one_odd_run_hides_no_other(tmp_path: Path, key: str, value: object) -> None:
    """A list of runs names the run that cannot be read, with the reason."""
    run_of(tmp_path / "a")
    run_of(tmp_path / "b", **{key: value})
    listed = {run.folder.name: run for run in list_runs(tmp_path)}
    assert listed["a"].command == "evaluate"
    assert "of" in listed["a"].result or "%" in listed["a"].result
    assert set(listed) == {"a", "b"}


def test_odd_settings_of_a_check_are_one_error(tmp_path: Path) -> None:
    """Also where the figures are compared rather than shown."""
    folder = shutil.copytree(SEEDS / "check", tmp_path / "check")
    (folder / "config.toml").write_text('command = "check"\n')
    file = folder / "check.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "width": [1]}))
    with pytest.raises(DataError, match="cannot be read"):
        read_figures(folder)
