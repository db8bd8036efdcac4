"""Findings about a clean accuracy: one of zero, of guessing, below the model card's, or of too few
images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from scipy import stats

from physadv.core.errors import OptionError
from physadv.core.wording import count_noun, format_percent
from physadv.evaluation.masking_checks import Finding
from physadv.models.cards import ModelCard

FEWEST_IMAGES = 8
"""Fewer images do not tell a clean accuracy from guessing, whatever they say."""
NEAR_CHANCE = 0.1
"""Share of the way from a blind guess to all right up to which an accuracy is near chance."""
_CONFIDENCE = 0.95


def clean_accuracy_findings(
    correct: int,
    n: int,
    *,
    classes: int,
    labels: Sequence[int] = (),
    card: ModelCard | None = None,
    subject: str = "clean accuracy",
) -> list[Finding]:
    """Compare a clean accuracy with zero, with guessing, and with what the model's card records.

    Guessing is right on one image in ``classes``, and answering the most frequent class on that
    class's share of the images. The accuracy is in doubt where its exact binomial interval (Clopper
    and Pearson 1934) reaches either or the tenth above it (a kappa of 0.1, Cohen 1960), which
    data read in a wrong order may reach by chance, or where it lies below the card's accuracy.

    Args:
        correct: Number of images classified correctly, 0 to ``n``.
        n: Number of images; 0 gives no findings.
        classes: Number of the model's classes; 0 where it is not known.
        labels: True classes of the images, for the share of the most frequent one.
        card: Model card whose accuracy is compared; None compares with none.
        subject: Name of the accuracy in the findings.

    Returns:
        The findings: red for zero, amber for the others, none where nothing is in doubt.

    Raises:
        OptionError: ``correct`` is negative or more than ``n``.

    Example:
        >>> [finding.light for finding in clean_accuracy_findings(0, 8, classes=2)]
        ['red']
        >>> [finding.name for finding in clean_accuracy_findings(6, 8, classes=2)]
        ['at-chance']
        >>> clean_accuracy_findings(40, 40, classes=2)
        []
    """
    if not 0 <= correct <= n:
        raise OptionError(f"{correct} correct of {n}", "0 <= correct <= n", "Check the counts")
    if n == 0:
        return []
    if correct == 0:
        return [
            Finding(
                "nothing-right",
                f"{subject} is zero: none of {count_noun(n, 'image')} is classified correctly",
                "Figures under attack mean nothing here; check that class names, class order, "
                "image size and normalization are the model's",
                "red",
            )
        ]

    interval = stats.binomtest(correct, n).proportion_ci(_CONFIDENCE, method="exact")
    low, high = float(interval.low), float(interval.high)
    ends = f"{format_percent(low)} to {format_percent(high)}"
    measured = f"{subject} is {correct} of {n} (exact 95 % interval {ends})"

    findings = []
    chance, guess = _chance(classes, labels)
    if n < FEWEST_IMAGES:
        findings.append(
            Finding(
                "too-few-images",
                measured,
                f"Fewer than {FEWEST_IMAGES} images do not tell a model from guessing; take more",
            )
        )
    elif low <= chance + NEAR_CHANCE * (1 - chance):
        findings.append(
            Finding(
                "at-chance",
                f"{measured}, which is at or near that of {guess} ({format_percent(chance)})",
                "Check that class names, class order, image size and normalization are the "
                "model's; where they are, take more images",
            )
        )

    recorded = None if card is None else card.recorded_accuracy
    if recorded is not None and high < recorded:
        findings.append(
            Finding(
                "below-card",
                f"{measured}, below the {format_percent(recorded)} on the model's card",
                "Check that the data are of the card's kind, and that class names, image size and "
                "preprocessing are the model's",
            )
        )
    return findings


def _chance(classes: int, labels: Sequence[int]) -> tuple[float, str]:
    """Return the accuracy of the better blind guess, and its name.

    Data of one class alone leave no other to confuse it with: guessing it is no blind guess.
    """
    counts = Counter(labels)
    uniform = 1 / classes if classes else 0.0
    most_frequent = max(counts.values()) / len(labels) if len(counts) > 1 else 0.0
    if most_frequent > uniform:
        return most_frequent, "always answering the most frequent class"
    return uniform, f"guessing among {classes} classes"
