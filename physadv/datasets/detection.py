"""Data sets for detection: images with the boxes of their objects, in any usual layout.

YOLO and Roboflow folders, COCO and CreateML files and Pascal VOC, in a folder or an archive. Images
are decoded when they are read; boxes lie in arrays, so that a million of them take some 40 MB.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from physadv.core.csv_tables import parse_csv
from physadv.core.errors import DataError
from physadv.core.files import digest_of
from physadv.core.image_io import Array
from physadv.core.names import natural_key
from physadv.core.text import decode_text
from physadv.core.wording import count_noun
from physadv.datasets.box_annotations import (
    CLASS_FILES,
    MAX_COCO_BYTES,
    MOST_ASPECT,
    LabeledBox,
    class_lines,
    csv_boxes,
    in_order,
    parse_json_boxes,
    parse_voc,
    parse_yolo,
    yaml_class_names,
)
from physadv.datasets.file_access import FileSource
from physadv.datasets.parts import choose_parts, part_of, shown_parts
from physadv.datasets.summary import DatasetSummary

_MOST_LABEL_BYTES = 1 << 24
_CREATEML = "createml.json"
_CSV_ENDINGS = (".csv", ".tsv")
_CSV_NAMES = re.compile(
    r"(^|/)(_?annotations|boxes|bboxes|(train|val|valid|test)([-_ ]?(labels|boxes|annotations))?)"
    r"\.(csv|tsv)$",
    re.IGNORECASE,
)
_BOX_HEADER = re.compile(r"\bx(_?min|0|1)\b|\bleft\b", re.IGNORECASE)
"""A column of boxes in the first line of a CSV."""
_IMAGE_FOLDERS = ("images", "JPEGImages", "imgs", "img")
_LABEL_FOLDERS = ("labels", "Annotations", "annotations", "label")


@dataclass(frozen=True)
class ObjectBoxes:
    """Objects of one image.

    Attributes:
        boxes: Corners (k, 4) x0, y0, x1, y1 in px, float32.
        labels: Class numbers (k,), int64.
        crowd: Whether (k,) it stands for several objects, or is too hard to count.
        areas: Areas (k,) in px^2: of the outline where the set states it, else of the box.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class _BoxArrays:
    """Boxes of all images, in order of the images.

    Attributes:
        boxes: Corners (n, 4) as written.
        labels: Class numbers (n,).
        crowd: Whether (n,) it is a crowd.
        areas: Areas (n,) that are stated; NaN for none.
        sizes: Width and height (n, 2) of the picture that the box was drawn in; (1, 1) for boxes in
            shares of its sides, 0 where it is not known.
        starts: Number of the first box of each image (images + 1,).
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float32]
    sizes: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, by_image: Sequence[Sequence[LabeledBox]], numbers: Mapping[str, int]) -> _BoxArrays:
        """Return the boxes of each image in arrays; ``numbers`` are the classes' by their name."""
        flat = [box for boxes in by_image for box in boxes]
        sizes = [(1.0, 1.0) if b.is_share else b.size or (0.0, 0.0) for b in flat]
        areas = [np.nan if b.area is None else b.area for b in flat]
        return cls(
            np.asarray([b.box for b in flat], np.float32).reshape(-1, 4),
            np.asarray([numbers[b.class_name] for b in flat], np.int64),
            np.asarray([b.is_crowd for b in flat], bool),
            np.asarray(areas, np.float32),
            np.asarray(sizes, np.float32).reshape(-1, 2),
            np.cumsum([0, *(len(boxes) for boxes in by_image)]).astype(np.int64),
        )

    def subset(self, chosen: npt.NDArray[np.int64]) -> _BoxArrays:
        """Return the boxes of the images ``chosen``, in that order."""
        spans = [np.arange(self.starts[i], self.starts[i + 1]) for i in chosen]
        rows = np.concatenate(spans) if spans else np.zeros(0, np.int64)
        starts = np.cumsum([0, *(len(span) for span in spans)]).astype(np.int64)
        return _BoxArrays(
            self.boxes[rows],
            self.labels[rows],
            self.crowd[rows],
            self.areas[rows],
            self.sizes[rows],
            starts,
        )

    def digest(self, index: int) -> str:
        """Return a hash of the boxes of an image, as written."""
        rows = slice(int(self.starts[index]), int(self.starts[index + 1]))
        arrays = (self.boxes, self.labels, self.crowd, self.areas, self.sizes)
        return digest_of(*(array[rows].tobytes() for array in arrays))

    def of_image(self, index: int, width: int, height: int, name: str = "") -> ObjectBoxes:
        """Return the objects of an image of ``width`` and ``height`` in px.

        Raises:
            DataError: They were drawn in one of another shape, as before it was set upright.
        """
        rows = slice(int(self.starts[index]), int(self.starts[index + 1]))
        shown, drawn = np.array([width, height], np.float32), self.sizes[rows]
        scale = np.where(drawn > 0, shown / np.maximum(drawn, 1e-6), 1.0)
        odd = (drawn > 1).all(1) & (np.abs(scale[:, 0] / scale[:, 1] - 1) > MOST_ASPECT)
        if odd.any():
            stated = "x".join(f"{side:g}" for side in drawn[odd][0])
            raise DataError(
                f"{name}: its boxes are of a picture of {stated} px",
                f"It is shown with {width}x{height}",
                "Label the picture as it is shown (upright), or correct the size",
            )
        boxes = (self.boxes[rows] * np.tile(scale, 2)).astype(np.float32)
        limits = np.array([width, height, width, height], np.float32)
        boxes = np.clip(boxes, 0, limits)
        own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        stated = self.areas[rows] * scale.prod(1)
        areas = np.where(np.isnan(stated), own, stated).astype(np.float32)
        return ObjectBoxes(boxes, self.labels[rows], self.crowd[rows], areas)


