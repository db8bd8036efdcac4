"""The layers bounds can pass: affine maps, sums and ReLU. Each knows its value, its spread and its
transpose.

Shapes: a value is (b, *shape). A form is (m, *shape): m linear functionals of that value, one a
row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Layer(ABC):
    """One step of a net."""

    @abstractmethod
    def value(self, *inputs: Tensor) -> Tensor:
        """What the layer computes."""


class AffineLayer(Layer):
    """x -> W x + c."""

    @abstractmethod
    def spread(self, radius: Tensor) -> Tensor:
        """|W| radius: how far the output can move when each input number moves by at most ``radius`` (b,
        *shape)."""

    @abstractmethod
    def transpose(self, form: Tensor, shape: tuple[int, ...]) -> Tensor:
        """W^T applied to forms on the output (m, *out): forms on the input (m, *shape)."""

    def squared_spread(self, radius: Tensor) -> Tensor | None:
        """sqrt(W^2 radius^2): the exact spread over an ellipsoid with half axes ``radius``; None
        where not at hand."""
        return None

    def box(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest box of the layer's values over the box from ``lower`` to ``upper``."""
        middle, radius = self.value((lower + upper) / 2), self.spread((upper - lower) / 2)
        return middle - radius, middle + radius

    def constant(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """c, as (1, *out)."""
        return self.value(torch.zeros((1, *shape), dtype=like.dtype, device=like.device))


@dataclass(frozen=True)
class _Weighted(AffineLayer):
    """What has a matrix of weights and a bias (out) or None."""

    weight: Tensor
    bias: Tensor | None

    def _applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with another weight and bias."""
        raise NotImplementedError

    def box(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`AffineLayer`. Without gradients W / 2 and |W| / 2 are kept, which saves passes
        over the values."""
        if torch.is_grad_enabled():
            return super().box(lower, upper)
        half, positive = self._halves()
        middle = self._applied(lower + upper, half, self.bias)
        radius = self._applied(upper - lower, positive, None)
        return middle - radius, middle.add_(radius)

    def _halves(self) -> tuple[Tensor, Tensor]:
        """W / 2 and |W| / 2, made anew after the weights changed."""
        stamp = self.weight._version, self.weight.data_ptr()
        kept = self.__dict__.get("_kept")
        if kept is None or kept[0] != stamp or self.weight.requires_grad:
            kept = stamp, self.weight / 2, self.weight.abs() / 2
            object.__setattr__(self, "_kept", kept)
        return kept[1], kept[2]


@dataclass(frozen=True)
class LinearLayer(_Weighted):
    """weight (out, in), bias (out) or None."""

    def _applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return F.linear(inputs[0], self.weight, self.bias)

    def spread(self, radius: Tensor) -> Tensor:
        """See :class:`AffineLayer`."""
        return F.linear(radius, self.weight.abs())

    def squared_spread(self, radius: Tensor) -> Tensor | None:
        """See :class:`AffineLayer`."""
        return F.linear(radius.square(), self.weight.square()).clamp_min(0).sqrt()

    def transpose(self, form: Tensor, shape: tuple[int, ...]) -> Tensor:
        """See :class:`AffineLayer`."""
        return form @ self.weight


@dataclass(frozen=True)
class ConvLayer(_Weighted):
    """A 2-D convolution with zero padding: weight (out, in / groups, kh, kw), bias (out) or None."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return self._applied(inputs[0], self.weight, self.bias)

    def spread(self, radius: Tensor) -> Tensor:
        """See :class:`AffineLayer`."""
        return self._applied(radius, self.weight.abs(), None)

    def squared_spread(self, radius: Tensor) -> Tensor | None:
        """See :class:`AffineLayer`."""
        return self._applied(radius.square(), self.weight.square(), None).clamp_min(0).sqrt()

    def transpose(self, form: Tensor, shape: tuple[int, ...]) -> Tensor:
        """See :class:`AffineLayer`."""
        s, p, d = self.stride, self.padding, self.dilation
        kernel, out, size = self.weight.shape[2:], form.shape[2:], shape[1:]
        extra = [
            size[i] - ((out[i] - 1) * s[i] - 2 * p[i] + d[i] * (kernel[i] - 1) + 1) for i in (0, 1)
        ]
        return F.conv_transpose2d(form, self.weight, None, s, p, extra, self.groups, d)

    def _applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True)
class ScaleLayer(AffineLayer):
    """x -> factor x + shift, both broadcast against (1, *shape)."""

    factor: Tensor
    shift: Tensor

    @property
    def idle(self) -> bool:
        """Whether it changes nothing, and never will."""
        learned = self.factor.requires_grad or self.shift.requires_grad
        return not learned and bool((self.factor == 1).all()) and bool((self.shift == 0).all())

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return inputs[0] * self.factor + self.shift

    def spread(self, radius: Tensor) -> Tensor:
        """See :class:`AffineLayer`."""
        return radius * self.factor.abs()

    def transpose(self, form: Tensor, shape: tuple[int, ...]) -> Tensor:
        """See :class:`AffineLayer`."""
        return form * self.factor


@dataclass(frozen=True)
class BatchNormLayer(Layer):
    """Batch normalization with its stored statistics; folded into a Scale before bounds are
    computed."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return self.scale(inputs[0].ndim).value(inputs[0])

    def scale(self, ndim: int) -> ScaleLayer:
        """The same map as a factor and a shift for values of ``ndim`` dimensions, batch included."""
        factor = (self.var + self.eps).rsqrt()
        if self.weight is not None:
            factor = factor * self.weight
        shift = -self.mean * factor if self.bias is None else self.bias - self.mean * factor
        view = (1, -1, *[1] * (ndim - 2))
        return ScaleLayer(factor.view(view), shift.view(view))


@dataclass(frozen=True)
class NonnegativeMap(AffineLayer):
    """A linear map without negative weights and without constant: pooling, means, resizing,
    cropping, reordering.

    ``function`` takes (b, *in) and gives (b, *out) for any b.
    """

    function: Callable[[Tensor], Tensor]

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return self.function(inputs[0])

    def spread(self, radius: Tensor) -> Tensor:
        """See :class:`AffineLayer`."""
        return self.function(radius)

    def transpose(self, form: Tensor, shape: tuple[int, ...]) -> Tensor:
        """See :class:`AffineLayer`."""
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            at = torch.zeros(
                (len(form), *shape), dtype=form.dtype, device=form.device, requires_grad=True
            )
            (result,) = torch.autograd.grad(self.function(at), at, form, create_graph=learning)
        return result


@dataclass(frozen=True)
class ReshapeLayer(AffineLayer):
    """The same numbers in another shape (without the batch)."""

    shape: tuple[int, ...]

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return inputs[0].reshape(len(inputs[0]), *self.shape)

    def spread(self, radius: Tensor) -> Tensor:
        """See :class:`AffineLayer`."""
        return self.value(radius)

    def transpose(self, form: Tensor, shape: tuple[int, ...]) -> Tensor:
        """See :class:`AffineLayer`."""
        return form.reshape(len(form), *shape)


class AddLayer(Layer):
    """The sum of two values of one shape."""

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return inputs[0] + inputs[1]


class ReluLayer(Layer):
    """max(x, 0)."""

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return inputs[0].relu()


class InputLayer(Layer):
    """The images."""

    def value(self, *inputs: Tensor) -> Tensor:
        """See :class:`Layer`."""
        return inputs[0]


def merge_scale(first: Layer, then: ScaleLayer) -> Layer | None:
    """``then`` folded into the affine layer before it, where there is a way: one factor a channel,
    or two scales."""
    if isinstance(first, ScaleLayer):
        return ScaleLayer(first.factor * then.factor, first.shift * then.factor + then.shift)
    if not isinstance(first, LinearLayer | ConvLayer):
        return None
    outputs = first.weight.shape[0]
    factor, shift = (
        _per_channel(then.factor, first, outputs),
        _per_channel(then.shift, first, outputs),
    )
    if factor is None or shift is None:
        return None
    weight = first.weight * factor.view(-1, *[1] * (first.weight.ndim - 1))
    bias = shift if first.bias is None else first.bias * factor + shift
    if isinstance(first, LinearLayer):
        return LinearLayer(weight, bias)
    return ConvLayer(weight, bias, first.stride, first.padding, first.dilation, first.groups)


def _per_channel(numbers: Tensor, layer: LinearLayer | ConvLayer, outputs: int) -> Tensor | None:
    """(outputs,) from numbers that broadcast along the channel alone, else None."""
    if numbers.numel() == 1:
        return numbers.reshape(1).expand(outputs)
    trailing = 0 if isinstance(layer, LinearLayer) else 2
    shape = tuple(numbers.shape)
    kept = shape[: len(shape) - trailing]
    if numbers.numel() == outputs and kept and kept[-1] == outputs:
        return numbers.reshape(outputs)
    return None
