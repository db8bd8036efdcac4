"""physadv: physical-world adversarial robustness and photo privacy.

The names that most users need, each loaded on first use, so that ``import physadv`` stays light:

>>> import physadv
>>> victim = physadv.load_model("signs")
>>> result = physadv.pgd(victim, images, labels, eps=8 / 255)          # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from physadv.attacks.auto_pgd import apgd as apgd
    from physadv.attacks.gradient import fgsm as fgsm
    from physadv.attacks.gradient import pgd as pgd
    from physadv.attacks.obfuscated import bpda as bpda
    from physadv.attacks.obfuscated import expectation_model as expectation_model
    from physadv.attacks.score_based import square_attack as square_attack
    from physadv.certification.bounds.verify import verify_bounds as verify_bounds
    from physadv.certification.smoothing.certify import certify_image as certify_image
    from physadv.datasets import read_dataset as read_dataset
    from physadv.defenses.load_model import load_model as load_model
    from physadv.evaluation.ensemble import attack_ensemble as attack_ensemble
    from physadv.evaluation.robust_accuracy import Evaluation as Evaluation
    from physadv.models.load import as_model as as_model
    from physadv.patches.bundle import read_bundle as read_bundle
    from physadv.patches.optimize import optimize_patch as optimize_patch
    from physadv.privacy.cloak_faces import cloak_faces as cloak_faces

_HOMES = {
    "Evaluation": "evaluation.robust_accuracy",
    "apgd": "attacks.auto_pgd",
    "as_model": "models.load",
    "bpda": "attacks.obfuscated",
    "certify_image": "certification.smoothing.certify",
    "cloak_faces": "privacy.cloak_faces",
    "attack_ensemble": "evaluation.ensemble",
    "expectation_model": "attacks.obfuscated",
    "fgsm": "attacks.gradient",
    "load_model": "defenses.load_model",
    "optimize_patch": "patches.optimize",
    "pgd": "attacks.gradient",
    "read_bundle": "patches.bundle",
    "read_dataset": "datasets",
    "square_attack": "attacks.score_based",
    "verify_bounds": "certification.bounds.verify",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'physadv' has no attribute {name!r}")
    return getattr(import_module(f"physadv.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
