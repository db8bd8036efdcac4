"""Stopping rule of a check: a block is finished when its confidence interval is narrow enough.

Until then the rule estimates how many clips and frames are missing.
"""

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
"""Default width of the 95 % interval, from its lower to its upper end."""
STEP = 20
"""Frames between two tests of the interval; each costs a bootstrap."""
_Z2 = float(stats.norm.ppf(0.975)) ** 2


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
        OptionError: The width is not above 0 and below 1.
    """
    if width is not None and not 0 < width < 1:
        raise OptionError(
            f"width {width:g}", "above 0, below 1", "Write 0.1 for an interval of 10 points"
        )


def stopping_state(rates: BlockRates, aim: float = WIDTH) -> StoppingState:
    """Apply the rule to one block, by its clips; controls need both rates narrow, the patch its
    success rate.

    Sampling until an interval has a fixed width keeps its coverage in the limit of many clips (Chow
    and Robbins 1965); ten clips are the least at any width.

    Args:
        rates: Rates of the block.
        aim: Width to reach, in (0, 1).

    Returns:
        The state of the block.

    Example:
        >>> from physadv.check.rates import block_rates
        >>> rows = [{"clip": k, "true": False, "success": True} for k in range(40)]
        >>> stopping_state(block_rates("patch", rows), aim=0.1).done
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

    # While clips do not vary, the interval is that of Wilson (1927) for n equal clips.
    alike = clips < 2 or rate.rate in (0.0, 1.0)
    needed = _Z2 * (1 / aim - 1) if alike else clips * (width / aim) ** 2
    return max(ceil(needed) - clips, FEW_CLIPS - clips, 1)


def stopping_states(
    rows: Mapping[str, Sequence[Row]], aim: float = WIDTH, *, seed: int = 0
) -> dict[str, StoppingState]:
    """Apply the rule to every block with rows.

    Args:
        rows: Rows by block.
        aim: Width to reach.
        seed: Seed of the bootstrap over clips.

    Returns:
        The states by block, in the order clean, blank, patch.
    """
    return {b: stopping_state(block_rates(b, rows[b], seed), aim) for b in BLOCKS if rows.get(b)}


def _width(rate: RateInterval) -> float:
    return rate.high - rate.low
