"""Verdict of a cloak check in plain words: green, amber or red, where red means "not protected"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from physadv.core.lights import Light, worst_light
from physadv.evaluation.metrics.intervals import RateInterval

SAFE, LOST = 0.2, 0.5
"""Green: not more than SAFE is likely matched (the interval's upper end). Red: more than LOST was
matched."""
_WORDS = {
    "green": "protected against what was tested",
    "amber": "partly protected",
    "red": "not protected",
}
UNTOLD, FEW, OWN = (
    "nothing could be told",
    "too few photos to tell",
    "protected against its own recognizers alone",
)


@dataclass(frozen=True)
class ProtectionFinding:
    """One finding: the attack, the share of comparisons that still matched, and its light."""

    light: Light
    question: str
    recognizer: str
    rate: dict[str, float | int]
    words: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; the key ``recogniser`` is spelled as in earlier files."""
        table = asdict(self)
        return {"recogniser" if key == "recognizer" else key: table[key] for key in table}


@dataclass(frozen=True)
class ProtectionVerdict:
    """The verdict: ``light``, one sentence (meaning of the light, a colon, the reason), and its
    findings.

    ``beside`` are attacks that it does not count.
    """

    light: Light
    words: str
    findings: tuple[ProtectionFinding, ...]
    beside: tuple[ProtectionFinding, ...]
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {
            "findings": tuple(finding.as_dict() for finding in self.findings),
            "beside": tuple(finding.as_dict() for finding in self.beside),
        }


def light_of(rate: RateInterval) -> Light:
    """Return the light for one match rate.

    ``rate`` is green where its interval ends at or below ``SAFE``, red where it is above ``LOST``.
    """
    return "red" if rate.rate > LOST else "green" if rate.high <= SAFE else "amber"


def judge_protection(
    crossed: Mapping[str, Mapping[str, RateInterval]],
    before: Mapping[str, RateInterval],
    roles: Mapping[str, str],
    titles: Mapping[str, str],
    beside: Sequence[tuple[str, str, RateInterval]] = (),
) -> ProtectionVerdict:
    """Judge a cloak by the worst channel of the worst recognizer that counts.

    Surrogates count only where there is nothing else. Green needs at least one recognizer that is
    known to be held out: neither a surrogate nor one of unknown role gives it. A recognizer that
    matches under half of the uncloaked pairs is left out.

    Args:
        crossed: Match rates of cloaked photos with other photos of the person, by recognizer and
            channel.
        before: The same rate of uncloaked photos, by recognizer.
        roles: "held-out", "surrogate" or "unknown" by recognizer.
        titles: Names of the channels for people.
        beside: Attacks to report beside the verdict: attack, recognizer and rate.

    Returns:
        The verdict with its findings and reasons.
    """
    reasons = []
    usable = [name for name in crossed if before[name].n and before[name].rate >= LOST]
    for name in crossed:
        if name not in usable:
            reasons.append(
                f"{name} does not match the uncloaked photos either, so it says nothing here."
            )

    counted = [name for name in usable if roles.get(name) != "surrogate"]
    known = [name for name in usable if roles.get(name) == "held-out"]
    capped = not known
    if counted and capped:
        reasons.append(
            "No recognizer is known to be independent of the cloak: its settings were not found, "
            "so a low match rate may be that of a recognizer it was made with."
        )
    if not counted and usable:
        counted = usable
        reasons.append(
            "Only recognizers the cloak was made with were at hand: others may well still match."
        )

    if not counted:
        return ProtectionVerdict(
            "amber",
            f"{UNTOLD}: two photos of a person are needed, and a recognizer that matches them",
            (),
            (),
            tuple(reasons),
        )

    findings = [
        ProtectionFinding(
            light_of(rate), titles.get(channel, channel), name, rate.as_dict(), rate_in_words(rate)
        )
        for name in counted
        for channel, rate in crossed[name].items()
    ]
    light = worst_light(f.light for f in findings)
    worst = max(findings, key=lambda f: f.rate["rate"])
    headline = _headline(light, worst, capped)
    if capped and light == "green":
        light = "amber"
    sentence = f"{headline}: at worst ({worst.question}, {worst.recognizer}) {worst.words}"

    others = tuple(
        ProtectionFinding(light_of(r), question, name, r.as_dict(), rate_in_words(r))
        for question, name, r in beside
    )
    if any(f.light == "red" for f in others):
        reasons.append(
            "A recognizer prepared for cloaks, or one fed with your cloaked photos, still finds "
            "you (see below)."
        )
    return ProtectionVerdict(light, sentence, tuple(findings), others, tuple(reasons))


def _headline(light: Light, worst: ProtectionFinding, capped: bool) -> str:
    """What the light means: amber is a part still matched, or few comparisons, which nothing speaks
    against."""
    if light == "amber" and worst.rate["rate"] <= SAFE:
        return FEW
    return OWN if capped and light == "green" else _WORDS[light]


def rate_in_words(rate: RateInterval) -> str:
    """Return a match ``rate`` as a phrase for people."""
    if rate.n == 0:
        return "nothing was compared"
    share = rate.rate
    if share == 0:
        return f"none of {rate.n} comparisons matched you"
    return f"{share:.0%} of {rate.n} comparisons matched you"
