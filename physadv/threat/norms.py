"""Projections onto epsilon balls within [0, 1].

All functions are pure, out of place, and take any memory format and float dtype. Results lie in the
ball after rounding: their distance, measured in float64, never exceeds eps. All arithmetic is done
in float64 and rounded towards the clean image. Points already inside are returned unchanged.

In l_0 a distance is a number of pixels, positions with all their channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physadv.core.tensors import has_float64
from physadv.threat.parsing import NORMS as NORMS
from physadv.threat.parsing import Norm as Norm
from physadv.threat.parsing import parse_norm as parse_norm

_SLACK = 1 - 1e-10  # a float64 sum over an image is exact to about this much


def lp_distance(x: Tensor, x0: Tensor, norm: Norm) -> Tensor:
    """Return the distance (b,) of each sample of ``x`` from its clean image, in float64.

    Args:
        x: Images (b, ...).
        x0: Clean images (b, ...).
        norm: "linf", "l2", "l1" or "l0", in any spelling.

    Raises:
        OptionError: The norm is unknown.

    Example:
        >>> import torch
        >>> from physadv.threat.norms import lp_distance
        >>> lp_distance(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), "l2").tolist()
        [5.0]
    """
    name = parse_norm(norm, sparse=True)
    if name == "l0":
        return by_pixel(x != x0).any(1).sum(1).double()
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[name]
    size: Tensor = torch.linalg.vector_norm((x.double() - x0.double()).flatten(1), ord=order, dim=1)
    return size


def by_pixel(values: Tensor) -> Tensor:
    """Return ``values`` of images (b, c, ...) as (b, c, pixels); those of (b, n) as (b, 1, n)."""
    return values.flatten(2) if values.ndim > 2 else values[:, None]


def project_onto_ball(x: Tensor, x0: Tensor, eps: float, norm: Norm) -> Tensor:
    """Project onto the ball within [0, 1]; points already inside are returned unchanged.

    Args:
        x: Points (b, ...).
        x0: Clean images (b, ...), centers of the balls.
        eps: Radius, at least 0; in l_0 a number of pixels.
        norm: "linf", "l2", "l1" or "l0", in any spelling.

    Returns:
        The nearest points (b, ...) of the balls, in l_0 by l_2 distance.

    Raises:
        OptionError: The norm is unknown.

    Example:
        >>> import torch
        >>> from physadv.threat.norms import project_onto_ball
        >>> project_onto_ball(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), 0.5, "linf").tolist()
        [[0.5, 0.5]]
    """
    if not has_float64(x.device):
        return project_onto_ball(x.cpu(), x0.cpu(), eps, norm).to(x.device)
    projections = {"linf": _project_linf, "l2": project_l2, "l1": _project_l1, "l0": _project_l0}
    return projections[parse_norm(norm, sparse=True)](x, x0, eps)


def _project_linf(x: Tensor, x0: Tensor, eps: float) -> Tensor:
    """Return the nearest point with every element within ``eps`` of ``x0`` and in [0, 1]."""
    return torch.clamp(x, *linf_bounds(x0, eps))


def linf_bounds(x0: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest image of the l_inf ball of ``eps`` around ``x0`` in [0, 1]."""
    exact = x0.double()
    low = step_toward(x0, -exact.clamp(min=0, max=eps))
    high = step_toward(x0, (1 - exact).clamp(min=0, max=eps))
    return low.clamp_(0, 1), high.clamp_(0, 1)


def step_toward(x0: Tensor, change: Tensor) -> Tensor:
    """Return ``x0 + change`` in the dtype of ``x0``, rounded towards ``x0``.

    No element ends farther from ``x0`` than ``change``.
    """
    exact = x0.double()
    x = (exact + change.double()).to(x0.dtype)
    too_far = (x.double() - exact).abs() > change.double().abs()
    return torch.where(too_far, torch.nextafter(x, x0), x)


def project_l2(x: Tensor, x0: Tensor, eps: float) -> Tensor:
    """Project ``x`` (b, ...) onto the l_2 ball of radius ``eps`` around ``x0``, within [0, 1].

    The projection scales the change and clips it; the scale is solved for exactly.
    """
    boxed = x.clamp(0, 1)
    outside = lp_distance(boxed, x0, "l2") > eps
    if not outside.any():
        return boxed

    change = (x[outside].double() - x0[outside].double()).flatten(1)
    room = _room(change, x0[outside])
    scale = _clipped_scale(change.abs(), room, eps * _SLACK)
    return _replaced(boxed, outside, x0, torch.minimum(change.abs() * scale, room) * change.sign())


