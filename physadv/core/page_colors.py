"""Colors of reports, charts and live pages, each in light and dark.

A page defines every color once as a CSS variable (:func:`css_colors`), and its parts name the
variable, so that one page follows the reader's preference. A name carries its light value as the
fallback, which is what a chart shows where no page defines it.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from physadv.core.color import srgb_to_linear

_COLORS = {
    "paper": ("#ffffff", "#151a20"),
    "wash": ("#f4f6f8", "#1f262e"),
    "ink": ("#1b2733", "#e4e9ee"),
    "muted": ("#5b6875", "#9fabb8"),
    "line": ("#d5dce3", "#36414c"),
    "tick": ("#9aa5b1", "#66727f"),
    "accent": ("#0b5c8a", "#7cc0ea"),
    "good": ("#0b6b50", "#5fc7a0"),
    "doubt": ("#8a5a00", "#e0b252"),
    "bad": ("#b3261e", "#ff8f85"),
    "note": ("#fff8e8", "#2b2618"),
    "note-line": ("#ecd9a4", "#5e5028"),
    "clean": ("#0072b2", "#56b4e9"),
    "blank": ("#7a7f85", "#a6adb5"),
    "patch": ("#d55e00", "#f28a3c"),
    "band": ("#cfe3f1", "#1d4058"),
}
"""Name -> light and dark value. Blocks are told apart by every kind of color vision (after Okabe
and Ito 2008); their shapes differ as well."""
RAMP_STEPS = 20
_LIGHT_RAMP = ((247, 250, 252), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107))
_DARK_RAMP = ((33, 42, 51), (22, 66, 105), (33, 113, 181), (107, 174, 214), (222, 235, 247))
"""One hue, further from the page with every step: order is seen by every eye and survives a gray
print."""


def page_color(name: str) -> str:
    """Return the CSS value of the color ``name``: its variable, with the light value as fallback.

    Example:
        >>> page_color("ink")
        'var(--ink, #1b2733)'
    """
    return f"var(--{name}, {color_values()[name][0]})"


def ramp_color(share: float) -> str:
    """Return the heat map's color for ``share`` in [0, 1], in steps of 5 %."""
    return page_color(f"ramp-{_step(share)}")


def ink_on_ramp(share: float) -> str:
    """Return the text color that is legible on ``ramp_color(share)``."""
    return page_color(f"ramp-ink-{_step(share)}")


@cache
def color_values() -> dict[str, tuple[str, str]]:
    """Return the light and the dark value, #rrggbb, of every color by its name.

    Example:
        >>> color_values()["paper"]
        ('#ffffff', '#151a20')
    """
    values = dict(_COLORS)
    for step in range(RAMP_STEPS + 1):
        light, dark = (_mix(ramp, step / RAMP_STEPS) for ramp in (_LIGHT_RAMP, _DARK_RAMP))
        values[f"ramp-{step}"] = light, dark
        values[f"ramp-ink-{step}"] = _ink_on(light), _ink_on(dark)
    return values


@cache
def css_colors() -> str:
    """Return the style rules that define every color: light, dark where the reader prefers it on a
    screen, and light on paper."""
    light, dark = (
        "".join(f" --{name}:{values[k]};" for name, values in color_values().items())
        for k in range(2)
    )
    return (
        f":root {{ color-scheme:light dark;{light} }}\n"
        f"@media screen and (prefers-color-scheme:dark) {{ :root {{{dark} }} }}\n"
        "@media print { :root { color-scheme:light; } }"
    )


def contrast_ratio(first: str, second: str) -> float:
    """Return the contrast of two colors #rrggbb, 1 to 21 (WCAG 2.2).

    Example:
        >>> contrast_ratio("#000000", "#ffffff")
        21.0
    """
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return round((lighter + 0.05) / (darker + 0.05), 3)


def _step(share: float) -> int:
    return round(min(max(share, 0.0), 1.0) * RAMP_STEPS)


def _mix(ramp: tuple[tuple[int, int, int], ...], share: float) -> str:
    position = share * (len(ramp) - 1)
    index = min(int(position), len(ramp) - 2)
    part = position - index

    mixed = (round(a + part * (b - a)) for a, b in zip(ramp[index], ramp[index + 1], strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _ink_on(color: str) -> str:
    return max(("#000000", "#ffffff"), key=lambda ink: contrast_ratio(ink, color))


def _luminance(color: str) -> float:
    """Relative luminance of #rrggbb in [0, 1]."""
    encoded = np.array([int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    return float(srgb_to_linear(encoded) @ (0.2126, 0.7152, 0.0722))
