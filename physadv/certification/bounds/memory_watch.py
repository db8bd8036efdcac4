"""Watch over the memory of a traced pass: what holds something of the images, and what is written
to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from physadv.certification.bounds.operation_names import kernel_name
from physadv.core.errors import ModelError


class MemoryWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches every kernel: which memory holds something of the images, and who writes where.

    Kernels on such memory that run outside a function that the recorder has let through are
    refused: these are scripted functions, custom autograd functions and the like. So are random
    numbers, and writes to parameters, buffers and constants that a recorded layer refers to.

    Args:
        images: Images (b, c, h, w) that a network is about to process.
        refuse: Makes the error from the name of an operation and the reason.
    """

    def __init__(self, images: Tensor, refuse: Callable[[str, str], ModelError]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._error = refuse
        self._images = memory_of(images)
        self._of_images = {self._images}
        self._made: set[int] = set()  # in this pass
        self._constants: set[int] = set()
        self._kept: list[Tensor] = [images]  # addresses stay unique only while tensors live
        self._running: str | None = None
        self._before: frozenset[int] = frozenset()
        self._written: set[int] = set()

    def begin(self, name: str, constants: Sequence[Tensor]) -> None:
        """Let kernels through until :meth:`end`: the recorder runs function ``name``, whose other
        inputs are ``constants``."""
        self._running, self._written = name, set()
        self._before = frozenset(self._of_images)
        strided = [c for c in constants if _strided(c)]
        self._kept.extend(strided)
        self._constants.update(memory_of(c) for c in strided)

    def end(self) -> set[int]:
        """Return the addresses of memory of the images that was written to since :meth:`begin`, and
        existed before."""
        self._running = None
        return self._written & self._before

    def holds_images(self, value: Tensor) -> bool:
        """Return whether ``value`` lies in memory that holds something of the images."""
        return _strided(value) and memory_of(value) in self._of_images

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the kernel ``func`` and follow what it reads and writes."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            reads = [t for t in tensors_in((args, kwargs)) if _strided(t)]
            on_images = any(memory_of(t) in self._of_images for t in reads)
            written = {memory_of(t) for t in _written_by(func, args, kwargs) if _strided(t)}
            self._refuse(func, on_images=on_images)
            self._check_writes(func, written)

            result = func(*args, **kwargs)

            self._written |= written
            made = [t for t in tensors_in(result) if _strided(t)]
            self._kept.extend(made)
            self._made |= {memory_of(t) for t in made} - {memory_of(t) for t in reads}
            if on_images:
                self._of_images |= written | {memory_of(t) for t in made}
        return result

    def _check_writes(self, func: Any, written: set[int]) -> None:
        """Raise ModelError for writes to what a recorded layer, or the next pass, still reads."""
        name = self._running or kernel_name(func)
        if self._images in written:
            raise self._error(name, "it changes the model's own input in place")
        if written & self._constants or written - self._made:
            raise self._error(
                name, "it changes a parameter, a buffer or a constant of the model while it runs"
            )

    def _refuse(self, func: Any, *, on_images: bool) -> None:
        """Raise ModelError for a kernel that the recorder does not know of, or a random one."""
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise self._error(
                self._running or kernel_name(func), "it draws random numbers at every pass"
            )
        if on_images and self._running is None:
            raise self._error(
                kernel_name(func),
                "it runs in code that tracing cannot follow, such as a scripted function or a "
                "custom one",
            )


def memory_of(value: Tensor) -> int:
    """Return the address of the memory that ``value`` is a view of."""
    with torch._C.DisableTorchFunction():
        return int(value.untyped_storage()._cdata)


def tensors_in(values: Any) -> list[Tensor]:
    """Return the tensors in ``values``: nested tuples, lists, slices and tables."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, slice):
        values = [values.start, values.stop, values.step]
    return [t for v in values for t in tensors_in(v)] if isinstance(values, list | tuple) else []


def _written_by(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that a kernel writes to, by its schema."""
    written: list[Tensor] = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            written += tensors_in(value)
    return written


def _strided(value: Tensor) -> bool:
    """Return whether ``value`` lies in plain memory."""
    with torch._C.DisableTorchFunction():
        return value.layout == torch.strided
