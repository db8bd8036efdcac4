"""The fastest copy of a model, remembered for later runs in the user's cache folder.

Only the name of the copy is kept, under a hash of all that its time depends on. Whoever takes a
name from here makes that copy anew and compares it with the model, so that a wrong file costs time
and nothing else; a file that cannot be read, or is of another form, counts as empty.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import re
import types
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from physadv.core.errors import PhysadvError
from physadv.core.files import write_json
from physadv.core.parsing import parse_json_as
from physadv.core.tensor_digests import named_state, tensor_bytes
from physadv.core.text import read_text
from physadv.models.fetch import cache_dir

FILE = "fastest-copies.json"
"""Name of the file in the cache folder."""
_FORM = 1
_MOST, _MOST_BYTES = 500, 1 << 18
"""Choices that are kept, the latest, and the largest file that is read."""
_PLAIN_VALUES = (bool, int, float, str, tuple, type(None))


class _Choices(msgspec.Struct):
    """Form of the file: the name of the fastest copy by key, the latest last."""

    form: int
    fastest: dict[str, str]


def earlier_choice(key: str) -> str | None:
    """Return the name of the copy that an earlier run kept under ``key``; None without one."""
    return _read().get(key)


def keep_choice(key: str, name: str) -> None:
    """Keep ``name`` under ``key`` for later runs, where the cache folder can be written."""
    choices = _read()
    choices.pop(key, None)
    latest = [*choices.items(), (key, name)][-_MOST:]
    with suppress(OSError, PhysadvError):
        write_json(_file(), {"form": _FORM, "fastest": dict(latest)})


def choice_key(model: nn.Module, images: Tensor, names: tuple[str, ...]) -> str | None:
    """Return a hash of all that decides which copy of a model is the fastest.

    Args:
        model: Model: its weights, buffers, layers and their code.
        images: Images (b, ...) that copies are timed on: shape, type and device.
        names: Names of the copies that are known.

    Returns:
        A sha256 in hex; None for a model whose weights cannot be read as bytes.
    """
    digest = hashlib.sha256()
    try:
        for part in (*_surroundings(images), *names, *_architecture(model)):
            digest.update(part.encode() + b"\0")
        for name, tensor in named_state(model):
            digest.update(name)
            digest.update(tensor_bytes(tensor))
    except Exception:  # sparse, quantized or lazy weights, or what a layer of the user's raises
        return None
    return digest.hexdigest()


def _file() -> Path:
    return cache_dir() / FILE


def _read() -> dict[str, str]:
    """The choices kept so far; none where the file is missing, foreign, malformed or too large."""
    try:
        file = _file()
        if not file.is_file():
            return {}
        found = parse_json_as(read_text(file, most_bytes=_MOST_BYTES), _Choices, FILE)
    except (OSError, ValueError, PhysadvError):
        return {}
    return found.fastest if found.form == _FORM else {}


def _surroundings(images: Tensor) -> Iterator[str]:
    """Versions, device, threads and arithmetic, and the images."""
    yield from (version("physadv"), torch.__version__, str(torch.get_num_threads()))
    yield from (str(tuple(images.shape)), str(images.dtype), str(images.device.type))
    yield torch.get_float32_matmul_precision()
    if images.device.type == "cuda":
        yield torch.cuda.get_device_name(images.device)
        yield f"{torch.backends.cudnn.allow_tf32} {torch.backends.cudnn.benchmark}"
    else:
        yield f"{_cpu_name()} {torch.backends.cpu.get_cpu_capability()}"
        yield str(torch.backends.mkldnn.enabled)


@functools.cache
def _cpu_name() -> str:
    """The processor's name, which on Linux ``platform`` does not know."""
    with suppress(OSError, PhysadvError):
        for line in read_text("/proc/cpuinfo", guess=True).splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return f"{platform.machine()} {platform.processor()}"


def _architecture(model: nn.Module) -> Iterator[str]:
    """Layers by their names, with their classes, plain attributes, and the code they run."""
    for name, layer in model.named_modules():
        kind = type(layer)
        attributes = {
            key: _text(value)
            for key, value in sorted(vars(layer).items())
            if isinstance(value, _PLAIN_VALUES) and key != "training"
        }
        yield f"{name} {kind.__module__}.{kind.__qualname__} {attributes} {layer.extra_repr()}"
        code = getattr(kind.forward, "__code__", None)
        yield _code_text(code) if isinstance(code, types.CodeType) else ""


def _code_text(code: types.CodeType) -> str:
    """What a function does, as text that is the same in each process."""
    constants = [_text(constant) for constant in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _text(value: object) -> str:
    """A value as text that is the same in each process: no order of sets, no addresses."""
    if isinstance(value, types.CodeType):
        return _code_text(value)
    if isinstance(value, frozenset):
        return str(sorted(map(_text, value)))
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
