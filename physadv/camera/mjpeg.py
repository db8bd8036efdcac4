"""MJPEG over HTTP, read without OpenCV, which silently stretches every frame to the size of the
first."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping
from http.client import HTTPException, HTTPMessage
from typing import IO, Any
from urllib.error import URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

import cv2

from physadv.core.errors import CaptureError, ImageError
from physadv.core.opencv_pictures import decode_bgr
from physadv.core.reading import MAX_FRAME_PIXELS

KIND = "multipart/x-mixed-replace"
_LARGEST_JPEG, _LONGEST_LINE, _MOST_LINES = 32 << 20, 4096, 64
_END_OF_IMAGE, _LONGEST_END = b"\xff\xd9", 64
_MOST_BROKEN = 100
"""Most broken parts in a row: a stream that sends nothing else would be read without end."""


class MjpegCapture:
    """The part of ``cv2.VideoCapture`` that live sources use, over an open multipart response.

    Args:
        answer: The response.
        size: Width and height, until a first frame arrives.
    """

    def __init__(self, answer: IO[bytes], size: tuple[int, int] | None = None) -> None:
        self._answer, self.size = answer, size
        self._first: Any = None
        ok, first = self.read()
        if ok:  # the source reports the size of its first frame
            self._first, self.size = first, (first.shape[1], first.shape[0])

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        """Return True: the response was read from once."""
        return True

    def get(self, key: int) -> float:
        """Return the property ``key`` of OpenCV: width, height or FOURCC of the first frame, 0 for
        others."""
        width, height = self.size or (0, 0)

        known = {
            cv2.CAP_PROP_FRAME_WIDTH: width,
            cv2.CAP_PROP_FRAME_HEIGHT: height,
            cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*"MJPG"),
        }
        return float(known.get(key, 0))

    def read(self) -> tuple[bool, Any]:
        """Return (True, next frame (h, w, 3) BGR), skipping some broken ones, or (False, None) at
        the end."""
        if self._first is not None:
            frame, self._first = self._first, None
            return True, frame

        for _ in range(_MOST_BROKEN):
            jpeg = self._part()
            if jpeg is None:
                break
            # A broken part, or one that announces gigabytes, is skipped.
            with contextlib.suppress(ImageError):
                return True, decode_bgr(jpeg, "frame", most_pixels=MAX_FRAME_PIXELS)
        return False, None

    def release(self) -> None:
        """Close the connection."""
        self._answer.close()

    def _part(self) -> bytes | None:
        """Return the bytes of the next part; None at the end of the stream or where it is
        malformed."""
        try:
            length = self._length()
            if length is None:
                return None
            if length > 0:
                jpeg = self._answer.read(length)
                return jpeg if len(jpeg) == length else None
            return self._until_its_end()
        except (OSError, ValueError, HTTPException):  # timeout, reset, or closed during the read
            return None

    def _length(self) -> int | None:
        """Return the Content-Length of the next part's header, 0 where it names none; None at the
        end."""
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
        """Read a part without a length up to its JPEG's end mark."""
        jpeg = bytearray()
        while len(jpeg) < _LARGEST_JPEG:
            line = self._answer.readline(1 << 16)
            if not line:
                return None
            jpeg += line
            if jpeg[-_LONGEST_END:].rstrip(b"\r\n").endswith(_END_OF_IMAGE):
                return bytes(jpeg)
        return None


class _SameHost(HTTPRedirectHandler):
    """Follows a camera to another page of its own; a password goes to no other host."""

    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> Request | None:
        """Return the request for ``newurl``.

        Raises:
            CaptureError: ``newurl`` is no web address, or another host's while ``req`` has a
                password.
        """
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        is_web = new.scheme in ("http", "https")
        is_safer = (old.scheme, new.scheme) == ("http", "https")
        is_own = old.hostname == new.hostname and (is_safer or old.netloc == new.netloc)
        limit = "" if is_web else "That is no web address"
        if is_web and req.has_header("Authorization") and not is_own:
            limit = "A camera's password goes to no other host"
        if limit:
            remedy = "Give that address itself if you trust it"
            raise CaptureError(f"{req.full_url} leads to {newurl}", limit, remedy)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_mjpeg(url: str, timeout_s: float) -> MjpegCapture | None:
    """Open the stream at an HTTP address.

    Args:
        url: Address; user and password in it are sent in a header.
        timeout_s: Longest silence in seconds, after which reading ends.

    Returns:
        The capture; None where nothing or something else answers.

    Raises:
        CaptureError: The answer leads elsewhere: with a password to another host, or to something
            that is no web address.
    """
    if not url.lower().startswith(("http://", "https://")):
        return None

    try:
        request = Request(*_with_credentials(url))
        opener = build_opener(ProxyHandler({}), _SameHost())
        answer = opener.open(request, timeout=timeout_s)
    except (URLError, HTTPException, OSError, ValueError):
        return None

    headers: Mapping[str, str] = answer.headers
    if not str(headers.get("Content-Type", "")).lower().startswith(KIND):
        answer.close()
        return None
    try:
        capture = MjpegCapture(answer)
    except OSError:
        return None
    if capture.size is None:
        capture.release()
        return None
    return capture


def _with_credentials(url: str) -> tuple[str, None, dict[str, str]]:
    """Return address, no body, and headers, with user and password moved from the address to a
    header."""
    address = urlsplit(url)
    user, _, host = address.netloc.rpartition("@")
    bare = urlunsplit((address.scheme, host, address.path or "/", address.query, ""))
    if not user:
        return bare, None, {}
    word = base64.b64encode(unquote(user).encode()).decode()
    return bare, None, {"Authorization": f"Basic {word}"}
