"""Benchmark of patches: attacks against detectors behind defenses, one table from one command.

A universal patch lies on objects of one class in photos. It is optimized on training photos, for
each detector alone, for each defense with the defense in the way, and by scores alone; average
precision and the objects found are measured on other photos.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.attacks._optimizers import CosineAdam
from physadv.attacks.patch_loop import Victim, View, descend_patch
from physadv.attacks.patch_search import search_patch
from physadv.core.boxes import box_iou
from physadv.core.errors import DataError, OptionError
from physadv.core.image_io import to_tensor
from physadv.core.rows import Row
from physadv.core.tensor_files import read_tensors, write_tensors
from physadv.core.types import Detections
from physadv.core.wording import count_noun
from physadv.datasets.class_matching import match_classes
from physadv.datasets.read import read_detection_dataset
from physadv.defenses.load_model import load_model
from physadv.defenses.registry import defend_model
from physadv.evaluation.detection_samples import boxes_in_row
from physadv.models.cards import LoadedModel
from physadv.models.detectors import DetectedBoxes, PredictSettings
from physadv.models.resizing import PADDING
from physadv.studies.attack_studies_config import PatchBenchmarkConfig
from physadv.studies.patch_benchmark_page import (
    ADAPTIVE,
    BROWN,
    CLEAN,
    GRADIENT,
    GRAY,
    NO_DEFENSE,
    NOISE,
    SQUARE,
    THYS,
    benchmark_page,
    stem_of,
)
from physadv.studies.study import Part, Study, Workspace
from physadv.threat.printability import total_variation

SIDE = 416
"""Side in px of the frames that photos are fitted into."""
PATCH_PX = 48
"""Side in px of a patch."""
LEAST_PX = 40.0
"""Shorter side in px of the objects that carry a patch."""
SHARE = 0.5
"""Side of a patch over the root of its object's area."""
_NEAR = 0.3
"""Overlap from which a candidate is on an object."""
_FLOOR = 0.01
_SMOOTHNESS = 0.1


@dataclass(frozen=True)
class Photo:
    """A photo in its frame.

    Attributes:
        name: Name of its file.
        image: Frame (3, side, side) in [0, 1].
        objects: Corners (k, 4) in px of all objects of the class.
        crowd: Whether (k,) an object is a crowd, which does not count.
    """

    name: str
    image: Tensor
    objects: Tensor
    crowd: Tensor

    @property
    def carriers(self) -> Tensor:
        """Corners (m, 4) of the objects that carry a patch."""
        sides = self.objects[:, 2:] - self.objects[:, :2]
        return self.objects[(sides.amin(1) >= LEAST_PX) & ~self.crowd]


def study_parts(config: PatchBenchmarkConfig) -> list[Part]:
    """Return the parts: for each detector and defense its attacks.

    Args:
        config: Configuration of the study.
    """
    parts = []
    for detector in config.detector:
        name = detector.partition("=")[0]
        for defense in (NO_DEFENSE, *config.behind):
            note = f"{name} behind {defense}"
            run = partial(_measure, config, detector, defense)
            parts.append(Part(f"{name}+{defense}", note, run))
    return parts


def _measure(
    config: PatchBenchmarkConfig, detector: str, defense: str, workspace: Workspace
) -> Iterator[Row]:
    """Rows of one detector behind one defense: every attack on every test photo."""
    name, _, weights = detector.partition("=")
    model = workspace.once(detector, lambda: _load(name, weights))
    defended = model if defense == NO_DEFENSE else defend_model(model, defense)
    train, test = workspace.once("photos", lambda: read_photos(config, model, workspace))
    label = model.card.class_index(_class_of(config.object_class, model))

    patches = {GRAY: _gray(), NOISE: _noise(workspace)}
    patches[GRADIENT] = _patch(config, model, label, train, workspace, name, GRADIENT)
    patches[SQUARE] = _patch(config, model, label, train, workspace, name, SQUARE)
    if defense != NO_DEFENSE:
        key = f"{name}-{defense}"
        patches[ADAPTIVE] = _patch(config, defended, label, train, workspace, key, ADAPTIVE)
    for attack in (CLEAN, *patches):
        workspace.tell(f"{name} behind {defense}: {attack}")
        for number, photo in enumerate(test):
            images = photo.image[None]
            if attack != CLEAN:
                images = paste(images, patches[attack], [photo.carriers])
            if number == 0 and defense == NO_DEFENSE:
                workspace.save_picture(f"{stem_of(name)}-{attack}", images[0])
            yield _row(defended, label, attack, number, photo, images)


