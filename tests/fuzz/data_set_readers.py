"""Readers of data sets with boxes, registered beside those of :mod:`fuzz.readers`."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from fuzz import mutations
from fuzz.label_readers import COCO, CREATEML, VOC
from fuzz.picture_readers import encoded, noise_picture, png_bytes
from fuzz.reader_kit import registered, texts_of, written


@registered(
    "data.yaml of a detection set",
    texts_of(
        "train: ../train/images\nnc: 2\nnames: ['stop', 'yield']\n",
        "names:\n  0: stop\n  7: 'no'\npath: ..  # note\n",
        "a: &x {b: 1}\nnames: [*x, !!binary aGk=, ? {}]\n",
    ),
    mutations.mutate_text,
    4,
)
def _data_yaml(folder: Path, data: bytes) -> object:
    from physadv.datasets.read import read_detection_dataset

    written(folder, "a.png", png_bytes())
    written(folder, "a.txt", b"0 0.5 0.5 0.2 0.3\n")
    return read_detection_dataset(written(folder, "data.yaml", data))[0]


@registered("detection set coco", texts_of(COCO, CREATEML), mutations.mutate_json, 2)
def _coco_set(folder: Path, data: bytes) -> object:
    from physadv.datasets.read import read_detection_dataset

    written(folder, "a.jpg", png_bytes())
    return read_detection_dataset(written(folder, "boxes.json", data))[0]


@registered("detection set voc", texts_of(VOC), mutations.mutate_text, 2)
def _voc_set(folder: Path, data: bytes) -> object:
    from physadv.datasets.read import read_detection_dataset

    written(folder, "a.jpg", encoded("PNG", noise_picture(20).crop((0, 0, 20, 16))))
    written(folder, "a.xml", data)
    return read_detection_dataset(folder)[0]


@registered(
    "csv listing",
    texts_of(
        "path,label,split\na.png,stop,train\na.png,yield,test\n",
        "a.png;3\na.png;0\n",
        "ImageId\tPredictionString\na\tn01440764 1 2 3 4\n",
    ),
    mutations.mutate_text,
    4,
)
def _csv_listing(folder: Path, data: bytes) -> object:
    from physadv.datasets.read import read_dataset

    written(folder, "a.png", png_bytes())
    return read_dataset(written(folder, "set.csv", data))[0]


@registered("list of paths", texts_of("a.png 1\na.png 0\n", "*.png\n"), mutations.mutate_text, 2)
def _path_list(folder: Path, data: bytes) -> object:
    from physadv.datasets.read import read_dataset

    written(folder, "a.png", png_bytes())
    return read_dataset(written(folder, "set.txt", data))[0]


def _shards() -> Sequence[bytes]:
    kinds = (("cls", b"1"), ("json", b'{"label": "stop"}'))
    found = []
    for suffix, label in kinds:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, data in (("000.png", png_bytes()), (f"000.{suffix}", label)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        found.append(buffer.getvalue())
    return found


@registered("webdataset shard", _shards, mutations.mutate_bytes, 2)
def _shard(folder: Path, data: bytes) -> object:
    from physadv.datasets.read import read_dataset

    return read_dataset(written(folder, "train-000.tar", data))[0]


def _columnar(kind: str) -> Sequence[bytes]:
    import pyarrow
    from pyarrow import parquet

    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    table = pyarrow.table({"image": [{"bytes": png_bytes(), "path": "a"}] * 3, "label": [0, 1, 1]})
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    buffer = io.BytesIO()
    if kind == "parquet":
        parquet.write_table(table, buffer, row_group_size=2)
    else:
        with pyarrow.ipc.new_stream(buffer, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return [buffer.getvalue()]


@registered("parquet set", lambda: _columnar("parquet"), mutations.mutate_bytes, 2)
def _parquet(folder: Path, data: bytes) -> object:
    from physadv.datasets.read import read_dataset

    return read_dataset(written(folder, "train.parquet", data))[2]


@registered("arrow set", lambda: _columnar("arrow"), mutations.mutate_bytes, 2)
def _arrow(folder: Path, data: bytes) -> object:
    from physadv.datasets.read import read_dataset

    return read_dataset(written(folder, "train.arrow", data))[2]


def _columnar_boxes() -> Sequence[bytes]:
    import pyarrow
    from pyarrow import parquet

    found = [{"bbox": [1.0, 2.0, 6.0, 5.0], "category": 1}, {"bbox": [0, 0, 3, 3], "category": 0}]
    table = pyarrow.table(
        {"image": [{"bytes": png_bytes(), "path": "a"}] * 2, "objects": [found, found[:1]]}
    )
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return [buffer.getvalue()]


@registered("parquet set with boxes", _columnar_boxes, mutations.mutate_bytes, 1)
def _parquet_boxes(folder: Path, data: bytes) -> object:
    from physadv.datasets.read import read_detection_dataset

    return read_detection_dataset(written(folder, "train.parquet", data))[0]
