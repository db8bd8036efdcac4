"""`physadv train`: a model from your data, with a defense. `signs` is the embedded traffic-sign
classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from physadv_cli import options
from physadv_cli.arithmetic import prepare_torch
from physadv_cli.runs import console, finish, open_run

DEFENSES = (
    "standard",
    "fgsm",
    "pgd",
    "free",
    "fast",
    "trades",
    "gradient-penalty",
    "gaussian",
    "smoothadv",
    "ibp",
    "crown-ibp",
    "polytope",
    "patch",
    "masked",
)

Plain = Annotated[
    float | None, typer.Option("--plain", help="masked: share of images left whole. (default: 0.2)")
]
Kept = Annotated[
    float | None,
    typer.Option(
        "--kept", help="masked: share of images reduced to a band or a square. (default: 0.4)"
    ),
]
Covers = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--covers",
        help="masked: sides of the two rectangles, as shares of the image's. (default: 0.2 0.45)",
    ),
]
Windows = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--windows", help="masked: side of the band or square left, as a share. (default: 0.15 0.4)"
    ),
]


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command and its sub-command."""
    group = typer.Typer()
    group.callback(invoke_without_command=True)(train)
    group.command("signs", short_help="The embedded traffic-sign victim: GTSRB and background.")(
        signs
    )
    app.add_typer(
        group,
        name="train",
        rich_help_panel=panel,
        short_help="A victim with a defense: weights and card. Resumable.",
    )


