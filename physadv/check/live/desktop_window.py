"""Desktop window for the live picture, where a display exists and OpenCV was built with one."""

from __future__ import annotations

import os
import sys

import cv2

from physadv.check.live.overlay import LiveState, draw_overlay
from physadv.check.live.remote_control import RemoteControl
from physadv.core.errors import CaptureError

TITLE = "physadv check: c clean, b blank, p patch, q end"
_KEYS = {"c": "clean", "b": "blank", "p": "patch"}


def why_no_window() -> str | None:
    """Return why no window can be opened on this machine; None where one can."""
    gui = next(
        (
            line
            for line in cv2.getBuildInformation().splitlines()
            if line.strip().startswith("GUI:")
        ),
        "",
    )

    if "NONE" in gui.upper():
        return "this OpenCV is headless and opens no windows (pip's opencv-python has them)"
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return "no display to draw on"
    return None


class DesktopWindow:
    """Window that shows the newest picture; keys choose the block and end the check.

    Args:
        remote: Control that the keys act on.

    Raises:
        CaptureError: No window can be opened.
    """

    def __init__(self, remote: RemoteControl) -> None:
        obstacle = why_no_window()
        if obstacle is not None:
            raise CaptureError(
                "--window", obstacle, "Use --serve and open the page it names, or leave it out"
            )
        self.remote = remote
        cv2.namedWindow(TITLE, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_KEEPRATIO)

    def show_state(self, state: LiveState) -> None:
        """Draw ``state`` and apply a key that was pressed."""
        cv2.imshow(TITLE, cv2.cvtColor(draw_overlay(state), cv2.COLOR_RGB2BGR))
        apply_key(self.remote, cv2.waitKey(1) & 0xFF)

    def close(self) -> None:
        """Close the window."""
        cv2.destroyWindow(TITLE)


def apply_key(remote: RemoteControl, key: int) -> None:
    """Choose a block in ``remote`` for a ``key`` of c, b and p, or end the check for q and
    Escape."""
    letter = chr(key).lower() if key < 128 else ""
    if letter in _KEYS:
        remote.choose(_KEYS[letter])
    elif letter == "q" or key == 27:
        remote.stop()
