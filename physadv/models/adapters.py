"""Adapters for detectors of torchvision and ultralytics, recognized by their structure.

Neither library is imported unless the user names one of its models (``torchvision:NAME``,
``ultralytics:FILE.pt``); a model that the user's code has made is recognized by its attributes.
Suppression inside the network is disabled, so that gradients reach every candidate. ultralytics is
AGPL-3.0: nothing of it is imported or called unless the user names one of its models.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.trust import assert_may_run
from physadv.core.types import Detections
from physadv.models.detector_outputs import read_detections
from physadv.models.hub_models import load_hf, load_timm
from physadv.models.loading import load_state, read_state

FOREIGN = ("torchvision", "ultralytics", "timm", "hf")
CANDIDATES, FLOOR = 300, 0.01
"""How many candidates a torchvision detector keeps a picture, and from which score on."""


class TorchvisionDetector(nn.Module):
    """A torchvision detector (list of images -> list of dicts) without final suppression: all
    candidates are returned.

    Two-stage networks still suppress among their proposals.

    Args:
        net: Detector; its thresholds are changed in place.
        classes: Number of classes, background included.

    Raises:
        ModelError: The network has no suppression settings that could be opened.
    """

    def __init__(self, net: nn.Module, classes: int) -> None:
        super().__init__()
        self.net, self.classes = net, classes
        part: Any = getattr(net, "roi_heads", net)
        for name, value in (
            ("score_thresh", FLOOR),
            ("nms_thresh", 1.0),
            ("detections_per_img", CANDIDATES),
        ):
            if not hasattr(part, name):
                raise ModelError(
                    type(net).__name__,
                    f"has no {name}: it gives out boxes after suppression only",
                    "Return (boxes, scores) before suppression from a module of your own",
                )
            setattr(part, name, value)

        # Masks and keypoints cost time and are not evaluated.
        for extra in (
            "mask_roi_pool",
            "keypoint_roi_pool",
        ):
            if getattr(part, extra, None) is not None:
                setattr(part, extra, None)

    def forward(self, images: Tensor) -> Detections:
        """Map ``images`` (b, 3, h, w) in [0, 1] to candidates, each with the score of its one
        class.

        Images with fewer candidates than others are padded with boxes of score 0.
        """
        candidates: list[Mapping[str, Tensor]] = self.net(list(images))
        most = max(1, *(len(f["scores"]) for f in candidates))
        boxes = [F.pad(f["boxes"], (0, 0, 0, most - len(f["boxes"]))) for f in candidates]

        scores = []
        for f in candidates:
            line = f["scores"].new_zeros(len(f["scores"]), self.classes)
            line = line.scatter(1, f["labels"].long()[:, None], f["scores"][:, None])
            scores.append(F.pad(line, (0, 0, 0, most - len(line))))
        return Detections(torch.stack(boxes), torch.stack(scores))


class YoloDetector(nn.Module):
    """A network with ultralytics' output layout, as a detector of this toolkit.

    Args:
        net: Network that returns (b, 4 + classes [+ more], n): center x, center y, width and height
            in px, then scores.
        classes: Number of classes.
    """

    def __init__(self, net: nn.Module, classes: int) -> None:
        super().__init__()
        self.net, self.classes = net, classes
        head: Any = net.model[-1] if isinstance(getattr(net, "model", None), nn.Sequential) else net  # type: ignore[index]
        if getattr(head, "end2end", False):  # the other head of such nets gives every candidate
            head.end2end = False
        self.is_detr = type(head).__name__ == "RTDETRDecoder"
        if self.is_detr and hasattr(head, "postprocess"):
            head.postprocess = _all_candidates

    def forward(self, images: Tensor) -> Detections:
        """Map ``images`` (b, 3, h, w) in [0, 1], sides in multiples of the stride, to Detections
        in their px."""
        output = self.net(images)
        while isinstance(output, tuple | list) and output:
            output = output[0]
        if self.is_detr:
            size = (images.shape[-2], images.shape[-1])
            return read_detections(output, len(images), size, classes=self.classes)
        if (
            not isinstance(output, Tensor)
            or output.ndim != 3
            or not 0 <= output.shape[1] - 4 - self.classes <= 200
        ):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ModelError(
                f"output {shape}",
                f"needs (b, {4 + self.classes}, n) before suppression",
                "Load the net without its end-to-end head, or not from an export",
            )

        center, half = output[:, :2], output[:, 2:4] / 2
        boxes = torch.cat((center - half, center + half), 1).transpose(1, 2)
        return Detections(boxes, output[:, 4 : 4 + self.classes].transpose(1, 2))


def _all_candidates(boxes: Tensor, scores: Tensor) -> Tensor:
    """What RT-DETR makes of each query, (b, n, 4 + classes), before the best are picked."""
    return torch.cat((boxes, scores), -1)


def adapt_detector(net: nn.Module) -> tuple[nn.Module, dict[str, Any]] | None:
    """Wrap ``net``, a detector of either library, and return it with entries for its card; None
    for other networks.

    The network itself is changed (its thresholds): pass a copy.

    Raises:
        ModelError: The network is of a task that is not supported.
    """
    inner = getattr(net, "model", None)
    if isinstance(inner, nn.Module) and _is_yolo(inner):
        return _adapt_yolo(inner, str(getattr(net, "task", "detect")))
    if _is_yolo(net):
        return _adapt_yolo(net, str(getattr(net, "task", "detect")))
    if isinstance(getattr(net, "transform", None), nn.Module) and _counts(net) is not None:
        return TorchvisionDetector(net, int(_counts(net) or 0)), {"task": "detect"}
    return None


def load_foreign(text: str, weights: Path | None) -> tuple[nn.Module, dict[str, Any]]:
    """Load the model that ``text`` names: ``torchvision:NAME``, ``timm:NAME``, ``hf:FOLDER`` or
    ``ultralytics:FILE.pt``; nothing is downloaded.

    ``weights`` is a file with a state dict, which ``NAME@FILE`` may name instead, or None for the
    library's own weights. Returns the network and entries for its card.

    Raises:
        ModelError: The library or the weights are not here.
    """
    library, _, name = text.partition(":")
    weights = weights or weights_named_in(text)
    if library in ("torchvision", "timm") and weights is not None:
        name = name.removesuffix(f"@{weights}")
    load = {"torchvision": _torchvision, "timm": load_timm, "hf": load_hf}.get(library)
    return (load or _ultralytics)(name, weights)


def weights_named_in(text: str) -> Path | None:
    """The file that ``LIBRARY:NAME@FILE`` names; None where it names none.

    Raises:
        ModelError: There is no such file.
    """
    library, _, name = text.partition(":")
    file = Path(name.partition("@")[2])
    if library not in ("torchvision", "timm") or "@" not in name:
        return None
    if not file.exists():
        raise ModelError(f"{file}", "no such file", "Check the path behind @")
    return file


def _is_yolo(net: nn.Module) -> bool:
    return all(hasattr(net, name) for name in ("names", "stride", "model")) and isinstance(
        net.model, nn.Module
    )


def _adapt_yolo(net: nn.Module, task: str) -> tuple[nn.Module, dict[str, Any]]:
    if task not in ("detect", "segment", "pose"):
        raise ModelError(
            f"ultralytics task {task!r}", "is not one of detect, segment, pose", "Use a detector"
        )

    names: Any = net.names
    classes = (
        [str(names[i]) for i in sorted(names)]
        if isinstance(names, Mapping)
        else [str(n) for n in names]
    )
    table = {
        "task": "detect",
        "classes": classes,
        "input_size": 640,
        "resize": "letterbox",
        "antialias": False,
        "score_threshold": 0.25,
        "licence": "AGPL-3.0",
        "preprocessing": "ultralytics' own",
    }
    adapted = YoloDetector(net, len(classes))
    return adapted, {**table, **({"resize": "stretch"} if adapted.is_detr else {})}


def _counts(net: nn.Module) -> int | None:
    """Return a torchvision detector's number of classes with background; None for other
    networks."""
    for path in (
        "roi_heads.box_predictor.cls_score.out_features",
        "head.classification_head.num_classes",
        "head.classification_head.num_columns",
    ):
        value: Any = net
        for part in path.split("."):
            value = getattr(value, part, None)
        if isinstance(value, int):
            return value
    return None


def _torchvision(name: str, weights: Path | None) -> tuple[nn.Module, dict[str, Any]]:
    try:
        from torchvision.models import get_model, get_model_weights, list_models
    except (
        ImportError,
        RuntimeError,
    ) as error:  # RuntimeError: a build that does not fit this torch
        limit = f"torchvision cannot be imported ({str(error).splitlines()[0][:100]})"
        raise ModelError(
            f"model 'torchvision:{name}'", limit, "pip install 'physadv[torchvision]'"
        ) from error

    known = [str(m) for m in list_models()]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=2)
        hint = (
            f"did you mean {' or '.join(near)}"
            if near
            else "torchvision.models.list_models() shows its names"
        )
        raise ModelError(f"torchvision:{name}", "no such model", hint)

    published: Any = get_model_weights(name).DEFAULT
    names = list(published.meta["categories"])
    if weights is not None:
        bare: dict[str, Any] = {"weights_backbone": None} if _detects(published) else {}
        net, state = get_model(name, weights=None, **bare), read_state(weights)
        if (classes := _fine_tuned_classes(net, state, len(names))) is not None:
            net, names = get_model(name, weights=None, num_classes=classes, **bare), []
        load_state(net, state, name=name)
    elif (
        file := Path(torch.hub.get_dir()) / "checkpoints" / Path(str(published.url)).name
    ).is_file():
        read_state(file)  # refuses a pickle of more than weights, which torchvision would open
        net = get_model(name, weights=published)
    else:
        code = f"from torchvision.models import get_model; get_model('{name}', weights='DEFAULT')"
        raise ModelError(
            f"model 'torchvision:{name}'",
            "its weights are not here and nothing is downloaded unasked",
            f'Run once python -c "{code}", or give the file with --weights',
        )
    table: dict[str, Any] = {
        "classes": names,
        "data": "as torchvision's card says",
    }
    if _detects(published):
        return net, {**table, "task": "detect", "score_threshold": 0.5}

    shown = published.transforms()
    preprocessing = {
        "mean": list(shown.mean),
        "std": list(shown.std),
        "input_size": int(shown.crop_size[0]),
        "short_side": int(shown.resize_size[0]),
        # Presets of older releases, and those of a user's own, state fewer settings.
        "interpolation": str(getattr(getattr(shown, "interpolation", None), "value", "bilinear")),
        "antialias": bool(getattr(shown, "antialias", True)),
        "preprocessing": "torchvision's transforms",
    }
    return net, {**table, **preprocessing}


def _fine_tuned_classes(net: nn.Module, state: Mapping[str, Tensor], classes: int) -> int | None:
    """Number of classes of weights whose head alone differs from that of ``classes``; None where
    it does not, or more than the head does.

    Heads have a row a class, or several: of each box's side, or of each anchor.
    """
    wanted = set()
    for key, own in net.state_dict().items():
        given = next((v for k, v in state.items() if k == key or k.endswith(f".{key}")), own)
        if given.shape == own.shape:
            continue
        if given.shape[1:] != own.shape[1:] or len(given) * classes % len(own):
            return None
        wanted.add(len(given) * classes // len(own))
    return wanted.pop() if len(wanted) == 1 else None


def _detects(published: Any) -> bool:
    """Return whether the weights are a detector's: those are measured by boxes, not by top-1."""
    metrics = published.meta.get("_metrics", {})
    return any("box_map" in values for values in metrics.values())


def _ultralytics(name: str, weights: Path | None) -> tuple[nn.Module, dict[str, Any]]:
    file = weights or Path(name)
    if not file.is_file():
        raise ModelError(
            f"{file}",
            "no such file, and nothing is downloaded unasked",
            "Fetch it from its publisher and name it",
        )

    # Imported on request alone: the library is AGPL-3.0.
    try:
        from ultralytics import YOLO
    except ImportError as error:
        raise ModelError(
            f"model 'ultralytics:{name}'",
            "ultralytics is not installed",
            "pip install 'physadv[ultralytics]' (AGPL-3.0)",
        ) from error
    assert_may_run(f"ultralytics:{name}", "ultralytics")
    net: nn.Module = YOLO(str(file)).model
    return net, {"source": file.name}
