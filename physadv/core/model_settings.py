"""Settings with which a model of the user's own is read: classes, normalization, size, channels.

They stand in ``<file>.toml`` beside a model file, or are given as options, which overrule the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from physadv.core.config import Config, ConfigField
from physadv.core.errors import OptionError
from physadv.core.parsing import parse_number
from physadv.core.text import read_text

OUTPUTS = ("logits", "probabilities", "logit", "probability")
LAYOUTS = ("nchw", "nhwc")
_SIZE = re.compile(r"(\d{1,5})(?:[xX×](\d{1,5}))?")


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Config):
    """Base of configurations with a model of the user's own, which these settings describe.

    A model known by name has its own; they hold for the first model where several are named.

    Raises:
        OptionError: A setting cannot be read.

    Example:
        >>> ModelSettings(mean="0.5", input_size="480x640", bgr=True).model_settings
        {'mean': [0.5], 'input_size': [480, 640], 'bgr': True}
    """

    classes: Annotated[
        str | None,
        ConfigField(
            "Names of the model's classes, separated by commas, or a file with one a line.",
            "Model",
            metavar="NAMES|FILE",
        ),
    ] = None
    mean: Annotated[
        str | None,
        ConfigField(
            "Mean that the model's input is reduced by: one number, or one a channel.",
            "Model",
            metavar="NUMBERS",
        ),
    ] = None
    std: Annotated[
        str | None,
        ConfigField(
            "Standard deviation that it is divided by: one number, or one a channel.",
            "Model",
            metavar="NUMBERS",
        ),
    ] = None
    scale: Annotated[
        float | None,
        ConfigField(
            "Factor on images in [0, 1] before mean and std, such as 255.", "Model", least=1e-6
        ),
    ] = None
    input_size: Annotated[
        str | None,
        ConfigField(
            "Size of the model's input in px: a side, or HEIGHTxWIDTH.", "Model", metavar="PX"
        ),
    ] = None
    letterbox: Annotated[
        bool, ConfigField("Fit images into that size with bars instead of a crop.", "Model")
    ] = False
    bgr: Annotated[bool, ConfigField("The model takes blue, green, red.", "Model")] = False
    layout: Annotated[
        str | None,
        ConfigField("Order of the model's input: nchw or nhwc.", "Model", completions=LAYOUTS),
    ] = None
    outputs: Annotated[
        str | None,
        ConfigField(
            "What the model returns: logits or probabilities, a value a class; logit or "
            "probability, one value for the second of two classes.",
            "Model",
            completions=OUTPUTS,
        ),
    ] = None

    def __post_init__(self) -> None:
        """Check that the settings can be read, beside types and limits."""
        super().__post_init__()
        _assert_one_of("--layout", self.layout, LAYOUTS)
        _assert_one_of("--outputs", self.outputs, OUTPUTS)
        _numbers("--mean", self.mean)
        _numbers("--std", self.std)
        _size("--input-size", self.input_size)

    @property
    def model_settings(self) -> dict[str, Any]:
        """Settings that are given, under the keys of ``<file>.toml``; a file of classes is read.

        Raises:
            OptionError: The file of classes cannot be read.
        """
        values: dict[str, Any] = {
            "classes": _names(self.classes),
            "mean": _numbers("--mean", self.mean),
            "std": _numbers("--std", self.std),
            "scale": self.scale,
            "input_size": _size("--input-size", self.input_size),
            "resize": "letterbox" if self.letterbox else None,
            "bgr": self.bgr or None,
            "layout": self.layout,
            "outputs": self.outputs,
        }
        return {key: value for key, value in values.items() if value is not None}


def _assert_one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise OptionError(f"{option} {value}", f"One of {', '.join(allowed)}", "Correct it")


def _numbers(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) not in (1, 3):
        raise OptionError(f"{option} {text}", "One number or three are needed", "Use 0.5,0.5,0.5")
    remedy = "Use numbers such as 0.485,0.456,0.406"
    return [parse_number(p, "a number", option, error=OptionError, remedy=remedy) for p in parts]


def _size(option: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    sides = [int(side or found[1]) for side in found.groups()] if found else []
    if not sides or min(sides) < 1:
        raise OptionError(f"{option} {text}", "A side or HEIGHTxWIDTH in px is needed", "Use 224")
    return sides


def _names(text: str | None) -> list[str] | None:
    """Names in ``text``, or in the file that it names."""
    if text is None:
        return None
    if "," not in text and Path(text).is_file():
        lines = read_text(Path(text), error=OptionError).splitlines()
    else:
        lines = text.split(",")
    names = [name.strip() for name in lines if name.strip()]
    if not names:
        raise OptionError(f"--classes {text}", "It holds no name", "Give the names in order")
    return names
