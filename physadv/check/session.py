"""State of a running check: frames are located, cropped, classified in batches, recorded and
counted."""

from __future__ import annotations

import time
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
from physadv.camera.localization.by_markers import TOO_SMALL
from physadv.camera.localization.location import Locator, SignLocation
from physadv.check.example_frames import ExampleFrames
from physadv.check.frame_verdict import CardedModel, FrameVerdict, VerdictRule, frame_verdicts
from physadv.check.live.remote_control import RemoteControl
from physadv.check.located_frames import LocatedFrame
from physadv.check.page_identity import PageIdentity
from physadv.check.rates import block_rates
from physadv.check.speed import CheckSpeed, SpeedMeter
from physadv.check.stopping_rule import STEP, stopping_state
from physadv.core.image_io import to_tensor, to_uint8
from physadv.core.rows import Row, append_rows
from physadv.models.cards import ModelCard
from physadv.models.resizing import InputResizing


@dataclass(frozen=True)
class BlockSource:
    """A source of frames and what is known of its block.

    Attributes:
        source: Source of frames.
        block: Block of all its frames, where it is certain.
        fallback: Block of frames that neither source, markers nor user assign.
    """

    source: FrameSource
    block: str | None = None
    fallback: str | None = None


@dataclass(frozen=True)
class CheckProgress:
    """Progress of a check.

    Attributes:
        judged: Frames classified so far.
        left_out: Frames left out so far.
        total: Frames expected; None where the number is unknown.
        row: Newest row.
        true: Block -> (frames with the true class as verdict, frames).
        success: Block -> (frames in which the goal was met, frames).
        rows: Block -> its rows so far, which continue to grow.
        frame: Newest frame, classified or not.
        place: Location of the sign in that frame.
        block: Block of that frame, where it is known.
        speed: Speed over the last frames, once there are two.
    """

    judged: int
    left_out: int
    total: int | None
    row: Row | None
    true: Mapping[str, tuple[int, int]]
    success: Mapping[str, tuple[int, int]]
    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    frame: CameraFrame | None = None
    place: SignLocation | None = None
    block: str | None = None
    speed: CheckSpeed | None = None


@dataclass(frozen=True)
class _PreparedFrame:
    """A frame ready to classify: the model's input, the sign's box in it, and the row without a
    verdict."""

    pixels: Pixels
    box: Box | None
    row: Row
    frame: CameraFrame
    place: SignLocation
    arrived_s: float