@dataclass(frozen=True)
class DetectionDataset:
    """Images with the boxes of their objects, decoded when they are read.

    Args:
        read: Function that returns image i as (h, w, 3) uint8 sRGB.
        objects: Function that returns the objects of image i for a width and a height in px.
        classes: Names of the classes.
        names: Names (n) of the images.
        present: Numbers of the classes that have an object.
        summary: What the reader took the data for.
        digest: Function that returns a hash of the file and the boxes of image i; None where its
            pixels are hashed.

    Raises:
        DataError: There is no image.

    Example:
        >>> image = np.zeros((4, 6, 3), np.uint8)
        >>> box = np.array([[0, 0, 3, 2]], np.float32)
        >>> data = detection_in_memory([image], [box], [np.array([1])], ("cat", "dog"))
        >>> len(data), data[0][1].boxes.tolist(), data[0][1].areas.tolist()
        (1, [[0.0, 0.0, 3.0, 2.0]], [6.0])
    """

    read: Callable[[int], Array]
    objects: Callable[[int, int, int], ObjectBoxes]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    present: tuple[int, ...] = ()
    summary: DatasetSummary = field(default_factory=DatasetSummary)
    digest: Callable[[int], str] | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise DataError("data set", "holds no image", "check the path")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Array, ObjectBoxes]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        image = self.read(index)
        return image, self.objects(index, image.shape[1], image.shape[0])

    def content_digest(self, index: int) -> str:
        """Return a hash of the image ``index`` and its objects, by which a run that resumes knows
        them again."""
        if self.digest is not None:
            return self.digest(index)
        image, own = self[index]
        arrays = (np.ascontiguousarray(image), own.boxes, own.labels, own.crowd, own.areas)
        return digest_of(repr(image.shape).encode(), *(array.tobytes() for array in arrays))

    def __iter__(self) -> Iterator[tuple[Array, ObjectBoxes]]:
        return (self[i] for i in range(len(self)))

    def subset(self, indices: Sequence[int]) -> DetectionDataset:
        """Return the images of ``indices``, in that order, with the same classes."""
        chosen, digest = [int(i) for i in indices], self.digest
        return replace(
            self,
            read=lambda i: self.read(chosen[i]),
            objects=lambda i, width, height: self.objects(chosen[i], width, height),
            names=tuple(self.names[i] for i in chosen),
            digest=None if digest is None else lambda i: digest(chosen[i]),
        )


