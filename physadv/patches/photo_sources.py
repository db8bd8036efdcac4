"""Scenes of a patch in photos: anywhere in any photo, or on the objects of a detector's class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from physadv.core.csv_tables import read_csv
from physadv.core.errors import DataError, OptionError
from physadv.core.image_io import to_tensor
from physadv.core.types import Detections, Prediction
from physadv.core.wording import count_noun, format_percent
from physadv.datasets.box_annotations import LabeledBox
from physadv.eot.scenes.boxes import BOXES_FILE, match_names
from physadv.eot.scenes.load import SceneSources, photo_boxes, split_parts
from physadv.eot.scenes.photos import OnObjects, PatchAnywhere, PatchPose, ScenePhoto, read_photos
from physadv.eot.scenes.sign_framing import Float
from physadv.eot.scenes.signs import SceneSize, SceneSource
from physadv.models.cards import LoadedModel
from physadv.models.detectors import non_maximum_suppression
from physadv.models.resizing import InputResizing
from physadv.patches.config import ANYWHERE, PatchConfig
from physadv.threat.patch_goals import PatchGoal

LABELS_FILE = "labels.csv"
"""Classes of the photos beside it: columns file, class."""
MOST_OBJECTS = 4
"""Photos with more large objects than this are left out."""
LEAST_HEIGHT = 0.15
"""Objects lower than this share of the picture's height are neither patched nor judged."""
PATCH_SHARES = {ANYWHERE: (0.3, 0.5), "objects": (0.15, 0.25)}
"""Width of the patch over the picture's side (Brown 2017), or over the diagonal of the object's box
(Thys 2019: 0.2)."""
ROLL_DEG = {ANYWHERE: (-45.0, 45.0), "objects": (-20.0, 20.0)}
"""Rotation of the patch in the picture (Brown 2017, Thys 2019)."""
TORSO = (0.5, 0.4)
"""Center of a person's torso in the person's box, as shares of its width and height."""


def pose_of(config: PatchConfig) -> PatchPose:
    """Return how the patch of ``config`` lies in photos; what is not given is as published.

    Raises:
        OptionError: The share is no range in (0, 1].

    Example:
        >>> pose_of(PatchConfig(object="person", size_mm=(190, 190))).share
        (0.15, 0.25)
    """
    kind = ANYWHERE if config.object == ANYWHERE else "objects"
    share = config.share or PATCH_SHARES[kind]
    if not 0 < share[0] <= share[1] <= 1:
        raise OptionError(
            f"--share {share[0]:g}:{share[1]:g}",
            "0 < low <= high <= 1 is needed",
            "Write for example 0.3:0.5",
        )
    return PatchPose(config.width_mm, config.height_mm, share, ROLL_DEG[kind])


def load_photo_sources(
    config: PatchConfig, model: LoadedModel, goal: PatchGoal, size: SceneSize
) -> SceneSources:
    """Load a folder of photos, label what is not labeled, and split it by photo.

    Classes come from labels.csv (file, class) and boxes from ``config.boxes`` or boxes.csv (file,
    x0, y0, x1, y1) beside the photos. Without them the model's own prediction on the clean photo is
    taken for the truth, and the notes record so.

    Args:
        config: Its ``photos``, ``object`` ("anywhere", or a class of the detector whose objects
            carry the patch) and ``boxes``.
        model: Model under attack.
        goal: Goal in its terms.
        size: Size of the scenes.

    Returns:
        Scenes for training, validation and test, with notes for the card.

    Raises:
        OptionError: No photos are named, or the share is no range in (0, 1].
        DataError: No photo is usable.
    """
    kind = config.object
    if config.photos is None:
        raise OptionError(
            f"--object {kind} without photos",
            "A folder of photos is needed",
            "Name it with --photos",
        )

    folder = Path(config.photos)
    pose = pose_of(config)
    photos, notes = read_photos(folder, 2 * size.size)
    scenes_of: Callable[[Sequence[ScenePhoto]], SceneSource]
    if kind == ANYWHERE:
        photos, label_notes = _labeled(folder, photos, model, goal, size)
        scenes_of = partial(PatchAnywhere, pose=pose, inner=_central_share(model))
    else:
        boxes = None if config.boxes is None else Path(config.boxes)
        photos, label_notes = _boxed(folder, boxes, photos, model, goal, size)
        center = TORSO if kind == "person" else (0.5, 0.5)
        scenes_of = partial(OnObjects, pose=pose, center=center, most=MOST_OBJECTS)

    parts = split_parts(photos, [photo.group for photo in photos], config.seed)
    notes += [
        *label_notes,
        f"{count_noun(len(photos), 'photo')} split by photo: {len(parts[0])} train, "
        f"{len(parts[2])} test",
    ]
    train, validation, test = (scenes_of(part or photos) for part in parts)
    if not parts[1] or not parts[2]:
        notes.append(
            "too few photos to hold any out: judged on the photos it was optimized on, with other "
            "draws"
        )
    return SceneSources(train, validation, test, "photos", tuple(notes))


