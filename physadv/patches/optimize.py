"""Universal patches under EOT: optimized, chosen and measured on three sets of scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.attacks._fused_model import fuse_model
from physadv.attacks._optimizers import CosineAdam
from physadv.attacks.patch_loop import PatchStep, Victim, View, descend_patch
from physadv.attacks.patch_search import SearchMethod, search_patch
from physadv.core.memory_limit import MemoryLimit
from physadv.core.random_streams import generator
from physadv.core.rows import Row
from physadv.core.types import Detections, Model, Prediction
from physadv.eot.pipeline import Draw
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.warp import square_boxes
from physadv.evaluation.metrics.detection import DetectionMetrics, scene_rows, summarize_detection
from physadv.evaluation.metrics.intervals import RateInterval, clustered_interval, wilson_interval
from physadv.models.detectors import DetectedBoxes
from physadv.patches.apparent_size import describe_objects
from physadv.patches.task import PatchTask, sample_scenes
from physadv.threat.patch_goals import Annotations, PatchGoal
from physadv.threat.printability import (
    eight_bit,
    ink_palette,
    non_printability,
    project_printable,
    total_variation,
)

BLOCKS = ("clean", "blank", "patch")
"""Measured blocks: without a patch, with a blank one, with the patch."""
_CROPS_A_FRAME = 4
"""Crops that a classifier is shown in a step for each frame that a detector beside it is shown: a
frame costs many times a crop."""
BLANK_LEVEL = 0.94
"""sRGB value of the blank control: bare paper of the sticker's shape."""


@dataclass(frozen=True)
class PatchProgress:
    """State of an optimization after one step.

    Args:
        step: Number of the step, from 1.
        patch: Current patch (1, 3, ph, pw).
        best: Patch with the highest success on the validation draws so far.
        best_success: That success; -1 before the first validation.
        loss: Loss of the step.
        success: Success of ``patch`` on the validation draws, on steps where it was measured.
        state: State of the optimizer, to resume from.
        best_rate: Success of ``best`` among the validation draws whose clean control is recognized,
            as :func:`measure_patch` counts it; None before the first validation.
    """

    step: int
    patch: Tensor
    best: Tensor
    best_success: float
    loss: float
    success: float | None
    state: object
    best_rate: RateInterval | None = None


def render_scenes(
    task: PatchTask, patch: Tensor, scenes: SceneBatch, name: tuple[str | int, ...]
) -> tuple[Tensor, Annotations]:
    """Photograph scenes with a patch on them, under one draw of EOT.

    Args:
        task: The patch problem.
        patch: Patch (1, 3, ph, pw) in [0, 1] on the task's device.
        scenes: Scenes (b) without a patch.
        name: Name of the draw's random stream.

    Returns:
        Images (b, 3, h, w) in [0, 1], and what is judged in them.
    """
    return StepDraws.sample(task, scenes, name).render(patch)


@dataclass
class StepDraws:
    """Scenes and draws of a step, which are rendered whole or by some of their rows.

    Args:
        task: Its stages, placement, shape and appearance may be another's of the same scenes.
        scenes: The scenes, on the task's device.
        draw: One draw of EOT for all of them.
    """

    task: PatchTask
    scenes: SceneBatch
    draw: Draw

    @classmethod
    def sample(cls, task: PatchTask, scenes: SceneBatch, name: tuple[str | int, ...]) -> StepDraws:
        """Return ``scenes`` on the task's device, with the draw of EOT called ``name``."""
        return cls(task, scenes.to(task.device), sample_eot(task, scenes, name))

    def render(
        self, patch: Tensor, rows: slice | None = None, *, task: PatchTask | None = None
    ) -> tuple[Tensor, Annotations]:
        """Photograph ``patch`` in the scenes ``rows``, or in all.

        Args:
            patch: Patch (1, 3, ph, pw) in [0, 1], as it is printed.
            rows: Slice with both ends; None for all scenes.
            task: Where the patch lies and how it is shaped, where that is not as in the own task.

        Returns:
            Images (b, 3, h, w) in [0, 1], and what is judged in them.
        """
        placed, scenes, draw = task or self.task, self.scenes, self.draw
        count = len(scenes.images)
        if rows is not None and (rows.start, rows.stop) != (0, count):
            scenes, draw = scenes.part(rows), placed.stages.part(draw, rows, count)
        mask = placed.mask.to(placed.device)
        images = placed.stages.apply(patch, mask, placed.placement, scenes, draw)
        return images, annotations_of(self.task, scenes)


