"""Content of the live page's panels, as plain values."""

from __future__ import annotations

from typing import Any

from physadv.camera.frames import BLOCKS
from physadv.check.guidance import PAGES
from physadv.check.live.overlay import LiveState, verdict_in_words
from physadv.check.stopping_rule import StoppingState
from physadv.core.visible_text import visible_text
from physadv.core.wording import count_noun, format_ends, format_fixed, format_percent


def live_panels(state: LiveState) -> dict[str, Any]:
    """Return what the page shows of ``state``: the instruction, the verdict, the blocks, the map of
    views, and how fast frames are judged."""
    step, advice = state.step, state.advice
    facts = [str(step.speed)] if step.speed is not None else []
    facts += [f"{count_noun(step.left_out, 'frame')} left out"] if step.left_out else []
    facts += ["simulation"] if state.simulation else []

    return {
        "words": advice.call,
        "why": visible_text(advice.move or advice.prompt),
        "good": advice.is_good,
        "verdict": visible_text(state.verdict),
        "now": _now(state),
        "blocks": [
            _block(name, advice.stopping_states.get(name), is_active=name == advice.block)
            for name in BLOCKS
        ],
        "views": _views(state),
        "facts": "; ".join(facts),
        "folder": visible_text(state.folder),
    }


def _now(state: LiveState) -> dict[str, str]:
    """The newest frame in words, and whether the goal was met in it."""
    step = state.step
    if step.place is None:
        return {"words": "No sign is found in this frame.", "kind": ""}
    if step.place.refused is not None or step.row is None or step.block is None:
        return {"words": "This frame is not counted.", "kind": ""}
    met = "the goal is met" if step.row["success"] else "the goal is not met"
    words = f"This frame, {step.block}: {verdict_in_words(step.row)}; {met}."
    return {"words": visible_text(words), "kind": "met" if step.row["success"] else "kept"}


def _block(name: str, state: StoppingState | None, *, is_active: bool) -> dict[str, Any]:
    block: dict[str, Any] = {"name": name, "page": PAGES[name], "active": is_active}
    if state is None:
        return {**block, "words": "nothing filmed yet", "rate": None, "low": 0.0, "high": 1.0}

    rate = state.rates.attack
    interval = "" if rate.too_few else f" {format_ends(rate.low, rate.high)}"
    clips = count_noun(state.rates.clips, "clip")
    todo = "done" if state.done else f"{state.clips_missing} more to go"
    return {
        **block,
        "words": f"{format_percent(rate.rate, 0)}{interval} of {count_noun(rate.n, 'frame')}, "
        f"{clips}; {todo}",
        "rate": rate.rate,
        "low": rate.low,
        "high": rate.high,
        "done": state.done,
    }


def _views(state: LiveState) -> dict[str, Any] | None:
    """The map of views, far ones first; None where distances are not known."""
    plan, advice, place = state.plan, state.advice, state.step.place
    if plan is None or advice.block is None:
        return None
    here = None if place is None else plan.cell(place.distance_m, place.yaw_deg)
    rows = range(len(plan.distances) - 2, -1, -1)
    columns = range(len(plan.yaws) - 1)
    middles = [plan.middle((0, j))[1] for j in columns]
    return {
        "block": advice.block,
        "yaws": [f"{yaw:+.0f}°" if yaw else "0°" for yaw in middles],
        "rows": [
            {
                "distance": f"{format_fixed(plan.middle((i, 0))[0], 2)} m",
                "cells": [
                    {
                        "n": advice.cells[i, j],
                        "next": (i, j) == advice.next,
                        "here": (i, j) == here,
                    }
                    for j in columns
                ],
            }
            for i in rows
        ],
    }
