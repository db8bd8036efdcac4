"""Rasterization of SVG drawings, each in a process of its own with limits on memory and time."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from physadv.core import svg_drawing
from physadv.core.drawing_process import drawn_elsewhere
from physadv.core.errors import ImageError
from physadv.core.picture_files import load_picture, open_picture
from physadv.core.reading import MAX_PIXELS, foreign_errors

_DAMAGED = "Replace or remove the file"
_SIMPLER = "Simplify it, or name a PNG of the drawing"


def rasterize_svg(
    svg: str, width_px: int, *, name: str = "SVG", most_px: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Rasterize an SVG drawing.

    What would be drawn otherwise than a browser draws it is refused by name: text, files beside the
    drawing, HTML, scripts, animation, some CSS.

    Args:
        svg: The drawing, as text.
        width_px: Width in px; the height follows the drawing's aspect.
        name: Name of the drawing in errors.
        most_px: Most pixels of the picture; no larger one is begun.

    Returns:
        Pixels (h, w, 4) uint8, transparent where nothing is drawn.

    Raises:
        ImageError: The text is no SVG, names no size, is too long for its width, takes too much
            memory or time, or holds what would be left out or drawn otherwise than in a browser;
            the error names it.

    Example:
        >>> square = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 1"><path/></svg>'
        >>> rasterize_svg(square, 8).shape
        (4, 8, 4)
    """
    png = drawn_elsewhere(
        svg_drawing,
        "resvg_py",
        svg.encode("utf-8", "replace"),
        *(str(int(width_px)), str(most_px)),
        name=name,
        remedy=_SIMPLER,
    )
    with open_picture(png, name, most_pixels=most_px) as opened:
        load_picture(opened, png, name, most_pixels=most_px)
        return np.array(opened.convert("RGBA"), np.uint8)


def decode_svg(data: bytes, name: str) -> str:
    """Return the text of an SVG file in the encoding that it declares.

    Args:
        data: Content of the file.
        name: Name of the file in errors.

    Raises:
        ImageError: The content is of another encoding, or compressed.
    """
    if data.startswith(b"\x1f\x8b"):
        raise ImageError(name, "a compressed SVG (.svgz)", "Unpack it with gunzip")
    declared = re.match(rb"""\s*<\?xml[^>]{0,200}encoding=["']([\w.-]{1,40})""", data)
    marked = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    encoding = "utf-16" if marked else declared[1].decode() if declared else "utf-8-sig"
    with foreign_errors(name, ImageError, "not a readable SVG", _DAMAGED):
        text = data.decode("utf-8-sig" if encoding.lower() == "utf-8" else encoding)
        return re.sub(r"^\s*<\?xml[^>]*\?>", "", text)
