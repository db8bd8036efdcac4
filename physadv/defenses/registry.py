"""Defenses by name in front of any model, in the model's own name: ``signs+jpeg``,
``signs+jpeg:quality50+median``.

Every command that takes a model takes a defended one, and a patch bundle made against it records
its name. Settings follow a colon: words, and names joined to their numbers
(``signs-masked+patchcleanser:patch9,masks6``).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from physadv.certification.patch.masking import DerandomizedSmoothing, PatchCleanser
from physadv.certification.patch.patchguard import RobustMasking
from physadv.core.errors import ModelError, OptionError
from physadv.core.parsing import parse_number
from physadv.core.types import Prediction
from physadv.defenses import input_transforms
from physadv.defenses.patch_removal import patch_removal
from physadv.models.cards import LoadedModel
from physadv.models.resizing import InputResizing

SIDE = 64
"""Working size in px where the model's card names none."""
_SETTING = re.compile(r"([a-z_]+?)(\d+(?:\.\d+)?)?")
DefenseFactory = Callable[..., nn.Module]


@runtime_checkable
class CertifiedDefense(Protocol):
    """Protocol of defenses that certify their predictions against one patch of ``patch`` px at
    their working size."""

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width in px of the patch that certificates are for."""
        ...

    def certify(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return (b,) bool: ``images`` are classified as ``labels``, and no such patch changes
        that."""
        ...

    def verdicts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted classes (b,) of ``images``, and (b,) bool whether each is
        certified."""
        ...


class _ResizedDefense(nn.Module):
    """A defense at one working size: images are brought to it first, as to the model's input."""

    def __init__(self, defense: nn.Module, resizing: InputResizing) -> None:
        super().__init__()
        self.defense, self.resizing = defense, resizing

    def forward(self, images: Tensor) -> Prediction:
        """Return the defense's logits (b, classes) on resized ``images``."""
        return cast(Prediction, self.defense(self.resizing(images)))


@dataclass(frozen=True)
class DefenseEntry:
    """A registered defense.

    Attributes:
        make: Function that takes a loaded model and keyword settings, and returns the defended
            model.
        about: One line of description, with the settings and their defaults.
        words: Keyword settings that each word stands for.
        classifiers_only: Whether detectors are refused.
    """

    make: DefenseFactory
    about: str
    words: Mapping[str, Mapping[str, Any]]
    classifiers_only: bool = False


def _cleanser(
    model: LoadedModel, *, patch: int = 6, wide: int | None = None, masks: int = 6
) -> nn.Module:
    return _ResizedDefense(
        PatchCleanser(model, patch=(patch, wide or patch), masks=masks), _resizing(model)
    )


def _ablated(
    model: LoadedModel,
    *,
    size: int = 19,
    stride: int = 4,
    patch: int = 6,
    threshold: float = 0.3,
    kind: str = "block",
) -> nn.Module:
    local = DerandomizedSmoothing(
        model, size=size, patch=patch, kind=cast(Any, kind), stride=stride, threshold=threshold
    )
    return _ResizedDefense(local, _resizing(model))


def _guard(
    model: LoadedModel,
    *,
    size: int = 19,
    stride: int = 4,
    patch: int = 6,
    threshold: float = 0.0,
    kind: str = "block",
) -> nn.Module:
    local = DerandomizedSmoothing(
        model, size=size, patch=patch, kind=cast(Any, kind), stride=stride, threshold=threshold
    )
    return _ResizedDefense(RobustMasking(local), _resizing(model))


