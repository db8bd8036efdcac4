"""Epsilon-ball attacks on detectors: goals, exact verdicts, every attack, a real detector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import physadv
from physadv.attacks import apgd, pgd, square_attack
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.detection import DetectorMargin, detector_attack
from physadv.core.errors import ModelError, OptionError
from physadv.core.image_io import read_image
from physadv.core.types import Detections
from physadv.models.detectors import DetectedBoxes


class Grid(nn.Module):
    """Four candidates, the quarters of an image; class 0 follows red, class 1 green."""

    def forward(self, x: Tensor) -> Detections:
        """Detections of images (b, 3, 16, 16)."""
        corners = [(0, 0), (8, 0), (0, 8), (8, 8)]
        boxes = x.new_tensor([[a, b, a + 8, b + 8] for a, b in corners])
        means = torch.stack([x[:, :2, b : b + 8, a : a + 8].mean((2, 3)) for a, b in corners], 1)
        return Detections(boxes.expand(len(x), 4, 4), (12 * (means - 0.5)).sigmoid())


def scene(count: int = 1) -> Tensor:
    """Images with a red object in the first quarter and nothing elsewhere."""
    images = torch.full((count, 3, 16, 16), 0.3)
    images[:, 0, :8, :8] = 0.6
    return images


@pytest.mark.parametrize("attack", [pgd, apgd, square_attack])
@pytest.mark.parametrize("goal", ["hide", "fabricate", "mislabel"])
def test_every_attack_meets_every_goal_within_reach(
    goal: str, attack: Callable[..., AttackResult]
) -> None:
    """At a radius that allows it; the boxes afterwards show it, and the ball is kept."""
    eps = {"hide": 0.3, "fabricate": 0.3, "mislabel": 0.35}[goal]
    result = detector_attack(Grid(), scene(2), eps=eps, goal=goal, attack=attack, threshold=0.4)
    assert result.success.all()
    assert (result.images - scene(2)).abs().max() <= eps + 1e-6
    assert len(result.before[0].of_class(0)) == 1
    for after in result.after:
        own = [
            b for b, k in zip(after.boxes.tolist(), after.labels.tolist(), strict=True) if k == 0
        ]
        first = [0.0, 0.0, 8.0, 8.0]
        if goal == "hide":
            assert first not in own
        elif goal == "mislabel":
            assert first in after.of_class(1).boxes.tolist()
            assert first not in own
        else:
            assert any(box != first for box in after.boxes.tolist())


@pytest.mark.parametrize("goal", ["hide", "fabricate", "mislabel"])
def test_what_cannot_be_reached_is_no_success(goal: str) -> None:
    """At a radius of 0.01 nothing changes, and nothing is claimed."""
    result = detector_attack(Grid(), scene(), eps=0.01, goal=goal, threshold=0.4)
    assert not result.success.any()


def test_the_margin_is_zero_exactly_at_the_threshold() -> None:
    """Its sign is the verdict: a score just below it is hidden, one just above is not."""
    objects = DetectedBoxes(torch.tensor([[0.0, 0, 8, 8]]), torch.ones(1), torch.zeros(1).long())
    margin = DetectorMargin(Grid(), objects, "hide", 0.4)
    level = 0.5 + torch.logit(torch.tensor(0.4)) / 12
    for shift, hidden in ((-1e-3, True), (1e-3, False)):
        images = scene()
        images[:, 0, :8, :8] = level + shift
        assert bool(margin(images).argmax(1)) is hidden


def test_all_objects_must_be_hidden() -> None:
    """An image of two objects of which one stays is no success; the caller's objects are taken."""
    images = scene()
    images[:, 0, 8:, 8:] = 1.0
    result = detector_attack(Grid(), images, eps=0.2, threshold=0.4)
    assert not result.success.any()
    one = DetectedBoxes(torch.tensor([[0.0, 0, 8, 8]]), torch.ones(1), torch.zeros(1).long())
    assert detector_attack(Grid(), images, eps=0.2, threshold=0.4, objects=[one]).success.all()


def test_an_image_without_an_object_is_left_as_it_is() -> None:
    """Nothing to hide: no success and no change."""
    images = torch.full((1, 3, 16, 16), 0.3)
    result = detector_attack(Grid(), images, eps=0.3, threshold=0.4)
    assert not result.success.any()
    assert torch.equal(result.images, images)


def test_wrong_calls_are_named() -> None:
    """An unknown goal, a classifier, and a list of another length."""
    with pytest.raises(OptionError, match="hide"):
        detector_attack(Grid(), scene(), eps=0.1, goal="vanish")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="detector"):
        detector_attack(nn.Flatten(), scene(), eps=0.1)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="lists of objects"):
        detector_attack(Grid(), scene(), eps=0.1, objects=[])
    with pytest.raises(OptionError, match="between 0 and 1"):
        detector_attack(Grid(), scene(), eps=0.1, threshold=1.0)


def test_a_real_detector_loses_a_stop_sign(shared_data: Path) -> None:
    """FastestDet on a photo: PGD at 4/255 hides every object that it found."""
    model = physadv.load_model("fastestdet", weights=shared_data / "weights/fastestdet_coco.pth")
    photos = sorted((shared_data / "stop-photos/stop").rglob("*.jpg"))
    stop = model.card.class_index("stop sign")
    for photo in photos:
        image = read_image(photo)
        image = image if image.ndim == 4 else image[None]
        small = nn.functional.interpolate(image, (352, 352), mode="bilinear", antialias=True)
        result = detector_attack(model, small.clamp(0, 1), eps=4 / 255, steps=20, step_size=1 / 255)
        if len(result.before[0].of_class(stop)):
            break
    assert result.success.all()
    assert len(result.after[0].of_class(stop)) == 0
