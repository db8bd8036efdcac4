"""How parameters are drawn: every family of effects from its own named stream, so that none moves
another's draws."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from physadv.core.random_streams import derive
from physadv.core.random_streams import generator as named_generator
from physadv.eot.ranges import Range

T = TypeVar("T")


def streams(generator: torch.Generator) -> Callable[[str], torch.Generator]:
    """Name -> a generator of its own, decided by the state that ``generator`` is in; it is not
    moved."""
    state = hashlib.sha256(bytes(generator.get_state().tolist())).hexdigest()
    seed = derive(generator.initial_seed(), state)
    return lambda name: named_generator(seed, name)


def draw_uniform(generator: torch.Generator, bounds: Range, *shape: int) -> Tensor:
    """Uniform between the two ends."""
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(*shape, generator=generator)


def log_uniform(generator: torch.Generator, bounds: Range, *shape: int) -> Tensor:
    """Uniform in the logarithm; both ends over 0."""
    return draw_uniform(generator, (math.log(bounds[0]), math.log(bounds[1])), *shape).exp()


def happens(generator: torch.Generator, probability: Range, *shape: int) -> Tensor:
    """1 with a probability between the two ends, else 0."""
    return (
        torch.rand(*shape, generator=generator) < draw_uniform(generator, probability, *shape)
    ).float()


def moved(value: T, device: torch.device) -> T:
    """A drawn family on another device; what is no tensor stays."""
    changes: dict[str, Any] = {}
    for field in fields(value):  # type: ignore[arg-type]
        part = getattr(value, field.name)
        if isinstance(part, Tensor):
            changes[field.name] = part.to(device)
        elif is_dataclass(part) and not isinstance(part, type):
            changes[field.name] = moved(part, device)
    return replace(value, **changes)  # type: ignore[type-var]


def broadcast_parameters(value: Tensor) -> Tensor:
    """(b,) or (b, c) parameters shaped to act on (b, c, h, w)."""
    return value[:, :, None, None] if value.dim() == 2 else value[:, None, None, None]