def detection_in_memory(
    images: Sequence[Array],
    boxes: Sequence[npt.NDArray[np.float32]],
    labels: Sequence[npt.NDArray[np.int64]],
    classes: Sequence[str],
    *,
    names: Sequence[str] = (),
) -> DetectionDataset:
    """Return a detection data set of images that are in memory.

    Args:
        images: Images (h, w, 3) uint8, of any sizes.
        boxes: Corners (k, 4) x0, y0, x1, y1 in px of the objects of each.
        labels: Class numbers (k,) of the objects of each.
        classes: Names of the classes.
        names: Names of the images; their numbers where empty.

    Returns:
        The data set.

    Raises:
        DataError: The numbers of images, boxes and labels differ, or a label has no class.
    """
    if not len(images) == len(boxes) == len(labels):
        counts = (
            f"{count_noun(len(images), 'image')}, {count_noun(len(boxes), 'box')}, "
            f"{count_noun(len(labels), 'label')}"
        )
        raise DataError(counts, "One entry of each an image is needed", "Check the lists")
    objects = []
    for number, (own, kinds) in enumerate(zip(boxes, labels, strict=True)):
        corners = np.asarray(own, np.float32).reshape(-1, 4)
        kinds = np.asarray(kinds, np.int64).reshape(-1)
        if len(corners) != len(kinds):
            raise DataError(
                f"image {number}",
                f"{count_noun(len(corners), 'box')}, {count_noun(len(kinds), 'label')}",
            )
        if len(kinds) and not 0 <= kinds.min() <= kinds.max() < len(classes):
            limit = f"0 to {len(classes) - 1} are named"
            raise DataError(f"image {number}: label {kinds.max()}", limit, "Name all classes")
        areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
        objects.append(ObjectBoxes(corners, kinds, np.zeros(len(kinds), bool), areas))
    present = sorted({int(k) for each in objects for k in each.labels})
    return DetectionDataset(
        lambda i: images[i],
        lambda i, width, height: objects[i],
        tuple(classes),
        tuple(names) or tuple(f"#{i}" for i in range(len(images))),
        tuple(present),
    )


def dataset_of_source(
    source: FileSource, split: str | None, only: str | None = None
) -> DetectionDataset:
    """Return the detection data set that the files of ``source`` make.

    Args:
        source: Files of the data set.
        split: Part to read, or None.
        only: Name of the one COCO file or data.yaml that counts; None for whatever is there.

    Returns:
        The data set.

    Raises:
        DataError: They make none.
    """
    images = source.images()
    if not images:
        raise DataError(f"{source.path}", "Holds no image", "Name a folder or archive with images")
    layouts = (
        ("COCO", _read_coco),
        ("Pascal VOC", _read_voc),
        ("boxes in CSV", _read_csv),
        ("YOLO", _read_yolo),
    )
    for layout, reader in layouts:
        annotated = reader(source, images, only)
        if annotated is not None:
            return _assembled(source, layout, annotated, split)
    raise DataError(
        f"{source.path}",
        "No boxes were found: neither COCO, CreateML, Pascal VOC, YOLO nor a CSV of boxes",
        "Put label files beside the images, as docs/data.md shows",
    )


@dataclass
class _Annotated:
    """What a layout's files say.

    Attributes:
        boxes: Boxes by name of the image; a listed image without one has an empty list.
        classes: Names of the classes, in order; further ones that occur are appended.
        files: Names of the annotation files.
        parts: Name of the part by image, where the annotation files say so.
        notes: Remarks.
    """

    boxes: dict[str, list[LabeledBox]]
    classes: list[str]
    files: list[str]
    parts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _read_coco(source: FileSource, images: Sequence[str], only: str | None) -> _Annotated | None:
    """Read the COCO files of a set, or, where it has none, those of CreateML."""
    if only is not None and not only.lower().endswith(".json"):
        return None
    files = [n for n in source.names if _may_be_coco(n)] if only is None else [only]
    coco = [name for name in files if not name.lower().endswith(_CREATEML)]
    files = coco or files  # the same boxes in both forms count once
    index = _NameIndex(images)
    found = _Annotated({}, [], [])
    for name in files:
        data = source.read(name, MAX_COCO_BYTES)
        if only is None and b'"annotations"' not in data:
            continue
        listing = parse_json_boxes(decode_text(data, name).text, f"{source.path}: {name}")
        part = _part_of_file(name)
        absent = 0
        placed = {}
        for written in listing.images:
            image = index.find(written, near=name)
            placed[written] = image
            if image is None:
                absent += 1
                continue
            found.boxes.setdefault(image, [])
            if part:
                found.parts[image] = part
        for box in listing.boxes:
            image = placed.get(box.file)
            if image is not None:
                found.boxes[image].append(box)
        found.classes += [c for c in listing.classes if c not in found.classes]
        found.files.append(name)
        if absent:
            found.notes.append(f"{count_noun(absent, 'image')} of {name} missing here")
        if listing.without_area:
            found.notes.append(
                f"{count_noun(listing.without_area, 'box')} without area of {name} left out"
            )
    if not found.files:
        return None
    _assert_placed(found, source)
    return found


