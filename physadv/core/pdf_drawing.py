"""Facts and pages of one PDF, within the process of :mod:`physadv.core.drawing_child`.

It imports the standard library and the renderer alone.
"""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
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
    data: bytes, no_new_files: Callable[[], AbstractContextManager[None]], what: str, asked: str
) -> bytes:
    """Read a PDF.

    Args:
        data: Content of the file.
        no_new_files: Context in which the process can open nothing.
        what: "facts" or "page".
        asked: For a page, JSON of its ``index``, the ``dpi``, a ``window`` of left, top, right and
            bottom in points from its top left corner or nothing, ``is_gray`` and ``most_px``.

    Returns:
        A line of JSON; for a page, rows of pixels after it.

    Raises:
        RefusedError: It is damaged, or the picture is too large.
    """
    import pypdfium2

    codecs.lookup("utf-16-le")  # which the renderer's texts are in: a file to be opened before
    with _refusing("not a readable PDF"), no_new_files(), pypdfium2.PdfDocument(data) as document:
        if len(document) == 0:
            raise RefusedError("a PDF without pages", _REMEDY)
        if what == "facts":
            return _facts(document)
        with _refusing("its page cannot be drawn"):
            return _page(document, **json.loads(asked))


def _facts(document: Any) -> bytes:
    pages = []
    for index in range(min(len(document), _MOST_PAGES)):
        page = document[index]
        trim = page.get_trimbox(fallback_ok=False)
        pages.append({"size": page.get_size(), "trim": trim, "media": page.get_mediabox()})
    keywords = str(document.get_metadata_dict().get("Keywords", ""))
    return json.dumps({"pages": pages, "keywords": keywords[:4096]}).encode()


def _page(
    document: Any,
    index: int,
    dpi: float,
    window: list[float] | None,
    is_gray: bool,
    most_px: int,
) -> bytes:
    if index >= len(document):
        raise RefusedError(f"it has {len(document)} pages, not {index + 1}", _REMEDY)
    page = document[index]
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
        "size": (width, height),
        "shape": (picture.height, picture.width, picture.n_channels),
        "stride": picture.stride,
    }
    return json.dumps(about).encode() + b"\n" + bytes(picture.buffer)


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
