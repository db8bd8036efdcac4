"""Boxes of signs and objects in photos, from CSV, YOLO, COCO, CreateML and VOC files, matched to
the photos they belong to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from physadv.core.csv_tables import read_csv
from physadv.core.errors import DataError
from physadv.core.image_io import list_files
from physadv.core.text import read_file, read_text
from physadv.core.wording import count_noun
from physadv.datasets.box_annotations import (
    CLASS_FILES,
    MAX_COCO_BYTES,
    Corners,
    LabeledBox,
    box_corners,
    class_lines,
    csv_boxes,
    in_order,
    parse_json_boxes,
    parse_voc,
    parse_yolo,
)

BOXES_FILE = "boxes.csv"
"""Name of the file of boxes beside a folder's photos."""
_CSV_FILES = (BOXES_FILE, "_annotations.csv")
_JSON_FILES = (
    "_annotations.coco.json",
    "_annotations.createml.json",
    "annotations.json",
    "boxes.json",
)
_MOST_NAMED = 3
"""Rows that a note names one by one."""


class BoxTable(Mapping[str, list[Corners]]):
    """The boxes of an annotation file or folder, by the names of photos as written in it.

    Args:
        path: The file or folder.
        boxes: Its boxes.
        notes: Remarks on how they were read.

    Example:
        >>> box = LabeledBox("day/1.jpg", (1, 2, 11, 12), "boxes.csv:2")
        >>> table = BoxTable(Path("boxes.csv"), [box])
        >>> table["day/1.jpg"][0].tolist()
        [[1.0, 2.0], [11.0, 2.0], [11.0, 12.0], [1.0, 12.0]]
        >>> matched, notes = table.match(["1.jpg", "day/1.jpg"])
        >>> sorted(matched), notes
        (['day/1.jpg'], [])
    """

    def __init__(self, path: Path, boxes: Sequence[LabeledBox], notes: Sequence[str] = ()) -> None:
        self.path, self.boxes, self.notes = path, tuple(boxes), tuple(notes)
        self._by_name: dict[str, list[Corners]] = defaultdict(list)
        for box in boxes:
            self._by_name[box.file].append(box_corners(*box.box))

    def __getitem__(self, name: str) -> list[Corners]:
        if name not in self._by_name:
            raise KeyError(name)
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def match(
        self, names: Sequence[str], root: str = ""
    ) -> tuple[dict[str, list[LabeledBox]], list[str]]:
        """Return the boxes of each photo.

        Args:
            names: Names of the photos, relative to their folder, with forward slashes.
            root: Name of their folder, for rows that name it too.

        Returns:
            Boxes by name, and notes on rows that match in case or place only, or nothing.

        Raises:
            DataError: No row names a photo, or one may mean several.
        """
        matched, notes = match_names([box.file for box in self.boxes], names, self.path, root)
        of_photo: dict[str, list[LabeledBox]] = defaultdict(list)
        repeated = 0
        for box in self.boxes:
            name = matched.get(box.file)
            if name is None:
                continue
            if any(box.box == other.box for other in of_photo[name]):
                repeated += 1
            else:
                of_photo[name].append(box)
        if repeated:
            notes.append(f"{self.path.name}: {count_noun(repeated, 'repeated box')} counted once")
        return dict(of_photo), notes


def read_boxes(path: Path, class_name: str | None = None) -> BoxTable:
    """Read boxes from a CSV, COCO or CreateML (.json) or VOC (.xml) file, or a folder of YOLO or
    VOC files.

    Args:
        path: The file, with columns file, x0, y0, x1, y1 (px) where it is a CSV, or the folder.
        class_name: Class of the boxes to take where the file has several.

    Returns:
        The boxes, with corners in order.

    Raises:
        DataError: The file is missing or malformed, a number is missing, NaN or infinite, a box is
            empty, or it has several classes and none is ``class_name``; the error names the line.
    """
    if not path.exists():
        raise DataError(
            f"'{path}' does not exist",
            "Boxes are a CSV, COCO, CreateML, VOC or YOLO file",
            "Check the path",
        )
    boxes, notes = _read_any(path)
    if not boxes:
        raise DataError(f"'{path}' holds no box", "At least one is needed", "Label the photos")

    turned = sum(box.box[0] > box.box[2] or box.box[1] > box.box[3] for box in boxes)
    if turned:
        notes.append(f"{path.name}: {count_noun(turned, 'box')} with corners swapped; put in order")
    boxes = [in_order(box) for box in boxes]
    return BoxTable(path, _of_class(path, boxes, class_name, notes), notes)


