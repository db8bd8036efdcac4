"""Readers of data sets with boxes, registered beside those of :mod:`fuzz.readers`."""

from __future__ import annotations

from pathlib import Path

from fuzz import mutations
from fuzz.readers import _COCO, _VOC, _png, _reader, _texts, _written


@_reader(
    "data.yaml of a detection set",
    _texts(
        "train: ../train/images\nnc: 2\nnames: ['stop', 'yield']\n",
        "names:\n  0: stop\n  7: 'no'\npath: ..  # note\n",
        "a: &x {b: 1}\nnames: [*x, !!binary aGk=, ? {}]\n",
    ),
    mutations.mutate_text,
    4,
)
def _data_yaml(folder: Path, data: bytes) -> object:
    from physadv.datasets.detection import read_detection_dataset

    _written(folder, "a.png", _png())
    _written(folder, "a.txt", b"0 0.5 0.5 0.2 0.3\n")
    return read_detection_dataset(_written(folder, "data.yaml", data))[0]


@_reader("detection set coco", _texts(_COCO), mutations.mutate_json, 2)
def _coco_set(folder: Path, data: bytes) -> object:
    from physadv.datasets.detection import read_detection_dataset

    _written(folder, "a.jpg", _png())
    return read_detection_dataset(_written(folder, "boxes.json", data))[0]


@_reader("detection set voc", _texts(_VOC), mutations.mutate_text, 2)
def _voc_set(folder: Path, data: bytes) -> object:
    from physadv.datasets.detection import read_detection_dataset

    _written(folder, "a.jpg", _png())
    _written(folder, "a.xml", data)
    return read_detection_dataset(folder)[0]
