"""Certificates under attack at their own radius: true ones hold, false ones break and are saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from physadv.certification.patch.masking import PatchCleanser
from physadv.certification.smoothing.noise import GaussianNoise, LaplaceNoise, SmoothingNoise
from physadv.certification.smoothing.sampler import NoiseSampler
from physadv.core.rows import Row
from physadv.evaluation.certificate_attack import (
    BoundAttack,
    Counterexample,
    PatchAttack,
    SmoothingAttack,
    is_attackable,
)
from physadv.models.resizing import InputResizing

SIDE = 8
PIXELS = SIDE * SIDE
LEAD = 0.1
"""By how much the left half of each image is brighter than the right one."""
REACH = {"linf": LEAD / 2, "l2": LEAD / 2 * PIXELS**0.5, "l1": LEAD / 2 * PIXELS}
"""Distance of each image to the plane on which both halves are alike."""


class Halves(nn.Module):
    """Two classes: the mean of the left half and that of the right one."""

    def forward(self, images: Tensor) -> Tensor:
        left, right = images[..., : SIDE // 2], images[..., SIDE // 2 :]
        return 10 * torch.stack([left.mean((1, 2, 3)), right.mean((1, 2, 3))], 1)


def images(count: int = 3) -> Tensor:
    """Gray images whose left half leads by LEAD."""
    left = torch.full((count, 1, SIDE, SIDE), 0.5)
    left[..., : SIDE // 2] += LEAD
    return left


def rows(radius: float, count: int = 3, **more: float) -> list[Row]:
    """Certificates of class 0 within ``radius``."""
    row = {"predicted": 0, "label": 0, "radius": radius, "image": "i", **more}
    return [dict(row) for _ in range(count)]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_bound_holds_up_to_the_true_radius_and_not_beyond(norm: str) -> None:
    """The linear model's exact radius survives; one a hundredth larger breaks, within itself."""
    attack = BoundAttack(Halves(), norm=norm, main=0.0)
    true = rows(REACH[norm] * 0.99, margin=0.0)
    assert attack.counterexamples(images(), true, [3, 4, 5]) == []
    false = rows(REACH[norm] * 1.01, margin=0.0)
    found = attack.counterexamples(images(), false, [3, 4, 5])
    assert [example.index for example in found] == [3, 4, 5]
    for example in found:
        step = (example.adversarial.double() - example.image.double()).flatten()
        order = torch.inf if norm == "linf" else 2
        assert torch.linalg.vector_norm(step, ord=order) <= example.radius
        assert Halves()(example.adversarial[None]).argmax(1) == 1


def test_a_margin_below_its_bound_breaks_though_the_class_stays() -> None:
    """At half the true radius half of the margin is left, and no more may be certified."""
    radius = REACH["linf"] / 2
    attack = BoundAttack(Halves(), norm="linf", main=radius)
    margin = 10 * LEAD / 2
    assert attack.counterexamples(images(), rows(radius, margin=margin - 1e-3), [0, 1, 2]) == []
    found = attack.counterexamples(images(), rows(radius, margin=margin + 0.01), [0, 1, 2])
    assert len(found) == 3
    assert "certified to be at least" in found[0].found


def test_what_is_not_certified_is_not_attacked() -> None:
    """Abstentions and radii of 0 have nothing to break."""
    assert not is_attackable({"predicted": -1, "radius": 0.0})
    assert not is_attackable({"predicted": 1, "radius": 0.0})
    attack = BoundAttack(Halves(), norm="linf", main=0.1)
    assert attack.counterexamples(images(), rows(0.0, margin=1.0), [0, 1, 2]) == []


@pytest.mark.parametrize(
    ("noise", "norm"),
    [
        (GaussianNoise(0.1), "l2"),
        (GaussianNoise(0.1), "linf"),
        (LaplaceNoise(0.1), "l1"),
    ],
)
def test_a_vote_holds_up_to_the_true_radius_and_not_beyond(
    noise: SmoothingNoise, norm: str
) -> None:
    """By symmetry the vote of the linear model is even on the plane itself."""
    attack = SmoothingAttack(NoiseSampler(Halves(), noise), norm=norm)
    assert attack.counterexamples(images(), rows(REACH[norm] * 0.95), [0, 1, 2]) == []
    found = attack.counterexamples(images(), rows(REACH[norm] * 1.3), [0, 1, 2])
    assert [example.index for example in found] == [0, 1, 2]
    assert "votes for class 0" in found[0].found


class Overclaiming(Halves):
    """A defense that claims 6 x 6 px and defends nothing."""

    patch = (6, 6)

    def certify(self, images: Tensor, labels: Tensor) -> Tensor:
        return torch.ones(len(images), dtype=torch.bool)

    def verdicts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        predicted = self(images).argmax(1)
        return predicted, self.certify(images, predicted)


def test_a_patch_certificate_holds_where_it_is_true_alone() -> None:
    """Content of the other image, in a patch of the certified size, breaks a false claim."""
    pair = torch.cat([images(1), images(1).flip(3)])
    cleanser = PatchCleanser(Halves(), patch=1, masks=4)
    for defense, broken in ((Overclaiming(), 2), (cleanser, 0)):
        predicted, sure = defense.verdicts(pair)
        assert sure.all()
        certificates = rows(float(defense.patch[0]), 2)
        for row, own in zip(certificates, predicted.tolist(), strict=True):
            row["predicted"] = own
        attack = PatchAttack(defense, InputResizing((SIDE, SIDE)))
        assert len(attack.counterexamples(pair, certificates, [0, 1])) == broken


def test_a_counterexample_is_saved_with_what_shows_it(tmp_path: Path) -> None:
    """The file holds both images, the class, the radius, the settings and the command."""
    x = images(1)[0]
    example = Counterexample(7, x, x + 0.05, 0, 1, 0.1, "margin -1")
    path = example.save(tmp_path, {"norm": "linf", "method": "ibp"}, "physadv certify --model m")
    with np.load(path) as saved:
        assert path.name == "broken-7.npz"
        assert np.abs(saved["adversarial"] - saved["image"]).max() <= float(saved["radius"])
        assert (int(saved["label"]), int(saved["predicted"])) == (0, 1)
        assert str(saved["setting_norm"]) == "linf"
        assert str(saved["command"]) == "physadv certify --model m"
