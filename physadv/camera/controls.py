"""Lock of a camera's exposure, white balance and focus, each verified by reading it back.

An adapting camera exposes a dark patch longer than a light one, so that the blocks of a check would
not be filmed alike.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2

SETTLE_FRAMES, SETTLE_S = 20, 2.0
_V4L2_MANUAL, _V4L2_AUTO = 1.0, 3.0
_OTHER_MANUAL, _OTHER_AUTO = 0.25, 0.75


@dataclass(frozen=True)
class ControlLock:
    """Result of switching one automatic control off.

    Attributes:
        name: Name of the control.
        held: Whether the camera confirmed the lock.
        asked: Value sent to the switch.
        got: Value read back from the switch.
        value: Value at which the control is held, where known.
        why: Reason of a failure, or of a value that changed.
    """

    name: str
    held: bool
    asked: float
    got: float
    value: float | None
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for the record of the run."""
        return {k: v for k, v in asdict(self).items() if v not in (None, "")}


@dataclass(frozen=True)
class _Automatic:
    name: str
    switch: int
    value: int
    off: tuple[float, ...]
    on: float


def settle_controls(capture: Any, frames: int = SETTLE_FRAMES, seconds: float = SETTLE_S) -> int:
    """Read frames until the automatic controls have settled, before they are locked.

    Args:
        capture: Open ``cv2.VideoCapture``.
        frames: Most frames to read.
        seconds: Most time to spend.

    Returns:
        The number of frames read.
    """
    limit, count = time.monotonic() + seconds, 0
    while count < frames and time.monotonic() < limit:
        ok, _ = capture.read()
        if not ok:
            break
        count += 1
    return count


def lock_controls(capture: Any, backend: str) -> list[ControlLock]:
    """Switch exposure, white balance and focus of ``capture`` to manual at their present values,
    and read each back.

    ``backend`` is OpenCV's name of the driver, which decides the values of the switches.
    """
    return [_lock(capture, automatic) for automatic in _automatics(backend)]


def release_controls(capture: Any, backend: str, locks: Sequence[ControlLock]) -> None:
    """Switch locked controls back to automatic: drivers keep the setting for the next program.

    Args:
        capture: Open ``cv2.VideoCapture``.
        backend: OpenCV's name of the driver.
        locks: Results of :func:`lock_controls`.
    """
    held = {each.name for each in locks if each.held}
    for automatic in _automatics(backend):
        if automatic.name in held:
            _set(capture, automatic.switch, automatic.on)


def control_warnings(name: str, locks: Sequence[ControlLock]) -> list[str]:
    """Return one line about all ``locks`` of the camera ``name`` that failed; none where all
    hold."""
    loose = [f"{each.name} ({each.why})" for each in locks if not each.held]
    return (
        [f"{name} did not lock {', '.join(loose)}: it may change while you film"] if loose else []
    )


def _automatics(backend: str) -> list[_Automatic]:
    """Return the switches. V4L2 has menu numbers of its own for exposure; other backends use 0.25
    and 0.75."""
    v4l2 = backend.upper().startswith("V4L")
    manual = (_V4L2_MANUAL, _OTHER_MANUAL) if v4l2 else (_OTHER_MANUAL, _V4L2_MANUAL)
    auto = _V4L2_AUTO if v4l2 else _OTHER_AUTO
    return [
        _Automatic("exposure", cv2.CAP_PROP_AUTO_EXPOSURE, cv2.CAP_PROP_EXPOSURE, manual, auto),
        _Automatic("white balance", cv2.CAP_PROP_AUTO_WB, cv2.CAP_PROP_WB_TEMPERATURE, (0.0,), 1.0),
        _Automatic("focus", cv2.CAP_PROP_AUTOFOCUS, cv2.CAP_PROP_FOCUS, (0.0,), 1.0),
    ]


def _lock(capture: Any, automatic: _Automatic) -> ControlLock:
    value = _get(capture, automatic.value)
    asked, got, took = automatic.off[0], _get(capture, automatic.switch), False

    for asked in automatic.off:
        took = _set(capture, automatic.switch, asked)
        got = _get(capture, automatic.switch)
        if took and _same(got, asked):
            break

    if not took:
        return ControlLock(automatic.name, False, asked, got, None, "the driver does not offer it")
    if not _same(got, asked):
        return ControlLock(
            automatic.name, False, asked, got, None, f"asked for {asked:g}, reads back {got:g}"
        )
    if value in (0.0, -1.0):  # drivers return these for a value they do not know
        return ControlLock(automatic.name, True, asked, got, None)

    _set(capture, automatic.value, value)
    kept = _get(capture, automatic.value)
    moved = "" if _same(kept, value) else f"was {value:g}, reads back {kept:g}"
    return ControlLock(automatic.name, True, asked, got, kept, moved)


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= 0.01 + 0.02 * abs(b)


def _set(capture: Any, key: int, value: float) -> bool:
    try:
        return bool(capture.set(key, value))
    except cv2.error:
        return False


def _get(capture: Any, key: int) -> float:
    try:
        return float(capture.get(key))
    except cv2.error:
        return -1.0
