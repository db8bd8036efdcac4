"""Fuzzed readers of data sets of images: arrays and archives."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fuzz import mutations
from fuzz.picture_readers import jpeg_bytes, png_bytes
from fuzz.reader_kit import registered, texts_of, written


def _packed(members: dict[str, bytes]) -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def npy_bytes(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npz_seeds() -> Sequence[bytes]:
    images = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
    labels = np.array([0, 1, 1, 0])
    return [
        _packed({"images.npy": npy_bytes(images), "labels.npy": npy_bytes(labels)}),
        _packed({"x_train.npy": npy_bytes(images[..., 0]), "y_train.npy": npy_bytes(labels)}),
        _packed(
            {
                "images.npy": npy_bytes(images.astype(np.float32) / 255),
                "labels.npy": npy_bytes(labels[:, None]),
                "classes.npy": npy_bytes(np.array(["cat", "dog"])),
            }
        ),
    ]


def _read_all(path: Path) -> object:
    from physadv.datasets.read import read_dataset

    dataset = read_dataset(path)
    return dataset.read(0), str(dataset.summary)


@registered("npz", _npz_seeds, mutations.mutate_npz, 1)
def _npz(folder: Path, data: bytes) -> object:
    return _read_all(written(folder, "d.npz", data))


def _idx_seeds() -> Sequence[bytes]:
    images = struct.pack(">IIII", 0x803, 3, 4, 4) + bytes(48)
    return [images, gzip.compress(images)]


@registered("idx images", _idx_seeds, mutations.mutate_bytes, 1)
def _idx(folder: Path, data: bytes) -> object:
    written(folder, "train-labels-idx1-ubyte", struct.pack(">II", 0x801, 3) + b"\0\1\2")
    written(folder, "train-images-idx3-ubyte", data)
    return _read_all(folder)


@registered(
    "idx labels",
    lambda: [struct.pack(">II", 0x801, 3) + b"\0\1\2"],
    mutations.mutate_bytes,
    1,
)
def _idx_labels(folder: Path, data: bytes) -> object:
    written(folder, "train-images-idx3-ubyte", _idx_seeds()[0])
    written(folder, "train-labels-idx1-ubyte", data)
    return _read_all(folder)


@registered("CIFAR's records", lambda: [b"\3" + bytes(3072)], mutations.mutate_bytes, 1)
def _cifar(folder: Path, data: bytes) -> object:
    return _read_all(written(folder, "test_batch.bin", data).parent)


def _zip_seeds() -> Sequence[bytes]:
    return [
        _packed(
            {
                "train/a/0.png": png_bytes(),
                "train/b/0.png": png_bytes(),
                "test/a/0.png": png_bytes(),
            }
        ),
        _packed({"a/0.jpg": jpeg_bytes(), "b/0.jpg": jpeg_bytes()}),
        _packed(
            {
                "GTSRB/Images/00001/GT-00001.csv": _GTSRB.encode(),
                "GTSRB/Images/00001/0_0.png": png_bytes(),
            }
        ),
    ]


_GTSRB = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n0_0.png;16;16;1;1;14;14;1\n"


@registered("zip of images", _zip_seeds, mutations.mutate_zip, 1)
def _zip(folder: Path, data: bytes) -> object:
    return _read_all(written(folder, "d.zip", data))


@registered(
    "gtsrb csv",
    texts_of(
        _GTSRB, "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path\n9,9,1,1,8,8,1,a.png\n"
    ),
    mutations.mutate_text,
    2,
)
def _gtsrb(folder: Path, data: bytes) -> object:
    written(folder, "GTSRB/Images/00001/0_0.png", png_bytes())
    written(folder, "GTSRB/Images/00001/GT-00001.csv", data)
    return _read_all(folder)
