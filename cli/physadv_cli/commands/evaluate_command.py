"""`physadv evaluate`: robust accuracy of a victim on a data set, by the ensemble of attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from physadv_cli import options


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command(
        "evaluate",
        short_help="Robust accuracy by an ensemble of attacks -> rows, report.html. Resumable.",
    )(evaluate)


def evaluate(
    model: options.Model,
    data: options.Data,
    threat: Annotated[
        str, typer.Option("--threat", help="Norm and radius: linf:8/255, l2:0.5, l1:12.")
    ],
    weights: options.Weights = None,
    split: Annotated[
        str, typer.Option("--split", help="Part of the data set, where it has parts.")
    ] = "test",
    limit: Annotated[
        int | None, typer.Option("--limit", help="This many images, drawn at random.", min=1)
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images at a time.", min=1)] = 128,
    curve: Annotated[
        str,
        typer.Option(
            "--curve", help="Further radii, comma-separated; auto: 1/4, 1/2 and 3/2 of eps; none."
        ),
    ] = "auto",
    eight_bit: Annotated[
        bool, typer.Option("--eight-bit", help="Judge images rounded to 8 bit, inside eps.")
    ] = False,
    speed: Annotated[
        str, typer.Option("--speed", help="plain, fold (same function, faster) or bf16.")
    ] = "fold",
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Folder for all broken images as PNG (implies --eight-bit)."),
    ] = None,
    eot_draws: options.EotDraws = 0,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Attack every image with APGD-CE, APGD-T, FAB-T and Square, each only on what the ones before
    left whole.

    Warns where the result cannot be trusted, and says why. Ctrl-C or a kill loses nothing that is
    finished: the same command with the same --out goes on.

    Example: physadv evaluate --model signs --data gtsrb.zip --threat linf:8/255 --limit 500 --out
    runs/signs-linf
    """
    from physadv_cli import evaluating
    from physadv_cli.parsing import parse_threat

    norm, eps = parse_threat(threat)
    request = evaluating.Request(
        command="evaluate",
        model=model,
        weights=weights,
        data=data,
        split=split,
        norm=norm,
        eps=eps,
        limit=limit,
        batch_size=batch_size,
        curve=evaluating.radii(curve, norm, eps),
        eight_bit=eight_bit or save is not None,
        speed=speed,
        save=save,
        seed=seed,
        device=device,
        threads=threads,
        out=out,
        eot_draws=eot_draws,
    )
    evaluating.run(request, as_json=as_json)
