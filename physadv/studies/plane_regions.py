"""Networks on points of a plane: training, and pictures of their decision regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from physadv.core.image_io import Array
from physadv.studies.page import Pair
from physadv.training.loop import TrainingSchedule, train_model
from physadv.training.methods.base import StandardTraining, TrainingMethod

REGION_COLORS = ("#c2daee", "#f6d5bf", "#c6e4d6")
"""Pale colors of the regions of up to three classes."""
POINT_COLORS = ("#0072b2", "#d55e00", "#009e73")
"""Strong colors of the same classes, for points and edges."""


def plane_network(widths: Sequence[int], classes: int) -> nn.Sequential:
    """Build a fully connected ReLU network on points of the plane.

    Args:
        widths: Units of each hidden layer.
        classes: Number of outputs.

    Returns:
        The network on points (n, 2) or (n, 1, 1, 2), with freshly drawn weights.

    Example:
        >>> plane_network((8, 8), 3)(torch.rand(5, 1, 1, 2)).shape
        torch.Size([5, 3])
    """
    sizes = [2, *widths]
    layers: list[nn.Module] = [nn.Flatten()]
    for first, second in pairwise(sizes):
        layers += [nn.Linear(first, second), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


def fit_points(
    net: nn.Module,
    points: Tensor,
    labels: Tensor,
    *,
    steps: int,
    lr: float = 0.01,
    method: TrainingMethod | None = None,
    seed: int,
) -> None:
    """Train a network in place on all points in every step, and leave its averaged weights in it.

    Args:
        net: Network to train.
        points: Points (n, ...) as the network takes them.
        labels: Their classes (n,).
        steps: Number of steps.
        lr: Peak of the learning rate.
        method: Training method; plain cross-entropy without it.
        seed: Seed of the method's draws.

    Raises:
        DataError: The training diverged.
    """
    schedule = TrainingSchedule(1, steps, lr=lr, weight_decay=0.0, average=0.9, precision="fp32")
    average = net
    for step in train_model(
        net,
        lambda number: (points, labels),
        schedule,
        defense=method or StandardTraining(),
        seed=seed,
    ):
        average = step.average
    net.load_state_dict(average.state_dict())


def grid_points(low: float, high: float, pixels: int) -> Tensor:
    """Return the pixel centers of a square picture of the plane as (pixels^2, 2), row by row.

    Args:
        low: Least coordinate on both axes.
        high: Largest coordinate on both axes.
        pixels: Height and width of the picture; its first row is at the top, near ``high``.
    """
    centers = low + (torch.arange(pixels) + 0.5) * (high - low) / pixels
    y, x = torch.meshgrid(centers.flip(0), centers, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


@torch.no_grad()
def classes_on_grid(
    net: Callable[[Tensor], Tensor], low: float, high: float, pixels: int
) -> npt.NDArray[np.int64]:
    """Return the class (pixels, pixels) that a network gives each pixel of a square of the plane.

    Args:
        net: Network from points (n, 2) to logits.
        low: Least coordinate on both axes.
        high: Largest coordinate on both axes.
        pixels: Height and width in pixels.
    """
    pieces = torch.split(grid_points(low, high, pixels), 1 << 16)
    classes = torch.cat([net(points).argmax(1) for points in pieces])
    return classes.view(pixels, pixels).numpy()


def painted_regions(classes: npt.NDArray[np.int64], colors: Sequence[str] = REGION_COLORS) -> Array:
    """Return a picture (h, w, 3) of the regions, uint8, with a darker line between them.

    Args:
        classes: Class of each pixel (h, w).
        colors: Color of each class as #rrggbb.
    """
    table = np.array([rgb(color) for color in colors], np.uint8)
    picture = table[classes]
    edge = np.zeros(classes.shape, bool)
    edge[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    edge[1:] |= classes[1:] != classes[:-1]
    picture[edge] = (picture[edge] * 0.45).astype(np.uint8)
    return picture


def rgb(color: str) -> tuple[int, int, int]:
    """Return the three numbers of 0 to 255 of a color #rrggbb."""
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return red, green, blue


def circle(center: tuple[float, float], radius: float, corners: int = 96) -> tuple[Pair, ...]:
    """Return the corners of a circle as a polygon.

    Args:
        center: Its center.
        radius: Its radius.
        corners: Number of corners.
    """
    angles = np.arange(corners) * 2 * np.pi / corners
    return tuple(
        (float(center[0] + radius * np.cos(a)), float(center[1] + radius * np.sin(a)))
        for a in angles
    )
