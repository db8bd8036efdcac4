"""Frames of a source with the sign located in them, prepared in a thread while earlier ones are
classified.

Decoding and locating leave the interpreter's lock most of the time, so they take a second core. The
order is that of the source, and each frame is located with all those before it, so the results of a
recording do not depend on the threads' speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread
from types import TracebackType

from physadv.camera.frames import CameraFrame, FrameSource
from physadv.camera.localization.location import SignLocation

_AHEAD, _WAIT_S, _FAREWELL_S = 4, 0.1, 5.0


@dataclass(frozen=True)
class LocatedFrame:
    """A frame with the sign's location.

    Attributes:
        frame: The frame.
        location: Location of the sign; None where it was not found.
        arrived_s: When the frame arrived, as of ``time.monotonic``.
    """

    frame: CameraFrame
    location: SignLocation | None
    arrived_s: float


@dataclass(frozen=True)
class _End:
    """End of the frames, with the error that ended them, if any."""

    error: BaseException | None = None


class LocatedFrames:
    """Iterator over the located frames of a source, to be used in a ``with`` statement.

    A recording is read up to four frames ahead, a live source one frame. An error of the source or
    of ``locate`` is raised after the frames before it.

    Args:
        source: Source of frames, which is closed at the end.
        locate: Returns a frame as it is to be used and the location of the sign in it; called in
            the order of the frames, in one thread.

    Example:
        >>> from physadv.camera.open_source import open_frame_source
        >>> import tempfile, numpy as np
        >>> from physadv.core.image_io import save_png
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_png(f"{folder}/patch-1.png", np.zeros((8, 8, 3), np.uint8))
        ...     with LocatedFrames(open_frame_source(folder), lambda f: (f, None)) as frames:
        ...         names = [located.frame.clip for located in frames]
        >>> names
        ['patch-1']
    """

    def __init__(
        self,
        source: FrameSource,
        locate: Callable[[CameraFrame], tuple[CameraFrame, SignLocation | None]],
    ) -> None:
        self._source, self._locate = source, locate
        self._queue: Queue[LocatedFrame | _End] = Queue(1 if source.live else _AHEAD)
        self._closed = Event()
        self._thread = Thread(target=self._read, daemon=True, name="located frames")

    def __enter__(self) -> LocatedFrames:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading and close the source; a read that hangs is left to its thread."""
        self._closed.set()
        self._source.close()
        self._thread.join(_FAREWELL_S)

    def __iter__(self) -> Iterator[LocatedFrame]:
        while True:
            try:
                # A wait without end could not be interrupted by Ctrl-C everywhere.
                item = self._queue.get(timeout=_WAIT_S)
            except Empty:
                continue
            if isinstance(item, LocatedFrame):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                return

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for original in self._source:
                arrived_s = self._source.arrival_s(original)
                frame, location = self._locate(original)
                self._put(LocatedFrame(frame, location, arrived_s))
                if self._closed.is_set():
                    return
        except BaseException as raised:
            error = raised
        self._put(_End(error))

    def _put(self, item: LocatedFrame | _End) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=_WAIT_S)
                return
            except Full:
                continue
