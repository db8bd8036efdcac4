"""The process's own streams: closed ones are opened, and messages that nobody takes are dropped."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from physadv.core.errors import PhysadvError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _LossyFile(io.FileIO):
    """A file that swallows what its reader, or a full disk, does not take."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write ``data``, or drop it; return how many bytes of it were dealt with."""
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


def prepare_streams() -> None:
    """Make stdin, stdout and stderr safe to use, whatever they were when the process started.

    A closed one would be taken by the next file that is opened, and messages would be written into
    it. stderr carries words for people only: where its reader went away or its disk is full, the
    work goes on without them. stdout carries results, so that a fault there stays an error.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # Read only, so that writing to a closed stdout is an error still.
            os.open(os.devnull, os.O_RDONLY)
    if sys.stdout is None:
        sys.stdout = _text(io.FileIO(1, "w", closefd=False))
    if sys.stderr is sys.__stderr__:  # not one that a test put in its place
        sys.stderr = _text(_LossyFile(2, "w", closefd=False))


def write_result(stream: TextIO, text: str = "") -> None:
    """Write ``text`` to ``stream`` with whatever it still holds.

    Args:
        stream: stdout, or what stands for it.
        text: a result; may be empty.

    Raises:
        PhysadvError: the stream does not take it: it is closed, its reader went away, or its disk
            is full.
    """
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError) as error:
        _drop_output(stream)
        reason = getattr(error, "strerror", None) or str(error)
        raise PhysadvError(
            f"stdout did not take the result ({reason})",
            "Files that were written are complete",
            "Send stdout to a file or a reader that takes all of it",
        ) from error


def _drop_output(stream: TextIO) -> None:
    """Send what ``stream`` still holds nowhere, or the end of the process would report it again."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def _text(file: io.FileIO) -> TextIO:
    """A stream of lines in UTF-8, or the encoding of the user's locale, over ``file``."""
    buffer = io.BufferedWriter(file)
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    return io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=True)
