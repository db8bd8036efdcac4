"""physadv: physical-world adversarial robustness and photo privacy.

The names that most users need, each loaded on first use, so that ``import physadv`` stays light:

>>> import physadv
>>> victim = physadv.load_victim("signs")
>>> result = physadv.pgd(victim, images, labels, eps=8 / 255)          # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from physadv.attacks.apgd import apgd as apgd
    from physadv.attacks.score_based import square as square
    from physadv.evaluation.ensemble import ensemble as ensemble
    from physadv.evaluation.robust_accuracy import Evaluation as Evaluation
    from physadv.attacks.gradient import fgsm as fgsm
    from physadv.attacks.gradient import pgd as pgd
    from physadv.patches.optimize import optimise_patch as optimise_patch
    from physadv.attacks.obfuscated import bpda as bpda
    from physadv.attacks.obfuscated import eot as eot
    from physadv.datasets import read_dataset as read_dataset
    from physadv.certification.bounds.verify import verify as verify
    from physadv.certification.smoothing.certify import certify as certify
    from physadv.patches.bundle import read_bundle as read_bundle
    from physadv.privacy.cloak_faces import cloak_faces as cloak_faces
    from physadv.models.load import as_victim as as_victim
    from physadv.models.load import load_victim as load_victim

_HOMES = {
    "Evaluation": "attacks.evaluate",
    "apgd": "attacks.apgd",
    "as_victim": "victims.registry",
    "bpda": "attacks.wrappers",
    "certify": "defences.smoothing",
    "cloak_faces": "privacy.cloak",
    "ensemble": "attacks.ensemble",
    "eot": "attacks.wrappers",
    "fgsm": "attacks.gradient",
    "load_victim": "victims.registry",
    "optimise_patch": "attacks.patch",
    "pgd": "attacks.gradient",
    "read_bundle": "printing.bundle",
    "read_dataset": "datasets",
    "square": "attacks.blackbox",
    "verify": "defences.bounds.verify",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'physadv' has no attribute {name!r}")
    return getattr(import_module(f"physadv.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
