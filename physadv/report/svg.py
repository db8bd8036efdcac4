"""The few SVG marks the charts are drawn with. Charts are 480 units wide, so that text stays
legible on a phone."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from markupsafe import Markup

from physadv.report.design import INK, LINE, MUTED

WIDTH = 480
_RAMP = ((247, 250, 252), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107))
"""One hue from light to dark: order is seen by every eye and survives a gray print."""


def svg_chart(height: float, parts: Iterable[str], label: str, width: float = WIDTH) -> Markup:
    """A chart; ``label`` is what a screen reader says."""
    body = "".join(parts)
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}" '
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
    """Text at its baseline; ``at`` is start, middle or end."""
    weight = ' font-weight="600"' if bold else ""
    style = f'text-anchor="{at}" fill="{fill}" font-size="{size:g}"{weight}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


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
    """A straight line."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    style = f'stroke="{stroke}" stroke-width="{width:g}"{dashes}'
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" {style}/>'


def svg_rect(
    x: float, y: float, w: float, h: float, fill: str, *, stroke: str = "none", hint: str = ""
) -> str:
    """A filled box; ``hint`` is shown under the pointer."""
    title = f"<title>{escape(hint)}</title>" if hint else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{fill}" stroke="{stroke}">{title}</rect>'


def block_marker(x: float, y: float, block: str, color: str, hint: str = "") -> str:
    """A point: circle, square or diamond by block, so that color is not the only difference."""
    title = f"<title>{escape(hint)}</title>"
    if block == "clean":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{color}">{title}</circle>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if block == "patch" else ""
    return f'<rect x="{x - 4.6:.1f}" y="{y - 4.6:.1f}" width="9.2" height="9.2" fill="{color}"{turn}>{title}</rect>'


def hatch_pattern(name: str) -> str:
    """A pattern for "nothing was measured here"; fill with ``url(#name)``."""
    return (
        f'<defs><pattern id="{name}" width="7" height="7" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)">'
        f'<rect width="7" height="7" fill="#ffffff"/>{svg_line(0, 0, 0, 7, width=2)}</pattern></defs>'
    )


def ramp_color(share: float) -> str:
    """The ramp's color for a share in [0, 1]."""
    place = min(max(share, 0.0), 1.0) * (len(_RAMP) - 1)
    index = min(int(place), len(_RAMP) - 2)
    part = place - index
    mixed = (round(a + part * (b - a)) for a, b in zip(_RAMP[index], _RAMP[index + 1], strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def ink_on(share: float) -> str:
    """Text that reads on ``shade(share)``."""
    return "#ffffff" if share > 0.55 else INK


def percent_axis(x0: float, x1: float, top: float, bottom: float) -> list[str]:
    """Vertical grid lines at 0, 25 ... 100 % with their labels below."""
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = x0 + share * (x1 - x0)
        parts += [
            svg_line(x, top, x, bottom),
            svg_text(x, bottom + 16, f"{share:.0%}", at="middle", fill=MUTED, size=11),
        ]
    return parts
