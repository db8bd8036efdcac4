"""Operations of ONNX on places, comparisons and norms of tensors, as exports of transformers and
detectors hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Settings = Mapping[str, Any]
MOST_NUMBERS = 1 << 28
"""Most numbers of a value that an operation makes of its settings."""


def check_size(shape: list[int]) -> None:
    """Raise ValueError for a ``shape`` of more than ``MOST_NUMBERS`` numbers."""
    if math.prod(max(side, 1) for side in shape) > MOST_NUMBERS:
        raise ValueError(f"an operation makes a value of shape {shape[:8]}")


def whole_numbers(value: Tensor | list[int] | None) -> list[int]:
    """Return whole numbers given as a tensor or a list; none where ``value`` is None."""
    if value is None:
        return []
    return [int(v) for v in (value.flatten().tolist() if isinstance(value, Tensor) else value)]


def _where(condition: Tensor, a: Tensor, b: Tensor, *, s: Settings) -> Tensor:
    return torch.where(condition.bool(), a, b)


def _tile(x: Tensor, repeats: Tensor, *, s: Settings) -> Tensor:
    counts = whole_numbers(repeats)
    check_size([side * count for side, count in zip(x.shape, counts, strict=True)])
    return x.repeat(counts)


def _range(start: Tensor, limit: Tensor, step: Tensor, *, s: Settings) -> Tensor:
    bounds = [value.flatten()[0].item() for value in (start, limit, step)]
    check_size([math.ceil(abs((bounds[1] - bounds[0]) / bounds[2]))])
    return torch.arange(*bounds, dtype=start.dtype)


def _gather_elements(x: Tensor, index: Tensor, *, s: Settings) -> Tensor:
    axis = s.get("axis", 0) % x.ndim
    return x.gather(axis, _wrapped(index, x.shape[axis]))


def _gather_nd(x: Tensor, index: Tensor, *, s: Settings) -> Tensor:
    if s.get("batch_dims", 0):
        raise ValueError("GatherND has batch dimensions")
    return x[tuple(index.long().movedim(-1, 0))]


def _scatter_nd(x: Tensor, index: Tensor, updates: Tensor, *, s: Settings) -> Tensor:
    if s.get("reduction", "none") != "none":
        raise ValueError("ScatterND reduces")
    return x.index_put(tuple(index.long().movedim(-1, 0)), updates.to(x.dtype))


def _scatter_elements(x: Tensor, index: Tensor, updates: Tensor, *, s: Settings) -> Tensor:
    if s.get("reduction", "none") != "none":
        raise ValueError("ScatterElements reduces")
    axis = s.get("axis", 0) % x.ndim
    return x.scatter(axis, _wrapped(index, x.shape[axis]), updates)


def _wrapped(index: Tensor, side: int) -> Tensor:
    """Indices counted from the front."""
    index = index.long()
    return torch.where(index < 0, index + side, index)


def _one_hot(index: Tensor, depth: Tensor, values: Tensor, *, s: Settings) -> Tensor:
    count = int(depth)
    check_size([*index.shape, count])
    chosen = F.one_hot(_wrapped(index, count), count).movedim(-1, s.get("axis", -1))
    return torch.where(chosen.bool(), values[1], values[0])


def _top_k(x: Tensor, count: Tensor, *, s: Settings) -> tuple[Tensor, Tensor]:
    found = x.topk(int(count), s.get("axis", -1), bool(s.get("largest", 1)))
    return found.values, found.indices


def _best_place(x: Tensor, *, s: Settings, largest: bool) -> Tensor:
    if s.get("select_last_index"):
        raise ValueError("ArgMax picks the last")
    function = torch.argmax if largest else torch.argmin
    return function(x, s.get("axis", 0), keepdim=bool(s.get("keepdims", 1)))


def _cumulative_sum(x: Tensor, axis: Tensor, *, s: Settings) -> Tensor:
    if s.get("exclusive") or s.get("reverse"):
        raise ValueError("CumSum is exclusive or reversed")
    return x.cumsum(int(axis))


def _modulo(a: Tensor, b: Tensor, *, s: Settings) -> Tensor:
    return torch.fmod(a, b) if s.get("fmod") else torch.remainder(a, b)


def _triangle(x: Tensor, k: Tensor | None = None, *, s: Settings) -> Tensor:
    diagonal = 0 if k is None else int(k)
    return x.triu(diagonal) if s.get("upper", 1) else x.tril(diagonal)


def _einsum(*values: Tensor, s: Settings) -> Tensor:
    return torch.einsum(s["equation"], *values)


def _layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None = None, *, s: Settings) -> Tensor:
    axis = s.get("axis", -1) % x.ndim
    return F.layer_norm(x, x.shape[axis:], scale, bias, s.get("epsilon", 1e-5))


def _rms_norm(x: Tensor, scale: Tensor, *, s: Settings) -> Tensor:
    axis = s.get("axis", -1) % x.ndim
    return F.rms_norm(x, x.shape[axis:], scale, s.get("epsilon", 1e-5))


def _group_norm(x: Tensor, scale: Tensor, bias: Tensor, *, s: Settings) -> Tensor:
    groups = s["num_groups"]
    if scale.numel() == groups:  # until opset 20, one a group
        scale, bias = (v.repeat_interleave(x.shape[1] // groups) for v in (scale, bias))
    return F.group_norm(x, groups, scale, bias, s.get("epsilon", 1e-5))


def _instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, s: Settings) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=s.get("epsilon", 1e-5))


def _local_response(x: Tensor, *, s: Settings) -> Tensor:
    return F.local_response_norm(
        x, s["size"], s.get("alpha", 1e-4), s.get("beta", 0.75), s.get("bias", 1.0)
    )


def _depth_to_space(x: Tensor, *, s: Settings) -> Tensor:
    side, (b, c, h, w) = s["blocksize"], x.shape
    if s.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, side)
    parts = x.reshape(b, side, side, c // side**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(b, c // side**2, h * side, w * side)


def _space_to_depth(x: Tensor, *, s: Settings) -> Tensor:
    side, (b, c, h, w) = s["blocksize"], x.shape
    parts = x.reshape(b, c, h // side, side, w // side, side).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(b, c * side**2, h // side, w // side)


def _grid_sample(x: Tensor, grid: Tensor, *, s: Settings) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(str(s.get("mode", "bilinear")))
    return F.grid_sample(
        x,
        grid,
        mode or str(s.get("mode", "bilinear")),
        s.get("padding_mode", "zeros"),
        bool(s.get("align_corners", 0)),
    )


def _norm(x: Tensor, axes: Tensor | None = None, *, s: Settings, order: int) -> Tensor:
    chosen = whole_numbers(s.get("axes") if axes is None else axes)
    dims = tuple(chosen) or tuple(range(x.ndim))
    size = x.abs().sum if order == 1 else (x * x).sum
    total = size(dims, keepdim=bool(s.get("keepdims", 1)))
    return total.sqrt() if order == 2 else total


TENSOR_OPERATIONS: dict[str, Any] = {
    "Where": _where,
    "Tile": _tile,
    "Range": _range,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "ScatterElements": _scatter_elements,
    "OneHot": _one_hot,
    "TopK": _top_k,
    "ArgMax": lambda x, s: _best_place(x, s=s, largest=True),
    "ArgMin": lambda x, s: _best_place(x, s=s, largest=False),
    "NonZero": lambda x, s: x.nonzero().t(),
    "CumSum": _cumulative_sum,
    "Mod": _modulo,
    "Trilu": _triangle,
    "Einsum": _einsum,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "GridSample": _grid_sample,
    "ReduceL1": lambda x, a=None, *, s: _norm(x, a, s=s, order=1),
    "ReduceL2": lambda x, a=None, *, s: _norm(x, a, s=s, order=2),
    "ReduceSumSquare": lambda x, a=None, *, s: _norm(x, a, s=s, order=0),
    "Equal": lambda a, b, s: a == b,
    "Greater": lambda a, b, s: a > b,
    "GreaterOrEqual": lambda a, b, s: a >= b,
    "Less": lambda a, b, s: a < b,
    "LessOrEqual": lambda a, b, s: a <= b,
    "And": lambda a, b, s: a.bool() & b.bool(),
    "Or": lambda a, b, s: a.bool() | b.bool(),
    "Xor": lambda a, b, s: a.bool() ^ b.bool(),
    "Not": lambda x, s: ~x.bool(),
    "IsNaN": lambda x, s: x.isnan(),
    "Size": lambda x, s: torch.tensor(x.numel()),
    "CastLike": lambda x, like, s: x.to(like.dtype),
    "Reciprocal": lambda x, s: 1 / x,
    "Floor": lambda x, s: x.floor(),
    "Ceil": lambda x, s: x.ceil(),
    "Round": lambda x, s: x.round(),
    "Sign": lambda x, s: x.sign(),
    "Sin": lambda x, s: x.sin(),
    "Cos": lambda x, s: x.cos(),
    "Atan": lambda x, s: x.atan(),
    "Mish": lambda x, s: F.mish(x),
    "Swish": lambda x, s: x * torch.sigmoid(s.get("alpha", 1.0) * x),
    "Selu": lambda x, s: F.selu(x),
    "Celu": lambda x, s: F.celu(x, s.get("alpha", 1.0)),
    "Softsign": lambda x, s: F.softsign(x),
}
