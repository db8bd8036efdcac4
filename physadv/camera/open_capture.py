"""Opening of OpenCV captures with a time limit, so that a camera that never answers does not block
the run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import cv2

from physadv.camera import controls
from physadv.camera.mjpeg import MjpegCapture, open_mjpeg
from physadv.camera.rtsp_redirect import refuse_rtsp_redirect
from physadv.core.errors import CaptureError
from physadv.core.files import as_utf8
from physadv.core.opencv_log import quiet_opencv

Size = tuple[int, int]
Opened = TypeVar("Opened")


@dataclass(frozen=True)
class OpenedCapture:
    """An open device.

    Attributes:
        capture: The ``cv2.VideoCapture``.
        settings: Properties that it reports.
        warnings: Lines about properties that differ from those requested.
        farewell: Called with the device before its release.
    """

    capture: Any
    settings: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    farewell: Callable[[Any], None] | None = None


def open_camera(
    index: int, *, size: Size | None, timeout_s: float, hold: bool = True
) -> OpenedCapture:
    """Open a camera, requesting MJPG before the size, and read the properties back.

    Args:
        index: Number of the camera.
        size: Width and height to request; None leaves the default.
        timeout_s: Time limit in seconds.
        hold: Whether exposure, white balance and focus are locked once they have settled; they are
            automatic again after the release.

    Returns:
        The open device.

    Raises:
        CaptureError: The camera does not open in time.
    """
    name = f"camera {index}"
    capture = _within(lambda: cv2.VideoCapture(index), name, timeout_s, _camera_remedy(index))
    return prepare_camera(capture, name, size=size, timeout_s=timeout_s, hold=hold)


def prepare_camera(
    capture: Any, name: str, *, size: Size | None, timeout_s: float, hold: bool
) -> OpenedCapture:
    """Request format, size and locks from an open camera, and read them back.

    Args:
        capture: Open ``cv2.VideoCapture``.
        name: Name of the camera.
        size: Width and height to request; None leaves the default.
        timeout_s: Time limit of the locks in seconds.
        hold: Whether exposure, white balance and focus are locked.

    Returns:
        The device with its properties and warnings.
    """
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    if size is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)

    settings = read_settings(capture)
    settings["asked"] = {"fourcc": "MJPG"} | (
        {} if size is None else {"width": size[0], "height": size[1]}
    )
    warnings = _setting_warnings(name, settings, size)

    if not hold:
        return OpenedCapture(capture, settings | {"locks": "not asked"}, warnings)

    backend = _backend(capture)
    locks = _in_time(lambda: _settled_locks(capture, backend), timeout_s)
    if locks is None:
        return OpenedCapture(
            capture,
            settings | {"locks": "not asked"},
            [*warnings, f"{name} gave no frame to settle on"],
        )

    settings |= {"backend": backend, "locks": [each.as_dict() for each in locks]}
    warnings += controls.control_warnings(name, locks)
    return OpenedCapture(
        capture,
        settings,
        warnings,
        lambda device: controls.release_controls(device, backend, locks),
    )


def _settled_locks(capture: Any, backend: str) -> list[controls.ControlLock]:
    controls.settle_controls(capture)
    return controls.lock_controls(capture, backend)


def _setting_warnings(name: str, settings: dict[str, Any], size: Size | None) -> list[str]:
    """Return warnings about what the camera does not deliver as requested."""
    warnings = []
    if size is not None and (settings["width"], settings["height"]) != size:
        delivered = f"{settings['width']}x{settings['height']}"
        warnings.append(f"{name} delivers {delivered}, not the {size[0]}x{size[1]} asked for")

    if settings["fourcc"] != "MJPG":
        warnings.append(
            f"{name} delivers {settings['fourcc'] or 'an unnamed format'}, not MJPG: expect few fps"
        )
    return warnings


def _backend(capture: Any) -> str:
    try:
        return str(capture.getBackendName())
    except (AttributeError, cv2.error):
        return ""


def open_url(url: str, name: str, *, timeout_s: float) -> OpenedCapture:
    """Open an RTSP, HTTP or MJPEG address.

    Args:
        url: Address.
        name: Name for messages, without password.
        timeout_s: Time limit in seconds.

    Returns:
        The open device.

    Raises:
        CaptureError: Nothing answers in time.
    """
    if as_utf8(url) != url:  # OpenCV would crash
        raise CaptureError(f"{as_utf8(name)}", "An address is UTF-8", "Correct it")
    limit = int(timeout_s * 1000)
    options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
    remedy = "Check the address, and that the machine that serves it can be reached from here"

    # ffmpeg keeps the limit itself; the thread's own, a little longer, covers name resolution. A
    # silent connection is detected by the reader; the socket's limit, a little longer, ends its
    # thread.
    capture = _in_time(lambda: _mjpeg_or_refusal(url, timeout_s + 2), timeout_s)
    if isinstance(capture, CaptureError):
        raise capture
    if capture is None:
        capture = _within(lambda: _open_directly(url, options), name, timeout_s + 2, remedy)
    return OpenedCapture(capture, read_settings(capture))


_PROXY_LOCK = threading.Lock()
"""Held while no_proxy is changed: an opening that was abandoned may still be under way when the
next one begins, and would restore what that one has set."""


def _open_directly(url: str, options: list[int]) -> cv2.VideoCapture:
    """Open an address with ffmpeg and without a proxy, which would be told a camera's password."""
    with _PROXY_LOCK:
        before = os.environ.get("no_proxy")
        os.environ["no_proxy"] = "*"  # ffmpeg has no other way to leave out what http_proxy says
        try:
            return cv2.VideoCapture(url, cv2.CAP_FFMPEG, options)
        finally:
            if before is None:
                os.environ.pop("no_proxy", None)
            else:
                os.environ["no_proxy"] = before


