"""What belongs to the caller of an attack or a check, kept and given back.

That is of every module: modes, parameters, buffers, gradients and flags; and of the process: the
global random states of torch, numpy and Python, and torch's default dtype.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@contextmanager
def preserved_state(
    *modules: nn.Module, device: torch.device | None = None
) -> Iterator[PreservedState]:
    """Give back modules and global random states as they are now, whatever happens within.

    Args:
        modules: Modules, with all their submodules.
        device: Accelerator whose random state is kept too; None for the CPU alone.

    Yields:
        The kept state; its ``restore_tensors`` gives parameters and buffers back before the end.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with preserved_state(norm):
        ...     _ = norm(torch.rand(4, 2))
        >>> int(norm.num_batches_tracked)
        0
    """
    rng = _RandomStates.now(device)
    state = PreservedState(modules)
    try:
        yield state
    finally:
        state.restore_tensors()
        state.restore_modes()
        rng.restore(device)


class PreservedState:
    """Modes, parameters, buffers, gradients and flags of modules at the time of its making.

    Args:
        modules: Modules, with all their submodules.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        # Wrappers of compiled code list their modules more than once.
        parts = {id(part): part for root in modules for part in root.modules()}
        # A frozen TorchScript module has no mode.
        self._modes = [(p, p.training) for p in parts.values() if hasattr(p, "training")]
        self._tables = [
            (table, dict(table))
            for part in parts.values()
            for table in (getattr(part, "_parameters", None), getattr(part, "_buffers", None))
            if isinstance(table, dict)
        ]

        named = {
            id(tensor): (name, tensor)
            for root in modules
            for name, tensor in (*root.named_parameters(), *root.named_buffers())
            if not is_lazy(tensor)
        }
        self._tensors = [(name, t, t.detach().clone()) for name, t in named.values()]
        self._gradients = [
            (t, t.requires_grad, t.grad, None if t.grad is None else t.grad.detach().clone())
            for _, t, _ in self._tensors
            if t.is_leaf
        ]

    def restore_tensors(self) -> list[str]:
        """Give parameters and buffers their values back; return the names of those changed."""
        changed = []
        for table, entries in self._tables:
            if len(table) != len(entries) or any(table[key] is not entries[key] for key in table):
                changed += [key for key in entries if table.get(key) is not entries[key]]
                table.clear()
                table.update(entries)

        with torch.no_grad(), torch.inference_mode(False):
            for name, tensor, value in self._tensors:
                if not _same(tensor, value):
                    tensor.detach().copy_(value)
                    changed.append(name)
        return changed

    def restore_modes(self) -> None:
        """Give modes, flags and gradients back."""
        for part, training in self._modes:
            part.training = training
        for tensor, requires_grad, gradient, value in self._gradients:
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.requires_grad_(requires_grad)
            if tensor.grad is not gradient:
                tensor.grad = gradient
            if gradient is not None and value is not None and not _same(gradient, value):
                with torch.no_grad():
                    gradient.copy_(value)


@dataclass(frozen=True)
class _RandomStates:
    """Global random states of torch, numpy and Python, and torch's default dtype."""

    torch_state: Tensor
    device_state: Tensor | None
    numpy_state: object
    python_state: object
    dtype: torch.dtype

    @classmethod
    def now(cls, device: torch.device | None) -> _RandomStates:
        on_gpu = device is not None and device.type == "cuda"
        return cls(
            torch.get_rng_state(),
            torch.cuda.get_rng_state(device) if on_gpu and device is not None else None,
            np.random.get_state(),  # noqa: NPY002 - the global state itself
            random.getstate(),
            torch.get_default_dtype(),
        )

    def restore(self, device: torch.device | None) -> None:
        torch.set_rng_state(self.torch_state)
        if self.device_state is not None and device is not None:
            torch.cuda.set_rng_state(self.device_state, device)
        np.random.set_state(self.numpy_state)  # type: ignore[arg-type]  # noqa: NPY002
        random.setstate(self.python_state)  # type: ignore[arg-type]
        torch.set_default_dtype(self.dtype)


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same values, NaN included."""
    if a.shape != b.shape:
        return False
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
