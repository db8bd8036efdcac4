"""MJPEG over HTTP, part by part: with and without lengths, broken parts, changes of size,
passwords."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest

from physadv.camera.mjpeg import MjpegCapture, _with_credentials, open_mjpeg


def jpeg(level: int, size: tuple[int, int] = (32, 24)) -> bytes:
    return bytes(cv2.imencode(".jpg", np.full((size[1], size[0], 3), level, np.uint8))[1].tobytes())


def part(body: bytes, *, length: bool = True) -> bytes:
    head = b"--frame\r\nContent-Type: image/jpeg\r\n" + (
        b"Content-Length: %d\r\n" % len(body) if length else b""
    )
    return head + b"\r\n" + body + b"\r\n"


def frames(stream: bytes) -> list[tuple[int, tuple[int, ...]]]:
    capture, found = MjpegCapture(io.BytesIO(stream)), []
    while True:
        ok, frame = capture.read()
        if not ok:
            return found
        found.append((round(float(frame.mean())), frame.shape[:2]))


@pytest.mark.parametrize("length", [True, False])
def test_every_part_in_its_own_size(length: bool) -> None:
    """Frames come in order, with and without lengths, and are not stretched to the first one's
    size."""
    stream = (
        part(jpeg(40), length=length)
        + part(jpeg(90, (64, 24)), length=length)
        + part(jpeg(150), length=length)
    )
    assert frames(stream) == [(40, (24, 32)), (90, (24, 64)), (150, (24, 32))]


def test_broken_parts_are_left_out() -> None:
    """Junk in a part is skipped; a truncated part, an endless header or no data is the end."""
    junk = part(b"this is no picture")
    assert frames(part(jpeg(40)) + junk + part(jpeg(90))) == [(40, (24, 32)), (90, (24, 32))]
    assert frames(part(jpeg(40)) + part(jpeg(90))[:-40]) == [(40, (24, 32))]
    assert frames(b"") == frames(b"\r\n" * 500) == frames(b"x: y\r\n" * 500) == []
    assert frames(b"--frame\r\nContent-Length: 99999999999\r\n\r\n" + jpeg(40)) == []


def test_what_the_source_reports() -> None:
    """Size and format are those of the first frame, which is still delivered."""
    capture = MjpegCapture(io.BytesIO(part(jpeg(40))))
    assert (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (
        32,
        24,
    )
    assert capture.read()[0]
    assert capture.read() == (False, None)


def test_passwords_go_into_the_header() -> None:
    """The requested address holds neither user nor password; escapes are decoded."""
    address, _, headers = _with_credentials("http://me:p%40ss@10.0.0.5:81/cam?x=1")
    assert address == "http://10.0.0.5:81/cam?x=1"
    assert headers == {"Authorization": "Basic bWU6cEBzcw=="}
    assert _with_credentials("http://10.0.0.5/") == ("http://10.0.0.5/", None, {})
    assert open_mjpeg("rtsp://10.0.0.5/", 1) is None
