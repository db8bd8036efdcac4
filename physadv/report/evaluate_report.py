"""Report of an evaluation: robust accuracy, each attack's share, the curve over epsilon, findings
and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from physadv.core.files import write_text
from physadv.core.page_colors import page_color
from physadv.core.wording import format_percent
from physadv.datasets import DatasetSummary
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.evaluation.robust_accuracy import unbroken_in_words
from physadv.report.design import MUTED, member_uri, render_page
from physadv.report.kept_results import facts_of_data, keep_result
from physadv.report.svg import WIDTH, block_marker, svg_chart, svg_line, svg_text
from physadv.threat.parsing import format_eps

COLOR = page_color("clean")
ENSEMBLE = "ensemble"
"""What ``facts`` call the attacks of a whole evaluation; another name is one attack alone."""


def write_evaluate_report(
    folder: str | Path,
    result: Mapping[str, Any],
    facts: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
    data: DatasetSummary | Mapping[str, str] | None = None,
) -> Path:
    """Write ``folder``/report.html, and the result beside it as report.json.

    Args:
        folder: Folder of the run.
        result: Result of the evaluation, as
            :meth:`physadv.evaluation.robust_accuracy.Evaluation.result` returns it.
        facts: Settings to print.
        examples: Rows whose pictures lie in ``folder``/examples.
        data: What the data were taken for; also in words by heading.

    Returns:
        Path of the report.
    """
    root = Path(folder)
    keep_result(root, "evaluation", result, facts, data)
    return write_text(
        root / "report.html",
        render_evaluate_report(
            result, facts, [_with_pictures(root, row) for row in examples], data
        ),
    )


def render_evaluate_report(
    result: Mapping[str, Any],
    facts: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
    data: DatasetSummary | Mapping[str, str] | None = None,
) -> str:
    """Render the page.

    Args:
        result: Result of the evaluation, as plain values.
        facts: Settings to print.
        examples: Rows with their pictures as data URIs under ``uris``.
        data: What the data were taken for; also in words by heading.

    Returns:
        The page as HTML.
    """
    clean, robust = (
        RateInterval(**result["clean_accuracy"]),
        RateInterval(**result["robust_accuracy"]),
    )
    model, attacks = facts.get("victim", "a model"), str(facts.get("attacks", ENSEMBLE))
    alone = attacks if attacks != ENSEMBLE else None

    return render_page(
        "evaluate.html.j2",
        title=f"Robust accuracy of {model}" if alone is None else f"{model} under {alone} alone",
        alone=alone,
        threat=f"{facts.get('threat', '')}",
        clean=clean,
        robust=robust,
        result=result,
        attacks=_attacks(result),
        unbroken=unbroken_in_words(spent) if (spent := result.get("spent_on_unbroken")) else "",
        curve=curve_chart(result["curve"], str(facts.get("norm", "")))
        if len(result["curve"]) > 1
        else None,
        examples=examples,
        facts=facts,
        data=facts_of_data(data),
    )


def _attacks(result: Mapping[str, Any]) -> list[tuple[str, int, RateInterval]]:
    """Return each attack with the images it broke and the accuracy that remained after it."""
    n = int(result["clean_accuracy"]["n"])
    unbroken = round(result["clean_accuracy"]["rate"] * n) if n else 0

    table = [("none", 0, wilson_interval(unbroken, n))]
    for name, count in result["broken_by"].items():
        unbroken -= count
        table.append((name, count, wilson_interval(unbroken, n)))
    return table


def curve_chart(points: Sequence[Mapping[str, Any]], norm: str) -> Markup:
    """Draw robust accuracy over epsilon: one of ``points`` a radius with its interval, joined by
    lines.

    ``norm`` names the norm on the axis.
    """
    left, top, right, bottom = 46.0, 10.0, WIDTH - 32.0, 210.0
    widest = max(p["eps"] for p in points) or 1.0
    places = [
        (left + p["eps"] / widest * (right - left), bottom - p["rate"] * (bottom - top))
        for p in points
    ]

    parts: list[str] = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - share * (bottom - top)
        parts += [
            svg_line(left, y, right, y),
            svg_text(left - 6, y + 4, format_percent(share, 0), at="end", fill=MUTED, size=12),
        ]

    for (x0, y0), (x1, y1) in pairwise(places):
        parts.append(svg_line(x0, y0, x1, y1, stroke=COLOR, width=1.5))

    for (x, y), point in zip(places, points, strict=True):
        low, high = (bottom - point[k] * (bottom - top) for k in ("low", "high"))
        rate = RateInterval(point["rate"], point["low"], point["high"], int(point["n"]))
        parts += [
            svg_line(x, low, x, high, stroke=COLOR, width=2),
            block_marker(x, y, "clean", COLOR, f"epsilon {format_eps(point['eps'], 6)}: {rate}"),
        ]
        parts.append(
            svg_text(x, bottom + 17, format_eps(point["eps"], 6), at="middle", fill=MUTED, size=12)
        )
    parts.append(
        svg_text(
            (left + right) / 2, bottom + 35, f"epsilon ({norm})", at="middle", fill=MUTED, size=12
        )
    )
    return svg_chart(bottom + 44, parts, "Robust accuracy over epsilon")


def _with_pictures(root: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    uris = {}
    for part in ("clean", "adversarial", "change"):
        uris[part] = member_uri(root, f"examples/{row['index']}-{part}.png")
    return {**row, "uris": uris}
