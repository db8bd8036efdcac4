"""Text of files from elsewhere: one place that bounds their size and recognizes their encoding."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from physadv.core.errors import DataError, PhysadvError

MOST_TEXT_BYTES = 256 << 20
"""Largest text file that is read, in bytes."""

_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_LATER_BYTES = 1 << 24
_UNITS = ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB"), (1, "bytes"))


@dataclass(frozen=True)
class DecodedText:
    """Text of a file, without a byte order mark.

    Attributes:
        text: The text; it holds no null character.
        is_guess: Whether it was read as Windows-1252 because it is no UTF-8.
    """

    text: str
    is_guess: bool = False


def read_file(
    path: str | Path,
    *,
    most_bytes: int = MOST_TEXT_BYTES,
    error: type[PhysadvError] = DataError,
    remedy: str = "Check the path",
) -> bytes:
    """Read a regular file whole, within a budget that is checked before anything is read.

    A pipe or a device is refused: it may never end, or never begin.

    Args:
        path: The file.
        most_bytes: Largest size that is read.
        error: Class of the error to raise.
        remedy: What the reader of that error should do.

    Returns:
        The content of the file.

    Raises:
        PhysadvError: Of class ``error``: the file is missing, unreadable, no regular file, or
            larger than ``most_bytes``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "names.txt").write_bytes(b"stop")
        ...     read_file(f"{folder}/names.txt")
        b'stop'
    """
    file = Path(path)
    try:
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            raise error(f"'{path}' is a folder", "A file is needed", remedy)
        if not stat.S_ISREG(status.st_mode):
            raise error(f"'{path}' is a device or pipe", "A regular file is needed", remedy)
        if status.st_size > most_bytes:
            raise _too_large(path, status.st_size, most_bytes, error)
        with file.open("rb") as stream:
            # Python takes the memory of what is asked for, not of what is there.
            data = stream.read(status.st_size + 1)
            if len(data) > status.st_size:  # it grew meanwhile, or lies in /proc
                data += stream.read(min(most_bytes - len(data), _LATER_BYTES) + 1)
    except FileNotFoundError as absent:
        raise error(f"'{path}'", "no such file", remedy) from absent
    except (OSError, ValueError) as unreadable:  # ValueError: a null character in the name
        reason = getattr(unreadable, "strerror", None) or str(unreadable)
        raise error(f"{str(path)!r}", f"cannot be read ({reason})", remedy) from unreadable
    if len(data) > most_bytes:
        raise _too_large(path, len(data), most_bytes, error)
    return data


def decode_text(
    data: bytes,
    name: str | Path,
    *,
    guess: bool = False,
    error: type[PhysadvError] = DataError,
    remedy: str = "Save it as UTF-8",
) -> DecodedText:
    """Decode text by its byte order mark, else as UTF-8.

    Args:
        data: Content of the file.
        name: Name of the file, for errors.
        guess: Whether text that is no UTF-8 is read as Windows-1252, as old programs save it.
        error: Class of the error to raise.
        remedy: What the reader of that error should do.

    Returns:
        The text, and whether its encoding was guessed.

    Raises:
        PhysadvError: Of class ``error``: the bytes are in none of these encodings, or hold null
            characters, as other files than text do.

    Example:
        >>> decode_text(b"Stra\\xdfe", "names.txt", guess=True)
        DecodedText(text='Straße', is_guess=True)
    """
    marked = next((code for mark, code in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
    codes = [marked] if marked else ["utf-8", "cp1252"] if guess else ["utf-8"]
    for code in codes:
        try:
            text = data.decode(code)
        except UnicodeError:
            continue
        if "\0" in text:
            raise error(f"'{name}' holds null characters", "It is no text, or UTF-16", remedy)
        return DecodedText(text, is_guess=code == "cp1252")
    other = "Windows-1252 (cp1252)" if guess else "UTF-16"
    raise error(f"'{name}' is neither UTF-8 nor {other} text", "Its encoding is unknown", remedy)


def read_text(
    path: str | Path,
    *,
    guess: bool = False,
    most_bytes: int = MOST_TEXT_BYTES,
    error: type[PhysadvError] = DataError,
    remedy: str = "Save it as UTF-8",
    missing: str = "Check the path",
) -> str:
    """Read a text file by its byte order mark, else as UTF-8.

    Args:
        path: The file.
        guess: Whether text that is no UTF-8 is read as Windows-1252, as old programs save it.
        most_bytes: Largest size that is read.
        error: Class of the error to raise.
        remedy: What the reader of an error about the content should do.
        missing: The same for a file that cannot be opened.

    Returns:
        The text, without a byte order mark and without null characters.

    Raises:
        PhysadvError: Of class ``error``: the file cannot be read, is too large or is no text.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "names.txt").write_bytes(b"\\xef\\xbb\\xbfstop")
        ...     read_text(f"{folder}/names.txt")
        'stop'
    """
    data = read_file(path, most_bytes=most_bytes, error=error, remedy=missing)
    return decode_text(data, path, guess=guess, error=error, remedy=remedy).text


def _too_large(
    path: str | Path, size: int, most_bytes: int, error: type[PhysadvError]
) -> PhysadvError:
    return error(f"'{path}' has {_size(size)}", f"At most {_size(most_bytes)} are read")


def _size(size: int) -> str:
    """Return a number of bytes in the unit in which it reads well."""
    unit, name = next(pair for pair in _UNITS if size >= pair[0] or pair[0] == 1)
    return f"{size / unit:.4g} {name}"
