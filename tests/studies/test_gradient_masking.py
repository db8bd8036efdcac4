"""The gallery: hiding a gradient changes no prediction, and the adaptive attack breaks it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physadv.core.errors import OptionError
from physadv.studies.gradient_masking import obfuscations
from physadv.studies.gradient_masking.adaptive_attacks import textbook_pgd
from physadv.studies.gradient_masking.asymmetric_training import (
    AsymmetricTraining,
    acceptance_threshold,
    joint_loss_attack,
)
from physadv.studies.gradient_masking.escalation import escalate_attacks, is_settled
from physadv.studies.gradient_masking.gallery import (
    MaskedDefense,
    asymmetric_defense,
    attack_defense,
    black_box_images,
    correct_verdicts,
    masked_defenses,
    measure_masking,
    sparse_recovery_defense,
)
from physadv.training.loop import seed_all
from physadv.training.methods.base import TrainingPosition

EPS, SIDE, CLASSES = 0.06, 12, 3
NAMES = (
    "one-hot output",
    "saturated softmax",
    "thermometer code",
    "very deep purifier",
    "sparse Fourier recovery",
    "random resizing",
    "matrix completion",
    "generative classifier",
    "k winners take all",
)
BLINDING = (
    "one-hot output",
    "saturated softmax",
    "thermometer code",
    "very deep purifier",
    "matrix completion",
)
"""Those whose gradient is exactly zero, or nearly always, for the textbook attack."""
RANDOM = ("random resizing", "matrix completion", "k winners take all")
"""Those attacked over draws."""


def data(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three kinds of slow waves in noise."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    line = torch.arange(SIDE) / SIDE * 6.28
    waves = torch.stack(
        [
            line.sin().expand(SIDE, SIDE),
            line.cos()[:, None].expand(SIDE, SIDE),
            torch.zeros(SIDE, SIDE),
        ]
    )
    x = 0.5 + 0.08 * waves[labels][:, None] + 0.03 * torch.randn(n, 3, SIDE, SIDE, generator=draw)
    return x.clamp(0, 1), labels


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A small net trained for a moment on the waves."""
    layers = nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(288, CLASSES)
    net = seed_all(lambda: nn.Sequential(*layers), 1)
    x, y = data(240, 0)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def shown(model: nn.Module) -> dict[str, MaskedDefense]:
    return {m.name: m for m in masked_defenses(model, *data(240, 0), classes=CLASSES)}


def test_the_gallery_is_complete(shown: dict[str, MaskedDefense]) -> None:
    """Every defense is there once, with its paper and its remedy."""
    assert set(shown) == set(NAMES)
    assert all(m.paper and m.hides and m.remedy for m in shown.values())


@pytest.mark.parametrize("name", [n for n in NAMES if n != "sparse Fourier recovery"])
def test_the_adaptive_attack_sees_through_it(shown: dict[str, MaskedDefense], name: str) -> None:
    """Clean accuracy is high; the adaptive attack leaves almost nothing, whatever the textbook
    attack leaves."""
    found = measure_masking(shown[name], *data(24, 5), eps=EPS)
    assert found.clean.rate >= 0.6  # k winners without training cost accuracy; the others do not
    assert found.adaptive.rate <= 0.15
    assert found.adaptive.rate <= found.plain.rate
    if name in BLINDING:
        assert found.plain.rate >= found.clean.rate - 0.15


@pytest.mark.parametrize("name", [n for n in NAMES if n not in RANDOM])
def test_the_counterpart_has_the_same_verdicts(shown: dict[str, MaskedDefense], name: str) -> None:
    """What the adaptive attack climbs is the same classifier, on clean and on noisy images."""
    x, _ = data(30, 7)
    noisy = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    for images in (x, noisy):
        assert torch.equal(
            shown[name].defended(images).argmax(1), shown[name].adaptive(images).argmax(1)
        )


def test_the_undefended_model_falls_to_the_textbook_attack(model: nn.Module) -> None:
    """At this eps there was never robustness to begin with."""
    x, y = data(24, 5)
    assert (
        model(textbook_pgd(model, x, y, eps=EPS, steps=20)).argmax(1) != y
    ).float().mean() > 0.85


