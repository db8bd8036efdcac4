"""Scenes from a user's folders: photos or drawings of signs and backgrounds, parts held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar, overload

import numpy as np

from physadv.core.drawn_streets import drawn_street
from physadv.core.errors import DataError, ImageError
from physadv.core.image_io import (
    IMAGE_SUFFIXES,
    Array,
    lay_on_white,
    list_images,
    read_reduced,
)
from physadv.core.picture_files import picture_count
from physadv.core.random_streams import numpy_generator
from physadv.core.sign_artwork import SignFace, sign_face
from physadv.core.stop_signs import STOP_NAMES, VARIED
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.core.wording import count_noun
from physadv.datasets import read_dataset
from physadv.datasets.box_annotations import Corners, LabeledBox, box_corners
from physadv.eot.scenes.boxes import BOXES_FILE, find_box_file, read_boxes
from physadv.eot.scenes.find_signs import find_signs
from physadv.eot.scenes.sign_faces import HELD_OUT_FACES, TRAINING_FACES
from physadv.eot.scenes.signs import DrawnScenes, MixedScenes, PhotoScenes, PhotoSign, SceneSource

_Item = TypeVar("_Item")
_Sign = TypeVar("_Sign", PhotoSign, SignFace)
SPLIT_SHARES = (0.6, 0.15, 0.25)
"""Shares of training, validation (which chooses the best patch) and test (the reported rates)."""
PLAIN_NOTE = "backgrounds made by code"
"""What a card says where :mod:`physadv.core.synthetic_backgrounds` drew them."""
STREETS_NOTE = "backgrounds: streets drawn by code"
"""What it says where :mod:`physadv.core.drawn_streets` did."""
_MOST_BACKGROUNDS = 400
_STOP_SIGN = 14
"""Class of the stop sign in GTSRB."""


@dataclass(frozen=True)
class SceneSources:
    """Scenes that a patch is optimized on, chosen by and judged by."""

    train: SceneSource
    """Scenes of the optimization."""
    validation: SceneSource
    """Scenes that choose the best patch."""
    test: SceneSource
    """Scenes of the reported rates."""
    kind: str
    """ "drawn", or "photos" where there are any."""
    notes: tuple[str, ...] = ()
    """Files skipped and kind of the split, in plain words for the card."""
    faces: tuple[SignFace, ...] = ()
    """The user's drawn faces, or the plain one, where there are no photos."""
    signs: tuple[tuple[PhotoSign, ...], ...] = field(default=())
    """Photo signs of the three parts."""
    held_out_faces: tuple[str, ...] = ()
    """Names of the drawn faces of the test scenes, where faces are held out whole."""

    @property
    def clustered(self) -> bool:
        """Whether test scenes share few photos or faces, which intervals then count as trials."""
        return self.kind == "photos" or len(self.held_out_faces) > 1


