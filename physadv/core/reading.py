"""Budgets of everything that is read from other people's files, and one error for whatever fails.

A file of a few kilobytes can announce gigabytes. The modules of this room that call a decoder
(pictures, drawings, archives, arrays, tensors) judge the announced size here first, before a byte
is allocated, and turn every exception of a library into one of :mod:`physadv.core.errors`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from physadv.core.errors import ImageError, PhysadvError, is_out_of_memory

MAX_PIXELS = 120_000_000
"""Most pixels of a picture: what is held as floats then takes 1.5 GB."""
MAX_JPEG_PIXELS = 205_000_000
"""Most pixels of a JPEG, whose decoder takes little beside them: phones reach 200 megapixels."""
MAX_FRAME_PIXELS = 40_000_000
"""Most pixels of a video's frame, of which a decoder keeps up to 17: 8K has 33 megapixels."""
MAX_PICTURE_BYTES = 1 << 29
"""Most bytes of a picture's file."""
MAX_PICTURES = 100_000
"""Most pages or frames of a picture's file."""
MAX_ANIMATION_PIXELS = 4_000_000_000
"""Most pixels of all pictures of an animation, which decode at some 50 megapixels a second."""
MAX_DRAWING_BYTES = 1 << 25
"""Most bytes of an SVG file."""
MAX_PDF_BYTES = 1 << 28
"""Most bytes of a PDF file."""
MAX_PROFILE_BYTES = 1 << 26
"""Most bytes of an ICC profile."""
MAX_ARRAY_BYTES = 1 << 34
"""Most bytes of the arrays of a data set, unpacked."""
MAX_MODEL_BYTES = 1 << 34
"""Most bytes of a model's file, or of its members, unpacked."""
MAX_CLASSES = 1_000_000
"""Highest number of a class, where classes are named by their numbers."""
MAX_MEMBERS = 4_000_000
"""Most members of an archive: ImageNet has 1.3 million images."""
FREE_BYTES = 1 << 28
"""What anything may unpack to, however small its file."""
MOST_EXPANSION = 100
"""Most bytes that a byte of a file may unpack to beyond :data:`FREE_BYTES`. Photos reach about 15,
archives of arrays 20; bombs need hundreds."""

_LONGEST_REASON = 160


@contextmanager
def foreign_errors(
    name: str, error: type[PhysadvError], what: str, remedy: str = "Replace or remove the file"
) -> Iterator[None]:
    """Raise whatever a library raises as one error of the toolkit.

    Args:
        name: Name of the file.
        error: Class of the error.
        what: What the file is then, such as "not a readable image".
        remedy: What to do.

    Raises:
        PhysadvError: The block raised anything; errors of the toolkit itself pass unchanged.

    Example:
        >>> with foreign_errors("a.png", ImageError, "not a readable image"):
        ...     bytes([300])
        Traceback (most recent call last):
        physadv.core.errors.ImageError: a.png: not a readable image (bytes must be in range(0, 256)\
). Replace or remove the file.
    """
    try:
        yield
    except PhysadvError:
        raise
    except Exception as fault:
        reason = _reason_of(fault)
        raise error(name, f"{what} ({reason})" if reason else what, remedy) from fault


def _reason_of(fault: Exception) -> str:
    """First line of what a library says; nothing where it names only its own objects."""
    if is_out_of_memory(fault):
        return "it takes more memory than there is"
    if isinstance(fault, RecursionError):
        return "it is nested too deeply"
    if isinstance(fault, KeyError) and fault.args:  # its text is the key alone
        return f"{str(fault.args[0])[:40]!r} is missing"
    if words := getattr(fault, "strerror", None):  # of the system, or of ffmpeg
        return str(words)
    lines = str(fault).strip().splitlines()
    return lines[0][:_LONGEST_REASON] if lines and " object at 0x" not in lines[0] else ""


def assert_bytes(
    count: int,
    name: str,
    *,
    most: int,
    error: type[PhysadvError] = ImageError,
    packed: int | None = None,
) -> None:
    """Refuse what is larger than a budget, or unpacks to far more than its file holds.

    Args:
        count: Bytes, as announced.
        name: Name of the file.
        most: Most bytes.
        error: Class of the error.
        packed: Bytes that it is unpacked from; None where nothing is unpacked.

    Raises:
        PhysadvError: ``count`` is over the budget or negative.

    Example:
        >>> assert_bytes(20 << 30, "a.npz", most=MAX_ARRAY_BYTES)
        Traceback (most recent call last):
        physadv.core.errors.ImageError: a.npz: it holds 21.5 GB, over 17.2 GB. Use a smaller one.
    """
    if count < 0 or count > most:
        limit = f"it holds {format_bytes(count)}, over {format_bytes(most)}"
        raise error(name, limit, "Use a smaller one")
    if packed is not None and count > max(FREE_BYTES, MOST_EXPANSION * packed):
        limit = f"{format_bytes(packed)} would unpack to {format_bytes(count)}: a bomb"
        raise error(name, limit, "Do not trust it; save it anew from its source")


def assert_pixels(
    width: int,
    height: int,
    name: str,
    *,
    packed: int | None = None,
    most: int = MAX_PIXELS,
    pixel_bytes: int = 4,
    error: type[PhysadvError] = ImageError,
) -> None:
    """Refuse a picture of too many pixels before they are decoded.

    Args:
        width: Width in px, as announced.
        height: Height in px, as announced.
        name: Name of the file.
        packed: Bytes of the file; None where the picture was not packed.
        most: Most pixels at 4 bytes each.
        pixel_bytes: Bytes of a pixel when decoded.
        error: Class of the error.

    Raises:
        PhysadvError: The picture is empty, has too many pixels, or far more than its file holds.

    Example:
        >>> assert_pixels(60_000, 60_000, "a.png")
        Traceback (most recent call last):
        physadv.core.errors.ImageError: a.png: 60000x60000 is over 120000000 px. Scale it down.
    """
    if width <= 0 or height <= 0:
        raise error(name, f"its size is {width}x{height} px", "Replace or remove the file")
    if width * height * pixel_bytes > most * 4:
        allowed = most * 4 // pixel_bytes
        raise error(name, f"{width}x{height} is over {allowed} px", "Scale it down")
    if packed is not None:
        unpacked = width * height * pixel_bytes
        assert_bytes(unpacked, name, most=unpacked, packed=packed, error=error)


def format_bytes(count: int) -> str:
    """Format a number of bytes with three digits and a unit.

    Example:
        >>> format_bytes(0), format_bytes(22_100), format_bytes(7_700_000_000)
        ('0 bytes', '22.1 kB', '7.7 GB')
    """
    if abs(count) < 1000:
        return f"{count} bytes"
    power = min(int(math.log10(abs(count))) // 3, 6)
    return f"{count / 1000**power:.3g} {'_kMGTPE'[power]}B"
