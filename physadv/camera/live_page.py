"""Local web page that shows a camera's newest picture, as MJPEG on 127.0.0.1.

No other machine can reach it, and on this one nobody who does not know its address, which holds a
token of this run (:mod:`physadv.camera.local_server`).
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from threading import Condition, Event, Lock
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from physadv.camera.local_server import LocalHandler, LocalPage
from physadv.core.errors import OptionError

Pixels = npt.NDArray[np.uint8]
_QUALITY, _PATIENCE_S = 80, 2.0
_FAREWELL_S, _WATCHED_S = 8.0, 3.0
"""Longest wait until a browser that watches has the result; and how recently one that watches has
asked for the state."""


class LivePage(LocalPage):
    """Server of the newest picture and a state, from construction to :meth:`close`.

    The page embeds ``stream`` (MJPEG) and listens to ``events``; its buttons send POST requests.

    Args:
        port: Port on 127.0.0.1; 0 takes any free one.

    Raises:
        CaptureError: The port cannot be used.
    """

    def __init__(self, port: int) -> None:
        self._news = Condition()
        self._jpeg, self._count, self._open = b"", 0, True
        self._end_lock, self._told = Lock(), Event()
        self._done, self._report, self._asked_s = "", b"", -_WATCHED_S
        super().__init__(port, _handler(self))

    @abstractmethod
    def panels(self) -> Mapping[str, Any]:
        """Return what the page shows beside the picture, plain values for JSON."""

    @abstractmethod
    def apply(self, path: str) -> None:
        """Carry out the POST request to ``path``.

        Raises:
            OptionError: There is no such command.
        """

    def state(self) -> Mapping[str, Any]:
        """Return the panels and, once the run has ended, its result."""
        panels = self.panels()
        with self._end_lock:
            self._asked_s = time.monotonic()
            return {**panels, "done": self._done, "report": bool(self._report)}

    def finish(self, result: str, report: bytes = b"") -> None:
        """Show the end, and wait until a browser that watches has read it.

        Args:
            result: Result in words, in place of instructions.
            report: Page to go on to; empty where there is none.
        """
        with self._end_lock:
            if self._done:
                return
            self._done, self._report = result, report
            is_watched = time.monotonic() - self._asked_s < _WATCHED_S
        if is_watched:
            self._told.wait(_FAREWELL_S)

    def sent(self, state: object) -> None:
        """Note whether ``state`` was the last thing to tell."""
        if isinstance(state, dict) and state["done"] and not state["report"]:
            self._told.set()

    def report(self) -> bytes:
        """Return the report's page; empty where there is none."""
        with self._end_lock:
            return self._report

    def told(self) -> None:
        """Note that a browser has the report."""
        self._told.set()

    def show(self, picture: Pixels) -> None:
        """Publish ``picture`` (h, w, 3) uint8 RGB as the newest one."""
        encoded, jpeg = cv2.imencode(
            ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        )
        if encoded:
            with self._news:
                self._jpeg, self._count = jpeg.tobytes(), self._count + 1
                self._news.notify_all()

    def next(self, last: int) -> tuple[bytes, int] | None:
        """Return the picture after number ``last`` and its number, the same picture when none
        arrives in time, or None once the server is closed."""
        with self._news:
            self._news.wait_for(lambda: self._count > last or not self._open, _PATIENCE_S)

            return (self._jpeg, self._count) if self._open else None

    def close(self) -> None:
        """Stop the server."""
        with self._news:
            self._open = False
            self._news.notify_all()
        super().close()


def _handler(page: LivePage) -> type[LocalHandler]:
    class Handler(LocalHandler):
        def get(self, path: str) -> None:
            if path == "/stream":
                self._stream()
            elif path == "/frame.jpg":
                self._frame()
            elif path == "/report" and page.report():
                self.answer(200, "text/html; charset=utf-8", page.report())
                page.told()
            else:
                self.answer_for(page, path)

        def post(self, path: str) -> None:
            try:
                page.apply(path)
            except OptionError as error:
                self.answer(404, "text/plain", f"{error}\n".encode())
            else:
                self.answer(200, "text/plain", b"done\n")

        def _frame(self) -> None:
            newest = page.next(0)
            if newest is None or not newest[0]:
                self.answer(503, "text/plain", b"no picture yet\n")
            else:
                self.answer(200, "image/jpeg", newest[0])

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()

            seen = 0
            while (newest := page.next(seen)) is not None:
                jpeg, seen = newest
                if jpeg:
                    head = "--frame\r\nContent-Type: image/jpeg\r\n"
                    head += f"Content-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")

    return Handler
