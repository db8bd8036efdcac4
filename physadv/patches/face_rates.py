"""Rates of a patch on each held-out face of the sign, and on real photos."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from physadv.core.rows import Row
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.patches.optimize import summarize_rows

_NAME_WIDTH = 28
"""Characters of a name in a table for the terminal."""
PHOTOS = "real photos"
"""Name of the entry that all real photos have together."""


@dataclass(frozen=True)
class FaceRates:
    """Rates on one held-out face, or on all real photos together.

    Attributes:
        name: Name of the face, or :data:`PHOTOS`.
        n: Number of draws.
        clean_recognised: Draws recognized as the true class without a patch.
        blank_success: Goal met with a blank patch, among the draws whose clean control is
            recognized.
        success: Goal met with the patch, among the same.
    """

    name: str
    n: int
    clean_recognised: RateInterval
    blank_success: RateInterval
    success: RateInterval

    def as_dict(self) -> dict[str, Any]:
        """Return the rates as a card has them."""
        return {
            "name": self.name,
            "n": self.n,
            "clean_recognised": self.clean_recognised.as_dict(),
            "blank_success": self.blank_success.as_dict(),
            "success": self.success.as_dict(),
        }


def rates_by_face(rows: Sequence[Row], faces: Collection[str]) -> list[FaceRates]:
    """Return the rates on each face, in their order, and on the photos after them.

    Args:
        rows: Rows of a measurement, such as those of a bundle's rows.jsonl.
        faces: Names of the drawn faces; the rows of other groups are of photos.

    Returns:
        Rates of the faces and photos that have rows; their ``n`` add up to the number of rows.

    Example:
        >>> verdict = {"recognised": True, "success": False}
        >>> blocks = {"clean": verdict, "blank": verdict, "patch": verdict}
        >>> rows = [{"group": "DUR", **blocks}, {"group": "1.jpg", **blocks}]
        >>> [(rates.name, rates.n) for rates in rates_by_face(rows, ["DUR"])]
        [('DUR', 1), ('real photos', 1)]
    """
    rows_of: dict[str, list[Row]] = {name: [] for name in (*faces, PHOTOS)}
    for row in rows:
        rows_of[row["group"] if row["group"] in faces else PHOTOS].append(row)

    rates = []
    for name, own in rows_of.items():
        if own:
            measured = summarize_rows(own, by_group=name == PHOTOS)
            clean, blank = measured.clean_recognised, measured.blank_success
            rates.append(FaceRates(name, len(own), clean, blank, measured.success))
    return rates


def worst_face(rates: Sequence[FaceRates]) -> FaceRates | None:
    """Return the entry on which a patch succeeds least, of those with a valid draw; None without
    any."""
    judged = [each for each in rates if each.success.n]
    return min(judged, key=lambda each: each.success.rate, default=None)


def face_table(rates: Sequence[FaceRates]) -> str:
    """Return ``rates`` as lines of text: a face a line, percent with intervals.

    The clean control's trials are all n draws; those of the blank and the patch are the draws
    recognized without a patch.
    """
    lines = [_table_line("held-out face", "n", ["clean", "blank", "patch"])]
    for each in rates:
        cells = [_percent(r) for r in (each.clean_recognised, each.blank_success, each.success)]
        lines.append(_table_line(each.name, str(each.n), cells))
    return "\n".join(lines)


def _table_line(name: str, n: str, cells: Sequence[str]) -> str:
    """A line of at most 80 characters; a long name loses its middle."""
    if len(name) > _NAME_WIDTH:
        name = f"{name[: _NAME_WIDTH // 2 - 1]}…{name[-_NAME_WIDTH // 2 :]}"
    return f"{name:{_NAME_WIDTH}} {n:>4} " + " ".join(f"{cell:>14}" for cell in cells)


def _percent(rate: RateInterval) -> str:
    """A rate in whole percent with its interval."""
    if not rate.n:
        return "no valid draw"
    if rate.too_few:
        return f"{100 * rate.rate:.0f}"
    return f"{100 * rate.rate:.0f} [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
