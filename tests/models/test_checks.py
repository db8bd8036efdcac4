"""Checks of a model under test: worthless outputs are errors, doubtful ones are warnings with a
remedy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.types import Detections
from physadv.models.checks import check_model
from physadv.models.load import as_model

IMAGES = torch.linspace(0.1, 0.9, 4 * 3 * 8 * 8).reshape(4, 3, 8, 8)


class Linear(nn.Module):
    """Logits are the means of the channels times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((2, 3)) * torch.tensor([1.0, 2.0, 4.0])
        return means * self.factor


class Changed(Linear):
    """A linear model whose output goes through a function."""

    def __init__(self, change: object) -> None:
        super().__init__()
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(super().forward(images))  # type: ignore[operator, no-any-return]


def test_a_sound_model_passes_without_a_word() -> None:
    """Logits, finite, steady, with a gradient: no warning."""
    assert check_model(Linear().eval(), IMAGES) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda y: y * float("nan"), "NaN"),
        (lambda y: y / 0, "NaN or infinite"),
        (lambda y: y.argmax(1), "logits"),
        (lambda y: y.sum(1, keepdim=True), "classes >= 2"),
        (lambda y: (y, y), "tuple"),
        (lambda y: y.detach(), "no gradient reaches"),
        (lambda y: torch.from_numpy(y.detach().numpy()), "no gradient reaches"),
        (lambda y: y.reshape(7), "fails on images"),
    ],
)
def test_worthless_outputs_are_errors(change: object, said: str) -> None:
    """NaN, infinity, labels for logits, one class, a tuple, detached outputs and a crash raise
    ModelError."""
    with pytest.raises(ModelError, match=said):
        check_model(Changed(change).eval(), IMAGES)


def test_a_square_root_at_zero_is_caught() -> None:
    """A finite output with an infinite gradient raises ModelError."""
    with pytest.raises(ModelError, match=r"gradient is NaN or infinite"):
        check_model(Changed(lambda y: (y * 0).sqrt() + y).eval(), IMAGES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda y: y.softmax(1), "probabilities"),
        (lambda y: y * 1000, "cross entropy is 0"),
        (lambda y: y + torch.randn_like(y), "Two runs"),
        (lambda y: y - y.mean(0, keepdim=True), "other images of its batch"),
        (lambda y: y.round() + 0 * y, "gradient is zero"),
    ],
)
def test_doubtful_outputs_are_warnings(change: object, said: str) -> None:
    """Softmax, saturated logits, randomness, batch statistics and masked gradients are each
    named."""
    (warning,) = check_model(Changed(change).eval(), IMAGES)
    assert said in warning


def test_a_model_without_gradients_passes_where_none_are_needed() -> None:
    """gradients=False is for black-box attacks and for judging only."""
    assert check_model(Changed(lambda y: y.detach()).eval(), IMAGES, gradients=False) == []


def test_training_mode_is_named() -> None:
    """A model left in training mode is warned of."""
    assert any("training mode" in w for w in check_model(Linear().train(), IMAGES))
    norm = nn.BatchNorm2d(3).train()
    check_model(nn.Sequential(norm, Linear()), IMAGES)
    assert int(norm.num_batches_tracked) == 0


def test_classes_on_the_card_must_be_the_models() -> None:
    """Two names for three logits raise ModelError."""
    with pytest.raises(ModelError, match="3 classes"):
        check_model(as_model(Linear(), classes=["a", "b"]), IMAGES)


def test_the_check_leaves_no_trace() -> None:
    """Images, parameters' gradients, modes and the global random state are as before."""
    model = Changed(lambda y: y + torch.randn_like(y)).eval()
    model.factor.requires_grad_(True)
    images, state = IMAGES.clone(), torch.get_rng_state()
    check_model(model, images)
    assert torch.equal(images, IMAGES)
    assert not images.requires_grad
    assert model.factor.grad is None
    assert model.factor.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


def test_detections_are_checked_too() -> None:
    """Scores outside [0, 1] and boxes of another count raise ModelError; sound ones pass."""

    class Detector(nn.Module):
        def __init__(self, scale: float, boxes: int) -> None:
            super().__init__()
            self.scale, self.boxes = scale, boxes

        def forward(self, images: Tensor) -> Detections:
            scores = images.mean((2, 3))[:, :, None].expand(-1, -1, 2) * self.scale
            return Detections(torch.zeros(images.shape[0], self.boxes, 4), scores)

    assert check_model(Detector(1.0, 3).eval(), IMAGES) == []
    with pytest.raises(ModelError, match=r"must lie in \[0, 1\]"):
        check_model(Detector(5.0, 3).eval(), IMAGES)
    with pytest.raises(ModelError, match="before suppression"):
        check_model(Detector(1.0, 2).eval(), IMAGES)
