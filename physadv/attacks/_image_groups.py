"""Gradients of a batch taken a few images at a time, where that is faster.

On a CPU the large activations of a whole batch are new memory in each pass, which the kernel clears
page by page (benchmarks/robustness.md). A few images at a time compute the same numbers, but for
the order in which a kernel sums.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from time import perf_counter, process_time

import torch
from torch import Tensor

SIZES = (4, 16)
"""Numbers of images at a time that are timed beside all at once."""
_LEAST, _ROUNDS, _WORTH = 4, 3, 0.9
"""A batch is so many groups or more, where groups are timed; times that each is timed, in turns;
share of the time of all at once below which groups are taken."""
_NAME = re.compile(r"(.+), (\d+) at a time")


def group_sizes(images: Tensor) -> tuple[int, ...]:
    """Return the sizes of groups that are worth timing for ``images`` (b, ...): none on a GPU."""
    if images.device.type != "cpu":
        return ()
    return tuple(size for size in SIZES if len(images) >= _LEAST * size)


def timing_gradients(images: Tensor) -> int:
    """Return how many gradients of single images :func:`fastest_group` takes."""
    sizes = group_sizes(images)
    return _ROUNDS * (len(images) + len(sizes) * max(sizes)) if sizes else 0


def slices_of(count: int, size: int) -> Iterator[slice]:
    """Yield the slices of ``count`` images in groups of ``size``, the last of which may be smaller.

    Example:
        >>> list(slices_of(5, 4))
        [slice(0, 4, None), slice(4, 8, None)]
    """
    for first in range(0, count, size):
        yield slice(first, first + size)


def fastest_group(
    whole: Callable[[Tensor], object], grouped: Callable[[Tensor], object], images: Tensor
) -> int:
    """Time a gradient of all ``images`` at once and of groups, in turns.

    Args:
        whole: Takes the gradient of all images.
        grouped: Takes the gradient of a group.
        images: Images (b, ...) of the batch.

    Returns:
        The size of the fastest groups; 0 where all at once is as fast, or fails.
    """
    sizes = group_sizes(images)
    if not sizes:
        return 0
    seconds = dict.fromkeys((0, *sizes), float("inf"))
    few = images[: max(sizes)]  # groups take the same time each
    try:
        for _ in range(_ROUNDS):
            seconds[0] = min(seconds[0], _seconds(whole, [images]) / len(images))
            for size in sizes:
                groups = [few[part] for part in slices_of(len(few), size)]
                seconds[size] = min(seconds[size], _seconds(grouped, groups) / len(few))
    except Exception:  # of memory, or the model's own: the attack meets it, and tells it
        return 0
    best = min(sizes, key=lambda size: seconds[size])
    return best if seconds[best] <= _WORTH * seconds[0] else 0


def _seconds(gradient: Callable[[Tensor], object], groups: list[Tensor]) -> float:
    # The clock of one thread stands still while other work has the processor.
    clock = process_time if torch.get_num_threads() == 1 else perf_counter
    begun = clock()
    for images in groups:
        gradient(images)
    return clock() - begun


def in_groups(run: Callable[[Tensor], Tensor], images: Tensor, size: int) -> Tensor:
    """Return ``run`` of all ``images`` (b, ...), computed ``size`` at a time."""
    return torch.cat([run(images[part]) for part in slices_of(len(images), size)])


def grouped_name(name: str, size: int) -> str:
    """Return the name of the copy ``name`` with gradients of ``size`` images at a time.

    Example:
        >>> grouped_name("fold", 4), split_name("fold, 4 at a time"), split_name("fold")
        ('fold, 4 at a time', ('fold', 4), ('fold', 0))
    """
    return f"{name}, {size} at a time" if size else name


def split_name(name: str) -> tuple[str, int]:
    """Return the name of the copy and the size of its groups, 0 where it has none or one that is
    not known."""
    match = _NAME.fullmatch(name)
    if match and int(match[2]) in SIZES:
        return match[1], int(match[2])
    return name, 0
