"""Drawing of one figure of this program, within the process of :mod:`physadv.core.drawing_child`.

The renderer aborts its process where memory runs out; here that process holds nothing else. It
imports the renderer alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

MOST_MEMORY_BYTES, MOST_SECONDS = 3 << 29, 60
"""Limits of the process: its address space, and its processor time."""


class RefusedError(Exception):
    """A figure that is not drawn: why, and what to do."""

    def __init__(self, limit: str, remedy: str) -> None:
        super().__init__(limit, remedy)


def draw(
    data: bytes,
    no_new_files: Callable[[], AbstractContextManager[None]],
    width_px: str,
    font_file: str,
) -> bytes:
    """Draw a figure as a PNG file, its text in one font.

    Args:
        data: The figure as SVG in UTF-8, which this program wrote: it names no other file.
        no_new_files: Not used: the font is a file.
        width_px: Width in px.
        font_file: Path of the font, DejaVu Sans.

    Raises:
        RefusedError: It is no SVG.
    """
    import resvg_py

    try:
        return bytes(
            resvg_py.svg_to_bytes(
                svg_string=data.decode(),
                width=int(width_px),
                skip_system_fonts=True,
                font_files=[font_file],
                font_family="DejaVu Sans",
                sans_serif_family="DejaVu Sans",
            )
        )
    except ValueError as error:
        reason = str(error).partition("\n")[0][:160]
        raise RefusedError(f"not a readable SVG ({reason})", "Report this as a fault") from error
