"""Figures of a study as SVG: pure functions from their description to Markup.

Series differ by color, by the shape of their marks and by dashes, so that a figure reads without
color. Points are reached by pointer and keyboard, and say their values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise
from math import ceil, cos, isfinite, pi, sin

from markupsafe import Markup

from physadv.core.page_colors import ink_on_ramp, ramp_color
from physadv.core.visible_text import visible_text
from physadv.report.design import INK, LINE, MUTED, PAPER
from physadv.report.scales import Scale, format_tick, scale_of
from physadv.report.svg import WIDTH, svg_chart, svg_line, svg_rect, svg_text, text_width
from physadv.studies.page import Axis, Chart, Matrix, Pair, Pictures, Plane, Point, Series, Shape

SERIES_COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#b0568f",
    "#8a6d00",
    "#3d8fc4",
    "#5b6875",
    "#7a3fb0",
)
"""Colors after Okabe and Ito (2008), darkened where a line of theirs is pale on white."""
DARK_SERIES_COLORS = (
    "#5db3e8",
    "#ff9a4d",
    "#3ecf9b",
    "#e08fc0",
    "#d9b400",
    "#9ccdf0",
    "#a7b3bf",
    "#b98ce6",
)
"""The same colors, light enough for a dark page."""
SERIES_VARIABLES = tuple(f"var(--series-{i}, {c})" for i, c in enumerate(SERIES_COLORS))

_LEGEND_ROW = 17.0
_SHAPES = ("circle", "square", "diamond", "up", "down", "plus", "circle", "square")


def chart_svg(chart: Chart) -> Markup:
    """Draw ``chart`` 480 units wide: axes, series with their intervals, legend above."""
    numbers = _color_numbers(chart.series)
    legend = [
        (s.label, number, s.source, s.style)
        for s, number in zip(chart.series, numbers, strict=True)
    ]
    top = 8 + _legend_height([label for label, *_ in legend])
    right, bottom = WIDTH - 14.0, top + 220.0

    points = [p for s in chart.series for p in s.points]
    highs = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    if any(s.style == "bars" for s in chart.series) and chart.y.scale == "linear":
        highs.append(0.0)
    y = scale_of(chart.y, highs, bottom, top)
    x = scale_of(chart.x, [p.x for p in points], _left_of(y), right)
    if any(s.style == "bars" for s in chart.series):
        x = _with_room_for_bars(x, chart)

    parts = [*_legend(legend), *_frame(x, y)]
    for number, (at, words) in enumerate(chart.verticals):
        # At the right edge the words stand left of their line.
        fits = x(at) + 4 + text_width(words, 11) <= WIDTH
        side, gap = ("start", 4) if fits else ("end", -4)
        height = top + 11 + 13 * (number % 3)
        parts += [
            svg_line(x(at), top, x(at), bottom, stroke=MUTED, dash="2 3"),
            svg_text(x(at) + gap, height, words, at=side, fill=MUTED, size=11),
        ]
    bars = [i for i, s in enumerate(chart.series) if s.style == "bars"]
    ranks = ("band", "bars")  # what covers an area lies under lines and marks
    order = sorted(
        range(len(chart.series)),
        key=lambda i: ranks.index(chart.series[i].style) if chart.series[i].style in ranks else 2,
    )
    for i in order:
        share = (bars.index(i), len(bars)) if i in bars else (0, 1)
        parts += _series(chart.series[i], numbers[i], x, y, share)
    return svg_chart(bottom + 42, parts, chart.caption)


def _left_of(y: Scale) -> float:
    """Where a chart begins: right of the axis's label and values."""
    words = (format_tick(value, percent=y.axis.percent) for value in y.ticks())
    return max(56.0, 26 + max((text_width(word, 11) for word in words), default=0.0))


def _color_numbers(series: Sequence[Series]) -> list[int]:
    """The number of each series' color and mark; one that is like another has that one's."""
    numbers: dict[str, int] = {}
    found = []
    for one in series:
        number = numbers.get(one.like, len(set(numbers.values())))
        numbers.setdefault(one.label, number)
        found.append(number)
    return found


def _with_room_for_bars(x: Scale, chart: Chart) -> Scale:
    """The scale with half a bar's room at both ends."""
    places = sorted({p.x for s in chart.series for p in s.points if isfinite(p.x)})
    if not places or (chart.x.scale == "log" and places[0] <= 0):
        return x
    if chart.x.scale == "log":
        ratio = min((b / a for a, b in pairwise(places)), default=2.0) ** 0.5
        return Scale(x.axis, places[0] / ratio, places[-1] * ratio, x.start, x.end)
    room = min((b - a for a, b in pairwise(places)), default=1.0) / 2
    return Scale(x.axis, places[0] - room, places[-1] + room, x.start, x.end)