def load_scene_sources(
    signs: str | Path | Sequence[str | Path] | None,
    backgrounds: str | Path | None,
    *,
    width_mm: float,
    seed: int,
    accept: Callable[[Sequence[PhotoSign | SignFace]], Sequence[bool]] | None = None,
    boxes: str | Path | None = None,
    class_name: str | None = None,
    faces: str = VARIED,
    streets: bool = False,
) -> SceneSources:
    """Read signs and backgrounds and split them by photo and by drawing.

    Varied faces are drawn beside the user's photos and drawings, in equal shares: those of
    :data:`~physadv.eot.scenes.sign_faces.TRAINING_FACES` in training and validation, those of
    :data:`~physadv.eot.scenes.sign_faces.HELD_OUT_FACES` in the test. They are stop signs, so other
    classes, such as boards and posters, do without them: their own drawings stand beside their
    photos, and are held out whole. With the plain face, one drawn stop sign stands beside photos of
    stop signs in training, and alone where there is nothing else.

    Args:
        signs: Folders or files of photos (corners from ``boxes`` or boxes.csv beside them, else
            located), of drawings (SVG, or PNG with transparency), or GTSRB folders or zips.
        backgrounds: Folder of photos without the sign; None: pictures drawn by code.
        width_mm: Width of the sign.
        seed: Seed of the split and of synthetic backgrounds.
        accept: Function of the located signs, and of the drawings beside varied faces, that returns
            whether each is kept.
        boxes: CSV (file, x0, y0, x1, y1), COCO, VOC or YOLO file or folder of the signs' boxes.
        class_name: Class of the signs, for files with boxes of several classes.
        faces: Kind of the drawn faces: "varied" or "plain".
        streets: Whether pictures drawn by code are streets
            (:mod:`physadv.core.drawn_streets`), which frames for detectors need: before the plain
            ones a detector misses more signs than before photos of streets.

    Returns:
        The three parts, with notes for the card.

    Raises:
        ImageError: A file cannot be read.
        DataError: ``signs`` has no sign that can be used.

    Example:
        >>> sources = load_scene_sources(None, None, width_mm=457, seed=0)
        >>> sources.kind, len(sources.held_out_faces)
        ('drawn', 10)
    """
    paths = [signs] if isinstance(signs, str | Path) else list(signs or ())
    is_stop = class_name is None or class_name in STOP_NAMES
    varied = faces == VARIED and is_stop
    mixes = varied or not is_stop
    photos, drawings, notes = read_sign_folders(paths, boxes, class_name, mixes=mixes)
    if accept is not None:
        name = ", ".join(map(str, paths))
        photos = _accepted(photos, accept, "located signs", notes)
        drawings = _accepted(drawings, accept, "drawings", notes) if mixes else drawings
        if paths and not photos and not drawings:
            raise DataError(
                f"'{name}': no sign in it is recognized by the model",
                "The model must recognize the true class without a patch",
                "Use clearer photos of the sign",
            )
    pools, note = _background_pools(backgrounds, seed, streets=streets)
    notes.append(note)
    photo_parts = _photo_parts(photos, notes, seed, varied=varied) if photos else ()
    photographed = [PhotoScenes(part, width_mm) for part in photo_parts]
    if varied:
        return _varied_sources(photographed, photo_parts, drawings, pools, notes, width_mm, seed)
    if not is_stop and (photos or drawings):
        return _own_sources(photographed, photo_parts, drawings, pools, notes, width_mm, seed)

    # Drawn signs stand beside photos in training: few photos alone would be overfitted.
    drawings = [sign_face()] if photos or not drawings else drawings
    face_parts = split_parts(drawings, [face.name for face in drawings], seed)
    if not all(face_parts):
        face_parts = (drawings, drawings, drawings)
    drawn = [
        DrawnScenes(part, pool, width_mm) for part, pool in zip(face_parts, pools, strict=True)
    ]
    if not photos:
        train, validation, test = drawn
        return SceneSources(train, validation, test, "drawn", tuple(notes), tuple(drawings))
    return SceneSources(
        MixedScenes([photographed[0], drawn[0]]),
        photographed[1],
        photographed[2],
        "photos",
        tuple(notes),
        signs=photo_parts,
    )


def _varied_sources(
    photographed: list[PhotoScenes],
    photo_parts: tuple[tuple[PhotoSign, ...], ...],
    drawings: list[SignFace],
    pools: Sequence[Sequence[Array]],
    notes: list[str],
    width_mm: float,
    seed: int,
) -> SceneSources:
    """The user's photos and drawings beside varied faces, in equal shares."""
    drawing_parts = _drawing_parts(drawings, notes, seed)
    designs = (TRAINING_FACES, TRAINING_FACES, HELD_OUT_FACES)
    notes.append(
        f"{len(TRAINING_FACES)} designs of drawn stop signs in training, "
        f"{len(HELD_OUT_FACES)} others in the test"
    )
    parts: list[SceneSource] = []
    for number, pool in enumerate(pools):
        mixed: list[SceneSource] = [DrawnScenes(designs[number], pool, width_mm)]
        if drawings:
            mixed.insert(0, DrawnScenes(drawing_parts[number], pool, width_mm))
        if photographed:
            mixed.insert(0, photographed[number])
        parts.append(mixed[0] if len(mixed) == 1 else MixedScenes(mixed))

    held_out = [face.name for face in (*drawing_parts[2], *HELD_OUT_FACES)]
    train, validation, test = parts
    return SceneSources(
        train,
        validation,
        test,
        kind="photos" if photographed else "drawn",
        notes=tuple(notes),
        faces=() if photographed else tuple(drawings),
        signs=photo_parts,
        held_out_faces=tuple(dict.fromkeys(held_out)),
    )


