"""AP against numbers worked by hand and against COCO's definition written out; misses and extra
boxes told apart."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.core.types import Detections
from physadv.evaluation.metrics.detection import (
    average_precision,
    count_added,
    count_interval,
    jackknife_interval,
    match_boxes,
    scene_rows,
    summarize_detection,
)
from physadv.models.detectors import DetectedBoxes

BOX = [10.0, 10.0, 30.0, 30.0]


def test_average_precision_by_hand() -> None:
    """Hits T F T F T of 4 objects: precision 1, 2/3, 3/5 at recall 1/4, 2/4, 3/4, so all points
    give 0.5667."""
    scores, hits = [0.9, 0.8, 0.7, 0.6, 0.5], [True, False, True, False, True]
    assert average_precision(scores, hits, 4) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    # COCO: 26 of the 101 recalls (0 .. 0.25) at 1, 25 at 2/3, 25 at 3/5, the last 25 at 0.
    assert average_precision(scores, hits, 4, points=101) == pytest.approx(
        (26 + 25 * 2 / 3 + 25 * 3 / 5) / 101
    )


def test_the_ends_of_average_precision() -> None:
    """All found first: 1. Nothing found: 0. No object: not a number. A better hit later lifts what
    came before it."""
    assert average_precision([0.9, 0.8], [True, True], 2) == 1
    assert average_precision([], [], 3) == 0
    assert average_precision([0.9], [False], 3) == 0
    assert math.isnan(average_precision([0.9], [False], 0))
    assert average_precision([0.9, 0.8, 0.7], [False, True, True], 2) == pytest.approx(2 / 3)
    with pytest.raises(OptionError):
        average_precision([0.9], [True], 0)


def written_out(scores: list[float], hits: list[bool], truths: int) -> float:
    """COCO's interpolation as its text says: at each recall the best precision at that recall or a
    higher one."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    curve, true = [], 0
    for rank, i in enumerate(order, 1):
        true += hits[i]
        curve.append((true / truths, true / rank))
    grid = [i / 100 for i in range(101)]
    return sum(max((p for r, p in curve if r >= g - 1e-12), default=0.0) for g in grid) / 101


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=30), st.integers(0, 5))
def test_average_precision_is_cocos(pairs: list[tuple[float, bool]], missed: int) -> None:
    """101 points equal the definition written out; more objects never raise it; a last miss changes
    nothing."""
    scores, hits = [p[0] for p in pairs], [p[1] for p in pairs]
    truths = sum(hits) + missed
    if truths == 0:
        return
    assert average_precision(scores, hits, truths, points=101) == pytest.approx(
        written_out(scores, hits, truths)
    )
    whole = average_precision(scores, hits, truths)
    assert average_precision(scores, hits, truths + 1) <= whole + 1e-12
    assert average_precision([*scores, -1.0], [*hits, False], truths) == pytest.approx(whole)


def test_matching_takes_each_object_once() -> None:
    """The second box on an object is no hit, nor is one that overlaps too little; none is a hit
    without objects."""
    boxes = torch.tensor([BOX, [11.0, 10, 30, 30], [20.0, 20, 40, 40]])
    assert match_boxes(boxes, torch.tensor([BOX])) == [True, False, False]
    assert match_boxes(boxes, torch.tensor([[20.0, 20, 40, 40], BOX])) == [True, False, True]
    assert match_boxes(boxes, torch.zeros(0, 4)) == [False, False, False]
    assert match_boxes(boxes[:0], torch.tensor([BOX])) == []


def found(boxes: list[list[float]], labels: list[int]) -> DetectedBoxes:
    return DetectedBoxes(
        torch.tensor(boxes).view(-1, 4),
        torch.ones(len(labels)),
        torch.tensor(labels, dtype=torch.long),
    )


def test_extra_boxes_are_those_the_clean_picture_lacks() -> None:
    """A moved box and a changed class are extra; the same box a little off is not; a box that
    vanished is not."""
    clean = found([BOX, [50.0, 50, 70, 70]], [0, 1])
    assert count_added(found([BOX, [51.0, 50, 70, 70]], [0, 1]), clean) == 0
    assert count_added(found([BOX, [50.0, 50, 70, 70]], [0, 2]), clean) == 1
    assert count_added(found([[80.0, 80, 90, 90]], [0]), clean) == 1
    assert count_added(found([], []), clean) == 0
    assert count_added(clean, found([], [])) == 2


