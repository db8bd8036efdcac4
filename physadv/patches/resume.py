"""Checkpoint of a patch run: safetensors with the patch, the best one and Adam's moments."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from physadv.attacks._optimizers import CosineAdam
from physadv.core.errors import DataError, ModelError
from physadv.core.parsing import parse_whole_number
from physadv.core.reading import foreign_errors
from physadv.core.tensor_files import read_tensors, write_tensors
from physadv.patches.optimize import PatchProgress

_NAME = "checkpoint.safetensors"
_TENSORS = ("patch", "best", "exp_avg", "exp_avg_sq")


def save_checkpoint(folder: Path, progress: PatchProgress, key: int) -> Path:
    """Write everything that an optimization needs to resume, atomically.

    Args:
        folder: Folder of the run.
        progress: State after a step.
        key: Identifies the configuration.

    Returns:
        The file.
    """
    moments = progress.state.optimizer.state[progress.state.leaf]  # type: ignore[attr-defined]
    tensors = {
        "patch": progress.patch,
        "best": progress.best,
        "exp_avg": moments["exp_avg"],
        "exp_avg_sq": moments["exp_avg_sq"],
    }
    facts = {
        "step": str(progress.step),
        "best_success": repr(progress.best_success),
        "key": str(key),
        "loss": repr(progress.loss),
    }
    return write_tensors(folder / _NAME, tensors, facts)


def load_checkpoint(folder: Path, key: int, lr: float, steps: int) -> PatchProgress | None:
    """Read the checkpoint of a run.

    Args:
        folder: Folder of the run.
        key: Identifies the configuration.
        lr: Step size at the start.
        steps: Number of steps in all.

    Returns:
        The state to resume from; None where there is no file, where it is of another configuration,
        or where it is damaged.
    """
    path = folder / _NAME
    if not path.is_file():
        return None
    try:
        with foreign_errors(str(path), DataError, "no checkpoint"):
            stored, facts = read_tensors(path)
            if facts.get("key") != str(key):
                return None
            tensors = {name: stored[name] for name in _TENSORS}
            step = parse_whole_number(facts["step"], "step", str(path), most=steps)
            loss, best_success = float(facts.get("loss", math.nan)), float(facts["best_success"])
    except (ModelError, DataError):
        return None

    state = CosineAdam(lr, steps).init(tensors["patch"])
    state.optimizer.state[state.leaf] = {
        "step": torch.tensor(float(step)),
        "exp_avg": tensors["exp_avg"],
        "exp_avg_sq": tensors["exp_avg_sq"],
    }

    # The schedule of the step size catches up; torch would warn that no step was made.
    for _ in range(step):
        state.optimizer._opt_called = True  # type: ignore[attr-defined]
        state.schedule.step()
    return PatchProgress(step, tensors["patch"], tensors["best"], best_success, loss, None, state)
