"""A temporary folder that others write into too gives them nothing to read or to replace."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest
import torch
from reference_server import python_words

import physadv
from physadv.core.utf8_paths import utf8_path

LOOK = """
import json, os, stat, sys
folder = os.path.dirname(sys.argv[1])
mode = oct(stat.S_IMODE(os.stat(folder).st_mode))
label = int(mode == "0o700" and not os.path.islink(folder))
print(json.dumps({"labels": [label], "classes": ["open", "closed"]}))
"""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for everybody, in which somebody has put links to a file of the user's under names
    that begin as ours do."""
    (tmp_path / "precious").write_text("precious")
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    for name in ("physadv-", "physadv-0", "physadv", "link", "000000.png"):
        (folder / name).symlink_to("../precious")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_pictures_for_a_command_are_nobody_elses(shared: Path, tmp_path: Path) -> None:
    """They lie in a folder of the user's alone, and go with it."""
    (tmp_path / "look.py").write_text(LOOK)
    before = sorted(shared.iterdir())
    model = physadv.load_model(f"command:{python_words()} '{tmp_path / 'look.py'}' {{image}}")
    assert model(torch.zeros(1, 3, 8, 8)).argmax(1).tolist() == [1]
    assert sorted(shared.iterdir()) == before
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_link_that_is_lent_stands_in_a_folder_of_its_own(shared: Path, tmp_path: Path) -> None:
    """Nobody else can put another file in its place."""
    video = tmp_path / "\udcff.avi"
    try:
        video.write_bytes(b"x")
    except OSError:
        pytest.skip("the disk takes names of UTF-8 alone")
    with utf8_path(video) as lent:
        assert stat.S_IMODE(lent.parent.stat().st_mode) == 0o700
        assert lent.parent.parent == shared
        assert lent.read_bytes() == b"x"
    assert not lent.parent.exists()