def _own_sources(
    photographed: list[PhotoScenes],
    photo_parts: tuple[tuple[PhotoSign, ...], ...],
    drawings: list[SignFace],
    pools: Sequence[Sequence[Array]],
    notes: list[str],
    width_mm: float,
    seed: int,
) -> SceneSources:
    """The user's photos and drawings of another sign, board or poster, in equal shares."""
    drawing_parts = _drawing_parts(drawings, notes, seed)
    parts: list[SceneSource] = []
    for number, pool in enumerate(pools):
        mixed: list[SceneSource] = [photographed[number]] if photographed else []
        if drawing_parts[number]:
            mixed.append(DrawnScenes(drawing_parts[number], pool, width_mm))
        parts.append(mixed[0] if len(mixed) == 1 else MixedScenes(mixed))

    train, validation, test = parts
    held_out = {face.name for face in drawing_parts[2]} - {face.name for face in drawing_parts[0]}
    return SceneSources(
        train,
        validation,
        test,
        kind="photos" if photographed else "drawn",
        notes=tuple(notes),
        faces=() if photographed else tuple(drawings),
        signs=photo_parts,
        held_out_faces=tuple(sorted(held_out)),
    )


def _drawing_parts(
    drawings: list[SignFace], notes: list[str], seed: int
) -> tuple[list[SignFace], list[SignFace], list[SignFace]]:
    """The user's drawings of training, validation and test; ``notes`` says how they are split."""
    train, validation, test = split_parts(drawings, [face.name for face in drawings], seed)
    if len({face.name for face in drawings}) == 1:
        test = train
        notes.append(
            "one drawing only: judged on the drawing it was optimized on, with other draws"
        )
    elif drawings:
        notes.append(f"{len(drawings)} drawings: {len(train)} train, {len(test)} test")
    return train, validation or train, test


def read_sign_folders(
    paths: Sequence[str | Path],
    boxes: str | Path | None = None,
    class_name: str | None = None,
    *,
    mixes: bool = False,
) -> tuple[list[PhotoSign], list[SignFace], list[str]]:
    """Read photos and drawings of signs in several folders.

    Args:
        paths: Folders or files, as :func:`read_signs` takes them.
        boxes: File or folder of the signs' boxes, for every folder that it names photos of.
        class_name: Class of the signs, for files with boxes of several classes.
        mixes: Whether drawings are used beside photos, which they are not by default.

    Returns:
        Photo signs, drawn faces and notes; of several folders each name is led by its folder's.

    Raises:
        ImageError: The only file of a path cannot be read.
        DataError: A path has no sign, or ``boxes`` can be used for none of them.
    """
    photos: list[PhotoSign] = []
    drawings: list[SignFace] = []
    notes: list[str] = []
    unmatched: DataError | None = None
    matched = boxes is None or not paths
    for path in paths:
        try:
            more = read_signs(path, boxes, class_name, mixes=mixes)
            matched = True
        except DataError as error:
            if boxes is None or len(paths) == 1:
                raise
            unmatched = unmatched or error
            more = read_signs(path, None, class_name, mixes=mixes)
        if len(paths) > 1:
            more = _named_by_folder(more, Path(path))
        photos += more[0]
        drawings += more[1]
        notes += more[2]
    if not matched and unmatched is not None:
        raise unmatched
    if len(paths) > 1 and photos and drawings and not mixes:
        notes.append(f"{len(drawings)} drawings left out beside photos")
    return photos, drawings, notes


