"""``physadv attack``: one attack on a model over a data set."""

from __future__ import annotations

import typer

from physadv.evaluation.config import AttackConfig
from physadv_cli.configured import from_config
from physadv_cli.runs import RunOptions


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command to ``app``, listed under ``panel``."""
    app.command(
        "attack",
        short_help="One epsilon-ball attack (fgsm, pgd, apgd ...) over a data set. Resumable.",
        rich_help_panel=panel,
    )(from_config(attack, AttackConfig, switches=("shard", "require")))


def attack(config: AttackConfig, run: RunOptions) -> None:
    """Run one attack on every correctly classified image and report the accuracy that remains.

    One attack bounds robustness from above only; `physadv evaluate` runs the whole ensemble.

    Example: physadv attack --model signs --data gtsrb.zip --attack pgd --threat linf:8/255 --steps
    40
    --limit 200

    Example: physadv attack --model signs --data gtsrb.zip --attack apgd --target stop --save
    adversarial/

    Example: physadv attack --model mine.ts --surrogate signs --data gtsrb.zip --attack difgsm
    """
    from physadv_cli.evaluating import run_evaluation

    run_evaluation(
        config,
        run,
        attack=config.attack,
        steps=config.steps,
        restarts=config.restarts,
        loss=config.loss,
        targeted=config.targeted,
        target=config.target,
        surrogates=config.surrogate,
    )
