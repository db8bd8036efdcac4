"""Each training method against the claims of its paper, where that has a closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from linear import Linear, samples
from torch import Tensor, nn

from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.training.loop import TrainingSchedule, seed_all, train_model
from physadv.training.methods.adversarial import (
    FgsmTraining,
    FreeTraining,
    GradientPenalty,
    PgdTraining,
    TradesTraining,
)
from physadv.training.methods.base import StandardTraining, TrainingMethod, TrainingPosition
from physadv.training.methods.fast import FastTraining
from physadv.training.methods.noise_augmentation import GaussianAugmentation, SmoothAdvTraining
from physadv.training.methods.patch import StickerTraining


def at(step: int = 0, total: int = 10) -> TrainingPosition:
    """A position with its own generator."""
    return TrainingPosition(step, total, generator(0, "test", step))


def linear_batch(classes: int = 2) -> tuple[Linear, Tensor, Tensor]:
    """A linear net and images in the middle of [0, 1], where small balls are whole."""
    net = Linear(classes, dtype=torch.float32, scale=3.0)
    images, _ = samples(net, 16, middle=True)
    return net, images, torch.arange(16) % classes


def dual_norm_loss(net: Linear, images: Tensor, labels: Tensor, eps: float, order: float) -> Tensor:
    """The worst cross-entropy of two linear classes: the margin less eps times the dual norm of the
    difference."""
    w = net.weight[0] - net.weight[1]
    sign = 1.0 - 2.0 * labels
    margin = sign * (net(images) @ torch.tensor([1.0, -1.0]))
    return F.softplus(-(margin - eps * w.norm(order))).mean()


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1.0), ("l2", 2.0)])
def test_fgsm_on_a_linear_net_is_the_dual_norm_regularized_loss(norm: str, dual: float) -> None:
    """Goodfellow's logistic regression: the attacked loss has a closed form, and so has its
    gradient in the weights."""
    net, images, labels = linear_batch()
    loss, _ = FgsmTraining(0.05, norm, mix=0.0).loss(net, images, labels, at())
    expected = dual_norm_loss(net, images, labels, 0.05, dual)
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    (mine,) = torch.autograd.grad(loss, net.weight)
    (theirs,) = torch.autograd.grad(expected, net.weight)
    assert torch.allclose(mine, theirs, atol=2e-4)


def test_pgd_reaches_the_optimum_on_a_linear_net() -> None:
    """Ten steps end in the corner that is best."""
    net, images, labels = linear_batch()
    loss, _ = PgdTraining(0.05).loss(net, images, labels, at())
    assert float(loss) == pytest.approx(
        float(dual_norm_loss(net, images, labels, 0.05, 1.0)), rel=1e-4
    )


def test_fgsm_mixes_the_clean_loss_in() -> None:
    """mix = 1 is the clean loss, 0.5 the mean of both."""
    net, images, labels = linear_batch(4)
    clean = F.cross_entropy(net(images), labels)
    ends = [
        float(FgsmTraining(0.05, mix=m).loss(net, images, labels, at())[0]) for m in (0.0, 0.5, 1.0)
    ]
    assert ends[2] == pytest.approx(float(clean))
    assert ends[1] == pytest.approx((ends[0] + ends[2]) / 2)
    assert ends[0] > ends[2]


def test_trades_without_weight_is_the_standard_loss_and_with_weight_never_less() -> None:
    """beta 0 is plain cross-entropy; beta 6 adds six times a divergence."""
    net, images, labels = linear_batch(4)
    clean = float(F.cross_entropy(net(images), labels))
    assert float(TradesTraining(0.05, beta=0.0).loss(net, images, labels, at())[0]) == clean
    loss, metrics = TradesTraining(0.05, beta=6.0).loss(net, images, labels, at())
    assert float(loss) == pytest.approx(clean + 6 * metrics["divergence"], rel=1e-4)
    assert metrics["divergence"] > 0


def test_gradient_penalty_on_a_linear_net() -> None:
    """The slope of a linear net's loss is the weights weighed by softmax minus truth."""
    net, images, labels = linear_batch(4)
    loss, _ = GradientPenalty(2.0).loss(net, images, labels, at())
    logits = net(images)
    off = logits.softmax(1) - F.one_hot(labels, 4)
    expected = F.cross_entropy(logits, labels) + 2.0 * (off @ net.weight).square().sum(1).mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    loss.backward()
    assert net.weight.grad is not None


