"""Design shared by every report: a self-contained HTML page, light or dark as the reader prefers,
that reads on a phone and prints well.

A page needs no network: style, charts (inline SVG) and pictures (data URIs) are in the file.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from physadv.core.errors import DataError
from physadv.core.image_io import Array, png_bytes
from physadv.core.members import member_of
from physadv.core.page_colors import css_colors, page_color
from physadv.core.page_script import PAGE_SCRIPT, page_policy
from physadv.core.text import read_file
from physadv.core.visible_text import visible_text
from physadv.core.wording import count_noun, field_label, format_fixed, format_percent
from physadv.threat.parsing import format_eps

INK, MUTED, LINE, PAPER, WASH = map(page_color, ("ink", "muted", "line", "paper", "wash"))
BLOCK_COLORS = {block: page_color(block) for block in ("clean", "blank", "patch")}
"""Colors of the three blocks; charts of other series take them too."""


_PNG = b"\x89PNG\r\n\x1a\n"


def render_page(template: str, **context: Any) -> str:
    """Render ``templates/<template>`` in the common design with the variables ``context``.

    Values are escaped unless they are Markup.
    """
    created = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return (
        _environment()
        .get_template(template)
        .render(made=created, block_colors=BLOCK_COLORS, **context)
    )


def data_uri(png: bytes) -> str:
    """Return PNG bytes ``png`` as an address that needs no request."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def gif_uri(gif: bytes) -> str:
    """Return GIF bytes ``gif`` as an address that needs no request."""
    return "data:image/gif;base64," + base64.b64encode(gif).decode()


def member_uri(folder: Path, name: object) -> str:
    """Return the PNG file called ``name`` in ``folder`` as a data URI; empty where there is none.

    Raises:
        DataError: It lies outside of the folder, is no PNG file, or is too large.
    """
    file = member_of(folder, name)
    if not file.exists():
        return ""
    png = read_file(file, most_bytes=1 << 26, error=DataError)
    if not png.startswith(_PNG):
        raise DataError(f'"{file}"', "A report shows PNG files alone", "Remove it from the folder")
    return data_uri(png)


def picture_uri(picture: Array) -> str:
    """Return ``picture`` (h, w, 3) uint8 as a data URI."""
    return data_uri(png_bytes(picture))


def format_interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """Format the interval from ``low`` to ``high``, both shares, in percent with ``digits``
    decimals; one that excludes nothing is named so.

    Example:
        >>> format_interval(0.857, 0.972)
        '85.7 to 97.2 %'
    """
    if low is None or high is None or not (isfinite(low) and isfinite(high)):
        return "–"
    if low <= 0 and high >= 1:
        return "too few for an interval"
    return f"{100 * low:.{digits}f} to {100 * high:.{digits}f} %"


_RANGES = ("distances", "covers", "windows", "grow")
"""Settings that are the least and the largest of something."""


def format_setting(value: object, name: str, facts: Mapping[str, Any]) -> str:
    """Format a setting of a run for a table: radii in l_inf as multiples of 1/255, sizes of
    pictures and ranges in words.

    Args:
        value: The setting.
        name: Its name: ``eps`` and ``radii`` hold radii, ``..._size`` a width and a height in px.
        facts: All settings of the run, of which ``threat`` names the norm.

    Returns:
        Text for a cell.

    Example:
        >>> format_setting(0.00392157, "eps", {"threat": "linf:1/255"})
        '1/255'
        >>> format_setting([160, 120], "frame_size", {})
        '160 x 120 px'
        >>> format_setting([2.0, 12.0], "distances", {})
        '2 to 12'
    """
    if isinstance(value, list | tuple) and len(value) == 2:
        first, last = map(format_value, value)
        if name.endswith("_size"):
            return f"{first} x {last} px"
        if name in _RANGES:
            return f"{first} to {last}"

    numbers = re.fullmatch(r"[\d.e-]+(, [\d.e-]+)*", str(value))
    is_radius = name in ("eps", "radii") and str(facts.get("threat")).startswith("linf")
    if not is_radius or not numbers:
        return format_value(value)
    radii = [float(radius) for radius in str(value).split(", ")]
    # Kept with six digits, 8/255 is a little beside itself.
    steps = [round(radius * 255 * 4) / 4 for radius in radii]
    near = [k / 255 if abs(r * 255 - k) < 1e-3 else r for r, k in zip(radii, steps, strict=True)]
    return ", ".join(format_eps(radius, 6) for radius in near)


_FOLDERS = re.compile(r"(?:^|(?<==))(?:[A-Za-z]:)?[\\/](?:[^\\/\n]*[\\/])*(?=[^\\/\n])")
"""Folders of a path from the root, which stands alone or behind the name of what it is."""


def format_value(value: Any) -> str:
    """Format a plain ``value`` for a table: short numbers, yes, no, lists, a dash for nothing.

    Of a path from the root its last name is left, since pages are passed on.

    Example:
        >>> format_value("/home/me/signs"), format_value("a=/nets/a.pth"), format_value("8/255")
        ('signs', 'a=a.pth', '8/255')
    """
    if value is None or value == "" or value == []:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value))
    if isinstance(value, float):
        return f"{value:z.6g}"
    return _FOLDERS.sub("", str(value)) or str(value)


def time_in_words(moment: str) -> str:
    """Return ``moment``, as records hold it, for people; anything else as it is.

    Example:
        >>> time_in_words("2026-11-28T08:57:54Z")
        '2026-11-28 08:57:54 UTC'
    """
    try:
        return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    except ValueError:
        return moment


def _finalize(value: Any) -> Any:
    """Write out what a page would obey in texts of others; HTML made by this program stays."""
    return visible_text(value) if type(value) is str else value


def coded(words: str) -> Markup:
    """Return text for a page, with what stands between backticks as code.

    Args:
        words: Text, not escaped yet.

    Example:
        >>> coded("a < b, see `physadv runs`")
        Markup('a &lt; b, see <code>physadv runs</code>')
    """
    first, *rest = str(escape(visible_text(words))).split("`")
    pairs = len(rest) // 2
    parts = [f"<code>{rest[2 * i]}</code>{rest[2 * i + 1]}" for i in range(pairs)]
    return Markup("".join([first, *parts, *(f"`{odd}" for odd in rest[2 * pairs :])]))


def with_values(chart: Markup) -> Markup:
    """Return ``chart`` with the values of its marks folded away below it, for those who read them.

    Example:
        >>> with_values(Markup("<svg><circle><title>a: 1</title></circle></svg>")).count("<li>")
        1
    """
    hints = re.findall(r"<title>([^<]*)</title>", chart)
    if not hints:
        return chart
    items = Markup("").join(Markup("<li>") + Markup(hint) + Markup("</li>") for hint in hints)
    summary = f"<summary>{count_noun(len(hints), 'value')} of this chart</summary>"
    return chart + Markup(f'<details class="values">{summary}<ul>{items}</ul></details>')


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("physadv.report"),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": format_percent,
        "number": format_value,
        "fixed": format_fixed,
        "counted": count_noun,
        "label": field_label,
        "coded": coded,
        "radius": format_eps,
        "setting": format_setting,
        "with_values": with_values,
    }
    environment.globals |= {
        "span": format_interval,
        "Markup": Markup,
        "css_colors": Markup(css_colors()),
        "page_script": Markup(PAGE_SCRIPT),
        "page_policy": page_policy(),
    }
    return environment
