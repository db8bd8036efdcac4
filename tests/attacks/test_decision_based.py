"""Decision-based attacks: labels only, counted, near the closed-form distance of a linear
victim."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier
from physadv.attacks._guarded_model import guarded
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.decision_based import hopskipjump, rays
from physadv.core.errors import OptionError
from physadv.threat.norms import lp_distance


class LabelOnly:
    """Answers with the winning class alone: scores carry nothing, so an attack that reads them
    fails."""

    def __init__(self, norm: str) -> None:
        self.weight = torch.randn(1, 5, 5, generator=torch.Generator().manual_seed(2))
        self.smallest = 0.4 / float(
            self.weight.abs().sum() if norm == "linf" else self.weight.norm()
        )
        self.asked = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        score = ((images - 0.5) * self.weight).flatten(1).sum(1) + 0.4
        return torch.stack([(score >= 0).float(), (score < 0).float()], 1)


GRAY, ZEROS = torch.full((3, 1, 5, 5), 0.5), torch.zeros(3, dtype=torch.long)


def attack(
    name: str, model: Classifier, norm: str, labels: Tensor, eps: float, queries: int
) -> AttackResult:
    """Either attack in one spelling."""
    if name == "rays":
        return rays(model, GRAY, labels, eps=eps, queries=queries)
    return hopskipjump(model, GRAY, labels, eps=eps, norm=norm, queries=queries)  # type: ignore[arg-type]


CASES = [("rays", "linf", 1.01), ("hopskipjump", "l2", 1.1), ("hopskipjump", "linf", 1.5)]


@pytest.mark.parametrize(("name", "norm", "factor"), CASES)
def test_a_plane_falls_near_its_distance_and_never_below(
    name: str, norm: str, factor: float
) -> None:
    """With labels alone, images close to the closed-form distance are found; none is claimed below
    it."""
    model = LabelOnly(norm)
    found = attack(name, model, norm, ZEROS, factor * model.smallest, 3000)
    assert found.success.all()
    assert (model(found.images).argmax(1) == 1).all()
    assert (lp_distance(found.images, GRAY, norm) <= factor * model.smallest).all()  # type: ignore[arg-type]
    assert not attack(name, model, norm, ZEROS, 0.98 * model.smallest, 400).success.any()


@pytest.mark.parametrize(("name", "norm", "factor"), CASES)
def test_every_question_is_counted_and_limited(name: str, norm: str, factor: float) -> None:
    """The counts add up to what the victim was asked, at most q + 1 a sample; a misread sample
    costs one."""
    model = LabelOnly(norm)
    found = attack(name, guarded(model), norm, torch.tensor([0, 1, 0]), 1e-4, 150)
    assert found.queries is not None
    assert int(found.queries.sum()) == model.asked
    assert int(found.queries.max()) <= 151
    assert int(found.queries[1]) == 1
    assert found.success.tolist() == [False, True, False]
    assert torch.equal(found.images[0], GRAY[0])


@pytest.mark.parametrize(("name", "norm", "factor"), CASES)
def test_a_sample_does_not_depend_on_its_batch(name: str, norm: str, factor: float) -> None:
    """Alone or among others, the image found is the same."""
    model = LabelOnly(norm)
    together = attack(name, model, norm, ZEROS, factor * model.smallest, 800).images
    again = attack(name, model, norm, torch.tensor([1, 0, 0]), factor * model.smallest, 800).images
    assert torch.equal(together[1:], again[1:])


def test_an_unknown_norm_is_refused() -> None:
    """HopSkipJump has no l_1."""
    with pytest.raises(OptionError, match="l1"):
        hopskipjump(LabelOnly("l2"), GRAY, ZEROS, eps=1.0, norm="l1")
