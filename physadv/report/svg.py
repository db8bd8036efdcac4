"""SVG elements of the charts.

Charts are 480 units wide, so that text stays legible on a phone. Colors are variables of the page
with their light value as fallback (:mod:`physadv.core.page_colors`), so that a chart follows the
page and can stand alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from markupsafe import Markup

from physadv.core.visible_text import visible_text
from physadv.core.wording import format_percent
from physadv.report.design import INK, LINE, MUTED, PAPER

WIDTH = 480
_EMS = dict.fromkeys("ijl.,:;'|! ", 0.32) | dict.fromkeys("frtI()[]/-", 0.42)
_EMS |= dict.fromkeys("mwMW%@", 0.95)
"""Widths of letters that are far from the mean, in font sizes."""


def svg_chart(height: float, parts: Iterable[str], label: str, width: float = WIDTH) -> Markup:
    """Assemble a chart.

    Args:
        height: Height in chart units.
        parts: SVG elements.
        label: Description for screen readers.
        width: Width in chart units.

    Returns:
        The chart as Markup.
    """
    body = "".join(parts)
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(visible_text(label))}" '
        f'font-family="inherit" font-size="13" fill="{INK}">{body}</svg>'
    )


def svg_text(
    x: float,
    y: float,
    words: str,
    *,
    at: str = "start",
    fill: str = INK,
    size: float = 13,
    bold: bool = False,
) -> str:
    """Return text at its baseline.

    Args:
        x: Anchor in chart units.
        y: Baseline in chart units.
        words: The text, escaped here.
        at: Anchor of ``x``: start, middle or end.
        fill: Color.
        size: Font size in chart units.
        bold: Whether it is semibold.

    Returns:
        SVG element.
    """
    weight = ' font-weight="600"' if bold else ""
    style = f'text-anchor="{at}" fill="{fill}" font-size="{size:g}"{weight}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(visible_text(words))}</text>'


def text_width(words: str, size: float, *, bold: bool = False) -> float:
    """Return about how wide a text is drawn, in a wide sans-serif font.

    Args:
        words: The text.
        size: Font size in chart units.
        bold: Whether it is semibold.

    Returns:
        Width in chart units.

    Example:
        >>> text_width("ill", 10) < text_width("MOM", 10)
        True
    """
    ems = sum(_EMS.get(letter, 0.7 if letter.isupper() else 0.61) for letter in words)
    return ems * size * (1.08 if bold else 1.0)


def svg_line(
    x0: float,
    y0: float,
    x1: float,
    y1: float,
    *,
    stroke: str = LINE,
    width: float = 1,
    dash: str = "",
) -> str:
    """Return a straight line.

    Args:
        x0: Start in chart units.
        y0: Start in chart units.
        x1: End in chart units.
        y1: End in chart units.
        stroke: Color.
        width: Width in chart units.
        dash: Pattern of dashes, solid where empty.

    Returns:
        SVG element.
    """
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    style = f'stroke="{stroke}" stroke-width="{width:g}"{dashes}'
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" {style}/>'


def svg_rect(
    x: float, y: float, w: float, h: float, fill: str, *, stroke: str = "none", hint: str = ""
) -> str:
    """Return a filled rectangle.

    Args:
        x: Left edge in chart units.
        y: Top edge in chart units.
        w: Width in chart units.
        h: Height in chart units.
        fill: Color or pattern.
        stroke: Color of the outline.
        hint: Text shown under the pointer.

    Returns:
        SVG element.
    """
    title = f"<title>{escape(visible_text(hint))}</title>" if hint else ""
    box = f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"'
    return f'<rect {box} fill="{fill}" stroke="{stroke}">{title}</rect>'


def block_marker(x: float, y: float, block: str, color: str, hint: str = "") -> str:
    """Return a point whose shape (circle, square or diamond) differs by block, so that color is
    not the only difference.

    Args:
        x: Center in chart units.
        y: Center in chart units.
        block: "clean", "blank" or "patch".
        color: Color.
        hint: Text shown under the pointer.

    Returns:
        SVG element.
    """
    title = f"<title>{escape(visible_text(hint))}</title>" if hint else ""
    if block == "clean":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{color}">{title}</circle>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if block == "patch" else ""
    box = f'x="{x - 4.6:.1f}" y="{y - 4.6:.1f}" width="9.2" height="9.2"'
    return f'<rect {box} fill="{color}"{turn}>{title}</rect>'


def hatch_pattern(name: str) -> str:
    """Return a pattern called ``name`` for cells without a measurement, used as ``url(#name)``."""
    return (
        f'<defs><pattern id="{name}" width="7" height="7" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)">'
        f'<rect width="7" height="7" fill="{PAPER}"/>{svg_line(0, 0, 0, 7, width=2)}'
        "</pattern></defs>"
    )


def percent_axis(x0: float, x1: float, top: float, bottom: float) -> list[str]:
    """Return vertical grid lines at 0, 25 ... 100 % with their labels below.

    Args:
        x0: Position of 0 % in chart units.
        x1: Position of 100 % in chart units.
        top: Upper end of the lines.
        bottom: Lower end of the lines.

    Returns:
        SVG elements.
    """
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = x0 + share * (x1 - x0)
        parts += [
            svg_line(x, top, x, bottom),
            svg_text(x, bottom + 16, format_percent(share, 0), at="middle", fill=MUTED, size=12),
        ]
    return parts
