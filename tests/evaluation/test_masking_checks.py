"""Self-checks: each finds the victim it was made for, and an honest victim raises none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.types import Model
from physadv.evaluation import masking_checks


class Honest(nn.Module):
    """A linear net on 8x8 images whose argmax is the label."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(4, 64, generator=torch.Generator().manual_seed(0)))
            self.layer.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.flatten(1))
        return logits


IMAGES = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = Honest()(IMAGES).argmax(1)


def names(model: Model, images: Tensor = IMAGES, labels: Tensor = LABELS) -> set[str]:
    """Names of the doubts about a victim."""
    return {d.name for d in masking_checks.masking_findings(model, images, labels, eps=0.03)}


def test_an_honest_model_raises_no_doubt() -> None:
    """Nothing is said of a plain differentiable net with logits."""
    assert names(Honest().eval()) == set()


def test_large_logits_are_told_from_robustness() -> None:
    """Logits times 10,000 starve the cross-entropy of its gradient; the margin still has one."""
    assert names(lambda x: 1e4 * Honest()(x)) == {"saturated-cross-entropy"}


def test_probabilities_are_told_from_logits() -> None:
    """A softmax at the end is named."""
    assert "softmax-output" in names(lambda x: Honest()(x).softmax(1))


def test_random_output_is_noticed() -> None:
    """Noise on the logits is named."""
    assert "random-output" in names(lambda x: Honest()(x) + 0.1 * torch.randn(len(x), 4))


def test_a_missing_a_zero_and_a_vanishing_gradient_are_told_apart() -> None:
    """Detached, rounded and crushed gradients each get their own name."""

    def crushed(x: Tensor) -> Tensor:
        return Honest()(x.detach() + 1e-6 * (x - x.detach()))

    assert "no-gradient" in names(lambda x: Honest()(x.detach()))
    assert "zero-gradient" in names(lambda x: Honest()((x * 255).round() / 255))
    assert "vanishing-gradient" in names(crushed)


def test_training_mode_is_noticed() -> None:
    """A batch norm in training mode makes the result depend on the batch."""
    model = nn.Sequential(nn.BatchNorm2d(1), Honest())
    assert "training-mode" in names(model.train())
    assert "training-mode" not in names(model.eval())


def test_images_out_of_range_are_noticed() -> None:
    """Images in 0..255, normalized ones and those divided twice are all named."""
    for images in (IMAGES * 255, IMAGES * 2 - 1, IMAGES / 255):
        assert {d.name for d in masking_checks.check_images(images)} == {"inputs-out-of-range"}


def test_constant_output_is_noticed() -> None:
    """A model that answers the same to all."""
    assert "constant-output" in names(lambda x: Honest()(x * 0))


def test_output_that_is_no_logits_is_an_error() -> None:
    """One class, NaN and another shape cannot be evaluated at all."""
    for broken in (
        lambda x: Honest()(x)[:, :1],
        lambda x: Honest()(x) * torch.nan,
        lambda x: Honest()(x)[0],
    ):
        with pytest.raises(ModelError):
            masking_checks.masking_findings(broken, IMAGES, LABELS, eps=0.03)


def test_a_black_box_that_beats_the_gradient_is_noticed() -> None:
    """Square breaking what no gradient attack broke is a sign of masking; breaking what they broke
    too is not."""
    white, square = [True, False, False, False], [True, True, True, False]
    findings = list(
        masking_checks.check_blackbox({"pgd": white, "square": square}, ["pgd"], ["square"])
    )
    assert [d.name for d in findings] == ["blackbox-beats-whitebox"]
    assert not list(
        masking_checks.check_blackbox({"pgd": square, "square": white}, ["pgd"], ["square"])
    )


def test_more_steps_doing_worse_is_noticed() -> None:
    """An attack that loses successes with more steps does not ascend."""
    few, many = [True] * 6 + [False] * 4, [True] * 3 + [False] * 7
    assert [d.name for d in masking_checks.check_steps(few, many, (5, 20))] == ["more-steps-worse"]
    assert not list(masking_checks.check_steps(many, few, (5, 20)))


def test_an_unbounded_attack_must_succeed() -> None:
    """Images that withstand eps = 1 were not attacked honestly."""
    assert [d.name for d in masking_checks.check_unbounded([True, False], 1.0)] == [
        "unbounded-attack-fails"
    ]
    assert not list(masking_checks.check_unbounded([True, True], 1.0))


def test_a_rising_curve_is_noticed() -> None:
    """Robust accuracy cannot grow with eps."""
    assert [d.name for d in masking_checks.check_curve({0.0: 0.9, 0.1: 0.4, 0.2: 0.5})] == [
        "curve-rises"
    ]
    assert not list(masking_checks.check_curve({0.0: 0.9, 0.2: 0.5, 0.1: 0.6}))


def test_every_doubt_names_a_remedy() -> None:
    """A doubt reads as one line: name, finding, remedy."""
    finding = next(iter(masking_checks.check_unbounded([False], 1.0)))
    assert str(finding).startswith("unbounded-attack-fails: ")
    assert finding.as_dict().keys() == {"name", "finding", "remedy", "light"}