def rows_of(scores: list[list[float]]) -> list[dict[str, object]]:
    """Rows of scenes of one object each, seen with these scores at the object and beside it."""
    rows: list[dict[str, object]] = []
    boxes = torch.tensor([[BOX, [60.0, 60, 80, 80]]])
    for number, (on, beside) in enumerate(scores):
        row: dict[str, object] = {"draw": number, "group": str(number % 5)}
        clean = None
        tables = {}
        for block in ("clean", "patch"):
            values = (
                torch.tensor([[[0.9], [0.0]]])
                if block == "clean"
                else torch.tensor([[[on], [beside]]])
            )
            prediction = Detections(boxes, values)
            made, seen = scene_rows(
                prediction, clean, torch.tensor([BOX]), torch.tensor([0]), 0, 0.5
            )
            clean = clean or seen
            row[block] = {"recognised": float(values[0, 0, 0]) >= 0.5}
            tables[block] = made[0]
        rows.append({**row, "scene": tables})
    return rows


def test_extra_boxes_lower_ap_but_not_the_misses() -> None:
    """The trap of mAP: strong extra boxes halve AP though every object is found; hiding shows as
    misses alone."""
    shouted = summarize_detection(rows_of([[0.8, 0.95]] * 20), "patch")
    hidden = summarize_detection(rows_of([[0.0, 0.0]] * 10 + [[0.8, 0.0]] * 10), "patch")
    clean = summarize_detection(rows_of([[0.8, 0.95]] * 20), "clean")
    assert shouted is not None
    assert hidden is not None
    assert clean is not None
    assert (clean.fnr.rate, clean.ap.value, clean.extra.value) == (0, 1, 0)
    assert (shouted.fnr.rate, shouted.extra.value) == (0, 1)
    assert shouted.ap.value == pytest.approx(0.5)
    assert (hidden.fnr.rate, hidden.extra.value) == (0.5, 0)
    assert hidden.ap.value == pytest.approx(0.5)
    assert hidden.ap.low is not None
    assert hidden.ap.high is not None
    assert hidden.ap.low <= 0.5 <= hidden.ap.high
    assert hidden.ap.n == 20
    assert (
        summarize_detection([{"draw": 0, "group": "a", "patch": {"recognised": True}}], "patch")
        is None
    )


def test_intervals_know_that_draws_of_one_photo_are_one() -> None:
    """A hundred draws of four photos give a wider interval than a hundred photos."""
    values = (
        (torch.rand(4, generator=generator(0, "v")) > 0.5).double().repeat_interleave(25).numpy()
    )
    values[:25], values[25:50] = 1, 0

    def share(index: npt.NDArray[np.intp]) -> float:
        return float(values[index].mean())

    photos = [str(i // 25) for i in range(100)], [str(i) for i in range(100)]
    for few, many in (
        [jackknife_interval(share, groups, n=100) for groups in photos],
        [count_interval(values.tolist(), groups) for groups in photos],
    ):
        assert None not in (few.low, few.high, many.low, many.high)
        assert few.high - few.low > 2 * (many.high - many.low)  # type: ignore[operator]


def test_two_photos_give_no_interval_of_ap_or_extra_boxes() -> None:
    """The spread of two photos says nothing; the figure is shown without an interval."""
    for found in (
        jackknife_interval(lambda index: 0.5, ["a", "a", "b"], n=3),
        count_interval([0, 1, 2], ["a", "a", "b"]),
    ):
        assert "too few photos for an interval" in str(found)
        assert found.as_dict().keys() == {"value", "n"}


def test_interval_of_a_mean_jackknifes_to_that_of_t() -> None:
    """For a mean of photos the standard error is the usual one, and one further photo shifts the
    ends."""
    values = np.array([0.2, 0.5, 0.6, 0.9, 0.4])
    found = jackknife_interval(lambda index: float(values[index].mean()), list("abcde"), n=5)
    error = stats.t.ppf(0.975, 4) * values.std(ddof=1) / 5**0.5
    assert found.low == pytest.approx(5 / 6 * 0.52 - error)
    assert found.high == pytest.approx((5 * 0.52 + 1) / 6 + error)


@pytest.mark.parametrize("photos", [3, 10, 40])
def test_extra_boxes_cover_what_they_state(photos: int) -> None:
    """With gamma-distributed means of photos, the interval holds the mean count."""
    rng = np.random.default_rng(photos)
    held = 0
    for means in rng.gamma(0.5, 0.6, (200, photos)):
        counts = rng.poisson(means.repeat(8))
        found = count_interval(counts.tolist(), [str(i // 8) for i in range(len(counts))])
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.3 <= found.high
    # Seen in 200 samples, 95 % falls below this once in 6,000 times.
    assert held / 200 >= 0.895
