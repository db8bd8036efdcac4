"""Operations of ONNX as functions of torch, those that classifiers are made of.

Each takes the values of its inputs (None where one is left out) and the settings of its node.
Values that depend on the image have the batch as their first dimension, of any size, whatever the
file was exported for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.models.onnx_tensors import TENSOR_OPERATIONS, check_size, whole_numbers

Settings = Mapping[str, Any]
Operation = Callable[..., Any]


_BOOL, _FLOATS = 9, (1, 10, 11, 16)
"""ONNX' numbers of types that Cast names."""


def _spatial(settings: Settings, x: Tensor, kernel: list[int]) -> tuple[list[int], ...]:
    """Return strides, dilations and padding (begins, then ends) of a convolution or pooling."""
    count = len(kernel)
    strides = settings.get("strides") or [1] * count
    dilations = settings.get("dilations") or [1] * count
    pads = list(settings.get("pads") or [0] * 2 * count)
    mode = settings.get("auto_pad", "NOTSET")
    if mode.startswith("SAME"):
        pads = [0] * 2 * count
        for i in range(count):
            size = x.shape[2 + i]
            reach = dilations[i] * (kernel[i] - 1) + 1
            total = max((-(-size // strides[i]) - 1) * strides[i] + reach - size, 0)
            before = total // 2 if mode == "SAME_UPPER" else total - total // 2
            pads[i], pads[count + i] = before, total - before
    check_size([x.shape[2 + i] + pads[i] + pads[count + i] for i in range(count)])
    return strides, dilations, pads


def _outer(pads: list[int]) -> list[int]:
    """Return padding in the order of torch: last dimension first, both of its sides."""
    count = len(pads) // 2
    return [pads[i + side * count] for i in reversed(range(count)) for side in (0, 1)]


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, s: Settings) -> Tensor:
    strides, dilations, pads = _spatial(s, x, list(weight.shape[2:]))
    count = len(strides)
    if pads[:count] != pads[count:]:
        x, pads = F.pad(x, _outer(pads)), [0] * 2 * count
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[count]
    groups = s.get("group", 1)
    return conv(x, weight, bias, tuple(strides), tuple(pads[:count]), tuple(dilations), groups)


def _conv_transpose(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, s: Settings
) -> Tensor:
    strides, dilations, pads = _spatial(s, x, list(weight.shape[2:]))
    count = len(strides)
    if pads[:count] != pads[count:] or count != 2 or "output_shape" in s:
        raise ValueError("a transposed convolution is padded unevenly or not of images")
    extra = s.get("output_padding") or [0] * count
    return F.conv_transpose2d(
        x, weight, bias, tuple(strides), tuple(pads[:2]), tuple(extra), s.get("group", 1), dilations
    )


def _pool(x: Tensor, *, s: Settings, largest: bool) -> Tensor:
    kernel = s["kernel_shape"]
    strides, dilations, pads = _spatial(s, x, kernel)
    count = len(kernel)
    if count != 2:
        raise ValueError("pooling is of images alone")
    ceil = bool(s.get("ceil_mode", 0))
    padding = tuple(pads[:count])
    narrow = all(2 * p <= k for p, k in zip(pads, kernel, strict=False))
    even = pads[:count] == pads[count:] and narrow
    if largest:
        if not even:
            x, padding = F.pad(x, _outer(pads), value=-torch.inf), (0, 0)
        return F.max_pool2d(x, tuple(kernel), tuple(strides), padding, tuple(dilations), ceil)
    inside = bool(s.get("count_include_pad", 0))
    if not even or any(d != 1 for d in dilations):
        if not inside or any(d != 1 for d in dilations):
            raise ValueError("average pooling is padded unevenly or dilated")
        x, padding = F.pad(x, _outer(pads)), (0, 0)
    return F.avg_pool2d(x, tuple(kernel), tuple(strides), padding, ceil, inside)


def _gemm(a: Tensor, b: Tensor, c: Tensor | None = None, *, s: Settings) -> Tensor:
    if s.get("transA"):
        raise ValueError("Gemm transposes its input, and so the batch")
    weight: Tensor = (b if s.get("transB") else b.t()) * float(s.get("alpha", 1.0))
    bias = None if c is None else c * float(s.get("beta", 1.0))
    if bias is not None and bias.numel() != weight.shape[0]:
        return F.linear(a, weight) + bias
    return F.linear(a, weight, None if bias is None else bias.reshape(-1))


def _matmul(a: Tensor, b: Tensor, *, s: Settings) -> Tensor:
    return F.linear(a, b.t()) if b.ndim == 2 else torch.matmul(a, b)


def _batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, s: Settings
) -> Tensor:
    if s.get("training_mode"):
        raise ValueError("batch normalization is in training mode")
    return F.batch_norm(x, mean, var, scale, bias, False, 0.1, s.get("epsilon", 1e-5))


def _reshape(x: Tensor, shape: Tensor | None = None, *, s: Settings) -> Tensor:
    sides = whole_numbers(s["shape"] if shape is None else shape)
    if not s.get("allowzero"):
        sides = [x.shape[i] if side == 0 else side for i, side in enumerate(sides)]
    check_size(sides)
    return x.reshape(sides)


def _flatten(x: Tensor, *, s: Settings) -> Tensor:
    axis = s.get("axis", 1) % (x.ndim + 1)
    if axis == 1:
        return x.flatten(1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _axes(x: Tensor, axes: Tensor | None, s: Settings) -> list[int]:
    return whole_numbers(s.get("axes") if axes is None else axes)


def _squeeze(x: Tensor, axes: Tensor | None = None, *, s: Settings) -> Tensor:
    chosen = [axis % x.ndim for axis in _axes(x, axes, s)]
    if not chosen:
        chosen = [i for i, side in enumerate(x.shape) if side == 1 and i]
    if any(x.shape[axis] != 1 for axis in chosen):
        raise ValueError("Squeeze drops a side that is not 1")
    return x.reshape([side for i, side in enumerate(x.shape) if i not in chosen])


def _unsqueeze(x: Tensor, axes: Tensor | None = None, *, s: Settings) -> Tensor:
    chosen = _axes(x, axes, s)
    ndim = x.ndim + len(chosen)
    sides = iter(x.shape)
    places = {axis % ndim for axis in chosen}
    return x.reshape([1 if i in places else next(sides) for i in range(ndim)])


def _transpose(x: Tensor, *, s: Settings) -> Tensor:
    return x.permute(s.get("perm") or list(reversed(range(x.ndim))))


def _slice(x: Tensor, *bounds: Tensor | None, s: Settings) -> Tensor:
    given = [whole_numbers(b) for b in bounds]
    starts, ends = given[:2] if len(given) > 1 else (s["starts"], s["ends"])
    axes = (given[2] if len(given) > 2 else s.get("axes")) or list(range(len(starts)))
    steps = (given[3] if len(given) > 3 else None) or [1] * len(starts)
    places: list[slice] = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis % x.ndim
        if step > 0:
            places[axis] = slice(start, end, step)
            continue
        # Backward: the same places of the side turned round, and beyond its end at the front.
        side = x.shape[axis]
        first = min(start + side if start < 0 else start, side - 1)
        last = max(end + side if end < 0 else end, -1)
        x = x.flip(axis)
        places[axis] = slice(side - 1 - first, side - 1 - last, -step)
    return x[tuple(places)]


def _gather(x: Tensor, index: Tensor, *, s: Settings) -> Tensor:
    axis = s.get("axis", 0) % max(x.ndim, 1)
    index = index.long()
    index = torch.where(index < 0, index + x.shape[axis], index)
    if index.ndim == 0:
        return x.select(axis, int(index))
    chosen = torch.index_select(x, axis, index.flatten().to(x.device))
    return chosen.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _split(x: Tensor, sizes: Tensor | None = None, *, s: Settings) -> tuple[Tensor, ...]:
    axis, lengths = s.get("axis", 0), whole_numbers(s.get("split") if sizes is None else sizes)
    if not lengths:
        count = s["num_outputs"]
        lengths = [-(-x.shape[axis] // count)] * (count - 1)
        lengths.append(x.shape[axis] - sum(lengths))
    return torch.split(x, lengths, axis)


def _pad(
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    s: Settings,
) -> Tensor:
    if axes is not None:
        raise ValueError("Pad names axes")
    amounts = whole_numbers(s.get("pads", s.get("paddings")) if pads is None else pads)
    count = len(amounts) // 2
    fill = float(value) if value is not None else float(s.get("value", 0.0))
    mode = str(s.get("mode", "constant"))
    mode = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    check_size([side + amounts[i] + amounts[count + i] for i, side in enumerate(x.shape)])
    if not any(amounts):
        return x
    if mode == "constant":
        return F.pad(x, _outer(amounts), value=fill)
    inner = amounts[2:count] + amounts[count + 2 :]
    if any(amounts[:2]) or any(amounts[count : count + 2]):
        raise ValueError("Pad repeats channels")
    return F.pad(x, _outer(inner), mode=mode)


def _reduce(x: Tensor, axes: Tensor | None = None, *, s: Settings, how: str) -> Tensor:
    chosen = [axis % x.ndim for axis in _axes(x, axes, s)] or list(range(x.ndim))
    kinds = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax, "min": torch.amin}
    function = kinds[how]
    return cast(Tensor, function(x, tuple(chosen), keepdim=bool(s.get("keepdims", 1))))  # type: ignore[operator]


def _clip(
    x: Tensor, low: Tensor | None = None, high: Tensor | None = None, *, s: Settings
) -> Tensor:
    least = s.get("min") if low is None else float(low)
    most = s.get("max") if high is None else float(high)
    return x if least is None and most is None else x.clamp(least, most)


def _cast(x: Tensor, *, s: Settings) -> Tensor:
    if s["to"] in _FLOATS:
        return x if x.is_floating_point() else x.float()
    return x.bool() if s["to"] == _BOOL else x.long()


def _softmax(x: Tensor, *, s: Settings, log: bool) -> Tensor:
    axis = s.get("axis", -1)
    return F.log_softmax(x, axis) if log else F.softmax(x, axis)


def _resize(x: Tensor, *inputs: Tensor | None, s: Settings) -> Tensor:
    # Upsample has (x, scales), or stated them; Resize has (x, roi, scales, sizes).
    scales = inputs[1] if len(inputs) > 1 else inputs[0] if inputs else None
    sizes = whole_numbers(inputs[2]) if len(inputs) > 2 else []
    if sizes == [] and scales is not None and scales.numel():
        sizes = [int(side * float(f)) for side, f in zip(x.shape, scales.flatten(), strict=True)]
    if len(sizes) != 4 or sizes[1] != x.shape[1]:
        raise ValueError("Resize is not of images alone")
    check_size(sizes)
    mode, where = s.get("mode", "nearest"), s.get("coordinate_transformation_mode", "half_pixel")
    factors = [new / old for new, old in zip(sizes[2:], x.shape[2:], strict=True)]
    if mode == "nearest":
        # Copies of whole pixels: all conventions agree where a side doubles, and most beyond.
        floors = s.get("nearest_mode", "round_prefer_floor") == "floor"
        copies = all(f in (1, 2) or (f.is_integer() and where == "half_pixel") for f in factors)
        if copies or (floors and where == "asymmetric"):
            return F.interpolate(x, sizes[2:], mode="nearest")
    smooth = {"linear": "bilinear", "cubic": "bicubic"}.get(mode)
    if smooth and not s.get("antialias") and s.get("cubic_coeff_a", -0.75) == -0.75:
        if where in ("half_pixel", "pytorch_half_pixel"):
            return F.interpolate(x, sizes[2:], mode=smooth, align_corners=False)
        if where == "align_corners":
            return F.interpolate(x, sizes[2:], mode=smooth, align_corners=True)
    raise ValueError(f"Resize is {mode}, {where}")


def _expand(x: Tensor, shape: Tensor, *, s: Settings) -> Tensor:
    wanted = whole_numbers(shape)
    own = [1] * (len(wanted) - x.ndim) + list(x.shape)
    sides = own[: len(own) - len(wanted)]
    sides += [max(a, b) for a, b in zip(own[len(sides) :], wanted, strict=True)]
    check_size(sides)
    return x.expand(sides)


def _filled(shape: Tensor, *, s: Settings) -> Tensor:
    sides = whole_numbers(shape)
    check_size(sides)
    value: Tensor = s.get("value", torch.zeros(1))
    return torch.zeros(sides, dtype=value.dtype) + value.flatten()[0]


def _shape(x: Tensor, *, s: Settings) -> Tensor:
    return torch.tensor(list(x.shape), dtype=torch.int64)[s.get("start", 0) : s.get("end")]


def _prelu(x: Tensor, slope: Tensor, *, s: Settings) -> Tensor:
    if slope.numel() not in (1, x.shape[1]):
        raise ValueError("PRelu has slopes by pixel")
    return F.prelu(x, slope.flatten())


def _extreme(*values: Tensor, s: Settings, largest: bool) -> Tensor:
    result = values[0]
    for value in values[1:]:
        result = torch.maximum(result, value) if largest else torch.minimum(result, value)
    return result


def _total(*values: Tensor, s: Settings) -> Tensor:
    result = values[0]
    for value in values[1:]:
        result = result + value
    return result


def _divided(a: Tensor, b: Tensor, *, s: Settings) -> Tensor:
    both_whole = not a.is_floating_point() and not b.is_floating_point()
    return torch.div(a, b, rounding_mode="trunc") if both_whole else a / b


OPERATIONS: dict[str, Operation] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "MaxPool": lambda x, s: _pool(x, s=s, largest=True),
    "AveragePool": lambda x, s: _pool(x, s=s, largest=False),
    "GlobalAveragePool": lambda x, s: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda x, s: x.amax(tuple(range(2, x.ndim)), keepdim=True),
    "Relu": lambda x, s: F.relu(x),
    "LeakyRelu": lambda x, s: F.leaky_relu(x, s.get("alpha", 0.01)),
    "PRelu": _prelu,
    "Elu": lambda x, s: F.elu(x, s.get("alpha", 1.0)),
    "Sigmoid": lambda x, s: torch.sigmoid(x),
    "HardSigmoid": lambda x, s: (x * s.get("alpha", 0.2) + s.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda x, s: F.hardswish(x),
    "Tanh": lambda x, s: torch.tanh(x),
    "Softplus": lambda x, s: F.softplus(x),
    "Gelu": lambda x, s: F.gelu(x, approximate=s.get("approximate", "none")),
    "Softmax": lambda x, s: _softmax(x, s=s, log=False),
    "LogSoftmax": lambda x, s: _softmax(x, s=s, log=True),
    "Clip": _clip,
    "Erf": lambda x, s: torch.erf(x),
    "Exp": lambda x, s: torch.exp(x),
    "Log": lambda x, s: torch.log(x),
    "Sqrt": lambda x, s: torch.sqrt(x),
    "Pow": lambda a, b, s: a**b,
    "Abs": lambda x, s: x.abs(),
    "Neg": lambda x, s: -x,
    "Add": lambda a, b, s: a + b,
    "Sub": lambda a, b, s: a - b,
    "Mul": lambda a, b, s: a * b,
    "Div": _divided,
    "Sum": _total,
    "Max": lambda *v, s: _extreme(*v, s=s, largest=True),
    "Min": lambda *v, s: _extreme(*v, s=s, largest=False),
    "ReduceMean": lambda x, a=None, *, s: _reduce(x, a, s=s, how="mean"),
    "ReduceSum": lambda x, a=None, *, s: _reduce(x, a, s=s, how="sum"),
    "ReduceMax": lambda x, a=None, *, s: _reduce(x, a, s=s, how="max"),
    "ReduceMin": lambda x, a=None, *, s: _reduce(x, a, s=s, how="min"),
    "Concat": lambda *v, s: torch.cat(v, s["axis"]),
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Expand": _expand,
    "Resize": _resize,
    "Upsample": _resize,
    "Identity": lambda x, s: x,
    "Dropout": lambda x, *rest, s: x,
    "Cast": _cast,
    "Shape": _shape,
    "ConstantOfShape": _filled,
    **TENSOR_OPERATIONS,
}
