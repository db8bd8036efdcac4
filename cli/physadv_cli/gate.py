"""``--require``: a run ends with exit code 3 where a figure does not keep its limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physadv_cli.runs import RunOptions, console

if TYPE_CHECKING:
    from physadv.evaluation.metrics.intervals import RateInterval
    from physadv.evaluation.metrics.requirements import Requirement, RequirementOutcome

NOT_MET = 3
"""Exit code of a run that measured what it should, and did not meet a requirement."""


@dataclass(frozen=True)
class Gate:
    """The requirements of a run, read before it starts.

    Attributes:
        command: The activity.
        requirements: What is demanded of its figures.
    """

    command: str
    requirements: Sequence[Requirement] = ()

    @classmethod
    def of(cls, run: RunOptions, metrics: Sequence[str]) -> Gate:
        """Return the gate that ``--require`` sets.

        Args:
            run: Options of the run.
            metrics: Names of the figures that the command measures.

        Raises:
            OptionError: A requirement cannot be read, or stands beside ``--shard``.
        """
        from physadv.core.errors import OptionError
        from physadv.evaluation.metrics.requirements import Requirement

        texts = run.require or ()
        if texts and run.shard is not None:
            raise OptionError(
                "--require with --shard", "a share of a run has no result", "Leave one of them out"
            )
        return cls(run.command, [Requirement.parse(text, metrics) for text in texts])

    def refuse(self, of: str) -> None:
        """Refuse requirements for what has no figure to require, in words ``of``.

        Raises:
            OptionError: There are some.
        """
        from physadv.core.errors import OptionError

        if self.requirements:
            raise OptionError(f"--require for {of}", "", "Leave it out")

    def judge(
        self, folder: Path, subject: str, figures: Mapping[str, RateInterval], void: str = ""
    ) -> list[RequirementOutcome]:
        """Judge the requirements, and write requirements.xml and .sarif where there are some.

        Args:
            folder: The run's folder.
            subject: What was measured.
            figures: The figures by name.
            void: Why they mean nothing; empty where they do.
        """
        if not self.requirements:
            return []
        from physadv.evaluation.metrics.requirements import judge_all
        from physadv.report.gate_files import write_gate_files

        outcomes = judge_all(self.requirements, figures, void)
        write_gate_files(folder, self.command, subject, outcomes)
        return outcomes


def void_reason(result: Mapping[str, Any]) -> str:
    """Return why a run's figures mean nothing: its first red finding, or that it is not complete;
    empty for neither.

    Args:
        result: The run's result, with ``doubts`` and ``complete``.
    """
    red = (str(finding["finding"]) for finding in result["doubts"] if finding["light"] == "red")
    return next(red, "" if result["complete"] else "the run was stopped before its last image")


def outcomes_table(outcomes: Sequence[RequirementOutcome]) -> dict[str, Any]:
    """Return the outcomes as an entry of ``--json``; nothing where there are none."""
    table = [{"requirement": str(o.requirement), "met": o.met, "words": o.words} for o in outcomes]
    return {"requirements": table} if table else {}


def end_by(outcomes: Sequence[RequirementOutcome]) -> None:
    """Print the outcomes, and end the command with exit code 3 where one is not met."""
    for outcome in outcomes:
        console.print(str(outcome), style=None if outcome.met else "red")
    if not all(outcome.met for outcome in outcomes):
        raise SystemExit(NOT_MET)
