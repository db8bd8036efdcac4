"""Weights, gradients and optimizer state in shards, one in each process: PyTorch's FSDP
(``fully_shard``), and the way from whole tensors to shards and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from physadv.core.process_group import ProcessGroup

SMALLEST_UNIT = 10_000
"""Least number of weights that are sent on their own; fewer travel with what is around them."""


def shard_network(net: nn.Module, processes: ProcessGroup) -> None:
    """Shard the parameters of ``net``, in place, among ``processes``, each a part of every tensor.

    Modules of a ``Sequential`` or ``ModuleList`` are gathered one after the other while a pass
    needs them, so that no more than one of them is whole at once; what else there is, for the whole
    pass. Gradients of the processes are added up, not averaged. Buffers stay whole.

    Args:
        net: Network whose parameters are the same in every process, on their device.
        processes: More than one process.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    device = next(net.parameters()).device.type
    mesh = init_device_mesh(device, (processes.count,))
    for module in (*reversed(_units(net)), net):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)

    for part in net.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no other


def _units(net: nn.Module) -> list[nn.Module]:
    """Modules that are called one after the other and large enough, outer ones first."""
    rows = [m for m in net.modules() if isinstance(m, nn.Sequential | nn.ModuleList)]
    units = {id(child): child for row in rows for child in row.children()}
    return [unit for unit in units.values() if _size(unit) >= SMALLEST_UNIT]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def whole_tensors(tensors: Mapping[str, Tensor], *, keep: bool = True) -> dict[str, Tensor]:
    """Return ``tensors`` without shards. Every process must ask, in the same order.

    Args:
        tensors: Named tensors, sharded or not.
        keep: Whether this process keeps them; it returns none otherwise.
    """
    whole = {}
    for name, tensor in tensors.items():
        value: Any = tensor
        value = value.full_tensor() if _in_shards(tensor) else tensor
        if keep:
            whole[name] = value
    return whole


def as_sharded(value: Tensor, like: Tensor) -> Tensor:
    """Return ``value``, whole in every process, in shards where ``like`` is and has its shape."""
    if _in_shards(value) or not _in_shards(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    shards: Any = like
    placed = value.to(like.device)
    return distribute_tensor(placed, shards.device_mesh, shards.placements, src_data_rank=None)


def _in_shards(tensor: Tensor) -> bool:
    """Return whether it is a DTensor, whose import alone would take a second."""
    return hasattr(tensor, "full_tensor")


def restore_network(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load ``tensors``, a state of ``net`` that is whole or sharded, into ``net``, sharded or
    not."""
    own = net.state_dict()
    net.load_state_dict({k: as_sharded(v, own[k]) if k in own else v for k, v in tensors.items()})


class NetworkOutline:
    """A network without its parameters, from which whole copies of a sharded one are made.

    Args:
        net: Network before it is sharded.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> float(NetworkOutline(net).filled(net)(torch.zeros(1, 2)).sum() - net.bias.sum())
        0.0
    """

    def __init__(self, net: nn.Module) -> None:
        kept: dict[int, Any] = {
            id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
            for p in net.parameters()
        }
        self._net = copy.deepcopy(net, kept)

    def filled(self, net: nn.Module) -> nn.Module:
        """Return a whole copy of ``net``, sharded or not, in its mode. Every process must ask."""
        copied = copy.deepcopy(self._net).train(net.training)
        copied.load_state_dict(whole_tensors(net.state_dict()), assign=True)
        return copied.requires_grad_(False)


__all__ = [
    "NetworkOutline",
    "as_sharded",
    "restore_network",
    "shard_network",
    "whole_tensors",
]
