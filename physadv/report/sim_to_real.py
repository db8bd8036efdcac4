"""The same patch digitally, in the print-and-photograph simulation and before a camera: how much
success remains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from physadv.check.folder import ROWS
from physadv.check.rates import (
    BlockRates,
    control_doubt,
    ended_by_data,
    tabulate_rates,
)
from physadv.core.errors import DataError, OptionError
from physadv.core.reading import foreign_errors
from physadv.core.wording import count_noun, format_percent
from physadv.evaluation.metrics.intervals import (
    DifferenceInterval,
    RateInterval,
    difference_interval,
)
from physadv.patches.controls import CONTROL_FLOOR
from physadv.report.check_folder import read_check
from physadv.report.design import BLOCK_COLORS, MUTED
from physadv.report.svg import WIDTH, block_marker, percent_axis, svg_chart, svg_line, svg_text

NAMES = ("digital", "twin", "camera")
_SHAPES = {"digital": "clean", "twin": "blank", "camera": "patch"}
_COLORS = {"digital": MUTED, "twin": BLOCK_COLORS["clean"], "camera": BLOCK_COLORS["patch"]}


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
        doubt: Why the controls support no claim; empty where they do, None in older records.
    """

    name: str
    rate: float
    low: float
    high: float
    n: int
    clips: int | None = None
    blank: float | None = None
    clean_recognised: float | None = None
    doubt: str | None = None

    @property
    def interval(self) -> RateInterval:
        """The rate with its interval."""
        return RateInterval(self.rate, self.low, self.high, self.n, self.clips)

    def __str__(self) -> str:
        clips = "" if self.clips is None else f", {count_noun(self.clips, 'clip')}"
        return f"{self.name}: {self.interval}{clips}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class StageChange:
    """Change of the success from one stage to the next.

    Attributes:
        first: Earlier stage.
        second: Later stage.
        change: Difference with its interval; None where a control of either stage failed, since
            then the two successes are not the patch's.
    """

    first: MeasuredStage
    second: MeasuredStage
    change: DifferenceInterval | None

    def __str__(self) -> str:
        steps = f"From {self.first.name} to {self.second.name}"
        if self.change is None:
            reasons = "; ".join(
                f"{s.name}: {s.doubt}" for s in (self.first, self.second) if s.doubt
            )
            return f"{steps}: not compared, since a control is not valid ({reasons})."

        rates = f"{format_percent(self.first.rate)} to {format_percent(self.second.rate)}"
        value = f"{rates}, {_points(self.change.value)}"
        if self.change.is_clear:
            return f"{steps}: {value}; {_interval(self.change)}."
        return f"{steps}: {value}; {_interval(self.change)}, so no clear change."

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        change = None if self.change is None else self.change.as_dict()
        return {"from": self.first.name, "to": self.second.name, "change": change}


def stage_of_check(folder: str | Path, bundle: Mapping[str, Any] | None) -> dict[str, Any]:
    """Recompute the stage of another check from its rows, for the record of this one.

    ``folder`` is the other check's; ``bundle`` is the entry of this check about its patch.

    Raises:
        DataError: The folder holds no check.
        OptionError: It holds filmed frames, no frame with the patch, or another patch.
    """
    with foreign_errors(str(folder), DataError, "no record of a check", "Run the check again"):
        return _stage_of_check(folder, bundle)


def _stage_of_check(folder: str | Path, bundle: Mapping[str, Any] | None) -> dict[str, Any]:
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
        "twin": _of_record(twin) if twin else None,
    }

    if here is not None:
        known[here.name] = here
    return [stage for name in NAMES if (stage := known.get(name)) is not None]


def stage_changes(stages: Sequence[MeasuredStage]) -> list[StageChange]:
    """Return the change from each of the ``stages`` to the next; none for a single stage.

    The stages have no frame in common, so their differences are those of independent rates.
    """
    return [
        StageChange(
            first,
            second,
            None
            if first.doubt or second.doubt
            else difference_interval(*_intervals(first, second)),
        )
        for first, second in pairwise(stages)
    ]


def _intervals(*stages: MeasuredStage) -> list[RateInterval]:
    return [stage.interval for stage in stages]


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
        control_doubt(table),
    )


def _of_record(twin: Mapping[str, Any]) -> MeasuredStage:
    """Return the stage that :func:`stage_of_check` recorded; earlier versions kept no doubt."""
    values: dict[str, Any] = {k: twin.get(k) for k in MeasuredStage.__dataclass_fields__}
    stage = MeasuredStage(**values)
    if stage.doubt is not None:
        return stage
    return replace(stage, doubt=_rates_doubt(stage.clean_recognised, stage.blank))


def _rates_doubt(clean: float | None, blank: float | None) -> str:
    """Return why a stage with these rates of its controls, where measured, supports no claim."""
    if clean is not None and clean < CONTROL_FLOOR:
        return f"the clean sign is recognized in only {format_percent(clean)}"
    if blank is None:
        return "a blank sticker was not measured"
    if blank > 1 - CONTROL_FLOOR:
        return f"a blank sticker alone meets the goal in {format_percent(blank)}"
    return ""


def _of_card(heldout: Mapping[str, Any]) -> MeasuredStage | None:
    success = heldout.get("success")
    if not isinstance(success, Mapping) or not {"rate", "low", "high", "n"} <= success.keys():
        return None
    blank, clean = heldout.get("blank_success") or {}, heldout.get("clean_recognised") or {}
    rate = RateInterval(
        float(success["rate"]), float(success["low"]), float(success["high"]), int(success["n"])
    )
    # The success counts only draws in which the clean sign is recognized, so its rate is no doubt.
    doubt = _rates_doubt(None, blank.get("rate"))
    under_blank = (heldout.get("blank_recognised") or {}).get("rate")
    if not doubt and under_blank is not None and under_blank < CONTROL_FLOOR:
        share = format_percent(under_blank)
        doubt = f"with a blank sticker the true class is recognized in only {share}"
    return MeasuredStage(
        "digital", *_plain(rate), None, blank.get("rate"), clean.get("rate"), doubt
    )


def _plain(rate: RateInterval) -> tuple[float, float, float, int]:
    return rate.rate, rate.low, rate.high, rate.n


def _points(change: float) -> str:
    if abs(change) < 0.0005:
        return "no change"
    return f"{abs(change) * 100:.1f} points {'more' if change > 0 else 'less'}"


def _interval(change: DifferenceInterval) -> str:
    if change.too_few:
        return "too few clips for an interval"
    return f"95 % interval {100 * change.low:+z.1f} to {100 * change.high:+z.1f} points"
