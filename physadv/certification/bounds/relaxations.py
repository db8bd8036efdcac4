"""Linear relaxations of nonlinear layers: two lines an element, or two planes a maximum.

Any relaxation that encloses its function over a box gives a sound bound, whatever its slopes; the
slopes decide how tight it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.certification.bounds.input_ball import flattened

Box = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Lines:
    """Two lines that enclose an elementwise function f over its input's box:
    lower x + lower_shift <= f(x) <= upper x + upper_shift.

    Attributes:
        lower: Slopes (b, *shape) of the lower lines; (b, k, *shape) with ``per_form``.
        upper: Slopes (b, *shape) of the upper lines.
        upper_shift: Values (b, *shape) of the upper lines at 0.
        lower_shift: Values (b, *shape) of the lower lines at 0; None stands for 0.
        per_form: Whether each of the k forms has lower slopes of its own.
    """

    lower: Tensor
    upper: Tensor
    upper_shift: Tensor
    lower_shift: Tensor | None = None
    per_form: bool = False


@dataclass(frozen=True)
class MaxPlanes:
    """Two planes that enclose each maximum of k numbers over their box.

    The lower plane is one of the numbers, ``chosen``, plus ``lower_shift``; the upper one is the
    sum of ``slopes`` times the numbers, plus ``shift``.

    Attributes:
        index: Places (n, k) of the numbers of each maximum in the flattened input.
        shape: Shape of the input, without the batch.
        chosen: Places (b, n) in the flattened input.
        slopes: Slopes (b, n, k), none negative.
        shift: Shifts (b, n) of the upper planes.
        lower_shift: Shifts (b, n) of the lower planes; None stands for 0.
    """

    index: Tensor
    shape: tuple[int, ...]
    chosen: Tensor
    slopes: Tensor
    shift: Tensor
    lower_shift: Tensor | None = None


Relaxation = Lines | MaxPlanes


def relu_lines(box: Box, *, parallel: bool = False) -> Lines:
    """Return the two lines of every ReLU over ``box``.

    The upper line is the chord. The lower one has slope 0 or 1, whichever leaves the smaller area
    (CROWN, Zhang et al. 2018), or the chord's slope with ``parallel`` (Wong and Kolter 2018; Weng
    et al. 2018).

    Args:
        box: Lower and upper ends (b, *shape) of the input.
        parallel: Whether the lower line has the chord's slope.
    """
    low, high = box
    unstable = (low < 0) & (high > 0)
    chord = high / torch.where(unstable, high - low, torch.ones_like(high))
    stable = (low >= 0).to(low)

    upper = torch.where(unstable, chord, stable)
    lower = upper if parallel else torch.where(unstable, (high > -low).to(low), stable)
    return Lines(lower, upper, torch.where(unstable, -upper * low, torch.zeros_like(low)))


def max_planes(box: Box, index: Tensor) -> MaxPlanes:
    """Return the two planes of every maximum over ``box``.

    With l and u the ends of the box and any g >= max l, the sum over i of a_i (x_i - l_i) plus g is
    no less than the maximum, for a_i = (u_i - g)+ / (u_i - l_i): the term of the largest x_i alone
    reaches it, as a line through (l_i, g) and (u_i, u_i), and no term is negative (Boopathy et al.
    2019). Here g is the third largest u, or max l if that is more, which is least at the center.

    Args:
        box: Lower and upper ends (b, *shape) of the input.
        index: Places (n, k) of the numbers of each maximum in the flattened input.
    """
    low, high = (flattened(end)[:, index] for end in box)
    largest = low.max(-1)
    third = high.topk(min(3, high.shape[-1]), -1).values[..., -1]
    if high.shape[-1] < 3:
        third = largest.values
    base = torch.maximum(largest.values, third)[..., None]

    wide = high > low
    slopes = (high - base).clamp_min(0) / torch.where(wide, high - low, torch.ones_like(high))
    slopes = torch.where(wide, slopes, torch.zeros_like(slopes))
    shift = base[..., 0] - (slopes * low).sum(-1)

    # Where one number is at least all others, it is the maximum; copies of it are no rivals.
    chosen = index.expand(len(low), -1, -1).gather(2, largest.indices[..., None])
    rivals = index != chosen
    most = torch.where(rivals, high, torch.full_like(high, -torch.inf)).amax(-1)
    decided = most <= largest.values
    only = torch.zeros_like(slopes).scatter(-1, largest.indices[..., None], 1.0)
    slopes = torch.where(decided[..., None], only, slopes)
    shift = torch.where(decided, torch.zeros_like(shift), shift)
    return MaxPlanes(index, tuple(box[0].shape[1:]), chosen[..., 0], slopes, shift)
