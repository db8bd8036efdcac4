"""A model archive runs no code of its author's while it is loaded."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def rewritten(
    source: Path, target: Path, change: Callable[[str, bytes], tuple[str, bytes]], **more: bytes
) -> Path:
    """``source`` with each member (name below the root, content) changed, and ``more`` members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            inner, content = change(name.partition("/")[2], old.read(name))
            new.writestr(f"model/{inner}", content)
        for inner, content in more.items():
            new.writestr(f"model/{inner}", content)
    return target


def in_table(name: str, code: bytes, *, at: str) -> Callable[[str, bytes], tuple[str, bytes]]:
    """The first weight's entry names the member ``at`` a pickle, which holds ``code``."""

    def change(inner: str, content: bytes) -> tuple[str, bytes]:
        if inner == "data/weights/model_weights_config.json":
            table = json.loads(content)
            entry = next(iter(table["config"].values()))
            entry |= {"path_name": at, "use_pickle": True}
            return inner, json.dumps(table).encode()
        return (f"data/weights/{at}", code) if inner == name else (inner, content)

    return change


@pytest.mark.parametrize("at", ["weight_0", "weight_0.json", "version", "sub/weight_1"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_weight_that_is_called_a_pickle_is_vetted(tmp_path: Path, at: str, protocol: int) -> None:
    """Whatever its name and protocol: text of protocol 0 has no mark at its beginning."""
    marker = tmp_path / "marker"
    code = pickle.dumps(Marker(marker), protocol)
    sound = exported(tmp_path / "sound.pt2")
    file = rewritten(sound, tmp_path / "evil.pt2", in_table("data/weights/weight_0", code, at=at))
    with pytest.raises(ModelError, match="could run code"):
        load_model(file)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
        "data/aotinductor/model/model.so",
        "data/weights/model.pt",
        "data/constants/model.pt",
        "anything",
    ],
)
def test_a_member_that_is_no_table_and_no_tensor_is_refused(tmp_path: Path, name: str) -> None:
    """Objects, libraries, weights of the older format as pickles, and whatever else."""
    marker = tmp_path / "marker"
    code = pickle.dumps(Marker(marker), 0)
    sound = exported(tmp_path / "sound.pt2")
    file = rewritten(sound, tmp_path / "evil.pt2", lambda *same: same, **{name: code})
    with pytest.raises(ModelError, match="could run code"):
        load_model(file)
    assert not marker.exists()


def test_an_archive_of_the_older_format_is_refused(tmp_path: Path) -> None:
    """There "serialized_state_dict.json" is unpickled."""
    marker, file = tmp_path / "marker", tmp_path / "old.pt2"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("version", "8.8")
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.json", pickle.dumps(Marker(marker)))
        archive.writestr("serialized_constants.json", pickle.dumps(Marker(marker)))
    with pytest.raises(ModelError):
        load_model(file)
    assert not marker.exists()


def _first(value: Any, key: str) -> Any:
    """The first table of a JSON value that holds ``key``."""
    if isinstance(value, dict):
        if key in value:
            return value
        value = list(value.values())
    tables = (_first(v, key) for v in value) if isinstance(value, list) else iter(())
    return next((t for t in tables if t), None)


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("expr_str", "__import__('pathlib').Path('marker').touch()"),
        ("expr_str", "Symbol('s0').__class__.__mro__"),
        ("expr_str", 'sympify(\'open("marker", "w")\')'),
        ("target", "torch.os.mkdir"),
        ("target", "torch.hub.load"),
        ("target", "torch.ops.aten.from_file.default"),
        ("target", "torch.ops.aten.relu.default.__globals__"),
    ],
)
def test_code_in_the_graph_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, code: str
) -> None:
    """torch evaluates symbolic sizes as Python and looks targets up by attribute."""
    monkeypatch.chdir(tmp_path)
    sound, net = tmp_path / "sound.pt2", nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()).eval()
    dynamic = ({0: torch.export.Dim("b", min=1, max=8)},)
    program = torch.export.export(net, (torch.rand(2, 3, 8, 8),), dynamic_shapes=dynamic)
    torch.export.save(program, sound)
    assert load_model(sound)(torch.rand(3, 3, 8, 8)).shape == (3, 72)  # type: ignore[union-attr]

    def change(inner: str, content: bytes) -> tuple[str, bytes]:
        if not inner.startswith("models/"):
            return inner, content
        table = json.loads(content)
        _first(table, key)[key] = code
        return inner, json.dumps(table).encode()

    with pytest.raises(ModelError, match="could run code"):
        load_model(rewritten(sound, tmp_path / "evil.pt2", change))
    assert not (tmp_path / "marker").exists()


def test_guards_of_an_archive_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are Python that torch compiles; the model loads and runs without them."""
    monkeypatch.chdir(tmp_path)

    def change(inner: str, content: bytes) -> tuple[str, bytes]:
        if not inner.startswith("models/"):
            return inner, content
        table = json.loads(content)
        table["guards_code"] = ["__import__('pathlib').Path('marker').touch() or True"]
        return inner, json.dumps(table).encode()

    sound = exported(tmp_path / "sound.pt2")
    model = load_model(rewritten(sound, tmp_path / "guarded.pt2", change))
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 2)  # type: ignore[union-attr]
    assert not (tmp_path / "marker").exists()
