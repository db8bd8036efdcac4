"""Linear functionals of a value ("forms"), whole or cut to the windows they live in.

A form is a row of coefficients on the value of a node. For one neuron of a convolution all but a
window of them are zero, and away from the border the window is the same everywhere:
:class:`WindowForms` keeps no more than that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.certification.bounds.input_ball import InputBall, box_minimum
from physadv.certification.bounds.layers import (
    AddLayer,
    AffineLayer,
    ConvLayer,
    ReluLayer,
    ScaleLayer,
)

Box = tuple[Tensor, Tensor]
Shape = tuple[int, ...]
_LARGEST_MATRIX = 1 << 19


@dataclass(frozen=True)
class ReluLines:
    """A ReLU between two lines over its input's box: below x -> lower x, above x -> upper (x -
    least), (b, *shape).

    ``least`` is the lower end of the box where the ReLU is unstable and 0 elsewhere.
    """

    lower: Tensor
    upper: Tensor
    least: Tensor


def relu_lines(box: Box, *, parallel: bool = False) -> ReluLines:
    """The two lines of every ReLU over ``box``.

    The upper one is the chord. The lower one has slope 0 or 1, whichever leaves the smaller area
    (CROWN, Zhang et al. 2018), or the chord's slope with ``parallel`` (Wong and Kolter 2018; Weng
    et al. 2018).
    """
    low, high = box
    unstable = (low < 0) & (high > 0)
    chord = high / torch.where(unstable, high - low, torch.ones_like(high))
    stable = (low >= 0).to(low)
    upper = torch.where(unstable, chord, stable)
    lower = upper if parallel else torch.where(unstable, (high > -low).to(low), stable)
    return ReluLines(lower, upper, torch.where(unstable, low, torch.zeros_like(low)))


class LinearForms(ABC):
    """k forms for each of b images on the value of one node."""

    @abstractmethod
    def back(self, layer: AffineLayer, shape: Shape) -> LinearForms:
        """The same functionals as forms on the input, of ``shape``, of an affine layer (its
        constant apart)."""

    @abstractmethod
    def past(self, relu: ReluLines) -> tuple[LinearForms, Tensor]:
        """Forms on a ReLU's input and constants (b, k) that together are never larger."""

    @abstractmethod
    def dot(self, value: Tensor) -> Tensor:
        """The forms' values (b, k) at ``value`` (1, *shape)."""

    @abstractmethod
    def minimum(self, ball: InputBall) -> Tensor:
        """Lower bounds (b, k) over a ball of inputs."""

    @abstractmethod
    def box_minimum(self, box: Box) -> Tensor:
        """The least values (b, k) over a box."""

    @abstractmethod
    def plus(self, other: LinearForms) -> LinearForms:
        """The sum of two functionals on one value."""

    @abstractmethod
    def dense(self) -> DenseForms:
        """All coefficients."""


@dataclass(frozen=True)
class DenseForms(LinearForms):
    """Forms (b, k, *shape) with every coefficient."""

    rows: Tensor

    def back(self, layer: AffineLayer, shape: Shape) -> DenseForms:
        """See :class:`LinearForms`."""
        back = layer.transpose(self.rows.flatten(0, 1), shape)
        return DenseForms(back.reshape(*self.rows.shape[:2], *shape))

    def past(self, relu: ReluLines) -> tuple[DenseForms, Tensor]:
        """See :class:`LinearForms`."""
        above = self.rows.clamp_max(0) * relu.upper[:, None]
        constant = -_products(above.flatten(2), relu.least.flatten(1))
        return DenseForms(
            torch.addcmul(above, self.rows.clamp_min(0), relu.lower[:, None])
        ), constant

    def dot(self, value: Tensor) -> Tensor:
        """See :class:`LinearForms`."""
        return self.rows.flatten(2) @ value.flatten()

    def minimum(self, ball: InputBall) -> Tensor:
        """See :class:`LinearForms`."""
        return ball.minimum(self.rows)

    def box_minimum(self, box: Box) -> Tensor:
        """See :class:`LinearForms`."""
        return box_minimum(self.rows.flatten(2), *box)

    def plus(self, other: LinearForms) -> DenseForms:
        """See :class:`LinearForms`."""
        return DenseForms(self.rows + other.dense().rows)

    def dense(self) -> DenseForms:
        """See :class:`LinearForms`."""
        return self


