"""Models of timm and of Hugging Face's transformers from local files, with the preprocessing and
class names of their own configuration.

Neither library is imported unless the user names one of its models, and nothing is downloaded. No
code of a folder runs: weights are tensors, and configurations are JSON.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from physadv.core.errors import ModelError
from physadv.core.parsing import parse_json
from physadv.core.reading import foreign_errors
from physadv.core.text import read_text
from physadv.datasets.known_sets import known_set
from physadv.models.edge_resizing import ResizedByEdges
from physadv.models.loading import load_state, read_state
from physadv.models.weight_folders import WEIGHTS, file_in_folder, weight_files

_IMAGENET = 1000
_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of interpolations, as Hugging Face stores them."""
_COUNTERS = ("num_batches_tracked", "position_ids")
"""Ends of the names of entries that older files lack, and that no result depends on."""
_BY_SHORT_EDGE = (
    *("Bit", "CLIP", "ChineseCLIP", "ConvNext", "Levit", "MobileNet", "MobileViT"),
    *("PoolFormer", "TextNet"),
)
"""Kinds of image processors for which one number is the length of the short side."""
_WHOLE_RESIZE = 384
"""Side in px from which ConvNeXT's preprocessing stretches instead of cropping."""


def load_timm(name: str, weights: Path | None) -> tuple[nn.Module, dict[str, Any]]:
    """Load a model of timm.

    Args:
        name: Its name, such as "resnet50.a1_in1k", or a folder as timm saves it, with config.json.
        weights: File with a state dict; None for that of the folder, or that in the local cache of
            Hugging Face.

    Returns:
        The network, and entries for its card.

    Raises:
        ModelError: timm or the weights are not here, or they do not fit.
    """
    try:
        import timm
        from timm.data import resolve_data_config
    except (ImportError, RuntimeError) as error:
        raise _missing("timm", name, error) from error
    folder = Path(name)
    config: dict[str, Any] = {}
    if (folder / "config.json").is_file():
        config = _read_json(folder / "config.json")
        weights = weights or file_in_folder(folder)
    architecture = str(config.get("architecture", name))
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=2)
        hint = f"did you mean {' or '.join(near)}" if near else "timm.list_models() shows its names"
        raise ModelError(f"timm:{name}", "no such model", hint)

    file = weights or _cached_timm(timm, architecture)
    state = read_state(file)
    stated = _mapping(config.get("pretrained_cfg"))
    with foreign_errors(f"timm:{name}", ModelError, "cannot be made", "Check its name"):
        plain = timm.create_model(architecture, pretrained=False)
        head = plain.default_cfg.get("classifier", "")
        head = head if isinstance(head, str) else head[0]
        rows = state.get(f"{head}.weight")
        classes = plain.num_classes if rows is None else len(rows)
        net = plain
        if classes != plain.num_classes:
            net = timm.create_model(architecture, pretrained=False, num_classes=classes)
    load_state(net, state, name=f"timm:{name}")

    shown = resolve_data_config({}, pretrained_cfg={**net.default_cfg, **stated})
    names = _sequence(config.get("label_names") or stated.get("label_names"))
    return net, {**_timm_table(shown), **_names_table(names, classes)}


