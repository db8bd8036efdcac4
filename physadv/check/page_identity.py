"""Whether the frames show the pages of the patch under check, by the run markers on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from physadv.camera.localization.location import SignLocation
from physadv.printing.run_markers import RunCode, code_in_words, run_code

_FEWEST = 2
"""Markers that must agree or disagree: one alone may be misread."""


@dataclass
class PageIdentity:
    """Comparison of the pages before the camera with the pages of a bundle.

    Attributes:
        expected: Code of the bundle's run; None for a check without a bundle.
        verified: Frames whose run markers are the bundle's.
        unread: Frames of test signs on which fewer than two run markers could be read.
        foreign: Frames by the code, with ? for places not read, of other patches' pages.
    """

    expected: RunCode | None = None
    verified: int = 0
    unread: int = 0
    foreign: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of_run(cls, run_id: str | None) -> PageIdentity:
        """Expect the pages of the run ``run_id``; none in particular where it is not known."""
        return cls(run_code(run_id) if run_id else None)

    def refusal(self, location: SignLocation) -> str | None:
        """Count a frame and return why it must not be used; None where it may.

        Args:
            location: Where the sign is in the frame, found by its markers.
        """
        if self.expected is None or location.by != "fiducials":
            return None
        agree = [self.expected[place] == m for place, m in location.run_markers.items()]
        if agree.count(False) >= _FEWEST > agree.count(True):
            code = "-".join(str(location.run_markers.get(place, "?")) for place in range(4))
            self.foreign[code] += 1
            return f"the page of another patch, code {code} instead of {self._code}"
        if agree.count(True) >= _FEWEST:
            self.verified += 1
        else:
            self.unread += 1
        return None

    @property
    def _code(self) -> str:
        return "" if self.expected is None else code_in_words(self.expected)

    def as_record(self) -> dict[str, Any]:
        """Return the counts for check.json; empty where no page carried markers."""
        if self.expected is None or not (self.verified or self.unread or self.foreign):
            return {}
        return {
            "pages": {
                "code": self._code,
                "verified": self.verified,
                "unread": self.unread,
                "foreign": dict(self.foreign),
            }
        }
