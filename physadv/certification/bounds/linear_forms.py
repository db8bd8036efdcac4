"""Linear functionals ("forms") of a node's value, dense or cut to the windows they are nonzero in.

A form is a row of coefficients on the value of a node. For one neuron of a convolution all but a
window of them are zero, and away from the border the window is the same everywhere:
:class:`WindowForms` stores only that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.certification.bounds.input_ball import InputBall, box_minimum, flattened, form_values
from physadv.certification.bounds.layers import (
    AddLayer,
    AffineLayer,
    ChannelsLayer,
    ConcatLayer,
    ConvLayer,
    MaxLayer,
    RelaxedLayer,
    ScaleLayer,
)
from physadv.certification.bounds.relaxations import Box, MaxPlanes, Relaxation

Shape = tuple[int, ...]
_LARGEST_MATRIX = 1 << 19


class LinearForms(ABC):
    """k linear forms for each of b images on the value of one node."""

    @abstractmethod
    def back(self, layer: AffineLayer, shape: Shape) -> LinearForms:
        """Return the same functionals as forms on the input of affine ``layer``, of ``shape``,
        without its constant."""

    @abstractmethod
    def past(self, relaxed: Relaxation) -> tuple[LinearForms, Tensor]:
        """Return forms on a nonlinear layer's input and constants (b, k) that together bound these
        from below, by its relaxation."""

    @abstractmethod
    def part(self, dim: int, start: int, shape: Shape) -> LinearForms:
        """Return the forms on the piece of the value that begins at ``start`` along dimension
        ``dim`` of its shape, and is of ``shape``."""

    @abstractmethod
    def dot(self, value: Tensor) -> Tensor:
        """Return the forms' values (b, k) at ``value`` (1, *shape)."""

    @abstractmethod
    def minimum(self, ball: InputBall) -> Tensor:
        """Return lower bounds (b, k) over ``ball``."""

    @abstractmethod
    def box_minimum(self, box: Box) -> Tensor:
        """Return the exact least values (b, k) over ``box``."""

    @abstractmethod
    def plus(self, other: LinearForms) -> LinearForms:
        """Return the sum with ``other`` forms on the same value."""

    @abstractmethod
    def dense(self) -> DenseForms:
        """Return the forms with all their coefficients."""


@dataclass(frozen=True)
class DenseForms(LinearForms):
    """Forms (b, k, *shape) with every coefficient."""

    rows: Tensor

    def back(self, layer: AffineLayer, shape: Shape) -> DenseForms:
        """Return forms on the input of ``layer``, of ``shape``."""
        back = layer.transpose(self.rows.flatten(0, 1), shape)
        return DenseForms(back.reshape(*self.rows.shape[:2], *shape))

    def past(self, relaxed: Relaxation) -> tuple[DenseForms, Tensor]:
        """Return forms and constants before a layer: positive coefficients take the lower line or
        plane, negative ones the upper."""
        if isinstance(relaxed, MaxPlanes):
            return self._past_maxima(relaxed)
        negative, positive = self.rows.clamp_max(0), self.rows.clamp_min(0)
        constant = form_values(flattened(negative, 2), flattened(relaxed.upper_shift))
        if relaxed.lower_shift is not None:
            constant = constant + form_values(
                flattened(positive, 2), flattened(relaxed.lower_shift)
            )

        lower = relaxed.lower if relaxed.per_form else relaxed.lower[:, None]
        rows = torch.addcmul(negative * relaxed.upper[:, None], positive, lower)
        return DenseForms(rows), constant

    def _past_maxima(self, planes: MaxPlanes) -> tuple[DenseForms, Tensor]:
        # Forms may be shared by all images, and planes by all parts of one.
        batch = max(len(self.rows), len(planes.chosen))
        rows = flattened(self.rows, 2).expand(batch, -1, -1)
        negative, positive = rows.clamp_max(0), rows.clamp_min(0)
        constant = form_values(negative, planes.shift)
        if planes.lower_shift is not None:
            constant = constant + form_values(positive, planes.lower_shift)

        forms = rows.shape[1]
        flat = rows.new_zeros((batch, forms, int(torch.Size(planes.shape).numel())))
        chosen = planes.chosen[:, None].expand(batch, forms, -1)
        flat = flat.scatter_add(2, chosen, positive)
        above = (negative[..., None] * planes.slopes[:, None]).flatten(2)
        places = planes.index.flatten().expand(batch, forms, -1)
        flat = flat.scatter_add(2, places, above)
        return DenseForms(flat.view(batch, forms, *planes.shape)), constant

    def part(self, dim: int, start: int, shape: Shape) -> DenseForms:
        """Return the forms on a piece of the value."""
        return DenseForms(self.rows.narrow(dim + 2, start, shape[dim]))

    def dot(self, value: Tensor) -> Tensor:
        """Return the values (b, k) at ``value``."""
        return flattened(self.rows, 2) @ value.flatten()

    def minimum(self, ball: InputBall) -> Tensor:
        """Return lower bounds (b, k) over ``ball``."""
        return ball.minimum(self.rows)

    def box_minimum(self, box: Box) -> Tensor:
        """Return the least values (b, k) over ``box``."""
        return box_minimum(flattened(self.rows, 2), *box)

    def plus(self, other: LinearForms) -> DenseForms:
        """Return the sum with ``other``, dense."""
        return DenseForms(self.rows + other.dense().rows)

    def with_added(self, places: Tensor, numbers: Tensor) -> DenseForms:
        """Return the forms with ``numbers`` (b, k, n) added to their coefficients at ``places``
        (n,), in the flattened value."""
        flat = flattened(self.rows, 2).index_add(2, places, numbers)
        return DenseForms(flat.view(self.rows.shape))

    def dense(self) -> DenseForms:
        """Return the forms themselves."""
        return self


