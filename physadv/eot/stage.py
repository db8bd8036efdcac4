"""One effect between print and model: its ranges, how it is drawn, how it is applied.

A stage is one file in :mod:`physadv.eot.transforms` and one small class. It holds its ranges, draws
parameters from a named random stream on the CPU, and applies them to a batch of images as a pure,
differentiable function, so that any draw can be replayed on any device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from math import inf, ulp
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from torch import Tensor

from physadv.core.errors import OptionError

if TYPE_CHECKING:
    from physadv.eot.crop_window import CropWindow
    from physadv.eot.sampling import DrawStream
    from physadv.eot.scenes.scene_batch import SceneBatch

Range = tuple[float, float]
"""Ends (low, high) of a uniform distribution; equal ends draw one value."""
ZERO: Range = (0.0, 0.0)
ONE: Range = (1.0, 1.0)

SHARE: Range = (0.0, 1.0)
"""Values that a share or a probability can have."""
FROM_ZERO: Range = (0.0, inf)
"""Values of a length, a spread or another size that may be nothing."""
ABOVE_ZERO: Range = (ulp(0.0), inf)
"""Values of what cannot be nothing."""
ANYTHING: Range = (-inf, inf)

Encoding = Literal["encoded", "linear"]
"""sRGB-encoded values in [0, 1], or linear light, in which bare white is 1."""
ActsOn = Literal["patch", "geometry", "picture"]
"""The patch's own pixels, the coordinates at which they are looked up, or the whole picture."""

Backend = Literal["own", "kornia"]
"""Whose arithmetic a stage uses, where both have the operation (see the table in docs/eot.md)."""


def span(
    low: float,
    high: float,
    *,
    off: Range | None = ZERO,
    within: Range = ANYTHING,
    effects: tuple[str, ...] = (),
) -> Any:
    """Declare a range of a stage as a dataclass field.

    Args:
        low: Lower end under the preset `default`, in the unit that the field's name ends with.
        high: Upper end.
        off: The value at which the effect does nothing; None where there is no such value.
        within: Least and largest value that means something; ranges beyond it are refused where a
            file states them.
        effects: Names under which :func:`physadv.eot.ranges.without` switches it off.

    Returns:
        A field whose default is (low, high).

    Example:
        >>> @dataclass(frozen=True)
        ... class FadeRanges(StageRanges):
        ...     fade_ev: Range = span(-1, 0)
        >>> FadeRanges().acts("fade_ev"), FadeRanges(fade_ev=(0.0, 0.0)).acts("fade_ev")
        (True, False)
    """
    return field(default=(low, high), metadata={"off": off, "within": within, "effects": effects})


@dataclass(frozen=True)
class StageRanges:
    """Uniform ranges of a stage's parameters, declared with :func:`span`."""

    @classmethod
    def neutral(cls) -> dict[str, Range]:
        """Return the value of each range at which it does nothing, where there is one."""
        off = {f.name: f.metadata.get("off") for f in fields(cls)}
        return {name: value for name, value in off.items() if value is not None}

    @classmethod
    def limits(cls) -> dict[str, Range]:
        """Return the least and largest value that each range may have."""
        return {f.name: f.metadata.get("within", ANYTHING) for f in fields(cls)}

    @classmethod
    def effects(cls) -> dict[str, tuple[str, ...]]:
        """Return the names of the ranges that belong to each effect."""
        groups: dict[str, tuple[str, ...]] = {}
        for declared in fields(cls):
            for effect in declared.metadata.get("effects", ()):
                groups[effect] = (*groups.get(effect, ()), declared.name)
        return groups

    def acts(self, *names: str) -> bool:
        """Return whether any range called one of ``names`` differs from its neutral value."""
        neutral = self.neutral()
        return any(name not in neutral or getattr(self, name) != neutral[name] for name in names)

    def as_dict(self) -> dict[str, list[float]]:
        """Return name -> [low, high] of everything that acts, as cards record it."""
        names = (declared.name for declared in fields(self))
        return {name: list(getattr(self, name)) for name in names if self.acts(name)}


