"""Code written for the package autoattack runs, and its verdicts are the closed form's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from linear import Linear, least_margin, samples
from torch import Tensor, nn

import physadv
from physadv.core.errors import OptionError


def data(model: Linear, count: int = 12) -> tuple[Tensor, Tensor]:
    images, labels = samples(model, count)
    return images.float(), labels


@pytest.mark.parametrize(
    "version", ["standard", pytest.param("plus", marks=pytest.mark.slow), "custom"]
)
def test_versions_break_what_can_be_broken(version: str) -> None:
    """Images come back in the ball, in their order, and adversarial exactly where the closed form
    says that they can be."""
    model = Linear(4, dtype=torch.float32)
    images, labels = data(model, 8)
    more = {"attacks_to_run": ["apgd-ce", "fab-t"]} if version == "custom" else {}
    adversary = physadv.AutoAttack(model, norm="Linf", eps=0.04, version=version, **more)
    found = adversary.run_standard_evaluation(images, labels, bs=5)
    assert isinstance(found, Tensor)
    assert (found - images).abs().max() <= 0.04 + 1e-7
    least = least_margin(model, images, labels, 0.04, "linf")
    broken = model(found).argmax(1) != labels
    assert broken[least < -0.01].all()
    assert not broken[least > 0.01].any()
    assert adversary.result is not None
    assert adversary.result.robust_accuracy.rate == pytest.approx(1 - float(broken.float().mean()))


def test_labels_state_and_log(tmp_path: Path) -> None:
    """Predicted classes are the model's; a second run from the state attacks nothing again."""
    model = Linear(3, dtype=torch.float32)
    images, labels = data(model, 5)
    log = tmp_path / "log.txt"
    adversary = physadv.AutoAttack(model, eps=0.05, log_path=log)
    state = tmp_path / "state"
    pair = adversary.run_standard_evaluation(images, labels, return_labels=True, state_path=state)
    assert isinstance(pair, tuple)
    assert torch.equal(model(pair[0]).argmax(1), pair[1])
    first = adversary.result
    adversary.run_standard_evaluation(images, labels, state_path=state)
    assert first is not None
    assert adversary.result is not None
    assert adversary.result.rows == first.rows
    assert adversary.result.forwards == first.forwards
    assert "robust accuracy" in log.read_text()


def test_images_of_every_form_come_back_as_floats() -> None:
    """8-bit images are not rounded down to black, and labels may be a list or an array."""
    model = Linear(3, dtype=torch.float32)
    images, _ = data(model, 6)
    pictures = images.mul(255).round().byte()
    labels = model(pictures / 255).argmax(1)
    adversary = physadv.AutoAttack(model, eps=0.1, version="custom", attacks_to_run=["apgd-ce"])
    whole = adversary.run_standard_evaluation(pictures / 255, labels)
    assert isinstance(whole, Tensor)
    for given, truth in ((pictures, labels.tolist()), (pictures.numpy(), labels.numpy())):
        pair = adversary.run_standard_evaluation(given, truth, return_labels=True)
        assert torch.equal(pair[0], whole)
        assert torch.equal(pair[1], model(whole).argmax(1))
    last = adversary.run_standard_evaluation(pictures.movedim(1, -1).numpy(), labels)
    assert isinstance(last, Tensor)
    assert torch.equal(last, whole)


def test_attacks_named_later_are_those_that_run() -> None:
    """Code for the package sets ``attacks_to_run`` of a made adversary."""
    model = Linear(3, dtype=torch.float32)
    adversary = physadv.AutoAttack(model, eps=0.05)
    adversary.attacks_to_run = ["apgd-ce"]
    adversary.run_standard_evaluation(*data(model, 4))
    assert adversary.result is not None
    assert list(adversary.result.broken_by) == ["apgd-ce"]


def test_each_attack_alone() -> None:
    """The individual evaluation returns images by the name of the attack."""
    model = Linear(3, dtype=torch.float32)
    images, labels = data(model, 6)
    adversary = physadv.AutoAttack(
        model, eps=0.05, version="custom", attacks_to_run=["apgd-ce", "apgd-dlr", "fab"]
    )
    alone = adversary.run_standard_evaluation_individual(images, labels, bs=6)
    assert list(alone) == ["apgd-ce", "apgd-dlr", "fab"]
    assert all(isinstance(x, Tensor) and x.shape == images.shape for x in alone.values())


def test_a_random_model_is_attacked_by_its_mean() -> None:
    """The version for random models averages draws; the model's own state stays."""

    class Noisy(nn.Module):
        def __init__(self, inner: Linear) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.inner(x + 0.02 * torch.randn_like(x))
            return logits

    inner = Linear(3, dtype=torch.float32)
    images, labels = data(inner, 4)
    before = torch.get_rng_state()
    adversary = physadv.AutoAttack(Noisy(inner), eps=0.3, version="rand")
    adversary.run_standard_evaluation(images, labels)
    assert torch.equal(before, torch.get_rng_state())
    assert adversary.result is not None
    assert adversary.result.robust_accuracy.rate == 0


def test_what_autoattack_refuses_is_refused() -> None:
    """Unknown versions and attacks, attacks beside a fixed version, and models of TensorFlow."""
    model = Linear(3)
    for wrong in (
        {"version": "fast"},
        {"attacks_to_run": ["apgd-ce"]},
        {"version": "custom"},
        {"version": "custom", "attacks_to_run": ["pgd"]},
        {"is_tf_model": True},
    ):
        with pytest.raises(OptionError):
            physadv.AutoAttack(model, **wrong)
