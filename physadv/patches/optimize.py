"""Optimization of universal patches under EOT, with separate scenes to train, choose and report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from physadv.attacks._fused_model import fuse_model
from physadv.attacks._optimizers import CosineAdam
from physadv.attacks.patch_loop import descend_patch
from physadv.core.random_streams import generator
from physadv.core.rows import Row
from physadv.core.types import Detections, Model, Prediction
from physadv.eot.pipeline import Draw
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.evaluation.metrics.detection import DetectionMetrics, scene_rows, summarize_detection
from physadv.evaluation.metrics.intervals import RateInterval, clustered_interval, wilson_interval
from physadv.models.detectors import DetectedBoxes
from physadv.patches.task import PatchTask, sample_scenes, sign_boxes
from physadv.threat.patch_goals import Annotations, PatchGoal
from physadv.threat.printability import (
    eight_bit,
    ink_palette,
    non_printability,
    project_printable,
    total_variation,
)

BLOCKS = ("clean", "blank", "patch")
BLANK_LEVEL = 0.94
"""sRGB value of the blank control: bare paper of the sticker's shape."""


@dataclass(frozen=True)
class PatchProgress:
    """State of the optimization after a step.

    Attributes:
        step: Number of the step.
        patch: Pixels (1, 3, h, w) after it.
        best: The patch with the highest validation score so far.
        best_success: That score; -1 before the first validation.
        loss: Mean loss of the step.
        success: Validation score, on steps where it was measured.
        state: State of the optimizer, for a resumed run.
    """

    step: int
    patch: Tensor
    best: Tensor
    best_success: float
    loss: float
    success: float | None
    """Success on the validation draws, on the steps where it was measured."""
    state: object


def render_scenes(
    task: PatchTask, patch: Tensor, scenes: SceneBatch, name: tuple[str | int, ...]
) -> tuple[Tensor, Annotations]:
    """Photograph scenes with the patch on them, under one draw.

    Args:
        task: The patch problem.
        patch: Pixels (1, 3, h, w) in [0, 1]; gradients reach them.
        scenes: Scenes without a patch.
        name: Name of the draw in the random streams.

    Returns:
        Images (b, 3, h, w) in [0, 1], and what is judged in them.
    """
    draw = sample_eot(task, scenes, name)
    moved = scenes.to(task.device)
    mask = task.mask.to(task.device)
    images = task.stages.apply(patch, mask, task.placement, moved, draw)
    return images, annotations_of(task, moved)


def sample_eot(task: PatchTask, scenes: SceneBatch, name: tuple[str | int, ...]) -> Draw:
    """Return the draw called ``name`` for ``scenes``, on the device of ``task``."""
    rng = generator(task.seed, "eot", *name)
    return task.stages.sample(scenes, rng).to(task.device)


def annotations_of(task: PatchTask, scenes: SceneBatch) -> Annotations:
    """Return what is judged in ``scenes`` of ``task``: their own annotations, else the one sign in
    each."""
    if scenes.marks is not None:
        return scenes.marks
    return Annotations(sign_boxes(scenes.homography, task.sign_width_mm, scenes.images.shape[-1]))


def optimize_patch(
    task: PatchTask,
    *,
    steps: int = 400,
    draws: int = 32,
    lr: float = 0.04,
    tv: float = 0.15,
    nps: float = 0.05,
    validate_every: int = 50,
    validation_draws: int = 128,
    start: int = 0,
    patch: Tensor | None = None,
    best: tuple[Tensor, float] | None = None,
    state: object = None,
) -> Iterator[PatchProgress]:
    """Optimize a universal patch; each step sees new scenes under new draws.

    After Athalye et al. (2018), Brown et al. (2017) and Eykholt et al. (2018). Gradients are taken
    of a folded copy of a classifier; success is evaluated on the model itself.

    Args:
        task: The patch problem.
        steps: Number of steps in all.
        draws: Scenes a step.
        lr: Step size of Adam at the start of its cosine.
        tv: Weight of total variation.
        nps: Weight of non-printability.
        validate_every: Steps from one validation to the next.
        validation_draws: Fixed scenes a validation, which no step trains on.
        start: Steps taken before, for a resumed run.
        patch: Patch of a resumed run; None starts anew.
        best: Best patch of a resumed run and its score.
        state: Optimizer of a resumed run.

    Yields:
        The progress after every step; the best patch is the one with the highest validation score,
        rounded to 8 bits.

    Raises:
        ModelError: The loss is not finite, or no gradient reaches the patch.
    """
    palette = ink_palette().to(task.device)
    mask = task.mask.to(task.device)
    first = _initial(task) if patch is None else patch.to(task.device)
    kept, kept_score = best if best is not None else (first, -1.0)

    look = task.appearance.to(task.device)

    def draw_step(current: Tensor, index: int) -> tuple[Tensor, Annotations]:
        scenes = sample_scenes(task, task.scene_sources.train, draws, "train", index)
        return render_scenes(task, look.printed(current), scenes, ("train", index))

    def regularizer(current: Tensor) -> Tensor:
        smooth = tv * total_variation(look.printed(current), mask)
        return (
            smooth + nps * non_printability(current, mask, palette) + look.distance(current, mask)
        )

    goals = [task.goal_of(i).loss for i in range(len(task.models))]
    loop = descend_patch(
        first,
        render=draw_step,
        models=gradient_models(task),
        objective=goals,
        regularizer=regularizer,
        project=project_printable,
        update=CosineAdam(lr, steps),
        steps=steps,
        start=start,
        state=state,
    )
    for step in loop:
        success = None
        if step.index % validate_every == 0 or step.index == steps:
            success = validation_success(task, step.patch, validation_draws)
            if success >= kept_score:
                kept, kept_score = step.patch, success
        yield PatchProgress(
            step.index, step.patch, kept, kept_score, step.loss, success, step.state
        )


