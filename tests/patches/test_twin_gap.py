"""A card warns where films of the twin fall short of its draws, on terminal and page alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.patches.bundle import ModelInfo, PatchCard, TwinRates, TwinRecord, read_bundle
from physadv.patches.card import card_lines
from physadv.patches.twin_gap import twin_findings
from physadv.report.patch_report import render_patch_report


def film(hits: int, n: int, *, victim: str = "signs", goal: str = "untargeted") -> TwinRecord:
    """A film of ``n`` clips of one frame, of which the patch wins ``hits``."""
    nothing, everything = wilson_interval(0, n), wilson_interval(n, n)
    rates = TwinRates("all", wilson_interval(hits, n), nothing, everything)
    return TwinRecord(ModelInfo(victim, "classify"), goal, 5, n, 1, (rates,))


def card(drawn: RateInterval, *films: TwinRecord, **heldout: Any) -> PatchCard:
    """A card without doubts of its own, with that success in draws, and these films."""
    ready = read_bundle("stop-sticker-signs-v1").card
    rates = {**ready.heldout, "success": drawn.as_dict(), "doubts": [], "light": "green"}
    return replace(ready, heldout=rates | heldout, twin=films)


@pytest.mark.parametrize(
    ("draws", "in_twin", "words"),
    [
        ((80, 100), (2, 70), "far below"),
        ((80, 100), (42, 70), "below"),  # 60 % [48, 71]
        ((80, 100), (50, 70), ""),  # 71 % [60, 81] holds 80 %
        ((97, 100), (900, 1000), ""),  # [88, 92] lies below, but by 7 points
        ((20, 100), (70, 70), ""),  # a twin in which it does better is no doubt
    ],
)
def test_a_film_falls_short_by_its_interval_and_ten_points(
    draws: tuple[int, int], in_twin: tuple[int, int], words: str
) -> None:
    """Its interval lies wholly below the rate in draws, which is ten points higher or more."""
    findings = twin_findings(card(wilson_interval(*draws), film(*in_twin)))
    rate = f"{100 * draws[0] / draws[1]:.1f} % in draws"
    assert [f"frames on signs, {words} its {rate}" in each.finding for each in findings] == (
        [True] if words else []
    )


def test_each_model_is_compared_with_its_own_draws() -> None:
    """An ensemble's further model has its own rate; untargeted and vanish are one goal of it."""
    weak = {"detector": {"success": wilson_interval(10, 100).as_dict()}}
    seen = film(7, 70, victim="detector", goal="vanish")
    assert not twin_findings(card(wilson_interval(99, 100), seen, further_victims=weak))
    strong = {"detector": {"success": wilson_interval(90, 100).as_dict()}}
    (one,) = twin_findings(card(wilson_interval(99, 100), seen, further_victims=strong))
    assert "on detector, far below its 90.0 %" in one.finding


def test_films_without_draws_to_compare_are_no_doubt() -> None:
    """A model without draws, another goal, or a card that was never measured."""
    drawn = wilson_interval(99, 100)
    assert not twin_findings(card(drawn, film(0, 70, victim="unknown")))
    assert not twin_findings(card(drawn, film(0, 70, goal="targeted")))
    assert not twin_findings(replace(card(drawn, film(0, 70)), heldout={}))


def test_terminal_and_page_tell_it() -> None:
    """One line of doubt, a finding on the page, and no green light; without a gap, neither."""
    short, agreeing = (card(wilson_interval(8, 10), film(n, 70)) for n in (2, 56))
    lines = [line for line in card_lines(short) if line.startswith("doubt")]
    assert len(lines) == 1
    assert "twin: 2.9 %" in lines[0]
    assert "Expect the lower figure" in lines[0]
    page = render_patch_report(short)
    assert "self-checks found doubts" in page
    assert "far below its 80.0 % in draws" in page

    assert not [line for line in card_lines(agreeing) if line.startswith("doubt")]
    page = render_patch_report(agreeing)
    assert "self-checks passed" in page
    assert "In simulated camera frames" in page