def _named_by_folder(
    found: tuple[list[PhotoSign], list[SignFace], list[str]], path: Path
) -> tuple[list[PhotoSign], list[SignFace], list[str]]:
    """What one of several folders holds, its names led by the folder's."""
    photos, drawings, notes = found
    photos = [replace(photo, group=f"{path.name}/{photo.group}") for photo in photos]
    drawings = [replace(face, name=f"{path.name}/{face.name}") for face in drawings]
    return photos, drawings, [f"{path.name}: {note}" for note in notes]


def _accepted(
    signs: list[_Sign],
    accept: Callable[[Sequence[PhotoSign | SignFace]], Sequence[bool]],
    kind: str,
    notes: list[str],
) -> list[_Sign]:
    """The ``signs`` of a kind that are accepted; how many are not goes to ``notes``."""
    kept = [sign for sign, good in zip(signs, accept(signs), strict=True) if good]
    if len(kept) < len(signs):
        notes.append(
            f"{len(signs) - len(kept)} {kind} left out: the model does not recognize the true "
            "class in them without a patch"
        )
    return kept


def _photo_parts(
    photos: list[PhotoSign], notes: list[str], seed: int, *, varied: bool
) -> tuple[tuple[PhotoSign, ...], ...]:
    """The signs of training, validation and test, split by photo; ``notes`` says how."""
    groups = [sign.group for sign in photos]
    train, validation, test = split_parts(photos, groups, seed)
    names = len(set(groups))

    if names < 2:
        test = train
        notes.append("one photo only: judged on the photo it was optimized on, with other draws")
    else:
        notes.append(
            f"{count_noun(names, 'photo')} split by photo: {_photo_count(train)} train (drawn "
            f"signs beside them), {_photo_count(test)} "
            f"test{' (drawn signs beside them)' if varied else ''}"
        )

    if not validation:
        validation = train
        notes.append("validation on the training photos with other draws")
    return tuple(train), tuple(validation), tuple(test)


def _photo_count(signs: Sequence[PhotoSign]) -> int:
    return len({sign.group for sign in signs})


def read_signs(
    path: str | Path,
    boxes: str | Path | None = None,
    class_name: str | None = None,
    *,
    mixes: bool = False,
) -> tuple[list[PhotoSign], list[SignFace], list[str]]:
    """Read photos and drawings of signs.

    Args:
        path: Folder or file of photos and drawings, or a GTSRB folder or zip.
        boxes: File or folder of the signs' boxes; None: one beside the photos, where there is one.
            Signs of photos without a box are located by :func:`find_signs`.
        class_name: Class of the signs, for files with boxes of several classes.
        mixes: Whether drawings are used beside photos, which they are not by default.

    Returns:
        Photo signs with their corners, drawn faces (1 mm wide), and notes on what was skipped.

    Raises:
        ImageError: The only file cannot be read.
        DataError: No picture shows a sign, or ``boxes`` cannot be used.
    """
    notes: list[str] = []
    if Path(path).suffix.lower() == ".zip" or any(Path(path).glob("**/GT-*.csv")):
        pictures = _read_gtsrb(path)
    else:
        pictures = _read_sign_files(path, boxes, class_name, notes)

    photos: list[PhotoSign] = []
    searched = 0
    for picture in pictures:
        if picture.is_drawing:
            continue
        image = lay_on_white(picture.pixels)
        located = picture.corners or find_signs(image)
        searched += not picture.corners
        if not located:
            notes.append(f"skipped: no sign found in {picture.name}; name its box in {BOXES_FILE}")
        photos += [PhotoSign(image, corners, picture.name) for corners in located]
    faces = [
        SignFace(Path(picture.name).stem, _crop_to_square(picture.pixels), 1.0)
        for picture in pictures
        if picture.is_drawing
    ]

    if searched and any(picture.corners for picture in pictures):
        notes.append(
            f"{count_noun(searched, 'photo')} without a box: red octagons were searched in them"
        )
    if photos and faces and not mixes:
        notes.append(f"{len(faces)} drawings left out beside photos")
    if not photos and not faces:
        skipped = next((note for note in notes if note.startswith("skipped: ")), "")
        raise DataError(
            f"'{path}': no sign was located in any picture",
            skipped.partition(": ")[2] or "At least one picture must show it",
            f"Add {BOXES_FILE} with file,x0,y0,x1,y1",
        )
    return photos, faces, notes


