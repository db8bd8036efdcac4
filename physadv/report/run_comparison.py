"""Two runs of one kind side by side: each figure's change with its interval, and what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physadv.check.rates import tabulate_rates
from physadv.core.config import COMMAND_KEY
from physadv.core.errors import DataError
from physadv.core.members import member_of
from physadv.core.reading import foreign_errors
from physadv.core.rows import Row, read_rows
from physadv.core.run_folder import CONFIG
from physadv.core.tables import read_table
from physadv.core.wording import format_percent
from physadv.evaluation.certified_accuracy import is_certified
from physadv.evaluation.metrics.intervals import (
    DifferenceInterval,
    RateInterval,
    difference_interval,
    paired_share_difference,
    wilson_interval,
)
from physadv.evaluation.progress_log import ATTRIBUTES, IDENTITY, differences
from physadv.evaluation.recorded_samples import (
    IMAGE_DIGEST,
    changed_images,
    recorded_samples,
    rows_digest,
    without_labels,
)
from physadv.report.check_facts import model_under_test
from physadv.report.check_folder import read_check
from physadv.threat.parsing import parse_eps

CAN_COMPARE = ("attack", "evaluate", "certify", "check")
"""Activities whose runs can be compared."""
_SUBJECT = {
    *("victim", "weights_sha256", "model_state", "model_settings", "class_numbers", "labels"),
    *(ATTRIBUTES, IMAGE_DIGEST),  # the latter has class numbers in it
    *("physadv", "batch_size", "speed", "curve"),
}
"""What may differ between two evaluations that are compared: the model, and how it is run."""
_LOWER_IS_BETTER = ("success",)


@dataclass(frozen=True)
class RunFigures:
    """The figures of one run.

    Attributes:
        folder: The run's folder.
        command: Its activity.
        subject: What was measured: the model, or for a check the patch's film.
        settings: What it was measured with.
        outcomes: For each figure, the outcome of each image by its number and name; empty for a
            check, whose trials are clips.
        rates: Each figure with its interval.
    """

    folder: Path
    command: str
    subject: str
    settings: Mapping[str, Any]
    outcomes: Mapping[str, Mapping[tuple[int, str], bool]]
    rates: Mapping[str, RateInterval]


@dataclass(frozen=True)
class FigureChange:
    """The change of one figure from the baseline to another run.

    Attributes:
        name: Name of the figure.
        before: The baseline's.
        after: The other run's.
        change: The difference with its interval.
        lost: Trials that were successes before and are not after; None without pairs.
        gained: The reverse.
    """

    name: str
    before: RateInterval
    after: RateInterval
    change: DifferenceInterval
    lost: int | None = None
    gained: int | None = None

    @property
    def verdict(self) -> str:
        """ "weaker" or "stronger" where the interval excludes no change, else "no clear change".

        A lower success of a patch is stronger, as the model's owner sees it.
        """
        if not self.change.is_clear:
            return "no clear change"
        rose = self.change.value > 0
        return "stronger" if rose != (self.name in _LOWER_IS_BETTER) else "weaker"

    @property
    def headline(self) -> str:
        """Both shares and the verdict in a line."""
        rates = f"{format_percent(self.before.rate)} -> {format_percent(self.after.rate)}"
        return f"{self.name:12}{rates}: {self.verdict}"

    @property
    def detail(self) -> str:
        """The change with its interval, and how many trials it is the sum of."""
        pairs = "" if self.lost is None else f", {self.lost} lost and {self.gained} gained"
        return f"{self.change}{pairs}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "figure": self.name,
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
            "change": self.change.as_dict(),
            "lost": self.lost,
            "gained": self.gained,
            "verdict": self.verdict,
        }


def read_figures(folder: str | Path) -> RunFigures:
    """Return the figures of the run in ``folder``, computed from its rows.

    Raises:
        DataError: It holds no run of :data:`CAN_COMPARE`, or one without rows.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f'"{root}"', "no such folder", "Name the folder of a run")
    with foreign_errors(f'"{root}"', DataError, "holds a run that cannot be read", "Run it again"):
        return _read_figures(root)


def _read_figures(root: Path) -> RunFigures:
    config = member_of(root, CONFIG)
    command = str(read_table(config).get(COMMAND_KEY, "")) if config.is_file() else ""
    if command not in CAN_COMPARE:
        raise DataError(
            f'"{root}" holds {f"a run of {command}" if command else "no run"}',
            f"Runs of {', '.join(CAN_COMPARE)} are compared",
            "Name two folders of such runs",
        )
    if command == "check":
        return _figures_of_check(root)

    file = member_of(root, "rows.jsonl")
    rows = list(read_rows(file)) if file.is_file() else []
    if not rows:
        raise DataError(f'"{root}"', "it has no finished image yet", "Let the run go on")
    settings = read_table(member_of(root, IDENTITY), finite=False)
    if "properties" in settings or settings.get("task") == "detect":
        kind = "properties of networks" if "properties" in settings else "a detector"
        raise DataError(f'"{root}" holds a run on {kind}', "Runs on classifiers are compared", "")
    with foreign_errors(str(file), DataError, "no rows of an evaluation"):
        outcomes = _certified(rows, settings) if command == "certify" else _robust(rows)
    rates = {name: wilson_interval(sum(o.values()), len(o)) for name, o in outcomes.items()}
    subject = str(settings.get("victim", "a model"))
    return RunFigures(root, command, subject, settings, outcomes, rates)


