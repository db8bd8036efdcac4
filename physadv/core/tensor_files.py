"""Named tensors on disk as safetensors: read within budgets, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from physadv.core.errors import ModelError, PhysadvError
from physadv.core.files import write_bytes
from physadv.core.reading import MAX_MODEL_BYTES, assert_bytes, foreign_errors
from physadv.core.utf8_paths import utf8_path

_LARGEST_HEADER = 1 << 24
"""Most bytes of the JSON that names the tensors: those of a net of 100,000."""


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
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = write_tensors(f"{folder}/net.safetensors", {"weight": torch.ones(2)})
        ...     read_tensors(file)[0]["weight"].tolist()
        [1.0, 1.0]
    """
    plain = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    return write_bytes(path, save(plain, dict(metadata or {}) or None))


def read_tensors(
    path: str | Path, *, error: type[PhysadvError] = ModelError, remedy: str = "Fetch it anew"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a safetensors file onto the CPU, and the texts kept with them.

    Args:
        path: The file.
        error: Class of the error.
        remedy: What the reader of that error should do.

    Returns:
        Tensors by name, and texts by name.

    Raises:
        PhysadvError: The file is missing, no regular file, too large, damaged, or its header lies.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = write_tensors(f"{folder}/a.safetensors", {"b": torch.ones(1)}, {"by": "me"})
        ...     read_tensors(file)
        ({'b': tensor([1.])}, {'by': 'me'})
    """
    name, what = f"{path}", "not readable as safetensors"
    with foreign_errors(name, error, what, remedy):
        if not Path(path).is_file():
            raise error(name, "no such file", remedy)
        assert_bytes(Path(path).stat().st_size, name, most=MAX_MODEL_BYTES, error=error)
        with Path(path).open("rb") as stream:
            announced = int.from_bytes(stream.read(8), "little")
        assert_bytes(announced, f"{name}: its header", most=_LARGEST_HEADER, error=error)
        with utf8_path(Path(path)) as own, safe_open(own, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
