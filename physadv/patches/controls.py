"""Controls of a patch: what the clean object and a blank patch say about its success."""

from __future__ import annotations

from physadv.core.errors import OptionError
from physadv.core.findings import Finding
from physadv.core.wording import format_percent
from physadv.evaluation.metrics.intervals import RateInterval

CONTROL_FLOOR = 0.9
"""Share of frames or draws in which a control must be recognized for a claim, in `check` too."""
_HALF = 0.5


def control_findings(
    clean_recognised: RateInterval, blank_recognised: RateInterval, blank_success: RateInterval
) -> list[Finding]:
    """Judge the controls of a patch by the limits of `check`, and by those of sense.

    A success says nothing about the patch, red, where the object is recognized without a patch in
    less than half of the draws, or where a blank patch meets the goal, by covering the object, in
    more than half of them, each by the whole interval. It is in doubt, amber, below the limits that
    ``check`` sets.

    Args:
        clean_recognised: Draws recognized as the true class without a patch.
        blank_recognised: The same with a blank patch.
        blank_success: Goal met with the blank patch, among the draws whose clean control is valid.

    Returns:
        The findings; empty where both controls hold.

    Example:
        >>> from physadv.evaluation.metrics.intervals import wilson_interval
        >>> good, covered = wilson_interval(100, 100), wilson_interval(0, 100)
        >>> control_findings(good, good, wilson_interval(0, 100))
        []
        >>> [f.light for f in control_findings(good, covered, wilson_interval(100, 100))]
        ['red']
    """
    findings = []
    if clean_recognised.rate < CONTROL_FLOOR:
        findings.append(
            Finding(
                "clean-control",
                f"without a patch the true class is recognized in only {clean_recognised} "
                f"({format_percent(CONTROL_FLOOR, 0)} is needed for a claim)",
                "Check class, scenes, image size and weights, or narrow the distances and angles",
                "red" if clean_recognised.high < _HALF else "amber",
            )
        )
    covers = blank_success.rate > 1 - CONTROL_FLOOR
    if covers or blank_recognised.rate < CONTROL_FLOOR:
        findings.append(
            Finding(
                "blank-control",
                f"a blank patch of its shape alone meets the goal in {blank_success}, "
                f"and with it the true class is recognized in {blank_recognised} "
                f"({format_percent(CONTROL_FLOOR, 0)} is needed for a claim)",
                "Make the patch smaller, or place it where it covers less",
                "red" if blank_success.n and blank_success.low > _HALF else "amber",
            )
        )
    return findings


def refuse_invalid(findings: list[Finding]) -> None:
    """Refuse to optimize where a control is not valid.

    Args:
        findings: Findings of :func:`control_findings` before the optimization.

    Raises:
        OptionError: One of them is red.
    """
    for finding in findings:
        if finding.light == "red":
            raise OptionError(
                f"{finding.name} is not valid",
                f"{finding.finding}, so a success of the patch would say nothing",
                f"{finding.remedy}, or go on all the same with --force",
            )
