"""CIFAR's binary files: pixels, labels and order as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cifar_records import write_cifar

from physadv.core.errors import DataError
from physadv.datasets import read_dataset


def test_ten_classes_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Images, labels, class names and parts are those of the set."""
    images = write_cifar(tmp_path, "test_batch.bin", [3, 8, 8, 0])
    write_cifar(tmp_path, "data_batch_1.bin", [1, 2])
    write_cifar(tmp_path, "data_batch_2.bin", [9])
    (tmp_path / "batches.meta.txt").write_text("airplane\n")
    test = read_dataset(tmp_path, split="test")
    assert test.labels.tolist() == [3, 8, 8, 0]
    assert test.classes[3] == "cat"
    assert all(np.array_equal(test[i][0], images[i]) for i in range(4))
    assert test.summary.known_set == "CIFAR-10"
    assert read_dataset(tmp_path, split="train").labels.tolist() == [1, 2, 9]
    assert len(read_dataset(tmp_path)) == 7


def test_a_hundred_classes_are_the_fine_ones(tmp_path: Path) -> None:
    """Of CIFAR-100's two labels the second counts."""
    write_cifar(tmp_path, "test.bin", [99, 1], coarse=True)
    (tmp_path / "fine_label_names.txt").write_text("apple\n")
    test = read_dataset(tmp_path, split="test")
    assert test.labels.tolist() == [99, 1]
    assert len(test.classes) == 100


@pytest.mark.parametrize("content", [b"", b"x" * 3072, b"\x0b" + b"x" * 3072])
def test_damaged_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    """Empty, cut off, or with a label that CIFAR-10 does not have."""
    (tmp_path / "test_batch.bin").write_bytes(content)
    with pytest.raises(DataError):
        read_dataset(tmp_path, split="test")


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    """The Python version of the set is code, and the way around it is named."""
    (tmp_path / "test_batch").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match="binary version"):
        read_dataset(tmp_path)
