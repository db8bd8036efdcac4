"""FGSM, PGD and their relatives: the closed-form optimum, restarts, dropping, momentum and
surrogates."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from linear import Linear, least_margin, samples
from torch import Tensor, nn

from physadv.attacks._classifier_step import frozen_eval, modules_of
from physadv.attacks._guarded_model import guarded
from physadv.attacks.gradient import fgsm, gradient_ascent, pgd
from physadv.attacks.transfer_based import DiverseInputs, mi_fgsm
from physadv.core.errors import ModelError, OptionError
from physadv.core.random_streams import generator
from physadv.threat.losses import margin_loss
from physadv.threat.norms import NORMS, Norm, lp_distance

RADII = {"linf": 0.1, "l2": 1.0, "l1": 6.0}


def shortfall(model: Linear, x: Tensor, y: Tensor, found: Tensor, norm: Norm) -> Tensor:
    """How much of the possible fall of the margin (b,) an attack has missed, as a share."""
    goal = least_margin(model, x, y, RADII[norm], norm)
    with torch.no_grad():
        clean, reached = margin_loss(model(x), y), margin_loss(model(found), y)
    return (reached.double() - goal) / (clean.double() - goal)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_fgsm_is_the_optimum_of_a_linear_model(norm: Norm, loss: str, scale: float) -> None:
    """One step reaches the lowest margin within the ball and [0, 1], whatever the loss and the
    logits' scale."""
    model = Linear(scale=scale)
    x, y = samples(model)
    found = fgsm(model, x, y, eps=RADII[norm], norm=norm, loss=loss)  # type: ignore[arg-type]
    assert shortfall(model, x, y, found.images, norm).max() < 1e-6


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_pgd_reaches_the_optimum(norm: Norm, scale: float, schedule: str) -> None:
    """PGD from a random start ends at the optimum of a linear victim (l_1 by equal falling steps:
    within 2 %)."""
    model = Linear(scale=scale)
    x, y = samples(model)
    size = 0.5 * RADII[norm] if norm == "l2" and schedule == "constant" else None
    found = pgd(
        model,
        x,
        y,
        eps=RADII[norm],
        norm=norm,
        keep="loss",
        schedule=schedule,  # type: ignore[arg-type]
        step_size=size,
        speed="plain",  # type: ignore[arg-type]
    )
    allowed = {"linf": 1e-6, "l2": 1e-5, "l1": 0.02 if schedule != "constant" else 0.4}[norm]
    assert shortfall(model, x, y, found.images, norm).max() < allowed


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ascent_and_momentum_reach_the_optimum(norm: Norm) -> None:
    """Momentum reaches the optimum; plain ascent in its own norm, l_2, does as well."""
    model = Linear()
    x, y = samples(model)
    found = mi_fgsm(model, x, y, eps=RADII[norm], norm=norm, steps=20, step_size=RADII[norm] / 4)
    assert shortfall(model, x, y, found.images, norm).max() < 1e-3
    steps = {"linf": 400, "l2": 60}[norm]
    plain = gradient_ascent(
        model,
        x,
        y,
        eps=RADII[norm],
        norm=norm,
        steps=steps,
        step_size=RADII[norm] / 3,
        keep="loss",
    )
    assert shortfall(model, x, y, plain.images, norm).max() < 0.01


@pytest.mark.parametrize("attack", [fgsm, pgd, gradient_ascent, mi_fgsm])
def test_targeted_reaches_the_optimum(attack) -> None:  # type: ignore[no-untyped-def]
    """Towards a target in l_2, the margin of a five-class linear victim falls as for the two
    classes alone."""
    model = Linear(5)
    x, y = samples(model)
    with torch.no_grad():
        targets = model(x).argsort(1)[:, -2]
    result = attack(model, x, y, eps=1.5, norm="l2", loss="margin", targets=targets)
    with torch.no_grad():
        before, after = (
            margin_loss(model(x), y, targets),
            margin_loss(model(result.images), y, targets),
        )
    assert (after < before).all()
    assert torch.equal(after < 0, result.success)
    assert result.success.any()


def test_keep_loss_is_the_highest_loss() -> None:
    """``keep="loss"`` drops nothing and ends with a cross-entropy no lower than
    ``keep="success"``."""
    model = Linear(5)
    x, y = samples(model, 16)
    losses = []
    for keep in ("loss", "success"):
        images = pgd(model, x, y, eps=0.05, steps=10, keep=keep).images  # type: ignore[arg-type]
        losses.append(F.cross_entropy(model(images), y, reduction="none").detach())
    assert (losses[0] >= losses[1] - 1e-9).all()
    assert losses[0].mean() > losses[1].mean()


