"""Bins hold every value once and have round edges; numbers are formatted alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.report.bins import bin_edges, bin_index, success_rate
from physadv.report.charts import rate_along
from physadv.report.design import format_interval, format_percent, format_value
from physadv.report.svg import svg_text

finite = st.integers(-(10**7), 10**7).map(lambda v: v / 1000)


@given(st.lists(finite, min_size=1, max_size=30), st.integers(1, 9))
def test_every_value_lies_in_its_bin(values: list[float], most: int) -> None:
    """Edges rise, there are at most as many bins as asked, and each value lies within the edges of
    its bin."""
    bounds = bin_edges(values, most)
    assert bounds == sorted(set(bounds))
    assert 1 <= len(bounds) - 1 <= max(most, 2)
    for value in values:
        k = bin_index(value, bounds)
        assert bounds[k] - 1e-6 <= value <= bounds[k + 1] + 1e-6


def test_edges_are_round() -> None:
    """3.1 to 8.9 m in six bins gives whole meters; a single value gives one bin around it."""
    assert bin_edges([3.1, 8.9], 6) == [3, 4, 5, 6, 7, 8, 9]
    single = bin_edges([5.0], 6)
    assert len(single) == 2
    assert single[0] <= 5.0 <= single[1]


def test_one_distance_is_one_bin_with_one_label() -> None:
    """A sign held at one distance, a few percent off, gives one bin, named by its range; ticks
    that are nearly equal would tell how still the camera was."""
    bounds = bin_edges([0.761, 0.764, 0.779], 6)
    assert bounds == [0.75, 0.8]
    chart = rate_along({"patch": [wilson_interval(3, 4)]}, bounds, "m", "distance")
    assert chart.count("0.75 to 0.8</text>") == 1
    assert "0.75</text>" not in chart
    edges = bin_edges([0.8, 4.0], 6)
    chart = rate_along({"patch": [None] * (len(edges) - 1)}, edges, "m", "distance")
    assert all(f">{edge:g}</text>" in chart for edge in edges)


def test_rate_of_nothing_is_nothing() -> None:
    """No rows, no rate: an empty bin must not look like zero success."""
    assert success_rate([]) is None


def test_numbers_in_words() -> None:
    """Shares, intervals and plain values are written one way, and what is missing is a dash."""
    assert [format_percent(0.934), format_percent(None), format_percent(float("nan"))] == [
        "93.4 %",
        "–",
        "–",
    ]
    assert [format_interval(0.5, 0.75), format_interval(None, 1)] == ["50.0 to 75.0 %", "–"]
    assert [format_value(None), format_value(True), format_value(0.08), format_value(7)] == [
        "–",
        "yes",
        "0.08",
        "7",
    ]


def test_text_is_escaped() -> None:
    """Class names cannot break out of a chart."""
    assert "<b>" not in svg_text(0, 0, "<b>")


@pytest.mark.parametrize("most", [1, 2, 3])
def test_bins_at_a_step_boundary(most: int) -> None:
    """Values exactly on round numbers do not make an endless search."""
    assert len(bin_edges([0.0, 10.0, 20.0], most)) - 1 <= max(most, 2)
