"""The ensemble: the closed-form optimum in every norm, few classes, any scale, masked gradients,
and a certificate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from linear import Linear, least_margin, samples
from torch import Tensor, nn

from physadv.attacks._guarded_model import guarded
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import OptionError
from physadv.datasets import read_dataset
from physadv.defenses.load_model import load_model
from physadv.evaluation.ensemble import (
    apgd_targeted,
    attack_ensemble,
    close_calls,
    nearest_classes,
    score_based_stages,
    standard_stages,
)
from physadv.evaluation.stages import AttackStage, StageInput, sample_verdicts
from physadv.models.load import LoadedModel
from physadv.threat.constraints import LpBall
from physadv.threat.norms import Norm, lp_distance

RADII: dict[Norm, float] = {"linf": 0.04, "l2": 0.4, "l1": 2.0}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_a_linear_model_breaks_exactly_where_it_can(norm: Norm, classes: int) -> None:
    """For 2 classes and up, in every norm, all that the closed form says can fall falls, and
    nothing else."""
    model = Linear(classes)
    images, labels = samples(model, 24)
    found = attack_ensemble(
        model, images, labels, eps=RADII[norm], norm=norm, plan=standard_stages(norm)[:4]
    )
    least = least_margin(model, images, labels, RADII[norm], norm)
    assert not found.success[least > 0].any()
    assert found.success[least < -0.01].all()
    assert 0 < int(found.success.sum()) < 24
    assert (lp_distance(found.images, images, norm) <= RADII[norm]).all()


def test_the_scale_of_the_logits_changes_nothing() -> None:
    """Logits times 1000 are no defense."""
    images, labels = samples(Linear(5), 16)
    plain = attack_ensemble(Linear(5), images, labels, eps=0.04)
    scaled = attack_ensemble(Linear(5, scale=1000.0), images, labels, eps=0.04)
    assert plain.success.any()
    assert torch.equal(plain.success, scaled.success)


def test_a_model_that_hides_its_gradient_falls_to_square() -> None:
    """A victim that rounds its input has no gradient to follow; its scores betray it."""

    class Rounded(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + (x.mul(50).round().div(50) - x).detach() - (x - x.detach()))

    model = Rounded(4)
    images, labels = samples(model, 12)
    found = attack_ensemble(model, images, labels, eps=0.1)
    assert "square" in found.broken_by
    # Rounding moves each pixel by up to 1/100, so those with room to spare over the closed form
    # must fall.
    least = least_margin(model, images, labels, 0.1, "linf")
    assert found.success[least < -0.3].all()
    assert found.success.float().mean() >= 0.75


def test_a_model_without_scores_falls_to_labels() -> None:
    """Where only decisions are told, the plan without gradients still finds what is there."""

    class Decisions(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(super().forward(x.detach()).argmax(1), 3).double()

    model = Decisions(3)
    images, labels = samples(model, 8)
    found = attack_ensemble(model, images, labels, eps=0.15, plan=score_based_stages())
    assert found.success.all()


def test_what_is_misread_when_clean_is_not_attacked() -> None:
    """A sample with a wrong label counts as broken by nothing but the victim, and comes back as it
    was."""
    model = Linear(3)
    images, labels = samples(model, 6)
    wrong = (labels + 1) % 3
    found = attack_ensemble(guarded(model), images, wrong, eps=0.04)
    assert found.broken_by == ("clean",) * 6
    assert torch.equal(found.images, images)
    assert model.calls <= 2


def test_the_verdict_is_about_the_images_returned() -> None:
    """An attack that claims success it has not got is not believed; 8-bit images are what is judged
    where asked."""
    model = Linear(3, dtype=torch.float32)
    images, labels = samples(model, 8)
    images = images.mul(255).round().div(255)
    labels = model(images).argmax(1)

    def boast(case: StageInput) -> object:
        from physadv.attacks.attack_result import AttackResult

        return AttackResult(case.images, torch.ones(len(case.images), dtype=torch.bool))

    plan = [AttackStage("boast", "white", boast)]  # type: ignore[arg-type]
    assert not attack_ensemble(model, images, labels, eps=8 / 255, plan=plan).success.any()
    found = attack_ensemble(model, images, labels, eps=12 / 255, levels=255)
    assert torch.equal(found.images, found.images.mul(255).round().div(255))
    assert torch.equal(model(found.images).argmax(1) != labels, found.success)


def test_each_stage_sees_only_what_is_whole() -> None:
    """Stages get fewer and fewer samples, and the images of a stage belong to the samples it
    names."""
    model = Linear(4)
    images, labels = samples(model, 20)
    shown = [set(range(20))]
    for verdict in sample_verdicts(
        model, images, labels, ball=LpBall("linf", 0.03), plan=standard_stages()
    ):
        rows = set(verdict.rows.tolist())
        assert rows <= shown[-1]
        shown.append(set(verdict.rows[~verdict.broken].tolist()))
        assert (lp_distance(verdict.images, images[verdict.rows], "linf") <= 0.03).all()


def test_the_nearest_class_of_a_linear_model_is_found() -> None:
    """The first target is the class whose plane is the nearest, however high its logit is."""
    model = Linear(6)
    images, labels = samples(model, 10, middle=True)
    near = torch.full((10,), torch.inf)
    case = StageInput(model, model, images, labels, LpBall("linf", 0.1), 0, torch.arange(10), near)
    weight = model.weight.detach()
    gaps = model(images).gather(1, labels[:, None]) - model(images)
    ratio = gaps / (weight[labels][:, None] - weight[None]).abs().sum(2)
    ratio = ratio.scatter(1, labels[:, None], torch.inf)
    assert torch.equal(nearest_classes(case, 1)[:, 0], ratio.argmin(1))
    assert nearest_classes(case, 9).shape == (10, 5)


def test_a_near_class_of_a_low_logit_is_found_among_a_hundred() -> None:
    """The nearest of 60 classes by margin over gradient norm has a low logit: 12 candidates miss
    it, MALT's hundred find it."""
    model = Linear(60)
    images, labels = samples(model, 6, middle=True)
    with torch.no_grad():
        lowest = model(images).argmin(1)
        lowest = torch.where(lowest == labels, (labels + 1) % 60, lowest)
        own = torch.nn.functional.one_hot(lowest, 60).sum(0).bool()
        # A steep slope and a low bias: far down in the order of logits, and yet the nearest.
        model.weight[own] = 400 * model.weight[own]
        model.bias[own] -= (images.flatten(1) @ model.weight[own].T).amax() + 2
        labels = model(images).argmax(1)
    far = torch.full((6,), torch.inf)
    case = StageInput(model, model, images, labels, LpBall("linf", 0.1), 0, torch.arange(6), far)
    gaps = model(images).gather(1, labels[:, None]) - model(images)
    ratio = gaps / (model.weight[labels][:, None] - model.weight[None]).abs().sum(2)
    nearest = ratio.scatter(1, labels[:, None], torch.inf).argmin(1)
    assert torch.equal(nearest_classes(case, 1, candidates=100)[:, 0], nearest)
    assert not torch.equal(nearest_classes(case, 1)[:, 0], nearest)


