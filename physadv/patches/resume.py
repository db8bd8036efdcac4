"""Checkpoint of a patch run: the patch, the best one so far and the moments of Adam."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from physadv.attacks._optimizers import CosineAdam
from physadv.core.tensor_files import write_tensors
from physadv.patches.optimize import PatchProgress

NAME = "checkpoint.safetensors"


def save_checkpoint(folder: Path, progress: PatchProgress, key: int) -> Path:
    """Save everything that a resumed run needs, atomically.

    Args:
        folder: Folder of the run.
        progress: State after a step.
        key: Number that identifies the configuration.

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
    meta = {
        "step": str(progress.step),
        "best_success": repr(progress.best_success),
        "key": str(key),
        "loss": repr(progress.loss),
    }

    return write_tensors(folder / NAME, tensors, meta)


def load_checkpoint(folder: Path, key: int, lr: float, steps: int) -> PatchProgress | None:
    """Load the state of an interrupted run.

    Args:
        folder: Folder of the run.
        key: Number that identifies the configuration.
        lr: Step size of Adam.
        steps: Steps in all.

    Returns:
        The state; None without a file, and for a damaged one or that of another configuration.
    """
    path = folder / NAME
    if not path.is_file():
        return None

    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata()
            tensors = {
                name: file.get_tensor(name) for name in ("patch", "best", "exp_avg", "exp_avg_sq")
            }
    except (SafetensorError, OSError, KeyError):
        return None

    if meta.get("key") != str(key):
        return None

    step, loss = int(meta["step"]), float(meta.get("loss", math.nan))
    state = CosineAdam(lr, steps).init(tensors["patch"])
    state.optimizer.state[state.leaf] = {
        "step": torch.tensor(float(step)),
        "exp_avg": tensors["exp_avg"],
        "exp_avg_sq": tensors["exp_avg_sq"],
    }
    for _ in range(step):
        state.optimizer._opt_called = True  # type: ignore[attr-defined]  # the schedule catches up, no step is made
        state.schedule.step()

    return PatchProgress(
        step, tensors["patch"], tensors["best"], float(meta["best_success"]), loss, None, state
    )
