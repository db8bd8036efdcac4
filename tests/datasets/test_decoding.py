"""Images are decoded ahead by threads, in order, and errors arrive where they belong."""

from __future__ import annotations

import copy
import threading

import pytest

from physadv.core.errors import DataError
from physadv.datasets.decoding import Decoder


def test_what_was_begun_is_not_decoded_twice() -> None:
    """In other threads than the caller's; what is left over is forgotten."""
    calls: list[tuple[int, int]] = []

    def read(number: int) -> int:
        calls.append((number, threading.get_ident()))
        return number * 10

    decoder = Decoder(3)
    decoder.begin(read, [5, 3, 9])
    assert decoder.take(read, [3, 5]) == [30, 50]
    assert decoder.take(read, [9, 1]) == [90, 10]
    assert sorted(number for number, _ in calls) == [1, 3, 5, 9]
    assert all(thread != threading.get_ident() for _, thread in calls)


def test_a_batch_is_decoded_while_another_is_at_work() -> None:
    """The next image is read before it is taken."""
    read = threading.Event()
    decoder = Decoder(1)
    decoder.begin(lambda number: read.set() or number, [7])
    assert read.wait(5)
    assert decoder.take(lambda number: -1, [7]) == [7]


def test_an_error_is_raised_where_the_image_is_taken() -> None:
    """Not in the thread that met it."""

    def broken(number: int) -> int:
        raise DataError(f"image {number}", "is damaged", "Replace it")

    decoder = Decoder(2)
    decoder.begin(broken, [1])
    with pytest.raises(DataError, match="image 1"):
        decoder.take(broken, [1])
    assert copy.deepcopy(decoder).take(str, [2, 3]) == ["2", "3"]