def _mjpeg_or_refusal(url: str, timeout_s: float) -> MjpegCapture | CaptureError | None:
    """What :func:`open_mjpeg` returns or raises, for it runs in a thread of its own."""
    try:
        refuse_rtsp_redirect(url, timeout_s)
        return open_mjpeg(url, timeout_s)
    except CaptureError as refusal:
        return refusal


def open_in_time(make: Callable[[], Opened], name: str, timeout_s: float) -> Opened:
    """Return what ``make`` returns.

    Args:
        make: Function that opens a file or an address.
        name: Name for messages.
        timeout_s: Time limit in seconds; a file system that never answers costs no more.

    Returns:
        The open file.

    Raises:
        CaptureError: It does not open in time. What ``make`` raises is passed on.
    """

    def attempt() -> Opened | Exception:
        try:
            return make()
        except Exception as error:  # raised again below, in the caller's thread
            return error

    opened: Opened | Exception | None = _in_time(attempt, timeout_s)
    if opened is None:
        limit = f"did not open within {timeout_s:g} s"
        raise CaptureError(name, limit, "Copy the file to a local disk, or check the address")
    if isinstance(opened, Exception):
        raise opened
    return opened


def read_settings(capture: Any) -> dict[str, Any]:
    """Return width, height, frame rate and FOURCC as ``capture`` reports them, which may differ
    from those requested."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    letters = "".join(chr((code >> shift) & 0xFF) for shift in (0, 8, 16, 24)) if code > 0 else ""
    return {
        "width": int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        "height": int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        "fps": round(float(capture.get(cv2.CAP_PROP_FPS)), 3),
        "fourcc": letters if letters.isprintable() else "",
    }


def _within(make: Callable[[], Any], name: str, timeout_s: float, remedy: str) -> Any:
    """Call ``make`` in a thread of its own, so that a driver that blocks forever costs only
    ``timeout_s``."""

    def attempt() -> Any:
        try:
            return make()
        except cv2.error:  # OpenCV returns False or raises, depending on the backend
            return False

    with quiet_opencv():
        capture = _in_time(attempt, timeout_s)
    if capture is None:
        raise CaptureError(name, f"did not open within {timeout_s:g} s", remedy)
    if capture is False or not capture.isOpened():
        raise CaptureError(name, "did not open", remedy)
    return capture


def _in_time(make: Callable[[], Any], timeout_s: float) -> Any:
    """Return what ``make`` returns, or None when it takes longer than ``timeout_s``; its thread is
    then abandoned."""
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(make()), daemon=True, name="opening")
    thread.start()
    thread.join(timeout_s)
    return result[0] if result else None


def _camera_remedy(index: int) -> str:
    return (
        f"Check that camera {index} is plugged in, allowed for this user and not used by another "
        "program, or name another index or a video file"
    )
