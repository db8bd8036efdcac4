"""Verdicts of every goal, by hand, and by the definition that patches are optimized for."""

from __future__ import annotations

import itertools

import pytest
import torch

from physadv.check.frame_verdict import FrameVerdict, VerdictRule, frame_verdicts, verdict_rule
from physadv.check.rates import goal_in_words, truth_in_words
from physadv.core.errors import OptionError
from physadv.core.types import Detections
from physadv.models.cards import ModelCard
from physadv.threat.patch_goals import PatchGoal

CLASSES = ("person", "stop sign", "toaster")
DETECTOR, CLASSIFIER = ModelCard("d", "detect", CLASSES), ModelCard("c", "classify", CLASSES)
SIGN, AWAY = (100.0, 100.0, 200.0, 200.0), (400.0, 100.0, 500.0, 200.0)


def rule(goal: str, true: str = "stop sign", target: str | None = None) -> VerdictRule:
    return verdict_rule(DETECTOR, goal=goal, true_class=true, target_class=target, threshold=0.5)


def seen(
    verdict_of: VerdictRule,
    *detections: tuple[tuple[float, ...], str, float],
    box: tuple[float, float, float, float] | None = SIGN,
    part: bool = False,
) -> FrameVerdict:
    """The verdict on detections (box, class, score)."""
    boxes = torch.tensor([[*([0.0, 0, 1, 1],), *(list(d[0]) for d in detections)]])
    scores = torch.zeros(1, len(detections) + 1, 3)
    for number, (_, name, score) in enumerate(detections):
        scores[0, number + 1, CLASSES.index(name)] = score
    return frame_verdicts(Detections(boxes, scores), [box], verdict_of, parts=[part])[0]


STOP, STOP_AWAY = (SIGN, "stop sign", 0.9), (AWAY, "stop sign", 0.8)
TOASTER, TOASTER_AWAY = (SIGN, "toaster", 0.7), (AWAY, "toaster", 0.95)


@pytest.mark.parametrize(
    ("goal", "target", "detections", "expected"),
    [
        ("vanish", None, [STOP], ("stop sign", True, False)),
        ("vanish", None, [STOP_AWAY], ("nothing", False, True)),
        ("vanish", None, [TOASTER], ("toaster", False, True)),
        ("misclassify", None, [STOP], ("stop sign", True, False)),
        ("misclassify", None, [TOASTER], ("toaster", False, True)),
        ("misclassify", None, [STOP, TOASTER], ("stop sign", True, False)),
        ("misclassify", None, [TOASTER_AWAY], ("nothing", False, False)),
        ("misclassify", None, [], ("nothing", False, False)),
        ("misclassify", "toaster", [TOASTER], ("toaster", False, True)),
        ("misclassify", "toaster", [(SIGN, "person", 0.9)], ("person", False, False)),
        ("targeted", "toaster", [STOP], ("stop sign", True, False)),
        ("targeted", "toaster", [STOP, TOASTER], ("stop sign", True, True)),
        ("targeted", "toaster", [TOASTER_AWAY], ("nothing", False, False)),
        ("create", "toaster", [TOASTER], ("toaster", False, True)),
        ("create", "toaster", [STOP], ("stop sign", True, False)),
        ("create", "toaster", [TOASTER_AWAY], ("nothing", True, False)),
        ("create", "toaster", [((90, 90, 400, 400), "toaster", 0.6)], ("toaster", False, True)),
        ("create", "toaster", [((120, 120, 150, 150), "toaster", 0.6)], ("toaster", False, True)),
    ],
)
def test_a_detector_by_goal(
    goal: str,
    target: str | None,
    detections: list[tuple[tuple[float, ...], str, float]],
    expected: tuple[str, bool, bool],
) -> None:
    """Verdict, truth and success of detections on the sign and away from it."""
    found = seen(rule(goal, target=target), *detections)
    assert (found.verdict, found.true, found.success) == expected


def test_success_is_that_of_the_optimization() -> None:
    """For random detections on a located sign, success and truth are those of PatchGoal."""
    generator = torch.Generator().manual_seed(0)
    corners = 300 * torch.rand(40, 12, 2, generator=generator)
    boxes = torch.cat([corners, corners + 20 + 200 * torch.rand(40, 12, 2, generator=generator)], 2)
    scores = torch.rand(40, 12, 3, generator=generator) ** 3
    detections = Detections(boxes, scores)
    goals = [("vanish", None), ("untargeted", None), ("misclassify", None)]
    goals += [(goal, 2) for goal in ("misclassify", "targeted", "create")]
    for goal, target in goals:
        own = PatchGoal(goal, 1, target_class=target, score_threshold=0.5, min_iou=0.3)
        annotations = torch.tensor([SIGN]).expand(40, 4)
        found = frame_verdicts(
            detections, [SIGN] * 40, rule(goal, target=target and CLASSES[target])
        )
        met = own.succeeded(detections, annotations).tolist()
        assert [v.success for v in found] == met
        assert [v.true for v in found] == own.recognized(detections, annotations).tolist()
        assert 0 < sum(met) < 40


