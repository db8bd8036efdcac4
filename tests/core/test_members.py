"""A folder from elsewhere names files of its own, whatever it says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physadv.core.errors import BundleError, DataError
from physadv.core.members import member_of

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
