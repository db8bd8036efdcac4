"""Checkpoint of a training run in one safetensors file: tensors by group, everything else as JSON
in the header.

The file is moved into place whole: a kill at any moment leaves the last checkpoint or the next,
never half of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physadv.core.errors import DataError
from physadv.core.parsing import parse_json
from physadv.core.tensor_files import read_tensors, write_tensors
from physadv.training.sharded_network import as_sharded

Tensors = dict[str, Tensor]


def save_state(
    path: Path, groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]
) -> None:
    """Write a checkpoint.

    Args:
        path: File to write or replace.
        groups: Named tensors by group.
        facts: Plain JSON values.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from physadv.training.checkpoint import load_training_state, save_state
        >>> path = Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> save_state(path, {"net": {"weight": torch.ones(2)}}, {"done": 3})
        >>> load_training_state(path)
        ({'net': {'weight': tensor([1., 1.])}}, {'done': 3})
    """
    flat = {
        f"{group}/{key}": value.detach()
        for group, tensors in groups.items()
        for key, value in tensors.items()
    }
    write_tensors(path, flat, {"facts": json.dumps(facts)})


def load_training_state(
    path: Path, *, facts: tuple[str, ...] = ()
) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Read the groups and facts that :func:`save_state` wrote to ``path``; only ``facts``, where
    some are named.

    Raises:
        DataError: The file is no such checkpoint, or one of ``facts`` is missing.
    """
    groups: dict[str, Tensors] = {}
    try:
        tensors, texts = read_tensors(path)
        stored: dict[str, Any] = parse_json(texts["facts"], str(path))
        for name, tensor in tensors.items():
            group, _, key = name.partition("/")
            groups.setdefault(group, {})[key] = tensor
        return groups, {name: stored[name] for name in facts} if facts else stored
    # safetensors raises several kinds of errors for a damaged file.
    except Exception as error:
        raise DataError(
            f"{path}", "is not a readable checkpoint", "Remove it to start anew"
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return the moments of ``optimizer`` as named tensors."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{i}.{key}": v for i, of in state.items() for key, v in of.items() if isinstance(v, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the moments ``tensors`` of an ``optimizer`` made with the same settings; in shards
    where its parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, Tensors] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = as_sharded(value, parameters[int(number)])
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