def _row(
    model: LoadedModel, label: int, attack: str, number: int, photo: Photo, images: Tensor
) -> Row:
    predict = PredictSettings.of(model.card.extra)
    with torch.no_grad():
        detections = model(images)
    assert isinstance(detections, Detections)
    found = predict.boxes_of(detections, _FLOOR)[0]
    own = found.labels == label
    kept = DetectedBoxes(found.boxes[own], found.scores[own], torch.zeros_like(found.labels[own]))
    sides = photo.objects[:, 2:] - photo.objects[:, :2]
    objects = [
        [*(round(v, 1) for v in box), 0, int(crowd), round(area, 1)]
        for box, crowd, area in zip(
            photo.objects.tolist(), photo.crowd.tolist(), sides.prod(1).tolist(), strict=True
        )
    ]
    return {
        "attack": attack,
        "index": number,
        "image": photo.name,
        "threshold": predict.score_threshold,
        "objects": objects,
        "found": boxes_in_row(kept)[:100],
    }


def _load(name: str, weights: str) -> LoadedModel:
    model = load_model(name, weights=Path(weights) if weights else None)
    if model.card.task != "detect":
        raise OptionError(f"--detector {name}", "It is a classifier", "Name a detector")
    return model


def _class_of(name: str, model: LoadedModel) -> str:
    if name not in model.card.classes:
        raise OptionError(
            f"--object-class {name}",
            f"{model.card.name} has no such class",
            "Name one of its classes",
        )
    return name