@dataclass(frozen=True)
class WindowForms(LinearForms):
    """Forms of the neurons at every position of a grid, cut to windows.

    The window of position (i, j) starts at row i stride - pad and column j stride - pad of the
    node.

    Attributes:
        cut: Coefficients (b, gh gw, k, c, w, w). The first two sizes may be 1: the same for all
            images, for all positions.
        grid: Rows and columns (gh, gw) of positions.
        shape: Shape (c, h, w) of the node's value.
        stride: Distance of neighboring windows, px.
        pad: Rows and columns by which the first window begins outside the node.
        clean: Whether coefficients outside the node, in the padding, are zero.
    """

    cut: Tensor
    grid: tuple[int, int]
    shape: Shape
    stride: int = 1
    pad: int = 0
    clean: bool = True

    @classmethod
    def neurons(cls, channels: Tensor, shape: Shape, like: Tensor) -> WindowForms:
        """Return the forms that read ``channels`` (k) at every position of a node of ``shape``;
        ``like`` gives type and device."""
        eye = torch.eye(shape[0], dtype=like.dtype, device=like.device)[channels]
        return cls(eye.view(1, 1, len(channels), shape[0], 1, 1), (shape[1], shape[2]), shape)

    def back(self, layer: AffineLayer, shape: Shape) -> LinearForms:
        """Return forms on the input of ``layer``, of ``shape``: still windows where the layer
        allows it."""
        if isinstance(layer, ScaleLayer):
            factor = layer.factor.expand(1, *self.shape)
            return (
                replace(self, cut=self.cut * self._windows(factor))
                if self.clean
                else self._cleaned().back(layer, shape)
            )
        if isinstance(layer, ChannelsLayer):
            size = (*self.cut.shape[:3], shape[0], *self.cut.shape[4:])
            cut = self.cut.new_zeros(size).index_add(3, layer.channels, self.cut)
            return replace(self, cut=cut, shape=shape)
        if not isinstance(layer, ConvLayer) or not keeps_windows(layer):
            return self.dense().back(layer, shape)
        cut = self._cleaned().cut
        wide = _widened(cut.flatten(0, 2), layer)
        stride, pad = self.stride * layer.stride[0], self.pad * layer.stride[0] + layer.padding[0]
        forms = WindowForms(
            wide.view(*cut.shape[:3], *wide.shape[1:]), self.grid, shape, stride, pad, clean=False
        )

        # Windows as large as the node save nothing.
        return forms.dense() if wide.shape[-1] ** 2 >= shape[1] * shape[2] else forms

    def past(self, relaxed: Relaxation) -> tuple[LinearForms, Tensor]:
        """Return forms and constants before a layer with lines ``relaxed``; lines are zero outside
        the node, and so clean the windows."""
        if isinstance(relaxed, MaxPlanes) or relaxed.per_form:
            return self.dense().past(relaxed)
        negative, positive = self.cut.clamp_max(0), self.cut.clamp_min(0)
        shift = self._windows(relaxed.upper_shift).flatten(2)
        constant = form_values(negative.flatten(3), shift)
        if relaxed.lower_shift is not None:
            shift = self._windows(relaxed.lower_shift).flatten(2)
            constant = constant + form_values(positive.flatten(3), shift)

        above = negative * self._windows(relaxed.upper)
        cut = torch.addcmul(above, positive, self._windows(relaxed.lower))
        return replace(self, cut=cut, clean=True), constant.flatten(1)

    def part(self, dim: int, start: int, shape: Shape) -> LinearForms:
        """Return the forms on a piece of the value: still windows where it is one of channels."""
        if dim != 0:
            return self.dense().part(dim, start, shape)
        return replace(self, cut=self.cut.narrow(3, start, shape[0]), shape=shape)

    def dot(self, value: Tensor) -> Tensor:
        """Return the values (b, k) at ``value``."""
        return form_values(self.cut.flatten(3), self._windows(value).flatten(2)).flatten(1)

    def minimum(self, ball: InputBall) -> Tensor:
        """Return lower bounds (b, k) over ``ball``."""
        if ball.norm == "linf":
            return self.box_minimum(ball.box())
        size = self._cleaned().cut.flatten(3).norm(dim=3)
        at_center = form_values(self.cut.flatten(3), self._windows(ball.center).flatten(2))
        least = (at_center - ball.eps * size).flatten(1)
        return least if ball.limits is None else torch.maximum(least, self.box_minimum(ball.box()))

    def box_minimum(self, box: Box) -> Tensor:
        """Return the least values (b, k) over ``box``."""
        middle = self._windows((box[0] + box[1]) / 2).flatten(2)
        radius = self._windows((box[1] - box[0]) / 2).flatten(2)
        cut = self.cut.flatten(3)
        return (form_values(cut, middle) - form_values(cut.abs(), radius)).flatten(1)

    def plus(self, other: LinearForms) -> LinearForms:
        """Return the sum with ``other``, as windows where strides agree and one window holds the
        other."""
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
        """Return all coefficients; rows are in the order (position, neuron)."""
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
        """Return the windows (b, positions, 1, c, w, w) of a value (b, c, h, w), zero outside."""
        size = self.cut.shape[-1]
        cut = F.unfold(F.pad(value, self._margins(1)), size, stride=self.stride).transpose(1, 2)
        return cut.reshape(len(value), -1, 1, value.shape[1], size, size)

    def _margins(self, sign: int) -> list[int]:
        """Return what to add (sign 1) to the node's borders to hold all windows: left, right, top,
        bottom."""
        size = self.cut.shape[-1]
        right, bottom = (
            (self.grid[axis] - 1) * self.stride + size - self.pad - self.shape[1 + axis]
            for axis in (1, 0)
        )
        return [sign * m for m in (self.pad, right, self.pad, bottom)]