def object_share(sources: SceneSources, pose: PatchPose) -> float:
    """Return the mean share of a picture, or of an object's box, that the patch's rectangle covers.

    ``sources`` are the scenes, ``pose`` is how large the patch is in them.
    """
    low, high = pose.share
    mean_square = (low**2 + low * high + high**2) / 3
    share = mean_square * pose.height_mm / pose.width_mm
    source = sources.train
    if not isinstance(source, OnObjects):
        return share

    # The width is a share of the box's diagonal, so the area of the box decides.
    boxes = np.concatenate([photo.boxes for photo in source.photos if photo.boxes is not None])
    sides = boxes[:, 2:] - boxes[:, :2]
    return share * float(np.mean((sides**2).sum(1) / sides.prod(1)))


def _central_share(model: LoadedModel) -> float:
    """Share of a picture's side that a model with a central crop receives."""
    resizing = model.card.resizing
    return 1.0 if resizing is None else resizing.size[0] / resizing.uncropped_size[0]


def _labeled(
    folder: Path,
    photos: Sequence[ScenePhoto],
    model: LoadedModel,
    goal: PatchGoal,
    size: SceneSize,
) -> tuple[list[ScenePhoto], list[str]]:
    """Photos with their class, without those of the target class; for a detector as they are."""
    if model.card.task == "detect":
        return list(photos), []

    table = folder / LABELS_FILE
    if table.is_file():
        classes, notes = _read_labels(table, photos, model.card.class_index)
        labels = [classes.get(photo.group, -1) for photo in photos]
    else:
        labels = [_predicted_class(model, photo, size.size) for photo in photos]
        notes = [
            f"no {LABELS_FILE}: the model's own answer on the clean photo is taken for the truth"
        ]

    usable = [
        replace(photo, label=label)
        for photo, label in zip(photos, labels, strict=True)
        if label >= 0 and label != goal.target_class
    ]
    if len(usable) < len(photos):
        notes.append(
            f"{count_noun(len(photos) - len(usable), 'photo')} left out: without a class, or of "
            "the target class"
        )
    if not usable:
        raise DataError(
            f'No photo of "{folder}" has a class other than the target',
            "At least one is needed",
            f"List more of them in {LABELS_FILE}",
        )
    return usable, notes


def _read_labels(
    path: Path, photos: Sequence[ScenePhoto], index: Callable[[str], int]
) -> tuple[dict[str, int], list[str]]:
    """Class numbers by the photo's name, and notes on how the table was read."""
    table = read_csv(path, {"file": ("filename", "image", "path"), "class": ("label", "category")})
    names = [photo.group for photo in photos]
    root = path.parent.resolve().name
    matched, notes = match_names([row.cells["file"] for row in table.rows], names, path, root)

    classes: dict[str, int] = {}
    for row in table.rows:
        name = matched.get(row.cells["file"])
        if name is None:
            continue
        label = index(row.cells["class"])
        if classes.setdefault(name, label) != label:
            raise DataError(f"'{row.where}': {name} has two classes", "One counts", "Remove a row")
    return classes, [f"classes from {LABELS_FILE}", *table.notes, *notes]


