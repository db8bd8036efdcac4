"""Models by name, file or import path, and modules of the user's own.

| name                        | loads                                                            |
|-----------------------------|------------------------------------------------------------------|
| `signs`, `signs-masked`     | the embedded classifiers                                         |
| `fastestdet`, `yolox-nano`  | `weights=FILE`, or fetched by `physadv models fetch NAME`        |
| `efficientnet-lite0`        | with the extra `imagenet`                                        |
| `my_module:make_model`      | any torch.nn.Module that the user's code makes                   |
| `model.pt`, `model.pt2`     | TorchScript and torch.export files                               |
| `model.onnx`                | ONNX: by torch with gradients, or else asked through onnxruntime |
| `model.safetensors`         | the result of `physadv train`; its card names the architecture   |
| `torchvision:resnet50`      | with the extra `torchvision`; detectors too                      |
| `timm:NAME@FILE`            | with the extra `timm`; the file may be --weights                 |
| `hf:FOLDER`                 | with the extra `hf` (transformers), as save_pretrained writes it |
| `ultralytics:yolo11n.pt`    | with the extra `ultralytics` (AGPL-3.0) and the file             |
| `http://127.0.0.1:8080/`    | a black box that answers over HTTP                               |
| `command:./classify {image}`| a black box behind a command                                     |
| `box.toml`                  | either of them with its settings                                 |

Defenses behind a `+` are the business of :func:`physadv.load_model`.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from physadv.core.addresses import public_address
from physadv.core.errors import ModelError
from physadv.core.files import sha256_of
from physadv.core.model_settings import LAYOUTS, OUTPUTS
from physadv.models.adapters import FOREIGN, adapt_detector, load_foreign, weights_named_in
from physadv.models.architectures.cnn import build_from_card
from physadv.models.black_box import names_a_black_box, open_black_box
from physadv.models.cards import LoadedModel, ModelCard, Task, card_from
from physadv.models.classifiers import Layout, Outputs, Preprocessed
from physadv.models.foreign_formats import refuse_foreign_format
from physadv.models.loading import (
    is_import_path,
    kind_of,
    load_exported,
    load_import_path,
    load_state,
    load_torchscript,
    pick_device,
    read_state,
    sidecar,
)
from physadv.models.onnx_loading import open_onnx
from physadv.models.resizing import Fit, Interpolation, PadColor
from physadv.models.weight_folders import sha256_of_weights
from physadv.models.zoo import KNOWN

__all__ = [
    "LoadedModel",
    "ModelCard",
    "as_model",
    "card_of",
    "is_built_in",
    "list_models",
    "load_undefended_model",
    "names_a_model",
    "remedy_for",
    "resolve_classifier",
    "weights_of",
]

_PREPARED_KEYS = ("mean", "std", "outputs", "bgr", "scale", "layout")


def list_models() -> list[ModelCard]:
    """Return the cards of the models known by name.

    Example:
        >>> [card.name for card in list_models()][:1]
        ['signs']
    """
    return [known.card() for known in KNOWN.values()]


def is_built_in(text: str) -> bool:
    """Return whether ``text`` names a built-in model, with or without defenses in front of it."""
    return text in KNOWN or (text.partition("+")[0] in KNOWN and not names_a_model(text))


def card_of(name: str) -> ModelCard:
    """The card of a model known by name. Raises ModelError, with the nearest names, for another."""
    if name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, n=2)
        hint = (
            f"did you mean {' or '.join(near)}"
            if near
            else "name a model file or module:factory for your own"
        )
        raise ModelError(f"model {name!r}", f"is none of {', '.join(KNOWN)}", hint)
    return KNOWN[name].card()


def weights_of(name: str) -> Path | None:
    """The file with the weights of a model known by name, None where it is not here yet."""
    card_of(name)
    return KNOWN[name].own_weights()


def remedy_for(name: str) -> str:
    """How the weights of a model known by name get here."""
    card_of(name)
    return KNOWN[name].remedy


def load_undefended_model(
    name_or_path: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a model by name, by file, or by ``module:factory``: eval mode, frozen parameters, on
    ``device``.

    ``weights`` are read as a state dict into a named model or into what ``module:factory`` makes.
    A model file may have a sidecar ``<file>.toml`` with classes, mean, std, input_size, task,
    outputs, channels, bgr, scale, layout, resize, short_side, interpolation, antialias, pad_color,
    score_threshold, nms_iou, multi_label and max_boxes as :func:`as_model` takes them.
    ``settings`` are the same keys, and overrule the sidecar.
    Raises ModelError for a name that is unknown, a file that is absent, damaged or a
    pickle of more than weights, and weights that do not fit.
    """
    file = None if weights is None else Path(weights)
    with torch.random.fork_rng(
        devices=[]
    ):  # building a net draws its first weights from the caller's generator
        model = _load(str(name_or_path), file, dict(settings or {}))
    return model.eval().requires_grad_(False).to(pick_device(device))


