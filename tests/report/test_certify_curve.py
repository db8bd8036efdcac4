"""The certified curve's axis: round numbers, from 0, within the chart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from physadv.report.certify_report import certified_curve, round_steps


@given(st.floats(1e-6, 1e4))
def test_ticks_are_few_and_within_the_chart(widest: float) -> None:
    """Four to nine ticks, the first 0, none beyond the end."""
    ticks = round_steps(widest)
    assert ticks[0] == 0
    assert 4 <= len(ticks) <= 9
    assert ticks[-1] <= widest * (1 + 1e-9)


def test_the_curve_says_what_the_rows_say() -> None:
    """One drop a radius at which certificates end; wrong rows never count."""
    rows = [{"label": 1, "predicted": 1, "radius": 0.2}, {"label": 1, "predicted": 0, "radius": 0.5}]
    chart = str(certified_curve(rows, "l2"))
    assert "radius (l2)" in chart
    assert ">0.2<" in chart
    assert ">0.5<" not in chart
