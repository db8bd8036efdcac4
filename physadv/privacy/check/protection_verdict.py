"""Verdict of a cloak check in plain words: green, amber or red, where red means "not protected"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from physadv.core.lights import Light, worst_light
from physadv.core.wording import count_noun, format_percent
from physadv.evaluation.metrics.intervals import RateInterval, clustered_interval, wilson_interval
from physadv.privacy.check.provenance import Role

SAFE, LOST = 0.2, 0.5
"""Green: not more than SAFE is likely matched (the interval's upper end). Red: more than LOST was
matched."""
_USUAL = 0.8
"""Share of uncloaked pairs below which the folders may hold photos of several people, or the
recognizer is too weak to judge."""
JUDGES = 2
"""Recognizers known to have had no part in the cloak that green takes."""
_WORDS = {
    "green": "protected against what was tested",
    "amber": "partly protected",
    "red": "not protected",
}
UNTOLD, FEW, OWN, PREPARED = (
    "nothing could be told",
    "too few photos to tell",
    "not proven",
    "protected only against those who do not prepare",
)
_MOST_TRIALS = 400
"""People or photos up to which the number that is missing is searched for."""
_ROLES = {
    "surrogate": "was used to make the cloak",
    "unknown": "may have been used to make the cloak, as the photos do not tell",
    "suspect": "is as blind to these photos as only a recognizer is that was used to make the "
    "cloak, whatever the photos tell",
    "untested": "was not tested for a part in the cloak, as there are photos of too few people; "
    "--gallery names more",
    "weak": "matches too few of the uncloaked photos to judge cloaked ones",
    "copy": "is the net of another recognizer here, or made from it",
}


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
    """The verdict on a cloak.

    Attributes:
        light: Green, amber or red.
        words: One sentence for people: meaning of the light, a colon, the reason.
        findings: Every recognizer's rate in every channel.
        beside: Attacks by those who prepare; a red one allows no green.
        reasons: What limits the verdict, a sentence each.
        worst: The worst finding in figures, "" where there is none.
    """

    light: Light
    words: str
    findings: tuple[ProtectionFinding, ...]
    beside: tuple[ProtectionFinding, ...]
    reasons: tuple[str, ...]
    worst: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {
            "findings": tuple(finding.as_dict() for finding in self.findings),
            "beside": tuple(finding.as_dict() for finding in self.beside),
        }


def worst_rate(findings: Sequence[Mapping[str, Any]]) -> RateInterval:
    """Return the match rate of the worst recognizer in its worst channel; one of no comparisons
    where there are no ``findings``, as check.json has them."""
    rates = [RateInterval(**finding["rate"]) for finding in findings]
    return max(rates, key=lambda rate: (rate.rate, rate.high), default=wilson_interval(0, 0))


def too_few_judges(
    recognizers: Sequence[Mapping[str, Any]], findings: Sequence[Mapping[str, Any]]
) -> str:
    """Return why a low match rate proves nothing: too few independent recognizers.

    Args:
        recognizers: Recognizers as check.json has them, with ``name`` and ``role``.
        findings: Findings as check.json has them.

    Returns:
        The reason; "" where ``JUDGES`` recognizers or more are known to be independent.

    Example:
        >>> too_few_judges([{"name": "dlib", "role": "surrogate"}], [{"recogniser": "dlib"}])
        '0 of the 2 recognizers that it takes are known to be independent of the cloak'
    """
    asked = {finding["recogniser"] for finding in findings}
    judges = sum(r["role"] == "held-out" and r["name"] in asked for r in recognizers)
    if judges >= JUDGES:
        return ""
    return (
        f"{judges} of the {JUDGES} recognizers that it takes are known to be independent of the "
        "cloak"
    )


def role_of_judge(role: Role, uncloaked: RateInterval) -> Role:
    """Return the part of a recognizer, given how many ``uncloaked`` pairs it matches: one held out
    that matches under four fifths is "weak", for others do far better."""
    is_weak = uncloaked.n > 0 and uncloaked.rate < _USUAL
    return "weak" if role == "held-out" and is_weak else role


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
    *,
    one_person: bool = False,
) -> ProtectionVerdict:
    """Judge a cloak by the worst channel of the worst recognizer, whatever its part in the cloak.

    Green needs more: ``JUDGES`` recognizers known to be held out, each with rates in every
    channel, and no red attack by those who prepare. A recognizer that matches under half of the
    uncloaked pairs is left out.

    Args:
        crossed: Match rates of cloaked photos with other photos of the person, by recognizer and
            channel, of the pairs that match uncloaked.
        before: The same rate of uncloaked photos, by recognizer.
        roles: Part of each recognizer in the cloak; anything but "held-out" counts as no
            independent judge.
        titles: Names of the channels for people.
        beside: Attacks by those who prepare: attack, recognizer and rate.
        one_person: Whether intervals are over the photos of one person, not over people.

    Returns:
        The verdict with its findings and reasons.
    """
    usable = [name for name in crossed if before[name].n and before[name].rate >= LOST]
    reasons = [
        f"{name} does not match the uncloaked photos either, so it says nothing here."
        for name in crossed
        if name not in usable
    ]
    reasons += [
        f"{name} matches only {format_percent(before[name].rate, 0)} of the uncloaked pairs, and "
        "these alone count: are there two people in one folder?"
        for name in usable
        if before[name].rate < _USUAL
    ]
    findings = [
        ProtectionFinding(
            light_of(rate), titles.get(channel, channel), name, rate.as_dict(), rate_in_words(rate)
        )
        for name in usable
        for channel, rate in crossed[name].items()
    ]
    others = tuple(
        ProtectionFinding(light_of(r), question, name, r.as_dict(), rate_in_words(r))
        for question, name, r in beside
    )
    if not findings:
        needed = "two photos of a person are needed, and a recognizer that matches them"
        return ProtectionVerdict("amber", f"{UNTOLD}: {needed}", (), others, tuple(reasons))

    # The widest interval decides among equal rates: it is the one that keeps the light from green.
    worst = max(findings, key=lambda f: (f.rate["rate"], f.rate["high"]))
    light = worst_light(f.light for f in findings)
    judges = [name for name in usable if roles.get(name) == "held-out"]
    prepared = [f for f in others if f.light == "red"]
    missing = _missing([rate for name in usable for rate in crossed[name].values()], one_person)

    reasons += _doubts(usable, roles, len(judges))
    if prepared:
        reasons.append(
            "A recognizer prepared for cloaks, or one fed with your cloaked photos, still finds "
            "you (see below)."
        )
    sentence = _sentence(light, worst, judges, bool(prepared), missing)
    if light == "green" and (len(judges) < JUDGES or prepared):
        light = "amber"
    figures = f"at worst ({worst.question}, {worst.recognizer}) {worst.words}"
    return ProtectionVerdict(light, sentence, tuple(findings), others, tuple(reasons), figures)


def _doubts(usable: Sequence[str], roles: Mapping[str, str], judges: int) -> list[str]:
    """Why recognizers are no independent judges, where too few are."""
    if judges >= JUDGES:
        return []
    doubts = [
        f"{name} {_ROLES[role]}." for name in usable if (role := str(roles.get(name))) in _ROLES
    ]
    independent = "One recognizer is" if judges else "No recognizer here is"
    return [
        *doubts,
        f"{independent} known to have had no part in the cloak; green takes {JUDGES}. "
        "`physadv models list` names more.",
    ]


def _sentence(
    light: Light,
    worst: ProtectionFinding,
    judges: Sequence[str],
    prepared: bool,
    missing: str,
) -> str:
    """Meaning of the light, and what it rests on, without figures."""
    place = f"{worst.recognizer}, worst with the photo shared as {worst.question!r}"
    if light == "red":
        return f"{_WORDS[light]}: a recognizer still matches most photos ({place})"
    if light == "amber" and worst.rate["rate"] > SAFE:
        return f"{_WORDS[light]}: a recognizer still matches some photos ({place})"
    if light == "amber":
        # Photos alone would not help one whose recognizers made the cloak.
        absent = JUDGES - len(judges)
        more = f" and {count_noun(absent, 'recognizer')} with no part in the cloak"
        needed = missing + (more if absent > 0 else "")
        return f"{FEW}: few or none were matched, but certainty needs {needed}"
    if len(judges) < JUDGES:
        tested = f"only {judges[0]} is" if judges else "no recognizer is"
        return f"{OWN}: few or none were matched, but {tested} known to be independent of the cloak"
    if prepared:
        return f"{PREPARED}: one who collects or trains on cloaked photos still finds you"
    return f"{_WORDS[light]}: {' and '.join(judges)}, with no part in the cloak, lose you"


def _missing(rates: Sequence[RateInterval], one_person: bool) -> str:
    """How many more people, or photos of one person, would make every rate certain."""
    noun = "photos" if one_person else "people"
    more = 1
    for rate in rates:
        enough = trials_for(round(rate.rate, 2) if rate.n else 0.0)
        if enough is None:
            return f"many more {noun}"
        more = max(more, enough - (rate.n if rate.clusters is None else rate.clusters))
    if more == 1:
        noun = "photo" if one_person else "person"
    return f"about {more} more {noun}"


@cache
def trials_for(rate: float) -> int | None:
    """Return the number of people or photos of which a share ``rate``, in [0, 1], may match so that
    the interval ends at ``SAFE``; None where no number up to a few hundred is enough.

    Example:
        >>> trials_for(0.0), trials_for(0.3)
        (17, None)
    """
    for trials in range(2, _MOST_TRIALS if rate < SAFE else 2):
        hits = round(rate * trials)
        high = clustered_interval([k < hits for k in range(trials)], range(trials)).high
        if high <= SAFE:
            return trials
    return None


def rate_in_words(rate: RateInterval) -> str:
    """Return a match ``rate`` as a phrase for people."""
    if rate.n == 0:
        return "nothing was compared"
    share = rate.rate
    compared = count_noun(rate.n, "comparison")
    if share == 0:
        return f"none of {compared} matched you"
    return f"{format_percent(share, 0)} of {compared} matched you"
