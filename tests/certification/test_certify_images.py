"""Certificates from a model and images alone agree with the parts they are made of, and hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from physadv.attacks import pgd
from physadv.certification.certify_images import certify_bounds, certify_smoothing
from physadv.core.errors import ImageError, ModelError, OptionError


def linear(bias: float = 0.3) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([torch.zeros(48), torch.linspace(-1, 1, 48)]))
        net[1].bias.copy_(torch.tensor([0.0, bias]))
    return net


def images(n: int = 6) -> Tensor:
    return torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_smoothing_of_a_linear_model_stays_below_its_distance() -> None:
    """The smoothed linear classifier is the linear one, whose distance to its boundary is known: no
    radius passes it, and most come near."""
    net, x = linear(), images()
    logits = net(x)
    distance = ((logits[:, 1] - logits[:, 0]).abs() / net[1].weight[1].norm()).detach()
    found = certify_smoothing(net, x, sigma=0.25, n=4000, seed=1)
    held = ~found.abstained
    assert bool(held.any())
    assert torch.equal(found.predicted[held], logits.argmax(1)[held])
    assert bool((found.radius[held] <= distance.double()[held] + 1e-9).all())
    assert float(found.radius[held].max()) > 0.5 * float(distance.clamp(max=0.8).max())
    assert found.samples.tolist() == [4100] * 6


def test_smoothing_takes_names_arrays_and_noises() -> None:
    """Arrays give what tensors give; noises that do not serve a norm are refused."""
    net, x = linear(), images(2)
    for noise, norm in (("gaussian", "Linf"), ("laplace", "L1"), ("uniform", 1)):
        first = certify_smoothing(net, x, sigma=0.5, n=200, noise=noise, norm=norm)
        again = certify_smoothing(net, x.numpy(), sigma=0.5, n=200, noise=noise, norm=norm)
        assert torch.equal(first.radius, again.radius)
    with pytest.raises(OptionError):
        certify_smoothing(net, x, sigma=0.5, n=200, noise="laplace", norm="l2")
    with pytest.raises(OptionError):
        certify_smoothing(net, x, sigma=0.0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bounds_of_a_linear_model_are_its_margins(norm: str) -> None:
    """Away from the edges of [0, 1] the least margin is the margin less eps times the dual norm."""
    net = linear()
    x = images() * 0.2 + 0.4
    logits = net(x)
    labels = logits.argmax(1)
    eps = 0.02
    dual = {"linf": 1, "l2": 2}[norm]
    reach = eps * float(torch.linalg.vector_norm(net[1].weight[1], ord=dual))
    margin = (logits[:, 1] - logits[:, 0]).abs() - reach
    found = certify_bounds(net, x.numpy(), labels.tolist(), eps=eps, norm=norm, batch=4)
    torch.testing.assert_close(found.margin, margin.detach(), atol=1e-4, rtol=1e-3)
    assert torch.equal(found.certified, found.margin > 0)
    assert torch.equal(found.predicted, labels)


def test_no_attack_breaks_what_bounds_certify() -> None:
    """On a net with hidden layers PGD leaves every certified image alone, and the net as it was."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).train()
    x = images(20)
    labels = net.eval()(x).argmax(1)
    net.train()
    for method in ("ibp", "crown-ibp", "crown", "polytope"):
        found = certify_bounds(net, x, labels, eps="2/255", method=method)
        broken = pgd(net.eval(), x, labels, eps=2 / 255, steps=30).success
        assert not bool((broken & found.certified).any())
        net.train()
    assert all(p.requires_grad for p in net.parameters())


def test_what_cannot_be_certified_is_refused() -> None:
    """Functions, labels without images, 8-bit pictures and unknown methods name what is needed."""
    net, x = linear(), images(2)
    with pytest.raises(ModelError, match="Module"):
        certify_bounds(lambda x: net(x), x, [0, 1], eps=0.1)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="class number"):
        certify_bounds(net, x, [0], eps=0.1)
    with pytest.raises(OptionError, match="crown"):
        certify_bounds(net, x, [0, 1], eps=0.1, method="magic")
    for wrong in (np.zeros((2, 3, 4, 4), np.uint8), x * 2, x[:0], float("nan") * x):
        with pytest.raises(ImageError):
            certify_bounds(net, wrong, [0, 1], eps=0.1)