def test_the_solvers_own_gradient_finds_pixels_that_it_does_not_take_out(model: nn.Module) -> None:
    """Correction beats the few pixels that were chosen for the net alone, and not those chosen
    through the solver."""
    x, y = data(60, 5)
    defense = sparse_recovery_defense(model, x, kept=0.1, pixels=0.1)
    found = attack_defense(defense, x, y, eps=EPS, queries=60)
    assert defense.pixels == 14
    assert found.clean.float().mean() >= 0.9
    assert found.gradient.float().mean() < found.plain.float().mean() - 0.1
    assert found.black_box is not None
    moved = defense.plain(x, y, eps=EPS, steps=1, seed=0) if defense.plain else x
    assert ((moved != x).any(1).flatten(1).sum(1) <= 14).all()


def test_thresholding_takes_out_spoiled_pixels() -> None:
    """An image of few cosines with a few pixels overwritten comes back; without correction it does
    not."""
    draw = torch.Generator().manual_seed(2)
    x = obfuscations.hard_threshold(torch.rand(4, 1, 16, 16, generator=draw), kept=8, spoiled=0)
    assert torch.allclose(obfuscations.hard_threshold(x, kept=8, spoiled=0), x, atol=1e-5)
    spoiled = x.flatten(1).clone()
    spoiled[:, [7, 90, 201]] += 3.0
    spoiled = spoiled.view_as(x)
    near = (obfuscations.hard_threshold(spoiled, kept=8, spoiled=6, rounds=30) - x).abs().mean()
    far = (obfuscations.hard_threshold(spoiled, kept=8, spoiled=0) - x).abs().mean()
    assert near < 0.1 * far


def test_both_at_once_stays_in_the_ball_and_counts_only_what_both_accept() -> None:
    """Changed images are accepted as another class by model and detector, within eps."""
    x = torch.full((3, 3, 4, 4), 0.45)
    x[:, 0, 0, :2] = torch.tensor([0.5, 0.56, 0.9])[:, None]
    labels = torch.zeros(3, dtype=torch.long)
    found = joint_loss_attack(Corner(0, 10.0), Corner(1, 4.0), 0.1, x, labels, eps=0.1, steps=20)
    assert (found - x).abs().max() <= 0.1 + 1e-6
    moved = (found != x).flatten(1).any(1)
    assert moved.tolist() == [True, True, False]
    verdicts = asymmetric_defense(Corner(0, 10.0), Corner(1, 4.0), 0.1).defended(found).argmax(1)
    assert ((verdicts[moved] != 0) & (verdicts[moved] != 3)).all()


def test_what_the_authors_tried_is_said_and_tried(shown: dict[str, MaskedDefense]) -> None:
    """DeepFool on the net without its random layer is what random resizing was judged by: a near
    miss through it."""
    defense = shown["random resizing"]
    assert "DeepFool" in defense.plain_is
    assert defense.plain is not None
    x, y = data(24, 5)
    moved = defense.plain(x, y, eps=EPS, steps=20, seed=0)
    assert (moved - x).abs().max() <= EPS + 1e-6
    found = attack_defense(defense, x, y, eps=EPS)
    assert found.plain.float().mean() > found.real.float().mean()


def test_the_global_generator_stays(shown: dict[str, MaskedDefense]) -> None:
    """Random defenses are attacked and judged without moving the caller's generator, and repeat."""
    before = torch.random.get_rng_state()
    first = measure_masking(shown["random resizing"], *data(6, 5), eps=EPS, steps=3)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    assert measure_masking(shown["random resizing"], *data(6, 5), eps=EPS, steps=3) == first


def test_parts_do_what_they_say() -> None:
    """Codes have the given number of levels; sparsity and winners leave the share they name;
    stairs end on steps."""
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert set((obfuscations.thermometer_quantize(x, 4) * 4).unique().tolist()) == {
        0.0,
        1.0,
        2.0,
        3.0,
        4.0,
    }
    stairs = obfuscations.staircase_map(x, 4, 200) * 4
    assert (stairs - stairs.round()).abs().median() < 1e-3
    assert (
        obfuscations.KWinnersActivation(0.25, adaptive=False)(x) != 0
    ).float().mean().item() == pytest.approx(0.25, abs=0.01)
    torch.manual_seed(0)
    assert obfuscations.random_resize(x).shape == obfuscations.complete_matrix(x).shape == x.shape