def find_box_file(folder: Path, photos: Sequence[Path]) -> Path | None:
    """Return the annotation file or folder that lies beside photos, or None.

    Args:
        folder: Folder of the photos.
        photos: The photos.

    Raises:
        DataError: There are several.
    """
    found = [folder / name for name in (*_CSV_FILES, *_JSON_FILES) if (folder / name).is_file()]
    if any(p.with_suffix(suffix).is_file() for p in photos for suffix in (".txt", ".xml")):
        found.append(folder)
    elif (folder.parent / "labels").is_dir() and folder.name == "images":
        found.append(folder.parent / "labels")
    if len(found) > 1:
        raise DataError(
            f"'{folder}' has boxes in several files: {', '.join(p.name for p in found)}",
            "One of them counts",
            "Name it with --boxes",
        )
    return found[0] if found else None


def match_names(
    written: Sequence[str], names: Sequence[str], path: Path, root: str = ""
) -> tuple[dict[str, str], list[str]]:
    """Match names of photos as written in a file to the photos that are there.

    A name counts as written first, then whatever its case, its folders and, where it has none, its
    suffix.

    Args:
        written: Names in the file.
        names: Names of the photos, relative to their folder, with forward slashes.
        path: The file, for messages.
        root: Name of the photos' folder.

    Returns:
        The photo of each written name that has one, and notes on the others.

    Raises:
        DataError: No name matches, or one may mean several photos.

    Example:
        >>> match_names(["photos/A.JPG", "b.jpg"], ["a.jpg"], Path("boxes.csv"))[1]
        ["boxes.csv: matched by another case or folder: 'photos/A.JPG' is a.jpg", \
"boxes.csv: 1 name of no photo here: 'b.jpg'"]
    """
    matched: dict[str, str] = {}
    loose, absent = [], []
    for name in dict.fromkeys(written):
        candidates = _candidates(name, names, root)
        if len(candidates) > 1:
            raise DataError(
                f"'{path}': {name!r} may be {' or '.join(candidates[:3])}",
                "A name must mean one photo",
                "Write its folder too",
            )
        if not candidates:
            absent.append(repr(name))
            continue
        matched[name] = candidates[0]
        if name != candidates[0] and PurePosixPath(name).suffix:
            loose.append(f"{name!r} is {candidates[0]}")

    if not matched:
        raise DataError(
            f"'{path}': no row names a photo that is there ({', '.join(absent[:_MOST_NAMED])})",
            f"The photos are {', '.join(names[:_MOST_NAMED])}",
            "Write names as they are in the folder",
        )
    notes = []
    if loose:
        notes.append(f"{path.name}: matched by another case or folder: {_few(loose)}")
    if absent:
        notes.append(
            f"{path.name}: {count_noun(len(absent), 'name')} of no photo here: {_few(absent)}"
        )
    return matched, notes


def _few(items: Sequence[str]) -> str:
    more = f" and {len(items) - _MOST_NAMED} more" if len(items) > _MOST_NAMED else ""
    return ", ".join(items[:_MOST_NAMED]) + more


def _candidates(name: str, names: Sequence[str], root: str) -> list[str]:
    """Return the photos that a written name may mean, the closest kind of match alone."""
    plain = PurePosixPath(name.replace("\\", "/"))
    if plain.as_posix() in names:
        return [plain.as_posix()]

    def same(a: PurePosixPath, b: PurePosixPath) -> bool:
        left, right = a.as_posix().lower(), b.as_posix().lower()
        return left == right or (not a.suffix and left == b.with_suffix("").as_posix().lower())

    def tail_of(longer: PurePosixPath, shorter: PurePosixPath) -> PurePosixPath:
        return PurePosixPath(*longer.parts[-len(shorter.parts) :])

    paths = [PurePosixPath(each) for each in names]
    if root and len(plain.parts) > 1 and plain.parts[0].lower() == root.lower():
        inner = PurePosixPath(*plain.parts[1:])
        if found := [p.as_posix() for p in paths if same(inner, p)]:
            return found
    if found := [p.as_posix() for p in paths if same(plain, p)]:
        return found

    # The row names further folders around, or fewer than the photo lies in.
    found = [p.as_posix() for p in paths if same(tail_of(plain, p), p)]
    return found or [p.as_posix() for p in paths if same(plain, tail_of(p, plain))]


