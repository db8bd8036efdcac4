"""When a check has enough: an interval narrow enough, and what is missing until then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from scipy import stats

from physadv.camera.frames import BLOCKS
from physadv.check.rates import FEW_CLIPS, BlockRates, block_rates
from physadv.core.errors import OptionError
from physadv.core.rows import Row
from physadv.evaluation.metrics.intervals import RateInterval

WIDTH = 0.1
"""Width of a 95 % interval that people mean by "measured", from its lower to its upper end."""
STEP = 20
"""Frames between two looks at the interval: a look costs a bootstrap."""
_Z2 = float(stats.norm.ppf(0.975)) ** 2


@dataclass(frozen=True)
class StoppingState:
    """Where one block stands: its rates, the widest of its intervals, and what is missing to
    ``aim``."""

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
        """Plain values for JSON."""
        return {
            "width": self.width,
            "aim": self.aim,
            "clips_missing": self.clips_missing,
            "frames_missing": self.frames_missing,
        }


def check_width(width: float | None) -> None:
    """Raise OptionError for a width no interval can have."""
    if width is not None and not 0 < width < 1:
        raise OptionError(
            f"width {width:g}", "above 0, below 1", "write 0.1 for an interval of 10 points"
        )


def stopping_state(rates: BlockRates, aim: float = WIDTH) -> StoppingState:
    """Judge a block by its clips. A control is judged by both its rates, the patch by its success.

    Sampling until an interval has a fixed width keeps its coverage in the limit of many clips (Chow
    and Robbins 1965); ten clips are the least, whatever the width.
    """
    judged = [rates.attack] if rates.block == "patch" else [rates.attack, rates.true]
    clips = max(clips_missing(rate, rates.clips, aim) for rate in judged)
    per_clip = rates.attack.n / max(rates.clips, 1)
    return StoppingState(rates, max(_width(r) for r in judged), aim, clips, ceil(clips * per_clip))


def clips_missing(rate: RateInterval, clips: int, aim: float) -> int:
    """How many more clips like those measured it takes until the interval is ``aim`` wide."""
    wide = _width(rate)
    if wide <= aim and clips >= FEW_CLIPS:
        return 0
    alike = clips < 2 or rate.rate in (
        0.0,
        1.0,
    )  # nothing varies yet: Wilson's interval of n equal clips
    needed = _Z2 * (1 / aim - 1) if alike else clips * (wide / aim) ** 2
    return max(ceil(needed) - clips, FEW_CLIPS - clips, 1)


def stopping_states(
    rows: Mapping[str, Sequence[Row]], aim: float = WIDTH, *, seed: int = 0
) -> dict[str, StoppingState]:
    """Where every block with rows stands, in the order clean, blank, patch."""
    return {b: stopping_state(block_rates(b, rows[b], seed), aim) for b in BLOCKS if rows.get(b)}


def _width(rate: RateInterval) -> float:
    return rate.high - rate.low
