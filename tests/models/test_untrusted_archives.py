"""A model archive runs no code of its author's while it is loaded."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from physadv.core.errors import ModelError
from physadv.defenses.load_model import load_model


class Marker:
    """An object whose pickle touches a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def exported(path: Path) -> Path:
    """A sound archive of a small net."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    torch.export.save(torch.export.export(net, (torch.rand(1, 3, 8, 8),)), str(path))
    return path


def poisoned(source: Path, target: Path, marker: Path) -> Path:
    """``source`` with a pickle that touches ``marker`` in place of each of its own pickles."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            content = old.read(member)
            if member.filename.endswith((".pt", ".pkl")) or content[:2] == b"PK":
                content = pickle.dumps(Marker(marker))
            new.writestr(member, content)
        root = old.namelist()[0].split("/")[0]
        new.writestr(f"{root}/data/constants/custom_obj_0", pickle.dumps(Marker(marker)))
    return target


def test_a_sound_archive_loads(tmp_path: Path) -> None:
    """Plain tensors pass."""
    model = load_model(exported(tmp_path / "net.pt2"))
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["net.pt2", "net.pth", "net.pt", "net.bin"])
def test_a_pickle_in_an_archive_is_refused_unread(tmp_path: Path, name: str) -> None:
    """Under any suffix; the marker file does not appear."""
    marker = tmp_path / "marker"
    (tmp_path / "evil").mkdir()
    file = poisoned(exported(tmp_path / "sound.pt2"), tmp_path / "evil" / name, marker)
    with pytest.raises(ModelError):
        load_model(file)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["net.pt2", "net.pth"])
def test_a_bare_pickle_is_refused_unread(tmp_path: Path, name: str) -> None:
    """A file that is nothing but a pickle."""
    marker, file = tmp_path / "marker", tmp_path / name
    file.write_bytes(pickle.dumps(Marker(marker)))
    with pytest.raises(ModelError):
        load_model(file)
    assert not marker.exists()
