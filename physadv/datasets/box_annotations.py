"""Boxes of objects as YOLO, COCO, CreateML, VOC and CSV files write them, parsed from text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt

from physadv.core.csv_tables import CsvTable
from physadv.core.errors import DataError
from physadv.core.parsing import parse_json_as, parse_number, parse_xml, parse_yaml

Corners = npt.NDArray[np.float32]
CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels")
"""Files that name the classes of YOLO's label files, one a line."""
_CSV_COLUMNS = {
    "file": (
        *("filename", "file_name", "image", "image_name", "name", "path"),
        *("dateiname", "datei", "bild"),
    ),
    "x0": ("xmin", "x_min", "left"),
    "y0": ("ymin", "y_min", "top"),
    "x1": ("xmax", "x_max", "right"),
    "y1": ("ymax", "y_max", "bottom"),
}
_CSV_COLUMNS_FROM_ONE = {
    "file": _CSV_COLUMNS["file"],
    "x0": ("x1",),
    "y0": ("y1",),
    "x1": ("x2",),
    "y1": ("y2",),
}
"""Names of the columns of a table that counts its corners from one."""
_CLASS_COLUMNS = ("class", "label", "category", "class_name", "klasse", "kategorie")
MAX_COCO_BYTES = 512 << 20
"""COCO's own training annotations are 448 MB."""


MOST_ASPECT = 0.02
"""Largest share by which the aspect of a picture may differ from the one that a file states."""


@dataclass(frozen=True)
class LabeledBox:
    """One box of an annotation file.

    Attributes:
        file: Name of its photo as written, with forward slashes; YOLO's lacks the suffix.
        box: x0, y0, x1, y1 in px of the photo's file, or in shares of its sides.
        where: Its place in the annotation file.
        class_name: Its class, where one is given.
        is_share: Whether ``box`` is in shares of the photo's sides.
        size: Width and height of the photo in px that the file states.
        is_crowd: Whether it marks several objects, or one too hard to count.
        area: Area of the object in px^2 that the file states.
    """

    file: str
    box: tuple[float, float, float, float]
    where: str
    class_name: str = ""
    is_share: bool = False
    size: tuple[float, float] | None = None
    is_crowd: bool = False
    area: float | None = None

    def corners(self, size: tuple[int, int]) -> Corners:
        """Return the (4, 2) corners in px of a photo of ``size`` (width, height).

        Raises:
            DataError: The box lies outside of the photo, or was drawn in one of another shape.
        """
        x0, y0, x1, y1 = self.box
        if self.is_share:
            x0, y0, x1, y1 = x0 * size[0], y0 * size[1], x1 * size[0], y1 * size[1]
        elif self.size is not None:
            scale = (size[0] / self.size[0], size[1] / self.size[1])
            if abs(scale[0] / scale[1] - 1) > MOST_ASPECT:
                stated = f"{self.size[0]:g}x{self.size[1]:g}"
                raise DataError(
                    f"'{self.where}': the box is of a picture of {stated} px",
                    f"{self.file} is shown with {size[0]}x{size[1]}",
                    "Label the picture as it is shown, or correct the size",
                )
            x0, y0, x1, y1 = x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1]

        inside = max(0.0, min(x1, size[0]) - max(x0, 0)) * max(0.0, min(y1, size[1]) - max(y0, 0))
        if inside < 0.5 * (x1 - x0) * (y1 - y0):
            raise DataError(
                f"'{self.where}': the box {x0:g},{y0:g},{x1:g},{y1:g} lies outside",
                f"{self.file} has {size[0]}x{size[1]} px",
                "Give boxes in px of the picture as it is shown",
            )
        return box_corners(x0, y0, x1, y1)


def box_corners(x0: float, y0: float, x1: float, y1: float) -> Corners:
    """Return the (4, 2) corners of a box, clockwise from the upper left.

    Args:
        x0: Left edge in px.
        y0: Upper edge in px.
        x1: Right edge in px.
        y1: Lower edge in px.

    Example:
        >>> box_corners(1, 2, 5, 6).tolist()
        [[1.0, 2.0], [5.0, 2.0], [5.0, 6.0], [1.0, 6.0]]
    """
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)