def _timm_table(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing as timm's own evaluation does it."""
    height, width = (int(side) for side in shown["input_size"][-2:])
    table: dict[str, Any] = {
        "input_size": (height, width),
        "mean": list(shown["mean"]),
        "std": list(shown["std"]),
        "interpolation": _interpolation(str(shown["interpolation"])),
        "preprocessing": "timm's configuration",
    }
    if int(shown["input_size"][0]) == 1:
        table["channels"] = 1
    share = float(shown["crop_pct"])
    before = (math.floor(height / share), math.floor(width / share))
    if shown.get("crop_mode") == "border":
        bars = [round(255 * float(mean)) for mean in shown["mean"]]
        return {**table, "resize": "letterbox", "pad_color": bars, "short_side": before}
    if shown.get("crop_mode") == "squash":
        return {**table, "resize": "stretch", "short_side": before}
    return {**table, "short_side": before}


def _cached_timm(timm: Any, architecture: str) -> Path:
    """The weights of a name in the local cache; raise ModelError where they are not there."""
    cfg = timm.get_pretrained_cfg(architecture)
    cached = None
    if cfg is not None and cfg.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(cfg.hf_hub_id, cfg.hf_hub_filename or WEIGHTS[0])
    if isinstance(cached, str):
        return Path(cached)
    raise ModelError(
        f"model 'timm:{architecture}'",
        "its weights are not here and nothing is downloaded unasked",
        f"Name their file: timm:{architecture}@FILE, or --weights FILE",
    )


def load_hf(name: str, weights: Path | None) -> tuple[nn.Module, dict[str, Any]]:
    """Load a classifier or a detector of transformers from its folder.

    Args:
        name: Folder with config.json, preprocessor_config.json and weights, as ``save_pretrained``
            writes it. A folder of timm is loaded by timm.
        weights: Must be None: the folder has them.

    Returns:
        The network, and entries for its card.

    Raises:
        ModelError: The folder, transformers or a part of the folder is missing, or it holds another
            kind of model.
    """
    folder = Path(name)
    if not (folder / "config.json").is_file():
        limit = "no folder with a config.json, and nothing is downloaded unasked"
        raise ModelError(f"hf:{name}", limit, "Save the model with save_pretrained and name it")
    config = _read_json(folder / "config.json")
    if "architecture" in config and "model_type" not in config:
        return load_timm(name, weights)
    if weights is not None:
        raise ModelError(f"weights {weights}", "The folder has its own", "Leave --weights out")
    for file in weight_files(folder):
        if file.suffix != ".safetensors":
            read_state(file)  # refuses a pickle of more than weights
    try:
        import transformers
    except (ImportError, RuntimeError) as error:
        raise _missing("transformers", name, error, extra="hf") from error

    _refuse_kernels(f"hf:{name}", config)
    made = " ".join(map(str, _sequence(config.get("architectures"))))
    detects = "ObjectDetection" in made
    if not detects and "ImageClassification" not in made:
        limit = f"it is {made[:80] or 'of no known kind'}"
        raise ModelError(f"hf:{name}", limit, "Classifiers and detectors of images are loaded")
    auto = (
        transformers.AutoModelForObjectDetection
        if detects
        else transformers.AutoModelForImageClassification
    )
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with foreign_errors(f"hf:{name}", ModelError, "transformers cannot load it"), _offline():
        settings = transformers.AutoConfig.from_pretrained(str(folder), **local)
        if getattr(settings, "use_pretrained_backbone", False):
            settings.use_pretrained_backbone = False  # all weights are in the folder
        net, loaded = auto.from_pretrained(
            str(folder), config=settings, output_loading_info=True, **local
        )
        names = [str(net.config.id2label[i]) for i in range(int(net.config.num_labels))]
    _refuse_missing(f"hf:{name}", loaded)
    if not isinstance(net, nn.Module):
        raise ModelError(f"hf:{name}", "transformers made no torch module", "Save it from torch")
    shown = folder / "preprocessor_config.json"
    steps = _read_json(shown) if shown.is_file() else {}
    table = _hf_table(steps, detects=detects)
    licence = {"task": "detect", "score_threshold": 0.5} if detects else {}
    resized = _resized_by_edges(net.float(), steps, table)
    if isinstance(resized, ResizedByEdges):
        table["preprocessing"] = f"{table['preprocessing']}: {resized.in_words()}"
    return resized, {**table, **licence, **_names_table(names, len(names))}


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the Hub's library from the network: a configuration may name a backbone that lies
    there."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _refuse_kernels(name: str, config: Any) -> None:
    """Refuse a configuration that names compiled code on the Hub, at any depth."""
    values = config.items() if isinstance(config, Mapping) else enumerate(_sequence(config))
    for key, value in values:
        if str(key).endswith("_implementation") and "/" in str(value):
            limit = "it is code on the Hub, and a file names no code"
            raise ModelError(f"{name}: {key} {str(value)[:80]!r}", limit, f"Remove {key}")
        _refuse_kernels(name, value)


def _refuse_missing(name: str, loaded: Mapping[str, Any]) -> None:
    """Refuse weights that are not whole: transformers draws those that are missing at random."""
    missing = sorted(k for k in map(str, loaded["missing_keys"]) if not k.endswith(_COUNTERS))
    if missing:
        limit = f"{len(missing)} weights are missing, such as {missing[0]}"
        raise ModelError(name, limit, "Save the model anew with save_pretrained")


def _hf_table(steps: Mapping[str, Any], *, detects: bool) -> dict[str, Any]:
    """Entries for the card of a preprocessor_config.json."""
    source = "preprocessor_config.json" if steps else "none: no preprocessor_config.json"
    table: dict[str, Any] = {"preprocessing": source}
    kind = _kind_of(steps)
    normalizes = not kind.startswith("MobileViT")
    if normalizes and steps.get("do_normalize", bool(steps)) and steps.get("image_mean"):
        std = _sequence(steps.get("image_std"))
        if steps.get("include_top"):  # EfficientNet's divides twice
            std = [float(s) ** 2 for s in std]
        table |= {"mean": _sequence(steps["image_mean"]), "std": std}
    factor = float(steps.get("rescale_factor", 1 / 255)) if steps.get("do_rescale", True) else 1.0
    if steps and abs(factor * 255 - 1) > 1e-6:
        table["scale"] = factor * 255
    if steps.get("do_flip_channel_order"):
        table["bgr"] = True
    if steps.get("rescale_offset"):
        table["mean"] = [float(m) + 1 for m in table.get("mean", [0.0])]
    return {**table, **_hf_size(steps, detects=detects)}


def _hf_size(steps: Mapping[str, Any], *, detects: bool) -> dict[str, Any]:
    """Input size and the way to it; nothing where there is no one size, as with DETR."""
    if not steps.get("do_resize", bool(steps)):
        return {}
    table: dict[str, Any] = {"interpolation": _RESAMPLE.get(steps.get("resample", 2), "bilinear")}
    kind = _kind_of(steps)
    if kind.startswith("TextNet") and not steps.get("do_center_crop"):
        return {}
    size, crop = _sides(steps.get("size")), _sides(steps.get("crop_size"))
    short = _short_edge(steps, kind)
    if steps.get("do_center_crop") and crop is not None:
        if kind.startswith("Perceiver") and size is not None:  # crops first, by the same share
            return {**table, "input_size": size, "short_side": max(*crop, *size)}
        if short is None and size is not None:
            stretched = {"resize": "stretch", "short_side": max(*size, *crop)}
            return {**table, "input_size": crop, **stretched}
        return {**table, "input_size": crop, "short_side": max(short or 0, *crop)}
    if isinstance(short, int) and not detects:
        if "crop_pct" in steps and short < _WHOLE_RESIZE:
            longer = int(short / float(steps["crop_pct"] or 224 / 256))
            return {**table, "input_size": (short, short), "short_side": longer}
        return {**table, "input_size": (short, short), "resize": "stretch"}
    return {**table, "input_size": size, "resize": "stretch"} if size is not None else {}


def _resized_by_edges(
    net: nn.Module, steps: Mapping[str, Any], table: Mapping[str, Any]
) -> nn.Module:
    """``net`` behind the resizing of a processor that makes images of many sizes, as DETR's and
    TextNet's do; ``net`` itself where there is none."""
    size = _mapping(steps.get("size"))
    old = {"shortest_edge": steps.get("size"), "longest_edge": steps.get("max_size")}
    edges = old if isinstance(steps.get("size"), int) else size
    short, longest = edges.get("shortest_edge"), edges.get("longest_edge")
    is_textnet, is_yolos = (_kind_of(steps).startswith(kind) for kind in ("TextNet", "Yolos"))
    if "input_size" in table or not steps.get("do_resize", bool(steps)):
        return net
    if not isinstance(short, int) or not (isinstance(longest, int) or is_textnet):
        return net
    return ResizedByEdges(
        net,
        short,
        longest=longest if isinstance(longest, int) and not is_textnet else None,
        multiple=int(steps.get("size_divisor") or 32) if is_textnet else 16 if is_yolos else 1,
        down=is_yolos,
        interpolation=_RESAMPLE.get(steps.get("resample", 2), "bilinear"),
    )


def _kind_of(steps: Mapping[str, Any]) -> str:
    """Name of the class that made a preprocessor_config.json."""
    return str(steps.get("image_processor_type") or steps.get("feature_extractor_type") or "")


def _short_edge(steps: Mapping[str, Any], kind: str) -> int | None:
    """Length in px that the short side is brought to; None where both sides are stated.

    One number is the short side for some kinds of processors, and both sides for the others."""
    size = steps.get("size")
    short = _mapping(size).get("shortest_edge")
    if isinstance(size, int) and (kind.startswith(_BY_SHORT_EDGE) or "crop_pct" in steps):
        short = size
    if not isinstance(short, int):
        return None
    if kind.startswith("Levit"):
        return int(256 / 224 * short)
    if kind.startswith("PoolFormer"):
        return int(short / float(steps.get("crop_pct") or 1))
    return short


def _sides(value: Any) -> tuple[int, int] | None:
    """Height and width of a stored size."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    table = _mapping(value)
    if isinstance(table.get("height"), int) and isinstance(table.get("width"), int):
        return table["height"], table["width"]
    return None


def _names_table(names: Sequence[Any], classes: int) -> dict[str, Any]:
    if len(names) == classes:
        return {"classes": [str(name) for name in names]}
    return {"classes": list(known_set("ImageNet").classes)} if classes == _IMAGENET else {}


def _interpolation(name: str) -> str:
    return name if name in ("bilinear", "bicubic", "nearest") else "bicubic"


def _read_json(file: Path) -> dict[str, Any]:
    value = parse_json(read_text(file, error=ModelError), str(file), error=ModelError)
    if not isinstance(value, dict):
        raise ModelError(f"{file}", "holds no table", "Save the model anew")
    return value


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _missing(library: str, name: str, error: Exception, *, extra: str = "") -> ModelError:
    said = (str(error).splitlines() or [""])[0][:100]
    return ModelError(
        f"model '{extra or library}:{name}'",
        f"{library} cannot be imported ({said})",
        f"pip install 'physadv[{extra or library}]'",
    )
