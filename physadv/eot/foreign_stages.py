"""Kornia augmentations and any ``nn.Module`` as stages of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from kornia.augmentation.base import _BasicAugmentationBase
from kornia.augmentation.container.base import SequentialBase
from torch import Tensor, nn

from physadv.core.errors import OptionError
from physadv.eot.sampling import DrawStream, moved_to
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import Stage


@dataclass(frozen=True)
class ForeignDraw:
    """Randomness of a module from elsewhere.

    ``seed`` decides what the module draws while it is applied; ``params`` is what a kornia
    augmentation drew before.
    """

    seed: int
    params: Any = None


@contextmanager
def _seeded(seed: int, images: Tensor) -> Iterator[None]:
    """Seed torch's global generators for a while, on the CPU and on the images' device."""
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


class _ForeignStage(Stage[None, ForeignDraw]):
    """A module from images to images in the encoded picture; rendered whole, never in a crop.

    Its randomness is the whole batch's, which is therefore never divided.
    """

    by_scene = False

    def __init__(self, module: nn.Module) -> None:
        super().__init__(None)
        self.module = module

    @property
    def name(self) -> str:
        return type(self.module).__name__

    def _checked(self, before: Tensor, after: Any) -> Tensor:
        if not isinstance(after, Tensor) or after.shape[-3:] != before.shape[-3:]:
            shape = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
            raise OptionError(
                f"Stage {self.name!r} returned {shape}",
                f"It must return images of the shape {tuple(before.shape)}",
                "Resize within the module, or leave it out",
            )
        return after


class ModuleStage(_ForeignStage):
    """Any ``nn.Module``; what it draws at random is decided by the draw's seed."""

    def sample(self, batch: SceneBatch, ranges: None, stream: DrawStream) -> ForeignDraw:
        """Return a seed from the ``stream`` of this stage; ``batch`` and ``ranges`` are not
        used."""
        return ForeignDraw(_seed(stream))

    def apply(self, images: Tensor, params: ForeignDraw) -> Tensor:
        """Return the module's output for encoded ``images``, seeded by ``params``."""
        with _seeded(params.seed, images):
            return self._checked(images, self.module(images))


class KorniaStage(_ForeignStage):
    """A kornia augmentation, or a sequence of them, whose drawn ``params`` are kept.

    Works on a copy: kornia writes what it drew into its modules.
    """

    def sample(self, batch: SceneBatch, ranges: None, stream: DrawStream) -> ForeignDraw:
        """Draw kornia's parameters for ``batch`` under a seed from the ``stream`` of this stage.

        There are no ``ranges``: the augmentation holds its own.
        """
        seed = _seed(stream)
        with _seeded(seed, batch.images):
            drawn = deepcopy(self.module).forward_parameters(batch.images.shape)  # type: ignore[operator]
        return ForeignDraw(seed, drawn)

    def apply(self, images: Tensor, params: ForeignDraw) -> Tensor:
        """Return encoded ``images`` augmented with ``params``."""
        # Some operations add to the parameters they are given, so they get copies.
        given = moved_to(deepcopy(params.params), images.device)
        with _seeded(params.seed, images):
            return self._checked(images, deepcopy(self.module)(images, params=given))


def _seed(stream: DrawStream) -> int:
    return int(torch.randint(2**31, (), generator=stream.own))


def as_stage(item: Stage[Any, Any] | nn.Module) -> Stage[Any, Any]:
    """Return ``item`` as a stage: a stage as it is, a module in a wrapper.

    Raises OptionError for anything else.

    Example:
        >>> as_stage(torch.nn.Identity()).name
        'Identity'
    """
    if isinstance(item, Stage):
        return item

    if isinstance(item, _BasicAugmentationBase | SequentialBase):
        return KorniaStage(item)
    if isinstance(item, nn.Module):
        return ModuleStage(item)
    raise OptionError(
        f"{item!r} in a pipeline",
        "It must be a Stage, a kornia augmentation or an nn.Module",
        "Give an instance, for example RandomMotionBlur(...)",
    )
