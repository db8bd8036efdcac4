"""The same patch digitally, in the print-and-photograph simulation and before a camera: how much
success remains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from physadv.check.folder import ROWS
from physadv.check.rates import BlockRates, ended_by_data, tabulate_rates
from physadv.core.errors import OptionError
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.report.check_folder import read_check
from physadv.report.design import MUTED
from physadv.report.svg import WIDTH, block_marker, percent_axis, svg_chart, svg_line, svg_text

NAMES = ("digital", "twin", "camera")
_COLORS = {"digital": "#5b6875", "twin": "#0072b2", "camera": "#d55e00"}
_SHAPES = {"digital": "clean", "twin": "blank", "camera": "patch"}


@dataclass(frozen=True)
class MeasuredStage:
    """One stage at which the patch was measured.

    Attributes:
        name: "digital", "twin" or "camera".
        rate: Success rate.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        n: Number of frames.
        clips: Number of clips, None where frames are independent draws.
        blank: Success rate of a blank sticker, the control.
        clean_recognised: Share of clean signs that were recognized, the other control.
    """

    name: str
    rate: float
    low: float
    high: float
    n: int
    clips: int | None = None
    blank: float | None = None
    clean_recognised: float | None = None

    def __str__(self) -> str:
        clips = "" if self.clips is None else f", {self.clips} clips"
        return (
            f"{self.name}: {self.rate:.1%} [{self.low:.1%}, {self.high:.1%}], n = {self.n}{clips}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def stage_of_check(folder: str | Path, bundle: Mapping[str, Any] | None) -> dict[str, Any]:
    """Recompute the stage of another check from its rows, for the record of this one.

    ``folder`` is the other check's; ``bundle`` is the entry of this check about its patch.

    Raises:
        DataError: The folder holds no check.
        OptionError: It holds filmed frames, no frame with the patch, or another patch.
    """
    rows, settings = read_check(Path(folder))
    if not settings.get("simulation"):
        raise OptionError(
            f"{folder}",
            "a check of filmed frames, not of the twin",
            "Name the check of a twin's folder",
        )

    theirs, ours = (settings.get("bundle") or {}).get("sha256"), (bundle or {}).get("sha256")
    if theirs and ours and theirs != ours:
        raise OptionError(f"{folder}", "a check of another patch", "Check the twin of this bundle")

    stage = _of_table("twin", tabulate_rates(rows, sequential=ended_by_data(settings)))
    if stage is None:
        raise OptionError(
            f"{folder / Path(ROWS)}",
            "holds no frame with the patch",
            "Check a twin with all blocks",
        )
    return stage.as_dict() | {"folder": str(folder)}


def known_stages(
    table: Mapping[str, BlockRates], settings: Mapping[str, Any]
) -> list[MeasuredStage]:
    """Return the stages that are known: digital from the bundle's card, twin from its check, and
    this measurement.

    ``table`` holds the rates of this check by block, ``settings`` its settings.
    """
    here = _of_table("twin" if settings.get("simulation") else "camera", table)
    twin = settings.get("twin_check")

    known = {
        "digital": _of_card((settings.get("bundle") or {}).get("heldout") or {}),
        "twin": MeasuredStage(**{k: twin.get(k) for k in MeasuredStage.__dataclass_fields__})
        if twin
        else None,
    }

    if here is not None:
        known[here.name] = here
    return [stage for name in NAMES if (stage := known.get(name)) is not None]


def stage_changes(stages: Sequence[MeasuredStage]) -> list[str]:
    """Return one sentence for each change from one of the ``stages`` to the next; none for
    a single stage."""
    return [
        f"From {a.name} to {b.name}: {a.rate:.1%} to {b.rate:.1%}, "
        f"{_points(b.rate - a.rate)}{_unclear(a, b)}."
        for a, b in pairwise(stages)
    ]


def stage_chart(stages: Sequence[MeasuredStage]) -> Markup:
    """Draw one line for each of the ``stages``, from the screen to the camera."""
    left, right, row = 78.0, WIDTH - 18.0, 38.0
    bottom = 10 + row * len(stages)
    parts = percent_axis(left, right, 6, bottom)

    for number, stage in enumerate(stages):
        y, color = 10 + row * (number + 0.5), _COLORS[stage.name]
        x0, x1, x = (left + share * (right - left) for share in (stage.low, stage.high, stage.rate))
        parts += [
            svg_text(left - 12, y + 1, stage.name, at="end"),
            svg_text(left - 12, y + 14, f"n {stage.n}", at="end", fill=MUTED, size=10.5),
            svg_line(x0, y, x1, y, stroke=color, width=2.5),
            *(svg_line(end, y - 5, end, y + 5, stroke=color, width=2.5) for end in (x0, x1)),
            block_marker(x, y, _SHAPES[stage.name], color, str(stage)),
        ]
    return svg_chart(bottom + 24, parts, "Success of the patch: digital, twin, camera")


def _of_table(name: str, table: Mapping[str, BlockRates]) -> MeasuredStage | None:
    patch = table.get("patch")
    if patch is None:
        return None

    blank, clean = table.get("blank"), table.get("clean")
    return MeasuredStage(
        name,
        *_plain(patch.attack),
        patch.clips,
        None if blank is None else blank.attack.rate,
        None if clean is None else clean.true.rate,
    )


def _of_card(heldout: Mapping[str, Any]) -> MeasuredStage | None:
    success = heldout.get("success")
    if not isinstance(success, Mapping) or not {"rate", "low", "high", "n"} <= success.keys():
        return None
    blank, clean = heldout.get("blank_success") or {}, heldout.get("clean_recognised") or {}
    rate = RateInterval(
        float(success["rate"]), float(success["low"]), float(success["high"]), int(success["n"])
    )
    return MeasuredStage("digital", *_plain(rate), None, blank.get("rate"), clean.get("rate"))


def _plain(rate: RateInterval) -> tuple[float, float, float, int]:
    return rate.rate, rate.low, rate.high, rate.n


def _points(change: float) -> str:
    if abs(change) < 0.0005:
        return "no change"
    return f"{abs(change) * 100:.1f} points {'more' if change > 0 else 'less'}"


def _unclear(a: MeasuredStage, b: MeasuredStage) -> str:
    return " (the intervals overlap)" if a.low <= b.high and b.low <= a.high else ""
