"""Camera frames, and the base class of their sources.

A clip is one trial for an interval: one recording, one photo, or one stretch of a live source.
"""

from __future__ import annotations

import hashlib
import re
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from physadv.core.wording import count_noun

BLOCKS = ("clean", "blank", "patch")
_MOST_NAMED = 5
"""Clips with repeated frames that are named one by one."""
_BLOCK = re.compile(rf"^({'|'.join(BLOCKS)})(?![A-Za-z])")


@dataclass(frozen=True)
class CameraFrame:
    """One picture of a source.

    Attributes:
        image: Picture (h, w, 3) uint8 RGB.
        time_s: Time in seconds.
        clip: Name of its clip.
        block: "clean", "blank" or "patch", where known.
        index: Number of the frame in its source.
        truth: The twin's row for this frame (corners, distance_m, yaw_deg ...); None for filmed
            frames.
        likely_block: Block that the frame shows where nothing tells another; a locator may look for
            it first.
    """

    image: npt.NDArray[np.uint8]
    time_s: float
    clip: str
    block: str | None
    index: int
    truth: Mapping[str, Any] | None = None
    likely_block: str | None = None


class FrameSource(ABC):
    """Frames in order.

    Args:
        name: Name of the source in records and messages.

    Attributes:
        kind: Kind of source: "video", "clips", "photos", "camera", "stream" or "twin".
        live: Whether frames come from a running device.
        simulation: Whether frames are simulated.
        total: Number of frames, where known.
        warnings: Lines about lost or skipped frames; grows during iteration.
        settings: Properties that the source reports.
        on_message: Called with a line as soon as something happens that the viewer should know.
    """

    kind = "video"
    live = False
    simulation = False
    total: int | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.warnings: list[str] = []
        self.settings: dict[str, Any] = {}
        self.on_message: Callable[[str], None] = lambda line: None

    @abstractmethod
    def __iter__(self) -> Iterator[CameraFrame]: ...

    def arrival_s(self, frame: CameraFrame) -> float:
        """Return when ``frame``, which was just handed out, arrived, as of ``time.monotonic``."""
        return time.monotonic()

    def close(self) -> None:  # noqa: B027 - files have nothing to give back
        """Release the device; a source that was read to its end is closed already."""

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RepeatedFrames:
    """Detection of pictures that repeat an earlier one of the same block in every pixel.

    A camera's noise never repeats; a frozen source, a copied file, a converter that pads the frame
    rate and a decoder that hands out old memory do.

    Args:
        unit: Word for one picture in the warnings.

    Example:
        >>> repeats = RepeatedFrames()
        >>> black = np.zeros((8, 8, 3), np.uint8)
        >>> repeats.is_repeat(black, None, "a"), repeats.is_repeat(black, None, "a")
        (False, True)
        >>> repeats.warnings()
        ['a: 1 of 2 frames repeats an earlier one exactly; not counted as new']
    """

    def __init__(self, unit: str = "frame") -> None:
        self._unit = unit
        self._seen: set[tuple[str | None, bytes]] = set()
        self._read: Counter[str] = Counter()
        self._repeated: Counter[str] = Counter()

    def is_repeat(self, image: npt.NDArray[np.uint8], block: str | None, name: str) -> bool:
        """Return whether a picture was seen before, and remember it.

        Args:
            image: Picture (h, w, 3) uint8.
            block: Its block; pictures of other blocks do not count.
            name: Name of its clip, for the warnings.
        """
        content = np.ascontiguousarray(image)
        digest = hashlib.blake2b(content.data, digest_size=16)
        digest.update(repr(content.shape).encode())
        key = (block, digest.digest())

        self._read[name] += 1
        if key not in self._seen:
            self._seen.add(key)
            return False
        self._repeated[name] += 1
        return True

    def warnings(self) -> list[str]:
        """Return one line for each clip with repeats, or one for all where they are many."""
        if len(self._repeated) > _MOST_NAMED:
            total, read = self._repeated.total(), self._read.total()
            return [self._line(count_noun(len(self._repeated), "clip"), total, read)]
        return [self._line(name, n, self._read[name]) for name, n in self._repeated.items()]

    def _line(self, name: str, repeated: int, read: int) -> str:
        verb = "repeats" if repeated == 1 else "repeat"
        return (
            f"{name}: {repeated} of {count_noun(read, self._unit)} {verb} an earlier one exactly; "
            "not counted as new"
        )


def block_of(name: str) -> str | None:
    """Return the block that the file or folder ``name`` starts with, or None.

    Example:
        >>> block_of("patch-03.avi"), block_of("patchwork.avi")
        ('patch', None)
    """
    match = _BLOCK.match(name.lower())
    return match[1] if match else None


def block_in(path: Path, root: Path) -> str | None:
    """Return the block named by the outermost component of ``path`` below ``root`` that names
    one."""
    parts = path.relative_to(root).parts
    return next((block for part in parts if (block := block_of(part))), None)
