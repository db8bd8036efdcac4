"""BPDA and EOT: gradients through what has none, and averages of losses, not of logits."""

from __future__ import annotations

import pytest
import torch
from linear import Linear, samples
from torch import Tensor, nn

from physadv.attacks._classifier_step import loss_and_gradient
from physadv.attacks.gradient import fgsm, pgd
from physadv.attacks.obfuscated import bpda, expectation_model
from physadv.core.errors import OptionError
from physadv.threat.losses import objective_by_name


def coarse(x: Tensor) -> Tensor:
    """Eight gray levels: a gradient of zero almost everywhere."""
    return (x * 7).round() / 7


def test_bpda_restores_the_attack() -> None:
    """Behind quantization FGSM has no gradient and finds nothing; with BPDA it breaks most
    samples."""
    model = Linear()
    x, y = samples(model, 16)
    y = model(coarse(x)).argmax(1)
    blocked = fgsm(lambda images: model(coarse(images)), x, y, eps=0.15)
    opened = fgsm(lambda images: model(bpda(coarse)(images)), x, y, eps=0.15)
    assert not blocked.success.any()
    assert opened.success.double().mean() > 0.6


def test_bpda_forward_and_backward() -> None:
    """The value is the part's, the gradient the stand-in's; a stand-in of another shape is an
    error."""
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    out = bpda(coarse, lambda x: 3 * x)(x)
    assert torch.equal(out, coarse(x))
    assert torch.equal(torch.autograd.grad(out.sum(), x)[0], torch.full_like(x, 3))
    with pytest.raises(OptionError, match="shape"):
        torch.autograd.grad(bpda(coarse, lambda x: x[:, :1])(x).sum(), x)


class Noisy(torch.nn.Module):
    """A linear victim behind noise from the global RNG."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Linear(3, scale=5)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 0.3 * torch.randn_like(x))


def test_eot_averages_losses_and_gradients() -> None:
    """The gradient is the mean of the draws' own loss gradients, and is not that of the averaged
    logits."""
    net = Noisy()
    x, y = samples(net.inner)
    model = expectation_model(net, draws=5)
    goal = objective_by_name("ce", y)
    _, loss, grad = loss_and_gradient(model, x, goal)
    parts = [loss_and_gradient(draw, x, goal) for draw in model.eot_draws()]
    torch.testing.assert_close(grad, torch.stack([p[2] for p in parts]).mean(0))
    torch.testing.assert_close(loss, torch.stack([p[1] for p in parts]).mean(0))
    _, _, averaged = loss_and_gradient(
        lambda images: torch.stack([d(images) for d in model.eot_draws()]).mean(0), x, goal
    )
    assert not torch.allclose(grad, averaged, rtol=1e-3)


def test_eot_repeats_and_leaves_the_rng_alone() -> None:
    """Two runs are equal, the caller's random state is untouched, and every draw is counted."""
    net = Noisy()
    x, y = samples(net.inner)
    state = torch.get_rng_state()
    first, second = (
        pgd(expectation_model(net, draws=3), x, y, eps=0.05, steps=4, drop_broken=False)
        for _ in range(2)
    )
    assert torch.equal(first.images, second.images)
    assert torch.equal(state, torch.get_rng_state())
    assert first.queries is not None
    assert first.queries.tolist() == [15] * len(x)
    assert not torch.equal(
        pgd(expectation_model(net, draws=3, seed=1), x, y, eps=0.05, steps=4).images, first.images
    )


def test_eot_verdict_is_the_mean_probability() -> None:
    """The wrapper's output is the log of the mean probability over its draws."""
    net = Noisy()
    x, _ = samples(net.inner)
    model = expectation_model(net, draws=4)
    chances = torch.stack([draw(x).softmax(1) for draw in model.eot_draws()]).mean(0)
    torch.testing.assert_close(model(x).exp(), chances)
    with pytest.raises(OptionError, match="draws"):
        expectation_model(net, draws=0)


def test_parts_and_models_that_write_into_their_input_get_copies() -> None:
    """A part in place leaves the image, and every draw of an expectation sees the same image."""

    def halve(x: Tensor) -> Tensor:
        with torch.no_grad():
            return x.mul_(0.5)

    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    clean = images.detach().clone()
    bpda(halve)(images).sum().backward()
    assert torch.equal(images.detach(), clean)
    assert torch.equal(images.grad, torch.ones_like(clean))

    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    mean = expectation_model(lambda x: net(halve(x)), draws=3)(clean)
    torch.testing.assert_close(mean, net(clean / 2).log_softmax(1))