R = TypeVar("R")
P = TypeVar("P")


class Stage(ABC, Generic[R, P]):
    """Base of every stage: subclass it, implement ``sample`` and ``apply``, put it in a Pipeline.

    ``sample`` returns None where the effect is off. ``apply`` maps (b, 3, h, w) images to images of
    the same shape. Class variables declare what the pipeline may do with the stage; their defaults
    are always right, if slow:

    - ``encoding``: what ``apply`` takes, and returns unless ``returns`` differs. The pipeline
      converts.
    - ``acts_on``: the patch before it is placed, coordinates (see Place), or the whole picture.
    - ``windowed``: whether a crop may be rendered alone. Then ``apply`` of a crop, with parameters
      from ``crop`` and with ``reach`` pixels more on each side, must equal the crop of ``apply``.
    - ``blockwise``: works on blocks counted from the picture's corner, so a crop has no extra
      pixels.
    - ``by_scene``: whether ``apply`` treats every scene alone, so that a batch may be divided; its
      parameters for some scenes are those of ``part``. True by default.
    - ``backends``: the implementations that ``backend`` may name, the default first.

    Example:
        >>> import torch
        >>> class Fade(Stage[Range, torch.Tensor]):
        ...     def sample(self, batch, ranges, stream):
        ...         return stream.uniform("fade", ranges, len(batch.images))
        ...
        ...     def apply(self, images, params):
        ...         return images * params[:, None, None, None]
        >>> Fade((0.5, 1.0)).apply(torch.ones(1, 3, 2, 2), torch.tensor([0.5])).mean().item()
        0.5
    """

    encoding: ClassVar[Encoding] = "encoded"
    returns: ClassVar[Encoding | None] = None
    acts_on: ClassVar[ActsOn] = "picture"
    windowed: ClassVar[bool] = False
    blockwise: ClassVar[bool] = False
    by_scene: ClassVar[bool] = True
    backends: ClassVar[tuple[Backend, ...]] = ("own",)

    def __init__(self, ranges: R, *, backend: Backend | None = None) -> None:
        if backend is not None and backend not in self.backends:
            raise OptionError(
                f"Backend {backend!r} of {type(self).__name__}",
                f"It must be one of {', '.join(self.backends)}",
                "Leave it out",
            )
        self.ranges = ranges
        self.backend: Backend = backend or self.backends[0]

    @property
    def name(self) -> str:
        """The name under which a draw holds this stage's parameters."""
        return type(self).__name__

    @abstractmethod
    def sample(self, batch: SceneBatch, ranges: R, stream: DrawStream) -> P | None:
        """Draw the parameters for a batch.

        Args:
            batch: The b scenes; only their geometry is read.
            ranges: What is drawn from, usually ``self.ranges``.
            stream: Named random streams of this draw.

        Returns:
            Parameters on the CPU: a tensor, a dataclass or a dict of tensors. None: off.
        """

    @abstractmethod
    def apply(self, images: Tensor, params: P) -> Tensor:
        """Return (b, 3, h, w) ``images`` after this effect with the drawn ``params``."""

    def part(self, params: P, rows: slice, count: int) -> P:
        """Return ``params`` for some scenes of a batch.

        Args:
            params: Those of the batch.
            rows: Numbers of the scenes.
            count: Number of scenes of the batch; tensors with so many rows hold one a scene.
        """
        from physadv.eot.sampling import rows_of  # which imports this module

        return rows_of(params, rows, count)

    def crop(self, params: P, window: CropWindow, margin: int) -> P:
        """Return ``params`` for a crop: ``window`` of the picture with ``margin`` px round it."""
        return params

    def reach(self, params: P, picture: tuple[int, int]) -> int:
        """Return how many px round a pixel ``params`` mix into it, in a (height, width) picture."""
        return 0
