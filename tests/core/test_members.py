"""A folder from elsewhere names files of its own, whatever it says."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physadv.core.errors import BundleError, DataError, OptionError
from physadv.core.members import member_of
from physadv.core.rows import mend_last_row
from physadv.core.run_folder import locked_folder, refuse_other_run
from physadv.evaluation.config import EvaluateConfig
from physadv.evaluation.progress_log import ProgressLog, claim_folder

OUTSIDE = [
    "../secret",
    "a/../../secret",
    "/etc/passwd",
    "//etc/passwd",
    "..",
    ".",
    "./a",
    "a/./b",
    "a//b",
    "a/",
    "",
    "..\\secret",
    "a\\b",
    "C:/secret",
    "c:secret",
    "file:///etc/passwd",
    "file:/etc/passwd",
    "http://host/x",
    "data:text/plain,x",
    "a\x00b",
    "a\nb",
    "\x1b[2J",
    "a" * 256,
    "é" * 128,
    "/".join(["a"] * 600),
    None,
    3,
    True,
    ["a"],
    {"a": 1},
]


@pytest.mark.parametrize("name", OUTSIDE, ids=lambda name: ascii(name)[:24])
def test_no_name_reaches_outside(tmp_path: Path, name: object) -> None:
    """Absolute, upwards, of Windows, an address, a control character, too long, no text."""
    with pytest.raises(DataError, match="only files of its own"):
        member_of(tmp_path, name)


@given(st.text(alphabet="./\\a:~ %\x00", max_size=12))
def test_whatever_passes_lies_inside(name: str) -> None:
    """A name that passes, joined and normalized, is below the folder and unchanged."""
    try:
        path = member_of("/nowhere/folder", name)
    except DataError:
        return
    assert os.path.normpath(path) == f"/nowhere/folder/{name}"


@pytest.mark.parametrize("target", ["file", "folder", "nothing", "itself", "inside"])
def test_no_link_is_followed(tmp_path: Path, target: str) -> None:
    """At the end of the name or on the way, to a file, a folder, nothing, itself or a member."""
    root = tmp_path / "run"
    (root / "own").mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").touch()
    places = {"file": tmp_path / "folder" / "a.png", "folder": tmp_path / "folder"}
    places |= {"nothing": Path("gone"), "itself": Path("link"), "inside": root / "own"}
    (root / "link").symlink_to(places[target])
    for name in ("link", "link/a.png"):
        with pytest.raises(DataError, match="is a link"):
            member_of(root, name)


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    """It is the user who named it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.png").touch()
    (tmp_path / "latest").symlink_to(tmp_path / "run")
    assert member_of(tmp_path / "latest", "a.png").is_file()


def test_a_pipe_is_no_member(tmp_path: Path) -> None:
    """Reading it would wait forever."""
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(BundleError, match="device or pipe"):
        member_of(tmp_path, "rows.jsonl", error=BundleError)


@pytest.mark.parametrize(
    "name", ["patch.png", "examples/a.png", "Straße 1/名.png", "a..b", "~", "%2e"]
)
def test_plain_names_pass(tmp_path: Path, name: str) -> None:
    """Files, files in folders, names of other scripts and odd names, whether they exist or not."""
    assert member_of(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.marks.jsonl"])
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_rows_are_not_mended_through_a_link(tmp_path: Path, name: str, inside: bool) -> None:
    """Somebody else's folder has a resumed run cut no file that its rows are a link to."""
    run = tmp_path / "run"
    run.mkdir()
    mine = (run if inside else tmp_path) / "key"
    mine.write_text("my text without a newline")
    (run / name).symlink_to(mine)
    with pytest.raises((DataError, OptionError), match="link"):
        ProgressLog(run)
    with pytest.raises(OptionError, match="link"):
        mend_last_row(run / name)
    assert mine.read_text() == "my text without a newline"


def test_a_pipe_is_no_file_of_rows(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="pipe"):
        ProgressLog(tmp_path)


def test_a_last_line_without_end_is_refused_at_once(tmp_path: Path) -> None:
    """A file that says it holds a terabyte is not searched for the line's beginning."""
    file = tmp_path / "rows.jsonl"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(DataError, match="no end"):
        mend_last_row(file)


@pytest.mark.parametrize("name", [".physadv.pid", "config.toml", "evaluation.json"])
def test_a_note_or_record_reaches_no_other_file(tmp_path: Path, name: str) -> None:
    """The note of a run's process is made anew, so that a hard link's other name keeps its bytes;
    records are not read through links."""
    run, mine = tmp_path / "run", tmp_path / "notes.txt"
    run.mkdir()
    mine.write_text("my notes\n" * 9)
    if name == ".physadv.pid":
        os.link(mine, run / name)
        with locked_folder(run):
            assert (run / name).read_text().split()[0] == str(os.getpid())
    else:
        (run / name).symlink_to(mine)
        config = EvaluateConfig(model="a", data="b", threat="linf:0.1")
        read = partial(refuse_other_run, run, config)
        with pytest.raises((DataError, OptionError), match="link"):
            (read if name == "config.toml" else partial(claim_folder, run, {}))()
    assert mine.read_text() == "my notes\n" * 9
