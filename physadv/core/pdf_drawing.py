"""Facts and pages of one PDF, within the process of :mod:`physadv.core.drawing_child`.

It imports the standard library and the renderer alone.
"""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from math import ceil, floor
from typing import Any

MOST_MEMORY_BYTES, MOST_SECONDS = 3 << 29, 20
"""Limits of the process: its address space, and its processor time."""
_MOST_PAGES = 2000
_REMEDY = "Make it anew"


class RefusedError(Exception):
    """A PDF that is not drawn: why, and what to do."""

    def __init__(self, limit: str, remedy: str) -> None:
        super().__init__(limit, remedy)


def draw(
    data: bytes, no_new_files: Callable[[], AbstractContextManager[None]], asked: str
) -> bytes:
    """Read a PDF: its facts, and pictures of parts of its pages.

    Args:
        data: Content of the file.
        no_new_files: Context in which the process can open nothing.
        asked: JSON of the ``parts``, each with the ``index`` of its page and a ``window`` of left,
            top, right and bottom in points from its top left corner, null for the whole page, or
            "trim" for what the TrimBox cuts out and a point or two around it, if there is one; the
            ``dpi``, ``is_gray``, and ``most_px`` of all parts together.

    Returns:
        A line of JSON with the facts and the shape of each part; then their rows of pixels.

    Raises:
        RefusedError: It is damaged, or the pictures are too large.
    """
    import pypdfium2

    codecs.lookup("utf-16-le")  # which the renderer's texts are in: a file to be opened before
    request = json.loads(asked)
    with _refusing("not a readable PDF"), no_new_files(), pypdfium2.PdfDocument(data) as document:
        if len(document) == 0:
            raise RefusedError("a PDF without pages", _REMEDY)
        facts = _facts(document)
        with _refusing("its page cannot be drawn"):
            pictures = list(_pictures(document, **request))
    about = [shape for shape, _ in pictures]
    head = json.dumps({**facts, "parts": about}).encode()
    return b"\n".join([head, b"".join(rows for _, rows in pictures)])


def _facts(document: Any) -> dict[str, Any]:
    pages = []
    for index in range(min(len(document), _MOST_PAGES)):
        page = document[index]
        trim = page.get_trimbox(fallback_ok=False)
        pages.append({"size": page.get_size(), "trim": trim, "media": page.get_mediabox()})
    keywords = str(document.get_metadata_dict().get("Keywords", ""))
    return {"pages": pages, "keywords": keywords[:4096]}


def _pictures(
    document: Any, parts: list[dict[str, Any]], dpi: float, is_gray: bool, most_px: int
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Draw the parts one by one: what is known of each, and its rows of pixels."""
    for part in parts:
        index, window = part["index"], part["window"]
        if index >= len(document):
            raise RefusedError(f"it has {len(document)} pages, not {index + 1}", _REMEDY)
        page = document[index]
        if window == "trim":
            window = _around_trim(page)
            if window is None:
                continue
        about, rows = _part(page, window, dpi, is_gray, most_px)
        most_px -= about["shape"][0] * about["shape"][1]
        yield about, rows


def _around_trim(page: Any) -> list[float] | None:
    """Return the window of whole points, one or two around the TrimBox, that lies on the page."""
    trim = page.get_trimbox(fallback_ok=False)
    if trim is None or trim == page.get_mediabox():
        return None
    width, height = page.get_size()
    left, right = max(floor(trim[0]) - 1.0, 0), min(ceil(trim[2]) + 1.0, width)
    lower, upper = max(floor(trim[1]) - 1.0, 0), min(ceil(trim[3]) + 1.0, height)
    return [left, height - upper, right, height - lower]


def _part(
    page: Any, window: list[float] | None, dpi: float, is_gray: bool, most_px: int
) -> tuple[dict[str, Any], bytes]:
    width, height = page.get_size()
    left, top, right, bottom = window or (0.0, 0.0, width, height)
    columns, rows = round((right - left) * dpi / 72), round((bottom - top) * dpi / 72)
    if columns < 1 or rows < 1:
        raise RefusedError(f"its size is {columns}x{rows} px", _REMEDY)
    if columns * rows > most_px:
        raise RefusedError(f"{columns}x{rows} is over {most_px} px", "Scale it down")

    crop = (left, height - bottom, width - right, top)
    picture = page.render(scale=dpi / 72, crop=crop, grayscale=is_gray, rev_byteorder=True)
    about = {
        "window": (left, top, right, bottom),
        "shape": (picture.height, picture.width, picture.n_channels),
        "stride": picture.stride,
    }
    return about, bytes(picture.buffer)


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Raise what the renderer raises as a refusal."""
    try:
        yield
    except (RefusedError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0][:160]
        raise RefusedError(f"{what} ({reason})" if reason else what, _REMEDY) from error
