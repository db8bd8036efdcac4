"""OpenCV's own log, silenced while a failure is expected and reported by an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Silence OpenCV's log within the block; the level is restored afterwards.

    Example:
        >>> with quiet_opencv():
        ...     opened = cv2.VideoCapture("absent.mp4").isOpened()
        >>> opened
        False
    """
    log = getattr(getattr(cv2, "utils", None), "logging", None)
    if log is None:
        yield
        return

    before = log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        log.setLogLevel(before)
