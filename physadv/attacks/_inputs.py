"""The door of every attack: models by name, arrays, any spelling of norms, and the gate behind."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import torch
from torch import Tensor

from physadv.attacks._classifier_step import frozen_eval
from physadv.attacks._fused_model import FusedModel
from physadv.attacks._gate import Gate, Limits, gate
from physadv.attacks._guarded_model import GuardedModel, guarded
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import ImageError, OptionError
from physadv.core.findings import warn_of
from physadv.core.number_checks import check_number
from physadv.core.tensors import (
    ImagesLike,
    LabelsLike,
    as_class_numbers,
    as_float_images,
    device_of,
    has_float64,
)
from physadv.eot.sampling import moved_to
from physadv.models.load import resolve_classifier
from physadv.models.own_device import OnOwnDevice
from physadv.threat.criteria import Misclassification, success_criterion
from physadv.threat.norms import Norm
from physadv.threat.parsing import check_radius, parse_eps, parse_norm

_P = ParamSpec("_P")
_Result = TypeVar("_Result", bound=AttackResult, covariant=True)
_Classifier = Callable[[Tensor], Tensor]
ClassifierLike = _Classifier | str | Path
"""A classifier, or what :func:`physadv.load_model` loads one by."""

# Lowest and highest value of options that are numbers, and whether they are whole.
_RANGES: dict[str, tuple[float, float, bool]] = {
    **dict.fromkeys(("steps", "restarts", "queries", "probes", "searches"), (1, math.inf, True)),
    **dict.fromkeys(("epochs", "batch", "classes", "refine"), (1, math.inf, True)),
    **dict.fromkeys(("step_size", "rate", "weight", "clip"), (0, math.inf, False)),
    **dict.fromkeys(("decay", "confidence", "overshoot"), (0, math.inf, False)),
    **dict.fromkeys(("backward", "pull", "shrink"), (0, 1, False)),
    "share": (0, 1, False),
    "levels": (1, math.inf, True),
    "pixels": (1, math.inf, True),
    "ahead": (0, math.inf, True),
    "seed": (-math.inf, math.inf, True),
}
_ABOVE_ZERO = ("step_size", "rate", "weight", "clip", "share")
"""Options for which 0 itself is out of range."""
_NEEDED = ("eps", "pixels")
"""Options for which some attacks have no default."""
_SPARSE = ("fgsm", "pgd")
"""Attacks that take l_0 beside the other norms."""
_OWN_NORMS: dict[str, Norm] = {
    **dict.fromkeys(("cw_l2", "ddn", "superdeepfool", "surfree"), "l2"),
    **dict.fromkeys(("sigma_zero", "sparse_search", "saliency_attack", "pointwise"), "l0"),
}
"""Norms of the attacks without an option for it, l_inf for all others."""


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

    Arrays go to the device of the model, labels and targets to that of the images. Unless the model
    is guarded already, the attack runs behind the gate (:mod:`physadv.attacks._gate`). With an eps
    of 0, which leaves nothing to search for, it takes as few steps as it can.
    """

    @functools.wraps(attack)
    def opened(
        model: ClassifierLike,
        images: ImagesLike,
        labels: LabelsLike,
        *args: _P.args,
        **options: _P.kwargs,
    ) -> _Result:
        classifier = resolve_classifier(model)
        own = device_of(classifier)
        if own is not None and not has_float64(own) and not isinstance(classifier, OnOwnDevice):
            return _from_the_cpu(opened, classifier, own, images, labels, *args, **options)
        home = None if isinstance(images, Tensor) else own
        pixels = as_float_images(images, home)
        truth = as_class_numbers(labels, pixels.device)
        settings = _parsed(attack, options, pixels)
        limits = _limits(attack, settings)
        channels, size = pixels.shape[1] if pixels.ndim > 2 else 1, pixels.shape[1:].numel()
        if limits.eps is not None:
            check_radius(limits.eps, limits.norm, size, channels)
        if limits.pixels is not None:
            check_radius(limits.pixels, "l0", size, channels)

        if limits.eps == 0:
            settings.update(_fewest_steps(attack))
        if isinstance(classifier, GuardedModel | FusedModel):
            return attack(classifier, pixels, truth, *args, **settings)

        targets = settings.get("targets")
        also = (settings.get("surrogates"), settings.get("speed"))
        with gate(classifier, pixels, truth, targets, also=also) as batch:
            _open_surrogates(batch, settings.get("surrogates") or ())
            found = attack(batch.model, batch.images, batch.labels, *args, **settings)
            any_class = targets is None or settings.get("any_class", False)
            criterion = Misclassification(truth) if any_class else success_criterion(truth, targets)
            result = batch.judged(found, criterion, limits)
        warn_of(result.findings, stacklevel=2)
        return result

    return cast("OpenAttack[_P, _Result]", opened)


