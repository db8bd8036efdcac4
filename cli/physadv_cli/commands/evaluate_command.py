"""``physadv evaluate``: robust accuracy of a model on a data set, by an ensemble of attacks."""

from __future__ import annotations

import typer

from physadv.evaluation.config import EvaluateConfig
from physadv_cli.configured import from_config
from physadv_cli.runs import RunOptions


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command to ``app``, listed under ``panel``."""
    app.command(
        "evaluate",
        short_help="Robust accuracy by an ensemble of attacks. Resumable.",
        rich_help_panel=panel,
    )(from_config(evaluate, EvaluateConfig, switches=("shard", "require")))


def evaluate(config: EvaluateConfig, run: RunOptions) -> None:
    """Measure robust accuracy with APGD-CE, APGD-T, FAB-T and Square, run in sequence.

    Each attack sees only the samples that earlier ones did not break. Warns where the result cannot
    be trusted, and says why. An interrupted run resumes with the same --out.

    Example: physadv evaluate --model signs --data gtsrb.zip --threat linf:8/255 --limit 500 --out
    runs/signs-linf

    Example: physadv evaluate --model mine.onnx --data test/ --threat l2:0.5 --require
    'robust >= 0.5'

    Example: physadv evaluate --config runs/signs-linf/config.toml --threat linf:4/255 --out
    runs/narrower

    Example: physadv evaluate --model fastestdet --data coco128/ --split val --threat linf:2/255
    """
    from physadv_cli.evaluating import run_evaluation

    run_evaluation(config, run, curve=config.curve)
