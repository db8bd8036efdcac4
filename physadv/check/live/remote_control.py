"""What a person at a window or a page asks of a running check: the block in hand, and the end. Safe
across threads."""

from __future__ import annotations

from threading import Lock

from physadv.camera.frames import BLOCKS
from physadv.core.errors import OptionError


class RemoteControl:
    """The wishes of whoever watches. The block counts where neither the source nor a marker tells
    one."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._block: str | None = None
        self._stopped = False
        self._note = ""

    @property
    def block(self) -> str | None:
        """The block that was chosen last."""
        with self._lock:
            return self._block

    @property
    def stopped(self) -> bool:
        """Whether the end was asked for."""
        with self._lock:
            return self._stopped

    @property
    def note(self) -> str:
        """The newest thing to tell, such as a camera that was lost."""
        with self._lock:
            return self._note

    def choose(self, block: str) -> None:
        """Say which block is in hand. Raises OptionError for another name."""
        if block not in BLOCKS:
            raise OptionError(f"block {block!r}", f"one of {', '.join(BLOCKS)}", "correct it")
        with self._lock:
            self._block = block

    def stop(self) -> None:
        """Ask for the end: what was measured is kept and reported."""
        with self._lock:
            self._stopped = True

    def say(self, note: str) -> None:
        """Leave a line for those who watch."""
        with self._lock:
            self._note = note
