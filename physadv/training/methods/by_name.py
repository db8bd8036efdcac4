"""Training methods by name, each with the settings that a command line offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from physadv.core.errors import OptionError
from physadv.training.methods.adversarial import (
    FgsmTraining,
    FreeTraining,
    GradientPenalty,
    PgdTraining,
    TradesTraining,
)
from physadv.training.methods.base import StandardTraining, TrainingMethod
from physadv.training.methods.certified import CrownIbpTraining, IbpTraining, PolytopeTraining
from physadv.training.methods.fast import FastTraining
from physadv.training.methods.noise_augmentation import GaussianAugmentation, SmoothAdvTraining
from physadv.training.methods.occlusion import OcclusionTraining
from physadv.training.methods.patch import StickerTraining

DEFENSES: dict[str, Callable[..., TrainingMethod]] = {
    "standard": StandardTraining,
    "fgsm": FgsmTraining,
    "pgd": PgdTraining,
    "free": FreeTraining,
    "fast": FastTraining,
    "trades": TradesTraining,
    "gradient-penalty": GradientPenalty,
    "gaussian": GaussianAugmentation,
    "smoothadv": SmoothAdvTraining,
    "ibp": IbpTraining,
    "crown-ibp": CrownIbpTraining,
    "polytope": PolytopeTraining,
    "patch": StickerTraining,
    "masked": OcclusionTraining,
}
BALL = ("eps", "norm")
"""Settings of the threat: a method without them is still evaluated under it."""


def method_by_name(name: str, settings: Mapping[str, Any]) -> TrainingMethod:
    """Return the training method called ``name`` with ``settings``; those that are None keep the
    method's own.

    Raises:
        OptionError: The name is unknown, or a setting is unknown or out of range.

    Example:
        >>> from physadv.training.methods.by_name import method_by_name
        >>> method_by_name("pgd", {"eps": 0.1, "steps": 7})
        PgdTraining(eps=0.1, norm='linf', steps=7, step_size=None)
    """
    if name not in DEFENSES:
        raise OptionError(
            f"unknown defense {name!r}",
            f"the defenses are {', '.join(DEFENSES)}",
            "Choose one of these",
        )

    kind: Any = DEFENSES[name]
    known = [f.name for f in fields(kind) if f.init]
    given = {key: value for key, value in settings.items() if value is not None}
    for key in given:
        if key not in known and key not in BALL:
            own = ", ".join(k for k in known if k not in BALL) or "none"
            raise OptionError(f"{key} for {name}", f"its settings are {own}", f"Leave {key} out")

    method: TrainingMethod = kind(**{key: value for key, value in given.items() if key in known})
    return method
