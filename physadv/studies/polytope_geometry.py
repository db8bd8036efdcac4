"""Sets of outputs that a plane network can reach from a box: the set itself, and convex sets that
hold it."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage, optimize, sparse
from scipy.spatial import HalfspaceIntersection
from torch import Tensor, nn

from physadv.certification.bounds.crown import crown_margins
from physadv.certification.bounds.ibp import interval_boxes
from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.polytope import polytope_margins
from physadv.certification.bounds.verify import prepare_graph
from physadv.core.errors import OptionError
from physadv.studies.page import Pair

Floats = npt.NDArray[np.float64]
_SHAPE = (1, 1, 2)


def directions(count: int) -> Floats:
    """Return ``count`` unit vectors (count, 2), evenly spread and with the four axes where
    ``count`` is a multiple of four."""
    angles = np.arange(count) * 2 * pi / count
    return np.stack([np.cos(angles), np.sin(angles)], 1).round(15)


def box_about(point: Sequence[float], eps: float) -> InputBall:
    """Return the l_inf ball of radius ``eps`` about a point of the plane, not clipped."""
    return InputBall(torch.tensor([point]).view(1, *_SHAPE), eps, limits=None)


@torch.no_grad()
def bound_support(net: nn.Module, ball: InputBall, rows: Floats, method: str) -> Floats:
    """Return upper bounds (k,) of linear functions of a network's output over a box.

    Args:
        net: Network from points (b, 1, 1, 2) to outputs (b, 2 or more).
        ball: Inputs, from :func:`box_about`.
        rows: Coefficients (k, outputs) of the functions.
        method: "polytope", "crown" or "interval".

    Raises:
        OptionError: The method is another one.
    """
    graph = prepare_graph(net, _SHAPE)
    forms = torch.tensor(-rows, dtype=torch.float32)[None]
    if method == "polytope":
        lowest = polytope_margins(graph, ball, forms)[0]
    elif method == "crown":
        lowest = crown_margins(graph, ball, forms)[0]
    elif method == "interval":
        last = len(graph.nodes) - 1
        low, high = interval_boxes(graph, ball, {last})[last]
        corners = torch.where(forms[0] > 0, low[0], high[0])
        lowest = (forms[0] * corners).sum(1)
    else:
        raise OptionError(f"bound {method!r}", "polytope, crown or interval", "Use polytope")
    return -lowest.double().numpy()


@torch.no_grad()
def reached_outputs(net: nn.Module, ball: InputBall, side: int) -> Floats:
    """Return the outputs (side^2, k) of a grid of inputs of a box, its border among them.

    Args:
        net: Network from points to outputs.
        ball: Inputs, from :func:`box_about`.
        side: Points of the grid in each direction.
    """
    steps = torch.linspace(-ball.eps, ball.eps, side)
    grid = torch.cartesian_prod(steps, steps) + ball.center.view(1, 2)
    return torch.cat([net(part) for part in torch.split(grid, 1 << 16)]).double().numpy()


def linear_program_support(net: nn.Sequential, ball: InputBall, rows: Floats) -> Floats:
    """Return the largest values (k,) of linear functions over the convex outer polytope.

    Every ReLU between its bounds is replaced by the triangle over them; the bounds are those of
    the dual. The linear program is solved exactly, as Wong and Kolter define the polytope.

    Args:
        net: Network of :func:`physadv.studies.plane_regions.plane_network`.
        ball: Inputs, from :func:`box_about`.
        rows: Coefficients (k, outputs) of the functions.
    """
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().double().numpy() for layer in linear]
    shifts = [layer.bias.detach().double().numpy() for layer in linear]
    center = ball.center.double().view(2).numpy()

    # Variables: the input, then the values after each ReLU.
    sizes = [2, *(len(weight) for weight in weights[:-1])]
    starts = np.cumsum([0, *sizes])
    limits: list[tuple[float | None, float | None]] = [(c - ball.eps, c + ball.eps) for c in center]
    at_most, at_most_values = [sparse.csr_matrix((0, starts[-1]))], [np.zeros(0)]
    for k, (weight, shift) in enumerate(zip(weights[:-1], shifts[:-1], strict=True)):
        low, high = _input_bounds(net, ball, k)
        limits += [(0.0, max(0.0, h)) for h in high]
        before = _columns(weight, starts[k], starts[-1])
        after = _columns(np.eye(len(weight)), starts[k + 1], starts[-1])
        crossing = (low < 0) & (high > 0)
        slope = np.where(crossing, high / np.where(crossing, high - low, 1), low >= 0)
        # z >= W y + c, where the ReLU is not surely off, and z <= slope (W y + c - low).
        active = high > 0
        at_most += [(before - after)[active], after - sparse.diags(slope) @ before]
        at_most_values += [-shift[active], slope * (shift - np.where(crossing, low, 0))]

    matrix, values = sparse.vstack(at_most).tocsr(), np.concatenate(at_most_values)
    largest = []
    for row in rows:
        cost = np.zeros(starts[-1])
        cost[starts[-2] :] = -row @ weights[-1]
        found = optimize.linprog(cost, matrix, values, bounds=limits, method="highs")
        largest.append(-found.fun + row @ shifts[-1])
    return np.array(largest)


def _columns(block: Floats, start: int, width: int) -> sparse.csr_matrix:
    """A block of columns of a matrix of ``width`` columns, from ``start`` on."""
    return sparse.hstack(
        [
            sparse.csr_matrix((len(block), start)),
            sparse.csr_matrix(block),
            sparse.csr_matrix((len(block), width - start - block.shape[1])),
        ]
    ).tocsr()


def _input_bounds(net: nn.Sequential, ball: InputBall, layer: int) -> tuple[Floats, Floats]:
    """Dual bounds of what ReLU layer ``layer`` reads."""
    first = nn.Sequential(*list(net)[: 2 + 2 * layer])  # flattening, then linear layers and ReLUs
    width = [each for each in first if isinstance(each, nn.Linear)][-1].out_features
    rows = np.concatenate([np.eye(width), -np.eye(width)])
    bounds = bound_support(first, ball, rows, "polytope")
    return -bounds[width:], bounds[:width]


def polygon_of(rows: Floats, largest: Floats, inside: Floats) -> tuple[Pair, ...]:
    """Return the corners of the polygon of all points that keep linear functions below bounds.

    Args:
        rows: Directions (k, 2).
        largest: Bounds (k,) of the functions.
        inside: A point (2,) that keeps all of them.

    Returns:
        The corners, counterclockwise.
    """
    room = largest - rows @ inside
    scale = max(float(room.max()), 1e-12)
    # About the point and in units of the polygon's size the intersection is well conditioned.
    spaces = np.concatenate([rows, -np.maximum(room / scale, 1e-7)[:, None]], 1)
    corners = HalfspaceIntersection(spaces, np.zeros(2)).intersections * scale
    order = np.argsort(np.arctan2(corners[:, 1], corners[:, 0]))
    return tuple((float(x), float(y)) for x, y in corners[order] + inside)


def polygon_area(corners: Sequence[Pair]) -> float:
    """Return the area of a polygon by its corners in order.

    Example:
        >>> polygon_area([(0, 0), (2, 0), (2, 1), (0, 1)])
        2.0
    """
    x, y = np.array(corners, dtype=float).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def reached_pixels(
    outputs: Floats, x: tuple[float, float], y: tuple[float, float], pixels: int
) -> npt.NDArray[np.bool_]:
    """Return which pixels (pixels, pixels) of a picture of the plane hold an output.

    Single pixels between neighboring outputs are filled.

    Args:
        outputs: Outputs (n, 2).
        x: Left and right end of the picture.
        y: Lower and upper end; the first row is at the upper.
        pixels: Height and width of the picture.
    """
    column = ((outputs[:, 0] - x[0]) / (x[1] - x[0]) * pixels).astype(int)
    row = ((y[1] - outputs[:, 1]) / (y[1] - y[0]) * pixels).astype(int)
    within = (column >= 0) & (column < pixels) & (row >= 0) & (row < pixels)
    reached = np.zeros((pixels, pixels), bool)
    reached[row[within], column[within]] = True
    closed = ndimage.binary_closing(np.pad(reached, 2), np.ones((3, 3)))
    return np.asarray(closed[2:-2, 2:-2], bool)


def random_network(net: nn.Sequential, generator: torch.Generator) -> nn.Sequential:
    """Draw weights and biases with standard deviation 1 / sqrt(inputs), as in the paper's pictures.

    Args:
        net: Network whose linear layers are drawn anew, in place.
        generator: Source of the draws.

    Returns:
        The network, its parameters without gradients.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            for numbers in (layer.weight, layer.bias):
                nn.init.normal_(numbers, std=layer.in_features**-0.5, generator=generator)
    return net.eval().requires_grad_(False)


def widths_along(values: Tensor | Floats) -> Floats:
    """Return the width (k,) of a set of points (n, k) along each axis."""
    numbers = np.asarray(values)
    return np.asarray(numbers.max(0) - numbers.min(0))