def _from_the_cpu(
    attack: Callable[..., _Result],
    classifier: _Classifier,
    device: torch.device,
    images: ImagesLike,
    labels: LabelsLike,
    *args: Any,
    **options: Any,
) -> _Result:
    """Attack a model on a ``device`` without float64: it alone computes there, distances and
    projections are the CPU's. The result is on the device of the images."""
    home = images.device if isinstance(images, Tensor) else device
    cpu = torch.device("cpu")
    given = {key: moved_to(value, cpu) for key, value in options.items()}
    if given.get("surrogates"):
        nets = [resolve_classifier(net) for net in given["surrogates"]]
        given["surrogates"] = tuple(OnOwnDevice(net, device) for net in nets)
    result = attack(
        OnOwnDevice(classifier, device),
        as_float_images(images, cpu),
        as_class_numbers(labels, cpu),
        *args,
        **given,
    )
    parts = {f.name: moved_to(getattr(result, f.name), home) for f in fields(result)}
    return replace(result, **parts)


def _parsed(attack: Callable[..., Any], options: Mapping[str, Any], images: Tensor) -> Any:
    """Return the options of an attack with norms, radii, targets and models as it takes them."""
    settings = dict(options)
    if "norm" in settings:
        sparse = getattr(attack, "__name__", "") in _SPARSE
        settings["norm"] = parse_norm(settings["norm"], sparse=sparse)
    for name in _NEEDED:
        if settings.get(name, _NEEDED) is None and name in _without_default(attack):
            raise OptionError(f"{name} None", "it has no default", "State one")
    if settings.get("eps") is not None:
        settings["eps"] = parse_eps(settings["eps"], _norm_of(attack, settings))
    if settings.get("targets") is not None:
        settings["targets"] = as_class_numbers(settings["targets"], images.device)
    if settings.get("surrogates"):
        settings["surrogates"] = tuple(
            guarded(resolve_classifier(net)) for net in settings["surrogates"]
        )
    if settings.get("index") is not None:
        index = settings["index"] = as_class_numbers(settings["index"], images.device)
        shape = tuple(index.shape)
        if shape != (len(images),):
            raise OptionError(f"index of shape {shape}", f"({len(images)},)", "Give one an image")
    if settings.get("starts") is not None:
        settings["starts"] = _checked_starts(settings["starts"], images)
    if settings.get("keep", "loss") not in ("success", "loss"):
        raise OptionError(f"keep {settings['keep']!r}", "success or loss", "Choose one of these")
    for name, (low, high, whole) in _RANGES.items():
        if settings.get(name) is not None:
            above = name in _ABOVE_ZERO
            check_number(name, settings[name], low, high, whole=whole, above=above)
    return settings


def _without_default(attack: Callable[..., Any]) -> list[str]:
    """Return the options that an attack must be given."""
    known = inspect.signature(attack).parameters.values()
    return [parameter.name for parameter in known if parameter.default is parameter.empty]


def _checked_starts(starts: Any, images: Tensor) -> Tensor:
    """Return ``starts`` as a tensor (b, c, h, w) beside the images. Raises OptionError for another
    shape, and ImageError outside [0, 1]."""
    points = as_float_images(starts, images.device)
    if points.shape != images.shape:
        raise OptionError(
            f"starts of shape {tuple(points.shape)}", f"{tuple(images.shape)}", "Give one an image"
        )
    low, high = (float(x) for x in points.aminmax()) if points.numel() else (0.0, 1.0)
    if not (low >= 0 and high <= 1):  # false for NaN as well
        raise ImageError(f"starts in [{low:.3g}, {high:.3g}]", "[0, 1]", "Start from images")
    return points.detach()


def _open_surrogates(batch: Gate, surrogates: Sequence[GuardedModel]) -> None:
    """Run every surrogate once. Raises OptionError for other classes than the model's."""
    for surrogate in surrogates if len(batch.images) else ():
        with frozen_eval(surrogate), torch.no_grad():
            surrogate.open(batch.images, batch.labels, None)
        if surrogate.classes != batch.model.classes:
            raise OptionError(
                f"a surrogate of {surrogate.classes} classes",
                f"the model has {batch.model.classes}",
                "Choose surrogates of the model's own classes",
            )


def _norm_of(attack: Callable[..., Any], options: Mapping[str, Any]) -> Norm:
    """Return the norm that an attack uses with these options."""
    if "norm" in options:
        return parse_norm(options["norm"], sparse=True)
    parameter = inspect.signature(attack).parameters.get("norm")
    if parameter is None:
        return _OWN_NORMS.get(getattr(attack, "__name__", ""), "linf")
    return parse_norm(parameter.default)


def _limits(attack: Callable[..., Any], options: Mapping[str, Any]) -> Limits:
    """Return what an attack promises of its images; that of a transfer attack is bound in it."""
    inner = options.get("attack")
    if isinstance(inner, functools.partial):
        return _limits(inner.func, inner.keywords)
    eps, norm = options.get("eps"), _norm_of(attack, options)
    radius = None if eps is None else parse_eps(eps, norm)
    return Limits(norm, radius, options.get("pixels"))


def _fewest_steps(attack: Callable[..., Any]) -> dict[str, int]:
    """Return the options of the shortest run, which suffices where no image can be moved."""
    known = inspect.signature(attack).parameters
    fewest = dict.fromkeys(("steps", "restarts", "queries", "probes", "searches", "epochs"), 1)
    if "refine" in known:
        fewest |= {"refine": 2, "steps": 3}
    return {name: number for name, number in fewest.items() if name in known}
