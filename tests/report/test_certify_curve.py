"""The certified curve's axis: round numbers, from 0, within the chart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from physadv.report.certify_report import certified_curve, render_certify_report, round_steps
from physadv.report.design import format_setting


@given(st.floats(1e-6, 1e4))
def test_ticks_are_few_and_within_the_chart(widest: float) -> None:
    """Four to nine ticks, the first 0, none beyond the end."""
    ticks = round_steps(widest)
    assert ticks[0] == 0
    assert 4 <= len(ticks) <= 9
    assert ticks[-1] <= widest * (1 + 1e-9)


def test_the_curve_says_what_the_rows_say() -> None:
    """One drop a radius at which certificates end; wrong rows never count."""
    rows = [
        {"label": 1, "predicted": 1, "radius": 0.2},
        {"label": 1, "predicted": 0, "radius": 0.5},
    ]
    chart = str(certified_curve(rows, "l2"))
    assert "radius (l2)" in chart
    assert ">0.2<" in chart
    assert ">0.5<" not in chart


def test_an_axis_reaches_the_radius_asked_about_where_nothing_is_certified() -> None:
    """Nothing certified at 0.3 is a chart to 0.3, not to a rounding error."""
    chart = str(certified_curve([{"label": 1, "predicted": 1, "radius": 0.0}], "linf", 0.3))
    assert ">0.3<" in chart
    assert "e-1" not in chart


def test_a_patch_certificate_has_no_curve_over_a_radius() -> None:
    """Its page names the patch's side and speaks of certified images alone."""
    rate = {"rate": 0.5, "low": 0.1, "high": 0.9, "n": 2}
    curve = [{"radius": 0.0, **rate}, {"radius": 12.0, **rate}]
    result = {
        "certified_accuracy": rate,
        "accuracy": rate,
        "curve": curve,
        "complete": True,
        "doubts": [],
        "light": "green",
        "abstained": 0,
        "mean_radius": 6.0,
        "samples": 0,
        "seconds": 1.0,
    }
    rows = [
        {"label": 1, "predicted": 1, "radius": 12.0},
        {"label": 1, "predicted": 1, "radius": 0.0},
    ]
    html = render_certify_report(
        result, {"method": "patch", "norm": "patch", "threat": "one patch"}, rows
    )
    assert "<svg" not in html
    assert "Patch side, px" in html
    assert "these images" not in html


def test_a_curve_without_a_correct_image_is_empty() -> None:
    """Where the model is wrong on every image the chart is drawn, at zero."""
    chart = str(certified_curve([{"label": 1, "predicted": 0, "radius": 0.0}], "l2", 0.1))
    assert "<polyline" in chart


def test_radii_of_the_settings_are_as_typed() -> None:
    """Multiples of 1/255 where pixels are bounded one by one; other norms keep their number."""
    linf, l2 = {"threat": "linf:1/255"}, {"threat": "l2:0.2"}
    assert format_setting(1 / 255, "eps", linf) == "1/255"
    assert format_setting("0, 0.00392157, 0.0313725, 0.3", "radii", linf) == "0, 1/255, 8/255, 0.3"
    assert format_setting(0.2, "eps", l2) == "0.2"
    assert format_setting("unknown", "eps", linf) == "unknown"
    assert format_setting(3, "seed", linf) == "3"