def _legend_height(labels: Sequence[str]) -> float:
    return _LEGEND_ROW * (len(_legend_rows(labels)))


def _legend_rows(labels: Sequence[str]) -> list[list[int]]:
    """Numbers of the labels in each row of the legend."""
    rows: list[list[int]] = []
    used = float(WIDTH)
    for number, label in enumerate(labels):
        width = _entry_width(label)
        if used + width > WIDTH - 56:
            rows.append([])
            used = 0.0
        rows[-1].append(number)
        used += width
    return rows


def _entry_width(label: str) -> float:
    return 40 + text_width(label, 12)


def _legend(entries: Sequence[tuple[str, int, str, str]]) -> list[str]:
    parts = []
    for row, numbers in enumerate(_legend_rows([label for label, *_ in entries])):
        at, y = 56.0, 9 + _LEGEND_ROW * row
        for number in numbers:
            label, index, source, style = entries[number]
            parts += _key(at, y, index, source, style)
            parts.append(svg_text(at + 26, y + 4, label, size=12))
            at += _entry_width(label)
    return parts


def _key(x: float, y: float, index: int, source: str, style: str) -> list[str]:
    color = SERIES_VARIABLES[index % 8]
    if style in ("bars", "band", "region"):
        return [svg_rect(x + 4, y - 5, 14, 10, color)]
    parts = []
    if style in ("line", "curve", "polygon", "path"):
        dash = "5 3" if source == "theory" else ""
        parts.append(svg_line(x, y, x + 22, y, stroke=color, width=2, dash=dash))
    if style in ("line", "points"):
        parts.append(mark(x + 11, y, index, hollow=source == "published"))
    return parts


def _frame(x: Scale, y: Scale, *, grid: bool = True) -> list[str]:
    """Grid, written values and names of both axes."""
    left, right, bottom, top = x.start, x.end, y.start, y.end
    parts = []
    for value in y.ticks():
        at = y(value)
        words = format_tick(value, percent=y.axis.percent)
        parts.append(svg_line(left, at, right, at) if grid else svg_line(left - 4, at, left, at))
        parts.append(svg_text(left - 6, at + 4, words, at="end", fill=MUTED, size=11))
    for value in x.ticks():
        at = x(value)
        words = format_tick(value, percent=x.axis.percent)
        parts.append(svg_line(at, bottom, at, bottom + 4, stroke=MUTED))
        inside = min(at, WIDTH - 3.5 * len(words))  # the last label may be wider than the margin
        parts.append(svg_text(inside, bottom + 16, words, at="middle", fill=MUTED, size=11))

    parts.append(svg_line(left, bottom, right, bottom, stroke=MUTED))
    middle = (left + right) / 2
    parts.append(svg_text(middle, bottom + 34, x.axis.label, at="middle", fill=MUTED, size=12))
    height = (top + bottom) / 2
    label = svg_text(12, height, y.axis.label, at="middle", fill=MUTED, size=12)
    parts.append(f'<g transform="rotate(-90 12 {height:.1f})">{label}</g>')
    return parts


def _series(series: Series, index: int, x: Scale, y: Scale, share: tuple[int, int]) -> list[str]:
    color = SERIES_VARIABLES[index % 8]
    points = [p for p in series.points if isfinite(p.x) and isfinite(p.y)]
    if series.style == "band":
        edge = [(x(p.x), y(_high(p))) for p in points]
        edge += [(x(p.x), y(_low(p))) for p in reversed(points)]
        return [f'<polygon points="{_joined(edge)}" fill="{color}" fill-opacity="0.22"/>']
    if series.style == "bars":
        return _bars(series, color, x, y, share)

    parts = []
    if series.style in ("line", "curve") and len(points) > 1:
        dash = ' stroke-dasharray="6 4"' if series.source == "theory" else ""
        parts.append(
            f'<polyline points="{_joined([(x(p.x), y(p.y)) for p in points])}" fill="none" '
            f'stroke="{color}" stroke-width="2" stroke-linejoin="round"{dash}/>'
        )
    if series.style != "curve":
        for point in points:
            if point.low is not None and point.high is not None:
                parts.append(
                    svg_line(
                        *(x(point.x), y(point.low), x(point.x), y(point.high)),
                        stroke=color,
                        width=1.5,
                    )
                )
            hint = _hint(series, point, x.axis, y.axis)
            parts.append(
                mark(x(point.x), y(point.y), index, hollow=series.source == "published", hint=hint)
            )
    return parts


