"""Fuzzed readers of labels and boxes."""

from __future__ import annotations

from pathlib import Path

from fuzz import mutations
from fuzz.picture_readers import png_bytes
from fuzz.reader_kit import registered, texts_of, written


@registered(
    "boxes csv",
    texts_of(
        "file,x0,y0,x1,y1\na.jpg,1,2,31,42\nb.jpg,3,4,5.5,6\n",
        'file;xmin;ymin;xmax;ymax;class\n"a b.jpg";1,5;2;31;42;stop\n',
        "sep=\t\nfilename\tx0\ty0\tx1\ty1\twidth\theight\na.jpg\t1\t2\t3\t4\t100\t80\n",
    ),
    mutations.mutate_text,
    10,
)
def _boxes_csv(folder: Path, data: bytes) -> object:
    from physadv.eot.scenes.boxes import read_boxes

    return read_boxes(written(folder, "boxes.csv", data), "stop")


@registered(
    "boxes yolo",
    texts_of(
        "0 0.5 0.5 0.2 0.3\n1 0.1 0.2 0.3 0.4 0.99\n", "3 0.1 0.1 0.2 0.1 0.2 0.3\n", "# note\n"
    ),
    mutations.mutate_text,
    10,
)
def _boxes_yolo(folder: Path, data: bytes) -> object:
    from physadv.eot.scenes.boxes import read_boxes

    written(folder, "classes.txt", b"stop\nyield\n")
    written(folder, "a.txt", data)
    return read_boxes(folder if len(data) % 2 else folder / "a.txt")


@registered("class names", texts_of("stop\nyield\n", "0 person\n1 car\n"), mutations.mutate_text, 2)
def _class_names(folder: Path, data: bytes) -> object:
    from physadv.eot.scenes.boxes import read_boxes

    written(folder, "classes.txt", data)
    written(folder, "a.txt", b"0 0.5 0.5 0.2 0.3\n")
    return read_boxes(folder)


COCO = (
    '{"images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}], "categories": '
    '[{"id": 3, "name": "stop"}], "annotations": [{"id": 7, "image_id": 1, "category_id": 3, '
    '"bbox": [1, 2, 30, 40], "iscrowd": 0, "segmentation": [[1, 2, 3]], "area": 12.5}]}'
)


CREATEML = (
    '[{"image": "a.jpg", "annotations": [{"label": "stop", "coordinates": '
    '{"x": 16, "y": 22, "width": 30, "height": 40}}]}, {"image": "b.jpg", "annotations": []}]'
)


@registered("boxes coco", texts_of(COCO, CREATEML), mutations.mutate_json, 4)
def _boxes_coco(folder: Path, data: bytes) -> object:
    from physadv.eot.scenes.boxes import read_boxes

    return read_boxes(written(folder, "boxes.json", data))


VOC = (
    "<annotation><filename>a.jpg</filename><size><width>100</width><height>80</height></size>"
    "<object><name>stop</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>31</xmax>"
    "<ymax>42</ymax></bndbox></object></annotation>"
)


@registered(
    "boxes voc",
    texts_of(VOC, f'<?xml version="1.0" encoding="latin-1"?><!-- x -->{VOC}'),
    mutations.mutate_text,
    10,
)
def _boxes_voc(folder: Path, data: bytes) -> object:
    from physadv.eot.scenes.boxes import read_boxes

    return read_boxes(written(folder, "a.xml", data))


@registered(
    "boxes beside photos",
    texts_of("file,x0,y0,x1,y1\na.png,1,2,11,12\n"),
    mutations.mutate_text,
    0.5,
)
def _boxes_beside(folder: Path, data: bytes) -> object:
    from physadv.eot.scenes.load import read_signs

    written(folder, "a.png", png_bytes())
    written(folder, "boxes.csv", data)
    return read_signs(folder)


@registered("sign boxes", texts_of("file,x0,y0,x1,y1\na.png,1,2,31,42\n"), mutations.mutate_text, 2)
def _sign_boxes(folder: Path, data: bytes) -> object:
    from physadv.training.sign_classifier.validation import read_sign_boxes

    return read_sign_boxes(written(folder, "boxes.csv", data))


@registered(
    "photo classes", texts_of("file,class\na.png,stop\nb.png,3\n"), mutations.mutate_text, 2
)
def _photo_classes(folder: Path, data: bytes) -> object:
    from physadv.eot.scenes.photos import ScenePhoto
    from physadv.models.cards import ModelCard
    from physadv.patches.photo_sources import _read_labels

    card = ModelCard("toy", classes=("stop", "yield"))
    photo = object.__new__(ScenePhoto)
    object.__setattr__(photo, "group", "a.png")
    return _read_labels(written(folder, "labels.csv", data), [photo], card.class_index)