def train(
    context: typer.Context,
    defense: Annotated[
        str | None, typer.Option("--defense", help=", ".join(DEFENSES) + ".")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Data set: class folders, idx, npz, GTSRB layout, or a zip of those."
        ),
    ] = None,
    arch: Annotated[
        str,
        typer.Option(
            "--arch", help="small-cnn, wide-cnn, each also with -bn (for ibp), or signnet."
        ),
    ] = "small-cnn",
    eps: Annotated[
        str, typer.Option("--eps", help="Radius to train and judge at, as 8/255 or 0.1.")
    ] = "8/255",
    norm: Annotated[str, typer.Option("--norm", help="linf, l2 or l1.")] = "linf",
    epochs: Annotated[int, typer.Option("--epochs", help="Epochs.", min=1)] = 10,
    batch: Annotated[int, typer.Option("--batch", help="Images a batch.", min=2)] = 128,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.", min=1e-6)] = 2e-3,
    optimizer: Annotated[str, typer.Option("--optimizer", help="adamw or sgd.")] = "adamw",
    average: Annotated[
        float, typer.Option("--average", help="How much of the averaged weights a step keeps.")
    ] = 0.99,
    precision: Annotated[
        str, typer.Option("--precision", help="bf16 or fp32 arithmetic while training.")
    ] = "fp32",
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", help="Steps of the inner attack: pgd, trades, smoothadv, patch.", min=0
        ),
    ] = None,
    replays: Annotated[
        int | None, typer.Option("--replays", help="free: how often a batch is used.", min=1)
    ] = None,
    beta: Annotated[
        float | None, typer.Option("--beta", help="trades: weight of the divergence.", min=0)
    ] = None,
    penalty: Annotated[
        float | None,
        typer.Option("--penalty", help="gradient-penalty: weight of the slope.", min=0),
    ] = None,
    sigma: Annotated[
        float | None, typer.Option("--sigma", help="gaussian, smoothadv: noise.", min=1e-6)
    ] = None,
    projections: Annotated[
        int | None, typer.Option("--projections", help="polytope: random projections.", min=1)
    ] = None,
    grow: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--grow",
            help="ibp, crown-ibp, polytope: shares of the run between which eps grows to its size.",
        ),
    ] = None,
    stretch: Annotated[
        float | None,
        typer.Option(
            "--stretch", help="ibp, crown-ibp, polytope: train at so many times --eps.", min=1
        ),
    ] = None,
    plain: Plain = None,
    kept: Kept = None,
    covers: Covers = None,
    windows: Windows = None,
    shift: Annotated[
        int, typer.Option("--shift", help="Move images at random by so many pixels.", min=0)
    ] = 0,
    held: Annotated[
        float, typer.Option("--held", help="Share of the training images held out to judge by.")
    ] = 0.05,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience", help="End after so many epochs that brought nothing better.", min=1
        ),
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(
            "--side", help="Stretch images to this many pixels. (default: their own, else 32)"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="This many images, drawn at random.", min=1)
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Train a victim with a defense; `physadv train signs` makes the embedded one.

    A part of the training images is held out by group. After each epoch the averaged weights are
    judged on them: clean, under PGD and, where the defense certifies, by its bound; the best epoch
    is written as model.safetensors with its card, which --model takes. Ctrl-C or a kill costs at
    most one epoch: the same command with the same --out goes on.

    Example: physadv train --defense pgd --data mnist/ --eps 0.1 --epochs 5 --out runs/pgd

    Example: physadv train --defense ibp --arch small-cnn-bn --data mnist/ --eps 0.1 --epochs 16
    --out runs/ibp
    """
    if context.invoked_subcommand is not None:
        return
    if defense is None and data is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
    if defense is None or data is None:
        raise typer.BadParameter("--defense and --data belong together: give both")
    from physadv.threat.parsing import parse_eps, parse_norm
    from physadv.training.classifier_recipe import ClassifierRecipe
    from physadv_cli import training

    prepare_torch(threads)
    ball = parse_norm(norm)
    own = {
        "steps": steps,
        "replays": replays,
        "beta": beta,
        "penalty": penalty,
        "sigma": sigma,
        "projections": projections,
        "grow": grow,
        "stretch": stretch,
        "plain": plain,
        "kept": kept,
        "covers": covers,
        "windows": windows,
    }
    recipe = ClassifierRecipe(
        defense,
        parse_eps(eps, ball),
        ball,
        arch,
        epochs,
        batch,
        lr,
        optimizer,
        average=average,
        precision=precision,
        shift=shift,
        patience=patience,
        seed=seed,
        settings={k: v for k, v in own.items() if v is not None},
    )
    training.run(
        recipe,
        data,
        held=held,
        side=side,
        limit=limit,
        device=device,
        out=out,
        as_json=as_json,
    )


def signs(
    data: options.Data,
    backgrounds: Annotated[
        list[Path] | None,
        typer.Option(
            "--backgrounds",
            help="Folder of photos without the signs; repeat it. (default: made by code)",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Epochs.", min=1)] = 24,
    steps: Annotated[int, typer.Option("--steps", help="Batches an epoch.", min=1)] = 100,
    batch: Annotated[int, typer.Option("--batch", help="Images a batch.", min=2)] = 64,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.", min=1e-6)] = 2e-3,
    precision: Annotated[
        str, typer.Option("--precision", help="bf16 or fp32 arithmetic while training.")
    ] = "bf16",
    defense: Annotated[
        str | None,
        typer.Option("--defense", help="A defense's loss in place of the plain one, as masked."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", help="Begin with these weights: signs, or a signs.safetensors of yours."
        ),
    ] = None,
    plain: Plain = None,
    kept: Kept = None,
    covers: Covers = None,
    windows: Windows = None,
    hardest: Annotated[
        float,
        typer.Option(
            "--hardest", help="How far poses, occlusion and camera are driven: 1 whole, 0.5 half."
        ),
    ] = 1.0,
    stop_photos: Annotated[
        Path | None,
        typer.Option("--judge-stop", help="Street photos with stop signs: judging only."),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option("--judge-boxes", help="Their boxes: csv with file,x0,y0,x1,y1,note."),
    ] = None,
    others: Annotated[
        list[Path] | None,
        typer.Option("--judge-other", help="Photos without stop signs: judging only; repeat it."),
    ] = None,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Train on four fifths of the tracks and photos, judge on the rest; write weights, card and
    rows.jsonl.

    Ctrl-C or a kill costs at most one epoch: the same command with the same --out goes on.

    Example: physadv train signs --data gtsrb-train.zip --backgrounds photos/ --epochs 24 --out
    runs/signs

    Example: physadv train signs --data gtsrb-train.zip --defense masked --from signs --out
    runs/signs-masked
    """
    from physadv.core.errors import OptionError
    from physadv.training.methods.by_name import method_by_name
    from physadv.training.sign_classifier.batches import BatchMix
    from physadv.training.sign_classifier.recipe import (
        SignRecipe,
        StreetPhotos,
        load_sign_data,
        publish_sign_classifier,
        train_signs,
    )
    from physadv_cli.training import command, paused, watch

    if (stop_photos is None) != (boxes is None):
        raise OptionError(
            "--judge-stop and --judge-boxes", "belong together", "give both or neither"
        )
    prepare_torch(threads)
    own = {"plain": plain, "kept": kept, "covers": covers, "windows": windows}
    given = {k: v for k, v in own.items() if v is not None}
    if given and defense is None:
        raise OptionError(
            f"--{next(iter(given))}", "is a setting of a defense", "add --defense masked"
        )
    trained_by = None if defense is None else method_by_name(defense, given)
    recipe = SignRecipe(
        data,
        tuple(backgrounds or ()),
        epochs,
        steps,
        batch,
        lr,
        precision,
        seed,
        BatchMix(hardest=hardest),
        defense=trained_by,
        start=start,
    )
    street = StreetPhotos(stop_photos, boxes, tuple(others or ()))
    with console.status("reading data"):
        material = load_sign_data(recipe)
    folder = open_run(
        "train-signs",
        out,
        {
            "data": data,
            "backgrounds": backgrounds or [],
            "epochs": epochs,
            "steps": steps,
            "batch": batch,
            "lr": lr,
            "precision": precision,
            "seed": seed,
            "hardest": hardest,
            "defence": defense or "",
            "from": start or "",
            **{k: list(v) if isinstance(v, tuple) else v for k, v in given.items()},
        },
    )
    if not watch(train_signs(recipe, material, folder)):
        finish({"out": str(folder), "finished": False}, as_json=as_json, summary=paused(folder))
        raise SystemExit(130)
    with console.status("judging"):
        card = publish_sign_classifier(recipe, material, street, folder, command=command())
    finish(
        {"out": str(folder), "finished": True, **card},
        as_json=as_json,
        summary=_summary(folder, card),
    )


def _summary(folder: Path, card: dict[str, Any]) -> str:
    lines = [f"{card['parameters']} parameters, {folder}/signs.safetensors, signs.toml, rows.jsonl"]
    for name, found in card["measured"].items():
        right = found["right"]
        lines.append(
            f"{name}: {right['rate']:.1%} [{right['low']:.1%}, {right['high']:.1%}] right, n = "
            f"{right['n']} "
            f"of {found['groups']} groups; called stop {found['called_stop']['rate']:.2%}"
        )
    lines += [
        f"  {sign}: {rate:.0%} of its crops recognised"
        for sign, rate in card["stop_photos_by_sign"].items()
    ]
    return "\n".join(lines)