def test_bad_settings_are_refused() -> None:
    """A share of nothing, a net without ReLU and a class without images are errors."""
    with pytest.raises(OptionError):
        obfuscations.KWinnersActivation(0.0, adaptive=False)
    with pytest.raises(OptionError):
        obfuscations.with_k_winners(nn.Linear(2, 2), 0.2, adaptive=False)
    with pytest.raises(OptionError):
        obfuscations.GaussianClassifier(
            torch.rand(4, 3, 2, 2), torch.zeros(4, dtype=torch.long), classes=2
        )


def test_the_thermometer_code_and_its_stand_in_agree() -> None:
    """The code is 0 or 1, falls along its marks, has no slope; the stand-in is near it and has
    one."""
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    code, soft = obfuscations.thermometer_code(x, 8), obfuscations.soft_thermometer_code(x, 8)
    assert code.shape == soft.shape == (2, 24, 8, 8)
    assert set(code.detach().unique().tolist()) == {0.0, 1.0}
    assert (code.view(2, 3, 8, 8, 8).diff(dim=2) <= 0).all()
    assert (code - soft).abs().max() <= 0.5 + 1e-5
    assert not torch.autograd.grad(code.sum(), x)[0].any()
    assert torch.autograd.grad(soft.sum(), x)[0].abs().sum() > 0


class Corner(nn.Module):
    """Three classes by one pixel each; ``scale`` sets how sure it is."""

    def __init__(self, place: int, scale: float) -> None:
        super().__init__()
        self.place, self.scale = place, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x[:, :, 0, self.place] - 0.5)


def test_guarded_verdicts_are_those_laid_open() -> None:
    """A class counts where both agree, else the image is rejected; what the adaptive attack climbs
    says the same."""
    defense = asymmetric_defense(Corner(0, 10.0), Corner(1, 4.0), 0.1)
    x = torch.rand(500, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    verdicts = defense.defended(x).argmax(1)
    named, sure = Corner(0, 1.0)(x).argmax(1), Corner(1, 4.0)(x)
    accepted = sure.gather(1, named[:, None])[:, 0] > 0.1
    assert torch.equal(verdicts, torch.where(accepted, named, torch.full_like(named, 3)))
    assert torch.equal(defense.adaptive(x).argmax(1), verdicts)
    assert 0.1 < accepted.float().mean() < 0.9


def test_a_rejected_image_is_wrong_when_clean_and_safe_when_attacked() -> None:
    """Rejecting costs clean accuracy and stops an attack; one loss for both gets through where
    plain PGD does not."""
    defense = asymmetric_defense(Corner(0, 10.0), Corner(1, 4.0), 0.1)
    x = torch.full((2, 3, 4, 4), 0.45)
    x[0, 0, 0, :2] = 0.56
    x[1, 0, 0, 0] = 0.56
    labels = torch.zeros(2, dtype=torch.long)
    assert correct_verdicts(defense, x, labels, 0).tolist() == [True, False]
    assert correct_verdicts(defense, x, labels, 0, attacked=True).tolist() == [True, True]
    found = attack_defense(defense, x[:1], labels[:1], eps=0.1, steps=20)
    assert found.plain.all()
    assert not found.gradient.any()


def test_asymmetric_training_attacks_one_side_only(model: nn.Module) -> None:
    """Detectors learn to accept their own class and to refuse others that were moved towards it."""
    x, y = data(240, 0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, CLASSES))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.zero_()
    defense = AsymmetricTraining(0.02, steps=3)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for step in range(60):
        optimizer.zero_grad()
        loss, _ = defense.loss(
            net, x, y, TrainingPosition(step, 60, torch.Generator().manual_seed(step))
        )
        loss.backward()
        optimizer.step()
    own = net(x).gather(1, y[:, None])[:, 0]
    other = net(x).gather(1, (y[:, None] + 1) % CLASSES)[:, 0]
    assert own.median() > 0 > other.median()
    limit = acceptance_threshold(net, x, y)
    assert (own >= limit).float().mean() == pytest.approx(0.95, abs=0.02)


