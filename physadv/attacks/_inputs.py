"""A door for every attack: models by name, arrays in place of tensors, norms in any spelling."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from torch import Tensor

from physadv.core.tensors import ImagesLike, LabelsLike, as_class_numbers, as_float_images
from physadv.models.load import resolve_classifier
from physadv.threat.parsing import parse_eps, parse_norm

_P = ParamSpec("_P")
_Result = TypeVar("_Result", covariant=True)
_Classifier = Callable[[Tensor], Tensor]
ClassifierLike = _Classifier | str | Path
"""A classifier, or what :func:`physadv.load_model` loads one by."""


class OpenAttack(Protocol[_P, _Result]):
    """An attack that takes whatever names a model and holds images and labels."""

    def __call__(
        self,
        model: ClassifierLike,
        images: ImagesLike,
        labels: LabelsLike,
        *args: _P.args,
        **options: _P.kwargs,
    ) -> _Result:
        """Attack ``images`` of classes ``labels`` on ``model``, with the attack's own options."""
        ...


def open_inputs(
    attack: Callable[Concatenate[_Classifier, Tensor, Tensor, _P], _Result],
) -> OpenAttack[_P, _Result]:
    """Let ``attack`` take a model's name, arrays, lists of labels, norms and radii in any spelling.

    Arrays go to the device of the model, labels and targets to that of the images.
    """

    parameter = inspect.signature(attack).parameters.get("norm")
    default_norm = "linf" if parameter is None else parameter.default

    @functools.wraps(attack)
    def opened(
        model: ClassifierLike,
        images: ImagesLike,
        labels: LabelsLike,
        *args: _P.args,
        **options: _P.kwargs,
    ) -> _Result:
        classifier = resolve_classifier(model)
        home = None if isinstance(images, Tensor) else _device_of(classifier)
        pixels = as_float_images(images, home)
        truth = as_class_numbers(labels, pixels.device)
        changes: dict[str, Any] = {}
        if "norm" in options:
            changes["norm"] = parse_norm(options["norm"])  # type: ignore[arg-type]
        if isinstance(options.get("eps"), str):
            changes["eps"] = parse_eps(str(options["eps"]), changes.get("norm", default_norm))
        if options.get("targets") is not None:
            changes["targets"] = as_class_numbers(options["targets"], pixels.device)  # type: ignore[arg-type]
        if options.get("surrogates"):
            named: Any = options["surrogates"]
            changes["surrogates"] = tuple(resolve_classifier(net) for net in named)
        options.update(changes)
        return attack(classifier, pixels, truth, *args, **options)

    return opened


def _device_of(model: Any) -> Any:
    """The device of a module's first parameter or buffer; None where there is none."""
    owners = (getattr(model, name, tuple) for name in ("parameters", "buffers"))
    return next((tensor.device for owner in owners for tensor in owner()), None)
