"""Adversarial training with patches: printed rectangles at random positions and poses, optimized
for a few steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import pi
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from physadv.attacks._classifier_step import frozen_eval
from physadv.core.errors import OptionError
from physadv.eot.pipeline import Draw, Pipeline
from physadv.eot.placement import Placement
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.warp import pose_homography
from physadv.training.methods._inner_maximization import input_gradient
from physadv.training.methods.base import Metrics, TrainingMethod, TrainingPosition, require_option

WIDTH_MM = 600.0
"""Width of the object: it fills the image and is as wide as a sign."""
TEXTURE_PX = 24


@dataclass
class StickerTraining(TrainingMethod):
    """Training on stickers: half of the loss on clean images, half on images with a sticker (after
    Rao et al. 2020; Wu et al. 2020).

    Each batch gets one rectangle, printed, at another position and in another pose in every image,
    and photographed (:mod:`physadv.eot.pipeline`).

    Attributes:
        area: Least and largest share of the image that the rectangle covers.
        steps: Steps of the texture's optimization.
        step_size: Length of a step, in units of [0, 1].
    """

    synchronized: ClassVar[bool] = True
    shardable: ClassVar[bool] = True
    area: tuple[float, float] = (0.02, 0.1)
    steps: int = 4
    step_size: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] < 1:
            raise OptionError(
                f"area {self.area}", "must be ascending shares below 1", "Use (0.02, 0.1)"
            )
        require_option("steps", self.steps, self.steps >= 0, "Use 4")

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the loss of ``net`` on ``images`` with ``labels``, clean and with a sticker, drawn
        from ``at``."""
        photo = self._camera(images, at)
        texture = torch.rand((1, 3, TEXTURE_PX, TEXTURE_PX), generator=at.generator).to(images)
        with frozen_eval(net):
            for _ in range(self.steps):
                up = input_gradient(
                    lambda t: F.cross_entropy(net(photo(t)).float(), labels, reduction="sum"),
                    texture,
                )
                up = at.processes.total(up)
                texture = (texture + self.step_size * up.sign()).clamp(0, 1)
            with torch.no_grad():
                photographed = photo(texture)

        clean, covered = (F.cross_entropy(net(x).float(), labels) for x in (images, photographed))
        return 0.5 * (clean + covered), {"covered": float(covered.detach())}

    def _camera(self, images: Tensor, at: TrainingPosition) -> partial[Tensor]:
        """Return a function from a texture (1, 3, h, w) to photographs of ``images`` with it, under
        one draw of everything else, of the whole batch."""
        rows, count = at.part(len(images))
        whole = images if at.whole is None else at.whole[0]
        color = whole if whole.shape[1] == 3 else whole.expand(-1, 3, -1, -1)
        generator, size = at.generator, images.shape[-1]

        area = float(torch.rand((), generator=generator))
        share = self.area[0] + (self.area[1] - self.area[0]) * area
        aspect = float(torch.exp(torch.rand((), generator=generator) * 1.4 - 0.7))
        width, height = WIDTH_MM * (share * aspect) ** 0.5, WIDTH_MM * (share / aspect) ** 0.5

        poses = _poses(count, size, generator)
        ones = torch.ones(count, 3)
        scenes = SceneBatch(color, poses, ones, 0 * ones, torch.ones(count), ("",) * count).to(
            images.device
        )

        ranges = EotRanges(defocus_px=(0.0, 0.3), motion_px=(0.0, 0.5))
        pipeline = Pipeline.from_ranges(ranges)
        draw = pipeline.sample(scenes, generator)
        if count > len(images):
            draw, scenes = pipeline.part(draw, rows, count), scenes.part(rows)

        mask = torch.ones(1, 1, TEXTURE_PX, TEXTURE_PX, device=images.device)
        placement = Placement(width, height)
        return partial(
            _photographed,
            pipeline=pipeline,
            mask=mask,
            placement=placement,
            scenes=scenes,
            draw=draw.to(images.device),
        )


def _photographed(
    texture: Tensor,
    pipeline: Pipeline,
    mask: Tensor,
    placement: Placement,
    scenes: SceneBatch,
    draw: Draw,
) -> Tensor:
    return pipeline.apply(texture, mask, placement, scenes, draw)


def _poses(count: int, size: int, generator: Generator) -> Tensor:
    """Return (count, 3, 3) homographies from mm on the sticker to px: center in the inner 70 %,
    turned and tilted at random."""

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    distance = 4 * WIDTH_MM / draw(0.9, 1.1)
    center = torch.stack([draw(0.15, 0.85), draw(0.15, 0.85)], 1) * size
    focal = torch.full((count,), 4.0 * size)
    return pose_homography(
        distance,
        draw(-0.7, 0.7),
        draw(-0.3, 0.3),
        draw(-pi / 4, pi / 4),
        focal_px=focal,
        center_px=center,
    )