def test_classifiers_by_goal() -> None:
    """A classifier's success is that of PatchGoal; a target anywhere has the target's absence for
    its truth."""
    logits = torch.tensor(list(itertools.permutations([3.0, 1.0, 0.0])))
    for goal, target in (
        ("untargeted", None),
        ("misclassify", None),
        ("misclassify", 2),
        ("targeted", 2),
    ):
        known = verdict_rule(CLASSIFIER, goal=goal, true_class="stop sign", target_class=target)
        own = PatchGoal(goal, 1, target_class=target)
        found = frame_verdicts(logits, [None] * len(logits), known)
        met = own.succeeded(logits, torch.zeros(len(logits), 4)).tolist()
        assert [v.success for v in found] == met
        assert [v.true for v in found] == (logits.argmax(1) == 1).tolist()
    anywhere = verdict_rule(
        CLASSIFIER, goal="targeted", true_class="anywhere", target_class="toaster"
    )
    found = frame_verdicts(logits, [None] * len(logits), anywhere)
    assert [v.success for v in found] == (logits.argmax(1) == 2).tolist()
    assert [v.true for v in found] == (logits.argmax(1) != 2).tolist()


def test_the_person_with_the_sticker_among_others() -> None:
    """Located by the sticker on it, a person is what holds half of the sticker, of any shape;
    others are counted, once each, and do not matter."""
    sticker = (140.0, 160.0, 180.0, 200.0)
    wearer, other = (100.0, 80.0, 220.0, 460.0), (400.0, 60.0, 520.0, 470.0)
    vanish = rule("vanish", true="person")
    both = seen(
        vanish,
        (wearer, "person", 0.9),
        (other, "person", 0.8),
        (other, "person", 0.7),
        box=sticker,
        part=True,
    )
    assert (both.true, both.success, both.others) == (True, False, 1)
    hidden = seen(vanish, (wearer, "person", 0.3), (other, "person", 0.8), box=sticker, part=True)
    assert (hidden.verdict, hidden.true, hidden.success, hidden.others) == (
        "nothing",
        False,
        True,
        1,
    )
    inside = seen(vanish, ((150, 170, 160, 180), "person", 0.9), box=sticker, part=True)
    assert inside.success
    # By the overlap of boxes alone the wearer would not be the sticker's.
    assert seen(vanish, (wearer, "person", 0.9), box=sticker).success

    # Where nobody knows who wears it, one person that is seen counts as recognized.
    unknown = seen(vanish, (wearer, "person", 0.3), (other, "person", 0.8), box=None)
    assert (unknown.true, unknown.success, unknown.others) == (True, False, 0)


def test_what_a_goal_needs() -> None:
    """A target for create and targeted, a detector for create, a place for misclassify without a
    target; a true class for everything else."""
    for goal in ("create", "targeted"):
        with pytest.raises(OptionError, match="--target"):
            rule(goal)
    with pytest.raises(OptionError, match="is for detectors"):
        verdict_rule(CLASSIFIER, goal="create", true_class="anywhere", target_class="toaster")
    with pytest.raises(OptionError, match="one of targeted, untargeted, vanish"):
        rule("hide")
    assert rule("create", true="anywhere", target="stop sign").true_class is None
    assert rule("misclassify").needs_place
    assert not rule("misclassify", target="toaster").needs_place
    assert not rule("vanish").needs_place


def test_goals_in_words() -> None:
    """Every goal is told, and what the model should report without the patch."""
    told = {
        (goal, target): (
            goal_in_words({"goal": goal, "true_class": true, "target_class": target}),
            truth_in_words({"goal": goal, "true_class": true, "target_class": target}),
        )
        for goal, true, target in (
            ("vanish", "person", None),
            ("misclassify", "stop sign", None),
            ("misclassify", "stop sign", "toaster"),
            ("targeted", "anywhere", "toaster"),
            ("create", "wall", "stop sign"),
        )
    }
    assert told == {
        ("vanish", None): ("“person” not recognized", "“person”"),
        ("misclassify", None): ("“stop sign” taken for something else", "“stop sign”"),
        ("misclassify", "toaster"): ("“stop sign” taken for “toaster”", "“stop sign”"),
        ("targeted", "toaster"): ("“toaster” reported", "no “toaster”"),
        ("create", "stop sign"): ("“stop sign” reported where there is none", "no “stop sign”"),
    }


def test_a_detection_counts_from_the_score_on_the_models_card() -> None:
    """Whoever names no threshold gets the model's own; where it has none, 0.25."""
    own = ModelCard("d", task="detect", classes=("stop",), extra={"score_threshold": 0.65})
    plain = ModelCard("d", task="detect", classes=("stop",))
    assert verdict_rule(own, goal="vanish", true_class="stop").threshold == 0.65
    assert verdict_rule(own, goal="vanish", true_class="stop", threshold=0.3).threshold == 0.3
    assert verdict_rule(plain, goal="vanish", true_class="stop").threshold == 0.25

    box = (0.0, 0.0, 10.0, 10.0)
    weak = Detections(torch.tensor([[box]]), torch.tensor([[[0.5]]]))
    for card, hidden in ((own, True), (plain, False)):
        rule = verdict_rule(card, goal="vanish", true_class="stop")
        assert frame_verdicts(weak, [box], rule)[0].success is hidden
