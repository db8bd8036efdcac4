"""Square and estimated gradients: scores only, counted, inside the ball, at the optimum of a linear
victim."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from physadv.attacks._guarded_model import guarded
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.score_based import EstimatedGradient, square_attack
from physadv.core.errors import ImageError, OptionError
from physadv.threat.norms import lp_distance


class Plane(nn.Module):
    """Two classes parted by a plane through gray images: the smallest eps that flips one is known
    in closed form."""

    def __init__(self, scale: float = 1.0, shape: tuple[int, ...] = (1, 6, 6)) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(3)))
        self.forwards = 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        score = ((images - 0.5) * self.weight.to(images)).flatten(1).sum(1) + 0.8
        return self.scale * torch.stack([score, -score], 1)


def smallest(norm: str) -> float:
    """The eps at which the gray image of Plane changes class."""
    weight = Plane().weight.detach().flatten()
    if norm == "l1":
        # In l_1 each pixel moves by at most 0.5, the steepest first.
        worth = weight.abs().sort(descending=True).values
        full = int((worth.cumsum(0) * 0.5 < 0.8).sum())
        return 0.5 * full + float((0.8 - 0.5 * worth[:full].sum()) / worth[full])
    return 0.8 / float(weight.abs().sum() if norm == "linf" else weight.norm())


GRAY, ZEROS = torch.full((3, 1, 6, 6), 0.5), torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_square_breaks_a_plane_just_above_its_margin_and_never_below(norm: str) -> None:
    """A linear victim falls a little above the closed-form radius, and at a radius below it nothing
    is claimed."""
    factor = {"linf": 1.15, "l2": 1.35, "l1": 1.5}[norm]
    above = square_attack(
        Plane(), GRAY, ZEROS, eps=factor * smallest(norm), norm=norm, queries=3000
    )
    below = square_attack(Plane(), GRAY, ZEROS, eps=0.99 * smallest(norm), norm=norm, queries=300)
    assert above.success.all()
    assert not below.success.any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_square_stays_inside_the_ball_in_float64(norm: str, dtype: torch.dtype) -> None:
    """No image is farther than eps, measured in float64, or outside [0, 1], in any float dtype."""
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).to(dtype)
    found = square_attack(
        model, images, torch.zeros(4, dtype=torch.long), eps=0.07, norm=norm, queries=80
    )  # type: ignore[arg-type]
    assert found.images.dtype == dtype
    assert (lp_distance(found.images, images, norm) <= 0.07).all()  # type: ignore[arg-type]
    assert found.images.min() >= 0
    assert found.images.max() <= 1


def test_square_asks_at_most_one_more_than_its_queries_and_counts_them() -> None:
    """q queries are at most q + 1 forwards; a sample that the victim misreads costs one."""
    model = Plane()
    labels = torch.tensor([0, 0, 1])
    found = square_attack(guarded(model), GRAY, labels, eps=0.001, queries=40)
    assert model.forwards == 41
    assert found.queries is not None
    assert found.queries.tolist() == [41, 41, 1]


def test_square_does_not_depend_on_the_batch_and_repeats_by_seed() -> None:
    """One by one or together, a sample gets the same image; another seed gives another."""
    images = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.1 + 0.45
    together = square_attack(Plane(), images, ZEROS, eps=0.02, queries=60)
    alone = torch.cat(
        [
            square_attack(Plane(), images[i : i + 1], ZEROS[:1], eps=0.02, queries=60).images
            for i in range(3)
        ]
    )
    other = square_attack(Plane(), images, ZEROS, eps=0.02, queries=60, seed=1)
    assert torch.equal(together.images, alone)
    assert not torch.equal(together.images, other.images)


def test_square_is_blind_to_the_scale_of_the_logits() -> None:
    """Logits times 1000 give the very same images."""
    plain = square_attack(Plane(), GRAY, ZEROS, eps=1.3 * smallest("linf"), queries=300)
    scaled = square_attack(Plane(1000.0), GRAY, ZEROS, eps=1.3 * smallest("linf"), queries=300)
    assert torch.equal(plain.images, scaled.images)


def test_square_reaches_a_target() -> None:
    """With targets, success means that class and no other."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    images, wanted = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    found = square_attack(
        model, images, torch.zeros(6, dtype=torch.long), eps=0.5, queries=300, targets=wanted
    )
    assert torch.equal(model(found.images).argmax(1) == wanted, found.success)
    assert found.success.float().mean() > 0.5