def _read_any(path: Path) -> tuple[list[LabeledBox], list[str]]:
    if path.is_dir():
        return _read_folder(path), []
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _read_json(path), []
    if suffix == ".xml":
        return parse_voc(read_file(path), path.with_suffix("").name, str(path)), []
    if suffix == ".txt" and not read_text(path, guess=True)[:200].strip()[:1].isalpha():
        return _read_yolo(path, path.with_suffix("").name, _class_names(path.parent)), []
    return csv_boxes(lambda columns: read_csv(path, columns))


def _read_folder(folder: Path) -> list[LabeledBox]:
    """Read the YOLO (.txt) and VOC (.xml) files of a folder and its subfolders."""
    classes = _class_names(folder)
    boxes: list[LabeledBox] = []
    for file in list_files(folder):
        name = file.relative_to(folder).with_suffix("").as_posix()
        if file.suffix.lower() == ".xml":
            boxes += parse_voc(read_file(file), name, str(file))
        elif file.suffix.lower() == ".txt" and file.name not in CLASS_FILES:
            if _is_note(file):
                continue
            boxes += _read_yolo(file, name, classes)
    return boxes


def _is_note(file: Path) -> bool:
    """Return whether a text file is prose beside the labels, such as a README."""
    first = read_text(file, guess=True).strip()[:1]
    return bool(first) and first not in "0123456789.-+n"


def _class_names(folder: Path) -> list[str]:
    """Return the names of YOLO's classes from a file in the folder or the one above; often none."""
    for place in (folder, folder.parent):
        for name in CLASS_FILES:
            if (place / name).is_file():
                return class_lines(read_text(place / name, guess=True))
    return []


def _read_yolo(path: Path, name: str, classes: Sequence[str]) -> list[LabeledBox]:
    return parse_yolo(read_text(path, guess=True), name, classes, str(path))


def _read_json(path: Path) -> list[LabeledBox]:
    """Read the boxes of a COCO or CreateML file; crowds are left out."""
    listing = parse_json_boxes(read_text(path, most_bytes=MAX_COCO_BYTES), str(path))
    if listing.without_area:
        count = f"{count_noun(listing.without_area, 'box')} with a side of 0 px"
        raise DataError(f"'{path}': {count}", "A box has an area", "Correct them")
    return [box for box in listing.boxes if not box.is_crowd]


def _of_class(
    path: Path, boxes: list[LabeledBox], class_name: str | None, notes: list[str]
) -> list[LabeledBox]:
    """Return the boxes of the class wanted, where the file has several."""

    def plain(name: str) -> str:
        return "".join(letter for letter in name.lower() if letter.isalnum())

    classes = Counter(box.class_name for box in boxes)
    wanted = plain(class_name or "")
    chosen = [box for box in boxes if wanted and plain(box.class_name) == wanted]
    if chosen:
        if len(chosen) < len(boxes):
            notes.append(
                f"{path.name}: {count_noun(len(chosen), 'box')} of {class_name} taken, "
                f"{len(boxes) - len(chosen)} of other classes left out"
            )
        return chosen
    if len(classes) > 1:
        listed = ", ".join(f"{name or 'unnamed'} ({n})" for name, n in classes.most_common(5))
        raise DataError(
            f"'{path}' has boxes of {count_noun(len(classes), 'class')}: {listed}",
            f"None is {class_name}" if class_name else "Boxes of one class are needed",
            "Keep the boxes of the sign or object alone, or name its class as the model does",
        )
    if only := next(iter(classes)):
        notes.append(f"{path.name}: its boxes of class {only} are taken")
    return boxes
