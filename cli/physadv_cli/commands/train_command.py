"""``physadv train``: a classifier from your data, with a defense; ``signs`` is the embedded one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from physadv.core.wording import count_noun, format_percent
from physadv.training.config import TrainConfig, TrainSignsConfig
from physadv_cli.configured import from_config
from physadv_cli.help import DEFAULT, DefaultCommand, DefaultGroup
from physadv_cli.ranks import agreed_folder, joined_processes
from physadv_cli.runs import RunOptions, print_data, print_findings


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command and its sub-command to ``app``, listed under ``panel``."""
    group = typer.Typer(cls=DefaultGroup)
    group.command(DEFAULT, cls=DefaultCommand)(from_config(train, TrainConfig, divided=True))
    group.command(
        "signs", short_help="The embedded traffic-sign classifier: GTSRB and background."
    )(from_config(train_signs, TrainSignsConfig))
    app.add_typer(
        group,
        name="train",
        rich_help_panel=panel,
        short_help="A classifier with a defense: weights and card. Resumable.",
    )


def train(config: TrainConfig, run: RunOptions) -> None:
    """Train a classifier with a defense; `physadv train signs` makes the embedded one.

    A part of the training images is held out by group. After each epoch the averaged weights are
    judged on them: clean, under PGD and, where the defense certifies, by its bound; the best epoch
    is written as model.safetensors with its card, which --model takes. Ctrl-C or a kill costs at
    most one epoch: the same command with the same --out resumes.

    Example: physadv train --defense pgd --data mnist/ --threat linf:0.1 --epochs 5 --out runs/pgd

    Example: physadv train --defense ibp --architecture small-cnn-bn --data mnist/ --threat linf:0.1
    --epochs 16 --out runs/ibp
    """
    from physadv.training.classifier_task import ClassifierTask
    from physadv_cli.progress import status_line
    from physadv_cli.training import command_line, paused, watch

    with status_line("reading data"):
        task = ClassifierTask.from_config(config)
    print_data(task.data.summary)
    with joined_processes() as group:
        folder = agreed_folder(
            group, lambda: run.open_folder(config, task.claim, data=task.data.summary)
        )
        is_over = watch(task.run(folder, group), judged=True)
    if not is_over:
        if group.is_first:
            run.finish({"out": str(folder), "finished": False}, paused(folder))
        raise SystemExit(130)
    if not group.is_first:
        return

    with status_line("judging"):
        card = task.publish(folder, command_line())
    weights = task.weights_of(folder)
    result = {"out": str(folder), "victim": str(weights), "finished": True, **card}
    print_findings(card["doubts"])
    run.finish(result, _classifier_summary(weights, card))


def train_signs(config: TrainSignsConfig, run: RunOptions) -> None:
    """Train the embedded traffic-sign classifier and judge it on held-out tracks and photos.

    It trains on four fifths of the tracks and photos, is judged on the rest, and writes weights,
    card and rows.jsonl. --backgrounds may repeat. Ctrl-C or a kill costs at most one epoch: the
    same command with the same --out resumes.

    Example: physadv train signs --data gtsrb-train.zip --backgrounds photos/ --epochs 24 --out
    runs/signs

    Example: physadv train signs --data gtsrb-train.zip --defense masked --from signs --out
    runs/signs-masked
    """
    from physadv.evaluation.progress_log import DATA_DIGEST, claim_folder
    from physadv.models.loading import pick_device
    from physadv.training.sign_classifier import recipe as signs
    from physadv_cli.progress import status_line
    from physadv_cli.training import command_line, paused, watch

    recipe = signs.SignRecipe.from_config(config)
    with status_line("reading data"):
        data = signs.load_sign_data(recipe)
    print_data(data.summary)
    identity = {**config.identity, DATA_DIGEST: data.digest}
    folder = run.open_folder(
        config, lambda folder: claim_folder(folder, identity), data=data.summary
    )
    device = pick_device(config.device)
    if not watch(signs.train_signs(recipe, data, folder, device=device)):
        run.finish({"out": str(folder), "finished": False}, paused(folder))
        raise SystemExit(130)

    with status_line("judging"):
        card = signs.publish_sign_classifier(
            recipe, data, signs.StreetPhotos.from_config(config), folder, command=command_line()
        )
    print_findings(card["doubts"])
    run.finish({"out": str(folder), "finished": True, **card}, _signs_summary(folder, card))


def _classifier_summary(weights: Path, card: dict[str, Any]) -> str:
    """For people: the rates on held-out images, the cost, and how to use the weights."""
    from physadv.evaluation.metrics.intervals import RateInterval

    lines = [f"{name:10} {RateInterval(**rate)}" for name, rate in card["measured"].items()]
    lines += [f"on held-out training images; robust is PGD-10 at {card['threat']}"]
    epochs = count_noun(card["epochs_done"], "epoch")
    lines += [f"{card['cpu_seconds']:.0f} CPU seconds, {epochs} judged"]
    return "\n".join([*lines, f"use it as --model {weights}"])


def _signs_summary(folder: Path, card: dict[str, Any]) -> str:
    """For people: the size, the rates on each held-out part, and each kind of stop photo."""
    lines = [f"{card['parameters']} parameters, {folder}/signs.safetensors, signs.toml, rows.jsonl"]
    for name, part in card["measured"].items():
        right = part["right"]
        lines.append(
            f"{name}: {format_percent(right['rate'])} [{format_percent(right['low'])}, "
            f"{format_percent(right['high'])}] right, "
            f"n = {right['n']} of {count_noun(part['groups'], 'group')}; "
            f"called stop {format_percent(part['called_stop']['rate'], 2)}"
        )
    lines += [
        f"  {sign}: {format_percent(rate, 0)} of its crops recognized"
        for sign, rate in card["stop_photos_by_sign"].items()
    ]
    return "\n".join(lines)