def _assert_placed(found: _Annotated, source: FileSource) -> None:
    """Raise DataError where no box is of an image of ``source``."""
    if not found.boxes:
        raise DataError(
            f"{source.path}: {found.files[0]}",
            "None of its images is here",
            "Name the folder that holds both",
        )


def _may_be_coco(name: str) -> bool:
    """Whether a file's name is one of COCO's for boxes."""
    path = PurePosixPath(name)
    if path.suffix.lower() != ".json":
        return False
    stem = path.stem.casefold()
    others = ("captions", "panoptic", "stuff", "image_info", "person_keypoints")
    return not stem.startswith(others)


def _part_of_file(name: str) -> str:
    """The part that a COCO file is of, by its own name or its folder's; empty for none."""
    path = PurePosixPath(name)
    words = re.sub(r"instances_|_annotations\.(coco|createml)", "", path.stem)
    for each in (words, path.parent.name):
        if each and part_of(each):
            return each
    return ""


class _NameIndex:
    """Images by their name's last part, for names as they are written in annotation files."""

    def __init__(self, images: Sequence[str]) -> None:
        self.images = set(images)
        self.by_last: dict[str, list[str]] = {}
        for name in images:
            self.by_last.setdefault(PurePosixPath(name).name.casefold(), []).append(name)

    def find(self, written: str, near: str) -> str | None:
        """Return the image that ``written`` means in the annotation file ``near``; None without
        one. Raises DataError where it may mean several."""
        beside = (PurePosixPath(near).parent / written).as_posix()
        for candidate in (written, beside):
            if candidate in self.images:
                return candidate
        candidates = self.by_last.get(PurePosixPath(written).name.casefold(), [])
        if len(candidates) > 1:
            part = part_of(_part_of_file(near)) if _part_of_file(near) else None
            ending = [
                c for c in candidates if f"/{c}".casefold().endswith(f"/{written}".casefold())
            ]
            same = [
                c
                for c in ending or candidates
                if part and any(part_of(folder) == part for folder in PurePosixPath(c).parts[:-1])
            ]
            candidates = same or ending or candidates
        if len(candidates) > 1:
            raise DataError(
                f"'{near}': {written!r} may be {' or '.join(candidates[:3])}",
                "A name must mean one image",
                "Write its folder too",
            )
        return candidates[0] if candidates else None


def _read_csv(source: FileSource, images: Sequence[str], only: str | None) -> _Annotated | None:
    """Read the CSV files of a set with a box a row; images without a row are left out."""
    if only is not None and not only.lower().endswith(_CSV_ENDINGS):
        return None
    files = [n for n in source.names if _CSV_NAMES.search(n)] if only is None else [only]
    index = _NameIndex(images)
    found = _Annotated({}, [], [])
    for name in files:
        where = f"{source.path}: {name}"
        decoded = decode_text(source.read(name, MAX_COCO_BYTES), where, guess=True)
        if only is None and not _BOX_HEADER.search(decoded.text.partition("\n")[0]):
            continue  # labels of images
        boxes, notes = csv_boxes(partial(parse_csv, decoded.text, where))
        notes += [f"{name} is no UTF-8: read as Windows-1252"] if decoded.is_guess else []
        placed = {box.file: index.find(box.file, near=name) for box in boxes}
        for box in boxes:
            if (image := placed[box.file]) is not None:
                found.boxes.setdefault(image, []).append(replace(box, class_name=_class_of(box)))
        part = _part_of_file(name)
        found.parts |= {i: part for i in placed.values() if part and i is not None}
        absent = sum(image is None for image in placed.values())
        found.notes += [
            *notes,
            *([f"{count_noun(absent, 'image')} of {name} missing here"] if absent else []),
        ]
        found.files.append(name)
    if not found.files:
        return None
    _assert_placed(found, source)
    without = len(images) - len(found.boxes)
    found.notes += [f"{count_noun(without, 'image')} without a row left out"] if without else []
    return found