def read_photos(
    config: PatchBenchmarkConfig, model: LoadedModel, workspace: Workspace
) -> tuple[list[Photo], list[Photo]]:
    """Return the photos to optimize patches on, and those to measure them on.

    Args:
        config: Data and scale of the study.
        model: Detector whose class names the data's are matched with.
        workspace: Streams of the study.

    Raises:
        DataError: Fewer than four photos show an object that can carry a patch.
    """
    data = read_detection_dataset(config.data, split=config.split)
    match = match_classes(
        data.classes, model.card.classes, model=model.card.name, needed=data.present
    )
    wanted = model.card.class_index(config.object_class)
    own = [i for i, number in enumerate(match.numbers) if number == wanted]
    count = config.training_photos + config.test_photos
    photos: list[Photo] = []
    for index in workspace.numpy_generator("photos").permutation(len(data)).tolist():
        if len(photos) == count:
            break
        pixels, objects = data[index]
        chosen = np.isin(objects.labels, own)
        photo = _framed(
            data.names[index],
            to_tensor(pixels),
            torch.tensor(objects.boxes[chosen]),
            torch.tensor(objects.crowd[chosen]),
        )
        if len(photo.carriers):
            photos.append(photo)
    if len(photos) < 4:
        raise DataError(
            f"{config.data}: {count_noun(len(photos), 'photo')} with {config.object_class}",
            "At least four are needed",
            "Name more data, or another --object-class",
        )
    cut = min(config.training_photos, len(photos) // 2)
    return photos[:cut], photos[cut:]


def _framed(name: str, image: Tensor, boxes: Tensor, crowd: Tensor) -> Photo:
    """Fit a photo into its frame, with gray bars on the right and below."""
    scale = SIDE / max(image.shape[-2:])
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    fitted = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    frame = F.pad(fitted, (0, SIDE - size[1], 0, SIDE - size[0]), value=PADDING)
    return Photo(name, frame, boxes.reshape(-1, 4) * scale, crowd)


def paste(images: Tensor, patch: Tensor, carriers: Sequence[Tensor]) -> Tensor:
    """Return images with a patch in the middle of each object that carries one.

    Args:
        images: Images (b, 3, h, w) in [0, 1].
        patch: Patch (1, 3, ph, pw) in [0, 1].
        carriers: Corners (m, 4) in px of the objects of each image.

    Returns:
        The images, differentiable in the patch.

    Example:
        >>> box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
        >>> shown = paste(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 4, 4), [box])
        >>> float(shown.sum())
        48.0
    """
    pasted = []
    for image, boxes in zip(images, carriers, strict=True):
        height, width = image.shape[-2:]
        for x0, y0, x1, y1 in boxes.tolist():
            side = max(4, round(SHARE * ((x1 - x0) * (y1 - y0)) ** 0.5))
            side = min(side, height, width)
            left = min(max(0, round((x0 + x1 - side) / 2)), width - side)
            top = min(max(0, round((y0 + y1 - side) / 2)), height - side)
            small = F.interpolate(patch, (side, side), mode="bilinear", antialias=True)[0]
            margins = (left, width - left - side, top, height - top - side)
            outside = F.pad(torch.zeros_like(small[:1]), margins, value=1.0)
            image = image * outside + F.pad(small.clamp(0, 1), margins)
        pasted.append(image)
    return torch.stack(pasted)


def _gray() -> Tensor:
    return torch.full((1, 3, PATCH_PX, PATCH_PX), 0.5)


def _noise(workspace: Workspace) -> Tensor:
    blocks = torch.rand((1, 3, 12, 12), generator=workspace.generator("noise"))
    return F.interpolate(blocks, (PATCH_PX, PATCH_PX), mode="nearest")


def _patch(
    config: PatchBenchmarkConfig,
    model: LoadedModel,
    label: int,
    photos: Sequence[Photo],
    workspace: Workspace,
    key: str,
    attack: str,
) -> Tensor:
    """A patch from the run folder, or optimized now."""
    stem = f"{stem_of(key)}-{attack}"
    file = workspace.folder / "patches" / f"{stem}.safetensors"
    if file.is_file():
        tensors, _ = read_tensors(file, error=DataError, remedy="Delete it")
        if tensors.get("patch", torch.zeros(0)).shape != (1, 3, PATCH_PX, PATCH_PX):
            raise DataError(f"{file}", "It holds no patch of this study", "Delete it")
        return tensors["patch"]
    workspace.tell(f"optimizing {stem}")
    patch = optimize_hiding_patch(config, model, label, photos, workspace.seed_of(stem), attack)
    write_tensors(file, {"patch": patch})
    workspace.save_picture(f"patch-{stem}", patch[0])
    return patch


def optimize_hiding_patch(
    config: PatchBenchmarkConfig,
    model: LoadedModel,
    label: int,
    photos: Sequence[Photo],
    seed: int,
    attack: str,
) -> Tensor:
    """Optimize a patch that lowers the scores of the objects that carry it.

    Args:
        config: Its steps and photos a step.
        model: Detector, perhaps behind a defense.
        label: Class of the objects.
        photos: Training photos.
        seed: Seed of the draws.
        attack: "gradient" or "adaptive" for gradients, "square" for scores alone.

    Returns:
        The patch (1, 3, 48, 48) in [0, 1].
    """
    batch = min(config.photos_a_step, len(photos))

    def render(patch: Tensor, step: int) -> tuple[Tensor, list[Tensor]]:
        source = np.random.default_rng((seed % 2**32, step))
        chosen = source.choice(len(photos), batch, replace=False).tolist()
        light = 1 + 0.2 * (source.random() - 0.5)
        images = torch.stack([photos[i].image for i in chosen])
        carriers = [photos[i].carriers for i in chosen]
        return paste(images, (patch * light).clamp(0, 1), carriers), carriers

    def objective(prediction: Any, carriers: list[Tensor]) -> Tensor:
        scores = prediction.scores[..., label].clamp(1e-6, 1 - 1e-6).logit()
        losses = []
        for own, boxes, objects in zip(scores, prediction.boxes, carriers, strict=True):
            near = box_iou(boxes.detach(), objects) >= _NEAR
            on = own[:, None].masked_fill(~near, -14.0)
            losses.append(on.amax(0))
        return torch.cat(losses)

    threshold = PredictSettings.of(model.card.extra).score_threshold
    least = float(torch.logit(torch.tensor(threshold)))
    whole = torch.ones(1, 1, PATCH_PX, PATCH_PX)
    victim = Victim(model, objective, lambda p, c: objective(p, c) < least)
    settings: dict[str, Any] = {
        "views": [View(render, [victim])],
        "regularizer": lambda patch: _SMOOTHNESS * total_variation(patch, whole),
        "project": lambda patch: patch.clamp(0, 1),
    }
    if attack == SQUARE:
        steps = config.search_steps
        loop = search_patch(
            _gray(), update=CosineAdam(0.04, steps), steps=steps, seed=seed % 2**31, **settings
        )
    else:
        steps = config.patch_steps
        loop = descend_patch(_gray(), update=CosineAdam(0.04, steps), steps=steps, **settings)
    *_, last = loop
    return (last.patch.clamp(0, 1) * 255).round() / 255


STUDY = Study(
    name="patches",
    title="Patches on objects: attacks, detectors, defenses",
    question="How much do patches hide from detectors, and how much do defenses give back?",
    config=PatchBenchmarkConfig,
    papers=(BROWN, THYS),
    parts=study_parts,
    page=benchmark_page,
)
