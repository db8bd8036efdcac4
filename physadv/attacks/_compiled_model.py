"""A copy of a model whose gradients are compiled (``torch.compile``), for runs long enough.

Compiling takes about a minute and gains little on CPUs, so that it is tried where it can repay
that, and kept where it agrees with the model and is faster. It never compiles again: images of a
shape for which it has no code, single images, and passes without a gradient run as before.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from physadv.models.fetch import cache_dir

LEAST_SECONDS = 1800.0
"""Expected seconds of a run from which compiling is tried. It takes up to 100 s of the clock, and
saves 0 to 5 % of most nets' gradients on CPUs (docs/robustness.md)."""
_COMPILERS = ("c++", "g++", "clang++", "cl")


class CompiledGradient:
    """A module whose forward and backward pass are compiled for gradients of batches.

    Args:
        module: Module to compile, which shares its weights; not changed.
        images: Images (b, ...) to compile for, any number from two on, in their memory format.
        bf16: Whether it runs in mixed precision.

    Raises:
        Exception: Whatever the compiler says, where it fails.
    """

    def __init__(self, module: nn.Module, images: Tensor, *, bf16: bool = False) -> None:
        self.module = module
        x = images.detach().clone().requires_grad_()
        with _apart(), torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            self._compiled: Any = torch.compile(module)
            torch._dynamo.maybe_mark_dynamic(x, 0)
            output = self._compiled(x)
            torch.autograd.grad(output.float().amax(1).sum(), x)

    def __call__(self, images: Tensor) -> Any:
        """Return the module's output for ``images`` (b, ...)."""
        if len(images) < 2 or not (torch.is_grad_enabled() and images.requires_grad):
            return self.module(images)
        with torch.compiler.set_stance("eager_on_recompile"):
            return self._compiled(images)


def can_compile(device: torch.device) -> bool:
    """Return whether a compiler for ``device`` is there: one for C++, for GPUs Triton too."""
    named = os.environ.get("CXX")
    compilers = (*_COMPILERS, *([named] if named else ()))
    if not any(shutil.which(name) for name in compilers):
        return False
    return device.type == "cpu" or (device.type == "cuda" and find_spec("triton") is not None)


def compiled_gradient(
    module: nn.Module, images: Tensor, *, bf16: bool = False
) -> CompiledGradient | None:
    """Return ``module`` with its gradients compiled, or None where that fails.

    Args:
        module: Module to compile; not changed.
        images: Images (b, ...) to compile for.
        bf16: Whether it runs in mixed precision.
    """
    if len(images) < 2 or not can_compile(images.device):
        return None
    try:
        return CompiledGradient(module, images, bf16=bf16)
    except Exception:  # many kinds, of the compiler's own, or of memory; the run goes on without
        return None


@contextmanager
def _apart() -> Iterator[None]:
    """Compile in this process alone, without a word, with files in the user's own folder."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    given, logger = os.environ.get(name), logging.getLogger("torch")
    level = logger.level
    try:
        # The default is a folder below /tmp, whose name others know and may have taken.
        os.environ[name] = given or str(cache_dir() / "compiled")
        import torch._inductor.config as inductor

        logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), inductor.patch(compile_threads=1):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        os.environ.pop(name, None)
        if given is not None:
            os.environ[name] = given
