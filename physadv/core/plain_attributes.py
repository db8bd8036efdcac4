"""Plain attributes of a model's layers, such as a temperature, as hashes that are the same in each
process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from physadv.core.files import digest_of
from physadv.core.tensor_digests import named_state, tensor_bytes

LAYERS = "classes of layers"
"""Entry of :func:`attribute_digests` beside those of attributes."""
_OF_EVERY_MODULE = frozenset({*vars(nn.Module()), "training"})
_DEEPEST = 8
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")


class _NotPlainError(Exception):
    """A value of another kind, whose text may differ from process to process."""


def attribute_digests(model: nn.Module) -> dict[str, str]:
    """Return a hash of each plain attribute by its name, over all layers that have it, and one of
    the layers' classes.

    Plain are numbers, texts, None, tuples, lists, sets and tables of such, arrays, tensors that are
    no parameter or buffer, models that are no layer, and number formats. Left out are objects,
    functions, devices and absolute paths, which differ by machine or process.

    Args:
        model: The model.

    Returns:
        Hashes by name, sorted by name.

    Example:
        >>> def scaled(factor):
        ...     net = nn.Linear(2, 2)
        ...     net.temperature = factor
        ...     return attribute_digests(net)
        >>> before, after = scaled(2.0), scaled(3.0)
        >>> [name for name in before if before[name] != after[name]]
        ['temperature']
    """
    return _digests(model, set())


def _digests(model: nn.Module, known: set[int]) -> dict[str, str]:
    """The same, where what has an id among ``known`` is hashed elsewhere."""
    known |= {id(own) for own in (*model.parameters(), *model.buffers(), *model.modules())}
    texts: dict[str, list[str]] = {}
    for place, layer in model.named_modules():
        texts.setdefault(LAYERS, []).append(f"{place} {type(layer).__qualname__}")
        for name, value in vars(layer).items():
            if name in _OF_EVERY_MODULE or id(value) in known:
                continue
            try:
                text = _text(value, known)
            except _NotPlainError:
                continue
            texts.setdefault(name, []).append(f"{place} {text}")
    return {name: digest_of("\n".join(texts[name]).encode()) for name in sorted(texts)}


def _text(value: Any, known: set[int], depth: int = 0) -> str:
    """A plain value as text that is the same in each process.

    Raises:
        _NotPlainError: It is of another kind.
    """
    if depth > _DEEPEST:
        raise _NotPlainError

    def deeper(each: Any) -> str:
        return _text(each, known, depth + 1)

    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if value is None or isinstance(value, bool | int | float | complex | bytes):
        # Numbers of numpy are some of these as well, and print otherwise.
        plain: Any = next(kind for kind in _PLAIN_KINDS if isinstance(value, kind))
        return "None" if value is None else repr(plain(value))
    if isinstance(value, str):
        if _DEVICE.fullmatch(value) or _is_absolute(value):
            raise _NotPlainError
        return repr(str(value))
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return "known" if id(value) in known else _array_text(value)
    if isinstance(value, nn.Module):
        return "known" if id(value) in known else _model_text(value, known)
    if isinstance(value, Mapping):
        pairs = [f"{deeper(key)}: {deeper(each)}" for key, each in value.items()]
        return f"{{{', '.join(sorted(pairs))}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(deeper, value)))}}}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(deeper, value))})"
    raise _NotPlainError


_PLAIN_KINDS = (type(None), bool, int, float, complex, bytes)


def _array_text(value: Any) -> str:
    """Type, shape and hash of an array or a tensor."""
    try:
        if isinstance(value, Tensor):
            data: bytes | memoryview = tensor_bytes(value)
        elif value.dtype.hasobject:
            raise _NotPlainError
        else:
            data = np.asarray(value).tobytes()
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:  # sparse and lazy
        raise _NotPlainError from error
    return f"{value.dtype} {tuple(value.shape)} {digest_of(data)}"


def _model_text(model: nn.Module, known: set[int]) -> str:
    """Hash of a model in a list or a table, which is no layer of the model that has it."""
    state = [name + _array_text(tensor).encode() for name, tensor in named_state(model)]
    return digest_of(*state, repr(_digests(model, known)).encode())


def _is_absolute(text: str) -> bool:
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