def test_an_empty_plan_is_refused() -> None:
    """A plan without attacks would call everything robust."""
    model = Linear(2)
    images, labels = samples(model, 2)
    with pytest.raises(OptionError, match="0 stages"):
        attack_ensemble(model, images, labels, eps=0.1, plan=[])


def certified(shared_data: Path) -> LoadedModel:
    """The published MNIST net: certified error at l_inf 0.1 at most 5.8 %."""
    return load_model(
        "wongkolter-mnist", weights=shared_data / "weights" / "wongkolter_mnist_eps01.pth"
    )


def mnist(shared_data: Path, count: int) -> tuple[Tensor, Tensor]:
    """The first test images, one gray channel."""
    data = read_dataset(shared_data / "mnist", split="test")
    pixels = torch.stack([torch.from_numpy(data.read(i)[..., 0].copy()) for i in range(count)])
    return pixels[:, None].float().div(255), torch.from_numpy(data.labels[:count])


def test_a_part_of_mnist_stays_above_its_certificate(shared_data: Path) -> None:
    """On 200 images a few fall at eps 0.1, most stand, and nearly all fall at three times the
    radius trained for."""
    model, (images, labels) = certified(shared_data), mnist(shared_data, 200)
    near = attack_ensemble(model, images, labels, eps=0.1, plan=standard_stages()[:3])
    far = attack_ensemble(model, images, labels, eps=0.3, plan=standard_stages()[:3])
    assert 2 <= int(near.success.sum()) <= 16
    assert far.success.float().mean() > 0.9


@pytest.mark.slow
def test_all_of_mnist_stays_above_its_certificate(shared_data: Path) -> None:
    """No attack may break more than 5.8 % at eps 0.1; PGD is published at about 4.1 %, so less than
    3.9 % is weak."""
    model, (images, labels) = certified(shared_data), mnist(shared_data, 10_000)
    broken = 0
    for start in range(0, 10_000, 500):
        part = slice(start, start + 500)
        broken += int(
            attack_ensemble(
                model, images[part], labels[part], eps=0.1, plan=standard_stages()[:4]
            ).success.sum()
        )
    assert 390 <= broken <= 580


def test_long_runs_go_to_the_close_calls_alone() -> None:
    """Only samples whose margin came below the threshold are attacked again; the others come back
    as they are."""
    model = Linear(3)
    images, labels = samples(model, 4)
    near = torch.tensor([0.1, 0.9, 0.29, 0.31])
    case = StageInput(model, model, images, labels, LpBall("linf", 0.5), 0, torch.arange(4), near)
    attacked: list[list[int]] = []

    def run(part: StageInput) -> AttackResult:
        attacked.append(part.index.tolist())
        count = len(part.images)
        return AttackResult(
            1 - part.images,
            torch.ones(count, dtype=torch.bool),
            torch.zeros(count),
            torch.ones(count, dtype=torch.long),
        )

    result = close_calls(case, 0.3, run)
    assert attacked == [[0, 2]]
    assert torch.equal(result.images[[1, 3]], images[[1, 3]])
    assert torch.equal(result.images[[0, 2]], 1 - images[[0, 2]])


def test_targets_at_once_break_what_they_break_in_turn() -> None:
    """Where there is room for several targets of a sample, results are those of one after the
    other: the same images, and the earlier target where both are reached."""
    model = Linear(4)
    images, labels = samples(model, 6)
    near, index = torch.full((6,), 0.2), torch.arange(6)
    case = StageInput(model, model, images, labels, LpBall("linf", 0.03), 0, index, near)
    one = apgd_targeted(case, count=3, steps=8)
    several = apgd_targeted(replace(case, room=18), count=3, steps=8)
    assert 0 < int(one.success.sum()) < 6
    assert torch.equal(one.success, several.success)
    torch.testing.assert_close(one.images, several.images)
