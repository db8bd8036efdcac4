"""Opening what OpenCV can read, with a time limit: a camera that never answers must not hang the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2

from physadv.core.errors import CaptureError

Size = tuple[int, int]


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """OpenCV's own log lines are held back while a source is tried; the level is put back afterwards."""
    log = getattr(getattr(cv2, "utils", None), "logging", None)
    if log is None:
        yield
        return
    before = log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        log.setLogLevel(before)


def open_camera(index: int, *, size: Size | None, timeout_s: float) -> tuple[Any, dict[str, Any]]:
    """Open camera ``index`` with MJPG asked for before the size; returns the capture and what the camera settled on.

    Raises CaptureError when it does not open within ``timeout_s``.
    """
    capture = _within(lambda: cv2.VideoCapture(index), f"camera {index}", timeout_s, _camera_remedy(index))
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    if size is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture, read_back(capture)


def open_url(url: str, name: str, *, timeout_s: float) -> Any:
    """Open an RTSP, HTTP or MJPEG address; raises CaptureError with ``name`` when nothing answers in ``timeout_s``."""
    limit = int(timeout_s * 1000)
    options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
    remedy = "check the address, and that the machine that serves it can be reached from here"
    # ffmpeg keeps the limit itself; the thread's own, a little longer, is for what it does not cover (name look-up).
    return _within(lambda: cv2.VideoCapture(url, cv2.CAP_FFMPEG, options), name, timeout_s + 2, remedy)


def open_file(path: str, *, timeout_s: float, name: str = "") -> Any:
    """Open a video file; raises CaptureError when it is not a video OpenCV can read."""
    remedy = "check that it plays, or convert it to MP4 (H.264) or AVI (MJPG)"
    return _within(lambda: cv2.VideoCapture(path), name or path, timeout_s, remedy)


def read_back(capture: Any) -> dict[str, Any]:
    """Width, height, frame rate and FOURCC as the source reports them, which need not be what was asked."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    letters = "".join(chr((code >> shift) & 0xFF) for shift in (0, 8, 16, 24)) if code > 0 else ""
    return {
        "width": int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        "height": int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        "fps": round(float(capture.get(cv2.CAP_PROP_FPS)), 3),
        "fourcc": letters if letters.isprintable() else "",
    }


def _within(make: Callable[[], Any], name: str, timeout_s: float, remedy: str) -> Any:
    """``make()`` in a thread of its own, so that a driver that blocks for ever costs ``timeout_s`` and no more."""
    made: list[Any] = []

    def attempt() -> None:
        try:
            made.append(make())
        except cv2.error:  # OpenCV says False or throws, depending on the backend
            made.append(None)

    thread = threading.Thread(target=attempt, daemon=True, name=f"open {name}")
    with quiet_opencv():
        thread.start()
        thread.join(timeout_s)
    if not made:
        raise CaptureError(name, f"did not open within {timeout_s:g} s", remedy)
    if made[0] is None or not made[0].isOpened():
        raise CaptureError(name, "did not open", remedy)
    return made[0]


def _camera_remedy(index: int) -> str:
    return (
        f"check that camera {index} is plugged in, allowed for this user and not used by another program, "
        "or name another index or a video file"
    )