@dataclass
class CheckSession:
    """Components of a check and its counts so far.

    Attributes:
        rows: File of the rows.
        model: Model under test.
        rule: Rule of the verdict.
        locator: Finds the sign in a frame.
        examples: Sample of frames for the report.
        margin: Share of the sign's side added on each side of a crop.
        batch: Frames per forward pass.
        max_frames: Most frames per block.
        device: Device of the model.
        width: Width of the 95 % interval at which a block is finished.
        remote: Input of a person who watches.
        taken: Frames used, by block.
        judged: Frames classified, by block.
        true: Frames with the true class as verdict, by block.
        success: Frames in which the goal was met, by block.
        left_out: Frames left out, by reason.
        contradicted: Frames used despite a contradiction, by its description.
        located: Block -> frames by locating method.
        waiting: Frames of the next batch.
        newest: Newest row.
        lost: Whether a live source ended by itself.
        kept: Rows by block.
        known: (block, clip, index) of frames that earlier attempts classified.
        refused_px: Sizes of markers that were too small.
        latest: Newest frame, the sign's location and the block.
        pages: Whether the pages before the camera are the bundle's.
        speed: Frames a second, and how long a verdict takes.
    """

    rows: Path
    model: CardedModel
    rule: VerdictRule
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
    waiting: list[_PreparedFrame] = field(default_factory=list)
    newest: Row | None = None
    lost: bool = False
    kept: dict[str, list[Row]] = field(default_factory=lambda: {b: [] for b in BLOCKS})
    known: set[tuple[str, str, int]] = field(default_factory=set)
    refused_px: list[float] = field(default_factory=list)
    latest: tuple[CameraFrame | None, SignLocation | None, str | None] = (None, None, None)
    pages: PageIdentity = field(default_factory=PageIdentity)
    speed: SpeedMeter = field(default_factory=SpeedMeter)
    _verdicts: list[FrameVerdict] = field(default_factory=list)
    _narrow: dict[str, tuple[int, bool]] = field(default_factory=dict)

    def full(self, block: str) -> bool:
        """Return whether ``block`` has all its frames, or an interval as narrow as required."""
        if self.max_frames is not None and self.taken[block] >= self.max_frames:
            return True
        return self.width is not None and self._is_narrow(block, self.width)

    def _is_narrow(self, block: str, width: float) -> bool:
        """Return whether the interval is narrow enough; tested every ``STEP`` rows, and final once
        it is."""
        rows = self.kept[block]
        looked, narrow = self._narrow.get(block, (0, False))
        if not narrow and len(rows) - looked >= STEP:
            narrow = stopping_state(block_rates(block, rows, sequential=True), width).done
            self._narrow[block] = len(rows), narrow
        return narrow

    def remember(self, rows: Sequence[Row]) -> None:
        """Add ``rows`` of an earlier attempt: they count, and their frames are not classified
        again."""
        for row in rows:
            self.known.add((row["block"], row["clip"], int(row["frame"])))
            self.taken[row["block"]] += 1
            self.located[row["block"]][str(row.get("located_by", "unknown"))] += 1
            self._tally(row)

    def locate(
        self, feed: BlockSource, frame: CameraFrame
    ) -> tuple[CameraFrame, SignLocation | None]:
        """Return ``frame`` with what ``feed`` and the viewer say of its block, and the sign's
        location in it.

        Locators follow the sign from frame to frame, so every frame of a feed has to pass here,
        those that an earlier attempt classified as well.
        """
        likely = self.remote.block or feed.fallback
        frame = replace(frame, block=feed.block or frame.block, likely_block=likely)
        return frame, self.locator(frame)

    def view(self, located: LocatedFrame) -> _PreparedFrame | None:
        """Crop the model's input out of one frame.

        Args:
            located: The frame, with the sign's location.

        Returns:
            The prepared frame, or None for a frame that is left out (and counted) or already
            classified.
        """
        frame, location = located.frame, located.location
        if frame.block is not None and (frame.block, frame.clip, frame.index) in self.known:
            return None

        told = None if location is None else location.block
        block = frame.block or told or frame.likely_block
        self.latest = frame, location, block

        reason = self._unusable(frame, location, block)
        if reason is not None:
            self.left_out[reason] += 1
            return None
        # Frames that are not needed are neither used nor counted as left out.
        if (
            location is None
            or block is None
            or self.full(block)
            or (block, frame.clip, frame.index) in self.known
        ):
            return None

        if location.block in BLOCKS and location.block != block:
            self.contradicted[f"{block} frames carry the markers of the {location.block} page"] += 1
        if location.note is not None:
            self.contradicted[location.note] += 1

        self.taken[block] += 1
        self.located[block][location.by] += 1
        return self._cut(located, location, block)

    def _unusable(
        self, frame: CameraFrame, location: SignLocation | None, block: str | None
    ) -> str | None:
        """Return why a frame has to be left out; None where it can be used."""
        if location is None or (location.corners is None and self.rule.needs_place):
            return f"{block or 'unsorted'}: sign not found"
        if block not in BLOCKS:
            return "unsorted: block not known"

        if location.refused is not None:
            if location.refused == TOO_SMALL and location.marker_px is not None:
                self.refused_px.append(location.marker_px)
            return f"{block}: {location.refused}"
        other = self.pages.refusal(location, f"{block} {frame.clip}")
        if other is not None:
            return f"{block}: {other}"
        outside = location.box is not None and not overlaps_image(location.box, frame.image)
        return f"{block}: sign outside the frame" if outside else None

    def add(self, view: _PreparedFrame) -> bool:
        """Add ``view`` to the batch and finish the batch when it is full or sizes differ; return
        whether it was."""
        differs = bool(self.waiting) and self.waiting[0].pixels.shape != view.pixels.shape
        judged = self.flush() if differs else False
        self.waiting.append(view)
        if self.model.card.task == "detect":
            # Whole frames are large: one by one they are classified faster than in batches.
            self._verdicts += self._classified([view])
        return self.flush() if len(self.waiting) >= self.batch else judged

    def flush(self) -> bool:
        """Classify the batch and write its rows; return False if it was empty."""
        if not self.waiting:
            return False

        verdicts = self._verdicts or self._classified(self.waiting)
        rows = [_row(v.row, a) for v, a in zip(self.waiting, verdicts, strict=True)]
        append_rows(self.rows, rows)
        for view, row in zip(self.waiting, rows, strict=True):
            self._count(view, row)
        self.waiting, self._verdicts = [], []
        return True

    def _classified(self, views: Sequence[_PreparedFrame]) -> list[FrameVerdict]:
        """Return the model's verdict on each of ``views``, whose inputs have one size."""
        images = torch.stack([to_tensor(v.pixels) for v in views]).to(self.device)
        with torch.no_grad():
            prediction = self.model(images)
        verdicts = frame_verdicts(
            prediction, [v.box for v in views], self.rule, parts=[v.place.is_part for v in views]
        )
        now_s = time.monotonic()
        for view in views:
            self.speed.add(view.arrived_s, now_s)
        return verdicts

    def progress(self, total: int | None) -> CheckProgress:
        """Return the counts so far, of ``total`` frames expected."""
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
            *self.latest,
            self.speed.recent(),
        )

    def _cut(self, located: LocatedFrame, location: SignLocation, block: str) -> _PreparedFrame:
        frame, box = located.frame, location.box
        crop_px = None if box is None else round(max(box[2] - box[0], box[3] - box[1]))

        row: Row = {
            "clip": frame.clip,
            "block": block,
            "frame": frame.index,
            "time_s": round(frame.time_s, 4),
            "distance_m": _short(location.distance_m),
            "yaw_deg": _short(location.yaw_deg),
            "pitch_deg": _short(location.pitch_deg),
            "roll_deg": _short(location.roll_deg),
            "pose_by": location.pose_by,
            "crop_px": crop_px,
            "located_by": location.by,
        }

        if location.tracked:
            row["tracked"] = True
        if location.marker_px is not None:
            row["marker_px"] = round(location.marker_px, 1)
        if location.poses:
            row["reprojection_px"] = [round(p.error_px, 3) for p in location.poses]
        # A planar pose has two solutions; the rejected one is recorded too.
        if len(location.poses) > 1:
            other = location.poses[1]
            row["other_pose"] = [
                round(v, 4) for v in (other.distance_m, other.yaw_deg, other.pitch_deg)
            ]
        pixels = _model_input(frame.image, box, self.model.card, self.margin)
        return _PreparedFrame(pixels, box, row, frame, location, located.arrived_s)

    def _count(self, view: _PreparedFrame, row: Row) -> None:
        self._tally(row)
        self.examples.add(view.frame.image, view.place.corners, row)
        self.newest = row

    def _tally(self, row: Row) -> None:
        block = row["block"]
        self.judged[block] += 1
        self.true[block] += row["true"]
        self.success[block] += row["success"]
        self.kept[block].append(row)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _model_input(image: Pixels, box: Box | None, card: ModelCard, margin: float) -> Pixels:
    """Return what the model receives: a detector the frame, a classifier the sign's square (or the
    frame, without a box)."""
    if card.task == "detect":
        return image
    if box is not None:
        image = crop_square(image, *square_around(box, margin))
    if card.resizing is None:
        return image
    height, width = card.resizing.uncropped_size
    if image.shape[0] * width == image.shape[1] * height:
        return resize_box(image, width, height)
    whole = InputResizing((height, width), short_side=card.resizing.short_side)
    return to_uint8(whole(to_tensor(image)[None])[0].clamp(0, 1))


def _row(row: Row, result: FrameVerdict) -> Row:
    verdict = {
        "verdict": result.verdict,
        "confidence": result.confidence,
        "true_score": result.true_score,
        "true": result.true,
        "success": result.success,
    }
    others = {} if result.others is None else {"others": result.others}
    return {**row, **verdict, **others}