def test_restarts_never_lose_a_success() -> None:
    """What one restart has broken stays broken, and no restart makes the result worse."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for p in model.parameters():
            nn.init.normal_(p, 0, 0.7)
    x, _ = samples(Linear(), 24)
    y = model(x).argmax(1)
    counts = []
    before = torch.zeros(len(x), dtype=torch.bool)
    for restarts in (1, 3):
        success = pgd(model, x, y, eps=0.02, steps=4, restarts=restarts).success
        assert (success | ~before).all()
        before = success
        counts.append(int(success.sum()))
    assert counts[1] >= counts[0] > 0


def test_dropping_changes_no_verdict_and_saves_forwards() -> None:
    """Samples broken early are asked about no more; the verdicts are those of a run that drops
    none."""
    model = Linear(5)
    x, y = samples(model, 16)
    dropped = pgd(model, x, y, eps=0.03, speed="plain")
    kept = pgd(model, x, y, eps=0.03, speed="plain", drop_broken=False)
    assert torch.equal(dropped.success, kept.success)
    assert dropped.success.any()
    assert dropped.queries is not None
    assert kept.queries is not None
    assert (dropped.queries[dropped.success] < kept.queries[kept.success]).all()


def test_eps_is_not_remembered() -> None:
    """A second call with another eps takes that eps: nothing is stored between calls."""
    model = Linear()
    x, y = samples(model)
    pgd(model, x, y, eps=0.3)
    assert float((pgd(model, x, y, eps=0.01, keep="loss").images - x).abs().max()) == pytest.approx(
        0.01, abs=1e-7
    )


def test_diverse_views_are_images_of_the_images() -> None:
    """With share 0 the view is the image itself; with share 1 it is shrunk onto black, differently
    for each sample."""
    x = torch.full((4, 3, 12, 12), 0.5)
    sources = [generator(0, i) for i in range(4)]
    torch.testing.assert_close(DiverseInputs(share=0.0)(x, sources), x)
    views = DiverseInputs(share=1.0, smallest=0.5)(x, sources)
    covered = (views > 0.25).flatten(1).double().mean(1)
    assert covered.min() < 0.9
    assert (covered > 0.2).all()
    assert len(set(covered.tolist())) > 1
    with pytest.raises(OptionError, match="share"):
        DiverseInputs(share=2.0)


def test_surrogates_spare_the_model() -> None:
    """With surrogates the victim is asked once a sample, and a surrogate equal to it transfers
    fully."""
    model, twin = Linear(3), Linear(3)
    x, y = samples(model)
    result = mi_fgsm(guarded(model), x, y, eps=0.1, surrogates=[twin])
    assert model.calls == 2  # samples() asked once for the labels
    assert result.queries is not None
    assert result.queries.tolist() == [1] * len(x)
    own = mi_fgsm(model, x, y, eps=0.1)
    torch.testing.assert_close(result.images, own.images)


@pytest.mark.parametrize("norm", NORMS)
def test_vectors_are_attacked_too(norm: Norm) -> None:
    """Inputs need not be images: any (b, ...) in [0, 1] will do."""
    net = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.rand((5, 12), generator=generator(0, "vectors"))
    y = net(x).argmax(1)
    result = pgd(net, x, y, eps=RADII[norm], norm=norm, steps=5)
    assert (lp_distance(result.images, x, norm) <= RADII[norm]).all()
    assert torch.equal(net(result.images).argmax(1) != y, result.success)


def test_no_gradient_is_an_error() -> None:
    """A victim that cuts its gradient is refused with the remedy, not reported as robust."""
    model = Linear()
    x, y = samples(model)
    with pytest.raises(ModelError, match="bpda"):
        pgd(lambda images: model(images.round()).detach(), x, y, eps=0.1)


def test_wrapped_modules_are_found() -> None:
    """Modules behind a function, a method or a small object are put in eval mode within, and back
    after."""
    net = nn.Dropout(0.9)

    class Holder:
        def __init__(self) -> None:
            self.nets = [net]

        def __call__(self, x: Tensor) -> Tensor:
            return self.nets[0](x)

    for model in (net, lambda x: net(x), net.forward, Holder(), Holder().__call__):
        assert modules_of(model) == [net]
        with frozen_eval(model):
            assert not net.training
        assert net.training