def test_square_leaves_no_trace() -> None:
    """Modes, gradients, flags, the input and the global RNG are as before."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3)
    ).train()
    state, images, rng = copy.deepcopy(model.state_dict()), GRAY.clone(), torch.get_rng_state()
    found = square_attack(model, images, ZEROS, eps=0.1, queries=20)
    assert model[1].training
    assert all(
        torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True)
    )
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(images, GRAY)
    assert torch.equal(rng, torch.get_rng_state())
    assert not found.images.requires_grad


def test_square_refuses_what_it_cannot_do() -> None:
    """An unknown norm, a negative eps and images out of [0, 1] are said in one line each."""
    with pytest.raises(OptionError, match="l0"):
        square_attack(Plane(), GRAY, ZEROS, eps=1, norm="l0")
    with pytest.raises(OptionError, match="eps '-1'"):
        square_attack(Plane(), GRAY, ZEROS, eps=-1)
    with pytest.raises(ImageError, match="0, 1"):
        square_attack(Plane(), GRAY * 255, ZEROS, eps=1)


def test_finite_differences_are_the_gradient_of_a_linear_model() -> None:
    """Central differences along every pixel give the exact slope, and each image asked is
    counted."""
    model = Plane().double()
    source = EstimatedGradient(model, method="finite", sigma=0.01)
    images = GRAY.double().requires_grad_()
    (slope,) = torch.autograd.grad(source(images)[:, 0].sum(), images)
    assert torch.allclose(slope, model.weight.expand_as(slope), atol=1e-9)
    assert source.queries == 3 + 3 * 2 * 36


def test_nes_points_along_the_gradient_and_repeats() -> None:
    """With many pairs the estimate points where the gradient does; the same seed gives the same
    estimate."""
    images = GRAY.clone().requires_grad_()
    slopes = []
    for _ in range(2):
        source = EstimatedGradient(Plane(), pairs=400, sigma=0.01, seed=5)
        slopes.append(torch.autograd.grad(source(images)[:, 0].sum(), images)[0])
    along = torch.cosine_similarity(slopes[0].flatten(1), Plane().weight.detach().flatten()[None])
    assert torch.equal(*slopes)
    assert (along > 0.9).all()


def test_an_estimated_model_falls_to_a_gradient_attack() -> None:
    """PGD needs no gradient of its own: it breaks a victim through estimates of it."""
    from physadv.attacks.gradient import pgd

    blind = Plane()
    blind.forward = torch.no_grad()(blind.forward)  # type: ignore[method-assign]
    source = EstimatedGradient(blind, method="finite", sigma=0.01)
    assert pgd(source, GRAY, ZEROS, eps=1.05 * smallest("linf"), steps=5).success.all()


def test_square_gives_up_where_nothing_moves() -> None:
    """A sample that stays above a margin, or whose margin does not fall, is not queried on; one
    that falls is, and breaks."""
    images, labels = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 0])
    images[1] = 0.4

    def still(x: Tensor) -> Tensor:
        logits = torch.tensor([4.0, 3.0, 2.0, 1.0]).repeat(len(x), 1)
        moving = x.flatten(1).mean(1) < 0.45
        logits[moving, 1] += 20 * (0.4 - x[moving].flatten(1).mean(1))
        return logits

    high = torch.full((2,), torch.inf)
    waits = square_attack(still, images, labels, eps=0.1, give_up={10: (high, 0), 20: (high, 0.1)})
    assert waits.queries is not None
    assert waits.queries[0] == 1 + 20 + 2
    low = square_attack(still, images, labels, eps=0.1, give_up={10: (0.1 * high.sign(), 0)})
    assert low.queries is not None
    assert low.queries[0] == 1 + 10 + 1
    assert waits.success.tolist() == low.success.tolist() == [False, True]


def test_square_hands_its_points_to_a_descent_and_goes_on_as_without_it() -> None:
    """At the numbers of ``give_up`` and at the end those still searched are handed over, within the
    ball; what the descent breaks is done and counts its passes, and all else is as without it."""
    images = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    labels, eps = Plane()(images).argmax(1), 0.3 * smallest("linf")
    settings = {"eps": eps, "queries": 40, "give_up": {20: (torch.full((3,), torch.inf), 0.0)}}
    handed: list[list[int]] = []

    def descend(rows: Tensor, points: Tensor) -> AttackResult:
        handed.append(rows.tolist())
        assert (points - images[rows]).abs().max() <= eps
        won = rows == 1
        return AttackResult(
            torch.where(won[:, None, None, None], images[rows], points),
            won,
            queries=torch.full((len(rows),), 7),
        )

    alone = square_attack(Plane(), images, labels, **settings)  # type: ignore[arg-type]
    joint = square_attack(Plane(), images, labels, descend=descend, **settings)  # type: ignore[arg-type]
    assert not alone.success.any()
    assert handed == [[0, 1, 2], [0, 2]]
    assert alone.queries is not None
    assert joint.queries is not None
    assert (joint.queries - alone.queries).tolist() == [14, 7 + 1 - 20, 14]
    assert torch.equal(joint.images[::2], alone.images[::2])


def test_a_descent_that_breaks_nothing_asks_nothing_more() -> None:
    """The model is given no batch without images, which not every model takes."""
    images = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    labels, eps = Plane()(images).argmax(1), 0.3 * smallest("linf")

    def model(x: Tensor) -> Tensor:
        return torch.stack([Plane()(image[None])[0] for image in x])

    def descend(rows: Tensor, points: Tensor) -> AttackResult:
        return AttackResult(points, torch.zeros(len(rows), dtype=torch.bool))

    give_up = {20: (torch.full((3,), torch.inf), 0.0)}
    found = square_attack(
        model, images, labels, eps=eps, queries=40, give_up=give_up, descend=descend
    )
    assert found.queries is not None
    assert found.queries.tolist() == [1 + 40 + 1] * 3


def test_square_gives_up_where_a_descent_that_leads_on_ends_far_away() -> None:
    """A descent that brings a sample nearer, but not near, tells that more queries are for nothing;
    one that brings it no nearer tells nothing, and the search goes on."""
    images, labels = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)
    images[1], images[2] = 0.4, 0.3

    def still(x: Tensor) -> Tensor:
        """Margins that no window moves, by the class of gray; near 0.9, half of it, is nearer."""
        level = x[:, 0, 0, 0]
        margin = torch.where(level > 0.85, 0.4, torch.where(level > 0.75, 0.1, 1.0))
        return torch.stack([margin, *(torch.zeros_like(margin) - k for k in range(3))], 1)

    def descend(rows: Tensor, points: Tensor) -> AttackResult:
        reached = points.clone()
        reached[rows == 0], reached[rows == 1] = 0.9, 0.8
        return AttackResult(
            reached, torch.zeros(len(rows), dtype=torch.bool), queries=torch.zeros_like(rows)
        )

    given = {10: (torch.full((3,), torch.inf), 0.0)}
    result = square_attack(
        still,
        images,
        labels,
        eps=0.1,
        queries=30,
        give_up=given,
        descend=descend,
        descended={10: 0.1},
    )
    assert result.queries is not None
    assert result.queries.tolist() == [1 + 10 + 2, 1 + 30 + 2, 1 + 30 + 2]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_proposals_tried_ahead_end_where_one_by_one_does(norm: str) -> None:
    """Success, points, margins and queries are the same, in fewer passes of the model."""
    images = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    labels = Plane()(images).argmax(1)
    for share in (0.3, 0.9, 1.2):
        models = Plane().double(), Plane().double()
        settings = {"eps": share * smallest(norm), "norm": norm, "queries": 300}
        one = square_attack(models[0], images, labels, **settings)  # type: ignore[arg-type]
        # Beside samples broken from the start, few of a batch are searched.
        padded = torch.cat([images, images[:1].expand(20, -1, -1, -1)])
        wrong = torch.cat([labels, 1 - labels[:1].expand(20)])
        ahead = square_attack(models[1], padded, wrong, ahead=64, **settings)  # type: ignore[arg-type]
        assert torch.equal(one.success, ahead.success[:3])
        torch.testing.assert_close(one.images, ahead.images[:3])
        torch.testing.assert_close(one.loss, ahead.loss[:3])
        assert one.queries is not None
        assert ahead.queries is not None
        assert torch.equal(one.queries, ahead.queries[:3])
        assert models[1].forwards <= models[0].forwards


def test_few_samples_are_tried_many_proposals_at_once() -> None:
    """Where nothing is kept, the model is called a fraction of the times; a batch has no more
    images than the samples that it began with, or than are allowed."""
    batches: list[int] = []

    def still(x: Tensor) -> Tensor:
        batches.append(len(x))
        logits = torch.tensor([4.0, 3.0, 2.0, 1.0]).repeat(len(x), 1)
        logits[x[:, 0, 0, 0] > 0.7] = torch.tensor([0.0, 9.0, 0.0, 0.0])  # broken from the start
        return logits

    images = torch.full((12, 1, 4, 4), 0.5)
    images[2:] = 0.9
    labels = torch.zeros(12, dtype=torch.long)
    result = square_attack(still, images, labels, eps=0.1, queries=200, ahead=64)
    assert result.success.tolist() == [False] * 2 + [True] * 10
    assert max(batches[1:]) == 12
    assert len(batches) < 120
    assert result.queries is not None
    assert result.queries.tolist() == [201] * 2 + [1] * 10
