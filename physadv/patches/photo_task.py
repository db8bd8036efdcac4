"""Photos instead of signs: the patch anywhere in any photo (universal), or on the objects of a
class (worn)."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from physadv.core.errors import DataError, ImageError, OptionError
from physadv.core.image_io import list_images, read_rgba, to_tensor
from physadv.core.types import Detections, Prediction
from physadv.eot.scenes.find_signs import BOXES_FILE, read_boxes
from physadv.eot.scenes.load import SceneSources, split_parts
from physadv.eot.scenes.photos import OnObjects, PatchAnywhere, PatchPose, ScenePhoto, shrink_photo
from physadv.eot.scenes.sign_framing import Float
from physadv.eot.scenes.signs import SceneSize, SceneSource
from physadv.models.cards import LoadedModel
from physadv.models.classifiers import Preprocessed, resize_images
from physadv.models.detectors import non_maximum_suppression
from physadv.threat.patch_goals import PatchGoal

ANYWHERE = "anywhere"
LABELS_FILE = "labels.csv"
MOST_OBJECTS = 4
SMALLEST = 0.15
"""Objects lower than this share of the picture's height are neither patched nor judged."""
SHARES = {ANYWHERE: (0.3, 0.5), "objects": (0.15, 0.25)}
"""Width of the patch over the picture's side; over the diagonal of the object's box (Thys 2019:
0.2)."""
ROLL_DEG = {ANYWHERE: (-45.0, 45.0), "objects": (-20.0, 20.0)}
"""Brown 2017 and Thys 2019."""
TORSO = (0.5, 0.4)


def load_photo_sources(
    folder: Path | None,
    *,
    kind: str,
    pose: PatchPose,
    model: LoadedModel,
    goal: PatchGoal,
    view: SceneSize,
    seed: int,
    boxes: Path | None = None,
) -> SceneSources:
    """Read a folder of photos, label what is not labeled, and hold photos out.

    Classes come from labels.csv (file, class) beside the photos, else they are the model's own
    answers; boxes from ``boxes`` or boxes.csv (file, x0, y0, x1, y1), else from the detector.

    Args:
        folder: Folder of the photos; None is an error that names the option.
        kind: "anywhere", or a class of the detector whose objects carry the patch.
        pose: Size and turn of the patch in a photo.
        model: The model under attack.
        goal: Goal of the patch.
        view: Size of the pictures that the model sees.
        seed: Seed of the split.
        boxes: File of boxes; None for boxes.csv beside the photos.

    Returns:
        Scenes for training, validation and test, split by photo.

    Raises:
        OptionError: No folder is given, or the model does not suit the kind.
        DataError: Photos, labels or boxes cannot be used, or too few are left.
    """
    if folder is None:
        raise OptionError(f"--object {kind}", "needs photos", "give a folder with --photos")

    _check(kind, model, goal)
    sizes, photos, notes = _read(folder, 2 * view.size)
    if kind == ANYWHERE:
        photos, said = _labeled(folder, photos, model, goal, view)
    else:
        photos, said = _boxed(folder, boxes, sizes, photos, model, goal, view)
    parts = split_parts(photos, [p.group for p in photos], seed)
    notes += [
        *said,
        f"{len(photos)} photos split by photo: {len(parts[0])} train, {len(parts[2])} test",
    ]
    train, validation, test = (_source(part or photos, kind, pose, model) for part in parts)
    if not parts[1] or not parts[2]:
        notes.append(
            "too few photos to hold any out: judged on the photos it was optimized on, with other "
            "draws"
        )

    return SceneSources(train, validation, test, "photos", tuple(notes))


def _source(
    photos: Sequence[ScenePhoto], kind: str, pose: PatchPose, model: LoadedModel
) -> SceneSource:
    if kind == ANYWHERE:
        return PatchAnywhere(photos, pose, inner=_inner(model))
    return OnObjects(
        photos, pose, center=TORSO if kind == "person" else (0.5, 0.5), most=MOST_OBJECTS
    )