@dataclass(frozen=True)
class _SignPicture:
    """One picture of a user's folder of signs.

    Args:
        name: Name of its file relative to its folder, or of the track that its frame is of.
        pixels: (h, w, 3) uint8, or (h, w, 4) with alpha.
        corners: Known corners of the signs in it; empty where they have to be located.
        is_drawing: Whether it is a drawing of a sign's face rather than a photo.
    """

    name: str
    pixels: Array
    corners: list[Corners] = field(default_factory=list)
    is_drawing: bool = False


def photo_boxes(
    folder: Path, boxes: Path | None, class_name: str | None
) -> tuple[dict[str, list[LabeledBox]], list[str]]:
    """Return the boxes of a folder's photos.

    Args:
        folder: Folder of photos.
        boxes: File or folder of their boxes; None: one beside them, where there is one.
        class_name: Class of the boxes, for files with several classes.

    Returns:
        Boxes by the photo's name relative to ``folder``, empty without such a file, and notes on
        how they were read and matched.

    Raises:
        DataError: The file cannot be used, or names no photo that is there.
    """
    photos = list_images(folder, suffixes=IMAGE_SUFFIXES | {".svg"})
    place = boxes or find_box_file(folder, photos)
    if place is None:
        return {}, []
    table = read_boxes(place, class_name)
    names = [photo.relative_to(folder).as_posix() for photo in photos]
    matched, notes = table.match(names, folder.resolve().name)
    return matched, [*table.notes, *notes]


def _read_sign_files(
    path: str | Path, boxes: str | Path | None, class_name: str | None, notes: list[str]
) -> list[_SignPicture]:
    """Read photos and drawings with the boxes named or beside them; ``notes`` takes the skipped."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    files = _read_pictures(path, suffixes=IMAGE_SUFFIXES | {".svg"}, skipped=notes)
    boxes_of, box_notes = photo_boxes(folder, None if boxes is None else Path(boxes), class_name)
    notes += box_notes

    pictures = []
    for file, rgba, size in files:
        name = file.relative_to(folder).as_posix()
        scale = rgba.shape[1] / size[0]
        corners = [box.corners(size) * scale for box in boxes_of.get(name, [])]
        is_drawing = not corners and _is_drawing(file, rgba)
        pictures.append(_SignPicture(name, rgba, corners, is_drawing))
        if (count := picture_count(file)) > 1:
            notes.append(f"{name}: the first of its {count} pictures is read")
    return pictures


def _read_pictures(
    path: str | Path,
    *,
    suffixes: frozenset[str] = IMAGE_SUFFIXES,
    most: int | None = None,
    skipped: list[str] | None = None,
) -> list[tuple[Path, Array, tuple[int, int]]]:
    """The image files under ``path``, at most ``most``, their pixels (h, w, 4), and their width and
    height before the largest were reduced.

    Files that cannot be read are noted in ``skipped``, where it is given and others can be.
    """
    files = list_images(path, suffixes=suffixes)[:most]
    pictures = []
    for file in files:
        try:
            pictures.append((file, *read_reduced(file)))
        except ImageError as error:
            if skipped is None or len(files) == 1:
                raise
            skipped.append(f"skipped: {error}")
    return pictures


def _read_gtsrb(path: str | Path, label: int = _STOP_SIGN, most: int = 1500) -> list[_SignPicture]:
    """Read stop signs of the tracks that the embedded model was not trained on.

    The frames of a track have one name, so that they fall into one part.
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
        _SignPicture(dataset.groups[i], dataset.read(i), [box_corners(*dataset.boxes[i].tolist())])
        for i in chosen
    ]