@torch.no_grad()
def gradient_models(task: PatchTask) -> list[Model]:
    """Return faster copies of the classifiers of ``task`` where they are the same function;
    detectors as they are."""
    probe = sample_scenes(task, task.scene_sources.train, 2, "probe").images.to(task.device)
    return [fuse_model(v, probe) if isinstance(v(probe), Tensor) else v for v in task.models]  # type: ignore[arg-type]


def _initial(task: PatchTask) -> Tensor:
    shape = (1, 3, *task.mask.shape[-2:])
    if task.appearance.content is not None:
        return task.appearance.content.to(task.device).clone()
    noise = torch.rand(shape, generator=generator(task.seed, "initial patch"))
    return (0.5 + 0.1 * (noise - 0.5)).to(task.device)


@torch.no_grad()
def validation_success(task: PatchTask, patch: Tensor, count: int) -> float:
    """Score a patch on fixed validation draws.

    Args:
        task: The patch problem.
        patch: Pixels (1, 3, h, w).
        count: Number of scenes.

    Returns:
        Share of objects on which the goal is met; the models' doubt breaks ties.
    """
    won, doubt, judged = 0.0, 0.0, 0
    batch = _batch_of(task)
    for first in range(0, count, batch):
        size = min(batch, count - first)
        scenes = sample_scenes(task, task.scene_sources.validation, size, "validation", first)
        images, marks = render_scenes(task, to_8bit(task, patch), scenes, ("validation", first))
        judged += len(marks.boxes)
        for number, model in enumerate(task.models):
            prediction, goal = model(images), task.goal_of(number)
            won += float(goal.succeeded(prediction, marks).sum()) / len(task.models)
            doubt += float((1 - goal.confidence_of_truth(prediction, marks)).sum()) / len(
                task.models
            )

    return (won + 1e-3 * doubt) / max(judged, 1)


def to_8bit(task: PatchTask, patch: Tensor) -> Tensor:
    """Return ``patch`` as its PNG will hold it: in the palette of ``task``, if any, and in 8
    bits."""
    return eight_bit(task.appearance.to(patch.device).printed(patch))


