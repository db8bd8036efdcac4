"""Camera frames, and the base class of their sources.

A clip is one trial for an interval: one recording, one photo, or one stretch of a live source.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCKS = ("clean", "blank", "patch")
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
    """

    image: npt.NDArray[np.uint8]
    time_s: float
    clip: str
    block: str | None
    index: int
    truth: Mapping[str, Any] | None = None


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

    def close(self) -> None:  # noqa: B027 - files have nothing to give back
        """Release the device; a source that was read to its end is closed already."""

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
