"""Reading MJPEG over HTTP ourselves: OpenCV stretches every frame to the size of the first and does
not say so."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import IO, Any
from urllib.error import URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import ProxyHandler, Request, build_opener

import cv2
import numpy as np

KIND = "multipart/x-mixed-replace"
_LARGEST_JPEG, _LONGEST_LINE, _MOST_LINES = 32 << 20, 4096, 64
_END_OF_IMAGE = b"\xff\xd9"


class MjpegCapture:
    """What :mod:`physadv.camera.live` needs of a ``cv2.VideoCapture``, over an open multipart
    answer."""

    def __init__(self, answer: IO[bytes], size: tuple[int, int] | None = None) -> None:
        self._answer, self.size = answer, size
        self._first: Any = None
        ok, first = self.read()
        if ok:  # its size is what the source reports
            self._first, self.size = first, (first.shape[1], first.shape[0])

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        """Whether it was read from once."""
        return True

    def get(self, key: int) -> float:
        """Width and height of the first frame, and its FOURCC; 0 for what HTTP does not tell."""
        width, height = self.size or (0, 0)
        known = {
            cv2.CAP_PROP_FRAME_WIDTH: width,
            cv2.CAP_PROP_FRAME_HEIGHT: height,
            cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*"MJPG"),
        }
        return float(known.get(key, 0))

    def read(self) -> tuple[bool, Any]:
        """The next frame (h, w, 3) BGR; a broken one is left out; (False, None) at the end."""
        if self._first is not None:
            frame, self._first = self._first, None
            return True, frame
        while (jpeg := self._part()) is not None:
            frame = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
            if frame is not None:
                return True, frame
        return False, None

    def release(self) -> None:
        """Hang up."""
        self._answer.close()

    def _part(self) -> bytes | None:
        """The bytes of the next part; None at the end of the stream or where it makes no sense."""
        try:
            length = self._length()
            if length is None:
                return None
            if length > 0:
                jpeg = self._answer.read(length)
                return jpeg if len(jpeg) == length else None
            return self._until_its_end()
        except (OSError, ValueError):  # a time-out, a reset, or closed under our feet
            return None

    def _length(self) -> int | None:
        """The Content-Length of the next part's head, 0 where it names none; None at the end."""
        length, named = 0, False
        for _ in range(_MOST_LINES):
            line = self._answer.readline(_LONGEST_LINE)
            if not line:
                return None
            words = line.strip()
            if not words and named:
                return length if 0 <= length <= _LARGEST_JPEG else None
            named = named or bool(words)
            name, _, value = words.partition(b":")
            if name.lower() == b"content-length" and value.strip().isdigit():
                length = int(value)
        return None

    def _until_its_end(self) -> bytes | None:
        """A part without a length ends with its JPEG's end mark."""
        jpeg = bytearray()
        while len(jpeg) < _LARGEST_JPEG:
            line = self._answer.readline(1 << 16)
            if not line:
                return None
            jpeg += line
            if jpeg.rstrip(b"\r\n").endswith(_END_OF_IMAGE):
                return bytes(jpeg)
        return None


def open_mjpeg(url: str, timeout_s: float) -> MjpegCapture | None:
    """The stream at an HTTP address; None where something else, or nobody, answers there.

    A silent line ends :meth:`MjpegCapture.read` after ``timeout_s``. User and password in the
    address are sent along.
    """
    if not url.lower().startswith(("http://", "https://")):
        return None
    request = Request(*_with_credentials(url))
    try:
        answer = build_opener(ProxyHandler({})).open(request, timeout=timeout_s)
    except (URLError, OSError, ValueError):
        return None
    headers: Mapping[str, str] = answer.headers
    if not str(headers.get("Content-Type", "")).lower().startswith(KIND):
        answer.close()
        return None
    try:
        made = MjpegCapture(answer)
    except OSError:
        return None
    if made.size is None:
        made.release()
        return None
    return made


def _with_credentials(url: str) -> tuple[str, None, dict[str, str]]:
    """Address, no body, headers: user and password belong into a header, not into the address."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    bare = urlunsplit((parts.scheme, host, parts.path or "/", parts.query, ""))
    if not user:
        return bare, None, {}
    word = base64.b64encode(unquote(user).encode()).decode()
    return bare, None, {"Authorization": f"Basic {word}"}
