"""Every epsilon-ball attack of the package with the norms it knows, called alike, for the contract
tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from physadv.attacks.attack_result import AttackResult
from physadv.attacks.augmented_lagrangian import alma
from physadv.attacks.auto_pgd import apgd
from physadv.attacks.fewest_pixels import sigma_zero
from physadv.attacks.gradient import fgsm, gradient_ascent, pgd
from physadv.attacks.input_views import (
    BlockShuffle,
    DeformationWarp,
    DiverseInputs,
    StructureInvariant,
)
from physadv.attacks.minimum_norm import cw_l2, deepfool, fab, superdeepfool
from physadv.attacks.norm_descent import ddn, fmn
from physadv.attacks.score_based import square_attack
from physadv.attacks.sparse import saliency_attack, sparse_search
from physadv.attacks.transfer_based import GradientRelevance, mi_fgsm
from physadv.attacks.universal import universal_perturbation
from physadv.threat.norms import NORMS, Norm

EPS: dict[str, float] = {"linf": 8 / 255, "l2": 0.5, "l1": 5.0, "l0": 3.0}
AND_L0: tuple[Norm, ...] = (*NORMS, "l0")


def in_pixels(attack: Callable[..., AttackResult]) -> Callable[..., AttackResult]:
    """The attack on a number of pixels, called with the radius in l_0; one of 0 changes nothing."""

    def run(model: Any, x: Tensor, y: Tensor, *, eps: float, **options: Any) -> AttackResult:
        if eps == 0:
            return sigma_zero(model, x, y, eps=0)
        return attack(model, x, y, pixels=int(eps), **options)

    return run


@dataclass(frozen=True)
class Entry:
    """One attack: what it is called with, how many forwards that may take, and what it knows."""

    name: str
    function: Callable[..., AttackResult]
    steps: int
    fixed: dict[str, Any] = field(default_factory=dict)
    norms: tuple[Norm, ...] = NORMS
    plain: dict[str, Any] = field(default_factory=lambda: {"speed": "plain"})
    random: bool = False
    targeted: bool = True
    levels: bool = True
    indexed: bool = True
    """Whether each sample has draws of its own, by its number."""

    def __call__(
        self, model: Any, x: Tensor, y: Tensor, norm: Norm, eps: float | None = None, **more: Any
    ) -> AttackResult:
        """Run it; with ``plain=True`` every forward is the victim's own."""
        options = {**self.fixed, **more}
        if options.pop("plain", False):
            options.update(self.plain)
        if len(self.norms) > 1:
            options["norm"] = norm
        return self.function(model, x, y, eps=EPS[norm] if eps is None else eps, **options)


ENTRIES = [
    Entry("fgsm", fgsm, 1, plain={}, norms=AND_L0),
    Entry("gradient_ascent", gradient_ascent, 10, {"steps": 10}),
    Entry("pgd", pgd, 10, {"steps": 10}, random=True, norms=AND_L0),
    Entry(
        "pgd-margin", pgd, 10, {"steps": 10, "loss": "margin", "schedule": "constant"}, random=True
    ),
    Entry("pgd-loss", pgd, 10, {"steps": 10, "keep": "loss"}, random=True),
    Entry("mifgsm", mi_fgsm, 10, {"steps": 10}, plain={}),
    Entry(
        "diverse",
        mi_fgsm,
        10,
        {"steps": 10, "decay": 0.0, "diverse": DiverseInputs()},
        plain={},
        random=True,
    ),
    *(
        Entry(name, mi_fgsm, passes, {"steps": 4, **more}, plain={}, random=True)
        for name, passes, more in (
            ("bsr", 8, {"diverse": BlockShuffle(copies=2)}),
            ("sia", 8, {"diverse": StructureInvariant(copies=2)}),
            ("decowa", 16, {"diverse": DeformationWarp(copies=2)}),
            ("gra", 12, {"relevance": GradientRelevance(neighbors=2)}),
        )
    ),
    Entry("apgd-ce", apgd, 10, {"steps": 10}, random=True),
    Entry("apgd-dlr", apgd, 10, {"steps": 10, "loss": "dlr"}, random=True),
    Entry("alma", alma, 20, {"steps": 20}, norms=("l2", "l1")),
    Entry("fab", fab, 20, {"steps": 20}),
    Entry("deepfool", deepfool, 15, {"steps": 15}),
    Entry("superdeepfool", superdeepfool, 15, {"steps": 15}, norms=("l2",)),
    Entry("ddn", ddn, 16, {"steps": 16}, norms=("l2",)),
    Entry("fmn", fmn, 16, {"steps": 16}),
    Entry("cw_l2", cw_l2, 36, {"steps": 15, "searches": 2}, norms=("l2",)),
    Entry("universal", universal_perturbation, 4, {"epochs": 4, "batch": 3}, random=True),
    Entry(
        "square",
        square_attack,
        40,
        {"queries": 40},
        plain={},
        random=True,
        targeted=False,
        levels=False,
        indexed=False,
    ),
    Entry("sigma_zero", sigma_zero, 30, {"steps": 30}, norms=("l0",)),
    Entry("jsma", in_pixels(saliency_attack), 3, norms=("l0",), plain={}, levels=False),
    Entry(
        "sparse_search",
        in_pixels(sparse_search),
        40,
        {"queries": 40},
        norms=("l0",),
        plain={},
        random=True,
        targeted=False,
        levels=False,
        indexed=False,
    ),
]
CASES = [(entry, norm) for entry in ENTRIES for norm in entry.norms]
IDS = [f"{entry.name}-{norm}" for entry, norm in CASES]
