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


def in_program(change: Callable[[Any], None]) -> Callable[[str, bytes], tuple[str, bytes]]:
    """The program of an archive, changed in place."""

    def apply(inner: str, content: bytes) -> tuple[str, bytes]:
        if not inner.startswith("models/"):
            return inner, content
        program = json.loads(content)
        change(program)
        return inner, json.dumps(program).encode()

    return apply


@pytest.fixture
def bait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the working folder that leaves a mark when it is imported, and the mark."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"bait_{tmp_path.name}".replace("-", "_").replace("[", "").replace("]", "")
    (tmp_path / "name").write_text(name, encoding="utf-8")
    (tmp_path / f"{name}.py").write_text("open('marker', 'w')\nA = dict\n", encoding="utf-8")
    return tmp_path / "marker"


CONTEXTS = {
    "a mapping's factory": (
        "collections.defaultdict",
        '{"default_factory_module": "BAIT", "default_factory_name": "A", "dict_context": []}',
    ),
    "a factory in escapes": (
        "collections.defaultdict",
        '{"\\u0064efault_factory_module": "BAIT", "\\u0064efault_factory_name": "A", '
        '"dict_context": []}',
    ),
    "an enumeration": ("builtins.tuple", '{"__enum__": true, "fqn": "BAIT:A", "name": "x"}'),
    "an enumeration in a list": (
        "builtins.dict",
        '[{"__\\u0065num__": true, "fqn": "BAIT:A", "name": "x"}]',
    ),
}


@pytest.mark.parametrize("kind", CONTEXTS)
@pytest.mark.parametrize("spec", ["in_spec", "out_spec"])
def test_no_module_is_imported_that_a_structure_names(bait: Path, kind: str, spec: str) -> None:
    """pytree imports what a container's context names; escapes in the JSON hide the word."""
    container, context = CONTEXTS[kind]
    context = context.replace("BAIT", (bait.parent / "name").read_text(encoding="utf-8"))

    def change(program: Any) -> None:
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        node = {"type": container, "context": context, "children_spec": []}
        signature[spec] = json.dumps([1, node]).replace("\\\\u", "\\u")

    file = rewritten(
        exported(bait.parent / "sound.pt2"), bait.parent / "evil.pt2", in_program(change)
    )
    with pytest.raises(ModelError, match="could run code"):
        load_model(file)
    assert not bait.exists()


INJECTED = "x=open('marker', 'w')"


def _renamed(program: Any, name: str) -> None:
    """The image input is called ``name`` everywhere."""
    graph = program["graph_module"]["graph"]
    old = graph["inputs"][-1]["as_tensor"]["name"]
    text = json.dumps(program).replace(json.dumps(old), json.dumps(name))
    program.clear()
    program |= json.loads(text)


def _keyword(program: Any, name: str) -> None:
    """The first operation is a higher-order one with a keyword called ``name``."""
    node = program["graph_module"]["graph"]["nodes"][0]
    node["target"] = "torch.ops.higher_order.wrap_with_set_grad_enabled"
    node["inputs"][0]["name"] = name


def _parameter(program: Any, name: str) -> None:
    """The first parameter is called ``name``."""
    for spec in program["graph_module"]["signature"]["input_specs"]:
        if "parameter" in spec:
            spec["parameter"]["parameter_name"] = name
            return


def _argument(program: Any, name: str) -> None:
    """The model's argument is called ``name``."""
    signature = program["graph_module"]["module_call_graph"][0]["signature"]
    signature["forward_arg_names"] = [name]


@pytest.mark.parametrize("rename", [_renamed, _keyword, _argument], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "name", [INJECTED, "x, y=open('marker', 'w')", "x):\n open('marker', 'w')\ndef f(x"]
)
def test_no_name_becomes_source(bait: Path, rename: Callable[[Any, str], None], name: str) -> None:
    """Names of inputs and keywords are written into the source of the model's forward."""
    change = in_program(lambda program: rename(program, name))
    file = rewritten(exported(bait.parent / "sound.pt2"), bait.parent / "evil.pt2", change)
    with pytest.raises(ModelError, match="could run code"):
        load_model(file)(torch.rand(1, 3, 8, 8))
    assert not bait.exists()


def test_no_name_of_a_parameter_becomes_source(bait: Path) -> None:
    """They are quoted in that source, and a quote would end there."""
    change = in_program(lambda program: _parameter(program, 'a"+open("marker", "w")+"'))
    file = rewritten(exported(bait.parent / "sound.pt2"), bait.parent / "evil.pt2", change)
    with pytest.raises(ModelError, match="could run code"):
        load_model(file)
    assert not bait.exists()


def test_metadata_is_left_out(tmp_path: Path) -> None:
    """Stack traces and module stacks of a program are not needed, and torch does not see them."""
    from physadv.models.exported_archive import vetted_archive

    with zipfile.ZipFile(vetted_archive(exported(tmp_path / "net.pt2"))) as archive:
        program = archive.read("model/models/model.json").decode()
    assert "stack_trace" not in program
    assert "nn_module_stack" not in program


