"""The evaluation report names the attacks, the findings, and the limits of a single attack."""

from __future__ import annotations

from typing import Any

import pytest

from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.report.evaluate_report import render_evaluate_report

FACTS = {"victim": "toy <net>", "threat": "linf:0.1", "norm": "linf"}


def result(**changes: Any) -> dict[str, Any]:
    """40 images, 36 read, of which apgd-ce breaks 20 and square 4."""
    return {
        "clean_accuracy": wilson_interval(36, 40).as_dict(),
        "robust_accuracy": wilson_interval(12, 40).as_dict(),
        "complete": True,
        "broken_by": {"apgd-ce": 20, "square": 4},
        "curve": [],
        "doubts": [],
        "light": "green",
        "seconds": 1.0,
        "forwards": 400,
        "gradients_of": ["the model itself"],
    } | changes


def test_what_is_left_after_each_attack_is_counted() -> None:
    """36 of 40 read, 16 after apgd-ce, 12 after square; a name of the user's is escaped."""
    page = render_evaluate_report(result(), {**FACTS, "attacks": "ensemble"}, [])
    for cell in (
        '<td>apgd-ce</td><td class="n">20</td><td class="n">40.0 %</td>',
        "30.0 %",
        "90.0 %",
    ):
        assert cell in page
    assert "<net>" not in page
    assert "toy &lt;net&gt;" in page


@pytest.mark.parametrize(("attacks", "alone"), [("ensemble", False), ("pgd", True)])
def test_one_attack_alone_is_called_that(attacks: str, alone: bool) -> None:
    """Its title, its tag and its limits name it; an ensemble's do not."""
    page = render_evaluate_report(result(), {**FACTS, "attacks": attacks}, [])
    assert ("one attack" in page) == alone
    assert ("pgd alone" in page) == alone
    assert ("runs the whole ensemble" in page) == alone


def test_the_strongest_example_comes_first() -> None:
    """Its pictures stand before findings and tables, and each example once."""
    examples = [
        {
            "uris": {kind: f"data:{number}-{kind}" for kind in ("clean", "change", "adversarial")},
            "label": "stop",
            "clean": "stop",
            "clean_confidence": 0.9,
            "verdict": "yield",
            "confidence": 0.8,
        }
        for number in (1, 2)
    ]
    page = render_evaluate_report(result(), {**FACTS, "attacks": "ensemble"}, examples)
    assert page.index("data:1-clean") < page.index("Results by attack") < page.index("data:2-clean")
    assert page.count("data:1-clean") == page.count("data:2-clean") == 1


def test_doubts_and_an_unfinished_run_are_shown() -> None:
    """Neither passes for a finished evaluation without doubts."""
    doubt = {"name": "at-chance", "finding": "guessing", "remedy": "Check the classes"}
    page = render_evaluate_report(
        result(doubts=[doubt], light="amber", complete=False), {**FACTS, "attacks": "ensemble"}, []
    )
    assert "self-checks passed" not in page
    assert "incomplete" in page
    assert "Check the classes" in page


@pytest.mark.parametrize(
    ("light", "tag", "words"),
    [
        ("green", "good", "self-checks passed"),
        ("amber", "doubt", "self-checks found doubts"),
        ("red", "bad", "self-checks failed: not a valid result"),
    ],
)
def test_the_badge_has_the_color_and_the_words_of_its_light(
    light: str, tag: str, words: str
) -> None:
    """Each light shows its own badge, and none of the others' words."""
    page = render_evaluate_report(result(light=light), {**FACTS, "attacks": "ensemble"}, [])
    assert f'<span class="tag {tag}">{words}</span>' in page
    assert page.count("self-checks ") == 1
