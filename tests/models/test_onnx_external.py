"""No ONNX file reaches a file outside its folder, however it writes that file's name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from physadv.core.errors import ModelError
from physadv.models.onnx_external import ExternalData, assert_external_within
from physadv.models.protobuf import message_in, number_in, text_in


def varint(number: int) -> bytes:
    """A whole number, seven bits a byte, the lowest first."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def with_length(field: int, content: bytes) -> bytes:
    """A field of bytes, of text, or of another message."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    """A field of a whole number."""
    return varint(field << 3) + varint(value)


def entry(*fields: tuple[int, bytes]) -> bytes:
    """A record of a tensor's place: its key (1) and value (2)."""
    return with_length(13, b"".join(with_length(*field) for field in fields))


def location(name: str) -> bytes:
    """The record that names the file."""
    return entry((1, b"location"), (2, name.encode()))


def tensor(place: bytes, kind: bytes = number(14, 1)) -> bytes:
    """A tensor whose numbers lie in another file."""
    return number(1, 4) + number(2, 1) + with_length(8, b"w") + place + kind


def initializer(*places: bytes) -> bytes:
    """A model of one stored tensor."""
    return with_length(7, with_length(5, tensor(b"".join(places))))


def attribute(*fields: bytes) -> bytes:
    """A model of one node with one attribute."""
    return with_length(7, with_length(1, with_length(5, b"".join(fields))))


GOOD, BAD = location("good.bin"), location("../outside.bin")
ESCAPES = {
    "a path upwards": initializer(BAD),
    "an absolute path": initializer(location("/etc/passwd")),
    "a path of Windows": initializer(location("..\\outside.bin")),
    "an address": initializer(location("file:///etc/passwd")),
    "a null character": initializer(location("good.bin\0")),
    "a link that leads out": initializer(location("link.bin")),
    "a link to the folder above": initializer(location("up/outside.bin")),
    "a folder": initializer(location("folder")),
    "a pipe": initializer(location("pipe")),
    "no name": initializer(location("")),
    "an address in memory": initializer(location("*/_ORT_MEM_ADDR_/*")),
    "a second graph": with_length(7, b"") + initializer(BAD),
    "two places": initializer(GOOD, BAD),
    "a key that is said twice": initializer(
        GOOD, entry((1, b"junk"), (1, b"location"), (2, b"../outside.bin"))
    ),
    "a name that is said twice": initializer(
        entry((1, b"location"), (2, b"good.bin"), (2, b"../outside.bin"))
    ),
    "a kind of more than 32 bits": with_length(
        7, with_length(5, tensor(BAD, number(14, (1 << 32) + 1)))
    ),
    "a field of more than 32 bits": varint((7 << 3 | 2) | 1 << 32) + initializer(BAD)[1:],
    "an attribute": attribute(with_length(5, tensor(BAD))),
    "an attribute's list": attribute(with_length(10, tensor(BAD))),
    "a tensor in two parts": attribute(with_length(5, tensor(GOOD)), with_length(5, BAD)),
    "a sparse tensor": with_length(7, with_length(15, with_length(1, tensor(BAD)))),
    "indices of a sparse attribute": attribute(with_length(22, with_length(2, tensor(BAD)))),
    "a graph within": attribute(with_length(6, with_length(5, tensor(BAD)))),
    "a graph in two parts": attribute(
        with_length(6, with_length(5, tensor(GOOD))), with_length(6, with_length(5, tensor(BAD)))
    ),
    "a function": with_length(25, with_length(7, with_length(5, with_length(5, tensor(BAD))))),
    "a negative length": initializer(GOOD, entry((1, b"length"), (2, b"-1"))),
    "an offset of other digits": initializer(GOOD, entry((1, b"offset"), (2, "٣".encode()))),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one file, and ways out of it."""
    inside = tmp_path / "model"
    (inside / "folder").mkdir(parents=True)
    (inside / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (inside / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(bytes(16))
    (inside / "good.bin").write_bytes(bytes(16))
    (tmp_path / "outside.bin").write_bytes(bytes(16))
    (inside / "link.bin").symlink_to(tmp_path / "outside.bin")
    (inside / "up").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe")
    return inside


@pytest.mark.parametrize("name", ESCAPES)
def test_no_spelling_reaches_out_of_the_folder(folder: Path, name: str) -> None:
    """What onnxruntime is handed was read as it reads it: its older versions check nothing."""
    with pytest.raises((ModelError, ValueError)):
        assert_external_within(ESCAPES[name], folder)


def test_a_file_of_the_folder_is_read(folder: Path) -> None:
    """Plainly named, with or without an offset and a length."""
    for places in ((GOOD,), (GOOD, entry((1, b"offset"), (2, b"4")))):
        assert_external_within(initializer(*places), folder)
    read = ExternalData(folder).content_of(memoryview(tensor(GOOD)))
    assert read is not None
    assert len(read) == 16


@pytest.mark.parametrize(
    ("key", "value"), [("offset", "17"), ("length", "17"), ("offset", "999999999999999")]
)
def test_no_byte_beyond_the_file_is_read(folder: Path, key: str, value: str) -> None:
    """Offset and length stay within the file."""
    place = GOOD + entry((1, key.encode()), (2, value.encode()))
    with pytest.raises(ValueError, match="ends before byte"):
        ExternalData(folder).content_of(memoryview(tensor(place)))


def test_what_stands_there_twice_is_read_as_elsewhere() -> None:
    """Messages are merged and of others the last counts, as the format's description says."""
    twice = with_length(1, number(2, 5)) + with_length(1, number(2, 6) + with_length(3, b"a"))
    merged = message_in(memoryview(twice + with_length(1, with_length(3, b"b"))), 1)
    assert number_in(merged, 2) == 6
    assert text_in(merged, 3) == "b"
    assert number_in(merged, 4, 7) == 7