def divisible_draws(task: PatchTask, count: int) -> int | None:
    """Return ``count`` where the draws of a step can be divided, else None."""
    return count if task.stages.by_scene else None


def sample_eot(task: PatchTask, scenes: SceneBatch, name: tuple[str | int, ...]) -> Draw:
    """Return the draw of EOT called ``name`` for ``scenes`` of ``task``, on the task's device."""
    stream = generator(task.seed, "eot", *name)
    return task.stages.sample(scenes, stream).to(task.device)


def annotations_of(task: PatchTask, scenes: SceneBatch) -> Annotations:
    """Return what is judged in ``scenes`` of ``task``: their own annotations, else the one sign."""
    if scenes.marks is not None:
        return scenes.marks
    size = scenes.images.shape[-1]
    return Annotations(square_boxes(scenes.homography, task.sign_width_mm, size))


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
    method: str = "gradient",
    memory: MemoryLimit | None = None,
) -> Iterator[PatchProgress]:
    """Optimize a universal patch under expectation over transformation.

    Each step is made on new scenes under new draws (Athalye 2018; Brown 2017; Eykholt 2018). Every
    ``validate_every`` steps the patch is measured, in 8 bits, on fixed draws that no step trains
    on; the best of these is kept. Steps are made on fused copies of classifiers, measurements on
    the models themselves. Give ``start``, ``patch``, ``best`` and ``state`` of a saved
    :class:`PatchProgress` to resume. Processes of the task take the same steps, each with its share
    of the draws.

    Args:
        task: The patch problem; its appearance limits the patch to a palette or a reference image.
        steps: Number of steps in all, those before ``start`` included.
        draws: Scenes and EOT draws a step.
        lr: Step size of Adam, which falls to 0 along a cosine.
        tv: Weight of total variation.
        nps: Weight of non-printability.
        validate_every: Steps between two validations.
        validation_draws: Draws of a validation.
        start: Steps already made.
        patch: Patch to start from (1, 3, ph, pw); None: gray with a little noise, or the reference
            image.
        best: Best patch so far and its success.
        state: State of the optimizer.
        method: "gradient"; or "square" or "evolution", which search by scores alone.
        memory: How many draws memory holds at once, which the gradient steps learn.

    Yields:
        The state after each step.

    Example:
        >>> from physadv.patches.config import PatchConfig
        >>> task = PatchTask.from_config(PatchConfig(resolution=8))
        >>> *_, last = optimize_patch(task, steps=2, draws=2, validation_draws=4)
        >>> last.step, last.success is not None
        (2, True)
    """
    first = initial_patch(task) if patch is None else patch.to(task.device)
    best_patch, best_success = best if best is not None else (first, -1.0)

    loop: Iterator[PatchStep]
    shared: dict[str, Any] = {
        "regularizer": regularizer_of(task, tv, nps),
        "project": project_printable,
        "update": CosineAdam(lr, steps),
        "steps": steps,
        "start": start,
        "state": state,
    }
    if method == "gradient":
        views = training_views(task, draws)
        loop = descend_patch(first, views=views, processes=task.processes, memory=memory, **shared)
    else:
        task.processes.refuse_several("A search by scores alone")
        views = training_views(task, draws, by_scores=True)
        loop = search_patch(
            first, views=views, method=cast(SearchMethod, method), seed=task.seed, **shared
        )
    best_rate = None
    for step in loop:
        success = None
        if step.index % validate_every == 0 or step.index == steps:
            success = validation_success(task, step.patch, validation_draws)
            is_best = success >= best_success
            if is_best:
                best_patch, best_success = step.patch, success
            if is_best or best_rate is None:  # None as well after a resumed run's start
                best_rate = validation_rate(task, best_patch, validation_draws)
        yield PatchProgress(
            step.index,
            step.patch,
            best_patch,
            best_success,
            step.loss,
            success,
            step.state,
            best_rate,
        )


