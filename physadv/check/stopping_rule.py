"""Stopping rule of a check: a block is finished when its confidence interval is narrow enough.

Until then the rule estimates how many clips and frames are missing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from physadv.camera.frames import BLOCKS
from physadv.check.rates import FEW_CLIPS, BlockRates, block_rates
from physadv.core.errors import OptionError
from physadv.core.rows import Row
from physadv.evaluation.metrics.intervals import RateInterval, sequential_interval

WIDTH = 0.1
"""Default width of the 95 % interval, from its lower to its upper end."""
_NARROWEST = 0.001
"""Least width: a narrower interval needs more clips than anybody films."""
STEP = 20
"""Frames between two tests of the interval."""


@dataclass(frozen=True)
class StoppingState:
    """State of one block against the stopping rule.

    Attributes:
        rates: Rates of the block.
        width: Width of the widest interval that has to be narrow.
        aim: Width to reach.
        clips_missing: Clips still needed, estimated.
        frames_missing: Frames still needed, estimated.
    """

    rates: BlockRates
    width: float
    aim: float
    clips_missing: int
    frames_missing: int

    @property
    def done(self) -> bool:
        """Whether the interval is narrow enough."""
        return self.clips_missing == 0

    def as_dict(self) -> dict[str, float | int]:
        """Return plain values for JSON."""
        return {
            "width": self.width,
            "aim": self.aim,
            "clips_missing": self.clips_missing,
            "frames_missing": self.frames_missing,
        }


def check_width(width: float | None) -> None:
    """Refuse a ``width`` that no interval can have; None is accepted.

    Raises:
        OptionError: The width is not from 0.001 to below 1.
    """
    if width is not None and not _NARROWEST <= width < 1:
        raise OptionError(
            f"width {width:g}",
            f"from {_NARROWEST} to below 1",
            "Write 0.1 for an interval of 10 points",
        )


def stopping_state(rates: BlockRates, aim: float = WIDTH) -> StoppingState:
    """Apply the rule to one block, by its clips; controls need both rates narrow, the patch its
    success rate.

    The rule looks at the interval again and again, so its rates need the interval that allows it
    (``sequential``); that for a fixed number of clips misses the rate too often at the stop. Ten
    clips are the least at any width.

    Args:
        rates: Rates of the block.
        aim: Width to reach, in (0, 1).

    Returns:
        The state of the block.

    Example:
        >>> from physadv.check.rates import block_rates
        >>> rows = [{"clip": k, "true": False, "success": True} for k in range(60)]
        >>> stopping_state(block_rates("patch", rows, sequential=True), aim=0.1).done
        True
    """
    judged = [rates.attack] if rates.block == "patch" else [rates.attack, rates.true]
    clips = max(clips_missing(rate, rates.clips, aim) for rate in judged)
    per_clip = rates.attack.n / max(rates.clips, 1)
    return StoppingState(rates, max(_width(r) for r in judged), aim, clips, ceil(clips * per_clip))


def clips_missing(rate: RateInterval, clips: int, aim: float) -> int:
    """Estimate how many more clips like those measured are needed.

    Args:
        rate: Rate with its interval.
        clips: Clips measured.
        aim: Width to reach.

    Returns:
        The number of clips; 0 where the interval is narrow enough.
    """
    width = _width(rate)
    if width <= aim and clips >= FEW_CLIPS:
        return 0

    alike = rate.too_few or rate.rate in (0.0, 1.0)
    needed = _equal_clips(aim) if alike else ceil(clips * (width / aim) ** 2)
    return max(needed - clips, FEW_CLIPS - clips, 1)


@lru_cache
def _equal_clips(aim: float) -> int:
    """Return the number of clips, all of rate 1, at which the interval is ``aim`` wide."""

    def narrow(clips: int) -> bool:
        return _width(sequential_interval([True] * clips, range(clips))) <= aim

    most = 2
    while not narrow(most):
        most *= 2
    return bisect_left(range(most), True, lo=most // 2, key=narrow)


def stopping_states(
    rows: Mapping[str, Sequence[Row]], aim: float = WIDTH, *, sequential: bool = True
) -> dict[str, StoppingState]:
    """Apply the rule to every block with rows.

    Args:
        rows: Rows by block.
        aim: Width to reach.
        sequential: Whether the data decide when filming ends.

    Returns:
        The states by block, in the order clean, blank, patch.
    """
    return {
        b: stopping_state(block_rates(b, rows[b], sequential=sequential), aim)
        for b in BLOCKS
        if rows.get(b)
    }


def _width(rate: RateInterval) -> float:
    return rate.high - rate.low
