"""Defences by name, each with the settings that a command line knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from physadv.core.errors import OptionError
from physadv.training.methods.certified import CrownIbp, Ibp, Polytope
from physadv.training.methods.adversarial import Fgsm, Free, GradientPenalty, Pgd, Trades
from physadv.training.methods.base import Defence, Standard
from physadv.training.methods.fast import Fast
from physadv.training.methods.occlusion import Masked
from physadv.training.methods.noise_augmentation import Gaussian, SmoothAdv
from physadv.training.methods.patch import Stickers

DEFENCES: dict[str, Callable[..., Defence]] = {
    "standard": Standard,
    "fgsm": Fgsm,
    "pgd": Pgd,
    "free": Free,
    "fast": Fast,
    "trades": Trades,
    "gradient-penalty": GradientPenalty,
    "gaussian": Gaussian,
    "smoothadv": SmoothAdv,
    "ibp": Ibp,
    "crown-ibp": CrownIbp,
    "polytope": Polytope,
    "patch": Stickers,
    "masked": Masked,
}
BALL = ("eps", "norm")
"""Settings of the threat: a defence that has none is still judged under it."""


def named(name: str, settings: Mapping[str, Any]) -> Defence:
    """The defence called ``name``. Settings that are None keep its own.

    Raises OptionError for an unknown name, for a setting the defence does not have, and for one out of range.
    """
    if name not in DEFENCES:
        raise OptionError(f"defence {name!r}", f"one of {', '.join(DEFENCES)}", "choose one of these")
    kind: Any = DEFENCES[name]
    known = [f.name for f in fields(kind) if f.init]
    given = {key: value for key, value in settings.items() if value is not None}
    for key in given:
        if key not in known and key not in BALL:
            own = ", ".join(k for k in known if k not in BALL) or "none"
            raise OptionError(f"{key} for {name}", f"its settings are: {own}", f"leave {key} out")
    made: Defence = kind(**{key: value for key, value in given.items() if key in known})
    return made
