"""Rates with intervals from rows, and the conclusion that they support; all functions are pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from physadv.camera.frames import BLOCKS
from physadv.check.frame_verdict import ANYWHERE
from physadv.check.page_identity import identity_in_words
from physadv.core.rows import Row
from physadv.core.wording import count_noun, format_percent
from physadv.evaluation.metrics.intervals import (
    LEAST_CLUSTERS,
    DifferenceInterval,
    RateInterval,
    clustered_interval,
    difference_interval,
    sequential_interval,
)
from physadv.patches.controls import CONTROL_FLOOR

FEW_CLIPS = 10


@dataclass(frozen=True)
class BlockRates:
    """Rates of one block.

    Attributes:
        block: "clean", "blank" or "patch".
        true: Rate of frames with the true class as verdict.
        attack: Rate of frames in which the attacker's goal is met.
        clips: Number of clips.
    """

    block: str
    true: RateInterval
    attack: RateInterval
    clips: int

    def as_dict(self) -> dict[str, float | int]:
        """Return plain values for JSON."""
        return {
            "frames": self.attack.n,
            "clips": self.clips,
            "true_class_rate": self.true.rate,
            "true_class_low": self.true.low,
            "true_class_high": self.true.high,
            "attack_success_rate": self.attack.rate,
            "low": self.attack.low,
            "high": self.attack.high,
        }


@dataclass(frozen=True)
class CheckConclusion:
    """Conclusion of a check.

    Attributes:
        valid: Whether the controls support a claim about the patch.
        measured: Sentence with the patch's rate, without its full stop; empty where the patch was
            not measured.
        reading: Sentences on what that rate means beside the controls.
        notes: Qualifications of the result.
    """

    valid: bool
    measured: str
    reading: str
    notes: list[str] = field(default_factory=list)

    @property
    def headline(self) -> str:
        """The result in one or a few sentences."""
        return f"{self.measured}. {self.reading}" if self.measured else self.reading


def tabulate_rates(rows: Iterable[Row], *, sequential: bool = False) -> dict[str, BlockRates]:
    """Return the rates of each block with frames, in the order clean, blank, patch.

    Args:
        rows: Rows of a check.
        sequential: Whether the data could decide when filming ended, see
            :func:`ended_by_data`.

    Returns:
        Rates by block.

    Example:
        >>> row = {"block": "patch", "clip": "a", "true": False, "success": True}
        >>> rates = tabulate_rates([row, {**row, "clip": "b"}])
        >>> rates["patch"].attack.rate, rates["patch"].clips
        (1.0, 2)
    """
    all_rows = list(rows)
    return {
        b: block_rates(b, of_block, sequential=sequential)
        for b in BLOCKS
        if (of_block := [r for r in all_rows if r["block"] == b])
    }


def block_rates(block: str, rows: Sequence[Row], *, sequential: bool = False) -> BlockRates:
    """Return both rates of one block, with intervals whose trials are clips.

    Args:
        block: "clean", "blank" or "patch".
        rows: Rows of the block.
        sequential: Whether the data could decide when filming ended.

    Returns:
        The rates.
    """
    interval = sequential_interval if sequential else clustered_interval
    clips = [str(r["clip"]) for r in rows]
    true = interval([bool(r["true"]) for r in rows], clips)
    attack = interval([bool(r["success"]) for r in rows], clips)
    return BlockRates(block, true, attack, len(set(clips)))


def ended_by_data(settings: Mapping[str, Any]) -> bool:
    """Return whether the rates so far could decide when the run of ``settings`` ended: by its
    stopping rule, or by a person who watched a live source."""
    live = any(source.get("live") for source in settings.get("sources") or [])
    return bool(settings.get("width") or settings.get("live") or live)


def control_doubt(table: Mapping[str, BlockRates]) -> str:
    """Return why the controls of ``table``, rates by block, support no claim; empty where they
    do."""
    if failed := _failed_controls(table):
        return f"the model answers rightly on {failed} of the frames"
    if missing := _missing_controls(table):
        return f"{missing} not measured"
    few = _blocks_of_few_clips(table)
    return f"too few clips of {few}" if few else ""


def _failed_controls(table: Mapping[str, BlockRates]) -> str:
    return " and ".join(
        f"{_named(b)} in only {format_percent(table[b].true.rate)}"
        for b in ("clean", "blank")
        if b in table and table[b].true.rate < CONTROL_FLOOR
    )


def _missing_controls(table: Mapping[str, BlockRates]) -> str:
    return " and ".join(_named(b) for b in ("clean", "blank") if b not in table)


def _blocks_of_few_clips(table: Mapping[str, BlockRates]) -> str:
    return " and ".join(_named(b) for b, rates in table.items() if rates.attack.too_few)


def draw_conclusion(
    table: Mapping[str, BlockRates],
    settings: Mapping[str, Any],
    differences: Mapping[str, DifferenceInterval] | None = None,
) -> CheckConclusion:
    """Express the rates in words, without claiming more than was measured.

    Args:
        table: Rates by block.
        settings: Record of the run, as in its check.json.
        differences: The patch's success less that of each control, from
            :func:`physadv.check.differences.control_differences`; None takes it from the rates.

    Returns:
        The conclusion; not valid without the patch, without a control, with a control that
        failed, or with a block of a single clip, whose rate has no interval.

    Example:
        >>> rows = [
        ...     {"block": b, "clip": clip, "true": b != "patch", "success": b == "patch"}
        ...     for b in BLOCKS
        ...     for clip in range(10)
        ... ]
        >>> settings = {"true_class": "stop", "goal": "untargeted", "status": "complete"}
        >>> conclusion = draw_conclusion(tabulate_rates(rows), settings)
        >>> conclusion.valid, conclusion.notes
        (True, [])
    """
    notes = _notes(table, settings)
    patch = table.get("patch")
    truth = truth_in_words(settings)

    if patch is None:
        return CheckConclusion(
            False, "", "No frame with the patch was measured: nothing can be said about it.", notes
        )

    measured = f"The patch met its goal ({goal_in_words(settings)}) in {_share(patch)}"

    if failed := _failed_controls(table):
        return CheckConclusion(
            False,
            measured,
            f"Not valid for a claim: the model reports {truth} on {failed} of the frames "
            f"({format_percent(CONTROL_FLOOR, 0)} is "
            "needed), so failures under the patch cannot be attributed to it.",
            notes,
        )

    if missing := _missing_controls(table):
        return CheckConclusion(
            False, measured, f"Without a control ({missing}) this proves nothing yet.", notes
        )

    if few := _blocks_of_few_clips(table):
        return CheckConclusion(
            False,
            measured,
            f"Not valid for a claim: too few clips of {few} for an interval; at least "
            f"{LEAST_CLUSTERS} of each block are needed, each a new approach.",
            notes,
        )

    if differences is None:
        differences = {
            b: difference_interval(table[b].attack, patch.attack) for b in ("clean", "blank")
        }
    return CheckConclusion(True, measured, _against_controls(table, differences), notes)


def _against_controls(
    table: Mapping[str, BlockRates], differences: Mapping[str, DifferenceInterval]
) -> str:
    controls = ", ".join(
        f"{_named(b)} {format_percent(table[b].attack.rate)}" for b in ("clean", "blank")
    )
    effect = ", ".join(f"{change} against {_named(b)}" for b, change in differences.items())
    unclear = sum(change.low <= 0 for change in differences.values())
    hold = ("", "One of these intervals holds", "Both intervals hold")[unclear]
    verdict = f" {hold} 0: no clear effect of the patch." if unclear else ""
    return f"Without it: {controls}. The difference is {effect}.{verdict}"


def _notes(table: Mapping[str, BlockRates], settings: Mapping[str, Any]) -> list[str]:
    notes = []
    if settings.get("simulation"):
        notes.append("This is a simulation: no sheet was printed and no camera was used.")

    bundle = settings.get("bundle") or {}
    expected_sha256, model_sha256 = (
        str(bundle.get("victim_sha256") or ""),
        str((settings.get("victim") or {}).get("sha256") or ""),
    )
    name, made_on = (
        str((settings.get("victim") or {}).get("name") or ""),
        str(bundle.get("victim") or ""),
    )

    if expected_sha256 and model_sha256 and expected_sha256 != model_sha256:
        notes.append(
            "The model is not the one the patch was optimized against: this is a test of transfer."
        )
    elif made_on and name.startswith(f"{made_on}+"):
        notes.append(
            f"A defense precedes the model here ({name[len(made_on) + 1 :]}), and none did when "
            "the patch was optimized: part of the loss against the digital figure is due to the "
            "defense."
        )

    verified, how = identity_in_words(settings)
    if bundle.get("run_id") and not verified:
        notes.append(
            f"Whether the frames show this bundle's print (run {bundle['run_id']}) is {how}."
        )

    few = [f"{b} {t.clips}" for b, t in table.items() if t.clips < FEW_CLIPS]
    if few:
        notes.append(
            f"Few clips ({', '.join(few)}): frames of one clip are alike, so the intervals depend "
            f"on the number of clips. Film {FEW_CLIPS} or more, each a new approach."
        )

    if settings.get("status") != "complete":
        notes.append(
            "The run was stopped before its end; the figures cover the frames measured until then."
        )
    return notes


def _share(rates: BlockRates) -> str:
    rate = rates.attack
    interval = (
        "too few clips for an interval"
        if rate.too_few
        else f"95 % interval {format_percent(rate.low)} to {format_percent(rate.high)}"
    )
    clips = count_noun(rates.clips, "clip")
    return f"{format_percent(rate.rate)} of {count_noun(rate.n, 'frame')} from {clips} ({interval})"


def goal_in_words(settings: Mapping[str, Any]) -> str:
    """Return what counts as success under ``settings``, in words.

    Example:
        >>> goal_in_words({"goal": "create", "target_class": "stop sign"})
        '“stop sign” reported where there is none'
    """
    true, target = settings.get("true_class", "the true class"), settings.get("target_class")
    goal = settings.get("goal")
    if goal == "create":
        return f"“{target}” reported where there is none"
    if goal == "targeted" and true == ANYWHERE:
        return f"“{target}” reported"
    if goal == "targeted" or (goal == "misclassify" and target):
        return f"“{true}” taken for “{target}”"
    if goal == "misclassify":
        return f"“{true}” taken for something else"
    return f"“{true}” not recognized"


def truth_in_words(settings: Mapping[str, Any]) -> str:
    """Return what the model should report without a patch under ``settings``, in words.

    Example:
        >>> truth_in_words({"goal": "create", "target_class": "stop sign"})
        'no “stop sign”'
    """
    true, target = settings.get("true_class", "the true class"), settings.get("target_class")
    if settings.get("goal") == "create" or true == ANYWHERE:
        return f"no “{target}”"
    return f"“{true}”"


def _named(block: str) -> str:
    return {"clean": "the clean sign", "blank": "a blank sticker", "patch": "the patch"}[block]
