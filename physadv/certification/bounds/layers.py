"""Layers that bounds can pass: affine maps, sums, concatenation, ReLU and maxima.

Each has its value, its spread over a box, and its transpose. A value is (b, *shape). A form is (m,
*shape): m linear functionals of that value, one a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.certification.bounds.input_ball import channels_last, flattened
from physadv.certification.bounds.relaxations import Box, Relaxation, max_planes, relu_lines

Pair = tuple[int, int]


@dataclass(frozen=True)
class Layer(ABC):
    """One step of a network."""

    @abstractmethod
    def value(self, *inputs: Tensor) -> Tensor:
        """Return the layer's value at ``inputs``, each (b, *shape)."""


class RelaxedLayer(Layer):
    """A nonlinear layer, which bounds pass by a linear relaxation over the box of its input."""

    @abstractmethod
    def value_range(self, lower: Tensor, upper: Tensor) -> Box:
        """Return the smallest box of the layer's values over the box from ``lower`` to
        ``upper``."""

    def middle_range(self, middle: Tensor, radius: Tensor, *, own: bool = False) -> Box | None:
        """Return middle and radius of that box over the box of ``middle`` and ``radius``; None
        where there is no faster way than by its ends. With ``own`` both may be overwritten."""
        return None

    @abstractmethod
    def undecided(self, box: Box) -> Tensor:
        """Return (b, *shape) bool: the inputs whose smaller box would make the relaxation
        tighter."""

    @abstractmethod
    def relax(self, box: Box, *, parallel: bool = False) -> Relaxation:
        """Return the relaxation over ``box``; ``parallel`` asks for two lines of one slope."""


