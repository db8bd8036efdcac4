"""What a team demands of a figure before a change goes in: "robust >= 0.5"."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from physadv.core.errors import OptionError
from physadv.evaluation.metrics.intervals import RateInterval

_COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_ENDS = ("rate", "low", "high")
_FORM = re.compile(r"\s*([a-z]+)(?:\.([a-z]+))?\s*(>=|<=|>|<)\s*(\d{1,9}(?:\.\d{0,9})?)\s*(%?)\s*")


@dataclass(frozen=True)
class Requirement:
    """A figure and the limit that it must keep.

    Attributes:
        metric: Name of the figure, such as "robust".
        end: What is compared: "rate", or "low" or "high", an end of its 95 % interval.
        comparison: One of >=, <=, > and <.
        limit: The limit, in [0, 1].

    Example:
        >>> requirement = Requirement.parse("robust.low >= 40%", ("clean", "robust"))
        >>> str(requirement), requirement.limit
        ('robust.low >= 0.4', 0.4)
    """

    metric: str
    end: str
    comparison: str
    limit: float

    @classmethod
    def parse(cls, text: str, metrics: Sequence[str]) -> Requirement:
        """Return the requirement that ``text`` states about one of the figures ``metrics``.

        Raises:
            OptionError: It is not written so, or names another figure.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise OptionError(
                f"requirement {text!r}",
                "a figure, a comparison (>=, <=, >, <) and a share",
                f"Write for example '{metrics[0]} >= 0.5' or '{metrics[0]}.low >= 45%'",
            )
        metric, end, comparison, number, percent = found.groups()
        limit = float(number) / (100 if percent else 1)
        if metric not in metrics:
            known = ", ".join(metrics)
            raise OptionError(
                f"requirement {text!r}", f"this command measures {known}", "Name one of these"
            )
        if (end or "rate") not in _ENDS:
            raise OptionError(
                f"requirement {text!r}",
                ".low and .high are the ends of the 95 % interval",
                "Leave the rest out",
            )
        if limit > 1:
            raise OptionError(
                f"requirement {text!r}", "shares lie in [0, 1]", "Write 0.5, or 50%, for a half"
            )
        return cls(metric, end or "rate", comparison, limit)

    def __str__(self) -> str:
        name = self.metric if self.end == "rate" else f"{self.metric}.{self.end}"
        return f"{name} {self.comparison} {self.limit:g}"

    def is_kept_by(self, value: float) -> bool:
        """Return whether ``value`` keeps the limit."""
        return bool(_COMPARISONS[self.comparison](value, self.limit))

    def judge(self, figure: RateInterval, void: str = "") -> RequirementOutcome:
        """Return whether the requirement is met.

        Args:
            figure: The figure, as measured.
            void: Why the figure means nothing; empty where it does.

        Returns:
            The outcome. A figure without trials, or that means nothing, meets no requirement.
        """
        if void:
            return RequirementOutcome(self, met=False, words=f"not judged: {void}")
        if figure.n == 0 or (figure.too_few and self.end != "rate"):
            return RequirementOutcome(self, met=False, words=f"not judged: {figure}")
        met = self.is_kept_by(getattr(figure, self.end))
        words = str(figure)
        if met and not (self.is_kept_by(figure.low) and self.is_kept_by(figure.high)):
            words += "; the interval reaches beyond the limit"
        return RequirementOutcome(self, met=met, words=words)


@dataclass(frozen=True)
class RequirementOutcome:
    """Whether a requirement is met.

    Attributes:
        requirement: The requirement.
        met: Whether the figure keeps the limit.
        words: The figure with its interval, and what to know of it.
    """

    requirement: Requirement
    met: bool
    words: str

    def __str__(self) -> str:
        return f"{'met' if self.met else 'NOT MET'}  {self.requirement}: {self.words}"


def judge_all(
    requirements: Sequence[Requirement], figures: Mapping[str, RateInterval], void: str = ""
) -> list[RequirementOutcome]:
    """Return the outcome of each of ``requirements``.

    Args:
        requirements: What is demanded.
        figures: The figures by name.
        void: Why the figures mean nothing; empty where they do.
    """
    return [r.judge(figures[r.metric], void) for r in requirements]