def _class_of(box: LabeledBox) -> str:
    return box.class_name or "object"


def _read_voc(source: FileSource, images: Sequence[str], only: str | None) -> _Annotated | None:
    """Read the XML files of a set, each of the image of its own name."""
    if only is not None:
        return None
    by_place = _label_files(source, ".xml")
    if not by_place:
        return None
    found = _Annotated({}, [], [])
    for image in images:
        file = _label_of(image, by_place)
        found.boxes[image] = []
        if file is not None:
            where = f"{source.path}: {file}"
            found.boxes[image] = parse_voc(source.read(file, _MOST_LABEL_BYTES), image, where)
            found.files.append(file)
    if not found.files:
        return None
    found.parts = _listed_parts(source, images)
    _drop_unlabeled(found)
    found.files += filter(_is_part_list, source.names)
    return found


def _drop_unlabeled(found: _Annotated) -> None:
    """Leave out images that no label file stands for: in VOC each has one, if an empty one."""
    labeled = {PurePosixPath(file).stem for file in found.files}
    others = [image for image in found.boxes if PurePosixPath(image).stem not in labeled]
    for image in others:
        del found.boxes[image]
    if others:
        found.notes.append(f"{count_noun(len(others), 'image')} without an XML file left out")


def _listed_parts(source: FileSource, images: Sequence[str]) -> dict[str, str]:
    """Parts by image as ImageSets/Main/train.txt and its siblings list them."""
    stems = {PurePosixPath(image).stem: image for image in images}
    parts: dict[str, str] = {}
    for name in source.names:
        if not _is_part_list(name):
            continue
        path = PurePosixPath(name)
        for line in class_lines(decode_text(source.read(name, _MOST_LABEL_BYTES), name).text):
            if line.split()[0] in stems:
                parts[stems[line.split()[0]]] = path.stem
    return parts


def _is_part_list(name: str) -> bool:
    """Whether a file lists the images of a part."""
    path = PurePosixPath(name)
    is_list = path.suffix == ".txt" and path.stem in ("train", "val", "test")
    return is_list and path.parts[-3:-1] == ("ImageSets", "Main")


def _read_yolo(source: FileSource, images: Sequence[str], only: str | None) -> _Annotated | None:
    """Read the label files of a set, each of the image of its own name."""
    by_place = _label_files(source, ".txt")
    files = {image: _label_of(image, by_place) for image in images}
    if not any(files.values()):
        return None
    classes, class_files = _yolo_classes(source, only)
    found = _Annotated({}, list(classes), class_files)
    for image, file in files.items():
        found.boxes[image] = []
        if file is None:
            continue
        where = f"{source.path}: {file}"
        text = decode_text(source.read(file, _MOST_LABEL_BYTES), where, guess=True).text
        found.boxes[image] = parse_yolo(text, image, classes, where)
        found.files.append(file)
    absent = sum(file is None for file in files.values())
    if absent:
        found.notes.append(
            f"{count_noun(absent, 'image')} without a label file taken to show no object"
        )
    if not classes:
        found.notes.append("no data.yaml or classes.txt names the classes: they are numbers")
    return found


def _yolo_classes(source: FileSource, only: str | None) -> tuple[list[str], list[str]]:
    """Names of the classes and the file that states them; nothing where none does."""
    if only is not None:
        candidates = [only]
    else:
        ends = (".yaml", ".yml")
        candidates = [n for n in source.names if n.lower().endswith(ends)]
        candidates += [n for n in source.names if PurePosixPath(n).name in CLASS_FILES]
        candidates.sort(key=lambda n: n.count("/"))
    for name in candidates:
        where = f"{source.path}: {name}"
        text = decode_text(source.read(name, _MOST_LABEL_BYTES), where, guess=True).text
        is_list = PurePosixPath(name).name in CLASS_FILES
        names = class_lines(text) if is_list else yaml_class_names(text, where)
        if names:
            return names, [name]
    return [], []