def object_share(material: SceneSources, pose: PatchPose) -> float:
    """Return the share of the picture, or of an object's box, that the patch of ``pose`` covers on
    average in ``material``."""
    source = material.train
    mean_square = (pose.share[0] ** 2 + pose.share[0] * pose.share[1] + pose.share[1] ** 2) / 3
    share = mean_square * pose.height_mm / pose.width_mm
    if not isinstance(source, OnObjects):
        return share
    boxes = np.concatenate([p.boxes for p in source.photos if p.boxes is not None])
    sides = boxes[:, 2:] - boxes[:, :2]
    return share * float(np.mean((sides**2).sum(1) / sides.prod(1)))


def check_object_class(kind: str, model: LoadedModel) -> None:
    """Raise OptionError where objects of class ``kind`` are to carry the patch and ``model`` is no
    detector."""
    if kind != ANYWHERE and model.card.task != "detect":
        raise OptionError(
            f"--object {kind}", f"{model.card.name} is a classifier", f"use --object {ANYWHERE}"
        )


def _check(kind: str, model: LoadedModel, goal: PatchGoal) -> None:
    check_object_class(kind, model)
    if kind == ANYWHERE and model.card.task == "detect" and goal.kind != "create":
        raise OptionError(
            f"goal {goal.kind!r} {ANYWHERE} in a photo",
            "a detector's box appears there",
            "use --goal create --target CLASS, or --object CLASS to put the patch on objects",
        )


def _inner(model: LoadedModel) -> float:
    """The share of a picture's side that a model with a central crop sees."""
    crop = model.net.crop if isinstance(model.net, Preprocessed) else None
    return 1.0 if crop is None else crop[0] / crop[1]


def _read(
    folder: Path, shorter_px: int
) -> tuple[list[tuple[int, int]], list[ScenePhoto], list[str]]:
    """Photos, shrunk, with the (width, height) each had before."""
    sizes, photos, notes = [], [], []
    for file in list_images(folder):
        try:
            image = read_rgba(file)[..., :3]
        except ImageError as error:
            notes.append(f"skipped: {error}")
            continue
        photos.append(ScenePhoto(np.ascontiguousarray(shrink_photo(image, shorter_px)), file.name))
        sizes.append((image.shape[1], image.shape[0]))

    if not photos:
        raise DataError(f"{folder}", "holds no photo that can be read", "name a folder of photos")

    return sizes, photos, notes


def _labeled(
    folder: Path,
    photos: Sequence[ScenePhoto],
    model: LoadedModel,
    goal: PatchGoal,
    view: SceneSize,
) -> tuple[list[ScenePhoto], list[str]]:
    """Photos with their class, without those of the target class; for a detector as they are."""
    if model.card.task == "detect":
        return list(photos), []

    table = folder / LABELS_FILE
    if table.is_file():
        known = _read_labels(table, model.card.class_index)
        labels = [known.get(p.group, -1) for p in photos]
        notes = [f"classes from {LABELS_FILE}"]
    else:
        labels = [_own_class(model, p, view.size) for p in photos]
        notes = [
            f"no {LABELS_FILE}: the model's own answer on the clean photo is taken for the truth"
        ]
    pairs = zip(photos, labels, strict=True)
    kept = [
        ScenePhoto(p.image, p.group, label)
        for p, label in pairs
        if label >= 0 and label != goal.target_class
    ]
    if len(kept) < len(photos):
        notes.append(
            f"{len(photos) - len(kept)} photos left out: without a class, or of the target class"
        )
    if not kept:
        raise DataError(f"{folder}", "no photo is left", f"list more of them in {LABELS_FILE}")

    return kept, notes


def _read_labels(path: Path, index: Callable[[str], int]) -> dict[str, int]:
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if not {"file", "class"} <= set(reader.fieldnames or ()):
            raise DataError(f"{path}", "needs the columns file, class", "add a header line")
        return {row["file"]: index(row["class"]) for row in reader}


