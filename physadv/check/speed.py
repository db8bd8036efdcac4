"""Speed of a check: frames a second, and the time from a frame's arrival to its verdict."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

_RECENT = 100
"""Frames over which the speed that a viewer sees is taken."""
_MOST_KEPT = 20_000
"""Frames over which the speed of a whole check is taken: its last ones."""


_LEAST_S = 1e-3
"""A shorter time, as of frames judged in one batch, tells no speed."""


@dataclass(frozen=True)
class CheckSpeed:
    """Speed over some frames.

    Attributes:
        frames_per_s: Frames with a verdict a second.
        median_s: Median time in s from a frame's arrival to its verdict.
        p95_s: 95th percentile of that time in s.
        frames: Number of frames.
    """

    frames_per_s: float
    median_s: float
    p95_s: float
    frames: int

    def __str__(self) -> str:
        return (
            f"{self.frames_per_s:.0f} frames/s, verdict after {1000 * self.median_s:.0f} ms "
            f"(95 % within {1000 * self.p95_s:.0f} ms)"
        )

    def as_dict(self) -> dict[str, float | int]:
        """Return plain values for JSON."""
        return {
            "frames_per_s": round(self.frames_per_s, 2),
            "latency_median_ms": round(1000 * self.median_s, 1),
            "latency_p95_ms": round(1000 * self.p95_s, 1),
            "frames": self.frames,
        }


class SpeedMeter:
    """Meter of the speed of a check.

    Example:
        >>> meter = SpeedMeter()
        >>> for k in range(11):
        ...     meter.add(arrived_s=k / 20, judged_s=k / 20 + 0.08)
        >>> print(meter.recent())
        20 frames/s, verdict after 80 ms (95 % within 80 ms)
    """

    def __init__(self) -> None:
        self._times: deque[tuple[float, float]] = deque(maxlen=_MOST_KEPT)

    def add(self, arrived_s: float, judged_s: float) -> None:
        """Count a frame that arrived and got its verdict at these times of one clock, in s."""
        self._times.append((arrived_s, judged_s))

    def recent(self) -> CheckSpeed | None:
        """Return the speed over the last 100 frames; None for fewer than two."""
        return _speed(list(self._times)[-_RECENT:])

    def overall(self) -> CheckSpeed | None:
        """Return the speed over the whole check, at most its last 20 000 frames; None for fewer
        than two."""
        return _speed(list(self._times))


def _speed(times: list[tuple[float, float]]) -> CheckSpeed | None:
    if len(times) < 2:
        return None
    arrived, judged = np.array(times).T
    median, p95 = np.percentile(judged - arrived, [50, 95])
    elapsed = float(judged[-1] - judged[0])
    if elapsed < _LEAST_S:
        return None
    return CheckSpeed((len(times) - 1) / elapsed, float(median), float(p95), len(times))
