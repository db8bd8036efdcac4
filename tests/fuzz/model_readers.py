"""Fuzzed readers of files of models."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from fuzz import mutations
from fuzz.reader_kit import registered, texts_of, written
from fuzz.table_readers import first_accepted
from safetensors.torch import save


def small_state() -> dict[str, torch.Tensor]:
    return {"conv.weight": torch.ones(2, 3, 3, 3), "conv.bias": torch.zeros(2)}


def _pth_seeds() -> Sequence[bytes]:
    buffer, old = io.BytesIO(), io.BytesIO()
    torch.save(small_state(), buffer)
    torch.save({"model": small_state()}, old, _use_new_zipfile_serialization=False)
    return [buffer.getvalue(), old.getvalue()]


@registered("pth", _pth_seeds, mutations.mutate_zip, 0.5)
def _pth(folder: Path, data: bytes) -> object:
    from physadv.models.loading import kind_of, read_state

    file = written(folder, "m.pth", data)
    kind_of(file)
    return read_state(file)


@registered(
    "safetensors", lambda: [save(small_state(), {"a": "b"})], mutations.mutate_safetensors, 1
)
def _safetensors(folder: Path, data: bytes) -> object:
    from physadv.models.loading import read_state

    return read_state(written(folder, "m.safetensors", data))


@registered("pt2 and torchscript", lambda: [_pt2(), _torchscript()], mutations.mutate_zip, 0.3)
def _exported(folder: Path, data: bytes) -> object:
    from physadv.models.exported_archive import vetted_archive
    from physadv.models.loading import kind_of

    file = written(folder, "m.pt2", data)
    kind_of(file)
    return vetted_archive(file)


class _Net(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


@cache
def _pt2() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(_Net(), (torch.rand(1, 3, 4, 4),)), buffer)
    return buffer.getvalue()


@cache
def _torchscript() -> bytes:
    return bytes(torch.jit.trace(_Net(), torch.rand(1, 3, 4, 4)).save_to_buffer())  # type: ignore[no-untyped-call]


def _field(number: int, content: bytes | int) -> bytes:
    def varint(value: int) -> bytes:
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes((*out, value))

    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def _onnx_seeds() -> Sequence[bytes]:
    dims = b"".join(_field(1, side) for side in (2, 3, 1, 1))
    weight = dims + _field(2, 1) + _field(8, b"w") + _field(9, bytes(24))
    node = _field(1, b"x") + _field(1, b"w") + _field(2, b"y") + _field(4, b"Conv")
    shape = b"".join(_field(1, _field(1, side)) for side in (1, 3, 32, 32))
    given = _field(1, b"x") + _field(2, _field(1, _field(2, shape)))
    graph = _field(1, node) + _field(5, weight) + _field(11, given)
    return [_field(1, 8) + _field(7, graph)]


@registered("onnx", _onnx_seeds, mutations.mutate_bytes, 2)
def _onnx(folder: Path, data: bytes) -> object:
    from physadv.models.onnx_file import read_onnx

    return read_onnx(written(folder, "m.onnx", data))


def _program_seeds() -> Sequence[bytes]:
    def tensor(name: bytes, shape: tuple[int, ...], kind: int, content: bytes) -> bytes:
        dims = b"".join(_field(1, side) for side in shape)
        return dims + _field(2, kind) + _field(8, name) + _field(9, content)

    def operation(kind: bytes, inputs: Sequence[bytes], output: bytes, *settings: bytes) -> bytes:
        names = b"".join(_field(1, name) for name in inputs) + _field(2, output)
        return _field(1, names + _field(4, kind) + b"".join(_field(5, s) for s in settings))

    def whole(name: bytes, number: int) -> bytes:
        return _field(1, name) + _field(3, number) + _field(20, 2)

    def list_of(name: bytes, *numbers: int) -> bytes:
        return _field(1, name) + b"".join(_field(8, n) for n in numbers) + _field(20, 7)

    shape = b"".join(_field(1, _field(1, side)) for side in (1, 2, 4, 4))
    ends = _field(11, _field(1, b"x") + _field(2, _field(1, _field(2, shape))))
    ends += _field(12, _field(1, b"y"))
    weight = np.ones((3, 2, 3, 3), "<f4").tobytes()
    graph = operation(b"Conv", [b"x", b"w"], b"a", list_of(b"pads", 1, 1, 1, 1))
    graph += operation(b"MaxPool", [b"a"], b"b", list_of(b"kernel_shape", 2, 2))
    graph += operation(b"Relu", [b"b"], b"c") + operation(b"Reshape", [b"c", b"s"], b"d")
    graph += operation(b"Gemm", [b"d", b"v"], b"y", whole(b"transB", 1))
    graph += _field(5, tensor(b"w", (3, 2, 3, 3), 1, weight))
    graph += _field(5, tensor(b"s", (2,), 7, struct.pack("<qq", 1, -1)))
    graph += _field(5, tensor(b"v", (2, 27), 1, bytes(216)))
    return [_field(1, 8) + _field(7, graph + ends) + _field(8, _field(2, 13)), *_onnx_seeds()]


@registered("onnx program", _program_seeds, mutations.mutate_bytes, 1)
def _onnx_program(folder: Path, data: bytes) -> object:
    from physadv.models.onnx_model import load_onnx_model

    return load_onnx_model(written(folder, "m.onnx", data))


@registered(
    "vnnlib",
    texts_of(
        "; x\n(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
        "(assert (>= X_0 -0.5))\n(assert (<= X_0 1e-1))\n"
        "(assert (or (and (>= Y_0 Y_1)) (and (<= (+ Y_0 (* 2 Y_1)) 3) (<= X_0 0))))\n",
        "(declare-fun X_0 () Real)(declare-fun Y_0 () Real)(assert (and (<= X_0 1) (>= X_0 0)))"
        "(assert (<= (- Y_0 2) (- 1)))(check-sat)",
    ),
    mutations.mutate_text,
)
def _vnnlib(folder: Path, data: bytes) -> object:
    from physadv.certification.vnnlib import read_vnnlib

    return read_vnnlib(written(folder, "p.vnnlib", data))


@registered(
    "instances.csv", texts_of("a.onnx,p.vnnlib,30\nb/c.onnx,q.vnnlib\n"), mutations.mutate_text
)
def _instances(folder: Path, data: bytes) -> object:
    from physadv.certification.verify_property import read_instances

    return read_instances(written(folder, "instances.csv", data))


@registered(
    "black box settings",
    texts_of(
        'url = "http://127.0.0.1:9/x"\nclasses = ["a", "b"]\ninput_size = [8, 8]\nbudget = 9\n',
        'command = "./classify {image}"\noutputs = "labels"\nper_second = 2.5\nretries = 0\n',
    ),
    mutations.mutate_text,
)
def _black_box_settings(folder: Path, data: bytes) -> object:
    from physadv.core.errors import ModelError
    from physadv.core.tables import convert_value, read_table
    from physadv.models.black_box import BlackBox, BlackBoxSettings

    table = read_table(written(folder, "box.toml", data), error=ModelError, remedy="Correct it")
    settings = convert_value(table, BlackBoxSettings, name="box.toml", error=ModelError)
    return None if settings.url else BlackBox("box", settings)


@registered(
    "answers of black boxes",
    texts_of(
        '{"scores": [[0.5, 0.25, 0.25]], "classes": ["a", "b", "c"]}',
        '{"labels": ["a"], "outputs": "labels"}',
        "[0.1, 0.9]",
        '{"detections": [{"boxes": [[1, 2, 3.5, 4]], "scores": [0.5], "labels": ["a"]}]}',
        '{"boxes": [], "scores": [], "labels": []}',
    ),
    mutations.mutate_text,
)
def _black_box_answer(folder: Path, data: bytes) -> object:
    from physadv.models.black_box_answers import read_answer

    return read_answer(data, "box")


def _dlib_seeds() -> Sequence[bytes]:
    def integer(value: int) -> bytes:
        return bytes([1, value])

    tensor = b"".join(map(integer, (2, 1, 2, 1, 1))) + bytes(8)
    layers = b"".join(bytes([1, len(name)]) + name + tensor for name in (b"affine_", b"con_4"))
    return [layers * 2, bytes(200), struct.pack("<BI", 4, 1 << 30) * 40]


@registered("dlib dat", _dlib_seeds, mutations.mutate_bytes, 0.5)
def _dlib(folder: Path, data: bytes) -> object:
    from physadv.models.architectures import dlib_resnet

    file = written(folder, "m.dat", data)
    layers = lambda: dlib_resnet._tensors(file)  # noqa: E731
    return first_accepted([layers, lambda: dlib_resnet.load_dlib_resnet(file)])


@registered(
    "embedder card",
    texts_of(
        'name = "mine"\nsize = 112\ndimension = 8\nlicence = "mine"\nthreshold = 0.31\n'
        '[thresholds]\n"0.001" = 0.5\n',
        'weights = "w.pt"\nsize = 112\ndimension = 8\nlicense = "x"\nthreshold = 1\nfar = 0.01\n',
    ),
    mutations.mutate_toml,
    1,
)
def _embedder(folder: Path, data: bytes) -> object:
    from physadv.core.errors import ModelError
    from physadv.core.tables import read_table
    from physadv.models.faces.embedders import _card_of

    file = written(folder, "e.toml", data)
    table = read_table(file, error=ModelError)
    table.pop("weights", None)
    return _card_of(table, file, "")