def keeps_windows(layer: object) -> bool:
    """Return whether window forms stay windows across ``layer``."""
    if isinstance(layer, ConvLayer):
        square = layer.stride[0] == layer.stride[1] and layer.padding[0] == layer.padding[1]
        return (
            square and layer.dilation == (1, 1) and layer.weight.shape[2] == layer.weight.shape[3]
        )
    if isinstance(layer, ConcatLayer):
        return layer.dim == 0
    elementwise = isinstance(layer, RelaxedLayer) and not isinstance(layer, MaxLayer)
    return elementwise or isinstance(layer, ScaleLayer | AddLayer | ChannelsLayer)


def _widened(cuts: Tensor, layer: ConvLayer) -> Tensor:
    """Return the transposed convolution of many small windows (n, c, w, w).

    It is one matrix product where that is faster.
    """
    count, inner, outer = len(cuts), cuts[0].numel(), layer.weight.shape[1] * layer.groups
    side = (cuts.shape[-1] - 1) * layer.stride[0] + layer.weight.shape[2]
    if count < 4 * inner or inner * outer * side * side > _LARGEST_MATRIX:
        return F.conv_transpose2d(cuts, layer.weight, None, layer.stride, groups=layer.groups)

    eye = torch.eye(inner, dtype=cuts.dtype, device=cuts.device).view(inner, *cuts.shape[1:])
    matrix = F.conv_transpose2d(eye, layer.weight, None, layer.stride, groups=layer.groups)
    return (cuts.flatten(1) @ matrix.flatten(1)).view(count, outer, side, side)
