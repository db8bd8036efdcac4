"""`physadv attack`: one attack on a victim over a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from physadv_cli import options


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command(
        "attack",
        short_help="One epsilon-ball attack (fgsm, pgd, apgd ...) over a data set. Resumable.",
    )(attack)


def attack(
    model: options.Model,
    data: options.Data,
    name: Annotated[
        str,
        typer.Option(
            "--attack",
            help="ascent, fgsm, pgd, mifgsm, difgsm, apgd, fab, deepfool, cw, universal (one "
            "change for each batch); "
            "black boxes: nes, square, rays, hopskipjump.",
        ),
    ] = "pgd",
    surrogate: Annotated[
        list[str] | None,
        typer.Option(
            "--surrogate",
            help="Make the attack on this victim (or NAME=WEIGHTS) instead; repeat it.",
        ),
    ] = None,
    norm: Annotated[str, typer.Option("--norm", help="linf, l2 or l1.")] = "linf",
    eps: Annotated[
        str | None,
        typer.Option(
            "--eps",
            help="Radius in units of [0, 1]: 8/255, 0.03, 2.0. (default: 8/255; l2 0.5, l1 12)",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="Steps, or queries of a black box. (default: its own)", min=1),
    ] = None,
    restarts: Annotated[int, typer.Option("--restarts", help="Random starts.", min=1)] = 1,
    loss: Annotated[
        str | None, typer.Option("--loss", help="ce, margin or dlr. (default: the attack's own)")
    ] = None,
    targeted: Annotated[
        bool, typer.Option("--targeted", help="Want a class drawn at random, not the true one.")
    ] = False,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="Want this class (a name or a number), from all other classes."
        ),
    ] = None,
    weights: options.Weights = None,
    split: Annotated[
        str, typer.Option("--split", help="Part of the data set, where it has parts.")
    ] = "test",
    limit: Annotated[
        int | None, typer.Option("--limit", help="This many images, drawn at random.", min=1)
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images at a time.", min=1)] = 128,
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
    """Run one attack on every image that the victim reads correctly, and say how many it still
    does.

    One attack is an upper bound of robustness at best; `physadv evaluate` runs the whole ensemble.

    Example: physadv attack --model signs --data gtsrb.zip --attack pgd --eps 8/255 --steps 40
    --limit 200

    Example: physadv attack --model signs --data gtsrb.zip --attack apgd --target stop --save
    adversarial/

    Example: physadv attack --model mine.ts --surrogate signs --data gtsrb.zip --attack difgsm
    --eps 8/255
    """
    from physadv_cli import evaluating
    from physadv_cli.parsing import parse_eps, parse_norm

    ball = parse_norm(norm)
    eps = eps or {"linf": "8/255", "l2": "0.5", "l1": "12"}[ball]
    request = evaluating.Request(
        command="attack",
        model=model,
        weights=weights,
        data=data,
        split=split,
        norm=ball,
        eps=parse_eps(eps, ball),
        limit=limit,
        batch_size=batch_size,
        eight_bit=eight_bit or save is not None,
        speed=speed,
        save=save,
        seed=seed,
        device=device,
        threads=threads,
        out=out,
        attack=name,
        steps=steps,
        restarts=restarts,
        loss=loss,
        targeted=targeted,
        target=target,
        surrogates=tuple(surrogate or ()),
        eot_draws=eot_draws,
    )
    evaluating.run(request, as_json=as_json)
