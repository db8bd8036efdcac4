"""What a model says of itself: its card; and the wrapper that carries it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.types import Prediction

Task = Literal["classify", "detect"]


@dataclass(frozen=True)
class ModelCard:
    """Name, task and provenance of a victim.

    ``classes`` are names by index, empty where nobody told them. ``input_size`` is (height, width)
    in px of what the net sees after its own resizing, None where it takes any size. ``sha256`` is
    of the weights' file; ``accuracy`` says what was measured, on what and by whom. ``urls`` are
    where ``physadv models fetch`` may look. ``extra`` holds what else the card knows
    (``score_threshold`` of a detector, full tables of a measurement).
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
        """Index of a class given by name (case and "_" do not matter) or number.

        Raises ModelError for a name that is unknown or stands for several classes, and for a
        number out of range.
        """
        text = str(wanted).strip()
        if text.lstrip("-").isdigit():
            return self._checked(int(text))
        plain = [_plain(c) for c in self.classes]
        hits = [i for i, name in enumerate(plain) if name == _plain(text)]
        if len(hits) == 1:
            return hits[0]
        if hits:
            raise ModelError(
                f"class {text!r}", f"stands for {hits} in {self.name}", "give the number"
            )
        near = difflib.get_close_matches(_plain(text), plain, n=3)
        hint = f"did you mean {' or '.join(repr(n) for n in near)}" if near else "give its number"
        raise ModelError(f"class {text!r}", f"unknown to {self.name}", hint)

    def class_name(self, index: int) -> str:
        """Name of a class, or its number where the card knows no names."""
        return self.classes[index] if 0 <= index < len(self.classes) else str(index)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and TOML."""
        return asdict(self)

    def _checked(self, index: int) -> int:
        if index < 0 or (self.classes and index >= len(self.classes)):
            last = f"0..{len(self.classes) - 1}" if self.classes else "0 and up"
            raise ModelError(f"class {index}", f"{self.name} has {last}", "give one of these")
        return index


class LoadedModel(nn.Module):
    """A net in eval mode with frozen parameters, and its card: images (b, 3, h, w) in [0, 1] ->
    Prediction."""

    card: ModelCard

    def __init__(self, net: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.net = net
        self.card = card

    def forward(self, images: Tensor) -> Prediction:
        """Logits (b, classes) from a classifier, Detections in pixels of ``images`` from a
        detector."""
        return cast(Prediction, self.net(images))


def card_from(table: Mapping[str, Any], **defaults: Any) -> ModelCard:
    """A card from a TOML table; keys the card lacks go to ``extra``. Raises ModelError for an
    unusable value."""
    values = {**defaults, **table}
    known = {k: values.pop(k) for k in list(values) if k in ModelCard.__dataclass_fields__}
    extra = {**dict(known.pop("extra", {})), **values}
    if isinstance(known.get("accuracy"), Mapping):
        extra["accuracy"] = known["accuracy"]
        known["accuracy"] = ", ".join(f"{k} {v}" for k, v in known["accuracy"].items())
    if known.get("task", "classify") not in ("classify", "detect"):
        raise ModelError(
            f"task {known['task']!r}", "is neither classify nor detect", "correct the card"
        )
    if not isinstance(known.get("classes") or (), list | tuple):
        raise ModelError(
            f"classes {known['classes']!r}", "is not a list of names", 'give e.g. ["stop", "yield"]'
        )
    known["classes"] = tuple(str(c) for c in known.get("classes") or ())
    known["urls"] = tuple(known.get("urls", ()))
    known["input_size"] = as_size(known.get("input_size"))
    return ModelCard(**known, extra=extra)


def as_size(value: Any) -> tuple[int, int] | None:
    """None, a side, or [height, width] -> (height, width) in px. Raises ModelError for anything
    else."""
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
            f"input_size {value!r}", "is not a side or [height, width] in px", "give e.g. 224"
        )
    return sides[0], sides[1]


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
