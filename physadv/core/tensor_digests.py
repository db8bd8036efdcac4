"""Numbers of tensors and of models as bytes, for hashes that know them again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the numbers of ``tensor`` as bytes.

    Raises:
        RuntimeError: It has none to read, as a sparse, quantized or lazy one; some kinds raise
            NotImplementedError, TypeError or ValueError.

    Example:
        >>> bytes(tensor_bytes(torch.tensor([1, 2], dtype=torch.uint8)))
        b'\\x01\\x02'
    """
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data


def named_state(model: nn.Module) -> Iterator[tuple[bytes, Tensor]]:
    """Yield the parameters and buffers of ``model``, each after its name, dtype and shape.

    Example:
        >>> [name for name, _ in named_state(nn.Linear(2, 1, bias=False))]
        [b'weight torch.float32 (1, 2)\\x00']
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode(), tensor
