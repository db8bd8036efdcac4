"""Warnings of a card on which the twin's frames fall short of the draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from physadv.core.findings import Finding
from physadv.core.wording import format_percent
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.patches.bundle import PatchCard, TwinRecord
from physadv.patches.config import WITHOUT_TARGET

LEAST_GAP = 0.1
"""Points of success from which the twin falls short of the draws; less is called agreement."""
_FAR = 0.25
"""Points from which it falls far short."""


def twin_findings(card: PatchCard) -> list[Finding]:
    """Return a finding for each film of the twin whose success falls short of that in draws.

    A film falls short where its whole interval lies below the model's rate in held-out draws, and
    its own rate at least :data:`LEAST_GAP` below. A model without such a rate, or a film that was
    checked for another goal, is not compared.

    Args:
        card: Card of a bundle with the films that ``physadv check --record`` wrote on it.

    Returns:
        The findings, amber, in the order of the card's films; empty where none falls short.

    Example:
        >>> from physadv.patches.bundle import read_bundle
        >>> twin_findings(read_bundle("stop-sticker-signs-v1").card)
        []
    """
    findings = []
    for film in card.twin:
        seen = next((one.success for one in film.cameras if one.camera == "all"), None)
        drawn = _rate_in_draws(card, film)
        if seen is None or drawn is None or not seen.n:
            continue
        gap = drawn.rate - seen.rate
        if seen.high < drawn.rate and gap >= LEAST_GAP:
            far = "far below" if gap >= _FAR else "below"
            findings.append(
                Finding(
                    "twin",
                    f"{seen} in simulated camera frames on {film.victim.name}, {far} its "
                    f"{format_percent(drawn.rate)} in draws",
                    "Expect the lower figure",
                )
            )
    return findings


def _rate_in_draws(card: PatchCard, film: TwinRecord) -> RateInterval | None:
    """The success in held-out draws on the model of ``film``; None where the card has none."""
    # An untargeted patch has a detector miss the object, which `check` calls "vanish".
    if film.goal != card.patch.goal and not {film.goal, card.patch.goal} <= {*WITHOUT_TARGET}:
        return None
    name = film.victim.name
    if name == card.victim.name:
        return _as_rate(card.heldout)
    further = card.heldout.get("further_victims")
    own = further.get(name) if isinstance(further, Mapping) else None
    if own is not None:
        return _as_rate(own)
    return next((one.success for one in card.transfer if one.victim.name == name), None)


def _as_rate(table: Any) -> RateInterval | None:
    """The success in a card's table of rates; None where it is not measured."""
    rate = table.get("success") if isinstance(table, Mapping) else None
    if not isinstance(rate, Mapping) or not {"rate", "low", "high", "n"} <= rate.keys():
        return None
    return RateInterval(**rate)