def test_free_with_one_replay_trains_on_the_change_the_last_batch_left() -> None:
    """Its first step is the standard one; its second starts at the first one's sign step, within
    eps."""
    net, images, labels = linear_batch(4)
    free = FreeTraining(0.05, replays=1)
    first, _ = free.loss(net, images, labels, at(0))
    assert float(first) == float(F.cross_entropy(net(images), labels))
    first.backward()
    leaf = images.clone().requires_grad_()
    (up,) = torch.autograd.grad(F.cross_entropy(net(leaf), labels), leaf)
    second, _ = free.loss(net, images, labels, at(1))
    assert float(second) == pytest.approx(
        float(F.cross_entropy(net(images + 0.05 * up.sign()), labels))
    )
    assert float(second) > float(first)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_free_stays_in_its_ball(norm: str) -> None:
    """However many replays, the change never leaves the ball."""
    net, images, labels = linear_batch(4)
    free = FreeTraining(0.3, norm, replays=3)
    for step in range(5):
        free.loss(net, images, labels, at(step))[0].backward()
        size = (
            free.state()["change"]
            .flatten(1)
            .norm({"linf": float("inf"), "l2": 2, "l1": 1}[norm], dim=1)
        )
        assert bool((size <= 0.3 * (1 + 1e-5)).all())


def test_free_replays_each_batch() -> None:
    """The loop hands out every batch m times in a row."""
    asked: list[int] = []

    def batches(number: int) -> tuple[Tensor, Tensor]:
        asked.append(number)
        _, images, labels = linear_batch()
        return images, labels

    list(
        train_model(
            Linear(dtype=torch.float32),
            batches,
            TrainingSchedule(1, 6, precision="fp32"),
            defense=FreeTraining(0.1, replays=3),
        )
    )
    assert asked == [0, 0, 0, 1, 1, 1]


class Fragile(nn.Module):
    """Constructed: robust or not at the turn of one number, whatever its training does."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.idle = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Class 1 where the image is bright; ``gain`` below 0 turns every verdict round."""
        margin = self.gain * (x.flatten(1).mean(1) - 0.5) * 20
        return torch.stack([-margin, margin], 1) + 0 * self.idle


def fragile_batch(_: int = 0) -> tuple[Tensor, Tensor]:
    """Half dark, half bright: right by 0.3."""
    labels = torch.arange(16) % 2
    return (0.2 + 0.6 * labels.float()).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), labels


def test_the_guard_fires_on_a_constructed_collapse_and_puts_the_net_back() -> None:
    """Turned over behind its back, the net is put back to the last sound check and attacked by
    twice the steps."""
    fast, net = FastTraining(0.1, every=4), Fragile()
    schedule = TrainingSchedule(1, 12, lr=1e-4, precision="fp32", average=0.5)
    seen = []
    for step in train_model(net, fragile_batch, schedule, defense=fast):
        seen.append(dict(step.metrics))
        if step.number == 6:
            sound = float(fast.state()["net.gain"])
            with torch.no_grad():
                net.gain.fill_(-1.0)
        if step.number == 9:
            restored = float(net.gain)
    fired = [i for i, metrics in enumerate(seen) if "guard_fired" in metrics]
    assert fired == [8]
    assert fast.strength == 2
    assert restored == pytest.approx(sound, abs=1e-3)
    assert seen[8]["held_robust"] == 0.0
    assert seen[4]["held_robust"] == 1.0


