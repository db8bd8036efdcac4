"""Scenes from a user's folders: photos or drawings of signs and backgrounds, parts held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from physadv.core.errors import DataError, ImageError
from physadv.core.image_io import SUFFIXES, Array, list_images, read_rgba
from physadv.core.random_streams import numpy_generator
from physadv.core.sign_artwork import SignFace, sign_face
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.datasets import read_dataset
from physadv.eot.scenes.find_signs import BOXES_FILE, box_corners, find_signs, read_boxes
from physadv.eot.scenes.signs import DrawnScenes, MixedScenes, PhotoScenes, PhotoSign, SceneSource

T = TypeVar("T")
SHARES = (0.6, 0.15, 0.25)
"""Training, validation (choosing the best patch) and test (the reported figure)."""


@dataclass(frozen=True)
class SceneSources:
    """Scenes that a patch is optimized on, chosen by and judged by."""

    train: SceneSource
    validation: SceneSource
    test: SceneSource
    kind: str
    """ "drawn" or "photos"."""
    notes: tuple[str, ...] = ()
    """What was skipped and how the split was made, in plain words; goes on the card."""
    faces: tuple[SignFace, ...] = ()
    signs: tuple[tuple[PhotoSign, ...], ...] = field(default=())
    """Photo signs of the three parts."""


def load_scene_sources(
    signs: Path | None,
    backgrounds: Path | None,
    *,
    width_mm: float,
    seed: int,
    accept: Callable[[Sequence[PhotoSign]], Sequence[bool]] | None = None,
    boxes: Path | None = None,
) -> SceneSources:
    """Read signs and backgrounds and split them by photo; with neither, everything is drawn by
    code.

    Args:
        signs: Folder or file of photos (corners from ``boxes`` or boxes.csv beside them, else
            located), of drawings (SVG, or PNG with transparency), or a GTSRB folder or zip.
        backgrounds: Folder of photos without the sign; None: made by code.
        width_mm: Width of the sign.
        seed: Decides the split and what is made by code.
        accept: Returns for each located sign whether to keep it; others are left out.
        boxes: CSV of the signs' boxes.

    Returns:
        The three parts, with notes for the card.

    Raises:
        ImageError: A file that cannot be read.
        DataError: Nothing usable in ``signs``.
    """
    photos, faces, notes = ([], [], []) if signs is None else read_signs(signs, boxes)

    if photos and accept is not None:
        keep = accept(photos)
        lost = len(photos) - sum(keep)
        photos = [p for p, good in zip(photos, keep, strict=True) if good]
        if not photos:
            raise DataError(
                f"'{signs}': no sign in it is recognized by the model",
                "The model must recognize the true class without a patch",
                "Use clearer photos of the sign",
            )
        if lost:
            notes.append(
                f"{lost} located signs left out: the model does not see the true class in them "
                "unpatched"
            )

    pools, note = _background_pools(backgrounds, seed)
    if photos:
        drawn_beside = DrawnScenes([sign_face()], pools[0], width_mm)
        return _photo_material(photos, drawn_beside, [*notes, note], width_mm, seed)

    drawn = faces or [sign_face()]
    face_parts = split_parts(drawn, [f.name for f in drawn], seed)
    if len(drawn) > 1 and not all(face_parts):
        face_parts = (drawn, drawn, drawn)
    parts = [
        DrawnScenes(f or drawn, pool, width_mm) for f, pool in zip(face_parts, pools, strict=True)
    ]
    return SceneSources(parts[0], parts[1], parts[2], "drawn", (*notes, note), faces=tuple(drawn))


def _photo_material(
    photos: list[PhotoSign], drawn: DrawnScenes, notes: list[str], width_mm: float, seed: int
) -> SceneSources:
    """Split photos by photo.

    Few photos alone would be learnt by heart, so drawn signs are trained on beside them.
    """
    groups = [p.group for p in photos]
    train, validation, test = split_parts(photos, groups, seed)
    names = len(set(groups))

    if names < 2:
        test = train
        notes.append("one photo only: judged on the photo it was optimized on, with other draws")
    else:
        notes.append(
            f"{names} photos split by photo: {_count(train)} train (drawn signs beside them), "
            f"{_count(test)} test"
        )

    if not validation:
        validation = train
        notes.append("validation on the training photos with other draws")

    first, second, third = (PhotoScenes(part, width_mm) for part in (train, validation, test))
    parts = (tuple(train), tuple(validation), tuple(test))
    return SceneSources(
        MixedScenes([first, drawn]), second, third, "photos", tuple(notes), signs=parts
    )


def _count(photos: Sequence[PhotoSign]) -> int:
    return len({p.group for p in photos})


def read_signs(
    path: Path, boxes: Path | None = None
) -> tuple[list[PhotoSign], list[SignFace], list[str]]:
    """Read photos and drawings of signs.

    Args:
        path: Folder or file; a GTSRB folder or zip.
        boxes: CSV of the signs' boxes; None: boxes.csv beside the photos, where there is one.

    Returns:
        Photo signs with their corners, drawn faces (1 mm wide), and notes on what was skipped.

    Raises:
        ImageError: The only file cannot be read.
        DataError: No sign in any picture, or no file ``boxes``.
    """
    if path.suffix.lower() == ".zip" or any(path.glob("**/GT-*.csv")):
        return _read_gtsrb(path), [], []

    files = list_images(path, suffixes=SUFFIXES | {".svg"})
    boxes_file = boxes or (path if path.is_dir() else path.parent) / BOXES_FILE
    if boxes is not None and not boxes.is_file():
        raise DataError(f"'{boxes}' does not exist", "Boxes are a CSV file", "Check the path")
    known = read_boxes(boxes_file) if boxes_file.is_file() else {}

    photos: list[PhotoSign] = []
    faces: list[SignFace] = []
    notes: list[str] = []
    for file in files:
        try:
            rgba = read_rgba(file)
        except ImageError as error:
            if len(files) == 1:
                raise
            notes.append(f"skipped: {error}")
            continue
        if _is_drawing(file, rgba):
            faces.append(SignFace(file.stem, _tight(rgba), 1.0))
            continue
        located = known.get(file.name) or find_signs(rgba[..., :3])
        if not located:
            notes.append(f"skipped: no sign found in {file.name}; name its box in {BOXES_FILE}")
        photos += [PhotoSign(rgba[..., :3], corners, file.name) for corners in located]

    if photos and faces:
        notes.append(f"{len(faces)} drawings left out beside photos")
    if not photos and not faces:
        raise DataError(
            f"'{path}': no sign was located in any picture",
            "At least one picture must show it",
            f"Add {BOXES_FILE} with file,x0,y0,x1,y1",
        )
    return photos, faces, notes


def _read_gtsrb(path: Path, label: int = 14, most: int = 1500) -> list[PhotoSign]:
    """Read stop signs of the tracks that the embedded model was not trained on.

    A track is one group: its frames never part.
    """
    dataset = read_dataset(path, split="test")
    chosen = np.flatnonzero(dataset.labels == label)[:most]
    if dataset.boxes is None or len(chosen) == 0:
        raise DataError(
            f"'{path}' has no image of class {label} with its box",
            "Signs and their boxes are needed",
            "Use the official GTSRB layout",
        )
    return [
        PhotoSign(dataset.read(i), box_corners(*dataset.boxes[i].tolist()), dataset.groups[i])
        for i in chosen
    ]


def _is_drawing(file: Path, rgba: Array) -> bool:
    return file.suffix.lower() == ".svg" or float((rgba[..., 3] < 128).mean()) > 0.02


def _tight(rgba: Array) -> Array:
    """Cut away transparent margins and make it square, so that its width is the sign's."""
    ys, xs = np.nonzero(rgba[..., 3] > 127)
    if len(ys) == 0:
        return rgba
    cut = rgba[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    side = max(cut.shape[:2])
    square = np.zeros((side, side, 4), np.uint8)
    y, x = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    square[y : y + cut.shape[0], x : x + cut.shape[1]] = cut
    return square


def _background_pools(
    folder: Path | None, seed: int, made: int = 24
) -> tuple[list[list[Array]], str]:
    if folder is None:
        names = ("train", "validation", "test")
        return [
            [synthetic_background(seed, name, i) for i in range(made)] for name in names
        ], "backgrounds made by code"

    files = list_images(folder)
    pictures = [read_rgba(f)[..., :3] for f in files[:400]]
    parts = split_parts(pictures, [f.name for f in files[:400]], seed)
    if not all(parts):
        return [pictures] * 3, f"{len(files)} backgrounds: too few to hold any out"
    return list(parts), f"{len(pictures)} backgrounds split by photo"


def split_parts(
    items: Sequence[T], groups: Sequence[str], seed: int
) -> tuple[list[T], list[T], list[T]]:
    """Split whole groups by :data:`SHARES`.

    Args:
        items: What is split.
        groups: Group of each item; the items of a group never part.
        seed: Decides the split.

    Returns:
        Training, validation and test items; at least one group in the test part where there are
        two.
    """
    names = sorted(set(groups))
    order = [names[i] for i in numpy_generator(seed, "split").permutation(len(names))]

    test = max(1, round(SHARES[2] * len(order))) if len(order) > 1 else 0
    validation = round(SHARES[1] * len(order)) if len(order) >= 6 else 0
    part = {
        name: 2 if i < test else 1 if i < test + validation else 0 for i, name in enumerate(order)
    }

    split: tuple[list[T], list[T], list[T]] = ([], [], [])
    for item, group in zip(items, groups, strict=True):
        split[part[group]].append(item)
    return split
