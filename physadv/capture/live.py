"""Live sources: a thread reads all the time and hands on only the newest frame, so that no verdict is of the past."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from physadv.capture.frames import Frame, Source
from physadv.capture.opening import Size
from physadv.core.errors import CaptureError

Pixels = npt.NDArray[np.uint8]


class NewestFrame:
    """Reads ``capture`` in a thread and keeps one frame: the newest.

    Drivers queue about four frames even when told to keep one; who reads slowly then sees the past. Iterating yields
    (seconds since start, RGB frame, number of frames read so far) until the source ends, stalls for ``stall_s`` or
    :meth:`close` is called. A frame is never yielded twice.
    """

    def __init__(self, capture: Any, *, stall_s: float = 10.0) -> None:
        self._capture, self.stall_s = capture, stall_s
        self._news = threading.Condition()
        self._frame: Pixels | None = None
        self._time, self._count = 0.0, 0
        self._stop = False
        self.ended, self.stalled = False, False
        self._thread = threading.Thread(target=self._read, daemon=True, name="newest frame")
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[float, Pixels, int]]:
        while (item := self._next()) is not None:
            yield item

    def close(self) -> None:
        """Stop reading; the thread releases the device itself, for releasing it under a read can crash a driver."""
        self._stop = True
        with self._news:
            self._news.notify_all()
        self._thread.join(2.0)

    def _read(self) -> None:
        start = time.monotonic()
        while not self._stop:
            try:
                ok, bgr = self._capture.read()
            except cv2.error:
                ok, bgr = False, None
            with self._news:
                if not ok or bgr is None:
                    self.ended = True
                    self._news.notify_all()
                    break
                self._frame, self._time = bgr, time.monotonic() - start
                self._count += 1
                self._news.notify_all()
        self._capture.release()

    def _next(self) -> tuple[float, Pixels, int] | None:
        with self._news:
            arrived = self._news.wait_for(lambda: self._frame is not None or self.ended or self._stop, self.stall_s)
            self.stalled = not arrived
            if self._frame is None or self._stop:
                return None
            frame, self._frame = self._frame, None
            moment, count = self._time, self._count
        return moment, np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8), count


class LiveSource(Source):
    """A camera or stream: always the newest frame, cut into clips of ``clip_seconds``."""

    live = True

    def __init__(
        self,
        name: str,
        kind: str,
        capture: Any,
        settings: Mapping[str, Any],
        clip_seconds: float,
        stall_s: float,
        asked: Size | None = None,
    ) -> None:
        super().__init__(name)
        self.kind, self.clip_seconds, self.settings = kind, clip_seconds, dict(settings)
        if asked is not None and (settings["width"], settings["height"]) != asked:
            got = f"{settings['width']}x{settings['height']}"
            self.warnings.append(f"{name} delivers {got}, not the {asked[0]}x{asked[1]} asked for")
        if kind == "camera" and settings["fourcc"] != "MJPG":
            self.warnings.append(
                f"{name} delivers {settings['fourcc'] or 'an unnamed format'}, not MJPG: expect few fps"
            )
        self._newest = NewestFrame(capture, stall_s=stall_s)

    def __iter__(self) -> Iterator[Frame]:
        handed = 0
        try:
            for time_s, image, number in self._newest:
                handed += 1
                yield Frame(image, time_s, f"live-{int(time_s // self.clip_seconds):03d}", None, number - 1)
            self._say_why(handed)
        finally:
            self.close()

    def close(self) -> None:
        """Stop the reader thread and give the device back."""
        self._newest.close()

    def _say_why(self, handed: int) -> None:
        if not handed:
            limit = f"opened but gave no frame within {self._newest.stall_s:g} s"
            raise CaptureError(self.name, limit, "check the camera, or that the stream is running")
        if self._newest.stalled:
            self.warnings.append(f"{self.name} fell silent for {self._newest.stall_s:g} s after {handed} frames")
        elif self._newest.ended:
            self.warnings.append(f"{self.name} ended or broke after {handed} frames; what was read is kept")
