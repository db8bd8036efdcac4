"""Zip archives and gzip data of others, unpacked in memory within budgets; nothing is unpacked to
disk."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

from physadv.core.errors import DataError, PhysadvError
from physadv.core.reading import MAX_MEMBERS, assert_bytes, foreign_errors

_DAMAGED = "not a readable zip"
_KNOWN_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others that zipfile knows unpack in steps of any size."""
_STEP = 1 << 20


def is_zip(source: Path | bytes) -> bool:
    """Return whether a file or its content ends as a zip archive does; False where it cannot be
    read, or is one of several volumes.

    Args:
        source: The file, or its content.
    """
    try:
        return zipfile.is_zipfile(source if isinstance(source, Path) else io.BytesIO(source))
    except zipfile.BadZipFile:  # raised for an archive over several disks
        return False


def member_names(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the files in ``archive``, without folders and without empty names."""
    names = archive.namelist()
    return [name for name in names if name and not name.endswith("/")]


def open_zip(
    source: Path | bytes, name: str, *, error: type[PhysadvError] = DataError
) -> zipfile.ZipFile:
    """Open a zip archive; the caller closes it.

    Args:
        source: The file, or its content.
        name: Name of the file in errors.
        error: Class of the error.

    Returns:
        The archive, whose members :func:`read_member` reads.

    Raises:
        PhysadvError: It is no zip archive, has too many members, or two of one name.
    """
    with foreign_errors(name, error, _DAMAGED, "Fetch the file again"):
        archive = zipfile.ZipFile(source if isinstance(source, Path) else io.BytesIO(source))
    names = archive.namelist()
    twice = len(names) - len(set(names))
    if twice or len(names) > MAX_MEMBERS:
        archive.close()
        limit = f"{twice} names occur twice in it" if twice else f"over {MAX_MEMBERS} members"
        raise error(name, limit, "Pack it anew")
    return archive


def read_member(
    archive: zipfile.ZipFile,
    member: str,
    name: str,
    *,
    most_bytes: int,
    error: type[PhysadvError] = DataError,
) -> bytes:
    """Return the bytes of a member of an archive.

    Args:
        archive: The archive.
        member: Name of the member.
        name: Name of the archive and its member in errors.
        most_bytes: Most bytes, unpacked.
        error: Class of the error.

    Raises:
        PhysadvError: The member is missing, damaged, encrypted, packed in a rare way, or too large.
    """
    with foreign_errors(name, error, "cannot be unpacked", "Fetch the zip again"):
        info = archive.getinfo(member)
        if info.compress_type not in _KNOWN_PACKINGS:
            raise error(name, "packed in a way that is not read", "Pack it with deflate")
        assert_bytes(info.file_size, name, most=most_bytes, packed=info.compress_size, error=error)
        with archive.open(info) as stream:
            return stream.read(info.file_size)  # zipfile checks the sum at the end


def gunzip(
    data: bytes, name: str, *, most_bytes: int, error: type[PhysadvError] = DataError
) -> bytes:
    """Return what gzip data hold.

    Args:
        data: Content of the file.
        name: Name of the file in errors.
        most_bytes: Most bytes, unpacked.
        error: Class of the error.

    Raises:
        PhysadvError: The data are damaged or cut off, or hold too much.

    Example:
        >>> import gzip
        >>> gunzip(gzip.compress(b"stop"), "a.gz", most_bytes=100)
        b'stop'
    """
    unpacked = bytearray()
    with foreign_errors(name, error, "cannot be unpacked", "Fetch the file again"):
        while data.strip(b"\0"):  # files may be joined, and padded with zeros
            unpacker = zlib.decompressobj(wbits=31)
            rest = data
            while rest and not unpacker.eof:
                unpacked += unpacker.decompress(rest, _STEP)
                assert_bytes(len(unpacked), name, most=most_bytes, packed=len(data), error=error)
                rest = unpacker.unconsumed_tail
            if not unpacker.eof:
                raise error(name, "cannot be unpacked (it ends too early)", "Fetch the file again")
            data = unpacker.unused_data
    return bytes(unpacked)
