"""What the victim says of the sign, put as one verdict a frame, whether it classifies crops or
detects in frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from physadv.camera.localization.boxes import Box
from physadv.core.boxes import box_iou
from physadv.core.errors import ModelError, OptionError
from physadv.core.types import Detections, Prediction
from physadv.models.cards import ModelCard

NOTHING = "nothing"
"""The verdict on a sign no detection lies on."""

THRESHOLD, IOU = 0.25, 0.3
"""A detection counts from this score on (the usual working point of small detectors; the victim's
owner can say better), and belongs to the sign from this overlap on (a patch may bend the box, so
PASCAL's 0.5 is too strict)."""


class CardedModel(Protocol):
    """A victim with a card, such as a ``LoadedModel``."""

    @property
    def card(self) -> ModelCard:
        """What the victim is."""

    def __call__(self, images: torch.Tensor) -> Prediction:
        """Logits or detections of images in [0, 1]."""


@dataclass(frozen=True)
class VerdictRule:
    """What is asked of every frame: is it the true class, and is the attacker's goal met?"""

    goal: str
    card: ModelCard
    true_class: int
    target_class: int | None = None
    threshold: float = THRESHOLD
    iou: float = IOU

    def name(self, index: int | None) -> str:
        """What to call a verdict."""
        return NOTHING if index is None else self.card.class_name(index)


@dataclass(frozen=True)
class FrameVerdict:
    """One verdict: its name and score, the true class's score, and what follows from them."""

    verdict: str
    confidence: float
    true_score: float
    true: bool
    success: bool


def verdict_rule(
    card: ModelCard,
    *,
    goal: str,
    true_class: str | int,
    target_class: str | int | None = None,
    threshold: float = THRESHOLD,
    iou: float = IOU,
) -> VerdictRule:
    """Build the question for a victim's card.

    Raises OptionError for an unknown goal, a share out of range or a target that is the true class;
    ModelError for a class the card does not know.
    """
    if goal not in {"targeted", "untargeted", "vanish"}:
        raise OptionError(
            f"goal {goal!r}", "one of targeted, untargeted, vanish", "correct the goal"
        )
    for name, share in (("threshold", threshold), ("IoU", iou)):
        if not 0 < share <= 1:
            raise OptionError(f"{name} {share:g}", "above 0, at most 1", "give a share")
    true = card.class_index(true_class)
    target = None if target_class is None else card.class_index(target_class)
    if goal == "targeted" and target is None:
        raise OptionError(
            "goal 'targeted'", "needs a target class", "give one, or choose untargeted"
        )
    if target == true:
        raise OptionError(
            f"target class {card.class_name(true)!r}",
            "it is the true class",
            "choose another target",
        )
    return VerdictRule(goal, card, true, target, threshold, iou)


def frame_verdicts(
    prediction: Prediction, boxes: Sequence[Box | None], question: VerdictRule
) -> list[FrameVerdict]:
    """One answer a frame. ``boxes`` are the sign's, in px of what the victim saw; only detectors
    need them.

    Raises ModelError for NaN, for infinite scores and for a number of classes that differs from
    the card's.
    """
    if isinstance(prediction, Detections):
        _finite(prediction.scores, question)
        _finite(prediction.boxes, None)
        scores = prediction.scores.detach().double().cpu().numpy()
        places = prediction.boxes.detach().double().cpu().numpy()
        return [
            _detected(p, s, box, question) for p, s, box in zip(places, scores, boxes, strict=True)
        ]
    _finite(prediction, question)
    shares = prediction.detach().double().softmax(-1).cpu()
    return [_classified(row, question) for row in shares]


def _classified(shares: torch.Tensor, question: VerdictRule) -> FrameVerdict:
    best = int(shares.argmax())
    return _answer(best, float(shares[best]), float(shares[question.true_class]), question)


def _overlaps(box: Box, places: np.ndarray) -> np.ndarray:
    """Return the overlap of a box with (n, 4) boxes: (n,)."""
    one = torch.tensor([box], dtype=torch.float64)
    return np.asarray(box_iou(one, torch.from_numpy(places))[0].numpy())


def _detected(
    places: np.ndarray, scores: np.ndarray, box: Box | None, question: VerdictRule
) -> FrameVerdict:
    """True class if any detection of it lies on the sign; else the strongest other class on it;
    else nothing."""
    on_sign = scores if box is None else scores[_overlaps(box, places) >= question.iou]
    best = on_sign.max(0) if len(on_sign) else np.zeros(scores.shape[-1])
    true_score = float(best[question.true_class])
    if true_score >= question.threshold:
        return _answer(question.true_class, true_score, true_score, question)
    if (
        box is None
    ):  # whatever else is in the frame is not the sign's business, save the class aimed at
        others = np.zeros_like(best)
        if question.target_class is not None:
            others[question.target_class] = best[question.target_class]
    else:
        others = best
    strongest = int(others.argmax())
    found = strongest if others[strongest] >= question.threshold else None
    return _answer(
        found, float(others[strongest]) if found is not None else 0.0, true_score, question
    )


def _answer(
    index: int | None, confidence: float, true_score: float, question: VerdictRule
) -> FrameVerdict:
    true = index == question.true_class
    success = index == question.target_class if question.goal == "targeted" else not true
    return FrameVerdict(
        question.name(index), round(confidence, 6), round(true_score, 6), true, success
    )


def _finite(values: torch.Tensor, question: VerdictRule | None) -> None:
    if (
        question is not None
        and question.card.classes
        and values.shape[-1] != len(question.card.classes)
    ):
        limit = f"its card names {len(question.card.classes)}"
        raise ModelError(
            f"the victim answers with {values.shape[-1]} classes",
            limit,
            "use the card that fits it",
        )
    if not bool(torch.isfinite(values).all()):
        kind = "NaN" if bool(torch.isnan(values).any()) else "infinite scores"
        raise ModelError(
            f"the victim answers with {kind}", "finite numbers are needed", "check its weights"
        )
