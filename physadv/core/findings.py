"""Findings: reasons not to believe a figure, with the warning that announces them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from physadv.core.lights import Light


@dataclass(frozen=True)
class Finding:
    """A reason not to believe a figure.

    Attributes:
        name: Short name.
        finding: What was found.
        remedy: What to do about it.
        light: "amber" where the figure is in doubt, "red" where it means nothing.

    Example:
        >>> str(Finding("random-output", "two runs differ", "Attack the expectation"))
        'random-output: two runs differ. Attack the expectation.'
    """

    name: str
    finding: str
    remedy: str
    light: Light = "amber"

    def __str__(self) -> str:
        return f"{self.name}: {self.finding}. {self.remedy}."

    def as_dict(self) -> dict[str, str]:
        """Plain values for JSON."""
        return asdict(self)


class FindingWarning(UserWarning):
    """Category of the one Python warning that announces the findings of a call.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_of([Finding("random-output", "two runs differ", "Attack the expectation")])
        >>> caught[0].category is FindingWarning
        True
    """


def warn_of(findings: Sequence[Finding], *, stacklevel: int = 1) -> None:
    """Raise one :class:`FindingWarning` that names all ``findings``; none for an empty sequence.

    ``stacklevel`` counts the callers to skip, 1 for the one of this function.
    """
    if findings:
        text = " ".join(str(finding) for finding in findings)
        warnings.warn(text, FindingWarning, stacklevel=stacklevel + 1)
