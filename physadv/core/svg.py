"""Rasterization of SVG drawings, each in a process of its own with limits on memory and time."""

from __future__ import annotations

import functools
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from physadv.core import svg_drawing
from physadv.core.errors import ImageError
from physadv.core.parsing import parse_json
from physadv.core.picture_files import load_picture, open_picture
from physadv.core.reading import MAX_PIXELS, foreign_errors, format_bytes

_LONGEST_WAIT_S = 60.0
"""Longest wait for a drawing on a busy machine; its processor time is bounded by its process."""
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
    arguments = [_packages(), str(int(width_px)), str(most_px)]
    with foreign_errors(name, ImageError, "cannot be drawn", _SIMPLER):
        command = [sys.executable, "-I", "-S", svg_drawing.__file__, *arguments]
        try:
            done = subprocess.run(
                command,
                input=svg.encode("utf-8", "replace"),
                capture_output=True,
                timeout=_LONGEST_WAIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ImageError(name, f"takes over {_LONGEST_WAIT_S:g} s to draw", _SIMPLER) from None

    if done.returncode == svg_drawing.REFUSED:
        limit, remedy = parse_json(done.stdout.decode(), name)
        raise ImageError(name, limit, remedy)
    if done.returncode != 0:
        raise ImageError(name, _death_of(done), _SIMPLER)
    with open_picture(done.stdout, name, most_pixels=most_px) as opened:
        load_picture(opened, done.stdout, name, most_pixels=most_px)
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


@functools.cache
def _packages() -> str:
    """Return the folder that the renderer is installed in: its process looks nowhere else."""
    spec = find_spec("resvg_py")
    if spec is None or spec.origin is None:
        raise ImageError("an SVG", "needs the package resvg-py", "pip install resvg-py")
    return str(Path(spec.origin).parents[1])


def _death_of(done: subprocess.CompletedProcess[bytes]) -> str:
    """Say why the process of a drawing ended without a picture."""
    killed_by_clock = {getattr(signal, name, None) for name in ("SIGXCPU", "SIGKILL")}
    if -done.returncode in killed_by_clock:
        return f"takes over {svg_drawing.MOST_SECONDS} s to draw"
    if b"memory" in done.stderr.lower():
        return f"takes over {format_bytes(svg_drawing.MOST_MEMORY_BYTES)} to draw"
    return "makes its renderer fail"
