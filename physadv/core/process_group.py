"""Processes that do one piece of work together, on top of torch.distributed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from physadv.core.errors import OptionError, PhysadvError

_BROKEN = re.compile(r"gloo|nccl|connection (closed|reset|refused)", re.IGNORECASE)
"""What torch's errors of a broken connection say; most have no type of their own."""
T = TypeVar("T")
Row = TypeVar("Row")


@dataclass(frozen=True)
class ProcessGroup:
    """This process among ``count``; with more than one, torch's default process group is used.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.

    Example:
        >>> group = ProcessGroup()
        >>> group.is_first, group.share(7), group.gather("a")
        (True, slice(0, 7, None), ['a'])
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> ProcessGroup:
        """Return this process among those of torch's default process group, or alone."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return ALONE
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def share(self, items: int) -> slice:
        """Return the consecutive part of ``items`` that is this process's; sizes differ by 1."""
        return slice(items * self.rank // self.count, items * (self.rank + 1) // self.count)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of every process's ``values``, on their device: the same in each."""
        if self.count == 1:
            return values
        total = values.detach().cpu().clone()
        with lost_processes():
            distributed.all_reduce(total)
        return total.to(values.device)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of every process's ``values``, on their device, through which gradients
        flow, of any order: what each process makes of the sum counts in all.

        All processes must ask for the same sums, and their gradients, in the same order.
        """
        if self.count == 1:
            return values
        total: Tensor = _Total.apply(values)  # type: ignore[no-untyped-call]
        return total

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each of ``tensors``, in place, by its sum over all processes.

        Those of one kind and device travel together; they have the same shapes in every process.
        """
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors if self.count > 1 else ():
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for alike in kinds.values():
            flat = torch.cat([tensor.detach().flatten() for tensor in alike])
            with lost_processes():
                distributed.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in alike])
            for tensor, part in zip(alike, parts, strict=True):
                tensor.detach().copy_(part.view_as(tensor))

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Set each of ``tensors``, in place, to the first process's."""
        for tensor in tensors if self.count > 1 else ():
            value = tensor.detach().contiguous()
            with lost_processes():
                distributed.broadcast(value, 0)
            tensor.detach().copy_(value)

    def gather(self, value: T) -> list[T]:
        """Return every process's ``value``, in the order of their ranks."""
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        with lost_processes():
            distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def wait(self) -> None:
        """Wait until every process has come here."""
        self.gather(None)

    def from_first(self, value: T) -> T:
        """Return the first process's ``value``."""
        if self.count == 1:
            return value
        values = [value if self.is_first else None]
        with lost_processes():
            distributed.broadcast_object_list(values)
        return values[0]  # type: ignore[return-value]

    def divided(self, items: Sequence[T], work: Callable[[T], Sequence[Row]]) -> list[Row]:
        """Do ``work`` on every ``count``-th of ``items`` and return the rows of all, in order.

        Args:
            items: What is divided, the same in every process.
            work: Function of one of them that returns its rows; they must pickle.

        Returns:
            All rows in the order of ``items``, the same in every process.
        """
        own = {n: list(work(items[n])) for n in range(self.rank, len(items), self.count)}
        rows: dict[int, list[Row]] = {}
        for part in self.gather(own):
            rows |= part
        return [row for number in range(len(items)) for row in rows[number]]

    def refuse_several(self, what: str, remedy: str = "Start it alone") -> None:
        """Refuse ``what`` in more than one process, with a ``remedy``. Raises OptionError."""
        if self.count > 1:
            raise OptionError(f"{what} in {self.count} processes", "It is not divided", remedy)


class _Total(torch.autograd.Function):
    """The sum over all processes: its own adjoint, as each term counts once in every process."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Add up ``values``; nothing is kept in ``ctx``."""
        total = values.detach().clone(memory_format=torch.contiguous_format)
        with lost_processes():
            distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Add up the ``gradients`` of all processes."""
        total: Tensor = _Total.apply(*gradients)  # type: ignore[no-untyped-call]
        return total


ALONE = ProcessGroup()
"""One process."""


@contextmanager
def lost_processes() -> Iterator[None]:
    """Report a broken connection to another process in one line.

    Raises:
        PhysadvError: Another process ended.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and not _BROKEN.search(str(error)):
            raise
        raise PhysadvError(
            "another process of this job ended",
            "all are needed",
            "The same command goes on from what is saved, with any number of processes",
        ) from error
