"""Colors of pages are legible in light and dark, and charts are whole as files of their own."""

from __future__ import annotations

from itertools import combinations

import pytest

from physadv.core.page_colors import (
    RAMP_STEPS,
    color_values,
    contrast_ratio,
    css_colors,
    ink_on_ramp,
    page_color,
    ramp_color,
)


def value(css: str, dark: bool) -> str:
    """The plain color of one scheme that ``css`` names."""
    return color_values()[css.removeprefix("var(--").partition(",")[0]][dark]


SCHEMES = pytest.mark.parametrize("dark", [False, True])


@SCHEMES
@pytest.mark.parametrize("name", ["ink", "muted", "accent", "good", "doubt", "bad"])
def test_text_is_legible(name: str, dark: bool) -> None:
    """Text has a contrast of 4.5 or more on the page and on its boxes (WCAG 2.2, AA)."""
    values = color_values()
    for ground in ("paper", "wash"):
        assert contrast_ratio(values[name][dark], values[ground][dark]) >= 4.5


@SCHEMES
@pytest.mark.parametrize("block", ["clean", "blank", "patch"])
def test_blocks_are_seen(block: str, dark: bool) -> None:
    """Marks of the blocks have a contrast of 3 or more (WCAG 2.2, non-text contrast)."""
    values = color_values()
    for ground in ("paper", "wash"):
        assert contrast_ratio(values[block][dark], values[ground][dark]) >= 3


@SCHEMES
def test_blocks_differ(dark: bool) -> None:
    """No two blocks have the same color in either scheme."""
    for one, other in combinations(("clean", "blank", "patch"), 2):
        assert color_values()[one][dark] != color_values()[other][dark]


@SCHEMES
def test_ramp_is_ordered_and_legible(dark: bool) -> None:
    """More success stands out more from the page, and every cell's text has a contrast of 4.5."""
    paper = color_values()["paper"][dark]
    shares = [k / RAMP_STEPS for k in range(RAMP_STEPS + 1)]
    steps = [value(ramp_color(share), dark) for share in shares]
    out = [contrast_ratio(color, paper) for color in steps]
    assert out == sorted(out)
    assert len(set(steps)) == RAMP_STEPS + 1

    inks = [value(ink_on_ramp(share), dark) for share in shares]
    assert min(map(contrast_ratio, steps, inks)) >= 4.5
    assert (ramp_color(-1), ramp_color(2)) == (ramp_color(0), ramp_color(1))


def test_style_defines_every_color_for_screens_and_paper() -> None:
    """Every name is defined in light and again in dark, and dark applies to screens alone."""
    light, dark = css_colors().split("@media screen and (prefers-color-scheme:dark)")
    for name, (day, night) in color_values().items():
        assert f" --{name}:{day};" in light
        assert f" --{name}:{night};" in dark
    assert "@media print { :root { color-scheme:light; } }" in dark


def test_a_color_is_its_variable_with_the_light_value() -> None:
    """Where no page defines the variable, the light value stands in."""
    for name, (light, _) in color_values().items():
        assert page_color(name) == f"var(--{name}, {light})"
