"""Course of a training run on the command line: progress, Ctrl-C, and the command as recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from physadv.core.addresses import public_address
from physadv.core.wording import format_percent
from physadv_cli.runs import console

if TYPE_CHECKING:
    from physadv.training.loop import TrainingStep


def watch(run: Iterator[TrainingStep], *, judged: bool = False) -> bool:
    """Show the progress of a training run.

    Args:
        run: yields after each step.
        judged: whether to print the measured accuracies of each epoch.

    Returns:
        Whether the run ended by itself; False after Ctrl-C.
    """
    from physadv_cli.progress import bar

    try:
        with bar() as progress:
            task = progress.add_task("training", total=None, note="")
            loss, is_divided = 0.0, False
            for step in run:
                loss = step.loss if loss == 0 else 0.95 * loss + 0.05 * step.loss
                note = f"epoch {step.epoch}, loss {loss:.3f}"
                progress.update(task, completed=step.number, total=step.total, note=note)
                if "images_at_once" in step.metrics and not is_divided:
                    is_divided = True
                    console.print(
                        f"memory ran out; at most {step.metrics['images_at_once']:.0f} images are "
                        "taken at once from there on, with the same result"
                    )
                if "guard_fired" in step.metrics:
                    console.print(
                        f"step {step.number}: overfitted to its attack; put back, and attacked "
                        "harder now"
                    )
                if "guard_exhausted" in step.metrics:
                    console.print(
                        f"step {step.number}: overfitted to its strongest attack; use --defense pgd"
                    )
                if judged and step.ends_epoch:
                    console.print(f"epoch {step.epoch:3d}  loss {loss:.3f}  {_rates(step.metrics)}")
    except KeyboardInterrupt:
        return False
    return True


def paused(folder: Path) -> str:
    """Return the message after Ctrl-C for a run in ``folder``."""
    return f"stopped; the last finished epoch is kept: the same command with --out {folder} resumes"


def command_line() -> str:
    """Return the command as it was given, absolute paths shortened to their last name.

    Cards record it, and the rest of such a path exists on this machine only.
    """
    words = [public_address(word) for word in sys.argv[1:]]
    short = [Path(word).name if Path(word).is_absolute() else word for word in words]
    return " ".join(["physadv", *short])


def _rates(metrics: Mapping[str, float]) -> str:
    shown = ("clean", "robust", "certified", "noisy", "masked")
    return "  ".join(f"{name} {format_percent(metrics[name])}" for name in shown if name in metrics)