def _bars(series: Series, color: str, x: Scale, y: Scale, share: tuple[int, int]) -> list[str]:
    number, count = share
    places = sorted({p.x for p in series.points})
    gaps = [x(b) - x(a) for a, b in pairwise(places)]
    wide = 0.8 * min(gaps, default=x.end - x.start) / count
    base, parts = y(0.0 if y.axis.scale == "linear" else y.low), []

    for point in series.points:
        left = x(point.x) - 0.5 * wide * count + wide * number
        top, low = sorted((y(point.y), base))
        hint = _hint(series, point, x.axis, y.axis)
        parts.append(svg_rect(left + 0.5, top, wide - 1, low - top, color, hint=hint))
        if point.low is not None and point.high is not None:
            at = left + wide / 2
            parts.append(svg_line(at, y(point.low), at, y(point.high), stroke=INK, width=1.5))
    return parts


def _low(point: Point) -> float:
    return point.y if point.low is None else point.low


def _high(point: Point) -> float:
    return point.y if point.high is None else point.high


def _hint(series: Series, point: Point, x: Axis, y: Axis) -> str:
    if point.hint:
        return point.hint
    value = f"{100 * point.y:.1f} %" if y.percent else f"{point.y:.4g}"
    at = f"{100 * point.x:.1f} %" if x.percent else f"{point.x:.4g}"
    text = f"{series.label}: {value} at {x.label} {at}"
    if point.low is None or point.high is None:
        return text
    scale, unit = (100, " %") if y.percent else (1, "")
    return f"{text}; 95 % interval {scale * point.low:.3g} to {scale * point.high:.3g}{unit}"


def mark(x: float, y: float, index: int, *, hollow: bool = False, hint: str = "") -> str:
    """Return the mark of the series number ``index``.

    Args:
        x: Center in chart units.
        y: Center in chart units.
        index: Number of the series, which decides color and shape.
        hollow: Whether only its outline is drawn, as for published figures.
        hint: What it says under the pointer, to the keyboard and to screen readers.
    """
    color = SERIES_VARIABLES[index % 8]
    fill = f'fill="{PAPER}" stroke="{color}" stroke-width="1.8"' if hollow else f'fill="{color}"'
    title = f"<title>{escape(visible_text(hint))}</title>" if hint else ""

    shape = _SHAPES[index % 8]
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2" {fill}>{title}</circle>'
    corners: Sequence[Pair] = {
        "square": [(-3.9, -3.9), (3.9, -3.9), (3.9, 3.9), (-3.9, 3.9)],
        "diamond": [(0.0, -5.4), (5.4, 0.0), (0.0, 5.4), (-5.4, 0.0)],
        "up": [(0.0, -5.2), (5.0, 4.0), (-5.0, 4.0)],
        "down": [(0.0, 5.2), (5.0, -4.0), (-5.0, -4.0)],
        "plus": _plus(),
    }[shape]
    moved = _joined([(x + a, y + b) for a, b in corners])
    return f'<polygon points="{moved}" {fill}>{title}</polygon>'


def _plus(arm: float = 5.0, half: float = 1.7) -> list[Pair]:
    quarter = [(half, -arm), (half, -half), (arm, -half)]
    turned: list[Pair] = []
    for turn in range(4):
        angle = turn * pi / 2
        turned += [
            (a * cos(angle) - b * sin(angle), a * sin(angle) + b * cos(angle)) for a, b in quarter
        ]
    return turned