_KIND = {"band": {"kind": "band"}, "block": {"kind": "block"}}
_PLAIN = {"plain": {"adaptive": False}}
DEFENSES: dict[str, DefenseEntry] = {
    "jpeg": DefenseEntry(
        input_transforms.jpeg_purification, "JPEG by the real codec (quality75)", _PLAIN
    ),
    "median": DefenseEntry(input_transforms.median_smoothing, "median filter (size3)", _PLAIN),
    "blur": DefenseEntry(input_transforms.blur_purification, "Gaussian blur (sigma1)", {}),
    "lgs": DefenseEntry(
        input_transforms.local_gradient_smoothing,
        "local gradient smoothing (block15, overlap5)",
        _PLAIN,
    ),
    "remover": DefenseEntry(
        patch_removal, "segment, complete and remove patches (threshold0.7)", _PLAIN
    ),
    "patchcleanser": DefenseEntry(
        _cleanser, "double masking, certified (patch6, masks6)", {}, True
    ),
    "derandomized": DefenseEntry(
        _ablated,
        "votes on ablated images, certified (size19, stride4, patch6, threshold0.3, band)",
        _KIND,
        True,
    ),
    "patchguard": DefenseEntry(
        _guard,
        "robust masking of verdicts on ablated images, certified (size19, stride4, patch6, "
        "threshold0, band)",
        _KIND,
        True,
    ),
}

_FORMER_NAMES = {"derandomised": "derandomized"}
"""Names of defenses in earlier cards and rows."""


def defend_model(model: LoadedModel, text: str) -> LoadedModel:
    """Put a defense in front of a model.

    Input transforms have stand-ins for their gradient (BPDA) unless the word ``plain`` is among the
    settings.

    Args:
        model: Loaded model; its card gives the working size.
        text: Name of the defense and its settings, such as ``"jpeg:quality50"``.

    Returns:
        The defended model, with a card that names the defense.

    Raises:
        OptionError: The name or a setting is unknown.
        ModelError: The defense needs a classifier and the model is a detector.

    Example:
        >>> from physadv.defenses.load_model import load_model
        >>> from physadv.defenses.registry import defend_model
        >>> defend_model(load_model("signs"), "jpeg:quality50").card.name
        'signs+jpeg:quality50'
    """
    name, _, rest = text.partition(":")
    name = _FORMER_NAMES.get(name, name)
    if name not in DEFENSES:
        raise OptionError(
            f"unknown defense {name!r}",
            f"the defenses are {', '.join(DEFENSES)}",
            "Write e.g. signs+jpeg",
        )
    entry = DEFENSES[name]
    if entry.classifiers_only and model.card.task != "classify":
        raise ModelError(
            f"{model.card.name}",
            f"is a detector, and {name} needs a classifier",
            "Use an input transform such as jpeg",
        )

    defended = entry.make(model, **_settings(name, entry, rest))
    full_name = f"{model.card.name}+{text}"
    card = replace(model.card, name=full_name, accuracy="not measured behind this defense")
    return LoadedModel(defended, card)


def certified_defense(model: nn.Module) -> tuple[CertifiedDefense, InputResizing] | None:
    """Return the outermost defense of ``model`` that certifies its predictions, and how images are
    brought to its working size; None without one."""
    net = model.net if isinstance(model, LoadedModel) else model
    if isinstance(net, _ResizedDefense) and isinstance(net.defense, CertifiedDefense):
        return net.defense, net.resizing
    return None


def _settings(name: str, entry: DefenseEntry, text: str) -> dict[str, Any]:
    """Return the keyword settings of a text: ``quality50`` gives {"quality": 50}, words give what
    they stand for."""
    parameters = {
        k: p
        for k, p in inspect.signature(entry.make).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }
    numbers = [
        k
        for k, p in parameters.items()
        if isinstance(p.default, int | float | None) and not isinstance(p.default, bool)
    ]

    settings: dict[str, Any] = {}
    for setting in filter(None, text.split(",")):
        match = _SETTING.fullmatch(setting.strip())
        key, value = match.groups() if match else ("", None)
        if value is None and key in entry.words:
            settings |= entry.words[key]
        elif value is not None and key in numbers:
            is_float = isinstance(parameters[key].default, float)
            number = parse_number(value, key, name, most=1e6, error=OptionError)
            settings[key] = number if is_float else int(number)
        else:
            defaults = (f"{k}{_shown(parameters[k].default)}" for k in numbers)
            raise OptionError(
                f"unknown setting {setting!r} of {name}",
                f"the settings are {', '.join([*entry.words, *defaults])}",
                f"Write e.g. {name}:{numbers[0]}8",
            )
    return settings


def _shown(default: object) -> str:
    return "8" if default is None else f"{default}"


def _resizing(model: LoadedModel) -> InputResizing:
    return model.card.resizing or InputResizing((SIDE, SIDE))