def _label_files(source: FileSource, suffix: str) -> dict[tuple[str, str], str]:
    """Label files by folder and stem."""
    found = {}
    for name in source.names:
        path = PurePosixPath(name)
        if path.suffix.lower() == suffix and path.name not in CLASS_FILES:
            found[path.parent.as_posix(), path.stem] = name
    return found


def _label_of(image: str, files: Mapping[tuple[str, str], str]) -> str | None:
    """The label file of an image: beside it, or in the folder of labels that mirrors its own."""
    path = PurePosixPath(image)
    folders = [path.parent]
    for at, part in enumerate(path.parts[:-1]):
        if part in _IMAGE_FOLDERS:
            for other in _LABEL_FOLDERS:
                folders.append(PurePosixPath(*path.parts[:at], other, *path.parts[at + 1 : -1]))
    for folder in folders:
        file = files.get((folder.as_posix(), path.stem))
        if file is not None:
            return file
    return None


def _assembled(
    source: FileSource, layout: str, found: _Annotated, split: str | None
) -> DetectionDataset:
    """Choose the part, number the classes and put all boxes into arrays."""
    parts_by_image = found.parts or _folder_parts(found.boxes)
    row = sorted(set(parts_by_image.values()))
    parts = {name: part for name in row if (part := part_of(name))}
    chosen = choose_parts(parts, split, f"{source.path}") if parts else []
    names = sorted(
        (n for n in found.boxes if not parts or parts_by_image.get(n) in chosen), key=natural_key
    )
    # Numbers of all parts, so that a part in which a class is missing has those of the whole set.
    occurring = {box.class_name for own in found.boxes.values() for box in own}
    if "" in occurring:
        raise DataError(f"{source.path}", "A box has no class", "Name the class of each box")
    others = sorted(occurring - set(found.classes), key=natural_key)
    used = {*found.boxes, *found.files}  # of all parts
    summary = DatasetSummary(
        str(source.path),
        f"{layout} boxes",
        "all" if not parts or len(chosen) > 1 else parts[chosen[0]],
        shown_parts(parts),
        skipped=source.left_out(used),
        notes=tuple(found.notes),
    )
    return detection_arrays(
        lambda i: source.image(names[i]),
        [found.boxes[name] for name in names],
        (*found.classes, *others),
        tuple(names),
        summary,
        lambda i: source.digest(names[i]),
    )


def detection_arrays(
    read: Callable[[int], Array],
    by_image: Sequence[Sequence[LabeledBox]],
    classes: Sequence[str],
    names: tuple[str, ...],
    summary: DatasetSummary,
    digest: Callable[[int], str] | None = None,
) -> DetectionDataset:
    """Return a detection data set of boxes that are already sorted by image.

    Args:
        read: Function that returns image i as (h, w, 3) uint8 sRGB.
        by_image: Boxes of each image.
        classes: Names of the classes; further ones that occur are appended.
        names: Names of the images.
        summary: What the reader took the data for.
        digest: Function that returns a hash of the file of image i; None where pixels are hashed.
    """
    boxes = [[in_order(box) for box in own] for own in by_image]
    counts = Counter(box.class_name for own in boxes for box in own)
    others = sorted((c for c in counts if c not in classes), key=natural_key)
    every = (*classes, *others)
    arrays = _BoxArrays.of(boxes, {name: i for i, name in enumerate(every)})
    empty = sum(not own for own in boxes)
    note = f"{count_noun(sum(counts.values()), 'object')} of {count_noun(len(counts), 'class')}"
    note += f", {count_noun(empty, 'image')} without one" if empty else ""
    return DetectionDataset(
        read,
        lambda i, width, height: arrays.of_image(i, width, height, names[i]),
        every,
        names,
        tuple(np.unique(arrays.labels).tolist()),
        replace(summary, notes=(note, *summary.notes)),
        None if digest is None else lambda i: f"{digest(i)} {arrays.digest(i)}",
    )


def _folder_parts(images: Mapping[str, object]) -> dict[str, str]:
    """Part by image, where each lies under a folder that names one; empty otherwise."""
    parts = {}
    for name in images:
        folder = next((f for f in PurePosixPath(name).parts[:-1] if part_of(f)), None)
        if folder is None:
            return {}
        parts[name] = folder
    return parts
