"""Animated pictures from frames in memory: GIF files, and WebP within a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from physadv.core.errors import OptionError
from physadv.core.files import write_bytes
from physadv.core.image_io import Array


def webp_uri(frames: Sequence[Array], *, milliseconds: int, plays: int = 5) -> str:
    """Return a short animation as a data URI, for a page that holds its own pictures.

    Args:
        frames: Pictures (h, w, 3) uint8 of one size, 1 or more.
        milliseconds: Time that each frame is shown.
        plays: How often the animation runs, after which it rests at its last frame.

    Returns:
        URI of an animated WebP.

    Example:
        >>> import numpy as np
        >>> dark, bright = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
        >>> webp_uri([dark, bright], milliseconds=500)[:23]
        'data:image/webp;base64,'
    """
    first, *others = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    first.save(
        buffer,
        format="WEBP",
        save_all=True,
        append_images=others,
        duration=milliseconds,
        loop=plays,
        quality=80,
    )
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def save_gif(
    path: str | Path, frames: Sequence[Array], *, milliseconds: Sequence[int], plays: int = 3
) -> Path:
    """Save an animation as a GIF of at most 256 colors a frame, atomically.

    Args:
        path: File to write.
        frames: Pictures (h, w, 3) uint8 of one size.
        milliseconds: Time that each frame is shown.
        plays: How often the animation runs, after which it rests at its last frame.

    Returns:
        The path.

    Raises:
        OptionError: There is no frame, or not one time a frame.
    """
    if not frames or len(frames) != len(milliseconds):
        raise OptionError(
            f"{len(frames)} frames, {len(milliseconds)} times",
            "one time a frame is needed, and a frame at least",
            "Give as many of each",
        )
    pictures = [Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=list(milliseconds),
        optimize=False,
        disposal=1,
        # The file stores repetitions after the first run, and none at all for one run.
        **({"loop": plays - 1} if plays > 1 else {}),
    )
    return write_bytes(path, buffer.getvalue())
