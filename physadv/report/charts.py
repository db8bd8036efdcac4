"""Charts of a check as SVG: pure functions from rates and rows to Markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from markupsafe import Markup

from physadv.check.rates import BlockRates
from physadv.core.page_colors import ink_on_ramp, page_color, ramp_color
from physadv.core.rows import Row
from physadv.core.wording import format_percent
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.report.bins import RateGrid
from physadv.report.design import BLOCK_COLORS, LINE, MUTED, WASH
from physadv.report.svg import (
    WIDTH,
    block_marker,
    hatch_pattern,
    percent_axis,
    svg_chart,
    svg_line,
    svg_rect,
    svg_text,
)


def block_chart(table: Mapping[str, BlockRates]) -> Markup:
    """Draw one line for each block of ``table``: success rate and interval."""
    left, right, row = 70.0, WIDTH - 22.0, 34.0
    bottom = 10 + row * len(table)
    parts = percent_axis(left, right, 6, bottom)
    for number, (block, rates) in enumerate(table.items()):
        y = 10 + row * (number + 0.5)
        parts += [
            svg_text(left - 12, y + 4, block, at="end"),
            *_whisker(left, right, y, block, rates.attack),
        ]
    return svg_chart(bottom + 24, parts, "How often the goal was met, by block")


def _whisker(left: float, right: float, y: float, block: str, rate: RateInterval) -> list[str]:
    color, width = BLOCK_COLORS[block], right - left
    x0, x1, x = (left + share * width for share in (rate.low, rate.high, rate.rate))
    bar = [svg_line(x0, y, x1, y, stroke=color, width=2.5)]
    ends = [svg_line(end, y - 5, end, y + 5, stroke=color, width=2.5) for end in (x0, x1)]
    return [*bar, *ends, block_marker(x, y, block, color, f"{block}: {rate}")]


def heat_map(grid: RateGrid, name: str = "heat") -> Markup:
    """Draw rate and n by distance (upwards) and yaw (to the right), hatched where nothing was
    measured.

    ``grid`` holds the rates; ``name`` identifies the hatching within the page.
    """
    left, top, right = 62.0, 10.0, WIDTH - 18.0
    wide = (right - left) / (len(grid.yaws) - 1)
    high = min(46.0, max(34.0, wide * 0.75))
    bottom = top + high * (len(grid.distances) - 1)

    parts = [hatch_pattern(name)]
    for i, row in enumerate(grid.cells):
        for j, cell in enumerate(row):
            where = (
                f"{grid.distances[i]:g} to {grid.distances[i + 1]:g} m, "
                f"{grid.yaws[j]:g}° to {grid.yaws[j + 1]:g}°"
            )
            at = left + j * wide, bottom - (i + 1) * high, wide, high
            parts += _cell(*at, cell, name, where)

    for j, yaw in enumerate(grid.yaws):
        parts.append(
            svg_text(left + j * wide, bottom + 15, f"{yaw:g}°", at="middle", fill=MUTED, size=12)
        )
    for i, distance in enumerate(grid.distances):
        parts.append(
            svg_text(
                left - 6, bottom - i * high + 4, f"{distance:g} m", at="end", fill=MUTED, size=11
            )
        )
    parts.append(
        svg_text(
            (left + right) / 2, bottom + 33, "yaw of the sign", at="middle", fill=MUTED, size=12
        )
    )

    middle = (top + bottom) / 2
    label = svg_text(12, middle, "distance", at="middle", fill=MUTED, size=12)
    parts.append(f'<g transform="rotate(-90 12 {middle:.1f})">{label}</g>')
    return svg_chart(bottom + 42, parts, "Success by distance and yaw, with n in each cell")


def _cell(
    x: float, y: float, w: float, h: float, cell: RateInterval | None, name: str, where: str
) -> list[str]:
    box = x + 1, y + 1, w - 2, h - 2
    if cell is None:
        return [svg_rect(*box, f"url(#{name})", stroke=LINE, hint=f"{where}: not measured")]
    ink = ink_on_ramp(cell.rate)
    return [
        svg_rect(*box, ramp_color(cell.rate), stroke=LINE, hint=f"{where}: {cell}"),
        svg_text(
            x + w / 2,
            y + h / 2 + 1,
            format_percent(cell.rate, 0),
            at="middle",
            fill=ink,
            bold=True,
        ),
        svg_text(x + w / 2, y + h / 2 + 14, f"n {cell.n}", at="middle", fill=ink, size=10.5),
    ]


def rate_along(
    rates: Mapping[str, Sequence[RateInterval | None]],
    bounds: Sequence[float],
    unit: str,
    label: str,
) -> Markup:
    """Draw the success rate of each block over distance or size, with intervals; bins are equally
    wide.

    Args:
        rates: Rates by block, one a bin.
        bounds: Edges of the bins.
        unit: Unit for the axis.
        label: Quantity for the axis and the title.

    Returns:
        The chart as SVG.
    """
    left, top, right, bottom = 46.0, 10.0, WIDTH - 18.0, 190.0
    wide = (right - left) / (len(bounds) - 1)

    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - share * (bottom - top)
        parts += [
            svg_line(left, y, right, y),
            svg_text(left - 6, y + 4, format_percent(share, 0), at="end", fill=MUTED, size=12),
        ]

    parts += _bin_labels(bounds, left, wide, bottom)

    for number, (block, values) in enumerate(rates.items()):
        shift = (number - (len(rates) - 1) / 2) * min(14.0, wide / 4)
        for j, value in enumerate(values):
            if value is not None:
                hint = f"{block}, {bounds[j]:g} to {bounds[j + 1]:g} {unit}: {value}"
                at = left + (j + 0.5) * wide + shift
                parts += _upright(at, top, bottom, block, value, hint)
    parts.append(
        svg_text(
            (left + right) / 2, bottom + 35, f"{label} ({unit})", at="middle", fill=MUTED, size=12
        )
    )
    return svg_chart(bottom + 44, parts, f"Success by {label}")


def _bin_labels(bounds: Sequence[float], left: float, wide: float, y: float) -> list[str]:
    """Label the edges of bins that are ``wide``, or, where there is one bin, its whole range."""
    if len(bounds) == 2:
        words = f"{bounds[0]:g} to {bounds[1]:g}"
        return [svg_text(left + wide / 2, y + 17, words, at="middle", fill=MUTED, size=12)]

    parts = []
    widest = 7.0 * max(len(f"{bound:g}") for bound in bounds) + 6
    every = ceil(widest / wide)  # labels that would touch are left out, counted from the largest
    for j, bound in enumerate(bounds):
        x = left + j * wide
        parts.append(svg_line(x, y, x, y + 4, stroke=MUTED))
        if (len(bounds) - 1 - j) % every == 0:
            parts.append(svg_text(x, y + 17, f"{bound:g}", at="middle", fill=MUTED, size=12))
    return parts


def _upright(
    x: float, top: float, bottom: float, block: str, rate: RateInterval, hint: str
) -> list[str]:
    color, height = BLOCK_COLORS[block], bottom - top
    low, high, y = (bottom - share * height for share in (rate.low, rate.high, rate.rate))
    return [
        svg_line(x, low, x, high, stroke=color, width=2),
        block_marker(x, y, block, color, hint),
    ]


def score_strips(
    rows: Mapping[str, Sequence[Row]], threshold: float | None, *, columns: int = 220
) -> Markup:
    """Draw the true class's score frame by frame, one strip a block; thin upright lines separate
    the clips.

    Args:
        rows: Rows by block, in the order of the frames.
        threshold: Score threshold to mark, None for none.
        columns: Largest number of columns a strip.

    Returns:
        The chart as SVG.
    """
    left, right, high, gap = 70.0, WIDTH - 18.0, 62.0, 14.0
    parts: list[str] = []

    for number, (block, own) in enumerate(rows.items()):
        top = 6 + number * (high + gap)
        parts += _strip(block, own, left, right, top, high, columns)
        if threshold is not None:
            y = top + high * (1 - threshold)
            parts.append(svg_line(left, y, right, y, stroke=MUTED, dash="4 3"))
        parts += [
            svg_text(left - 12, top + high / 2 + 4, block, at="end"),
            svg_text(right + 4, top + 9, "1", fill=MUTED, size=10.5),
            svg_text(right + 4, top + high, "0", fill=MUTED, size=10.5),
        ]

    bottom = 6 + len(rows) * (high + gap)
    parts.append(
        svg_text(
            (left + right) / 2,
            bottom + 8,
            "frames, clip after clip",
            at="middle",
            fill=MUTED,
            size=12,
        )
    )
    return svg_chart(bottom + 16, parts, "Score of the true class, frame by frame")


def _strip(
    block: str,
    rows: Sequence[Row],
    left: float,
    right: float,
    top: float,
    high: float,
    columns: int,
) -> list[str]:
    """Draw one strip; a column spans the lowest to the highest score of its frames, so that no
    single failure is averaged away."""
    count = min(columns, len(rows))
    wide = (right - left) / max(count, 1)
    parts = [svg_rect(left, top, right - left, high, WASH)]

    for k in range(count):
        part = rows[k * len(rows) // count : (k + 1) * len(rows) // count]
        scores = [float(r.get("true_score", 0.0)) for r in part]
        y0, y1 = top + high * (1 - max(scores)), top + high * (1 - min(scores))
        parts.append(
            svg_rect(
                left + k * wide, y0 - 1, max(wide, 1.2), max(y1 - y0, 0) + 2, BLOCK_COLORS[block]
            )
        )

    changes = [i for i in range(1, len(rows)) if rows[i]["clip"] != rows[i - 1]["clip"]]
    if len(changes) <= 60:
        x = [left + (right - left) * i / len(rows) for i in changes]
        parts += [
            svg_line(at, top, at, top + high, stroke=page_color("tick"), width=0.8) for at in x
        ]
    return parts
