"""Defenses by name around any victim, in the victim's own name: ``signs+jpeg``,
``signs+jpeg:quality50+median``.

Every command that takes a model so takes a defended one, and a patch bundle made against it
remembers it. Settings follow a colon: words, and names joined to their numbers
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
from physadv.core.types import Prediction
from physadv.defenses import input_transforms
from physadv.defenses.patch_removal import patch_removal
from physadv.models.cards import LoadedModel
from physadv.models.classifiers import resize_images

SIDE = 64
"""Where the victim's card names no size of its own."""
_SETTING = re.compile(r"([a-z_]+?)(\d+(?:\.\d+)?)?")
Maker = Callable[..., nn.Module]


@runtime_checkable
class CertifiedDefense(Protocol):
    """A defense against one patch of ``patch`` px a side (at its working size) that can prove its
    verdicts."""

    @property
    def patch(self) -> tuple[int, int]:
        """(height, width) px of the patch withstood."""
        ...

    def certify(self, images: Tensor, labels: Tensor) -> Tensor:
        """(b,) bool: the verdict is the label, and no such patch changes it."""
        ...

    def verdicts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(b,) classes and (b,) bool: the verdicts, and whether they are certified."""
        ...


class _ResizedDefense(nn.Module):
    """A defense at one working ``size`` (height, width) px: images are stretched to it first."""

    def __init__(self, defense: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.defense, self.size = defense, size

    def forward(self, images: Tensor) -> Prediction:
        """Logits (b, classes)."""
        return cast(Prediction, self.defense(resize_images(images, *self.size)))


@dataclass(frozen=True)
class DefenseEntry:
    """How a defense is made around a loaded victim, and a line on what it is."""

    make: Maker
    about: str
    words: Mapping[str, Mapping[str, Any]]
    classifiers_only: bool = False


def _cleanser(
    model: LoadedModel, *, patch: int = 6, wide: int | None = None, masks: int = 6
) -> nn.Module:
    return _ResizedDefense(
        PatchCleanser(model, patch=(patch, wide or patch), masks=masks), _size(model)
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
    return _ResizedDefense(local, _size(model))


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
    return _ResizedDefense(RobustMasking(local), _size(model))


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
    "derandomised": DefenseEntry(
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


def defend_model(model: LoadedModel, text: str) -> LoadedModel:
    """``model`` behind the defense that ``text`` names, with a card that says so.

    Front ends have stand-ins for their gradient (BPDA) unless the word ``plain`` is among the
    settings. Raises OptionError for an unknown name or setting, ModelError where the defense needs
    a classifier.
    """
    name, _, rest = text.partition(":")
    if name not in DEFENSES:
        raise OptionError(
            f"defense {name!r}", f"one of {', '.join(DEFENSES)}", "for example signs+jpeg"
        )
    known = DEFENSES[name]
    if known.classifiers_only and model.card.task != "classify":
        raise ModelError(
            f"{model.card.name}",
            f"is a detector, and {name} needs a classifier",
            "use a front end",
        )
    defended = known.make(model, **_settings(name, known, rest))
    said = f"{model.card.name}+{text}"
    card = replace(model.card, name=said, accuracy="not measured behind this defense")
    return LoadedModel(defended, card)


def certified_defense(model: nn.Module) -> tuple[CertifiedDefense, tuple[int, int]] | None:
    """The outermost defense of a loaded victim that proves its verdicts, and its working size; None
    without one."""
    net = model.net if isinstance(model, LoadedModel) else model
    if isinstance(net, _ResizedDefense) and isinstance(net.defense, CertifiedDefense):
        return net.defense, net.size
    return None


def _settings(name: str, known: DefenseEntry, text: str) -> dict[str, Any]:
    """``quality50`` -> {"quality": 50}; words stand for what ``known.words`` says."""
    takes = {
        k: p
        for k, p in inspect.signature(known.make).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }
    numbers = [
        k
        for k, p in takes.items()
        if isinstance(p.default, int | float | None) and not isinstance(p.default, bool)
    ]
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        match = _SETTING.fullmatch(part.strip())
        key, value = match.groups() if match else ("", None)
        if value is None and key in known.words:
            found |= known.words[key]
        elif value is not None and key in numbers:
            found[key] = (
                float(value) if isinstance(takes[key].default, float) else int(float(value))
            )
        else:
            said = ", ".join([*known.words, *(f"{k}{_shown(takes[k].default)}" for k in numbers)])
            raise OptionError(
                f"{name}:{part}", f"it takes {said}", f"for example {name}:{numbers[0]}8"
            )
    return found


def _shown(default: object) -> str:
    return "8" if default is None else f"{default}"


def _size(model: LoadedModel) -> tuple[int, int]:
    return model.card.input_size or (SIDE, SIDE)
