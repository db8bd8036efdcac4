"""Named tensors on disk as safetensors, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from physadv.core.files import write_bytes


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write named tensors to a safetensors file, atomically.

    The file is serialized in memory first, so that a full disk is an OSError like that of any other
    file; the writer of safetensors itself raises an error of its own kind.

    Args:
        path: File to write, replaced if it exists.
        tensors: Tensors by name, of any shape and device; they are copied.
        metadata: Short texts to keep with them.

    Returns:
        The path of the file.

    Raises:
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import load_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = write_tensors(f"{folder}/net.safetensors", {"weight": torch.ones(2)})
        ...     load_file(file)["weight"].tolist()
        [1.0, 1.0]
    """
    plain = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    return write_bytes(path, save(plain, dict(metadata or {}) or None))