def _robust(rows: Sequence[Row]) -> dict[str, dict[tuple[int, str], bool]]:
    return {
        name: {(int(row["index"]), str(row["image"])): bool(row[key]) for row in rows}
        for name, key in (("clean", "correct"), ("robust", "robust"))
    }


def _certified(
    rows: Sequence[Row], settings: Mapping[str, Any]
) -> dict[str, dict[tuple[int, str], bool]]:
    norm, _, text = str(settings["threat"]).partition(":")
    radius = 1e-9 if settings["method"] == "patch" else parse_eps(text, norm)

    def key(row: Row) -> tuple[int, str]:
        return int(row["index"]), str(row["image"])

    return {
        "accuracy": {key(row): bool(row["predicted"] == row["label"]) for row in rows},
        "certified": {key(row): is_certified(row, radius) for row in rows},
    }


def _figures_of_check(root: Path) -> RunFigures:
    rows, settings = read_check(root)
    table = tabulate_rates(rows)
    rates = {}
    if "clean" in table:
        rates["recognized"] = table["clean"].true
    if "patch" in table:
        rates["success"] = table["patch"].attack
    if not rates:
        raise DataError(f'"{root}"', "it has no finished frame yet", "Let the run go on")
    model = str(model_under_test(settings).get("name", "a model"))
    patch = (settings.get("bundle") or {}).get("name", "a patch")
    return RunFigures(root, "check", f"{patch} on {model}", settings, {}, rates)


def compare_runs(baseline: RunFigures, other: RunFigures) -> list[FigureChange]:
    """Return the change of each figure that both runs have.

    Outcomes of the same images are compared in pairs; only images that both have count.

    Args:
        baseline: The run to compare with.
        other: The run that is judged.

    Raises:
        DataError: They measured different things, or have no image in common.
    """
    _refuse_unlike(baseline, other)
    changes = []
    for name in baseline.rates:
        if name not in other.rates:
            continue
        if baseline.command == "check":
            before, after = baseline.rates[name], other.rates[name]
            changes.append(FigureChange(name, before, after, difference_interval(before, after)))
        else:
            changes.append(_paired(name, baseline.outcomes[name], other.outcomes[name]))
    return changes


def _paired(
    name: str, first: Mapping[tuple[int, str], bool], second: Mapping[tuple[int, str], bool]
) -> FigureChange:
    shared = [key for key in first if key in second]
    if not shared:
        raise DataError(
            "two runs without an image in common",
            "Only runs on the same images are compared",
            "Use one data set",
        )
    a, b = [first[key] for key in shared], [second[key] for key in shared]
    lost = sum(x and not y for x, y in zip(a, b, strict=True))
    gained = sum(y and not x for x, y in zip(a, b, strict=True))
    return FigureChange(
        name,
        wilson_interval(sum(a), len(a)),
        wilson_interval(sum(b), len(b)),
        paired_share_difference(a, b),
        lost,
        gained,
    )


def _refuse_unlike(baseline: RunFigures, other: RunFigures) -> None:
    """Refuse runs of another activity, or with other settings than the model's."""
    remedy = "Repeat the run with the baseline's settings"
    if baseline.command != other.command:
        raise DataError(
            f"a run of {baseline.command} and one of {other.command}", "one activity", remedy
        )
    if baseline.command == "check":
        return
    # Runs of earlier versions do not record their plan.
    apart = _SUBJECT | ({"plan"} - (baseline.settings.keys() & other.settings.keys()))
    old, new = (
        {key: value for key, value in run.settings.items() if key not in apart}
        for run in (baseline, other)
    )
    for difference in differences(old, new):
        raise DataError(
            f"runs with other settings ({difference})", "Only the model may differ", remedy
        )
    _refuse_other_images(baseline.folder, other.folder)


def _refuse_other_images(baseline: Path, other: Path) -> None:
    """Refuse runs on files of other contents under the same names, where both recorded them."""
    old, new = (without_labels(recorded_samples(folder)) for folder in (baseline, other))
    if old and new and rows_digest(old) != rows_digest(new):
        raise DataError(
            f'"{other}" is a run of other images than "{baseline}": {changed_images(old, new)}',
            "Only runs on the same images are compared",
            "Run one of both again, on the images of the other",
        )