def test_the_guard_leaves_a_sound_run_alone() -> None:
    """No collapse, no change of strength; and the net's mode stays train."""
    fast, net = FastTraining(0.1, every=3), Fragile()
    list(
        train_model(
            net, fragile_batch, TrainingSchedule(1, 12, lr=1e-4, precision="fp32"), defense=fast
        )
    )
    assert fast.strength == 1
    assert net.training


class Plateau(nn.Module):
    """Constructed: with ``hidden`` above 0 no gradient at the images themselves, but wrong beyond a
    change of 0.02; otherwise right over the whole ball."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Class 0 for an image of 0.5; further away class 1, where ``hidden`` allows it."""
        away = (x.flatten(1).mean(1) - 0.5).abs()
        margin = 0.1 - F.relu(away - 0.02) * 20 * self.hidden.clamp_min(0)
        return torch.stack([margin, -margin], 1) + 0 * self.hidden


def test_the_guard_sees_a_collapse_before_its_first_sound_check() -> None:
    """All right under FGSM and few under PGD is a collapse, whatever came before: the net gets its
    first weights back."""
    fast, net = FastTraining(0.2, every=4), Plateau()
    images, labels = torch.full((32, 1, 1, 1), 0.5), torch.zeros(32, dtype=torch.long)
    schedule = TrainingSchedule(1, 6, lr=1e-6, precision="fp32")
    seen = []
    for step in train_model(net, lambda _: (images, labels), schedule, defense=fast):
        seen.append(dict(step.metrics))
        if step.number == 2:
            with torch.no_grad():
                net.hidden.fill_(1.0)

    assert [i for i, metrics in enumerate(seen) if "guard_fired" in metrics] == [4]
    assert seen[4]["held_robust"] < 0.5
    assert seen[4]["held_robust"] + seen[4]["held_gap"] == 1.0
    assert float(net.hidden) == pytest.approx(-1.0, abs=1e-3)
    assert fast.strength == 2


class Sliding(nn.Module):
    """Constructed: the share of images that are right is the one number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Class 0 where the image is below ``share``, by a margin that no attack passes."""
        margin = torch.where(x.flatten(1).mean(1) < self.share, 1.0, -1.0) + 0 * x.sum()
        return torch.stack([margin, -margin], 1) + 0 * self.share


def test_the_guard_compares_with_the_best_so_far_and_not_with_the_last_check() -> None:
    """A slide by 10 points a check fires once it is more than 20 points below the best."""
    fast, net = FastTraining(1e-4, every=2), Sliding()
    images = ((torch.arange(20) + 0.5) / 20).view(20, 1, 1, 1)
    labels = torch.zeros(20, dtype=torch.long)
    schedule = TrainingSchedule(1, 9, lr=1e-6, precision="fp32")
    seen = []
    for step in train_model(net, lambda _: (images, labels), schedule, defense=fast):
        seen.append(dict(step.metrics))
        if step.number % 2 == 0:
            with torch.no_grad():
                net.share.sub_(0.1)

    checked = [metrics["held_robust"] for metrics in seen if "held_robust" in metrics]
    assert checked[:3] == pytest.approx([0.9, 0.8, 0.7])
    assert [i for i, metrics in enumerate(seen) if "guard_fired" in metrics] == [8]


def test_the_guard_at_full_strength_reports_and_restores_no_more() -> None:
    """A run that collapses under the strongest training attack too still comes to its end."""
    fast, net = FastTraining(0.1, every=2), Fragile()
    fast.strength = 8
    seen = []
    for step in train_model(
        net, fragile_batch, TrainingSchedule(1, 8, lr=1e-6, precision="fp32"), defense=fast
    ):
        seen.append(dict(step.metrics))
        if step.number == 4:
            with torch.no_grad():
                net.gain.fill_(-1.0)

    assert not any("guard_fired" in metrics for metrics in seen)
    assert [i for i, metrics in enumerate(seen) if "guard_exhausted" in metrics] == [4, 6, 7]
    assert float(net.gain) == pytest.approx(-1.0, abs=1e-3)