def _joined(points: Sequence[Pair]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def matrix_svg(matrix: Matrix) -> Markup:
    """Draw ``matrix`` as shaded cells with their numbers; cells without a value are dashes."""
    label_width = min(170.0, 12 + 6.8 * max(map(len, matrix.rows), default=1))
    high = 36.0 if matrix.notes else 30.0
    aside = _wrapped(matrix.row_label, high * len(matrix.rows), 12) if matrix.row_label else []
    left = label_width + (4 + 14 * len(aside) if aside else 0)
    wide = min(96.0, (WIDTH - 8 - left) / max(len(matrix.columns), 1))
    lines = max((len(_wrapped(name, wide, 11)) for name in matrix.columns), default=1)
    top = 14.0 * lines + (30 if matrix.column_label else 12)

    parts = []
    if matrix.column_label:
        middle = left + wide * len(matrix.columns) / 2
        parts.append(svg_text(middle, 13, matrix.column_label, at="middle", fill=MUTED, size=12))
    for j, name in enumerate(matrix.columns):
        for k, line in enumerate(reversed(_wrapped(name, wide, 11))):
            at = left + (j + 0.5) * wide
            parts.append(svg_text(at, top - 7 - 13 * k, line, at="middle", size=11))
    for i, name in enumerate(matrix.rows):
        y = top + i * high
        parts.append(svg_text(left - 8, y + high / 2 + 4, name, at="end", size=12))
        for j in range(len(matrix.columns)):
            parts += _matrix_cell(matrix, i, j, left + j * wide, y, wide, high)
    middle = top + high * len(matrix.rows) / 2
    for k, line in enumerate(aside):
        words = svg_text(12, middle + 14 * k, line, at="middle", fill=MUTED, size=12)
        parts.append(f'<g transform="rotate(-90 12 {middle:.1f})">{words}</g>')
    return svg_chart(top + high * len(matrix.rows) + 6, parts, matrix.caption)


def _matrix_cell(
    matrix: Matrix, i: int, j: int, x: float, y: float, wide: float, high: float
) -> list[str]:
    value = matrix.values[i][j]
    where = f"{matrix.rows[i]}, {matrix.columns[j]}"
    if value is None:
        return [
            svg_rect(x + 1, y + 1, wide - 2, high - 2, "none", stroke=LINE, hint=where),
            svg_text(x + wide / 2, y + high / 2 + 4, "–", at="middle", fill=MUTED),
        ]
    share = min(max((value - matrix.low) / (matrix.high - matrix.low), 0.0), 1.0)
    words = f"{100 * value:.0f} %" if matrix.percent else f"{value:.3g}"
    note = matrix.notes[i][j] if matrix.notes else ""
    hint = f"{where}: {words}{', ' + note if note else ''}"
    raised, ink = 2 if note else 5, ink_on_ramp(share)
    parts = [
        svg_rect(x + 1, y + 1, wide - 2, high - 2, ramp_color(share), stroke=LINE, hint=hint),
        svg_text(
            x + wide / 2,
            y + high / 2 + raised,
            words,
            at="middle",
            fill=ink,
            bold=True,
        ),
    ]
    if note:
        parts.append(
            svg_text(
                *(x + wide / 2, y + high / 2 + 14, note),
                at="middle",
                fill=ink,
                size=min(10.0, (wide - 4) / text_width(note, 1)),
            )
        )
    return parts


def _wrapped(name: str, wide: float, size: float, *, bold: bool = False) -> list[str]:
    """``name`` in lines of at most ``wide`` chart units, broken at spaces."""
    lines = [""]
    for word in name.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, size, bold=bold) > wide:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def plane_svg(plane: Plane, picture: Callable[[str], str]) -> Markup:
    """Draw ``plane`` with its background.

    Args:
        plane: The plane; its axes have ends.
        picture: Returns the data URI of a picture of the run.
    """
    colors = [i if s.color is None else s.color for i, s in enumerate(plane.shapes)]
    keys = [(s.label, c, s.source, s.kind) for c, s in zip(colors, plane.shapes, strict=True)]
    labels = [label for label, *_ in keys] + [name for name, _ in plane.regions]
    top = 8 + _legend_height(labels)
    left, right = 56.0, WIDTH - 14.0
    values = [p for shape in plane.shapes for p in shape.points]
    x = scale_of(plane.x, [p[0] for p in values], left, right)
    y_span = scale_of(plane.y, [p[1] for p in values], 1.0, 0.0)

    height = 330.0
    if plane.equal:
        unit = (right - left) / (x.high - x.low)
        tall = unit * (y_span.high - y_span.low)
        if tall > 400:
            right = left + (right - left) * 400 / tall
            x, tall = Scale(x.axis, x.low, x.high, left, right), 400.0
        height = tall
    y = Scale(y_span.axis, y_span.low, y_span.high, top + height, top)

    parts = _plane_legend(plane, keys)
    if plane.background:
        parts.append(
            f'<image x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{height:.1f}" preserveAspectRatio="none" href="{picture(plane.background)}"/>'
        )
    parts += _frame(x, y, grid=not plane.background)
    for color, shape in zip(colors, plane.shapes, strict=True):
        parts += _shape(shape, color, x, y)
    return svg_chart(top + height + 42, parts, plane.caption)