def _batch_of(task: PatchTask, pixels: int = 2**18) -> int:
    """How many scenes are judged at once: few whole frames, or many crops."""
    return max(8, pixels // task.scene_size.size**2)


@dataclass(frozen=True)
class PatchMeasurement:
    """Rates on held-out scenes; every block sees the same scenes under the same draws.

    Attributes:
        clean_recognised: Share of clean objects that the model recognizes.
        blank_recognised: The same with a blank sticker.
        patch_recognised: The same with the patch.
        success: Goal met with the patch, among draws whose clean control is recognized.
        blank_success: The same with the blank sticker: the effect of covering alone.
        rows: One table an object.
        detection: For a detector, misses, AP and extra boxes of each block.
    """

    clean_recognised: RateInterval
    blank_recognised: RateInterval
    patch_recognised: RateInterval
    success: RateInterval
    """Goal met with the patch, among the draws whose clean control is recognized."""
    blank_success: RateInterval
    """The same with the blank sticker: what covering alone does."""
    rows: tuple[Row, ...]
    detection: dict[str, DetectionMetrics] = field(default_factory=dict)
    """For a detector: misses, AP and extra boxes of each block."""


@torch.no_grad()
def measure_patch(
    task: PatchTask,
    patch: Tensor,
    *,
    draws: int = 400,
    name: str = "test",
    model: int = 0,
    report: Callable[[int], None] | None = None,
) -> PatchMeasurement:
    """Measure a patch on the test scenes, with clean and blank controls.

    Args:
        task: The patch problem.
        patch: Pixels (1, 3, h, w).
        draws: Number of scenes.
        name: Name of the draws in the random streams.
        model: Number of the model of the task that judges.
        report: Called with the number of scenes done.

    Returns:
        Rates with intervals, clustered by photo where scenes are photos.
    """
    rows: list[Row] = []
    batch = _batch_of(task)
    paper = (
        BLANK_LEVEL if task.colors is None else 1.0
    )  # through a measured printer, bare paper is what white prints as
    textures = {"blank": torch.full_like(patch, paper), "patch": to_8bit(task, patch)}
    for first in range(0, draws, batch):
        size = min(batch, draws - first)
        scenes = sample_scenes(task, task.scene_sources.test, size, name, first)
        rows += _judged(task, model, textures, scenes, (name, first))
        if report is not None:
            report(first + size)

    return summarize_rows(rows, by_group=task.scene_sources.kind == "photos")


def _judged(
    task: PatchTask,
    model: int,
    textures: dict[str, Tensor],
    scenes: SceneBatch,
    name: tuple[str, int],
) -> list[Row]:
    """The rows of one batch of scenes: every block under the same draw."""
    goal = task.goal_of(model)
    answers: dict[str, list[Row]] = {}
    found: dict[str, list[Row]] = {}
    clean: list[DetectedBoxes] | None = None
    for block in BLOCKS:
        images, marks = _block(task, block, textures, scenes, name)
        prediction = task.models[model](images)
        answers[block] = _answers(goal, prediction, marks)
        if isinstance(prediction, Detections):
            owner = torch.arange(len(images)) if marks.scene is None else marks.scene
            label = goal.true_class if goal.kind != "create" else int(goal.target_class or 0)
            truth = marks.boxes if goal.kind != "create" else marks.boxes[:0]
            tables, seen = scene_rows(
                prediction, clean, truth, owner[: len(truth)], label, goal.score_threshold
            )
            found[block], clean = tables, clean or seen

    several = marks.scene is not None
    owners = marks.scene.tolist() if marks.scene is not None else range(len(scenes.groups))
    rows: list[Row] = []
    for number, owner in enumerate(owners):
        row: Row = {"draw": name[1] + owner, "group": scenes.groups[owner]}
        if several:
            row["object"] = sum(r["draw"] == row["draw"] for r in rows)
        row |= {block: answers[block][number] for block in BLOCKS}
        if found and row.get("object", 0) == 0:
            row["scene"] = {block: found[block][owner] for block in BLOCKS}
        rows.append(row)

    return rows


def _answers(goal: PatchGoal, prediction: Prediction, marks: Annotations) -> list[Row]:
    parts = (
        goal.recognized(prediction, marks).tolist(),
        goal.succeeded(prediction, marks).tolist(),
        goal.confidence_of_truth(prediction, marks).tolist(),
    )
    return [
        {"recognised": r, "success": s, "confidence": round(c, 4)}
        for r, s, c in zip(*parts, strict=True)
    ]


def _block(
    task: PatchTask,
    block: str,
    textures: dict[str, Tensor],
    scenes: SceneBatch,
    name: tuple[str | int, ...],
) -> tuple[Tensor, Annotations]:
    if block != "clean":
        return render_scenes(task, textures[block].to(task.device), scenes, name)
    draw = sample_eot(task, scenes, name)
    moved = scenes.to(task.device)
    return task.stages.without_patch(moved, draw), annotations_of(task, moved)


def summarize_rows(rows: Sequence[Row], *, by_group: bool) -> PatchMeasurement:
    """Return the rates of measured rows, as a bundle's rows.jsonl holds them.

    Args:
        rows: One table an object.
        by_group: Whether intervals are clustered by photo.

    Returns:
        Rates with their 95 % intervals.
    """

    def rate(block: str, key: str, chosen: Sequence[Row]) -> RateInterval:
        hits = [bool(row[block][key]) for row in chosen]
        return (
            clustered_interval(hits, [row["group"] for row in chosen])
            if by_group
            else wilson_interval(sum(hits), len(hits))
        )

    valid = [row for row in rows if row["clean"]["recognised"]]
    metrics = ((block, summarize_detection(rows, block)) for block in BLOCKS)
    detection = {block: found for block, found in metrics if found is not None}
    return PatchMeasurement(
        rate("clean", "recognised", rows),
        rate("blank", "recognised", rows),
        rate("patch", "recognised", rows),
        rate("patch", "success", valid),
        rate("blank", "success", valid),
        tuple(rows),
        detection,
    )