def _boxed(
    folder: Path,
    boxes: Path | None,
    photos: Sequence[ScenePhoto],
    model: LoadedModel,
    goal: PatchGoal,
    size: SceneSize,
) -> tuple[list[ScenePhoto], list[str]]:
    """Photos with the boxes of the objects large enough to carry a patch."""
    name = model.card.class_name(goal.true_class)
    boxes_of, notes = photo_boxes(folder if folder.is_dir() else folder.parent, boxes, name)
    if boxes_of:
        objects = [_rescaled_boxes(boxes_of.get(photo.group, []), photo) for photo in photos]
        notes.insert(0, f"boxes from {boxes.name if boxes else 'beside the photos'}")
    else:
        objects = [_detected_boxes(model, goal, photo, size.size) for photo in photos]
        notes = [
            f"no {BOXES_FILE}: what the model itself detects as {name} on the clean photo "
            f"(score {goal.score_threshold:g}) is taken for the truth"
        ]

    usable, crowded = [], 0
    for photo, own in zip(photos, objects, strict=True):
        large = own[(own[:, 3] - own[:, 1]) >= LEAST_HEIGHT * photo.image.shape[0]]
        crowded += len(large) > MOST_OBJECTS
        if 1 <= len(large) <= MOST_OBJECTS:
            usable.append(replace(photo, label=goal.true_class, boxes=large))
    if not usable:
        raise DataError(
            f'No {name} in the photos of "{folder}" is large enough',
            f"Its height must be {format_percent(LEAST_HEIGHT, 0)} of the picture's or more",
            f"Add photos, or {BOXES_FILE} with boxes",
        )

    total = sum(len(photo.boxes) for photo in usable if photo.boxes is not None)
    notes.append(
        f"{count_noun(total, 'object')} in {len(usable)} of {count_noun(len(photos), 'photo')}; "
        f"left out: objects under {format_percent(LEAST_HEIGHT, 0)} of the height, and "
        f"{count_noun(crowded, 'photo')} with more than {MOST_OBJECTS}"
    )
    return usable, notes


def _rescaled_boxes(boxes: Sequence[LabeledBox], photo: ScenePhoto) -> Float:
    """Boxes (n, 4) in px of ``photo``, which may have been reduced from its file."""
    if not boxes:
        return np.zeros((0, 4))
    size = (photo.image.shape[1], photo.image.shape[0])
    file_size = photo.file_size or size
    factor = np.tile(np.array(size) / np.array(file_size), 2)
    corners = [box.corners(file_size) for box in boxes]
    own = np.array([[*points.min(0), *points.max(0)] for points in corners])
    return np.asarray((own * factor).clip(0, np.tile(size, 2)), np.float64)


@torch.no_grad()
def _predict(model: LoadedModel, photo: ScenePhoto, size: int) -> Prediction:
    """Prediction on a clean photo: the whole of it for a detector, else its middle."""
    image = to_tensor(photo.image)[None]
    if model.card.task == "classify":
        image = InputResizing((size, size), short_side=size)(image)
    prediction: Prediction = model(image.to(model.device))
    return prediction


def _predicted_class(model: LoadedModel, photo: ScenePhoto, size: int) -> int:
    logits = _predict(model, photo, size)
    assert isinstance(logits, torch.Tensor)
    return int(logits.argmax(1))


def _detected_boxes(model: LoadedModel, goal: PatchGoal, photo: ScenePhoto, size: int) -> Float:
    """Boxes (n, 4) of the true class in px of the photo, after suppression of duplicates."""
    prediction = _predict(model, photo, size)
    assert isinstance(prediction, Detections)
    detected = non_maximum_suppression(prediction, goal.score_threshold)[0]
    boxes = detected.of_class(goal.true_class).boxes.cpu().numpy().reshape(-1, 4)

    height, width = photo.image.shape[:2]
    limit = np.array([width, height, width, height])
    return np.asarray(boxes.clip(0, limit), np.float64)
