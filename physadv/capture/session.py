"""A running check: frames are located, cut, judged in batches, written as rows, and counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from physadv.capture.examples import Examples
from physadv.capture.frames import BLOCKS, Frame, Source
from physadv.capture.geometry import Box, Pixels, crop_square, overlaps, resize, square_around
from physadv.capture.judge import Answer, CardedVictim, Question, answers
from physadv.capture.locate import Location, Locator
from physadv.core.images import to_tensor
from physadv.evaluation.rows import Row, append_rows
from physadv.victims.cards import VictimCard


@dataclass(frozen=True)
class Feed:
    """A source and what is known of its block: ``block`` is sure, ``fallback`` is used where nothing else tells."""

    source: Source
    block: str | None = None
    fallback: str | None = None


@dataclass(frozen=True)
class Progress:
    """Frames judged and left out so far, the number expected (None: not known), and the newest row."""

    judged: int
    left_out: int
    total: int | None
    row: Row | None
    true: Mapping[str, tuple[int, int]]
    """Block -> (frames with the true class as verdict, frames)."""
    success: Mapping[str, tuple[int, int]]
    """Block -> (frames in which the goal was met, frames)."""


@dataclass(frozen=True)
class View:
    """One frame made ready: what the victim sees, the sign's box in it, and the row without its verdict."""

    pixels: Pixels
    box: Box | None
    row: Row
    frame: Frame
    place: Location


@dataclass
class Session:
    """What a check works with, and its counts so far."""

    rows: Path
    victim: CardedVictim
    question: Question
    locator: Locator
    examples: Examples
    margin: float
    batch: int
    max_frames: int | None
    device: str
    taken: Counter[str] = field(default_factory=Counter)
    judged: Counter[str] = field(default_factory=Counter)
    true: Counter[str] = field(default_factory=Counter)
    success: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    contradicted: Counter[str] = field(default_factory=Counter)
    located: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    waiting: list[View] = field(default_factory=list)
    newest: Row | None = None

    def full(self, block: str) -> bool:
        """Whether the block has all the frames it may have."""
        return self.max_frames is not None and self.taken[block] >= self.max_frames

    def view(self, feed: Feed, frame: Frame) -> View | None:
        """Locate the sign and cut what the victim sees; None, and a count, for a frame that cannot be used."""
        frame = frame if feed.block is None else replace(frame, block=feed.block)
        place = self.locator(frame)
        if place is None:
            self.left_out[f"{frame.block or feed.fallback or 'unsorted'}: sign not found"] += 1
            return None
        block = frame.block or place.block or feed.fallback
        if block not in BLOCKS:
            self.left_out["unsorted: block not known"] += 1
            return None
        if place.box is not None and not overlaps(place.box, frame.image):
            self.left_out[f"{block}: sign outside the frame"] += 1
            return None
        if self.full(block):
            return None
        if place.block in BLOCKS and place.block != block:
            self.contradicted[f"{block} frames carry the markers of the {place.block} page"] += 1
        self.taken[block] += 1
        self.located[block][place.by] += 1
        return self._cut(frame, place, block)

    def add(self, view: View) -> bool:
        """Put a view into the batch; judge the batch when it is full or sizes differ. True if any was judged."""
        differs = bool(self.waiting) and self.waiting[0].pixels.shape != view.pixels.shape
        judged = self.flush() if differs else False
        self.waiting.append(view)
        return self.flush() if len(self.waiting) >= self.batch else judged

    def flush(self) -> bool:
        """Judge the batch and write its rows; False if it was empty."""
        if not self.waiting:
            return False
        images = torch.stack([to_tensor(v.pixels) for v in self.waiting]).to(self.device)
        with torch.no_grad():
            prediction = self.victim(images)
        verdicts = answers(prediction, [v.box for v in self.waiting], self.question)
        rows = [_row(v.row, a) for v, a in zip(self.waiting, verdicts, strict=True)]
        append_rows(self.rows, rows)
        for view, row in zip(self.waiting, rows, strict=True):
            self._count(view, row)
        self.waiting = []
        return True

    def progress(self, total: int | None) -> Progress:
        """The counts so far."""
        true = {b: (self.true[b], self.judged[b]) for b in BLOCKS if self.judged[b]}
        success = {b: (self.success[b], self.judged[b]) for b in BLOCKS if self.judged[b]}
        left_out = sum(self.left_out.values())
        return Progress(sum(self.judged.values()), left_out, total, self.newest, true, success)

    def _cut(self, frame: Frame, place: Location, block: str) -> View:
        box = place.box
        crop_px = None if box is None else round(max(box[2] - box[0], box[3] - box[1]))
        row: Row = {
            "clip": frame.clip, "block": block, "frame": frame.index, "time_s": round(frame.time_s, 4),
            "distance_m": place.distance_m, "yaw_deg": place.yaw_deg, "crop_px": crop_px, "located_by": place.by,
        }  # fmt: skip
        return View(seen(frame.image, box, self.victim.card, self.margin), box, row, frame, place)

    def _count(self, view: View, row: Row) -> None:
        block = row["block"]
        self.judged[block] += 1
        self.true[block] += row["true"]
        self.success[block] += row["success"]
        self.examples.offer(view.frame.image, view.place.corners, row)
        self.newest = row


def seen(image: Pixels, box: Box | None, card: VictimCard, margin: float) -> Pixels:
    """What the victim sees: a detector the frame, a classifier the sign's square (the frame, without a box)."""
    if card.task == "detect":
        return image
    if box is not None:
        image = crop_square(image, *square_around(box, margin))
    return image if card.input_size is None else resize(image, card.input_size[1], card.input_size[0])


def _row(row: Row, answer: Answer) -> Row:
    verdict = {
        "verdict": answer.verdict, "confidence": answer.confidence, "true_score": answer.true_score,
        "true": answer.true, "success": answer.success,
    }  # fmt: skip
    return {**row, **verdict}