def _plane_legend(plane: Plane, keys: Sequence[tuple[str, int, str, str]]) -> list[str]:
    parts = []
    labels = [label for label, *_ in keys] + [name for name, _ in plane.regions]
    for row, numbers in enumerate(_legend_rows(labels)):
        at, y = 56.0, 9 + _LEGEND_ROW * row
        for number in numbers:
            if number < len(keys):
                _, index, source, kind = keys[number]
                parts += _key(at, y, index, source, kind)
            else:
                color = plane.regions[number - len(keys)][1]
                parts.append(svg_rect(at + 4, y - 5, 14, 10, color, stroke=LINE))
            parts.append(svg_text(at + 26, y + 4, labels[number], size=12))
            at += _entry_width(labels[number])
    return parts


def _shape(shape: Shape, index: int, x: Scale, y: Scale) -> list[str]:
    color = SERIES_VARIABLES[index % 8]
    points = [(x(a), y(b)) for a, b in shape.points]
    if shape.kind == "points":
        hollow = shape.source == "published"
        return [
            mark(px, py, index, hollow=hollow, hint=f"{shape.label}: {a:.4g}, {b:.4g}")
            for (px, py), (a, b) in zip(points, shape.points, strict=True)
        ]
    dash = ' stroke-dasharray="6 4"' if shape.source == "theory" else ""
    tag = "polygon" if shape.kind == "polygon" else "polyline"
    fill = f'fill="{color}" fill-opacity="0.16"' if shape.kind == "polygon" else 'fill="none"'
    title = f"<title>{escape(visible_text(shape.label))}</title>"
    return [
        f'<{tag} points="{_joined(points)}" {fill} stroke="{color}" stroke-width="2" '
        f'stroke-linejoin="round"{dash}>{title}</{tag}>'
    ]


def pictures_svg(figure: Pictures, picture: Callable[[str], tuple[str, float]]) -> Markup:
    """Draw pictures in a grid, each as wide as its column.

    Args:
        figure: The pictures.
        picture: Returns the data URI of a picture of the run, and its height over its width.
    """
    columns = max(map(len, figure.rows), default=1)
    gap = 8.0
    wide = min(150.0, (WIDTH - gap * (columns - 1)) / columns)
    words = [w for row in figure.rows for p in row for w in f"{p.label} {p.detail}".split()]
    widest = max((text_width(word, 1, bold=True) for word in words), default=1.0)
    size = max(6.0, min(11.5 if wide >= 70 else 9.5, wide / widest))
    style = ' style="image-rendering:pixelated"' if figure.pixelated else ""

    parts, y = [], 0.0
    for row in figure.rows:
        drawn = [picture(item.file) for item in row]
        tall = max((wide * aspect for _, aspect in drawn), default=0.0)
        labels = [_wrapped(item.label, wide, size, bold=True) for item in row]
        details = [_wrapped(item.detail, wide, size) if item.detail else [] for item in row]
        for j, (uri, aspect) in enumerate(drawn):
            x = j * (wide + gap)
            parts.append(
                f'<image x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{wide * aspect:.1f}"'
                f'{style} href="{uri}"/>'
            )
            for k, line in enumerate(labels[j]):
                parts.append(svg_text(x, y + tall + 14 + 13 * k, line, size=size, bold=True))
            for k, line in enumerate(details[j]):
                at = y + tall + 14 + 13 * (k + len(labels[j]))
                parts.append(svg_text(x, at, line, size=size, fill=MUTED))
        text_lines = max((len(a) + len(b) for a, b in zip(labels, details, strict=True)), default=0)
        y += tall + 13.0 * text_lines + 14
    if not parts:
        return svg_chart(24, [svg_text(0, 16, "nothing to show", fill=MUTED)], figure.caption)
    return svg_chart(y, parts, figure.caption, WIDTH)


def standalone_svg(drawing: Markup, *, colors: Mapping[str, str] | None = None) -> str:
    """Return an SVG file of ``drawing``: on white, with colors and fonts of its own.

    Args:
        drawing: Chart as the functions of this module return it.
        colors: Values of the design's variables, by name without dashes; their fallbacks, those
            of the light design, where missing.
    """
    values = colors or {}
    text = re.sub(
        r"var\(--([\w-]+),\s*([^()]+)\)", lambda m: values.get(m[1], m[2].strip()), str(drawing)
    )
    text = text.replace('font-family="inherit"', f'font-family="{FIGURE_FONTS}"', 1)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    if size is None:
        return text
    width, height = float(size[1]), float(size[2])
    opening = text.index(">") + 1
    under = f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>'
    head = text[:opening].replace(
        "<svg ",
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{ceil(width)}" height="{ceil(height)}" ',
        1,
    )
    return head + under + text[opening:]


FIGURE_FONTS = "DejaVu Sans, Bitstream Vera Sans, Verdana, sans-serif"
"""Fonts of a figure in a file of its own."""
