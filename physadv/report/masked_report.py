"""Report of the gradient masking study: one table and one figure, apparent beside real
robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from physadv.core.files import write_text
from physadv.datasets import DatasetSummary
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.report.design import BLOCK_COLORS, render_page
from physadv.report.kept_results import facts_of_data, keep_result
from physadv.report.svg import WIDTH, block_marker, percent_axis, svg_chart, svg_line, svg_text
from physadv.studies.gradient_masking.study import defense_name

KINDS = {"clean": ("clean", "clean"), "plain": ("blank", "plain attack"), "real": ("patch", "real")}
"""Column -> shape and color of its mark, and its name."""


def write_masked_report(
    folder: str | Path,
    lines: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    data: DatasetSummary | Mapping[str, str] | None = None,
) -> Path:
    """Write ``folder``/report.html from the study's table ``lines``, its settings ``facts``, and
    what its ``data`` were taken for; report.json beside it holds them."""
    keep_result(Path(folder), "masked", {"table": list(lines)}, facts, data)
    return write_text(Path(folder) / "report.html", render_masked_report(lines, facts, data))


def render_masked_report(
    lines: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    data: DatasetSummary | Mapping[str, str] | None = None,
) -> str:
    """Render the page of the study's table ``lines``, its settings ``facts``, and what its ``data``
    were taken for, and return it as HTML."""
    return render_page(
        "masked.html.j2",
        title="Masked gradients: apparent and real robustness",
        lines=[{**line, "name": defense_name(line)} for line in lines],
        facts=facts,
        data=facts_of_data(data),
        figure=_accuracy_figure(lines),
        n=lines[0]["n"] if lines else 0,
    )


def _accuracy_figure(lines: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw one row a defense: circle clean, square plain, diamond real; bars are intervals."""
    left, right, row, top = 200.0, WIDTH - 18.0, 30.0, 30.0
    bottom = top + row * len(lines)
    parts = percent_axis(left, right, top - 4, bottom)

    for k, (kind, name) in enumerate(KINDS.values()):
        parts += [block_marker(left + 12 + k * 95, 12, kind, BLOCK_COLORS[kind])]
        parts.append(svg_text(left + 22 + k * 95, 16, name, size=12))

    for number, entry in enumerate(lines):
        y = top + row * (number + 0.5)
        parts.append(svg_text(left - 12, y + 4, defense_name(entry), at="end", size=11.5))
        for shift, (column, (kind, name)) in zip((-6.0, 0.0, 6.0), KINDS.items(), strict=True):
            rate = RateInterval(**entry[column])
            hint = f"{defense_name(entry)}, {name}: {rate}"
            parts += _mark(left, right, y + shift, kind, rate, hint)
    return svg_chart(
        bottom + 24, parts, "Accuracy clean, under the plain attack, and under every attack", WIDTH
    )


def _mark(
    left: float, right: float, y: float, kind: str, rate: RateInterval, hint: str
) -> list[str]:
    low, high, x = (left + share * (right - left) for share in (rate.low, rate.high, rate.rate))
    color = BLOCK_COLORS[kind]
    return [
        svg_line(low, y, high, y, stroke=color, width=1.6),
        block_marker(x, y, kind, color, hint),
    ]
