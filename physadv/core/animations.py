"""Animated pictures: GIF files from frames in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from physadv.core.errors import OptionError
from physadv.core.files import write_bytes
from physadv.core.image_io import Array


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
