"""Atomic files: each is written beside its place and moved in, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from physadv.core.errors import OptionError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside the file ``path``, with its suffix; on success it replaces
    that file, else it is removed.

    Where ``path`` is a link, the file that it leads to is replaced and the link stays. A new file
    has the permissions that the user's umask leaves, a replaced one keeps its own.

    Raises:
        OptionError: Something that is no file stands at ``path``: a folder or a device.
    """
    target = Path(os.path.realpath(path)) if Path(path).is_symlink() else Path(path)
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "a device or pipe"
        raise OptionError(f'"{path}" is {kind}', "A file is written there", "Name another file")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem[:40]}-{secrets.token_hex(6)}{target.suffix}")
    # Made by os.open rather than by tempfile, whose files are readable by their owner alone
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))

    try:
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o777)
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def as_utf8(text: str) -> str:
    """Return ``text`` fit for UTF-8: bytes of a file name that are not become question marks.

    Example:
        >>> as_utf8("Stra\\udcdfe.jpg")
        'Stra?e.jpg'
    """
    return text.encode("utf-8", "replace").decode()


def is_same_path(first: str, second: str) -> bool:
    """Return whether two texts name the same place, in whatever way: ``../data`` and ``/a/data``.

    Example:
        >>> is_same_path("data/../data/", "data")
        True
    """
    paths = [os.path.normpath(as_utf8(text)) for text in (first, second)]
    return paths[0] == paths[1] or os.path.realpath(paths[0]) == os.path.realpath(paths[1])


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write ``data`` atomically and return the path."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` atomically as UTF-8, as :func:`as_utf8` has it, and return the path."""
    return write_bytes(path, as_utf8(text).encode())


def write_json(path: str | Path, value: Any) -> Path:
    """Write ``value`` atomically as indented JSON and return the path."""
    return write_text(path, json.dumps(value, indent=2, sort_keys=False, default=str) + "\n")


def sha256_of(path: str | Path) -> str:
    """Return the sha256 in hex of the file at ``path``, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
