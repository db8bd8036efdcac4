"""Opening what OpenCV can read, with a time limit: a camera that never answers must not hang the
run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cv2

from physadv.camera import controls
from physadv.camera.mjpeg import open_mjpeg
from physadv.core.errors import CaptureError

Size = tuple[int, int]


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """OpenCV's own log lines are held back while a source is tried; the level is put back
    afterwards."""
    log = getattr(getattr(cv2, "utils", None), "logging", None)
    if log is None:
        yield
        return
    before = log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        log.setLogLevel(before)


@dataclass(frozen=True)
class OpenedCapture:
    """An open device: its capture, what it settled on, what to say of it, and what to do before it
    is released."""

    capture: Any
    settings: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    farewell: Callable[[Any], None] | None = None


def open_camera(
    index: int, *, size: Size | None, timeout_s: float, hold: bool = True
) -> OpenedCapture:
    """Open camera ``index`` with MJPG asked for before the size, and all of it read back.

    ``hold`` locks exposure, white balance and focus once they have settled; they are automatic
    again when the camera is given back. Raises CaptureError when it does not open within
    ``timeout_s``.
    """
    name = f"camera {index}"
    capture = _within(lambda: cv2.VideoCapture(index), name, timeout_s, _camera_remedy(index))
    return prepare_camera(capture, name, size=size, timeout_s=timeout_s, hold=hold)


def prepare_camera(
    capture: Any, name: str, *, size: Size | None, timeout_s: float, hold: bool
) -> OpenedCapture:
    """Ask an open camera for format, size and locks, and read back what stuck."""
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    if size is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    got = read_settings(capture)
    got["asked"] = {"fourcc": "MJPG"} | (
        {} if size is None else {"width": size[0], "height": size[1]}
    )
    warnings = _unlike(name, got, size)
    if not hold:
        return OpenedCapture(capture, got | {"locks": "not asked"}, warnings)
    backend = _backend(capture)
    locks = _in_time(lambda: _settled_locks(capture, backend), timeout_s)
    if locks is None:
        return OpenedCapture(
            capture, got | {"locks": "not asked"}, [*warnings, f"{name} gave no frame to settle on"]
        )
    got |= {"backend": backend, "locks": [each.as_dict() for each in locks]}
    warnings += controls.control_warnings(name, locks)
    return OpenedCapture(
        capture, got, warnings, lambda device: controls.release_controls(device, backend, locks)
    )


def _settled_locks(capture: Any, backend: str) -> list[controls.ControlLock]:
    controls.settle_controls(capture)
    return controls.lock_controls(capture, backend)


def _unlike(name: str, got: dict[str, Any], size: Size | None) -> list[str]:
    """What the camera does not deliver as asked."""
    said = []
    if size is not None and (got["width"], got["height"]) != size:
        said.append(
            f"{name} delivers {got['width']}x{got['height']}, not the {size[0]}x{size[1]} asked for"
        )
    if got["fourcc"] != "MJPG":
        said.append(
            f"{name} delivers {got['fourcc'] or 'an unnamed format'}, not MJPG: expect few fps"
        )
    return said


def _backend(capture: Any) -> str:
    try:
        return str(capture.getBackendName())
    except (AttributeError, cv2.error):
        return ""


def open_url(url: str, name: str, *, timeout_s: float) -> OpenedCapture:
    """Open an RTSP, HTTP or MJPEG address; raises CaptureError with ``name`` when nothing answers
    in ``timeout_s``."""
    limit = int(timeout_s * 1000)
    options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
    remedy = "check the address, and that the machine that serves it can be reached from here"
    # ffmpeg keeps the limit itself; the thread's own, a little longer, is for what it does not
    # cover (name look-up). a silent line is noticed by who waits for frames; the socket's own
    # limit, a little longer, ends its thread
    capture = _in_time(lambda: open_mjpeg(url, timeout_s + 2), timeout_s)
    if capture is None:
        capture = _within(
            lambda: cv2.VideoCapture(url, cv2.CAP_FFMPEG, options), name, timeout_s + 2, remedy
        )
    return OpenedCapture(capture, read_settings(capture))


def open_file(path: str, *, timeout_s: float, name: str = "") -> Any:
    """Open a video file; raises CaptureError when it is not a video OpenCV can read."""
    remedy = "check that it plays, or convert it to MP4 (H.264) or AVI (MJPG)"
    return _within(lambda: cv2.VideoCapture(path), name or path, timeout_s, remedy)


def read_settings(capture: Any) -> dict[str, Any]:
    """Width, height, frame rate and FOURCC as the source reports them, which need not be what was
    asked."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    letters = "".join(chr((code >> shift) & 0xFF) for shift in (0, 8, 16, 24)) if code > 0 else ""
    return {
        "width": int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        "height": int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        "fps": round(float(capture.get(cv2.CAP_PROP_FPS)), 3),
        "fourcc": letters if letters.isprintable() else "",
    }


def _within(make: Callable[[], Any], name: str, timeout_s: float, remedy: str) -> Any:
    """``make()`` in a thread of its own, so that a driver that blocks for ever costs ``timeout_s``
    and no more."""

    def attempt() -> Any:
        try:
            return make()
        except cv2.error:  # OpenCV says False or throws, depending on the backend
            return False

    with quiet_opencv():
        made = _in_time(attempt, timeout_s)
    if made is None:
        raise CaptureError(name, f"did not open within {timeout_s:g} s", remedy)
    if made is False or not made.isOpened():
        raise CaptureError(name, "did not open", remedy)
    return made


def _in_time(make: Callable[[], Any], timeout_s: float) -> Any:
    """What ``make`` returns, or None when it takes longer than ``timeout_s``; its thread is then
    left behind."""
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(make()), daemon=True, name="opening")
    thread.start()
    thread.join(timeout_s)
    return made[0] if made else None


def _camera_remedy(index: int) -> str:
    return (
        f"check that camera {index} is plugged in, allowed for this user and not used by another "
        "program, "
        "or name another index or a video file"
    )
