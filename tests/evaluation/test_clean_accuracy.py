"""Clean accuracy in doubt: zero, guessing, below the card, too few images; and no false alarms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from physadv.core.errors import OptionError
from physadv.evaluation.clean_accuracy import clean_accuracy_findings
from physadv.evaluation.evaluate import EvaluationResult, evaluate
from physadv.evaluation.masking_checks import Finding
from physadv.models.cards import ModelCard
from physadv.models.load import as_model, card_of


def names(findings: list[Finding]) -> list[str]:
    return [finding.name for finding in findings]


@pytest.mark.parametrize("n", [1, 2, 7, 8, 500])
def test_nothing_right_is_red_whatever_the_number(n: int) -> None:
    """One wrong image is as void a basis as 500."""
    (finding,) = clean_accuracy_findings(0, n, classes=44)
    assert (finding.name, finding.light) == ("nothing-right", "red")


@pytest.mark.parametrize(
    ("correct", "n", "classes", "expected"),
    [
        (4, 7, 10, ["too-few-images"]),
        (7, 7, 10, ["too-few-images"]),
        (8, 8, 2, []),
        (6, 8, 2, ["at-chance"]),
        (1, 40, 10, ["at-chance"]),
        (5, 100, 10, ["at-chance"]),
        (33, 100, 10, []),
        (25, 100, 10, ["at-chance"]),
        (47, 1000, 43, ["at-chance"]),  # GTSRB in folders 0 to 42, read in the wrong order
        (994, 1000, 43, []),
    ],
)
def test_an_accuracy_that_guessing_may_reach_is_amber(
    correct: int, n: int, classes: int, expected: list[str]
) -> None:
    """The exact interval decides, so a few images need a higher rate."""
    found = clean_accuracy_findings(correct, n, classes=classes)
    assert names(found) == expected
    assert all(finding.light == "amber" for finding in found)


def test_always_answering_the_most_frequent_class_is_guessing() -> None:
    """90 of 100 images of one class: 92 right are in doubt, 98 are not; with one class alone there
    is no such guess."""
    labels = [0] * 90 + [1] * 10
    assert names(clean_accuracy_findings(92, 100, classes=10, labels=labels)) == ["at-chance"]
    assert not clean_accuracy_findings(99, 100, classes=10, labels=labels)
    assert not clean_accuracy_findings(92, 100, classes=10, labels=[0] * 100)


@pytest.mark.parametrize(
    ("accuracy", "recorded"),
    [
        ("98.7% [98.1%, 99.0%], n = 2610 frames", 0.987),
        ("clean 91.5% [90%, 93%], n = 2000, robust 40% on held-out images", 0.915),
        ("top-1 89.3 % [85.3, 92.3], n = 300", 0.893),
        ("robust error of the cascade 71.7 % at l_inf 8/255", None),
        ("not measured: weights of your own", None),
    ],
)
def test_the_accuracy_is_read_from_every_form_of_card(
    accuracy: str, recorded: float | None
) -> None:
    """Cards of the zoo and of ``train``; a robust figure is not taken for the clean one."""
    assert ModelCard("mine", accuracy=accuracy).recorded_accuracy == recorded


def test_cards_of_the_zoo_record_what_they_state() -> None:
    """An error of 1.80 % is an accuracy of 98.2 %; a detector has none."""
    assert card_of("wongkolter-mnist").recorded_accuracy == 0.982
    assert card_of("signs").recorded_accuracy == 0.988
    assert card_of("wongkolter-cifar").recorded_accuracy is None
    assert card_of("fastestdet").recorded_accuracy is None


def test_an_accuracy_below_the_cards_is_amber() -> None:
    """Half right is far above guessing among 43, and far below the card's 98.7 %."""
    card = ModelCard("signs", accuracy="98.7%")
    assert names(clean_accuracy_findings(50, 100, classes=43, card=card)) == ["below-card"]
    assert not clean_accuracy_findings(97, 100, classes=43, card=card)
    assert not clean_accuracy_findings(50, 100, classes=43, card=ModelCard("mine"))


@given(n=st.integers(8, 400), classes=st.integers(2, 50), data=st.data())
def test_a_guess_is_taken_for_a_model_rarely(n: int, classes: int, data: st.DataObject) -> None:
    """What is not in doubt is at most 2.5 % likely for a blind guess."""
    correct = data.draw(st.integers(0, n))
    if not clean_accuracy_findings(correct, n, classes=classes):
        assert stats.binom.sf(correct - 1, n, 1 / classes) <= 0.025


def test_impossible_counts_are_refused() -> None:
    """More right than there are is a fault of the caller's."""
    with pytest.raises(OptionError):
        clean_accuracy_findings(3, 2, classes=2)


def evaluated(right: int, n: int = 24) -> EvaluationResult:
    """A linear model on ``n`` images, of which ``right`` carry its own class."""
    source = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(3, 48, generator=source))
        net[1].bias.zero_()
    images = torch.rand(n, 3, 4, 4, generator=source)
    labels = net(images).argmax(1)
    labels[right:] = (labels[right:] + 1) % 3
    return evaluate(as_model(net, name="toy"), (images, labels), "linf:1/255", attack="fgsm")


def test_the_python_result_carries_the_light() -> None:
    """Red for nothing right, amber at chance, green where all is right; all images count, not the
    probe's alone."""
    assert evaluated(0).light == "red"
    assert evaluated(8).light == "amber"
    assert evaluated(24).light == "green"
    assert evaluated(120, 140).light == "green"
    assert evaluated(50, 140).light == "amber"