def names_a_model(text: str) -> bool:
    """Whether ``text`` is a known name, a file, or an import path, before any defense is read from
    it."""
    foreign = ":" in text and text.partition(":")[0] in FOREIGN
    if names_a_black_box(text) or text in KNOWN or foreign:
        return True
    return Path(text).is_file() or is_import_path(text)


def resolve_classifier(
    model: Callable[[Tensor], Tensor] | str | Path,
) -> Callable[[Tensor], Tensor]:
    """Return the classifier that ``model`` is or names; a module is handed back as it is.

    Raises:
        ModelError: no such model, a defended model's name, a detector, or nothing callable.

    Example:
        >>> net = torch.nn.Flatten()
        >>> resolve_classifier(net) is net, resolve_classifier("signs").card.task
        (True, 'classify')
    """
    if isinstance(model, str | Path):
        text = str(model)
        if "+" in text and not names_a_model(text):
            raise ModelError(
                f"model {text!r}",
                "a defended model is not loaded by name here",
                f"pass physadv.load_model({text!r})",
            )
        model = load_undefended_model(model)
    if not callable(model):
        raise ModelError(
            f"model of type {type(model).__name__}",
            "a torch.nn.Module, a function or a name is needed",
            "see physadv.load_model",
        )
    if isinstance(model, LoadedModel) and model.card.task != "classify":
        raise ModelError(
            f"model {model.card.name!r}",
            "a classifier is needed, and this is a detector",
            "attack detectors with make_patch",
        )
    return model


def _load(text: str, weights: Path | None, settings: dict[str, Any]) -> LoadedModel:
    if text in KNOWN:
        _refuse_settings(settings, text, "A model known by name has its own")
        return LoadedModel(*KNOWN[text].load(weights))
    if names_a_black_box(text):
        return _load_black_box(text, weights, settings)
    if text.partition(":")[0] in FOREIGN and ":" in text:
        net, table = load_foreign(text, weights)
        table |= _stated_by(settings, {}, str(table.get("preprocessing", "")))
        weights = weights or weights_named_in(text)
        sha256 = sha256_of_weights(weights) if weights else ""
        return _wrap(net, {**table, **settings}, text, source=text, sha256=sha256)
    if Path(text).is_file():
        return _load_file(Path(text), weights, settings)
    if is_import_path(text):
        return _load_import(text, weights, settings)
    if Path(text).is_dir():
        refuse_foreign_format(Path(text))
    if Path(text).suffix or len(Path(text).parts) > 1:
        raise ModelError(
            f"{text}", "no such file", "check the path; `physadv models list` shows the names"
        )
    return LoadedModel(nn.Identity(), card_of(text))  # card_of raises: the name is not known


