"""Whether the frames show the pages of the patch under check, by the run markers on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from physadv.camera.localization.location import SignLocation
from physadv.core.wording import count_noun
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
    _foreign_clips: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_run(cls, run_id: str | None) -> PageIdentity:
        """Expect the pages of the run ``run_id``; none in particular where it is not known."""
        return cls(run_code(run_id) if run_id else None)

    def refusal(self, location: SignLocation, clip: str) -> str | None:
        """Count a frame and return why it must not be used; None where it may.

        In a clip that showed another patch's page, frames whose markers cannot be read are refused
        as well, until the bundle's own are.

        Args:
            location: Where the sign is in the frame, found by its markers.
            clip: Clip and block of the frame.
        """
        if self.expected is None or location.by != "fiducials":
            return None
        agree = [self.expected[place] == m for place, m in location.run_markers.items()]
        if agree.count(False) >= _FEWEST > agree.count(True):
            code = "-".join(str(location.run_markers.get(place, "?")) for place in range(4))
            self._foreign_clips[clip] = code
        elif agree.count(True) >= _FEWEST:
            self._foreign_clips.pop(clip, None)

        if clip in self._foreign_clips:
            code = self._foreign_clips[clip]
            self.foreign[code] += 1
            return f"the page of another patch, code {code} instead of {self._code}"
        if agree.count(True) >= _FEWEST:
            self.verified += 1
        else:
            self.unread += 1
        return None

    def remember(self, pages: Mapping[str, Any]) -> None:
        """Add the counts of an earlier attempt, as its check.json holds them in ``pages``."""
        self.verified += int(pages.get("verified", 0))
        self.unread += int(pages.get("unread", 0))
        self.foreign.update(pages.get("foreign") or {})

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


def identity_in_words(settings: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether the frames of a check were seen to show its bundle's patch, and by what.

    Args:
        settings: Record of the check, as in its check.json.

    Returns:
        Whether something tells it, and what does, or what is missing.

    Example:
        >>> twin = {"name": "t", "settings": {"twin": {"run_id": "e3b4fc9f4078"}}}
        >>> identity_in_words({"sources": [twin]})
        (True, "the bundle's, by the run that the simulation recorded")
    """
    twins = [(s.get("settings") or {}).get("twin") or {} for s in settings.get("sources") or []]
    if twins and all(twin.get("run_id") for twin in twins):
        return True, "the bundle's, by the run that the simulation recorded"

    pages = settings.get("pages") or {}
    if not pages.get("verified"):
        return False, "not verified: no markers of a run were read"
    seen = pages["verified"] + pages["unread"]
    return (
        True,
        f"the bundle's (code {pages['code']}), read in {pages['verified']} of "
        f"{count_noun(seen, 'frame')}",
    )
