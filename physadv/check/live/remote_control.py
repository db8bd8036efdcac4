"""Thread-safe user input to a running check: the block in view, the end, and a note to show."""

from __future__ import annotations

from threading import Lock

from physadv.camera.frames import BLOCKS
from physadv.core.errors import OptionError


class RemoteControl:
    """Input of a person at a window or a page. The block is used where neither source nor markers
    name one.

    Example:
        >>> remote = RemoteControl()
        >>> remote.choose("blank")
        >>> remote.block, remote.stopped
        ('blank', False)
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._block: str | None = None
        self._stopped = False
        self._note = ""

    @property
    def block(self) -> str | None:
        """Block chosen last; None before the first choice."""
        with self._lock:
            return self._block

    @property
    def stopped(self) -> bool:
        """Whether the check was asked to end."""
        with self._lock:
            return self._stopped

    @property
    def note(self) -> str:
        """Newest message for the viewer, such as a camera that was lost."""
        with self._lock:
            return self._note

    def choose(self, block: str) -> None:
        """Set the ``block`` in view.

        Raises:
            OptionError: ``block`` is not clean, blank or patch.
        """
        if block not in BLOCKS:
            raise OptionError(f"block {block!r}", f"one of {', '.join(BLOCKS)}", "Correct the name")
        with self._lock:
            self._block = block

    def stop(self) -> None:
        """End the check; frames classified so far are kept and reported."""
        with self._lock:
            self._stopped = True

    def set_note(self, note: str) -> None:
        """Set the ``note`` that the viewer is shown."""
        with self._lock:
            self._note = note
