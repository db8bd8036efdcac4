"""physadv: physical-world adversarial robustness and photo privacy.

The names that most users need, each loaded on first use, so that ``import physadv`` stays light.
Models are given as modules or by name, images as tensors, arrays or files, norms and radii as
people write them.

Example:
    >>> import torch, physadv
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    >>> images = torch.rand(4, 3, 4, 4)
    >>> result = physadv.evaluate(net, (images, net(images).argmax(1)), threat="linf:8/255")
    >>> result.robust_accuracy.n
    4
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

if TYPE_CHECKING:
    from physadv import attacks as attacks
    from physadv import eot as eot
    from physadv.attacks.attack_result import AttackResult as AttackResult
    from physadv.attacks.auto_pgd import apgd as apgd
    from physadv.attacks.gradient import fgsm as fgsm
    from physadv.attacks.gradient import pgd as pgd
    from physadv.attacks.score_based import square_attack as square_attack
    from physadv.certification.certify_images import BoundCertificates as BoundCertificates
    from physadv.certification.certify_images import SmoothingCertificates as SmoothingCertificates
    from physadv.certification.certify_images import certify_bounds as certify_bounds
    from physadv.certification.certify_images import certify_smoothing as certify_smoothing
    from physadv.check.check_patch import CheckResult as CheckResult
    from physadv.core.errors import BundleError as BundleError
    from physadv.core.errors import CalibrationError as CalibrationError
    from physadv.core.errors import CaptureError as CaptureError
    from physadv.core.errors import DataError as DataError
    from physadv.core.errors import GeometryError as GeometryError
    from physadv.core.errors import ImageError as ImageError
    from physadv.core.errors import ModelError as ModelError
    from physadv.core.errors import OptionError as OptionError
    from physadv.core.errors import PhysadvError as PhysadvError
    from physadv.core.types import Detections as Detections
    from physadv.datasets import read_dataset as read_dataset
    from physadv.datasets.read import read_detection_dataset as read_detection_dataset
    from physadv.defenses.load_model import load_model as load_model
    from physadv.eot.pipeline import Pipeline as Pipeline
    from physadv.eot.presets import eot_preset as eot_preset
    from physadv.eot.ranges import EotRanges as EotRanges
    from physadv.evaluation.autoattack import AutoAttack as AutoAttack
    from physadv.evaluation.benchmark import benchmark as benchmark
    from physadv.evaluation.detector_evaluation import DetectorResult as DetectorResult
    from physadv.evaluation.detector_evaluation import evaluate_detector as evaluate_detector
    from physadv.evaluation.evaluate import EvaluationResult as EvaluationResult
    from physadv.evaluation.evaluate import evaluate as evaluate
    from physadv.evaluation.metrics.intervals import RateInterval as RateInterval
    from physadv.models.cards import LoadedModel as LoadedModel
    from physadv.models.cards import ModelCard as ModelCard
    from physadv.models.load import as_model as as_model
    from physadv.models.load import list_models as list_models
    from physadv.patches.bundle import PatchBundle as PatchBundle
    from physadv.patches.bundle import read_bundle as read_bundle
    from physadv.patches.config import PatchConfig as PatchConfig
    from physadv.patches.make_patch import make_patch as make_patch
    from physadv.patches.make_patch import render_patch as render_patch
    from physadv.privacy.cloak_photo import CloakResult as CloakResult
    from physadv.privacy.cloak_photo import cloak_photo as cloak_photo
    from physadv.threat.constraints import LpBall as LpBall


_HOMES = {
    "AttackResult": "attacks.attack_result",
    "AutoAttack": "evaluation.autoattack",
    "BoundCertificates": "certification.certify_images",
    "BundleError": "core.errors",
    "CalibrationError": "core.errors",
    "CaptureError": "core.errors",
    "CheckResult": "check.check_patch",
    "CloakResult": "privacy.cloak_photo",
    "DataError": "core.errors",
    "Detections": "core.types",
    "DetectorResult": "evaluation.detector_evaluation",
    "EotRanges": "eot.ranges",
    "EvaluationResult": "evaluation.evaluate",
    "GeometryError": "core.errors",
    "ImageError": "core.errors",
    "LoadedModel": "models.cards",
    "LpBall": "threat.constraints",
    "ModelCard": "models.cards",
    "ModelError": "core.errors",
    "OptionError": "core.errors",
    "PatchBundle": "patches.bundle",
    "PatchConfig": "patches.config",
    "PhysadvError": "core.errors",
    "Pipeline": "eot.pipeline",
    "RateInterval": "evaluation.metrics.intervals",
    "SmoothingCertificates": "certification.certify_images",
    "apgd": "attacks.auto_pgd",
    "as_model": "models.load",
    "benchmark": "evaluation.benchmark",
    "certify_bounds": "certification.certify_images",
    "certify_smoothing": "certification.certify_images",
    "cloak_photo": "privacy.cloak_photo",
    "eot_preset": "eot.presets",
    "evaluate": "evaluation.evaluate",
    "evaluate_detector": "evaluation.detector_evaluation",
    "fgsm": "attacks.gradient",
    "list_models": "models.load",
    "load_model": "defenses.load_model",
    "make_patch": "patches.make_patch",
    "pgd": "attacks.gradient",
    "read_bundle": "patches.bundle",
    "read_dataset": "datasets",
    "read_detection_dataset": "datasets.read",
    "render_patch": "patches.make_patch",
    "square_attack": "attacks.score_based",
}
_ROOMS = ("attacks", "check", "eot")
"""Packages that are exported themselves; ``check`` can be called."""
__all__ = ["__version__", *sorted([*_HOMES, *_ROOMS])]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"physadv.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'physadv' has no attribute {name!r}")
    return getattr(import_module(f"physadv.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
