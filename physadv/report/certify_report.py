"""Report of a certification: certified accuracy at the requested radius, and the curve over all
radii."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log10
from pathlib import Path
from typing import Any

from markupsafe import Markup

from physadv.core.files import write_text
from physadv.core.page_colors import page_color
from physadv.core.rows import Row
from physadv.core.wording import format_percent
from physadv.datasets import DatasetSummary
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.report.design import MUTED, render_page
from physadv.report.kept_results import facts_of_data, keep_result
from physadv.report.svg import WIDTH, svg_chart, svg_line, svg_text
from physadv.threat.parsing import format_eps

COLOR, BAND = page_color("clean"), page_color("band")
MOST_STEPS = 400


def write_certify_report(
    folder: str | Path,
    result: Mapping[str, Any],
    facts: Mapping[str, Any],
    rows: Sequence[Row],
    data: DatasetSummary | Mapping[str, str] | None = None,
) -> Path:
    """Write ``folder``/report.html, and the result beside it as report.json.

    Args:
        folder: Folder of the run.
        result: Rates and curve of the certification, as plain values.
        facts: Settings to print.
        rows: One row an image: predicted, label, radius.
        data: What the data were taken for; also in words by heading.

    Returns:
        Path of the report.
    """
    keep_result(Path(folder), "certification", result, facts, data)
    return write_text(
        Path(folder) / "report.html", render_certify_report(result, facts, rows, data)
    )


def render_certify_report(
    result: Mapping[str, Any],
    facts: Mapping[str, Any],
    rows: Sequence[Row],
    data: DatasetSummary | Mapping[str, str] | None = None,
) -> str:
    """Render the page.

    Args:
        result: Rates and curve of the certification, as plain values.
        facts: Settings to print.
        rows: One row an image: predicted, label, radius.
        data: What the data were taken for; also in words by heading.

    Returns:
        The page as HTML.
    """
    return render_page(
        "certify.html.j2",
        title=f"Certified accuracy of {facts.get('victim', 'a model')}",
        certified=RateInterval(**result["certified_accuracy"]),
        accuracy=RateInterval(**result["accuracy"]),
        result=result,
        facts=facts,
        data=facts_of_data(data),
        curve=_curve(result, facts, rows),
    )


def _curve(
    result: Mapping[str, Any], facts: Mapping[str, Any], rows: Sequence[Row]
) -> Markup | None:
    """Return the curve; None for patches, where a size is either certified or not."""
    if not rows or facts.get("method") == "patch":
        return None
    asked = max((float(point["radius"]) for point in result["curve"]), default=0.0)
    return certified_curve(rows, str(facts.get("norm", "")), asked)


def certified_curve(rows: Sequence[Row], norm: str, requested: float = 0.0) -> Markup:
    """Draw certified accuracy over the radius as steps, in its 95 % Wilson band.

    Args:
        rows: One row an image: predicted, label, radius.
        norm: Name of the norm, for the axis.
        requested: Radius that the axis reaches at least.

    Returns:
        The chart as SVG.
    """
    radii = [float(r["radius"]) for r in rows if r["predicted"] == r["label"]]
    steps = sorted(set(radii))
    steps = steps[:: max(1, len(steps) // MOST_STEPS)]
    widest = (max([*steps, requested]) or 1.0) * 1.05
    rates = [wilson_interval(sum(h >= s for h in radii), len(rows)) for s in steps]

    left, top, right, bottom = 46.0, 10.0, WIDTH - 32.0, 210.0

    def across(radius: float) -> float:
        return left + radius / widest * (right - left)

    def down(share: float) -> float:
        return bottom - share * (bottom - top)

    def stairs(shares: Sequence[float]) -> list[tuple[float, float]]:
        points = [(left, down(shares[0] if shares else 0.0))]
        for step, share, following in zip(steps, shares, [*shares[1:], 0.0], strict=False):
            points += [(across(step), down(share)), (across(step), down(following))]
        return points

    parts: list[str] = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [svg_line(left, down(share), right, down(share))]
        parts += [
            svg_text(
                left - 6,
                down(share) + 4,
                format_percent(share, 0),
                at="end",
                fill=MUTED,
                size=12,
            )
        ]

    band = stairs([r.high for r in rates]) + stairs([r.low for r in rates])[::-1]
    parts.append(f'<polygon points="{_points(band)}" fill="{BAND}"/>')
    middle = _points(stairs([r.rate for r in rates]))
    parts.append(f'<polyline points="{middle}" fill="none" stroke="{COLOR}" stroke-width="2"/>')

    # Radii of images of 8 bits are told in their steps, as they are typed.
    unit = 1 / 255 if norm == "linf" and "/" in format_eps(requested) else 1.0
    for tick in round_steps(widest / unit):
        label = f"{tick:.3g}/255" if unit < 1 and tick else f"{tick:.3g}"
        parts.append(
            svg_text(across(tick * unit), bottom + 17, label, at="middle", fill=MUTED, size=12)
        )
    parts.append(
        svg_text(
            (left + right) / 2, bottom + 35, f"radius ({norm})", at="middle", fill=MUTED, size=12
        )
    )
    return svg_chart(bottom + 44, parts, "Certified accuracy over the radius")


def round_steps(widest: float) -> list[float]:
    """Return ticks from 0 up to ``widest`` in steps of 1, 2 or 5 times a power of ten, four to
    eight of them.

    Example:
        >>> round_steps(10.0)
        [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    power = 10.0 ** floor(log10(widest / 4))
    step = next(power * m for m in (1, 2, 5, 10) if widest / (power * m) <= 8)
    return [step * i for i in range(int(widest / step + 1e-9) + 1)]


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