def _project_l1(x: Tensor, x0: Tensor, eps: float) -> Tensor:
    """Project onto the l_1 ball within [0, 1] (Duchi et al. 2008; in a box, Croce & Hein 2021)."""
    boxed = x.clamp(0, 1)
    outside = lp_distance(boxed, x0, "l1") > eps
    if not outside.any():
        return boxed

    change = (x[outside].double() - x0[outside].double()).flatten(1)
    room = _room(change, x0[outside])
    size = soft_threshold(change.abs(), room, eps * _SLACK)
    return _replaced(boxed, outside, x0, size * change.sign())


def _project_l0(x: Tensor, x0: Tensor, eps: float) -> Tensor:
    """Keep the ``eps`` pixels that bring the clean image nearest to ``x`` (Croce & Hein 2019)."""
    boxed = x.clamp(0, 1)
    outside = lp_distance(boxed, x0, "l0") > eps
    if not outside.any():
        return boxed

    exact, clean, kept = x[outside].double(), x0[outside].double(), boxed[outside].double()
    gain = by_pixel((exact - clean).square() - (exact - kept).square()).sum(1)
    pixels = _largest(gain, int(eps))[:, None].expand_as(by_pixel(clean))
    out = boxed.clone()
    out[outside] = torch.where(pixels.reshape(clean.shape), boxed[outside], x0[outside])
    return out


