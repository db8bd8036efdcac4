"""A frame, and what every source of frames has in common.

A clip is what an interval treats as one trial: one recording, one photo, or one stretch of a live
source.
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
    """One picture of a source: (h, w, 3) uint8 RGB, its time in seconds, its clip, and its block
    where known."""

    image: npt.NDArray[np.uint8]
    time_s: float
    clip: str
    block: str | None
    index: int
    truth: Mapping[str, Any] | None = None
    """The twin's row for this frame (corners, distance_m, yaw_deg ...); None for everything filmed.
    """


class FrameSource(ABC):
    """Frames in order. ``warnings`` grows while it is read; ``settings`` is what the source reports
    of itself.

    ``tell`` is called with a line when something happens that somebody who watches should know at
    once.
    """

    kind = "video"
    live = False
    simulation = False
    total: int | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.warnings: list[str] = []
        self.settings: dict[str, Any] = {}
        self.tell: Callable[[str], None] = lambda line: None

    @abstractmethod
    def __iter__(self) -> Iterator[CameraFrame]: ...

    def close(self) -> None:  # noqa: B027 - files have nothing to give back
        """Give the device back; a source read to its end is closed already."""

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def block_of(name: str) -> str | None:
    """The block a file or folder name starts with: "patch-03.avi" is "patch", "patchwork.avi" is
    none."""
    found = _BLOCK.match(name.lower())
    return found[1] if found else None


def block_in(path: Path, root: Path) -> str | None:
    """The block named by the outermost part of ``path`` below ``root`` that names one."""
    parts = path.relative_to(root).parts
    return next((block for part in parts if (block := block_of(part))), None)