def test_gaussian_is_the_loss_under_its_noise() -> None:
    """The same generator gives the same noise, not clipped."""
    net, images, labels = linear_batch(4)
    loss, _ = GaussianAugmentation(0.5).loss(net, images, labels, at())
    noise = 0.5 * torch.randn(images.shape, generator=at().generator)
    assert float(loss) == float(F.cross_entropy(net(images + noise), labels))


def test_smoothadv_without_eps_is_gaussian_with_more_draws_and_is_harder_with_it() -> None:
    """In its warm-up's first step nothing is attacked; later the loss under the same noise is
    higher."""
    net, images, labels = linear_batch(4)
    adv = SmoothAdvTraining(0.25, eps=0.5, draws=3, warmup=0.5)
    early, _ = adv.loss(net, images, labels, at(0))
    noise = 0.25 * torch.randn((3, *images.shape), generator=at(0).generator)
    expected = F.cross_entropy(net((images + noise).flatten(0, 1)), labels.repeat(3))
    assert float(early) == float(expected)
    late = SmoothAdvTraining(0.25, eps=0.5, draws=3, warmup=0.0).loss(net, images, labels, at(0))[0]
    assert float(late) > float(early)


def test_stickers_raise_the_loss_of_covered_images_and_reach_the_weights() -> None:
    """More steps make a more harmful sticker under the same draw; gray images are taken too."""
    net = seed_all(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4)), 1)
    images = torch.rand((6, 3, 12, 12), generator=generator(0, "x"))
    labels = torch.arange(6) % 4
    idle, busy = (
        StickerTraining((0.2, 0.3), steps=n).loss(net, images, labels, at())[1]["covered"]
        for n in (0, 6)
    )
    assert busy > idle
    loss, _ = StickerTraining(steps=1).loss(net, images[:, :1].expand(-1, 3, -1, -1), labels, at())
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


EVERY: list[Any] = [
    StandardTraining(),
    FgsmTraining(0.05),
    PgdTraining(0.05, steps=2),
    PgdTraining(0.5, "l2", steps=2),
    PgdTraining(2.0, "l1", steps=2),
    FreeTraining(0.05),
    FastTraining(0.05),
    TradesTraining(0.05, steps=2),
    GradientPenalty(),
    GaussianAugmentation(),
    SmoothAdvTraining(eps=0.2, steps=1, warmup=0.0),
    StickerTraining(steps=1),
]


@pytest.mark.parametrize("defense", EVERY, ids=lambda d: type(d).__name__)
def test_a_loss_touches_nothing_but_what_it_returns(defense: TrainingMethod) -> None:
    """No gradient, mode, flag, weight, input or random state is changed by asking for a loss."""
    net = seed_all(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 4)), 1
    )
    net[0].weight.requires_grad_(False)
    images = torch.rand((6, 3, 12, 12), generator=generator(0, "x"))
    before = [p.clone() for p in net.parameters()], images.clone(), torch.get_rng_state()
    loss, metrics = defense.loss(net, images, torch.arange(6) % 4, at(5))
    assert loss.requires_grad
    assert all(isinstance(v, float) for v in metrics.values())
    assert net.training
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before[0], net.parameters(), strict=True))
    assert torch.equal(images, before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize(
    "make",
    [
        lambda: PgdTraining(-0.1),
        lambda: PgdTraining(0.1, "l7"),
        lambda: FreeTraining(0.1, replays=0),
        lambda: FastTraining(0.1, drop=0.0),
        lambda: GaussianAugmentation(0.0),
        lambda: SmoothAdvTraining(draws=0),
        lambda: GradientPenalty(-1.0),
        lambda: StickerTraining(area=(0.5, 0.1)),
    ],
)
def test_settings_out_of_range_are_refused(make: Any) -> None:
    """Each with an OptionError that names a remedy."""
    with pytest.raises(OptionError):
        make()
