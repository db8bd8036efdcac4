"""Animation of a smoothed classifier's votes: noisy points fall into the regions of the base
classifier, and the certified circle grows with their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from physadv.core.image_io import Array
from physadv.core.wording import count_noun
from physadv.studies.plane_regions import POINT_COLORS

_BAND, _MARGIN, _TEXT = 96, 14, 15
"""Height in px of the band of counts, its margin, and the height of its text."""
_INK, _PAPER = "#1b1b1f", "#ffffff"


@dataclass(frozen=True)
class VoteFrame:
    """State of the count after some votes.

    Args:
        votes: Votes counted so far.
        counts: Votes of each class.
        radius: Certified radius in the units of the plane; 0 while nothing is certified.
    """

    votes: int
    counts: tuple[int, ...]
    radius: float


def draw_votes(
    regions: Array,
    low: float,
    high: float,
    center: tuple[float, float],
    noisy: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int64],
    frame: VoteFrame,
) -> Array:
    """Draw one frame.

    Args:
        regions: Picture (h, h, 3) of the base classifier's regions, its first row at ``high``.
        low: Least coordinate of the picture on both axes.
        high: Largest coordinate on both axes.
        center: Point that is classified.
        noisy: Noisy points (n, 2) in the order of the votes.
        classes: Class (n,) of each of them.
        frame: Votes, counts and radius to show.

    Returns:
        The frame (h + band, h, 3), uint8.
    """
    side = regions.shape[0]
    picture = Image.new("RGB", (side, side + _BAND), _PAPER)
    picture.paste(Image.fromarray(regions), (0, 0))
    pen = ImageDraw.Draw(picture)

    def place(x: float, y: float) -> tuple[float, float]:
        return (x - low) / (high - low) * side, (high - y) / (high - low) * side

    for (x, y), label in zip(noisy[: frame.votes], classes[: frame.votes], strict=True):
        across, down = place(float(x), float(y))
        if down < side - 2:  # what lies outside the picture must not fall into the band
            box = (across - 2, down - 2, across + 2, down + 2)
            pen.ellipse(box, fill=POINT_COLORS[label])

    across, down = place(*center)
    if frame.radius > 0:
        reach = frame.radius / (high - low) * side
        box = (across - reach, down - reach, across + reach, down + reach)
        pen.ellipse(box, outline=_INK, width=3)
    pen.ellipse((across - 4, down - 4, across + 4, down + 4), fill=_INK, outline=_PAPER)

    _draw_band(pen, side, frame)
    return np.asarray(picture)


def _draw_band(pen: ImageDraw.ImageDraw, side: int, frame: VoteFrame) -> None:
    """Draw the counts as a bar, and in words what they certify."""
    font = ImageFont.load_default(_TEXT)
    certified = f"certified radius {frame.radius:.3f}" if frame.radius else "nothing certified yet"
    pen.text((_MARGIN, side + 8), f"{count_noun(frame.votes, 'vote')}: {certified}", _INK, font)

    left, width, top = float(_MARGIN), side - 2 * _MARGIN, side + 34
    for label, count in enumerate(frame.counts):
        right = left + width * count / max(frame.votes, 1)
        if right - left >= 1:
            pen.rectangle((left, top, right, top + 22), fill=POINT_COLORS[label])
            if right - left > 40:
                pen.text((left + 6, top + 3), str(count), _PAPER, font)
        left = right
    pen.text((_MARGIN, top + 30), _names(frame.counts), _INK, font)


def _names(counts: Sequence[int]) -> str:
    """Return the counts in words."""
    return ", ".join(f"class {label}: {count}" for label, count in enumerate(counts))
