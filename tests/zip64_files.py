"""Zip archives whose sizes stand in zip64's fields alone, and may lie."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

_FULL = 0xFFFFFFFF


@dataclass(frozen=True)
class Zip64Member:
    """A member: its name and content, and what its headers state where that is something else.

    Attributes:
        name: Name.
        content: Content.
        stated: Bytes of the content, as stated.
        packed: Bytes that it takes in the archive, as stated.
        offset: Where it begins, as stated.
        extra: The directory's extra field; None for that of zip64.
    """

    name: str
    content: bytes
    stated: int | None = None
    packed: int | None = None
    offset: int | None = None
    extra: bytes | None = None


def zip64(*members: Zip64Member, **stated: int) -> bytes:
    """An archive of ``members``, whose end states ``count``, ``size`` or ``start`` of the
    directory, ``end`` of its own place, or ``disks`` where given."""
    out = directory = b""
    for member in members:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = packer.compress(member.content) + packer.flush()
        name, checksum = member.name.encode(), zlib.crc32(member.content)
        size = len(member.content) if member.stated is None else member.stated
        packed = len(body) if member.packed is None else member.packed
        offset = len(out) if member.offset is None else member.offset
        head = struct.pack("<HHHHIII", 0, 8, 0, 0x21, checksum, _FULL, _FULL)
        sizes = struct.pack("<HHQQ", 1, 16, size, packed)
        out += b"PK\3\4" + struct.pack("<H", 45) + head
        out += struct.pack("<HH", len(name), len(sizes)) + name + sizes + body
        extra = struct.pack("<HHQQQ", 1, 24, size, packed, offset)
        extra = extra if member.extra is None else member.extra
        directory += b"PK\1\2" + struct.pack("<HH", 45, 45) + head
        directory += struct.pack("<HHHHHII", len(name), len(extra), 0, 0, 0, 0, _FULL)
        directory += name + extra

    end = len(out) + len(directory)
    count = stated.get("count", len(members))
    where = stated.get("size", len(directory)), stated.get("start", len(out))
    record = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, *where)
    locator = struct.pack("<IQI", 0, stated.get("end", end), stated.get("disks", 1))
    short = struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, _FULL, _FULL, 0)
    return out + directory + b"PK\6\6" + record + b"PK\6\7" + locator + b"PK\5\6" + short