@dataclass(frozen=True)
class WindowForms(LinearForms):
    """Forms of the neurons at every place of a ``grid`` (gh, gw), cut to windows: (b, gh gw, k, c,
    w, w).

    The window of place (i, j) starts at row i stride - pad and column j stride - pad of the node's
    ``shape`` (c, h, w). The first two sizes may be 1: the same for all images, for all places.
    ``clean`` says that coefficients outside the node, in the padding, are zero.
    """

    cut: Tensor
    grid: tuple[int, int]
    shape: Shape
    stride: int = 1
    pad: int = 0
    clean: bool = True

    @classmethod
    def neurons(cls, channels: Tensor, shape: Shape, like: Tensor) -> WindowForms:
        """The values of ``channels`` (k) at every place of a node of ``shape``; ``like`` gives type
        and device."""
        eye = torch.eye(shape[0], dtype=like.dtype, device=like.device)[channels]
        return cls(eye.view(1, 1, len(channels), shape[0], 1, 1), (shape[1], shape[2]), shape)

    def back(self, layer: AffineLayer, shape: Shape) -> LinearForms:
        """See :class:`LinearForms`."""
        if isinstance(layer, ScaleLayer):
            factor = layer.factor.expand(1, *self.shape)
            return (
                replace(self, cut=self.cut * self._windows(factor))
                if self.clean
                else self._cleaned().back(layer, shape)
            )
        if not isinstance(layer, ConvLayer) or not keeps_windows(layer):
            return self.dense().back(layer, shape)
        cut = self._cleaned().cut
        wide = _widened(cut.flatten(0, 2), layer)
        stride, pad = self.stride * layer.stride[0], self.pad * layer.stride[0] + layer.padding[0]
        found = WindowForms(
            wide.view(*cut.shape[:3], *wide.shape[1:]), self.grid, shape, stride, pad, clean=False
        )
        return found.dense() if wide.shape[-1] ** 2 >= shape[1] * shape[2] else found

    def past(self, relu: ReluLines) -> tuple[WindowForms, Tensor]:
        """See :class:`LinearForms`. Lines are zero outside the node, and so clean it."""
        above = self.cut.clamp_max(0) * self._windows(relu.upper)
        constant = -_products(above.flatten(3), self._windows(relu.least).flatten(2))
        cut = torch.addcmul(above, self.cut.clamp_min(0), self._windows(relu.lower))
        return replace(self, cut=cut, clean=True), constant.flatten(1)

    def dot(self, value: Tensor) -> Tensor:
        """See :class:`LinearForms`."""
        return _products(self.cut.flatten(3), self._windows(value).flatten(2)).flatten(1)

    def minimum(self, ball: InputBall) -> Tensor:
        """See :class:`LinearForms`."""
        if ball.norm == "linf":
            return self.box_minimum(ball.box())
        size = self._cleaned().cut.flatten(3).norm(dim=3)
        whole = (
            _products(self.cut.flatten(3), self._windows(ball.center).flatten(2)) - ball.eps * size
        ).flatten(1)
        return whole if ball.limits is None else torch.maximum(whole, self.box_minimum(ball.box()))

    def box_minimum(self, box: Box) -> Tensor:
        """See :class:`LinearForms`."""
        middle = self._windows((box[0] + box[1]) / 2).flatten(2)
        radius = self._windows((box[1] - box[0]) / 2).flatten(2)
        cut = self.cut.flatten(3)
        return (_products(cut, middle) - _products(cut.abs(), radius)).flatten(1)

    def plus(self, other: LinearForms) -> LinearForms:
        """See :class:`LinearForms`."""
        if not isinstance(other, WindowForms) or self.stride != other.stride:
            return self.dense().plus(other)
        small, large = sorted((self, other), key=lambda w: w.pad)
        before = large.pad - small.pad
        after = large.cut.shape[-1] - before - small.cut.shape[-1]
        if after < 0:
            return self.dense().plus(other)
        widened = F.pad(small._cleaned().cut, (before, after, before, after))
        return replace(large, cut=large.cut + widened)

    def dense(self) -> DenseForms:
        """See :class:`LinearForms`. Rows are in the order (place, neuron)."""
        clean = self._cleaned()
        rows, columns = self.grid
        batch, _, k, channels, size, _ = clean.cut.shape
        cut = clean.cut.expand(-1, rows * columns, -1, -1, -1, -1)
        height, width = ((n - 1) * self.stride + size for n in self.grid)
        whole = cut.new_zeros((batch, rows * columns, k, channels, height, width))
        for place in range(rows * columns):
            y, x = place // columns * self.stride, place % columns * self.stride
            whole[:, place, :, :, y : y + size, x : x + size] = cut[:, place]
        cropped = F.pad(whole.flatten(0, 2), self._margins(-1))
        return DenseForms(cropped.view(batch, -1, *self.shape))

    def _cleaned(self) -> WindowForms:
        if self.clean:
            return self
        if max(self._margins(1)) <= 0:  # no window reaches into the padding
            return replace(self, clean=True)
        inside = self.cut.new_ones((1, 1, *self.shape[1:]))
        return replace(self, cut=self.cut * self._windows(inside), clean=True)

    def _windows(self, value: Tensor) -> Tensor:
        """The windows (b, places, 1, c, w, w) of a value (b, c, h, w), zero outside."""
        size = self.cut.shape[-1]
        found = F.unfold(F.pad(value, self._margins(1)), size, stride=self.stride).transpose(1, 2)
        return found.reshape(len(value), -1, 1, value.shape[1], size, size)

    def _margins(self, sign: int) -> list[int]:
        """What is to be added (sign 1) to the node's borders to hold all windows: left, right, top,
        bottom."""
        size = self.cut.shape[-1]
        right, bottom = (
            (self.grid[axis] - 1) * self.stride + size - self.pad - self.shape[1 + axis]
            for axis in (1, 0)
        )
        return [sign * m for m in (self.pad, right, self.pad, bottom)]