class AffineLayer(Layer):
    """An affine map x -> W x + c."""

    @property
    def keeps_axes(self) -> bool:
        """Whether each output reads one input, and no input is read twice: the axes of an ellipsoid
        stay axes."""
        return False

    @abstractmethod
    def spread(self, radius: Tensor) -> Tensor:
        """Return |W| ``radius``, the largest change of the output when each input changes by up to
        ``radius`` (b, *shape)."""

    @abstractmethod
    def transpose(self, form: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return W^T applied to ``form`` (m, *out): forms (m, *shape) on the input, of
        ``shape``."""

    def squared_spread(self, radius: Tensor) -> Tensor | None:
        """Return sqrt(W^2 radius^2), the exact spread over an ellipsoid with half axes ``radius``;
        None where it is not implemented."""
        return None

    def constant(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return c as (1, *out), for inputs of ``shape`` and the type and device of ``like``."""
        return self.value(torch.zeros((1, *shape), dtype=like.dtype, device=like.device))


@dataclass(frozen=True)
class _Weighted(AffineLayer):
    """An affine layer with a weight matrix or kernel and a bias (out) or None."""

    weight: Tensor
    bias: Tensor | None

    def _magnitudes(self) -> Tensor:
        """Return |W|; without gradients it is kept."""
        return self.weight.abs() if torch.is_grad_enabled() else self._kept("abs", Tensor.abs)

    def _kept(self, name: str, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what ``make`` makes of the weight, kept under ``name`` until the weight
        changes."""
        return _kept(self, name, self.weight, make)


@dataclass(frozen=True)
class LinearLayer(_Weighted):
    """A fully connected layer: weight (out, in), bias (out) or None."""

    def value(self, *inputs: Tensor) -> Tensor:
        """Return W x + c."""
        return F.linear(inputs[0], self.weight, self.bias)

    def constant(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return c as (1, *out)."""
        if self.bias is None or len(shape) != 1:
            return super().constant(like, shape)
        return self.bias[None]

    def spread(self, radius: Tensor) -> Tensor:
        """Return |W| ``radius``."""
        return F.linear(radius, self._magnitudes())

    def map_range(self, middle: Tensor, radius: Tensor) -> Box:
        """Return value and spread of flattened maps (b, c, h, w) whose channels lie side by side in
        memory, which need not be copied for it."""
        _, channels, height, width = middle.shape

        def reordered(weight: Tensor) -> Tensor:
            maps = weight.view(-1, channels, height, width)
            return maps.permute(0, 2, 3, 1).reshape(len(weight), -1)

        center, spread = (x.permute(0, 2, 3, 1).reshape(len(x), -1) for x in (middle, radius))
        weight = self._kept("side by side", reordered)
        magnitudes = self._kept("abs side by side", lambda weight: reordered(weight.abs()))
        return F.linear(center, weight, self.bias), F.linear(spread, magnitudes)

    def squared_spread(self, radius: Tensor) -> Tensor | None:
        """Return the exact spread over an ellipsoid with half axes ``radius``."""
        return F.linear(radius.square(), self.weight.square()).clamp_min(0).sqrt()

    def transpose(self, form: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return ``form`` W, forms of ``shape`` on the input."""
        return form @ self.weight


@dataclass(frozen=True)
class ConvLayer(_Weighted):
    """A 2-D convolution with zero padding: weight (out, in / groups, kh, kw), bias (out) or
    None."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    def value(self, *inputs: Tensor) -> Tensor:
        """Return the convolution of the input."""
        weight = self.weight
        if not torch.is_grad_enabled() and is_channels_last(inputs[0]):
            weight = self._kept("channels last", channels_last)
        return self._applied(inputs[0], weight, self.bias)

    def spread(self, radius: Tensor) -> Tensor:
        """Return the convolution of ``radius`` with |W|."""
        if torch.is_grad_enabled() or not is_channels_last(radius):
            return self._applied(radius, self._magnitudes(), None)
        weight = self._kept("channels last abs", lambda weight: channels_last(weight.abs()))
        return self._applied(radius, weight, None)

    def squared_spread(self, radius: Tensor) -> Tensor | None:
        """Return the exact spread over an ellipsoid with half axes ``radius``."""
        return self._applied(radius.square(), self.weight.square(), None).clamp_min(0).sqrt()

    def transpose(self, form: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the transposed convolution of ``form``, forms of ``shape`` on the input."""
        s, p, d = self.stride, self.padding, self.dilation
        kernel, out, size = self.weight.shape[2:], form.shape[2:], shape[1:]

        # Rows and columns that the last stride did not reach get zeros.
        extra = [
            size[i] - ((out[i] - 1) * s[i] - 2 * p[i] + d[i] * (kernel[i] - 1) + 1) for i in (0, 1)
        ]
        return F.conv_transpose2d(form, self.weight, None, s, p, extra, self.groups, d)

    def _applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True)
class ScaleLayer(AffineLayer):
    """An elementwise map x -> factor x + shift, both broadcast against (1, *shape)."""

    factor: Tensor
    shift: Tensor

    @property
    def keeps_axes(self) -> bool:
        """Whether the axes of an ellipsoid stay axes: always."""
        return True

    @property
    def is_identity(self) -> bool:
        """Whether the layer changes nothing, and has no parameters that training could change."""
        learned = self.factor.requires_grad or self.shift.requires_grad
        return not learned and bool((self.factor == 1).all()) and bool((self.shift == 0).all())

    def value(self, *inputs: Tensor) -> Tensor:
        """Return factor x + shift."""
        if torch.is_grad_enabled():
            return torch.addcmul(self.shift, inputs[0], self.factor)
        x = inputs[0]
        return torch.addcmul(self._map("shift", x), x, self._map("factor", x))

    def spread(self, radius: Tensor) -> Tensor:
        """Return ``radius`` times |factor|."""
        return radius * self.factor.abs()

    def overwritten(self, middle: Tensor, radius: Tensor) -> Box:
        """Return value and spread in the memory of ``middle`` and ``radius``, of the output's
        shape."""
        middle.mul_(self._map("factor", middle)).add_(self._map("shift", middle))
        return middle, radius.mul_(self._map("size", radius))

    def _map(self, name: str, like: Tensor) -> Tensor:
        """Return "factor", "shift" or "size", the factor's magnitude, as a whole map in the memory
        format of ``like``: single numbers and few channels that lie side by side broadcast up to
        15 times slower."""
        is_last = is_channels_last(like)

        def spread_out(numbers: Tensor) -> Tensor:
            numbers = numbers.abs() if name == "size" else numbers
            whole = numbers + like.new_zeros((1, *like.shape[1:]))
            return channels_last(whole) if is_last else whole.contiguous()

        source = self.shift if name == "shift" else self.factor
        return _kept(self, f"{name} {tuple(like.shape[1:])} {is_last}", source, spread_out)

    def transpose(self, form: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return ``form`` times the factor; ``shape`` stays."""
        return form * self.factor


@dataclass(frozen=True)
class BatchNormLayer(Layer):
    """Batch normalization with its stored statistics; turned into a ScaleLayer before bounds are
    computed."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def value(self, *inputs: Tensor) -> Tensor:
        """Return the normalized input."""
        return self.scale(inputs[0].ndim).value(inputs[0])

    def scale(self, ndim: int) -> ScaleLayer:
        """Return the same map as a factor and a shift for values of ``ndim`` dimensions, batch
        included."""
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

    ``function`` maps (b, *in) to (b, *out) for any b.
    """

    function: Callable[[Tensor], Tensor]

    def value(self, *inputs: Tensor) -> Tensor:
        """Return the map of the input."""
        return self.function(inputs[0])

    def spread(self, radius: Tensor) -> Tensor:
        """Return the map of ``radius``, as no weight is negative."""
        return self.function(radius)

    def transpose(self, form: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the map's gradient along ``form`` at an input of ``shape``; for a linear map this
        is W^T form."""
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            at = torch.zeros(
                (len(form), *shape), dtype=form.dtype, device=form.device, requires_grad=True
            )
            (result,) = torch.autograd.grad(self.function(at), at, form, create_graph=learning)
        return result


@dataclass(frozen=True)
class ReshapeLayer(AffineLayer):
    """A change of ``shape`` (without the batch) that keeps the numbers and their order."""

    shape: tuple[int, ...]

    @property
    def keeps_axes(self) -> bool:
        """Whether the axes of an ellipsoid stay axes: always."""
        return True

    def value(self, *inputs: Tensor) -> Tensor:
        """Return the input in the layer's shape."""
        return inputs[0].reshape(len(inputs[0]), *self.shape)

    def spread(self, radius: Tensor) -> Tensor:
        """Return ``radius`` in the layer's shape."""
        return self.value(radius)

    def transpose(self, form: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return ``form`` in the input's ``shape``."""
        return form.reshape(len(form), *shape)


@dataclass(frozen=True)
class GatherLayer(AffineLayer):
    """A choice of inputs, each any number of times, as in reflect padding or a mirrored image.

    Attributes:
        index: Places (n,) in the flattened input.
        shape: Shape of the output, without the batch, of n numbers.
    """

    index: Tensor
    shape: tuple[int, ...]

    @cached_property
    def keeps_axes(self) -> bool:
        """Whether no input is chosen twice."""
        return _are_unique(self.index)

    def value(self, *inputs: Tensor) -> Tensor:
        """Return the chosen inputs."""
        return flattened(inputs[0])[:, self.index].view(-1, *self.shape)

    def spread(self, radius: Tensor) -> Tensor:
        """Return the chosen ``radius``."""
        return self.value(radius)

    def transpose(self, form: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the sums of ``form`` over the copies of each input of ``shape``."""
        flat = form.new_zeros((len(form), int(torch.Size(shape).numel())))
        return flat.index_add(1, self.index, flattened(form)).view(-1, *shape)


@dataclass(frozen=True)
class ChannelsLayer(AffineLayer):
    """A choice of channels, each any number of times, as from red, green, blue to blue, green, red.

    Attributes:
        channels: Numbers (k,) of the channels of the input.
    """

    channels: Tensor

    @cached_property
    def keeps_axes(self) -> bool:
        """Whether no channel is chosen twice."""
        return _are_unique(self.channels)

    def value(self, *inputs: Tensor) -> Tensor:
        """Return the chosen channels."""
        return inputs[0].index_select(1, self.channels)

    def spread(self, radius: Tensor) -> Tensor:
        """Return the chosen channels of ``radius``."""
        return self.value(radius)

    def transpose(self, form: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the sums of ``form`` over the copies of each channel of ``shape``."""
        whole = form.new_zeros((len(form), *shape))
        return whole.index_add(1, self.channels, form)


class AddLayer(Layer):
    """The sum of two values of one shape."""

    def value(self, *inputs: Tensor) -> Tensor:
        """Return the sum of both inputs."""
        return inputs[0] + inputs[1]


class ReluLayer(RelaxedLayer):
    """The rectifier max(x, 0)."""

    def value(self, *inputs: Tensor) -> Tensor:
        """Return the positive part of the input."""
        return inputs[0].relu()

    def value_range(self, lower: Tensor, upper: Tensor) -> Box:
        """Return the positive parts of both ends."""
        return lower.relu(), upper.relu()

    def middle_range(self, middle: Tensor, radius: Tensor, *, own: bool = False) -> Box:
        """Return middle and radius of the positive parts of a box, in three passes.

        The new radius is 0 where the box lies below zero, half its upper end where it straddles
        zero, and the old one above; the new middle is the radius or the old middle.
        """
        if own:
            return self._overwritten(middle, radius)
        zero = radius.new_zeros(())
        narrowed = torch.lerp(middle, radius, 0.5).clamp_(zero, radius)
        return torch.maximum(narrowed, middle), narrowed

    def _overwritten(self, middle: Tensor, radius: Tensor) -> Box:
        half = middle.lerp_(radius, 0.5).clamp_(min=0)
        torch.minimum(radius, half, out=radius)
        return torch.lerp(radius, half, 2.0, out=half), radius

    def undecided(self, box: Box) -> Tensor:
        """Return which inputs straddle zero."""
        return (box[0] < 0) & (box[1] > 0)

    def relax(self, box: Box, *, parallel: bool = False) -> Relaxation:
        """Return the chord and a line below."""
        return relu_lines(box, parallel=parallel)


@dataclass(frozen=True)
class MaxLayer(RelaxedLayer):
    """The maxima of groups of inputs, as in max pooling.

    Attributes:
        index: Places (n, k) of the members of each group in the flattened input; smaller groups
            repeat a member.
        shape: Shape of the n maxima, without the batch.
    """

    index: Tensor
    shape: tuple[int, ...]

    def value(self, *inputs: Tensor) -> Tensor:
        """Return the maximum of each group."""
        return flattened(inputs[0])[:, self.index].amax(-1).view(-1, *self.shape)

    def value_range(self, lower: Tensor, upper: Tensor) -> Box:
        """Return the maxima of both ends."""
        return self.value(lower), self.value(upper)

    def undecided(self, box: Box) -> Tensor:
        """Return which inputs are in a group without a sure winner, and may win."""
        low, high = (flattened(end)[:, self.index] for end in box)
        best = low.max(-1)
        winner = self.index.expand(len(low), -1, -1).gather(2, best.indices[..., None])
        rivals = (high > best.values[..., None]) & (self.index != winner)
        is_open = rivals.any(-1, keepdim=True)
        members = (rivals | (self.index == winner)) & is_open

        flat = self.index.flatten().expand(len(low), -1)
        counts = torch.zeros_like(flattened(box[0]))
        counts = counts.scatter_add(1, flat, members.flatten(1).to(counts))
        return (counts > 0).view_as(box[0])

    def relax(self, box: Box, *, parallel: bool = False) -> Relaxation:
        """Return a plane above and one below; there are none of one slope."""
        return max_planes(box, self.index)


@dataclass(frozen=True)
class ConcatLayer(Layer):
    """The concatenation of two or more values along ``dim`` of their shapes, batch not counted."""

    dim: int

    def value(self, *inputs: Tensor) -> Tensor:
        """Return the inputs, one after the other."""
        return torch.cat(inputs, self.dim + 1)


class InputLayer(Layer):
    """The images themselves."""

    def value(self, *inputs: Tensor) -> Tensor:
        """Return the images."""
        return inputs[0]


def _are_unique(numbers: Tensor) -> bool:
    ordered = numbers.sort().values
    return bool((ordered[1:] > ordered[:-1]).all())


def merge_scale(first: Layer, then: ScaleLayer) -> Layer | None:
    """Merge a scale into the affine layer before it, where one factor a channel allows it.

    Args:
        first: Layer whose value the scale reads.
        then: Scale to merge.

    Returns:
        One layer for both; None where they cannot be merged.
    """
    if isinstance(first, ScaleLayer):
        return ScaleLayer(first.factor * then.factor, first.shift * then.factor + then.shift)
    if not isinstance(first, LinearLayer | ConvLayer):
        return None

    outputs = first.weight.shape[0]
    factor = _per_channel(then.factor, first, outputs)
    shift = _per_channel(then.shift, first, outputs)
    if factor is None or shift is None:
        return None
    weight = first.weight * factor.view(-1, *[1] * (first.weight.ndim - 1))
    bias = shift if first.bias is None else first.bias * factor + shift
    if isinstance(first, LinearLayer):
        return LinearLayer(weight, bias)
    return ConvLayer(weight, bias, first.stride, first.padding, first.dilation, first.groups)


def _per_channel(numbers: Tensor, layer: LinearLayer | ConvLayer, outputs: int) -> Tensor | None:
    """Return (outputs,) from numbers that broadcast along the channel alone, else None."""
    if numbers.numel() == 1:
        return numbers.reshape(1).expand(outputs)
    trailing = 0 if isinstance(layer, LinearLayer) else 2
    shape = tuple(numbers.shape)
    kept = shape[: len(shape) - trailing]
    if numbers.numel() == outputs and kept and kept[-1] == outputs:
        return numbers.reshape(outputs)
    return None


def _kept(layer: Layer, name: str, source: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what ``make`` makes of ``source``, kept in ``layer`` under ``name`` until the source
    changes."""
    stamp = source._version, source.data_ptr()
    kept: dict[str, tuple[object, Tensor]] = layer.__dict__.setdefault("_made", {})
    made = kept.get(name)
    if made is None or made[0] != stamp:
        made = kept[name] = stamp, make(source)
    return made[1]


def is_channels_last(x: Tensor) -> bool:
    """Return whether the channels of ``x`` lie side by side. The strides alone tell it for a single
    channel, as :func:`~physadv.certification.bounds.input_ball.channels_last` sets them."""
    return x.ndim == 4 and x.stride(1) == 1 and x.is_contiguous(memory_format=torch.channels_last)
