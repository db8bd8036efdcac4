"""Defenses by name, each with the settings that a command line knows."""

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
"""Settings of the threat: a defense that has none is still judged under it."""


def method_by_name(name: str, settings: Mapping[str, Any]) -> TrainingMethod:
    """The defense called ``name``. Settings that are None keep its own.

    Raises OptionError for an unknown name, for a setting the defense does not have, and for one out
    of range.
    """
    if name not in DEFENSES:
        raise OptionError(
            f"defense {name!r}", f"one of {', '.join(DEFENSES)}", "choose one of these"
        )
    kind: Any = DEFENSES[name]
    known = [f.name for f in fields(kind) if f.init]
    given = {key: value for key, value in settings.items() if value is not None}
    for key in given:
        if key not in known and key not in BALL:
            own = ", ".join(k for k in known if k not in BALL) or "none"
            raise OptionError(f"{key} for {name}", f"its settings are: {own}", f"leave {key} out")
    made: TrainingMethod = kind(**{key: value for key, value in given.items() if key in known})
    return made
