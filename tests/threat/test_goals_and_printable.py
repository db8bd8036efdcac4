"""Goals of a patch, for classifiers and detectors, and what makes it printable."""

from __future__ import annotations

import pytest
import torch

from physadv.core.errors import OptionError, VictimError
from physadv.core.types import Detections
from physadv.threat.goals import Goal, overlap
from physadv.threat.printable import ink_palette, non_printability, total_variation

NO_BOX = torch.zeros(3, 4)
LOGITS = torch.tensor([[5.0, 0.0, 1.0], [0.0, 5.0, 1.0], [1.0, 0.5, 5.0]])


def test_untargeted_loss_falls_as_the_truth_loses() -> None:
    """Lower is better for the attacker; success is that the true class is no longer the verdict."""
    goal = Goal("untargeted", 0)
    loss = goal.loss(LOGITS, NO_BOX)
    assert loss[0] > loss[1]
    assert loss[0] > loss[2]
    assert goal.succeeded(LOGITS, NO_BOX).tolist() == [False, True, True]
    assert goal.recognised(LOGITS, NO_BOX).tolist() == [True, False, False]


def test_targeted_success_needs_the_target() -> None:
    """Another wrong class is no success of a targeted patch, and its loss is not the lowest."""
    goal = Goal("targeted", 0, 1)
    assert goal.succeeded(LOGITS, NO_BOX).tolist() == [False, True, False]
    assert int(goal.loss(LOGITS, NO_BOX).argmin()) == 1


def test_goals_without_sense_are_refused() -> None:
    """Unknown goals, missing targets and classes the victim lacks name the remedy."""
    with pytest.raises(OptionError, match="explode"):
        Goal("explode", 0)
    with pytest.raises(OptionError, match="--target"):
        Goal("targeted", 1)
    with pytest.raises(VictimError, match="class 7"):
        Goal("untargeted", 7).loss(LOGITS, NO_BOX)


def detections(score: float, shift: float = 0.0) -> Detections:
    boxes = torch.tensor([[[10.0 + shift, 10.0, 30.0 + shift, 30.0], [60.0, 60.0, 80.0, 80.0]]])
    scores = torch.tensor([[[score, 0.1], [0.9, 0.0]]])
    return Detections(boxes, scores)


def test_a_detector_sees_the_sign_only_where_it_stands() -> None:
    """A strong box elsewhere does not count as seeing this sign; a strong box on it does."""
    goal, box = Goal("vanish", 0), torch.tensor([[10.0, 10.0, 30.0, 30.0]])
    assert bool(goal.recognised(detections(0.8), box))
    assert bool(goal.succeeded(detections(0.1), box))
    assert bool(goal.succeeded(detections(0.8, shift=25.0), box))
    assert float(goal.loss(detections(0.8), box)) > float(goal.loss(detections(0.1), box))


def test_overlap_of_known_boxes() -> None:
    """Half shifted squares overlap by one third; disjoint ones by nothing."""
    candidates = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 6.0, 6.0]]])
    assert overlap(candidates, torch.tensor([[0.0, 0.0, 2.0, 2.0]]))[0].tolist() == pytest.approx([1, 1 / 3, 0])


def test_total_variation_of_stripes() -> None:
    """A flat patch has none, stripes one jump a pixel along their axis; jumps over the mask's edge do not count."""
    flat, mask = torch.full((1, 3, 8, 8), 0.3), torch.ones(1, 1, 8, 8)
    stripes = (torch.arange(8) % 2).float().expand(1, 3, 8, 8)
    assert float(total_variation(flat, mask)) == 0
    assert float(total_variation(stripes, mask)) == pytest.approx(7 * 8 / 64)
    half = mask.clone()
    half[..., 4:] = 0
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1
    assert float(total_variation(edge, half)) == 0


def test_printable_colours_cost_nothing() -> None:
    """A patch of palette colours scores zero; a saturated primary does not."""
    palette, mask = ink_palette(), torch.ones(1, 1, 8, 8)
    printable = palette.T.reshape(1, 3, 8, 8)
    assert float(non_printability(printable, mask, palette)) == pytest.approx(0, abs=1e-3)
    pure = torch.zeros(1, 3, 8, 8)
    pure[:, 1] = 1
    assert float(non_printability(pure, mask, palette)) > 0.1
