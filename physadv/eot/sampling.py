"""Named random streams of one draw, and the distributions that stages draw from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from copy import copy
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from physadv.core.random_streams import derive
from physadv.core.random_streams import generator as named_generator
from physadv.eot.stage import Range

if TYPE_CHECKING:
    from physadv.eot.color_map import ColorMap
    from physadv.eot.scenes.scene_batch import SceneBatch

T = TypeVar("T")


class DrawStream:
    """Randomness of one draw for b scenes.

    A new stage takes a stream of its own with ``named`` or ``uniform``: no other draw moves when it
    comes, goes or changes. The stages of the first release share one stream; its numbers are drawn
    up front, in an order that is frozen so that old seeds keep their draws, and handed out by name.
    """

    def __init__(
        self, generator: torch.Generator, batch: SceneBatch, colors: ColorMap | None = None
    ) -> None:
        self.colors = colors
        self._stage = ""
        self._streams = named_streams(generator)
        self._shared = _first_release(generator, batch.images.shape)

    def for_stage(self, name: str) -> DrawStream:
        """Return the same streams, whose ``own`` is that of the pipeline's stage ``name``."""
        other = copy(self)
        other._stage = name
        return other

    @property
    def own(self) -> torch.Generator:
        """The generator of the stage that draws, by its name in the pipeline."""
        return self.named(f"stage {self._stage}")

    def named(self, name: str) -> torch.Generator:
        """Return the generator called ``name``; the draw's seed alone decides its numbers."""
        return self._streams(name)

    def uniform(self, name: str, bounds: Range, *shape: int) -> Tensor:
        """Return uniform numbers of ``shape`` within ``bounds`` from the stream ``name``."""
        return draw_uniform(self.named(name), bounds, *shape)

    def shared(self, name: str, bounds: Range) -> Tensor:
        """Return the shared uniform numbers called ``name``, scaled to ``bounds``."""
        return bounds[0] + (bounds[1] - bounds[0]) * self._shared[name]

    @property
    def normal(self) -> Tensor:
        """The shared standard normal numbers, one a value of the batch's images."""
        return self._shared["normal"]


def _first_release(generator: torch.Generator, shape: torch.Size) -> dict[str, Tensor]:
    """Draw the shared numbers. Their order decides the draws of released bundles: never change it.

    New stages take streams of their own instead.
    """
    count = shape[0]
    order: dict[str, tuple[int, ...]] = {
        "ink_mixing": (3, 3),
        "white_balance_red": (count,),
        "white_balance_blue": (count,),
        "ink_black": (1,),
        "ink_black_channels": (3,),
        "paper_white": (1,),
        "paper_white_channels": (3,),
        "exposure_ev": (count,),
        "contrast": (count,),
        "brightness": (count,),
        "gamma": (count,),
        "defocus_px": (count,),
        "motion_px": (count,),
        "motion_angle": (count,),
        "read_noise": (count,),
        "shot_noise": (count,),
    }

    # One call a name, in this order.
    drawn = {name: torch.rand(*size, generator=generator) for name, size in order.items()}
    drawn["normal"] = torch.randn(shape, generator=generator)
    drawn["jpeg_quality"] = torch.rand(count, generator=generator)
    return drawn


def named_streams(generator: torch.Generator) -> Callable[[str], torch.Generator]:
    """Return a function from a name to a generator of its own.

    The state that ``generator`` is in decides them; it is not moved.
    """
    state = hashlib.sha256(bytes(generator.get_state().tolist())).hexdigest()
    seed = derive(generator.initial_seed(), state)
    return lambda name: named_generator(seed, name)


def draw_uniform(generator: torch.Generator, bounds: Range, *shape: int) -> Tensor:
    """Draw uniform numbers of ``shape`` within ``bounds`` from ``generator``."""
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(*shape, generator=generator)


def log_uniform(generator: torch.Generator, bounds: Range, *shape: int) -> Tensor:
    """Draw numbers of ``shape`` from ``generator``, uniform in the logarithm; ``bounds`` over 0."""
    return draw_uniform(generator, (math.log(bounds[0]), math.log(bounds[1])), *shape).exp()


def draw_bernoulli(generator: torch.Generator, probability: Range, *shape: int) -> Tensor:
    """Draw 1 with a ``probability`` between its two ends, else 0, of ``shape`` from
    ``generator``."""
    return (
        torch.rand(*shape, generator=generator) < draw_uniform(generator, probability, *shape)
    ).float()


def moved_to(value: T, device: torch.device) -> T:
    """Return ``value`` with every tensor in its dataclasses, dicts and lists on ``device``."""
    return _map_tensors(value, lambda tensor: tensor.to(device))


def _map_tensors(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """``value`` with every tensor in its dataclasses, dicts and lists changed."""
    content: Any = value
    if isinstance(content, Tensor):
        return change(content)  # type: ignore[return-value]

    if is_dataclass(content) and not isinstance(content, type):
        own = {
            f.name: _map_tensors(getattr(content, f.name), change)
            for f in fields(content)
            if f.init
        }
        return replace(content, **own)  # type: ignore[return-value]
    if isinstance(content, dict):
        return {key: _map_tensors(item, change) for key, item in content.items()}  # type: ignore[return-value]
    if isinstance(content, tuple) and hasattr(content, "_fields"):
        return type(content)(*(_map_tensors(item, change) for item in content))  # type: ignore[return-value]
    if isinstance(content, list | tuple):
        return type(content)(_map_tensors(item, change) for item in content)  # type: ignore[return-value]
    return value


def rows_of(value: T, rows: slice, count: int) -> T:
    """Return ``value`` for some of the scenes of a batch.

    Args:
        value: Tensors in dataclasses, dicts and lists; those whose first dimension is ``count``
            hold one entry a scene.
        rows: Numbers of the scenes.
        count: Number of scenes of the batch.
    """

    def cut(tensor: Tensor) -> Tensor:
        return tensor[rows] if tensor.dim() and len(tensor) == count else tensor

    return _map_tensors(value, cut)


def broadcast_parameters(value: Tensor) -> Tensor:
    """Return ``value`` of shape (b,) or (b, c), shaped to act on (b, c, h, w)."""
    return value[:, :, None, None] if value.dim() == 2 else value[:, None, None, None]
