"""Planes through an image: their points, and pictures of what a network makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from physadv.core.image_io import Array
from physadv.studies.page import Pair
from physadv.studies.plane_regions import painted_regions

REGION_COLORS = (
    "#c9e0f2",
    "#f8d3b0",
    "#cfe8cf",
    "#ecd0e4",
    "#f6ecb0",
    "#d9d4f0",
    "#f2c9c9",
    "#c6e6e3",
)
"""Colors of decision regions: light, so that lines and marks show on them."""
OTHER_COLOR = "#dddddd"
"""Color of all regions beyond those that have one of their own."""
LOSS_COLORS = ("#f7fbff", "#d2e3f3", "#9ec9e2", "#5ba3cf", "#2171b5", "#08306b")
"""Colors of six steps of a loss, from low to high."""


@dataclass(frozen=True)
class ImagePlane:
    """A plane through an image, spanned by two directions.

    Args:
        center: Image (c, h, w).
        first: Direction (c, h, w) of the horizontal axis.
        second: Direction of the vertical axis.
        reach: Largest coordinate on both axes.
        side: Number of points along each axis.
    """

    center: Tensor
    first: Tensor
    second: Tensor
    reach: float
    side: int

    def points(self) -> Tensor:
        """Return the points (side^2, c, h, w), rows from the top of the plane to its bottom."""
        ticks = torch.linspace(-self.reach, self.reach, self.side)
        down, across = torch.meshgrid(ticks.flip(0), ticks, indexing="ij")
        coordinates = torch.stack([across.flatten(), down.flatten()])
        steps = coordinates[0].view(-1, 1, 1, 1) * self.first
        return self.center + steps + coordinates[1].view(-1, 1, 1, 1) * self.second

    def evaluate(self, read: Callable[[Tensor], Tensor], batch: int = 500) -> Tensor:
        """Return ``read`` of all points, ``batch`` at a time, as a grid (side, side)."""
        values = torch.cat([read(part) for part in torch.split(self.points(), batch)])
        return values.view(self.side, self.side)

    def ball(self, eps: float, corners: int = 180) -> tuple[Pair, ...]:
        """Return the border of the l_inf ball of radius ``eps`` around the image, in the plane's
        coordinates, as a polygon of ``corners``."""
        border = []
        for angle in np.linspace(0, 2 * np.pi, corners, endpoint=False):
            a, b = float(np.cos(angle)), float(np.sin(angle))
            largest = float((a * self.first + b * self.second).abs().max())
            border.append((a * eps / largest, b * eps / largest))
        return tuple(border)


def region_colors(classes: Tensor, names: Sequence[str]) -> tuple[tuple[int, str, str], ...]:
    """Return the number, name and color of each class in a grid, the most frequent first.

    Args:
        classes: Predicted classes (h, w).
        names: Names of all classes.
    """
    counts = torch.bincount(classes.flatten(), minlength=len(names))
    order = [k for k in counts.argsort(descending=True, stable=True).tolist() if counts[k] > 0]
    colors = (*REGION_COLORS, *[OTHER_COLOR] * max(0, len(order) - len(REGION_COLORS)))
    return tuple((k, names[k], color) for k, color in zip(order, colors, strict=False))


def paint(numbers: Tensor, colors: Sequence[tuple[int, str]], enlarge: int = 4) -> Array:
    """Return a picture (h, w, 3) uint8 of a grid, each number in its color, with lines between.

    Args:
        numbers: Numbers (h, w).
        colors: Each number with its color as #rrggbb.
        enlarge: Side in px of each point.
    """
    places = np.zeros(numbers.shape, np.int64)
    for place, (number, _) in enumerate(colors):
        places[(numbers == number).numpy()] = place
    large = places.repeat(enlarge, 0).repeat(enlarge, 1)
    return painted_regions(large, [color for _, color in colors])


def loss_steps(losses: Tensor, edges: Sequence[float]) -> Tensor:
    """Return for each loss the number of ``edges``, ascending, that it reaches."""
    return torch.bucketize(losses, torch.tensor(edges), right=True)