def as_model(
    module: nn.Module,
    *,
    name: str = "",
    classes: Sequence[str] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    input_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    task: Task = "classify",
    outputs: Outputs = "logits",
    resize: Fit | None = None,
    short_side: int | None = None,
    interpolation: Interpolation = "bilinear",
    antialias: bool = True,
    pad_color: PadColor | None = None,
    score_threshold: float | None = None,
    nms_iou: float | None = None,
    multi_label: bool | None = None,
    max_boxes: int | None = None,
    bgr: bool = False,
    scale: float | None = None,
    layout: Layout = "nchw",
) -> LoadedModel:
    """Wrap a module of your own as a model. It is copied: your modes, flags and gradients stay.

    The module receives ``(images - mean) / std``, brought to ``input_size`` where that is given:
    images of that size are taken as they are, and others keep their aspect unless ``resize`` says
    "stretch".
    Detectors of torchvision and ultralytics are recognized and opened.

    Args:
        module: A classifier, or a detector that returns Detections or a pair (boxes (b, n, 4) in px
            of its input, scores (b, n, classes)) before suppression.
        name: Name on the card; the class's name where empty.
        classes: Names of the classes, in order.
        mean: Mean that is subtracted, one number or one a channel.
        std: Standard deviation that is divided by, one number or one a channel.
        input_size: Side, or height and width, in px of the module's input; None for any size.
        channels: Channels of the images that it takes: 3, or 1 for gray images, which images in
            color become; None stands for 3.
        task: "classify" or "detect".
        outputs: "logits" or "probabilities" of a classifier, one value a class; "logit" or
            "probability" where it returns one value, that of the second of two classes.
        resize: "crop" of the center, "letterbox", "letterbox-corner" with the image in the upper
            left, or "stretch"; None for a crop before classifiers and a letterbox before detectors.
        short_side: Length in px of an image's short side before a crop to a square; None for
            256/224 of the input's side. With "stretch", both sides before a crop; None for none.
        interpolation: "bilinear", "bicubic", "nearest" or "area".
        antialias: Whether images are smoothed where they shrink.
        pad_color: Color of a letterbox's bars, one number or three from 0 to 255; None for 114.
        score_threshold: Score in (0, 1) from which a detector's box counts; None for 0.25.
        nms_iou: Overlap in (0, 1] over which the lesser of two boxes of a class is dropped; 1 drops
            none, None stands for 0.45.
        multi_label: Whether a candidate counts for each class that reaches the threshold; None for
            its best class alone.
        max_boxes: Largest number of boxes an image; None for 300.
        bgr: Whether the module takes blue, green, red.
        scale: Factor on images in [0, 1] before mean and std, such as 255; None for 1.
        layout: "nchw", or "nhwc" for a module that takes channels last.

    Returns:
        The model with its card.

    Raises:
        ModelError: The module cannot be copied, or a setting cannot be used.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
        >>> model = as_model(net, classes=["cat", "dog"], mean=0.5, std=0.25)
        >>> model(torch.rand(1, 3, 4, 4)).shape, model.card.classes
        (torch.Size([1, 2]), ('cat', 'dog'))
    """
    if isinstance(module, LoadedModel):
        return module
    _check_channels(channels, mean, std)
    table = {
        "classes": classes,
        "input_size": input_size,
        "channels": channels,
        "task": task,
        "mean": mean,
        "std": std,
        "outputs": outputs,
        "resize": resize,
        "short_side": short_side,
        "interpolation": None if interpolation == "bilinear" else interpolation,
        "antialias": None if antialias is True else antialias,
        "pad_color": pad_color,
        "score_threshold": score_threshold,
        "nms_iou": nms_iou,
        "multi_label": multi_label,
        "max_boxes": max_boxes,
        "bgr": bgr or None,
        "scale": scale,
        "layout": None if layout == "nchw" else layout,
    }
    model = _wrap(
        _copied(module),
        {k: v for k, v in table.items() if v is not None},
        name or type(module).__name__,
    )
    model.named_by_class = not name
    return model


def _check_channels(
    channels: int | None, mean: float | Sequence[float] | None, std: float | Sequence[float] | None
) -> None:
    """Raise ModelError for a number of channels that images do not have, or a normalization of
    another number."""
    if channels not in (None, 1, 3):
        raise ModelError(f"channels {channels!r}", "images have 1 or 3", "Give 1 for gray images")
    for name, value in (("mean", mean), ("std", std)):
        if channels == 1 and torch.as_tensor(0.0 if value is None else value).numel() > 1:
            raise ModelError(f"{name} {value!r}", "gray images have one channel", "Give one number")


def _wrap(net: nn.Module, table: dict[str, Any], name: str, **defaults: Any) -> LoadedModel:
    """A net and its table of settings -> a frozen model; the settings of preprocessing stay on its
    card."""
    adapted = adapt_detector(net)
    if adapted is not None:
        net, table = adapted[0], {**adapted[1], **table, "task": adapted[1]["task"]}
    card = card_from(table, name=name, **defaults)
    settings = {k: table[k] for k in _PREPARED_KEYS if k in table}
    _check_prepared(settings)
    classes = len(card.classes) or None
    gray = card.extra.get("channels") == 1
    facts: dict[str, Any] = {"task": card.task, "resizing": card.resizing, "classes": classes}
    net = Preprocessed(net, gray=gray, **facts, **settings)
    for parameter in net.parameters():
        parameter.grad = None
    return LoadedModel(net, card).eval().requires_grad_(False)


def _check_prepared(settings: Mapping[str, Any]) -> None:
    """Raise ModelError for a setting of preprocessing that is none of those that are known."""
    for key, known in (("outputs", OUTPUTS), ("layout", LAYOUTS), ("bgr", (True, False))):
        if key in settings and settings[key] not in known:
            allowed = ", ".join(map(str, known))
            raise ModelError(f"{key} {settings[key]!r}", f"One of {allowed}", "Correct it")
    scale = settings.get("scale", 1)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < 1e9:
        raise ModelError(f"scale {scale!r}", "A positive number is needed", "Use 255, or leave it")