def _largest(values: Tensor, count: int) -> Tensor:
    """Return where the ``count`` largest of each row of ``values`` (b, n) are."""
    chosen = values.topk(min(count, values.shape[1]), 1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter(1, chosen, True)


def soft_threshold(size: Tensor, room: Tensor, total: float) -> Tensor:
    """Return min(max(size - t, 0), room) with the smallest t >= 0 whose rows sum to at most total.

    The sum falls piecewise linearly in t. Newton steps find the piece and solve it exactly;
    bisection takes over where they leave the bracket.

    Args:
        size: Magnitudes (b, n), float64, not negative.
        room: Upper limits (b, n), float64, not negative.
        total: Largest sum of a row.

    Returns:
        The reduced magnitudes (b, n).

    Example:
        >>> import torch
        >>> from physadv.threat.norms import soft_threshold
        >>> size = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
        >>> soft_threshold(size, torch.full_like(size, torch.inf), 2.0).tolist()
        [[2.0, 0.0]]
    """
    cut, low = torch.zeros_like(size[:, :1]), torch.zeros_like(size[:, :1])
    high = size.amax(1, keepdim=True)

    for _ in range(100):
        remaining = size - cut
        excess = torch.minimum(remaining.clamp_min(0), room).sum(1, keepdim=True) - total
        low, high = torch.where(excess > 0, cut, low), torch.where(excess > 0, high, cut)
        done = (excess.abs() <= 1e-12 * total) | (excess <= 0) & (cut == 0)
        if bool((done | (high - low <= 1e-15 * high)).all()):
            break

        # The slope of the sum is the number of elements strictly between 0 and their limit.
        free = ((remaining > 0) & (remaining < room)).sum(1, keepdim=True)
        newton = cut + excess / free.clamp_min(1)
        inside = (free > 0) & (newton > low) & (newton < high)
        cut = torch.where(done, cut, torch.where(inside, newton, (low + high) / 2))

    cut = torch.where(excess > 1e-12 * total, high, cut)
    return torch.minimum((size - cut).clamp_min(0), room)


def _clipped_scale(size: Tensor, room: Tensor, radius: float) -> Tensor:
    """Return the scale s (b, 1) with |min(s * size, room)|_2 = radius, where |room|_2 is larger.

    Starts with nothing clipped and grows: each round solves for the elements still free, until no
    more reach their limit. A round clips at least one element more; a few rounds suffice in
    practice.
    """
    squares, limits = size.square(), room.square()
    scale = radius / squares.sum(1, keepdim=True).sqrt().clamp_min(1e-300)

    for _ in range(size.shape[1]):
        free = scale * size <= room
        length = (radius**2 - torch.where(free, 0, limits).sum(1, keepdim=True)).clamp_min(0)
        free_squares = torch.where(free, squares, 0).sum(1, keepdim=True).clamp_min(1e-300)
        larger = (length / free_squares).sqrt()
        done = larger <= scale * (1 + 1e-12)
        if bool(done.all()):
            break

        scale = torch.where(done, scale, larger)
    return scale


def _room(change: Tensor, x0: Tensor) -> Tensor:
    """Return how far each element (b, n) can move along its change within [0, 1]."""
    exact = x0.double().flatten(1)
    return torch.where(change > 0, 1 - exact, exact).clamp_min(0)


def _replaced(x: Tensor, rows: Tensor, x0: Tensor, change: Tensor) -> Tensor:
    """Return ``x`` with ``rows`` set to ``x0 + change``, rounded towards ``x0``."""
    out = x.clone()
    out[rows] = step_toward(x0[rows], change.view(x0[rows].shape)).clamp_(0, 1)
    return out


def steepest_point(slope: Tensor, x0: Tensor, eps: float, norm: Norm) -> Tensor:
    """Return the minimum of a linear function over the ball within [0, 1].

    It is the optimal attack on a linear model and the best single step on any other. Elements
    without slope stay as they are.

    Args:
        slope: Coefficients (b, ...) of the linear function.
        x0: Clean images (b, ...), centers of the balls.
        eps: Radius, at least 0; in l_0 a number of pixels.
        norm: "linf", "l2", "l1" or "l0", in any spelling.

    Raises:
        OptionError: The norm is unknown.

    Example:
        >>> import torch
        >>> from physadv.threat.norms import steepest_point
        >>> slope, x0 = torch.tensor([[2.0, -1.0, 0.0]]), torch.full((1, 3), 0.5)
        >>> steepest_point(slope, x0, 0.25, "linf").tolist()
        [[0.25, 0.75, 0.5]]
    """
    if not has_float64(slope.device):
        return steepest_point(slope.cpu(), x0.cpu(), eps, norm).to(slope.device)
    direction = -slope.double().flatten(1)
    room = _room(direction, x0) * (direction != 0)

    name = parse_norm(norm, sparse=True)
    if name == "linf":
        size = room.clamp(max=eps)
    elif name == "l0":
        # The pixels whose own corners lower the function most.
        gain = by_pixel((direction.abs() * room).view(x0.shape))
        pixels = _largest(gain.sum(1), int(eps))[:, None].expand_as(gain)
        size = room * pixels.reshape(room.shape)
    elif norm == "l2":
        unit = direction.abs() / direction.abs().amax(1, keepdim=True).clamp_min(1e-300)
        fits = room.square().sum(1, keepdim=True) <= eps**2
        scale = _clipped_scale(unit, room, eps * _SLACK)
        size = torch.where(fits, room, torch.minimum(unit * torch.where(fits, 0, scale), room))
    else:
        # In l_1 the steepest elements move as far as they can, until the radius is used up.
        order = direction.abs().argsort(1, descending=True)
        ordered = room.gather(1, order)
        unused = (eps * _SLACK - (ordered.cumsum(1) - ordered)).clamp_min(0)
        size = torch.zeros_like(room).scatter(1, order, torch.minimum(ordered, unused))

    return step_toward(x0, (size * direction.sign()).view(x0.shape)).clamp_(0, 1)


def quantize_in_ball(x: Tensor, x0: Tensor, eps: float, norm: Norm, levels: int = 255) -> Tensor:
    """Round images to the grid k / levels within the ball, so that they survive a PNG file.

    A level whose float value lies beyond eps by rounding alone is not used: a check in float64
    without tolerance succeeds. Elements whose nearest grid value is farther from ``x0`` than ``x``
    take the next one towards ``x0``, unless the ball has room left. A sample without any grid point
    in its ball (``x0`` off the grid and a small ball) becomes the grid point nearest to ``x0``,
    outside the ball.

    Args:
        x: Images (b, ...) in the ball.
        x0: Clean images (b, ...), centers of the balls.
        eps: Radius, at least 0; in l_0 a number of pixels.
        norm: "linf", "l2", "l1" or "l0", in any spelling.
        levels: Number of steps of the grid, 255 for 8 bits.

    Returns:
        The images (b, ...) on the grid.

    Raises:
        OptionError: The norm is unknown.

    Example:
        >>> import torch
        >>> from physadv.threat.norms import quantize_in_ball
        >>> quantize_in_ball(torch.tensor([[0.7]]), torch.tensor([[0.5]]), 0.25, "linf", 4).tolist()
        [[0.75]]
    """
    grid = torch.arange(levels + 1, dtype=torch.float64, device=x.device).div(levels).to(x.dtype)
    near = (x.double() * levels).round().long().clamp(0, levels)

    name = parse_norm(norm, sparse=True)
    if name == "l0":
        return torch.empty_like(x).copy_(grid[near])
    if name == "linf":
        low, high = linf_bounds(x0, eps)
        near = near + (grid[near] < low).long() - (grid[near] > high).long()
        stranded = (grid[near.clamp(0, levels)] < low) | (grid[near.clamp(0, levels)] > high)
        near = torch.where(stranded, (x0.double() * levels).round().long(), near)
        return torch.empty_like(x).copy_(grid[near.clamp(0, levels)])

    return _quantize_within_budget(x, x0, near, grid, eps, 2 if norm == "l2" else 1)


def _quantize_within_budget(
    x: Tensor, x0: Tensor, near: Tensor, grid: Tensor, eps: float, power: int
) -> Tensor:
    """Round every element towards ``x0``, then the cheapest to nearest while the ball has room."""
    clean = x0.double()
    clean_level = (clean * (len(grid) - 1)).round().long()
    beyond = (grid[near].double() - clean).abs() > (x.double() - clean).abs()
    inner = torch.where(beyond, near + torch.sign(clean_level - near), near)

    inner_cost = (grid[inner].double() - clean).abs() ** power
    cost = (grid[near].double() - clean).abs() ** power - inner_cost
    spent = inner_cost.flatten(1).sum(1, keepdim=True)
    ordered, order = cost.flatten(1).sort(1)
    fits = spent + ordered.cumsum(1) <= (eps * _SLACK) ** power
    chosen = torch.zeros_like(fits).scatter(1, order, fits).view(x.shape)
    return torch.empty_like(x).copy_(grid[torch.where(chosen, near, inner)])


def unit_noise(shape: torch.Size, norm: Norm, generator: torch.Generator) -> Tensor:
    """Draw a uniform point of the unit ball of a norm, on the CPU in float64.

    Args:
        shape: Shape of the point; the ball has as many dimensions as elements.
        norm: "linf", "l2" or "l1", in any spelling.
        generator: Random stream.

    Raises:
        OptionError: The norm is unknown.

    Example:
        >>> import torch
        >>> from physadv.threat.norms import unit_noise
        >>> noise = unit_noise(torch.Size([3, 2, 2]), "l2", torch.Generator().manual_seed(0))
        >>> float(noise.norm()) <= 1
        True
    """
    n = shape.numel()
    if parse_norm(norm) == "linf":
        return torch.rand(shape, dtype=torch.float64, generator=generator) * 2 - 1

    radius = torch.rand((), dtype=torch.float64, generator=generator) ** (1 / n)
    if norm == "l2":
        direction = torch.randn(shape, dtype=torch.float64, generator=generator)
        return direction / direction.square().sum().sqrt() * radius

    # Exponential magnitudes, divided by their sum, are uniform on the l_1 sphere.
    size = -torch.log1p(-torch.rand(shape, dtype=torch.float64, generator=generator))
    sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return size / size.sum() * sign * radius


def random_pixels(shape: torch.Size, count: int, generator: torch.Generator) -> Tensor:
    """Draw uniform values for ``count`` pixels drawn at random, on the CPU in float64.

    Args:
        shape: Shape of an image (c, ...), or (n,) where each number is a pixel.
        count: Number of pixels.
        generator: Random stream.

    Returns:
        The values in an image of ``shape``; NaN wherever no pixel was drawn.

    Example:
        >>> import torch
        >>> from physadv.threat.norms import random_pixels
        >>> image = random_pixels(torch.Size([3, 4, 4]), 2, torch.Generator().manual_seed(0))
        >>> int(image.isfinite().sum())
        6
    """
    values = torch.rand(shape, dtype=torch.float64, generator=generator)
    size = shape[1:].numel() if len(shape) > 1 else shape[0]
    drawn = torch.zeros(size, dtype=torch.bool)
    drawn[torch.randperm(size, generator=generator)[:count]] = True
    kept = drawn.view(shape[1:]) if len(shape) > 1 else drawn
    return torch.where(kept, values, torch.nan)