def in_order(box: LabeledBox) -> LabeledBox:
    """Return the box with its upper left corner first. Raises DataError where it is empty."""
    x0, y0, x1, y1 = box.box
    ordered = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    if ordered[0] == ordered[2] or ordered[1] == ordered[3]:
        raise DataError(
            f"'{box.where}': the box {x0:g},{y0:g},{x1:g},{y1:g} is empty",
            "It must be wider and higher than 0",
            "Correct the line",
        )
    return replace(box, box=ordered)


def class_lines(text: str) -> list[str]:
    """Return the names of classes in a file that holds one a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def yaml_class_names(text: str, name: str) -> list[str]:
    """Return the class names that a data.yaml of YOLO or Roboflow states, in order of their number.

    Args:
        text: Content of the file.
        name: Name of the file in errors.

    Returns:
        The names; empty where the file states none.

    Raises:
        DataError: It is no YAML, or its names are neither a list nor a table of numbers.

    Example:
        >>> yaml_class_names("nc: 2\\nnames:\\n  0: stop\\n  1: yield\\n", "data.yaml")
        ['stop', 'yield']
    """
    table = parse_yaml(text, name)
    names = table.get("names") if isinstance(table, dict) else None
    if isinstance(names, dict) and all(re.fullmatch(r"\d{1,6}", str(key)) for key in names):
        by_number = {int(key): value for key, value in names.items()}
        highest = max(by_number, default=-1)
        names = [by_number.get(number, str(number)) for number in range(highest + 1)]
    if names is None or names == "":
        return []
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise DataError(
            f"'{name}': names", "A list of names, or a table from numbers", "Write names: [a, b]"
        )
    return list(names)


def parse_yolo(text: str, name: str, classes: Sequence[str], where: str) -> list[LabeledBox]:
    """Parse a label file of YOLO: class, then center and size or a polygon's points, in shares.

    Args:
        text: Content of the file.
        name: Name of its photo, without suffix.
        classes: Names of the classes; a class beyond them is named by its number.
        where: Name of the file in errors.

    Returns:
        The boxes, as written.

    Raises:
        DataError: A line has another form; the error names it.

    Example:
        >>> parse_yolo("0 0.5 0.5 0.2 0.4", "a", ["stop"], "a.txt")[0].class_name
        'stop'
    """
    boxes = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.split():
            continue
        place = f"{where}:{number}"
        numbers = [parse_number(word, "a value", place) for word in line.split()]
        kind, values = int(numbers[0]), numbers[1:]
        if len(values) in (4, 5):  # a fifth value is a detector's confidence
            x, y, width, height = values[:4]
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        elif len(values) >= 6 and len(values) % 2 == 0:
            xs, ys = values[::2], values[1::2]
            box = (min(xs), min(ys), max(xs), max(ys))
        else:
            limit = "A YOLO row is a class and 4 values, or the points of a polygon"
            raise DataError(f"'{place}': {len(numbers)} values", limit, "Correct the line")
        if max(abs(value) for value in values) > 1.5:
            limit = "YOLO counts in shares of the picture's sides, 0 to 1"
            raise DataError(f"'{place}': {line.strip()[:60]}", limit, "Divide by width and height")
        named = classes[kind] if 0 <= kind < len(classes) else str(kind)
        boxes.append(LabeledBox(name, box, place, named, is_share=True))
    return boxes


def csv_boxes(
    read: Callable[[Mapping[str, Sequence[str]]], CsvTable],
) -> tuple[list[LabeledBox], list[str]]:
    """Return the boxes of a CSV file with a box a row, such as Roboflow's for TensorFlow.

    Args:
        read: Returns the rows of the file, given the columns that it must have.

    Returns:
        The boxes and notes on how they were read.

    Raises:
        DataError: A column is missing, or a row has no name or number.

    Example:
        >>> from physadv.core.csv_tables import parse_csv
        >>> text = "filename,width,height,class,xmin,ymin,xmax,ymax\\na.jpg,9,9,stop,1,2,5,6"
        >>> boxes, _ = csv_boxes(lambda columns: parse_csv(text, "boxes.csv", columns))
        >>> boxes[0].box, boxes[0].class_name, boxes[0].size
        ((1.0, 2.0, 5.0, 6.0), 'stop', (9.0, 9.0))
    """
    try:
        table = read(_CSV_COLUMNS)
    except DataError as error:
        if "lacks the column" not in error.value:
            raise
        try:
            table = read(_CSV_COLUMNS_FROM_ONE)
        except DataError:
            raise error from None

    boxes = []
    for row in table.rows:
        x0, y0, x1, y1 = (
            parse_number(row.cells[key], key, row.where) for key in ("x0", "y0", "x1", "y1")
        )
        if not row.cells["file"]:
            raise DataError(f"'{row.where}': the file has no name", "Each row names a photo")
        named = next((row.cells[c] for c in _CLASS_COLUMNS if c in row.cells), "")
        file = row.cells["file"].replace("\\", "/")
        size = None
        if {"width", "height"} <= row.cells.keys():
            width, height = (parse_number(row.cells[k], k, row.where) for k in ("width", "height"))
            size = (width, height) if min(width, height) > 0 else None
        boxes.append(LabeledBox(file, (x0, y0, x1, y1), row.where, named, size=size))
    return boxes, list(table.notes)


def parse_voc(data: bytes, name: str, where: str) -> list[LabeledBox]:
    """Parse a Pascal VOC file; its photo is the one of its own name.

    Args:
        data: Content of the file.
        name: Name of its photo, without suffix.
        where: Name of the file in errors.

    Returns:
        The boxes, as written; those marked as difficult are crowds, which do not count.

    Raises:
        DataError: It is no VOC file, or an object has no box.
    """
    root = parse_xml(data, where)
    if root.tag != "annotation":
        limit = "A VOC file holds an <annotation>"
        raise DataError(f"'{where}' holds <{root.tag}>", limit, "Name another file")

    def number(element: ElementTree.Element, key: str) -> float:
        return parse_number(element.findtext(key) or "", key, where)

    size = root.find("size")
    stated = None if size is None else (number(size, "width"), number(size, "height"))
    boxes = []
    for each in root.iter("object"):
        corners = each.find("bndbox")
        if corners is None:
            raise DataError(f"'{where}': an object has no bndbox", "Each needs one", "Label it")
        x0, y0, x1, y1 = (number(corners, key) for key in ("xmin", "ymin", "xmax", "ymax"))
        boxes.append(
            LabeledBox(
                name,
                (x0, y0, x1, y1),
                where,
                (each.findtext("name") or "").strip(),
                size=stated if stated and min(stated) > 0 else None,
                is_crowd=(each.findtext("difficult") or "").strip() == "1",
            )
        )
    return boxes


class _CocoImage(msgspec.Struct):
    """Keys of an image in a COCO file that are read."""

    id: int | str
    file_name: str
    width: float | None = None
    height: float | None = None


class _CocoClass(msgspec.Struct):
    """Keys of a category in a COCO file that are read."""

    id: int | str
    name: str


class _CocoAnnotation(msgspec.Struct):
    """Keys of an annotation in a COCO file that are read; its outline is not."""

    image_id: int | str
    bbox: tuple[float, float, float, float]
    category_id: int | str | None = None
    id: int | str | None = None
    iscrowd: bool = False
    area: float | None = None


class _Coco(msgspec.Struct):
    """Keys of a COCO file that are read."""

    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]
    categories: list[_CocoClass] = []


class _CreateMLBox(msgspec.Struct):
    """Center and sides of a box in px."""

    x: float
    y: float
    width: float
    height: float


class _CreateMLObject(msgspec.Struct):
    """Keys of an object in a CreateML file that are read."""

    coordinates: _CreateMLBox
    label: str = ""


class _CreateMLImage(msgspec.Struct):
    """Keys of an image in a CreateML file that are read."""

    image: str
    annotations: list[_CreateMLObject] = []


@dataclass(frozen=True)
class BoxListing:
    """Content of a JSON file of boxes.

    Attributes:
        boxes: Boxes in the order of the file, crowds included.
        images: Names of all images, those without an object included.
        classes: Names of its categories, in the order of the file.
        without_area: Number of boxes that are left out, as they have a side of 0.
    """

    boxes: tuple[LabeledBox, ...]
    images: tuple[str, ...]
    classes: tuple[str, ...]
    without_area: int = 0


def parse_json_boxes(text: str, where: str) -> BoxListing:
    """Parse a COCO or CreateML file, told apart by their outermost bracket.

    Args:
        text: Content of the file.
        where: Name of the file in errors.

    Returns:
        Its boxes, images and classes.

    Raises:
        DataError: It is neither, or names an image that it does not list.

    Example:
        >>> box = '{"label": "stop", "coordinates": {"x": 6, "y": 8, "width": 4, "height": 2}}'
        >>> listing = parse_json_boxes('[{"image": "a.jpg", "annotations": [%s]}]' % box, "a.json")
        >>> listing.boxes[0].box, listing.classes
        ((4.0, 7.0, 8.0, 9.0), ('stop',))
    """
    return parse_createml(text, where) if text.lstrip()[:1] == "[" else parse_coco(text, where)


def parse_createml(text: str, where: str) -> BoxListing:
    """Parse a CreateML file: a list of images, whose boxes have a center and sides in px.

    Args:
        text: Content of the file.
        where: Name of the file in errors.

    Returns:
        Its boxes, images and classes.

    Raises:
        DataError: It is no CreateML file, or a box is empty.
    """
    remedy = "CreateML lists images with annotations, each with a label and coordinates"
    kind = list[_CreateMLImage]
    images = parse_json_as(text, kind, where, what="CreateML file", remedy=remedy)
    boxes, names = [], []
    for image in images:
        names.append(image.image.replace("\\", "/"))
        for number, each in enumerate(image.annotations):
            place, at = f"{where}: {names[-1]}, annotation {number}", each.coordinates
            x, y, width, height = (
                parse_number(str(value), "coordinates", place)
                for value in (at.x, at.y, at.width, at.height)
            )
            _assert_area(width, height, place)
            corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            boxes.append(LabeledBox(names[-1], corners, place, each.label))
    classes = dict.fromkeys(box.class_name for box in boxes)
    return BoxListing(tuple(boxes), tuple(names), tuple(classes))


def _assert_area(width: float, height: float, place: str) -> None:
    if width <= 0 or height <= 0:
        raise DataError(f"'{place}': {width:g}x{height:g} px", "A box has an area", "Correct it")


def parse_coco(text: str, where: str) -> BoxListing:
    """Parse a COCO file.

    Args:
        text: Content of the file.
        where: Name of the file in errors.

    Returns:
        Its boxes, images and classes.

    Raises:
        DataError: It is no COCO file, or names an image that it does not list.
    """
    remedy = "COCO has images with id and file_name, and annotations with image_id and bbox"
    coco = parse_json_as(text, _Coco, where, what="COCO file", remedy=remedy)
    images = {image.id: image for image in coco.images}
    classes = {each.id: each.name for each in coco.categories}
    boxes = tuple(_coco_boxes(where, coco.annotations, images, classes, remedy))
    flat = [each for each in coco.annotations if not each.iscrowd]
    without_area = len(flat) - sum(not box.is_crowd for box in boxes)
    names = tuple(image.file_name.replace("\\", "/") for image in coco.images)
    return BoxListing(boxes, names, tuple(dict.fromkeys(classes.values())), without_area)


def _coco_boxes(
    where: str,
    annotations: Sequence[_CocoAnnotation],
    images: Mapping[int | str, _CocoImage],
    classes: Mapping[int | str, str],
    remedy: str,
) -> Iterator[LabeledBox]:
    for number, each in enumerate(annotations):
        place = f"{where}: annotation {number if each.id is None else each.id}"
        if each.image_id not in images:
            raise DataError(f"'{place}': image {each.image_id} is not listed", remedy)
        x, y, width, height = (parse_number(str(value), "bbox", place) for value in each.bbox)
        if (each.iscrowd and min(width, height) <= 0) or (min(width, height) == 0):
            continue  # COCO's own training part has boxes without area
        _assert_area(width, height, place)
        image = images[each.image_id]
        size = (image.width or 0.0, image.height or 0.0)
        category = "" if each.category_id is None else each.category_id
        yield LabeledBox(
            image.file_name.replace("\\", "/"),
            (x, y, x + width, y + height),
            place,
            classes.get(category, str(category)),
            size=size if min(size) > 0 else None,
            is_crowd=each.iscrowd,
            area=each.area,
        )
