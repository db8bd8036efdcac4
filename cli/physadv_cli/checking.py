"""Report of a check for people, and the twin's check beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physadv.core.visible_text import visible_line
from physadv.core.wording import count_noun
from physadv_cli.gate import Gate, end_by, outcomes_table
from physadv_cli.runs import RunOptions, console

if TYPE_CHECKING:
    from physadv.check.config import CheckConfig
    from physadv.evaluation.metrics.requirements import RequirementOutcome
    from physadv.report.check_report import CheckReport


def twin_summary(folder: str | None, bundle: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the report of a check shows of the twin's check.

    Args:
        folder: folder of the twin's check, if any.
        bundle: facts of the bundle under check; both must be of the same patch.

    Returns:
        Facts for check.json; empty without a folder.

    Raises:
        OptionError: for a check that was filmed, or of another patch.
    """
    from physadv.report.sim_to_real import stage_of_check

    return {} if folder is None else {"twin_check": stage_of_check(Path(folder), bundle)}


def check_gate(run: RunOptions) -> Gate:
    """Return the requirements of a check. Raises OptionError for one that cannot be read."""
    return Gate.of(run, ("success", "recognized", "precision"))


def record_on_card(config: CheckConfig, folder: Path) -> None:
    """Write the rates of the check in ``folder`` on the bundle's card, where ``config`` says so.

    Raises:
        OptionError: for a check without a bundle, or of no film of the twin.
    """
    if not config.record:
        return
    from physadv.check.twin_record import record_twin
    from physadv.core.errors import OptionError
    from physadv.patches.bundle import read_bundle

    if config.bundle is None:
        raise OptionError("--record", "There is no bundle to record on", "Give --bundle")
    changed = record_twin(read_bundle(config.bundle), folder)
    console.print(f"recorded: {changed.folder}")


def report_run(
    folder: Path, run: RunOptions, report: CheckReport, *, queries: int | None = None
) -> None:
    """Print the result of the check in ``folder``, and end by what is required.

    Args:
        folder: the run's folder.
        run: how to print.
        report: report of the check, as it was written.
        queries: images that were sent to a model that only answers; None for other models.
    """
    outcomes = _judge(folder, run, report.summary)
    left_out = {"patch_by_distance_and_yaw", "settings"}
    summary = {key: value for key, value in report.summary.items() if key not in left_out}
    result = {"run": str(folder), **summary, **outcomes_table(outcomes)}
    words = _in_words(report.summary, report.html)
    if queries is not None:
        result["queries"], words = queries, f"{words}\n{count_noun(queries, 'query')} sent"
    run.finish(result, words)
    end_by(outcomes)


def _judge(
    folder: Path, run: RunOptions, summary: Mapping[str, Any]
) -> Sequence[RequirementOutcome]:
    """Judge the patch's success, the true class on the clean sign, and the half width of the
    interval of success."""
    gate = check_gate(run)
    if not gate.requirements:
        return ()
    from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval

    def figure(block: str, key: str, low: str, high: str) -> RateInterval:
        found = summary["blocks"].get(block)
        if found is None:
            return wilson_interval(0, 0)
        return RateInterval(found[key], found[low], found[high], found["frames"], found["clips"])

    success = figure("patch", "attack_success_rate", "low", "high")
    half = (success.high - success.low) / 2
    figures = {
        "success": success,
        "recognized": figure("clean", "true_class_rate", "true_class_low", "true_class_high"),
        "precision": RateInterval(half, half, half, success.n),
    }
    void = "" if summary["valid"] else str(summary["headline"])
    return gate.judge(folder, str(summary["settings"].get("model", "the model")), figures, void)


def _in_words(summary: Mapping[str, Any], html: Path) -> str:
    """The result for people, one line for each block."""
    from physadv.report.design import format_interval

    lines = ["simulation" if summary["simulation"] else "filmed", str(summary["headline"])]
    for name, block in summary["blocks"].items():
        interval = format_interval(block["low"], block["high"])
        success = f"{block['attack_success_rate']:6.1%} [{interval}]"
        lines.append(
            f"  {name:5}  goal met {success}  {summary['truth']} {block['true_class_rate']:6.1%}  "
            f"n {block['frames']}, clips {block['clips']}"
        )

    lines += [str(line) for line in (*summary["stages_in_words"], *summary["missing"])]
    lines += [visible_line(f"note: {note}") for note in summary["notes"]]
    lines += [visible_line(f"warning: {warning}") for warning in summary["warnings"]]
    return "\n".join([*lines, f"report: {html}"])
