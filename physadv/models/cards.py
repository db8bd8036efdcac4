"""Model cards: name, task, classes and provenance of a model, and the wrapper that carries one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from physadv.core.errors import ModelError, PhysadvError, is_out_of_memory
from physadv.core.names import plain_name
from physadv.core.tensors import device_of, exact_device, has_float64
from physadv.core.types import Prediction
from physadv.models.failures import failure_of
from physadv.models.own_device import moved_prediction
from physadv.models.resizing import InputResizing, resizing_from

Task = Literal["classify", "detect"]
_NO_GRADIENT = "does not depend on its input differentiably"
_ACCURACY = re.compile(r"(?:clean |top-1 )?(\d+(?:\.\d+)?) ?%")
"""Beginning of a card's line on accuracy: the clean accuracy in percent."""


@dataclass(frozen=True)
class ModelCard:
    """Name, task and provenance of a model.

    Attributes:
        name: Name under which the model is loaded and reported.
        task: "classify" or "detect".
        classes: Class names by index; empty where they are not known.
        input_size: (height, width) in px that the network receives after its own resizing; None
            where it takes any size.
        licence: License of the weights.
        source: Publisher of the weights, with author and year.
        data: Data set that the model was trained on.
        sha256: Hash of the weights' file; pins what is loaded.
        accuracy: Measured accuracy, with the data, the interval and who measured it.
        urls: Addresses that ``physadv models fetch`` tries in turn.
        extra: Further entries of the card: how images are resized (see :attr:`resizing`) and how a
            detector makes boxes (see :class:`physadv.models.detectors.PredictSettings`), tables of
            a measurement.

    Example:
        >>> card = ModelCard("demo", classes=("stop", "yield"))
        >>> card.class_index("Stop"), card.class_name(1)
        (0, 'yield')
    """

    name: str
    task: Task = "classify"
    classes: tuple[str, ...] = ()
    input_size: tuple[int, int] | None = None
    licence: str = "unknown"
    source: str = "unknown"
    data: str = "unknown"
    sha256: str = ""
    accuracy: str = "not measured"
    urls: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def class_index(self, wanted: str | int) -> int:
        """Return the index of the class ``wanted``, given by name or by number.

        Case, spaces, underscores and hyphens do not matter in a name; a text that is both, such
        as "3" among the classes "1", "2" and "3", is taken for the name.

        Raises:
            ModelError: The name is unknown or stands for several classes, or the number is out of
                range.
        """
        text = str(wanted).strip()
        if isinstance(wanted, str) and self.classes.count(text) == 1:
            return self.classes.index(text)
        if re.fullmatch(r"-?[0-9]{1,9}", text):
            return self._checked(int(text))

        # Names are compared as people type them: "Stop", "stop", "no_entry" and "no entry" are one.
        plain = [plain_name(c) for c in self.classes]
        hits = [i for i, name in enumerate(plain) if name == plain_name(text)]
        if len(hits) == 1:
            return hits[0]
        if hits:
            raise ModelError(
                f"class {text!r}", f"stands for {hits} in {self.name}", "Give the number"
            )

        near = difflib.get_close_matches(plain_name(text), plain, n=3)
        likely = [repr(self.classes[plain.index(name)]) for name in near]
        hint = f"did you mean {' or '.join(likely)}" if likely else "give its number"
        raise ModelError(f"class {text!r}", f"unknown to {self.name}", hint)

    def class_name(self, index: int) -> str:
        """Return the name of class ``index``, or the number itself where the card has no names."""
        return self.classes[index] if 0 <= index < len(self.classes) else str(index)

    @property
    def resizing(self) -> InputResizing | None:
        """How images are brought to the model's input, by ``input_size`` and the keys ``resize``,
        ``short_side``, ``interpolation``, ``antialias`` and ``pad_color`` of the card; None where
        it states no size."""
        return resizing_from(self.input_size, self.task, self.extra)

    @property
    def recorded_accuracy(self) -> float | None:
        """Clean accuracy of a classifier in [0, 1] as the card records it; None where it does not.

        It is the key ``clean_accuracy`` of the card, a share, or else the percentage that
        ``accuracy`` begins with, such as "98.7%", "clean 98.7 %" or "top-1 89.3 %".

        Example:
            >>> ModelCard("demo", accuracy="clean 91.5% [90.1%, 92.8%], n = 2000").recorded_accuracy
            0.915
        """
        text = str(self.accuracy)
        if self.task != "classify" or text.startswith("not measured"):
            return None

        share = self.extra.get("clean_accuracy")
        if isinstance(share, int | float) and 0 <= share <= 1:
            return float(share)
        found = _ACCURACY.match(text)
        return None if found is None else min(float(found[1]) / 100, 1.0)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON and TOML."""
        return asdict(self)

    def _checked(self, index: int) -> int:
        if index < 0 or (self.classes and index >= len(self.classes)):
            last = f"0..{len(self.classes) - 1}" if self.classes else "0 and up"
            raise ModelError(f"class {index}", f"{self.name} has {last}", "Give one of these")
        return index


class LoadedModel(nn.Module):
    """A network in evaluation mode with frozen parameters, and its card.

    Maps images (b, 3, h, w) in [0, 1] to logits (b, classes), or to Detections.

    Args:
        net: The network, which owns resizing and normalization.
        card: Facts of the model: name, task, classes, input size, terms.
        named_by_class: Whether nobody named it, so that its card has the name of its class.

    Example:
        >>> import physadv
        >>> model = physadv.load_model("signs")
        >>> model.card.task, len(model.card.classes)
        ('classify', 44)
    """

    card: ModelCard

    def __init__(self, net: nn.Module, card: ModelCard, *, named_by_class: bool = False) -> None:
        super().__init__()
        self.net = net
        self.card = card
        self.named_by_class = named_by_class

    @property
    def home(self) -> torch.device:
        """Device of its parameters or buffers; the CPU where it has none."""
        return device_of(self) or torch.device("cpu")

    @property
    def device(self) -> torch.device:
        """Device of the images that it is given: its own, or the CPU where that has no float64."""
        return exact_device(self.home)

    def forward(self, images: Tensor) -> Prediction:
        """Return logits (b, classes) of a classifier, or a detector's Detections in pixels of
        ``images``.

        Raises:
            ModelError: The network fails; the message says on what, and why.
        """
        home = self.home
        apart = not has_float64(home) and images.device.type == "cpu"
        try:
            if apart:
                return moved_prediction(self.net(images.to(home)), images.device)
            return cast(Prediction, self.net(images))
        except Exception as error:  # a user's network may raise anything
            if isinstance(error, PhysadvError) or is_out_of_memory(error):
                raise
            raise failure_of(self.net, images, error) from error


def require_gradient(loss: Tensor, modules: Iterable[nn.Module]) -> None:
    """Raise ModelError where ``loss`` carries no gradient, with the reason that the card of a
    model among ``modules`` gives.

    Args:
        loss: What was computed from the model's output.
        modules: The modules that it is made of.

    Raises:
        ModelError: No gradient passes through the model.
    """
    if loss.requires_grad:
        return
    parts = [part for module in modules for part in module.modules()]
    cards = [part.card for part in parts if isinstance(part, LoadedModel)]
    reason = next((str(c.extra["gradient"]) for c in cards if c.extra.get("gradient")), "")
    raise ModelError(
        "model's output",
        f"it has no gradient ({reason})" if reason else _NO_GRADIENT,
        "Wrap the part that blocks gradients with bpda, or use a black-box attack such as "
        "square_attack",
    )


def card_from(table: Mapping[str, Any], **defaults: Any) -> ModelCard:
    """Build a card from ``table``, as read from TOML, over ``defaults``; keys that no field has
    go to ``extra``.

    Raises:
        ModelError: A value cannot be used.
    """
    values = {**defaults, **table}
    known = {k: values.pop(k) for k in list(values) if k in ModelCard.__dataclass_fields__}
    extra = {**dict(known.pop("extra", {})), **values}

    # A card may hold a whole table of measurements; the line for people is made of it.
    if isinstance(known.get("accuracy"), Mapping):
        extra["accuracy"] = known["accuracy"]
        known["accuracy"] = ", ".join(f"{k} {v}" for k, v in known["accuracy"].items())

    if known.get("task", "classify") not in ("classify", "detect"):
        raise ModelError(
            f"task {known['task']!r}", "is neither classify nor detect", "Correct the card"
        )
    if not isinstance(known.get("classes") or (), list | tuple):
        raise ModelError(
            f"classes {known['classes']!r}", "is not a list of names", 'Give e.g. ["stop", "yield"]'
        )

    known["classes"] = tuple(str(c) for c in known.get("classes") or ())
    known["urls"] = tuple(known.get("urls", ()))
    known["input_size"] = as_size(known.get("input_size"))
    card = ModelCard(**known, extra=extra)
    resizing_from(card.input_size, card.task, extra)  # its values are checked before they are used
    return card


def as_size(value: Any) -> tuple[int, int] | None:
    """Convert ``value`` (None, a side, or [height, width]) to (height, width) in px, or None.

    Raises:
        ModelError: ``value`` is none of these.
    """
    if value is None:
        return None
    sides = (
        [value, value]
        if isinstance(value, int)
        else list(value)
        if isinstance(value, list | tuple)
        else []
    )

    if len(sides) != 2 or not all(
        isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides
    ):
        raise ModelError(
            f"input_size {value!r}", "is not a side or [height, width] in px", "Give e.g. 224"
        )
    return sides[0], sides[1]
