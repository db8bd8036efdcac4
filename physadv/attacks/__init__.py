"""Attacks on classifiers, each by its name; loaded on first use.

All take ``(model, images, labels)``: a model or what :func:`physadv.load_model` loads one by,
images in [0, 1] as a tensor or an array, and one class number an image. They return an
:class:`AttackResult` and leave everything of the caller's as it was.

Example:
    >>> import torch
    >>> from physadv import attacks
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    >>> result = attacks.pgd(net, torch.rand(2, 3, 4, 4), [0, 1], eps="8/255", norm="Linf")
    >>> result.success.shape
    torch.Size([2])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physadv.attacks.attack_result import AttackResult as AttackResult
    from physadv.attacks.augmented_lagrangian import alma as alma
    from physadv.attacks.auto_pgd import apgd as apgd
    from physadv.attacks.decision_based import hopskipjump as hopskipjump
    from physadv.attacks.decision_based import rays as rays
    from physadv.attacks.detection import DetectorAttackResult as DetectorAttackResult
    from physadv.attacks.detection import detector_attack as detector_attack
    from physadv.attacks.fewest_pixels import sigma_zero as sigma_zero
    from physadv.attacks.geometric_decision import geoda as geoda
    from physadv.attacks.geometric_decision import surfree as surfree
    from physadv.attacks.gradient import fgsm as fgsm
    from physadv.attacks.gradient import gradient_ascent as gradient_ascent
    from physadv.attacks.gradient import pgd as pgd
    from physadv.attacks.input_views import BlockShuffle as BlockShuffle
    from physadv.attacks.input_views import DeformationWarp as DeformationWarp
    from physadv.attacks.input_views import DiverseInputs as DiverseInputs
    from physadv.attacks.input_views import StructureInvariant as StructureInvariant
    from physadv.attacks.minimum_norm import cw_l2 as cw_l2
    from physadv.attacks.minimum_norm import deepfool as deepfool
    from physadv.attacks.minimum_norm import fab as fab
    from physadv.attacks.minimum_norm import superdeepfool as superdeepfool
    from physadv.attacks.norm_descent import ddn as ddn
    from physadv.attacks.norm_descent import fmn as fmn
    from physadv.attacks.obfuscated import bpda as bpda
    from physadv.attacks.obfuscated import expectation_model as expectation_model
    from physadv.attacks.pointwise_decision import pointwise as pointwise
    from physadv.attacks.score_based import EstimatedGradient as EstimatedGradient
    from physadv.attacks.score_based import square_attack as square_attack
    from physadv.attacks.sparse import saliency_attack as saliency_attack
    from physadv.attacks.sparse import sparse_search as sparse_search
    from physadv.attacks.surrogates import SurrogateEnsemble as SurrogateEnsemble
    from physadv.attacks.surrogates import transfer_attack as transfer_attack
    from physadv.attacks.transfer_based import GradientRelevance as GradientRelevance
    from physadv.attacks.transfer_based import mi_fgsm as mi_fgsm
    from physadv.attacks.universal import UniversalResult as UniversalResult
    from physadv.attacks.universal import apply_change as apply_change
    from physadv.attacks.universal import universal_perturbation as universal_perturbation

_HOMES = {
    "AttackResult": "attack_result",
    "DetectorAttackResult": "detection",
    "BlockShuffle": "input_views",
    "DeformationWarp": "input_views",
    "DiverseInputs": "input_views",
    "EstimatedGradient": "score_based",
    "GradientRelevance": "transfer_based",
    "StructureInvariant": "input_views",
    "SurrogateEnsemble": "surrogates",
    "UniversalResult": "universal",
    "alma": "augmented_lagrangian",
    "apgd": "auto_pgd",
    "apply_change": "universal",
    "bpda": "obfuscated",
    "cw_l2": "minimum_norm",
    "ddn": "norm_descent",
    "deepfool": "minimum_norm",
    "superdeepfool": "minimum_norm",
    "detector_attack": "detection",
    "expectation_model": "obfuscated",
    "fab": "minimum_norm",
    "fgsm": "gradient",
    "fmn": "norm_descent",
    "geoda": "geometric_decision",
    "gradient_ascent": "gradient",
    "hopskipjump": "decision_based",
    "pointwise": "pointwise_decision",
    "mi_fgsm": "transfer_based",
    "pgd": "gradient",
    "rays": "decision_based",
    "saliency_attack": "sparse",
    "sigma_zero": "fewest_pixels",
    "sparse_search": "sparse",
    "square_attack": "score_based",
    "surfree": "geometric_decision",
    "transfer_attack": "surrogates",
    "universal_perturbation": "universal",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'physadv.attacks' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