def _boxed(
    folder: Path,
    boxes: Path | None,
    sizes: Sequence[tuple[int, int]],
    photos: Sequence[ScenePhoto],
    model: LoadedModel,
    goal: PatchGoal,
    view: SceneSize,
) -> tuple[list[ScenePhoto], list[str]]:
    """Photos with the boxes of the objects large enough to carry a patch."""
    table = boxes or folder / BOXES_FILE
    name = model.card.class_name(goal.true_class)
    if table.is_file():
        corners = read_boxes(table)
        found = [
            _scaled(corners.get(p.group, []), size, p)
            for size, p in zip(sizes, photos, strict=True)
        ]
        notes = [f"boxes from {table.name}"]
    elif boxes is not None:
        raise DataError(f"{boxes}", "no such file", "check the path")
    else:
        found = [_own_boxes(model, goal, p, view.size) for p in photos]
        notes = [
            f"no {BOXES_FILE}: what the model itself detects as {name} on the clean photo "
            f"(score {goal.score_threshold:g}) is taken for the truth"
        ]
    kept, crowded = [], 0
    for photo, own in zip(photos, found, strict=True):
        large = own[(own[:, 3] - own[:, 1]) >= SMALLEST * photo.image.shape[0]]
        crowded += len(large) > MOST_OBJECTS
        if 1 <= len(large) <= MOST_OBJECTS:
            kept.append(ScenePhoto(photo.image, photo.group, goal.true_class, large))

    if not kept:
        raise DataError(
            f"{folder}",
            f"no {name} in it is large enough",
            f"add photos, or {BOXES_FILE} with boxes",
        )

    total = sum(len(p.boxes) for p in kept if p.boxes is not None)
    notes.append(
        f"{total} objects in {len(kept)} of {len(photos)} photos; left out: objects under "
        f"{SMALLEST:.0%} of the "
        f"height, and {crowded} photos with more than {MOST_OBJECTS}"
    )

    return kept, notes


def _scaled(corners: Sequence[Float], size: tuple[int, int], photo: ScenePhoto) -> Float:
    """Boxes in the pixels of a photo of (width, height) ``size``, in those of the photo as it is
    kept."""
    if not corners:
        return np.zeros((0, 4))
    factor = np.tile(np.array([photo.image.shape[1], photo.image.shape[0]]) / np.array(size), 2)
    return np.asarray(np.array([[*c.min(0), *c.max(0)] for c in corners]) * factor, np.float64)


@torch.no_grad()
def _answer(model: LoadedModel, photo: ScenePhoto, size: int) -> Prediction:
    """The model's answer on the clean photo, stretched to a square for a detector, its middle for
    a classifier."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    image = to_tensor(photo.image)[None]
    if model.card.task == "classify":
        side = min(image.shape[-2:])
        y, x = (image.shape[-2] - side) // 2, (image.shape[-1] - side) // 2
        image = image[..., y : y + side, x : x + side]
    answer: Prediction = model(resize_images(image, size, size).to(device))
    return answer


def _own_class(model: LoadedModel, photo: ScenePhoto, size: int) -> int:
    logits = _answer(model, photo, size)
    assert isinstance(logits, torch.Tensor)
    return int(logits.argmax(1))


def _own_boxes(model: LoadedModel, goal: PatchGoal, photo: ScenePhoto, size: int) -> Float:
    prediction = _answer(model, photo, size)
    assert isinstance(prediction, Detections)
    found = non_maximum_suppression(prediction, goal.score_threshold)[0].of_class(goal.true_class)
    height, width = photo.image.shape[:2]
    scale = np.tile([width / size, height / size], 2)
    limit = np.array([width, height, width, height])
    return np.asarray((found.boxes.cpu().numpy().reshape(-1, 4) * scale).clip(0, limit), np.float64)
