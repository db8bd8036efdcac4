"""Live sources: a thread reads continuously and hands on only the newest frame, so that verdicts
are up to date.

A source that breaks or stalls is opened again, with growing pauses, until a time limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from physadv.camera.frames import CameraFrame, FrameSource
from physadv.camera.open_capture import OpenedCapture
from physadv.core.errors import CaptureError
from physadv.core.wording import count_noun

Pixels = npt.NDArray[np.uint8]
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0


class NewestFrame:
    """Reads a capture in a thread and keeps only its newest frame.

    Drivers queue about four frames even when told to keep one, so that a slow reader receives old
    frames. Iteration yields (seconds since ``start``, RGB frame, number of frames read so far),
    never a frame twice, until the source ends or stalls, or :meth:`close` is called.

    Args:
        capture: Open ``cv2.VideoCapture``.
        stall_s: Longest wait for a frame in seconds.
        start: Origin of time, as of ``time.monotonic``; None is now.
        farewell: Called with the device before its release.
    """

    def __init__(
        self,
        capture: Any,
        *,
        stall_s: float = 10.0,
        start: float | None = None,
        farewell: Callable[[Any], None] | None = None,
    ) -> None:
        self._capture, self.stall_s, self._farewell = capture, stall_s, farewell
        self._start = time.monotonic() if start is None else start

        self._news = threading.Condition()
        self._frame: Pixels | None = None
        self._time, self.count = 0.0, 0
        self._stop = False
        self.ended, self.stalled = False, False
        self._thread = threading.Thread(target=self._read, daemon=True, name="newest frame")
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[float, Pixels, int]]:
        while (item := self._next()) is not None:
            yield item

    def close(self, wait_s: float = 2.0) -> None:
        """Stop reading and wait for up to ``wait_s``; the thread releases the device itself, since
        a release during a read can crash a driver."""
        self._stop = True
        with self._news:
            self._news.notify_all()
        self._thread.join(wait_s)

    def _read(self) -> None:
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
                self._frame, self._time = bgr, time.monotonic() - self._start
                self.count += 1
                self._news.notify_all()

        if self._farewell is not None:
            self._farewell(self._capture)
        self._capture.release()

    def _next(self) -> tuple[float, Pixels, int] | None:
        with self._news:
            arrived = self._news.wait_for(
                lambda: self._frame is not None or self.ended or self._stop, self.stall_s
            )
            self.stalled = not arrived
            if self._frame is None or self._stop:
                return None
            frame, self._frame = self._frame, None
            moment, count = self._time, self.count
        return moment, np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8), count


class LiveSource(FrameSource):
    """A camera or stream: always the newest frame, cut into clips.

    A lost source is opened again with pauses of 0.5, 1, 2, 4 and 8 s. Events are reported through
    ``on_message`` as they happen, and kept in ``warnings``.

    Args:
        name: Name of the source.
        kind: "camera" or "stream".
        opened: The open device.
        clip_seconds: Length of a clip.
        stall_s: Longest wait for a frame.
        retry_s: Time for which a lost source is tried again; 0 does not try.
        again: Opens the source anew.
    """

    live = True

    def __init__(
        self,
        name: str,
        kind: str,
        opened: OpenedCapture,
        *,
        clip_seconds: float,
        stall_s: float,
        retry_s: float = 0.0,
        again: Callable[[], OpenedCapture] | None = None,
    ) -> None:
        super().__init__(name)
        self.kind, self.clip_seconds, self.settings = kind, clip_seconds, dict(opened.settings)
        self.warnings.extend(opened.warnings)
        self.stall_s, self.retry_s, self._again = stall_s, retry_s, again
        self._start, self._closed, self._read_before = time.monotonic(), threading.Event(), 0
        self._size: tuple[int, int] | None = None
        self._newest = self._reader(opened)

    def __iter__(self) -> Iterator[CameraFrame]:
        handed = 0
        try:
            while True:
                for time_s, image, number in self._newest:
                    handed += 1
                    self._note_size(image, handed)
                    clip = f"live-{int(time_s // self.clip_seconds):03d}"
                    yield CameraFrame(image, time_s, clip, None, self._read_before + number - 1)

                if self._closed.is_set():
                    return
                lost = self._why(handed)

                if not handed:
                    limit = f"opened but gave no frame within {self.stall_s:g} s"
                    raise CaptureError(
                        self.name, limit, "Check the camera, or that the stream is running"
                    )
                if not self._reopen(lost):
                    return
        finally:
            self.close()

    def arrival_s(self, frame: CameraFrame) -> float:
        """Return when the device gave ``frame``, as of ``time.monotonic``."""
        return self._start + frame.time_s

    def close(self) -> None:
        """Stop the reader thread and release the device."""
        self._closed.set()
        self._newest.close()

    def _reader(self, opened: OpenedCapture) -> NewestFrame:
        return NewestFrame(
            opened.capture, stall_s=self.stall_s, start=self._start, farewell=opened.farewell
        )

    def _why(self, handed: int) -> str:
        if self._newest.stalled:
            return (
                f"{self.name} fell silent for {self.stall_s:g} s after "
                f"{count_noun(handed, 'frame')}"
            )
        return f"{self.name} ended or broke after {count_noun(handed, 'frame')}"

    def _reopen(self, lost: str) -> bool:
        """Try to open a lost source again; the outcome becomes one warning either way."""
        self._read_before += self._newest.count
        gone = time.monotonic()
        if self._again is None or self.retry_s <= 0:
            self.warnings.append(f"{lost}; what was read is kept")
            return False
        self._newest.close(0.5)  # a read that hangs is left to its thread

        opened = self._try_again(lost, gone)
        if opened is None:
            self._say(
                f"{lost}; not back after {time.monotonic() - gone:.0f} s, so what was read is kept"
            )
            return False

        self._say(f"{lost}; back after {time.monotonic() - gone:.1f} s")
        self._newest = self._reader(opened)
        return True

    def _try_again(self, lost: str, gone: float) -> OpenedCapture | None:
        pause = FIRST_PAUSE_S
        while self._again is not None and time.monotonic() - gone < self.retry_s:
            self.on_message(f"{lost}; trying again in {pause:g} s")
            if self._closed.wait(pause):
                return None
            pause = min(2 * pause, LONGEST_PAUSE_S)

            try:
                return self._again()
            except CaptureError:
                continue
        return None

    def _note_size(self, image: Pixels, handed: int) -> None:
        size = (image.shape[1], image.shape[0])
        if self._size is not None and size != self._size:
            was, now = (f"{w}x{h}" for w, h in (self._size, size))
            self._say(f"{self.name} changed from {was} to {now} at frame {handed}")
        self._size = size

    def _say(self, line: str) -> None:
        self.warnings.append(line)
        self.on_message(line)