def _copied(module: nn.Module) -> nn.Module:
    try:
        with torch.no_grad():  # a copy of TorchScript would hang on the original's graph
            return copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        raise ModelError(
            type(module).__name__,
            f"cannot be copied ({error})",
            "give a function that makes it, as module:factory",
        ) from error


def _refuse_settings(settings: Mapping[str, Any], name: str, why: str) -> None:
    """Raise ModelError where there are ``settings`` for a model that takes none."""
    if settings:
        given = ", ".join(settings)
        raise ModelError(f"settings of {name}: {given}", why, "Leave them out")


def _load_black_box(text: str, weights: Path | None, settings: dict[str, Any]) -> LoadedModel:
    """The model behind an address or a command, or behind a file with its settings."""
    name = public_address(text)
    if weights is not None:
        raise ModelError(f"weights {weights}", f"{name} is only asked", "leave --weights out")
    of_numbers: dict[str, Any] = {
        k: settings[k] for k in ("mean", "std", "scale", "layout") if k in settings
    }
    _refuse_settings(of_numbers, name, "It is sent pictures, which it prepares itself")
    of_box: dict[str, Any] = {
        k: settings[k]
        for k in ("task", "classes", "outputs", "input_size", "score_threshold")
        if k in settings
    }
    if isinstance(of_box.get("input_size"), int):
        of_box["input_size"] = (of_box["input_size"],) * 2
    box, table = open_black_box(text, of_box)
    return _wrap(box, {**settings, **table}, name, source=name)


def _load_file(path: Path, weights: Path | None, settings: dict[str, Any]) -> LoadedModel:
    if path.suffix == ".toml":
        return _load_black_box(str(path), weights, settings)
    if weights is not None:
        raise ModelError(
            f"weights {weights}", f"{path.name} carries its own", "leave --weights out"
        )
    refuse_foreign_format(path)
    kind, table = kind_of(path), sidecar(path)
    if kind == "torchscript":
        net = load_torchscript(path)
    elif kind == "exported":
        net, size = load_exported(path)
        table = {"input_size": size, **table} if size else table
    elif kind == "onnx":
        net, own = open_onnx(path)
        table = {**own, **table}
    elif kind == "safetensors" and "architecture" in table:
        net = build_from_card(table, path.name)
        load_state(net, read_state(path), name=path.name)
        # Trained before the card named it: on images that were stretched.
        table = {"resize": "stretch", **table}
    elif kind in ("weights", "safetensors"):
        read_state(path)  # says so itself where the file is an unsafe pickle
        raise ModelError(
            f"{path}",
            "holds weights without a model",
            "name module:factory and give it with --weights",
        )
    else:
        raise ModelError(
            f"{path}",
            "is no model file",
            "TorchScript, torch.export, ONNX or module:factory are read",
        )
    stated = _stated_by(settings, sidecar(path), str(table.get("preprocessing", "")), path.name)
    table = {**table, **settings, **stated}
    return _wrap(net, table, path.stem, sha256=sha256_of(path), source=str(path))


def _stated_by(
    settings: Mapping[str, Any], beside: Mapping[str, Any], own: str, file: str = ""
) -> dict[str, str]:
    """Who states how images are read, as an entry of the card: options, the file beside the model,
    or what it was loaded by."""
    keys = {*_PREPARED_KEYS, "input_size", "resize"}
    parts = ["options"] if keys & settings.keys() else []
    parts += [f"{file}.toml"] if keys & beside.keys() else []
    parts += [own] if own else []
    return {"preprocessing": ", ".join(parts)} if parts else {}


def _load_import(text: str, weights: Path | None, settings: dict[str, Any]) -> LoadedModel:
    found, fresh = load_import_path(text)
    if isinstance(found, LoadedModel):
        _refuse_settings(settings, text, "It is made by as_model, with settings of its own")
        model = found if fresh else copy.deepcopy(found)
        net = model.net.net if isinstance(model.net, Preprocessed) else model.net
        if model.named_by_class:  # says little in a report
            model.card = replace(model.card, name=text, source=model.card.source or text)
        if weights is not None:
            load_state(net, read_state(weights), name=text)
            model.card = replace(model.card, sha256=sha256_of_weights(weights))
        return model
    if not isinstance(found, nn.Module):
        raise ModelError(text, f"made a {type(found).__name__}", "a torch.nn.Module is needed")
    net = found if fresh else _copied(found)
    if weights is not None:
        load_state(net, read_state(weights), name=text)
    table = {**settings, **_stated_by(settings, {}, "")}
    sha256 = sha256_of_weights(weights) if weights else ""
    return _wrap(net, table, text, source=text, sha256=sha256)
