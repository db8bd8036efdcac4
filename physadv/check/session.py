"""A running check: frames are located, cut, judged in batches, written as rows, and counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from physadv.camera.frames import BLOCKS, CameraFrame, FrameSource
from physadv.camera.localization.boxes import (
    Box,
    Pixels,
    crop_square,
    overlaps_image,
    resize_box,
    square_around,
)
from physadv.camera.localization.location import Locator, SignLocation
from physadv.check.example_frames import ExampleFrames
from physadv.check.frame_verdict import CardedModel, FrameVerdict, VerdictRule, frame_verdicts
from physadv.check.live.remote_control import RemoteControl
from physadv.check.rates import block_rates
from physadv.check.stopping_rule import STEP, stopping_state
from physadv.core.image_io import to_tensor
from physadv.core.rows import Row, append_rows
from physadv.models.cards import ModelCard


@dataclass(frozen=True)
class BlockSource:
    """A source and what is known of its block: ``block`` is sure, ``fallback`` is used where
    nothing else tells."""

    source: FrameSource
    block: str | None = None
    fallback: str | None = None


@dataclass(frozen=True)
class CheckProgress:
    """Frames judged and left out so far, the number expected (None: not known), and the newest row."""

    judged: int
    left_out: int
    total: int | None
    row: Row | None
    true: Mapping[str, tuple[int, int]]
    """Block -> (frames with the true class as verdict, frames)."""
    success: Mapping[str, tuple[int, int]]
    """Block -> (frames in which the goal was met, frames)."""
    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """Block -> all its rows so far; they go on growing."""
    frame: CameraFrame | None = None
    """The newest frame, judged or not, and what was found in it."""
    place: SignLocation | None = None
    block: str | None = None
    """The block that frame belongs to, where that is known."""


@dataclass(frozen=True)
class PreparedFrame:
    """One frame made ready: what the victim sees, the sign's box in it, and the row without its
    verdict."""

    pixels: Pixels
    box: Box | None
    row: Row
    frame: CameraFrame
    place: SignLocation


@dataclass
class CheckSession:
    """What a check works with, and its counts so far."""

    rows: Path
    model: CardedModel
    question: VerdictRule
    locator: Locator
    examples: ExampleFrames
    margin: float
    batch: int
    max_frames: int | None
    device: str
    width: float | None = None
    remote: RemoteControl = field(default_factory=RemoteControl)
    taken: Counter[str] = field(default_factory=Counter)
    judged: Counter[str] = field(default_factory=Counter)
    true: Counter[str] = field(default_factory=Counter)
    success: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    contradicted: Counter[str] = field(default_factory=Counter)
    located: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    waiting: list[PreparedFrame] = field(default_factory=list)
    newest: Row | None = None
    lost: bool = False
    kept: dict[str, list[Row]] = field(default_factory=lambda: {b: [] for b in BLOCKS})
    known: set[tuple[str, str, int]] = field(default_factory=set)
    refused_px: list[float] = field(default_factory=list)
    looking: tuple[CameraFrame | None, SignLocation | None, str | None] = (None, None, None)
    _narrow: dict[str, tuple[int, bool]] = field(default_factory=dict)

    def full(self, block: str) -> bool:
        """Whether the block has all the frames it may have, or an interval as narrow as was asked."""
        if self.max_frames is not None and self.taken[block] >= self.max_frames:
            return True
        return self.width is not None and self._is_narrow(block, self.width)

    def _is_narrow(self, block: str, width: float) -> bool:
        """Looked at every ``STEP`` rows; narrow once is narrow."""
        rows = self.kept[block]
        looked, narrow = self._narrow.get(block, (0, False))
        if not narrow and len(rows) - looked >= STEP:
            narrow = stopping_state(block_rates(block, rows), width).done
            self._narrow[block] = len(rows), narrow
        return narrow

    def remember(self, rows: Sequence[Row]) -> None:
        """Take up rows of an earlier attempt: they count, and their frames are not judged again."""
        for row in rows:
            self.known.add((row["block"], row["clip"], int(row["frame"])))
            self.taken[row["block"]] += 1
            self.located[row["block"]][str(row.get("located_by", "unknown"))] += 1
            self._tally(row)

    def view(self, feed: BlockSource, frame: CameraFrame) -> PreparedFrame | None:
        """Locate the sign and cut what the victim sees; None, and a count, for a frame that cannot
        be used."""
        frame = frame if feed.block is None else replace(frame, block=feed.block)
        if frame.block is not None and (frame.block, frame.clip, frame.index) in self.known:
            return None
        place = self.locator(frame)
        block = (
            frame.block
            or (place.block if place is not None else None)
            or self.remote.block
            or feed.fallback
        )
        self.looking = frame, place, block
        why = self._unusable(frame, place, block)
        if why is not None:
            self.left_out[why] += 1
            return None
        if (
            place is None
            or block is None
            or self.full(block)
            or (block, frame.clip, frame.index) in self.known
        ):
            return None
        if place.block in BLOCKS and place.block != block:
            self.contradicted[f"{block} frames carry the markers of the {place.block} page"] += 1
        if place.note is not None:
            self.contradicted[place.note] += 1
        self.taken[block] += 1
        self.located[block][place.by] += 1
        return self._cut(frame, place, block)

    def _unusable(
        self, frame: CameraFrame, place: SignLocation | None, block: str | None
    ) -> str | None:
        """Why a frame has to be left out; None where it need not."""
        if place is None:
            return f"{block or 'unsorted'}: sign not found"
        if block not in BLOCKS:
            return "unsorted: block not known"
        if place.refused is not None:
            self.refused_px += [] if place.marker_px is None else [place.marker_px]
            return f"{block}: {place.refused}"
        outside = place.box is not None and not overlaps_image(place.box, frame.image)
        return f"{block}: sign outside the frame" if outside else None

    def add(self, view: PreparedFrame) -> bool:
        """Put a view into the batch; judge the batch when it is full or sizes differ. True if any
        was judged."""
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
            prediction = self.model(images)
        verdicts = frame_verdicts(prediction, [v.box for v in self.waiting], self.question)
        rows = [_row(v.row, a) for v, a in zip(self.waiting, verdicts, strict=True)]
        append_rows(self.rows, rows)
        for view, row in zip(self.waiting, rows, strict=True):
            self._count(view, row)
        self.waiting = []
        return True

    def progress(self, total: int | None) -> CheckProgress:
        """The counts so far."""
        true = {b: (self.true[b], self.judged[b]) for b in BLOCKS if self.judged[b]}
        success = {b: (self.success[b], self.judged[b]) for b in BLOCKS if self.judged[b]}
        left_out = sum(self.left_out.values())
        rows = {b: kept for b, kept in self.kept.items() if kept}
        return CheckProgress(
            sum(self.judged.values()),
            left_out,
            total,
            self.newest,
            true,
            success,
            rows,
            *self.looking,
        )

    def _cut(self, frame: CameraFrame, place: SignLocation, block: str) -> PreparedFrame:
        box = place.box
        crop_px = None if box is None else round(max(box[2] - box[0], box[3] - box[1]))
        row: Row = {
            "clip": frame.clip,
            "block": block,
            "frame": frame.index,
            "time_s": round(frame.time_s, 4),
            "distance_m": _short(place.distance_m),
            "yaw_deg": _short(place.yaw_deg),
            "pitch_deg": _short(place.pitch_deg),
            "roll_deg": _short(place.roll_deg),
            "pose_by": place.pose_by,
            "crop_px": crop_px,
            "located_by": place.by,
        }
        if place.marker_px is not None:
            row["marker_px"] = round(place.marker_px, 1)
        if place.poses:
            row["reprojection_px"] = [round(p.error_px, 3) for p in place.poses]
        if len(place.poses) > 1:  # the solution that was not believed
            other = place.poses[1]
            row["other_pose"] = [
                round(v, 4) for v in (other.distance_m, other.yaw_deg, other.pitch_deg)
            ]
        return PreparedFrame(
            model_input(frame.image, box, self.model.card, self.margin), box, row, frame, place
        )

    def _count(self, view: PreparedFrame, row: Row) -> None:
        self._tally(row)
        self.examples.offer(view.frame.image, view.place.corners, row)
        self.newest = row

    def _tally(self, row: Row) -> None:
        block = row["block"]
        self.judged[block] += 1
        self.true[block] += row["true"]
        self.success[block] += row["success"]
        self.kept[block].append(row)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def model_input(image: Pixels, box: Box | None, card: ModelCard, margin: float) -> Pixels:
    """What the victim sees: a detector the frame, a classifier the sign's square (the frame,
    without a box)."""
    if card.task == "detect":
        return image
    if box is not None:
        image = crop_square(image, *square_around(box, margin))
    return (
        image
        if card.input_size is None
        else resize_box(image, card.input_size[1], card.input_size[0])
    )


def _row(row: Row, answer: FrameVerdict) -> Row:
    verdict = {
        "verdict": answer.verdict,
        "confidence": answer.confidence,
        "true_score": answer.true_score,
        "true": answer.true,
        "success": answer.success,
    }
    return {**row, **verdict}
