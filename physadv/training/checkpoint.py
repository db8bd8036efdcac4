"""Where a run stands, in one safetensors file: its tensors by group, and everything else as JSON in
the header.

One file, moved into place whole: a kill at any moment leaves the last checkpoint or the next, never
half of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from physadv.core.errors import DataError
from physadv.core.tensor_files import write_tensors

Tensors = dict[str, Tensor]


def save_state(
    path: Path, groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]
) -> None:
    """Write ``groups`` of named tensors and ``facts`` (plain JSON values)."""
    flat = {
        f"{group}/{key}": value.detach()
        for group, tensors in groups.items()
        for key, value in tensors.items()
    }
    write_tensors(path, flat, {"facts": json.dumps(facts)})


def load_training_state(
    path: Path, *, facts: tuple[str, ...] = ()
) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """What :func:`save_state` wrote. Raises DataError for any other file, and where one of
    ``facts`` is missing."""
    groups: dict[str, Tensors] = {}
    try:
        with safe_open(path, framework="pt") as file:
            found: dict[str, Any] = json.loads(file.metadata()["facts"])
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                group, _, key = name.partition("/")
                groups.setdefault(group, {})[key] = file.get_tensor(name)
        return groups, {name: found[name] for name in facts} if facts else found
    except Exception as error:  # safetensors raises several kinds for a broken file
        raise DataError(
            f"{path}", "not a readable checkpoint", "remove it to start afresh"
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """The moments of an optimizer as named tensors."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{i}.{key}": v for i, of in state.items() for key, v in of.items() if isinstance(v, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the moments back into an optimizer made with the same settings."""
    state: dict[int, Tensors] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
