"""Zip and tar archives and gzip data of others, unpacked in memory within budgets; nothing is
unpacked to disk."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from physadv.core.errors import DataError, PhysadvError
from physadv.core.reading import MAX_MEMBERS, assert_bytes, foreign_errors
from physadv.core.unread_files import UnreadFiles

_DAMAGED = "not a readable zip"
_KNOWN_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others that zipfile knows unpack in steps of any size."""
_STEP = 1 << 20
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)


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


def zip_files(archive: zipfile.ZipFile) -> tuple[list[str], UnreadFiles]:
    """Return the names of the regular files in a zip archive, and what else lies in it.

    Args:
        archive: The archive.

    Returns:
        Names in the order of the archive, and links, devices, pipes and members without a name,
        which are not read.
    """
    names, unread = [], UnreadFiles()
    for info in archive.infolist():
        mode = info.external_attr >> 16  # as Unix has it; 0 where another system packed the file
        if info.filename.endswith("/"):
            continue
        if not info.filename:
            unread.add("files without a name", "")
        elif stat.S_ISLNK(mode):
            unread.add("links", info.filename)
        elif stat.S_IFMT(mode) in _DEVICES:
            unread.add("devices and pipes", info.filename)
        else:
            names.append(info.filename)
    return names, unread


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
        # What a member states, in 64 bits or 32, is no more than lies before the directory.
        packed = min(info.compress_size, archive.start_dir)
        assert_bytes(info.file_size, name, most=most_bytes, packed=packed, error=error)
        with archive.open(info) as stream:
            return stream.read(info.file_size + 1)  # zipfile checks the sum at the end


def is_tar(path: Path) -> bool:
    """Return whether a file is a tar archive that is not compressed; False where it cannot be
    read."""
    try:
        with path.open("rb") as stream:
            return stream.read(265)[257:262] == b"ustar"
    except OSError:
        return False


@dataclass(frozen=True)
class TarMember:
    """A regular file in a tar archive: where its bytes lie."""

    start: int
    size: int


@dataclass(frozen=True)
class TarListing:
    """What a tar archive holds.

    Attributes:
        members: Place of each regular file by its name; of a name that occurs again the last, which
            is the one that unpacking leaves.
        unread: Earlier files of such a name, links, devices, pipes, sparse files and members
            without a name.
    """

    members: dict[str, TarMember]
    unread: UnreadFiles


def list_tar(path: Path, *, error: type[PhysadvError] = DataError) -> TarListing:
    """Return where the regular files of a tar archive lie; nothing is unpacked.

    Args:
        path: The archive, not compressed.
        error: Class of the error.

    Returns:
        The files, and what else lies in the archive, apart from folders.

    Raises:
        PhysadvError: It is no tar archive, is cut off, or has too many members.
    """
    listing = TarListing({}, UnreadFiles())
    length = path.stat().st_size
    with (
        foreign_errors(f"{path}", error, "not a readable tar", "Fetch the file again"),
        tarfile.open(path, "r:", errors="surrogateescape") as archive,
    ):
        for count, info in enumerate(archive, 1):
            archive.members = []  # type: ignore[attr-defined]  # else every header stays in memory
            if count > MAX_MEMBERS:
                raise error(f"{path}", f"over {MAX_MEMBERS} members", "Pack several archives")
            name = info.name.removeprefix("./")
            if kind := _unread_kind(info, name):
                listing.unread.add(kind, name)
            if kind or info.isdir():
                continue
            if info.offset_data + info.size > length:
                raise error(f"{path}: {info.name}", "It is cut off", "Fetch the file again")
            if name in listing.members:
                listing.unread.add("earlier files of the same name", name)
            listing.members[name] = TarMember(info.offset_data, info.size)
    return listing


def _unread_kind(info: tarfile.TarInfo, name: str) -> str:
    """What a member is called that is neither a folder nor a regular file; empty for those two."""
    if info.isdir():
        return ""
    if info.issym() or info.islnk():
        return "links"
    if info.isdev():
        return "devices and pipes"
    if not info.isreg():
        return "members of an unknown kind"
    if info.issparse():
        return "sparse files"
    return "" if name else "files without a name"


def read_tar_member(
    path: Path,
    member: TarMember,
    name: str,
    *,
    most_bytes: int,
    error: type[PhysadvError] = DataError,
) -> bytes:
    """Return the bytes of a file in a tar archive.

    Args:
        path: The archive.
        member: Place of the file, from :func:`list_tar`.
        name: Name of the archive and the file in errors.
        most_bytes: Most bytes.
        error: Class of the error.

    Raises:
        PhysadvError: It is too large, or the archive cannot be read.
    """
    assert_bytes(member.size, name, most=most_bytes, error=error)
    with foreign_errors(name, error, "cannot be read", "Fetch the tar again"):
        with path.open("rb") as stream:
            stream.seek(member.start)
            data = stream.read(member.size)
        if len(data) < member.size:
            raise error(name, "It is cut off", "Fetch the tar again")
        return data


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
