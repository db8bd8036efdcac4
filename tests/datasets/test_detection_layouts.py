"""Data sets with boxes: YOLO, Roboflow, COCO, CreateML and VOC, from folders, zips and files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from physadv.core.errors import DataError
from physadv.core.parsing import parse_yaml
from physadv.datasets.box_annotations import yaml_class_names
from physadv.datasets.read import read_detection_dataset

WIDTH, HEIGHT = 40, 20


def picture(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(file)


def text(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")


def yolo(root: Path, *, images_first: bool) -> None:
    """One image a part; the box covers x 10 to 30, y 5 to 15."""
    for part in ("train", "valid"):
        image, label = (
            (f"images/{part}", f"labels/{part}")
            if images_first
            else (f"{part}/images", f"{part}/labels")
        )
        picture(root / image / "a.jpg")
        text(root / label / "a.txt", "1 0.5 0.5 0.5 0.5\n")
    text(root / "data.yaml", "train: ../train/images\nnc: 2\nnames: ['no', 'stop sign']\n")


def coco(root: Path, *, roboflow: bool) -> None:
    """As :func:`yolo`, with a crowd and a stated area beside the box."""
    for part in ("train", "valid"):
        folder = f"{part}" if roboflow else f"images/{part}2017"
        picture(root / folder / "a.jpg")
        table: dict[str, Any] = {
            "images": [{"id": 7, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
            "categories": [{"id": 5, "name": "no"}, {"id": 9, "name": "stop sign"}],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 9, "bbox": [10, 5, 20, 10], "area": 150},
                {"id": 2, "image_id": 7, "category_id": 9, "bbox": [0, 0, 4, 4], "iscrowd": 1},
            ],
        }
        name = f"{part}/_annotations.coco.json" if roboflow else f"annotations/{part}2017.json"
        text(root / name, json.dumps(table))


def voc(root: Path, *, beside: bool) -> None:
    """As :func:`yolo`, with a difficult object beside the box."""
    for part in ("train", "valid"):
        folder = part if beside else "JPEGImages"
        stem = "a" if beside else part
        picture(root / folder / f"{stem}.jpg")
        objects = "".join(
            f"<object><name>stop sign</name><difficult>{hard}</difficult><bndbox><xmin>{x}</xmin>"
            f"<ymin>5</ymin><xmax>30</xmax><ymax>15</ymax></bndbox></object>"
            for x, hard in ((10, 0), (25, 1))
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        label = folder if beside else "Annotations"
        text(root / label / f"{stem}.xml", f"<annotation>{size}{objects}</annotation>")
        if not beside:
            part_file = "val" if part == "valid" else part
            text(root / f"ImageSets/Main/{part_file}.txt", f"{stem}\n")


def createml(root: Path) -> None:
    """As :func:`yolo`, as Roboflow writes it."""
    for part in ("train", "valid"):
        picture(root / part / "a.jpg")
        box = {"x": 20, "y": 10, "width": 20, "height": 10}
        table = [{"image": "a.jpg", "annotations": [{"label": "stop sign", "coordinates": box}]}]
        text(root / part / "_annotations.createml.json", json.dumps(table))


def boxes_in_csv(root: Path) -> None:
    """As :func:`yolo`, as Roboflow writes it for TensorFlow."""
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    for part in ("train", "valid"):
        picture(root / part / "a.jpg")
        row = f"a.jpg,{WIDTH},{HEIGHT},stop sign,10,5,30,15"
        text(root / part / "_annotations.csv", f"{header}\n{row}\n")


LAYOUTS = {
    "roboflow-csv": boxes_in_csv,
    "createml": createml,
    "yolo": lambda root: yolo(root, images_first=True),
    "roboflow-yolo": lambda root: yolo(root, images_first=False),
    "coco": lambda root: coco(root, roboflow=False),
    "roboflow-coco": lambda root: coco(root, roboflow=True),
    "voc": lambda root: voc(root, beside=False),
    "roboflow-voc": lambda root: voc(root, beside=True),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_box(tmp_path: Path, layout: str, packed: bool) -> None:
    """Its part alone, in px, with the class by name; from a zip as from a folder."""
    root = tmp_path / "set"
    LAYOUTS[layout](root)
    if packed:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for file in sorted(root.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(tmp_path))
        root = tmp_path / "set.zip"
    data = read_detection_dataset(root, split="val")
    assert len(data) == 1
    image, objects = data[0]
    assert image.shape == (HEIGHT, WIDTH, 3)
    counted = ~objects.crowd
    assert objects.boxes[counted].round(3).tolist() == [[10, 5, 30, 15]]
    assert [data.classes[k] for k in objects.labels] == ["stop sign"] * len(objects)
    assert objects.areas[counted].tolist() == [150 if "coco" in layout else 200]
    assert len(read_detection_dataset(root)) == 2
    assert "part val" in data.summary.lines()[0]


def test_a_coco_file_and_a_data_yaml_are_given_themselves(tmp_path: Path) -> None:
    """``--data set/annotations/valid2017.json``, ``--data set/data.yaml``."""
    coco(tmp_path / "c", roboflow=False)
    data = read_detection_dataset(tmp_path / "c/annotations/valid2017.json")
    assert data.names == ("images/valid2017/a.jpg",)
    yolo(tmp_path / "y", images_first=True)
    assert read_detection_dataset(tmp_path / "y/data.yaml").classes == ("no", "stop sign")


def test_a_csv_of_boxes_is_given_itself_in_any_dialect(tmp_path: Path) -> None:
    """Semicolons, Windows-1252 and decimal commas; a picture without a row is left out, and a set
    of labels of images is none of boxes."""
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.jpg")
    rows = "Dateiname;Klasse;xmin;ymin;xmax;ymax\r\na.jpg;Größe;1,5;2,5;20,25;11\r\n"
    (tmp_path / "kästen.csv").write_bytes(rows.encode("cp1252"))
    data = read_detection_dataset(tmp_path / "kästen.csv")
    assert data.names == ("a.jpg",)
    assert data.classes == ("Größe",)
    assert data[0][1].boxes.tolist() == [[1.5, 2.5, 20.25, 11]]
    assert any("1 image without a row" in line for line in data.summary.lines())
    text(tmp_path / "labels/train.csv", "path,label\na.jpg,3\n")
    with pytest.raises(DataError, match="nor a CSV of boxes"):
        read_detection_dataset(tmp_path)


def test_boxes_in_two_forms_count_once(tmp_path: Path) -> None:
    """A CreateML file beside a COCO file says the same again."""
    coco(tmp_path, roboflow=True)
    createml(tmp_path)
    data = read_detection_dataset(tmp_path, split="val")
    assert len(data[0][1]) == 2  # the box and the crowd


def test_images_without_a_label_have_no_object(tmp_path: Path) -> None:
    """In YOLO they are backgrounds; the summary counts them."""
    yolo(tmp_path, images_first=True)
    picture(tmp_path / "images/valid/b.jpg")
    data = read_detection_dataset(tmp_path, split="val")
    assert [len(data[i][1]) for i in range(2)] == [1, 0]
    assert any("1 image without a label file" in note for note in data.summary.notes)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    """No boxes, a broken line, an image that may be two, a missing part."""
    picture(tmp_path / "plain/a.jpg")
    with pytest.raises(DataError, match="neither COCO, CreateML, Pascal VOC, YOLO nor"):
        read_detection_dataset(tmp_path / "plain")
    yolo(tmp_path / "y", images_first=True)
    text(tmp_path / "y/labels/valid/a.txt", "1 0.5 nan 0.5 0.5\n")
    with pytest.raises(DataError, match=r"labels/valid/a\.txt:1"):
        read_detection_dataset(tmp_path / "y", split="val")
    yolo(tmp_path / "z", images_first=True)
    with pytest.raises(DataError, match="no test part"):
        read_detection_dataset(tmp_path / "z", split="test")
    coco(tmp_path / "c", roboflow=False)
    picture(tmp_path / "c/other/valid/a.jpg")
    with pytest.raises(DataError, match="must mean one image"):
        read_detection_dataset(tmp_path / "c")


def test_boxes_are_scaled_to_the_picture_and_kept_inside(tmp_path: Path) -> None:
    """A COCO file that states twice the size has boxes of half the px."""
    coco(tmp_path, roboflow=True)
    file = tmp_path / "valid/_annotations.coco.json"
    table = json.loads(file.read_text())
    table["images"][0] |= {"width": 2 * WIDTH, "height": 2 * HEIGHT}
    table["annotations"][0]["bbox"] = [20, 10, 100, 100]
    file.write_text(json.dumps(table))
    objects = read_detection_dataset(tmp_path, split="val")[0][1]
    assert objects.boxes[0].tolist() == [10, 5, WIDTH, HEIGHT]
    assert np.isclose(objects.areas[0], 150 / 4)


def test_names_of_classes_in_yaml_stay_words() -> None:
    """``no`` is a class, not False; tables count from 0 with gaps; aliases are refused."""
    assert yaml_class_names("names: [no, on, 1.0]", "d") == ["no", "on", "1.0"]
    assert yaml_class_names("names:\n  0: a\n  2: c\n", "d") == ["a", "1", "c"]
    assert yaml_class_names("nc: 3\n", "d") == []
    with pytest.raises(DataError, match="aliases"):
        parse_yaml("a: &x [1]\nb: *x\n", "d")
    with pytest.raises(DataError, match="nested too deeply"):
        parse_yaml("[" * 5000, "d")
    with pytest.raises(DataError, match="no valid YAML"):
        parse_yaml("a: [1", "d")


def test_boxes_without_area_are_left_out_and_counted(tmp_path: Path) -> None:
    """COCO's own training part has some: they are no objects, and the summary says how many."""
    coco(tmp_path, roboflow=False)
    file = tmp_path / "annotations/valid2017.json"
    table = json.loads(file.read_text())
    table["annotations"] += [{"id": 3, "image_id": 7, "category_id": 9, "bbox": [1, 2, 0, 9]}]
    text(file, json.dumps(table))
    data = read_detection_dataset(tmp_path, split="val")
    assert len(data[0][1].boxes) == 2
    assert any(note.startswith("1 box without area") for note in data.summary.notes)


@pytest.mark.parametrize("orientation", [6, 8])
def test_boxes_of_a_picture_before_it_was_set_upright_are_refused(
    orientation: int, tmp_path: Path
) -> None:
    """A stated size of another shape than the picture as it is shown is an error that names it; of
    the same shape, the boxes are scaled."""
    coco(tmp_path, roboflow=False)
    image = tmp_path / "images/valid2017/a.jpg"
    turned = Image.new("RGB", (WIDTH, HEIGHT))
    exif = turned.getexif()
    exif[0x112] = orientation
    turned.save(image, exif=exif.tobytes())
    with pytest.raises(DataError, match=r"a\.jpg.*40x20 px.*20x40"):
        read_detection_dataset(tmp_path, split="val")[0]
    Image.new("RGB", (2 * WIDTH, 2 * HEIGHT)).save(image)
    assert read_detection_dataset(tmp_path, split="val")[0][1].boxes[0].tolist() == [20, 10, 60, 30]