@pytest.mark.parametrize(
    "size", ["9**9**9**9", "Pow(9, 999999999)", "s0**s0", "1 << 999999999", "(" * 5000 + ")" * 5000]
)
def test_a_size_that_takes_all_memory_is_refused(tmp_path: Path, size: str) -> None:
    """Towers of powers, and a text that exhausts the parser."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()).eval()
    dynamic = ({0: torch.export.Dim("b", min=1, max=8)},)
    program = torch.export.export(net, (torch.rand(2, 3, 8, 8),), dynamic_shapes=dynamic)
    torch.export.save(program, tmp_path / "sound.pt2")

    def change(table: Any) -> None:
        _first(table, "expr_str")["expr_str"] = size

    file = rewritten(tmp_path / "sound.pt2", tmp_path / "evil.pt2", in_program(change))
    with pytest.raises(ModelError, match="no arithmetic"):
        load_model(file)


def test_a_tensor_without_numbers_takes_no_memory(tmp_path: Path) -> None:
    """An empty member whose table states 10^12 numbers, which torch would allocate."""

    def change(inner: str, content: bytes) -> tuple[str, bytes]:
        if inner == "data/weights/model_weights_config.json":
            table = json.loads(content)
            for entry in table["config"].values():
                entry["tensor_meta"]["sizes"] = [{"as_int": 10**12}]
            return inner, json.dumps(table).encode()
        return inner, b"" if inner == "data/weights/weight_0" else content

    file = rewritten(exported(tmp_path / "sound.pt2"), tmp_path / "evil.pt2", change)
    with pytest.raises(ModelError, match="1000000000000 numbers"):
        load_model(file)


def inflated(path: Path, names: dict[str, int]) -> Path:
    """An archive of zeros, far smaller than what it holds."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, size in names.items():
            archive.writestr(f"net/{name}", bytes(size))
    return path


@pytest.mark.parametrize("suffix", [".pt2", ".pth", ".pt", ".ts"])
@pytest.mark.parametrize("member", ["data.pkl", "code/a.py", "models/model.json", "data/0"])
def test_an_archive_of_zeros_is_refused_unread(tmp_path: Path, suffix: str, member: str) -> None:
    """A megabyte that would become 100: torch writes tensors as they are."""
    file = inflated(tmp_path / f"net{suffix}", {member: 100 << 20})
    with pytest.raises(ModelError, match="states 104857600 bytes"):
        load_model(file)


def test_an_archive_within_an_archive_is_refused_unread(tmp_path: Path) -> None:
    """A pickle's own archive, as that of the sample inputs, is held to the same rule."""
    inner = inflated(tmp_path / "inner.pt", {"data.pkl": 100 << 20}).read_bytes()
    file = rewritten(
        exported(tmp_path / "sound.pt2"),
        tmp_path / "evil.pt2",
        lambda name, content: (name, inner if name == "data/sample_inputs/model.pt" else content),
    )
    with pytest.raises(ModelError, match="states 104857600 bytes"):
        load_model(file)


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """Entries of the directory that point to the same megabyte a hundred times."""
    file = tmp_path / "net.pt2"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/0", bytes(1 << 20))
        for number in range(1, 100):
            copied = zipfile.ZipInfo(f"net/{number}")
            first = archive.infolist()[0]
            for key in ("header_offset", "CRC", "compress_size", "file_size", "external_attr"):
                setattr(copied, key, getattr(first, key))
            archive.filelist.append(copied)
            archive.NameToInfo[copied.filename] = copied
    with pytest.raises(ModelError, match="states 104857600 bytes"):
        load_model(file)


@pytest.mark.parametrize("stated", [0, 1, 10, 1 << 20])
def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path, stated: int) -> None:
    """Its directory states another number of bytes than it holds."""
    sound, file = exported(tmp_path / "sound.pt2"), tmp_path / "evil.pt2"
    with zipfile.ZipFile(sound) as archive:
        member = next(m for m in archive.infolist() if m.filename.endswith("weight_0"))
    data = bytearray(sound.read_bytes())
    name = member.filename.encode()
    entry = data.rindex(name) - 46  # in the directory, behind all members
    data[entry + 24 : entry + 28] = stated.to_bytes(4, "little")
    file.write_bytes(data)
    with pytest.raises(ModelError):
        load_model(file)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".pt2", ".pth"])
def test_a_torn_archive_is_refused(tmp_path: Path, suffix: str, cut: float) -> None:
    """Whatever is missing, the error is one of ours."""
    data = exported(tmp_path / "sound.pt2").read_bytes()
    file = tmp_path / f"torn{suffix}"
    file.write_bytes(data[: int(len(data) * cut)] + data[-60:])
    with pytest.raises(ModelError):
        load_model(file)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"{}", b"[]", b"1", b'{"graph_module": 1}', b"\xff\xfe"]
)
def test_a_program_of_another_form_is_refused(tmp_path: Path, content: bytes) -> None:
    """JSON that is too deep, or holds something else."""
    file = rewritten(
        exported(tmp_path / "sound.pt2"),
        tmp_path / "evil.pt2",
        lambda name, old: (name, content if name.startswith("models/") else old),
    )
    with pytest.raises(ModelError):
        load_model(file)


def test_text_and_containers_of_a_sound_archive_pass(tmp_path: Path) -> None:
    """A model that returns a table and a list, and takes text arguments, gives the same numbers."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, images: torch.Tensor) -> dict[str, Any]:
            with torch.no_grad():
                mean = self.norm(self.conv(images)).mean((2, 3))
            sums = torch.einsum("bchw->bc", images)
            return {"logits": mean, "more": [torch.div(sums, 3, rounding_mode="floor")]}

    net, images = Net().eval(), torch.rand(2, 3, 8, 8)
    dynamic = ({0: torch.export.Dim("b", min=1, max=8)},)
    torch.export.save(
        torch.export.export(net, (images,), dynamic_shapes=dynamic), tmp_path / "net.pt2"
    )
    from physadv.models.loading import load_exported

    loaded = load_exported(tmp_path / "net.pt2")[0](images)
    assert torch.equal(loaded["logits"], net(images)["logits"])
    assert torch.equal(loaded["more"][0], net(images)["more"][0])