def training_views(task: PatchTask, draws: int, *, by_scores: bool = False) -> list[View]:
    """Return the pictures of each step and the models that are shown them.

    All models are shown the same scenes under the same draws, as far as their sizes allow.

    Args:
        task: The patch problem.
        draws: Scenes and EOT draws a step, see :func:`training_draws`.
        by_scores: Whether scores alone are asked for: the models then stay as they are.
    """
    parts = task.by_scene_size()
    appearance = task.appearance.to(task.device)

    def view_of(part: PatchTask, count: int) -> View:
        drawn: dict[int, StepDraws] = {}  # those of the last step alone

        def render(
            current: Tensor, index: int, rows: slice | None = None
        ) -> tuple[Tensor, Annotations]:
            if index not in drawn:
                drawn.clear()
                scenes = sample_scenes(part, part.scene_sources.train, count, "train", index)
                drawn[index] = StepDraws.sample(part, scenes, ("train", index))
            return drawn[index].render(appearance.printed(current), rows)

        victims = training_victims(part, by_scores=by_scores)
        return View(render, victims, divisible_draws(part, count))

    counts = training_draws(parts, draws)
    return [view_of(part, count) for part, count in zip(parts, counts, strict=True)]


def training_draws(parts: Sequence[PatchTask], draws: int) -> list[int]:
    """Return how many of ``draws`` each of a task's ``parts`` is shown in a step.

    It is all of them; of frames a quarter where there are crops beside them.
    """
    beside_crops = not all(part.scene_size.whole_frame for part in parts)
    frames = max(1, draws // _CROPS_A_FRAME) if beside_crops else draws
    return [frames if part.scene_size.whole_frame else draws for part in parts]


def training_victims(task: PatchTask, *, by_scores: bool = False) -> list[Victim]:
    """Return the models of ``task`` for gradients, or as they are, each with its goal."""
    goals = [task.goal_of(number) for number in range(len(task.models))]
    models = task.models if by_scores else gradient_models(task)
    return [
        Victim(model, goal.loss, goal.succeeded) for model, goal in zip(models, goals, strict=True)
    ]


def regularizer_of(task: PatchTask, tv: float, nps: float) -> Callable[[Tensor], Tensor]:
    """Return what is added to the loss of a patch (1, 3, ph, pw), a scalar.

    Args:
        task: Its mask, and its palette or reference image.
        tv: Weight of total variation.
        nps: Weight of non-printability.
    """
    palette = ink_palette().to(task.device)
    mask = task.mask.to(task.device)
    appearance = task.appearance.to(task.device)

    def regularizer(current: Tensor) -> Tensor:
        smoothness = tv * total_variation(appearance.printed(current), mask)
        printability = nps * non_printability(current, mask, palette)
        return smoothness + printability + appearance.distance(current, mask)

    return regularizer


@torch.no_grad()
def gradient_models(task: PatchTask) -> list[Model]:
    """Return the models of ``task`` for gradients: classifiers fused, detectors as they are.

    A fused copy is the same function and faster; where it is not the same, it is not used.
    """
    scenes = sample_scenes(task, task.scene_sources.train, 2, "probe")
    probe = scenes.images.to(task.device)
    return [
        fuse_model(model, probe) if isinstance(model(probe), Tensor) else model  # type: ignore[arg-type]
        for model in task.models
    ]


def initial_patch(task: PatchTask, number: int = 0) -> Tensor:
    """Return what an optimization of ``task`` begins with, (1, 3, ph, pw) on its device.

    It is the reference image; without one, gray with a little noise, or for a ``number`` over 0
    one of many textures of soft random blots.
    """
    if task.appearance.content is not None:
        return task.appearance.content.to(task.device).clone()
    height, width = task.mask.shape[-2:]
    if number > 0:
        blots = torch.rand(1, 3, 4, 4, generator=generator(task.seed, "initial patch", number))
        soft = F.interpolate(blots, size=(height, width), mode="bilinear", align_corners=True)
        return soft.to(task.device)
    noise = torch.rand((1, 3, height, width), generator=generator(task.seed, "initial patch"))
    return (0.5 + 0.1 * (noise - 0.5)).to(task.device)


def blank_patch(task: PatchTask) -> Tensor:
    """Return the blank control of ``task``: bare paper (1, 3, ph, pw) on its device."""
    return torch.full((1, 3, *task.mask.shape[-2:]), _paper_of(task), device=task.device)


@torch.no_grad()
def validation_success(task: PatchTask, patch: Tensor, count: int) -> float:
    """Measure a patch on fixed validation draws.

    Args:
        task: The patch problem; the models of an ensemble count alike.
        patch: Patch (1, 3, ph, pw) in [0, 1]; measured in 8 bits.
        count: Number of draws.

    Returns:
        Share of objects on which the goal is met, plus 0.001 of the models' mean doubt in the
        truth, which breaks ties.
    """
    parts = task.by_scene_size()
    scores = [_validation_score(part, patch, count) * len(part.models) for part in parts]
    return sum(scores) / len(task.models)


def _validation_score(task: PatchTask, patch: Tensor, count: int) -> float:
    """What :func:`validation_success` returns, for models that are shown the same pictures."""
    batch = _batch_size(task)

    def measured(first: int) -> list[tuple[float, float, int]]:
        size = min(batch, count - first)
        scenes = sample_scenes(task, task.scene_sources.validation, size, "validation", first)
        images, annotations = render_scenes(
            task, to_8bit(task, patch), scenes, ("validation", first)
        )
        successes, doubt = 0.0, 0.0
        for number, model in enumerate(task.models):
            prediction, goal = model(images), task.goal_of(number)
            met = float(goal.succeeded(prediction, annotations).sum())
            unsure = float((1 - goal.confidence_of_truth(prediction, annotations)).sum())
            successes += met / len(task.models)
            doubt += unsure / len(task.models)
        return [(successes, doubt, len(annotations.boxes))]

    rows = task.processes.divided(range(0, count, batch), measured)
    successes, doubt = sum(row[0] for row in rows), sum(row[1] for row in rows)
    return (successes + 1e-3 * doubt) / max(sum(row[2] for row in rows), 1)


def validation_rate(task: PatchTask, patch: Tensor, count: int) -> RateInterval:
    """Return the success of ``patch`` among the valid ones of ``count`` validation draws.

    It is counted as :func:`measure_patch` counts it in the end, on other draws.
    """
    return measure_patch(task, patch, draws=count, part="validation").success


def measure_controls(task: PatchTask, draws: int = 128) -> PatchMeasurement:
    """Measure the clean and the blank control on validation draws, before there is a patch.

    Args:
        task: The patch problem.
        draws: Number of scenes and draws.

    Returns:
        The rates; a blank patch stands in the place of the patch.
    """
    return measure_patch(task, blank_patch(task), draws=draws, part="validation")


def to_8bit(task: PatchTask, patch: Tensor) -> Tensor:
    """Return ``patch`` as its PNG stores it: in the palette of ``task``, if any, and in 8 bits."""
    return eight_bit(task.appearance.to(patch.device).printed(patch))


def _batch_size(task: PatchTask, pixels: int = 2**18) -> int:
    """Number of scenes that are judged at once: few whole frames, or many crops."""
    return max(8, pixels // task.scene_size.size**2)


@dataclass(frozen=True)
class PatchMeasurement:
    """Rates on held-out scenes and draws; every block has the same scenes and the same draws.

    Args:
        clean_recognised: Draws recognized as the true class without a patch.
        blank_recognised: The same with the blank patch.
        patch_recognised: The same with the patch.
        success: Goal met with the patch, among the draws whose clean control is recognized.
        blank_success: Goal met with the blank patch, among the same: the effect of covering alone.
        rows: One row an object and draw.
        detection: For a detector, misses, AP and extra boxes by block.
    """

    clean_recognised: RateInterval
    blank_recognised: RateInterval
    patch_recognised: RateInterval
    success: RateInterval
    blank_success: RateInterval
    rows: tuple[Row, ...]
    detection: dict[str, DetectionMetrics] = field(default_factory=dict)


@torch.no_grad()
def measure_patch(
    task: PatchTask,
    patch: Tensor,
    *,
    draws: int = 400,
    name: str = "test",
    part: Literal["test", "validation"] = "test",
    model: int = 0,
    report: Callable[[int], None] | None = None,
) -> PatchMeasurement:
    """Measure a patch on held-out scenes, with a clean and a blank control.

    Args:
        task: The patch problem.
        patch: Patch (1, 3, ph, pw) in [0, 1]; measured in 8 bits.
        draws: Number of scenes and draws.
        name: Name of their random stream; that of ``part`` for validation scenes.
        part: Scenes: "test", or "validation" for the draws that choose the best patch.
        model: Number of the task's model that judges.
        report: Called with the number of draws so far.

    Returns:
        The rates; in photos their intervals are clustered by photo. For a detector the first row of
        each scene also holds its boxes (:mod:`physadv.evaluation.metrics.detection`).

    Example:
        >>> from physadv.patches.config import PatchConfig
        >>> task = PatchTask.from_config(PatchConfig(resolution=8))
        >>> measured = measure_patch(task, torch.full((1, 3, *task.mask.shape[-2:]), 0.5), draws=8)
        >>> measured.clean_recognised.n
        8
    """
    task = task.only([model])
    textures = {"blank": blank_patch(task), "patch": to_8bit(task, patch)}
    source, stream = task.scene_sources.test, name
    if part == "validation":
        source, stream = task.scene_sources.validation, part

    batch = _batch_size(task)

    def judged(first: int) -> list[Row]:
        size = min(batch, draws - first)
        scenes = sample_scenes(task, source, size, stream, first)
        rows = _judged_rows(task, textures, scenes, (stream, first))
        if report is not None:
            report(first + size)
        return rows

    rows = task.processes.divided(range(0, draws, batch), judged)
    return summarize_rows(rows, by_group=task.scene_sources.clustered)


def _paper_of(task: PatchTask) -> float:
    """sRGB value of bare paper: through a measured printer, what white prints as."""
    return BLANK_LEVEL if task.colors is None else 1.0


def _judged_rows(
    task: PatchTask,
    textures: dict[str, Tensor],
    scenes: SceneBatch,
    name: tuple[str, int],
) -> list[Row]:
    """The rows of one batch of scenes: every block under the same draw."""
    (model,), goal = task.models, task.goal
    verdicts: dict[str, list[Row]] = {}
    scene_tables: dict[str, list[Row]] = {}
    clean: list[DetectedBoxes] | None = None
    for block in BLOCKS:
        images, annotations = _render_block(task, block, textures, scenes, name)
        prediction = model(images)
        verdicts[block] = _verdict_rows(goal, prediction, annotations)
        if isinstance(prediction, Detections):
            tables, boxes = _scene_tables(goal, prediction, annotations, clean)
            scene_tables[block], clean = tables, clean or boxes

    # An object is a row; the boxes of a scene stand in the row of its first object.
    several = annotations.scene is not None
    owners = annotations.scene.tolist() if annotations.scene is not None else range(len(images))
    views = describe_objects(
        scenes, task.ranges, task.sign_width_mm, whole_frame=task.scene_size.whole_frame
    )
    rows: list[Row] = []
    for number, owner in enumerate(owners):
        row: Row = {"draw": name[1] + owner, "group": scenes.groups[owner]}
        if several:
            row["object"] = sum(earlier["draw"] == row["draw"] for earlier in rows)
        row |= views[number]
        row |= {block: verdicts[block][number] for block in BLOCKS}
        if scene_tables and row.get("object", 0) == 0:
            row["scene"] = {block: scene_tables[block][owner] for block in BLOCKS}
        rows.append(row)
    return rows


def _scene_tables(
    goal: PatchGoal,
    prediction: Detections,
    annotations: Annotations,
    clean: list[DetectedBoxes] | None,
) -> tuple[list[Row], list[DetectedBoxes]]:
    """What a detector found in each scene against the truth, and its boxes."""
    creates = goal.kind == "create"
    label = int(goal.target_class or 0) if creates else goal.true_class
    truth = annotations.boxes[:0] if creates else annotations.boxes
    owner = annotations.scene
    if owner is None:
        owner = torch.arange(len(prediction.boxes))
    return scene_rows(prediction, clean, truth, owner[: len(truth)], label, goal.score_threshold)


def _verdict_rows(goal: PatchGoal, prediction: Prediction, annotations: Annotations) -> list[Row]:
    """Recognized, success and confidence of each object."""
    recognized = goal.recognized(prediction, annotations).tolist()
    success = goal.succeeded(prediction, annotations).tolist()
    confidence = goal.confidence_of_truth(prediction, annotations).tolist()
    return [
        {"recognised": r, "success": s, "confidence": round(c, 4)}
        for r, s, c in zip(recognized, success, confidence, strict=True)
    ]


def _render_block(
    task: PatchTask,
    block: str,
    textures: dict[str, Tensor],
    scenes: SceneBatch,
    name: tuple[str | int, ...],
) -> tuple[Tensor, Annotations]:
    """The scenes of one block, with its texture or without a patch."""
    if block != "clean":
        return render_scenes(task, textures[block].to(task.device), scenes, name)
    draw = sample_eot(task, scenes, name)
    moved = scenes.to(task.device)
    return task.stages.without_patch(moved, draw), annotations_of(task, moved)


def summarize_rows(rows: Sequence[Row], *, by_group: bool) -> PatchMeasurement:
    """Compute the rates of ``rows``, such as those of a bundle's rows.jsonl.

    ``by_group`` clusters the intervals by the rows' group, for draws of few photos.

    Example:
        >>> verdict = {"recognised": True, "success": False}
        >>> row = {"group": "a", "clean": verdict, "blank": verdict, "patch": verdict}
        >>> summarize_rows([row], by_group=False).success.n
        1
    """

    def rate(block: str, key: str, chosen: Sequence[Row]) -> RateInterval:
        hits = [bool(row[block][key]) for row in chosen]
        if by_group:
            return clustered_interval(hits, [row["group"] for row in chosen])
        return wilson_interval(sum(hits), len(hits))

    valid = [row for row in rows if row["clean"]["recognised"]]
    metrics = ((block, summarize_detection(rows, block)) for block in BLOCKS)
    return PatchMeasurement(
        clean_recognised=rate("clean", "recognised", rows),
        blank_recognised=rate("blank", "recognised", rows),
        patch_recognised=rate("patch", "recognised", rows),
        success=rate("patch", "success", valid),
        blank_success=rate("blank", "success", valid),
        rows=tuple(rows),
        detection={block: metric for block, metric in metrics if metric is not None},
    )
