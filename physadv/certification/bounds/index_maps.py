"""Places of a value's numbers: which of them padding, a reordering or a pooling reads."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]
Shape = tuple[int, ...]


def numbered(value: Tensor) -> Tensor:
    """Return (1, *shape) the place of every number of one image in ``value`` (b, *shape), as
    float64."""
    count = value[0].numel()
    places = torch.arange(count, dtype=torch.float64, device=value.device)
    return places.view(1, *value.shape[1:])


def chosen_places(value: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Return (n,) the places in one image that each output of a reordering reads.

    Args:
        value: Value (b, *shape) of b >= 2 images that is reordered.
        function: Function of the value, such as a flip.

    Returns:
        Places in the flattened value of one image; None where the function is no choice of numbers
        that is the same for all images, each from its own.

    Example:
        >>> from physadv.certification.bounds.index_maps import chosen_places
        >>> chosen_places(torch.zeros(2, 3, 1, 1), lambda x: x.flip(1))
        tensor([2, 1, 0])
        >>> chosen_places(torch.zeros(2, 3, 1, 1), lambda x: x.flip(0)) is None
        True
    """
    count = value[0].numel()
    numbers = torch.arange(len(value) * count, dtype=torch.float64, device=value.device) + 1
    chosen = function(numbers.view(value.shape))
    if len(chosen) != len(value):
        return None
    firsts = torch.arange(len(value), dtype=torch.float64, device=value.device) * count + 1
    places = chosen.reshape(len(value), -1) - firsts[:, None]
    same = bool((places == places[:1]).all())
    inside = bool(((places >= 0) & (places < count)).all())  # a zero is padding
    return places[0].long() if same and inside else None


def chosen_channels(places: Tensor, shape: Shape, out: Shape) -> Tensor | None:
    """Return (k,) the channels that a choice of ``places`` consists of; None where it is one of
    other pieces.

    Args:
        places: Places (n,) in a flattened value.
        shape: Shape of the value, without the batch.
        out: Shape of what is chosen, without the batch.
    """
    if len(shape) != 3 or len(out) != 3 or shape[1:] != out[1:]:
        return None
    maps = places.view(out[0], -1)
    area = maps.shape[1]
    channels = maps[:, 0] // area
    whole = channels[:, None] * area + torch.arange(area, device=places.device)
    return channels if torch.equal(maps, whole) else None


def pooled_groups(
    value: Tensor, out: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Return (n, k) the places that each output of max pooling reads.

    Args:
        value: Value (b, c, h, w) that is pooled.
        out: Rows and columns of the output, which may reach beyond the padding (ceil_mode).
        kernel: Rows and columns of a window.
        stride: Steps from window to window.
        padding: Rows and columns of padding on each side.
        dilation: Steps within a window.

    Returns:
        Places in the flattened value; a window that reaches into the padding repeats one of its
        places in it.
    """
    ends = [max((out[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1, 1) for i in (0, 1)]
    after = [ends[i] - padding[i] - value.shape[2 + i] for i in (0, 1)]
    around = (padding[1], after[1], padding[0], after[0])
    places = F.pad(numbered(value) + 1, around).transpose(0, 1)  # 0 is padding
    windows = F.unfold(places, kernel, dilation=dilation, stride=stride)
    index = windows.transpose(1, 2).flatten(0, 1).long()
    return torch.where(index > 0, index, index.max(1, keepdim=True).values) - 1


def adaptive_groups(value: Tensor, out: Pair) -> Tensor:
    """Return (n, k) the places that each output of adaptive max pooling of ``value`` (b, c, h, w)
    to ``out`` rows and columns reads; smaller windows repeat a place."""
    places = numbered(value)[0].long()
    height, width = value.shape[2:]
    windows = []
    for row, column in product(range(out[0]), range(out[1])):
        top, bottom = row * height // out[0], -(-(row + 1) * height // out[0])
        left, right = column * width // out[1], -(-(column + 1) * width // out[1])
        windows.append(places[:, top:bottom, left:right].flatten(1))
    most = max(window.shape[1] for window in windows)
    full = [torch.cat([w, w[:, :1].expand(-1, most - w.shape[1])], 1) for w in windows]
    return torch.stack(full, 1).flatten(0, 1)


def reduced_groups(value: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return (n, k) the places that each output of a maximum of ``value`` over ``dims`` reads."""
    places = numbered(value).long()
    rest = [dim for dim in range(value.ndim) if dim not in dims]
    kept = places.permute(*rest, *dims)
    return kept.reshape(-1, int(torch.Size([value.shape[dim] for dim in dims]).numel()))