def test_the_black_box_needs_no_gradient(shown: dict[str, MaskedDefense]) -> None:
    """Square breaks a thermometer code, and RayS a defense that gives out labels alone."""
    for name in ("thermometer code", "one-hot output"):
        found = attack_defense(shown[name], *data(6, 5), eps=EPS, steps=2, queries=300)
        assert found.black_box is not None
        assert found.black_box.sum() <= 2


class Peephole(nn.Module):
    """Constructed: right everywhere but near one corner of the ball; no slope leads there."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Class 1 where all four pixels are within ``width`` of 0.7, 0.3, 0.3, 0.7."""
        corner = torch.tensor([0.7, 0.3, 0.3, 0.7])
        near = ((x.flatten(1) - corner).abs() < self.width).all(1).float() + 0 * x.sum((1, 2, 3))
        return torch.stack([1 - near, near], 1)


def test_rounds_go_on_until_twice_the_effort_breaks_nothing_more() -> None:
    """What one round leaves is attacked with twice the queries and seeds, and the record says where
    it stopped."""
    images, labels = torch.full((40, 1, 2, 2), 0.5), torch.zeros(40, dtype=torch.long)
    net = Peephole(0.15)
    defense = MaskedDefense("peephole", "", "a flat loss", "none needed", net, net)
    left, rounds = escalate_attacks(
        defense,
        images,
        labels,
        torch.ones(40, dtype=torch.bool),
        eps=0.2,
        steps=1,
        queries=1,
        rounds=4,
    )

    assert len(rounds) > 1
    assert [(r.queries, r.seeds) for r in rounds] == [
        (2**k, 2**k) for k in range(1, len(rounds) + 1)
    ]
    assert all(r.broken > 0 for r in rounds[:-1])
    assert int(left.sum()) == 40 - sum(r.broken for r in rounds)
    assert [r.attacked for r in rounds[1:]] == [r.attacked - r.broken for r in rounds[:-1]]


def test_rounds_run_in_two_calls_are_those_of_one() -> None:
    """The second call goes on with the survivors and the record of the first."""
    images, labels = torch.full((40, 1, 2, 2), 0.5), torch.zeros(40, dtype=torch.long)
    net = Peephole(0.15)
    defense = MaskedDefense("peephole", "", "a flat loss", "none needed", net, net)
    every = torch.ones(40, dtype=torch.bool)
    options: dict[str, Any] = {"eps": 0.2, "steps": 1, "queries": 1}
    whole, rounds = escalate_attacks(defense, images, labels, every, rounds=2, **options)

    left, first = escalate_attacks(defense, images, labels, every, rounds=1, **options)
    left, both = escalate_attacks(defense, images, labels, left, rounds=2, earlier=first, **options)
    assert len(first) == 1 < len(both)
    assert (both, left.tolist()) == (rounds, whole.tolist())


def test_a_net_that_is_right_everywhere_costs_one_round() -> None:
    """A round that breaks nothing is the last one; the images are as they were."""
    images, labels = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.long)
    net = Peephole(-1.0)
    defense = MaskedDefense("wall", "", "nothing", "none needed", net, net)
    every = torch.ones(3, dtype=torch.bool)
    options: dict[str, Any] = {"eps": 0.2, "steps": 2, "queries": 4, "rounds": 3}
    left, rounds = escalate_attacks(defense, images, labels, every, **options)
    assert left.all()
    assert [(r.seeds, r.attacked, r.broken) for r in rounds] == [(2, 3, 0)]
    assert is_settled(rounds)


def test_a_search_against_rejection_ends_at_the_acceptance_of_another_class() -> None:
    """Where classifier and detector can both be turned, the search turns them; a rejection alone is
    no success."""
    x = torch.full((3, 3, 4, 4), 0.45)
    x[:, 0, 0, :2] = torch.tensor([0.5, 0.56, 0.9])[:, None]
    labels = torch.zeros(3, dtype=torch.long)
    defense = asymmetric_defense(Corner(0, 10.0), Corner(1, 4.0), 0.1)
    moved = black_box_images(defense, x, labels, eps=0.1, queries=300, seed=0)
    assert float((moved - x).abs().max()) <= 0.1 + 1e-6
    assert correct_verdicts(defense, moved, labels, 0, attacked=True).tolist() == [
        False,
        False,
        True,
    ]