def _is_drawing(file: Path, rgba: Array) -> bool:
    """Return whether a file is a drawing: SVG, or over 2 % of it transparent."""
    return file.suffix.lower() == ".svg" or float((rgba[..., 3] < 128).mean()) > 0.02


def _crop_to_square(rgba: Array) -> Array:
    """Cut transparent margins and pad to a square, so that its width is the sign's."""
    ys, xs = np.nonzero(rgba[..., 3] > 127)
    if len(ys) == 0:
        return rgba

    cut = rgba[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    side = max(cut.shape[:2])
    square = np.zeros((side, side, 4), np.uint8)
    y, x = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    square[y : y + cut.shape[0], x : x + cut.shape[1]] = cut
    return square


class _DrawnPictures(Sequence[Array]):
    """Pictures drawn by code, each when it is first asked for: a street takes 0.2 s."""

    def __init__(self, draw: Callable[[int], Array], count: int) -> None:
        self._draw, self._count = draw, count
        self._drawn: dict[int, Array] = {}

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> list[Array]: ...
    def __getitem__(self, index: int | slice) -> Array | list[Array]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        if index not in self._drawn:
            self._drawn[index] = self._draw(index)
        return self._drawn[index]


def _background_pools(
    folder: str | Path | None, seed: int, count: int = 24, *, streets: bool = False
) -> tuple[Sequence[Sequence[Array]], str]:
    """Return the backgrounds of training, validation and test, and a note for the card.

    Without a folder, each part gets ``count`` drawn ones.
    """
    if folder is None:
        draw = drawn_street if streets else synthetic_background
        pools = [
            _DrawnPictures(partial(draw, seed, name), count)
            for name in ("train", "validation", "test")
        ]
        return pools, STREETS_NOTE if streets else PLAIN_NOTE

    pictures = _read_pictures(folder, most=_MOST_BACKGROUNDS)
    scenes = [lay_on_white(rgba) for _, rgba, _ in pictures]
    split = split_parts(scenes, [file.name for file, _, _ in pictures], seed)
    if not all(split):
        return [scenes] * 3, f"{len(scenes)} backgrounds: too few to hold any out"
    return list(split), f"{len(scenes)} backgrounds split by photo"


def split_parts(
    items: Sequence[_Item], groups: Sequence[str], seed: int
) -> tuple[list[_Item], list[_Item], list[_Item]]:
    """Split items by :data:`SPLIT_SHARES`, those of one group always together.

    Args:
        items: Items to split.
        groups: Group of each item.
        seed: Seed of the split.

    Returns:
        Training, validation and test items. The test part is empty only for a single group, the
        validation part for fewer than six.

    Example:
        >>> split_parts([1, 2, 3, 4], ["a", "a", "b", "b"], seed=0)
        ([1, 2], [], [3, 4])
    """
    names = sorted(set(groups))
    order = [names[i] for i in numpy_generator(seed, "split").permutation(len(names))]

    test = max(1, round(SPLIT_SHARES[2] * len(order))) if len(order) > 1 else 0
    validation = round(SPLIT_SHARES[1] * len(order)) if len(order) >= 6 else 0
    test_groups, validation_groups = set(order[:test]), set(order[test : test + validation])
    split: tuple[list[_Item], list[_Item], list[_Item]] = ([], [], [])
    for item, group in zip(items, groups, strict=True):
        part = 2 if group in test_groups else 1 if group in validation_groups else 0
        split[part].append(item)
    return split
