"""What `physadv train --defense` does once its options are read."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physadv_cli.runs import console, finish, open_run

if TYPE_CHECKING:
    from physadv.training.classifier_recipe import ClassifierRecipe
    from physadv.training.loop import TrainingStep


def run(
    recipe: ClassifierRecipe,
    data: Path,
    *,
    held: float,
    side: int | None,
    limit: int | None,
    device: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Train, or go on with a run that was stopped; then judge it and write the victim."""
    from physadv.evaluation.progress_log import claim_folder
    from physadv.models.loading import pick_device
    from physadv.training.classifier_recipe import WEIGHTS, publish_classifier, train_defense
    from physadv.training.data import load_training_data

    where = pick_device(device)
    with console.status("reading data"):
        material = load_training_data(
            data, validation=held, image_size=side, limit=limit, seed=recipe.seed
        )
    facts = _facts(recipe, data, held, side, limit)
    folder = open_run("train", out, facts)
    claim_folder(folder, facts)
    if not watch(train_defense(recipe, material, folder, device=where), judged=True):
        finish({"out": str(folder), "finished": False}, as_json=as_json, summary=paused(folder))
        raise SystemExit(130)
    with console.status("judging"):
        card = publish_classifier(recipe, material, folder, data=data.name, command=command())
    result = {"out": str(folder), "victim": str(folder / WEIGHTS), "finished": True, **card}
    finish(result, as_json=as_json, summary=_summary(folder / WEIGHTS, card))


def watch(run: Iterator[TrainingStep], *, judged: bool = False) -> bool:
    """Show the run; False where Ctrl-C ended it. ``judged`` says what each epoch was found to be
    worth."""
    from physadv_cli.progress import bar

    try:
        with bar() as progress:
            task = progress.add_task("training", total=None, note="")
            smooth = 0.0
            for step in run:
                smooth = step.loss if smooth == 0 else 0.95 * smooth + 0.05 * step.loss
                note = f"epoch {step.epoch}, loss {smooth:.3f}"
                progress.update(task, completed=step.number, total=step.total, note=note)
                if "guard_fired" in step.metrics:
                    console.print(
                        f"step {step.number}: overfitted to its attack; put back, and attacked "
                        "harder now"
                    )
                if judged and step.ends_epoch:
                    console.print(
                        f"epoch {step.epoch:3d}  loss {smooth:.3f}  {_shares(step.metrics)}"
                    )
    except KeyboardInterrupt:
        return False
    return True


def paused(folder: Path) -> str:
    """What to say after Ctrl-C."""
    return f"stopped; the last finished epoch is kept: the same command with --out {folder} goes on"


def command() -> str:
    """The command as it was given; of absolute paths the name alone, since only this machine has
    the rest."""
    short = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    return " ".join(["physadv", *short])


def _facts(
    recipe: ClassifierRecipe, data: Path, held: float, side: int | None, limit: int | None
) -> dict[str, Any]:
    """What the run is, for its config and for telling it from another."""
    from dataclasses import asdict

    plain = {k: v for k, v in asdict(recipe).items() if k != "settings" and v is not None}
    own = recipe.made().settings()
    settings = {
        k: str(v) if isinstance(v, tuple) else v
        for k, v in own.items()
        if k != "defence" and v is not None
    }
    return {**plain, **settings, "data": str(data), "held": held, "side": side, "limit": limit}


def _shares(metrics: Mapping[str, float]) -> str:
    shown = ("clean", "robust", "certified", "noisy", "masked")
    return "  ".join(f"{name} {metrics[name]:.1%}" for name in shown if name in metrics)


def _summary(model: Path, card: Mapping[str, Any]) -> str:
    from physadv.evaluation.metrics.intervals import RateInterval

    lines = [f"{name:10} {RateInterval(**found)}" for name, found in card["measured"].items()]
    lines += [f"on held-out training images; robust is PGD-10 at {card['threat']}"]
    lines += [f"{card['cpu_seconds']:.0f} CPU seconds, {card['epochs_done']} epochs judged"]
    return "\n".join([*lines, f"use it as --model {model}"])