def keeps_windows(layer: object) -> bool:
    """Whether windows stay windows across the layer."""
    if isinstance(layer, ConvLayer):
        square = layer.stride[0] == layer.stride[1] and layer.padding[0] == layer.padding[1]
        return (
            square and layer.dilation == (1, 1) and layer.weight.shape[2] == layer.weight.shape[3]
        )
    return isinstance(layer, ScaleLayer | ReluLayer | AddLayer)


def _widened(cuts: Tensor, layer: ConvLayer) -> Tensor:
    """The transposed convolution of many small windows (n, c, w, w), as one matrix product where
    that is faster."""
    count, inner, outer = len(cuts), cuts[0].numel(), layer.weight.shape[1] * layer.groups
    side = (cuts.shape[-1] - 1) * layer.stride[0] + layer.weight.shape[2]
    if count < 4 * inner or inner * outer * side * side > _LARGEST_MATRIX:
        return F.conv_transpose2d(cuts, layer.weight, None, layer.stride, groups=layer.groups)
    eye = torch.eye(inner, dtype=cuts.dtype, device=cuts.device).view(inner, *cuts.shape[1:])
    matrix = F.conv_transpose2d(eye, layer.weight, None, layer.stride, groups=layer.groups)
    return (cuts.flatten(1) @ matrix.flatten(1)).view(count, outer, side, side)


def _products(rows: Tensor, value: Tensor) -> Tensor:
    """(..., k, n) forms at (..., n) values: (..., k)."""
    return (rows @ value[..., None])[..., 0]
