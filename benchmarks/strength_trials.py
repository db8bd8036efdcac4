"""Cheap trials of what makes a small sticker strong on `signs`: shapes, targets, losses.

    python benchmarks/strength_trials.py shapes      # bars, grids, rings, frames, arcs, crosses
    python benchmarks/strength_trials.py targets     # every class as the target, three stickers
    python benchmarks/strength_trials.py free        # a mask of 8.3 % that is optimized, too
    python benchmarks/strength_trials.py losses      # losses, step sizes, dropped regions, batches
    python benchmarks/strength_trials.py table

All stickers cover 8.3 % of the sign. Those of one part are made at the same time on the same scenes
and draws of eleven training faces, and judged on five other training faces, whole and on other
backgrounds; the held-out faces that strength.py reports play no part. One row a sticker in
strength_trials.jsonl; those that exist are not made again.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.attacks._optimizers import CosineAdam
from physadv.core.rows import append_rows, read_rows
from physadv.core.types import Model
from physadv.eot.mask_shapes import make_mask
from physadv.eot.pipeline import Draw
from physadv.eot.placement import Placement
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.scenes.sign_faces import TRAINING_FACES
from physadv.eot.scenes.signs import DrawnScenes
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import annotations_of, gradient_models, sample_eot
from physadv.patches.task import PatchTask, sample_scenes
from physadv.patches.visibility import measure_visibility, visible_ranges
from physadv.threat.patch_goals import Annotations, PatchGoal

ROWS = Path(__file__).with_suffix(".jsonl")
SIZE_MM, SEED, SIGN_MM = (136.6, 105.1), 11, 457.0
AREA_MM2 = SIZE_MM[0] * SIZE_MM[1]
STOP, BACKGROUND = 14, 43
JUDGED_FACES = {
    "STOP, Public Sans",
    "STOP, Cabin Condensed",
    "ALTO, Barlow Condensed",
    "ARRÊT, Asap Condensed",
    "СТОП, Roboto Condensed Cyrillic",
}
AIMS: dict[str, dict[str, int]] = {
    "any": {},
    "any but background": {"avoided_class": BACKGROUND},
    "speed limit 100": {"target_class": 7},
    "speed limit 30": {"target_class": 1},
}
Bounds = tuple[float, ...]


@dataclass
class Trial:
    """A sticker on its way: its shape, place, goal and texture (1, 3, ph, pw)."""

    name: str
    mask: Tensor
    placement: Placement
    goal: PatchGoal
    patch: Tensor
    update: CosineAdam
    state: Any

    @classmethod
    def of(
        cls,
        name: str,
        mask: Tensor,
        size_mm: tuple[float, float],
        *,
        aim: dict[str, int],
        steps: int,
        lr: float = 0.12,
        center_mm: tuple[float, float] = (0.0, 0.0),
    ) -> Trial:
        """A trial that begins gray."""
        goal = PatchGoal("targeted" if "target_class" in aim else "untargeted", STOP, **aim)
        patch = torch.full((1, 3, *mask.shape[-2:]), 0.5)
        update = CosineAdam(lr, steps)
        placement = Placement(*size_mm, center_mm)
        return cls(name, mask, placement, goal, patch, update, update.init(patch))


@dataclass(frozen=True)
class Step:
    """What all trials are shown in one step."""

    scenes: SceneBatch
    draw: Draw
    annotations: Annotations

    @classmethod
    def sample(cls, task: PatchTask, kind: str, count: int, *name: str | int) -> Step:
        """Draw ``count`` scenes of the part called ``kind``."""
        scenes = sample_scenes(task, getattr(task.scene_sources, kind), count, *name)
        return cls(scenes, sample_eot(task, scenes, name), annotations_of(task, scenes))

    def photograph(self, task: PatchTask, trial: Trial, patch: Tensor, mask: Tensor) -> Tensor:
        """The scenes with ``patch`` where ``trial`` lies."""
        return task.stages.apply(patch, mask, trial.placement, self.scenes, self.draw)


def trials_task() -> PatchTask:
    """`signs`, with eleven training faces to optimize on and the five others to judge on."""
    task = PatchTask.from_config(PatchConfig(size_mm=SIZE_MM, seed=SEED))
    task = replace(task, ranges=visible_ranges(task, measure_visibility(task)))
    sources, parts = task.scene_sources, []
    for source, judges in ((sources.train, False), (sources.validation, True)):
        assert isinstance(source, DrawnScenes)  # the configuration names no photos
        faces = [face for face in TRAINING_FACES if (face.name in JUDGED_FACES) == judges]
        parts.append(DrawnScenes(faces, source.backgrounds, SIGN_MM))
    train, judged = parts
    return replace(task, scene_sources=replace(sources, train=train, validation=judged))


def descend(task: PatchTask, trials: Sequence[Trial], steps: int, draws: int, name: str) -> None:
    """Make ``steps`` steps of every trial."""
    (model,) = gradient_models(task)
    for index in range(steps):
        shown = Step.sample(task, "train", draws, name, index)
        for trial in trials:
            patch = trial.patch.requires_grad_()
            images = shown.photograph(task, trial, patch, trial.mask)
            loss = trial.goal.loss(model(images), shown.annotations).mean()
            move(trial, torch.autograd.grad(loss, patch)[0])


def move(trial: Trial, gradient: Tensor) -> None:
    """One step of a trial against ``gradient``."""
    moved = trial.update.step(trial.patch.detach(), gradient, trial.state)
    trial.patch = moved.clamp(0, 1).detach()


@torch.no_grad()
def judged_rows(
    task: PatchTask, trials: Sequence[Trial], part: str, draws: int
) -> list[dict[str, Any]]:
    """Success of each trial and of its blank on the judged faces, with the class most often read."""
    model = task.models[0]
    valid: list[Tensor] = []
    read: dict[str, list[Tensor]] = {trial.name: [] for trial in trials}
    blank: dict[str, list[Tensor]] = {trial.name: [] for trial in trials}
    for first in range(0, draws, 64):
        shown = Step.sample(task, "validation", min(64, draws - first), "kept", first)
        clean = model(task.stages.without_patch(shown.scenes, shown.draw))
        valid.append(classes(clean) == STOP)
        for trial in trials:
            for kept, patch in (
                (read, trial.patch),
                (blank, torch.full_like(trial.patch, 0.94)),
            ):
                images = shown.photograph(task, trial, patch, trial.mask)
                kept[trial.name].append(classes(model(images)))

    counted, rows = torch.cat(valid), []
    for trial in trials:
        verdicts = torch.cat(read[trial.name])[counted]
        wrong, covered = verdicts[verdicts != STOP], torch.cat(blank[trial.name])[counted]
        rows.append(
            {
                "part": part,
                "name": trial.name,
                "success": wilson_interval(len(wrong), len(verdicts)).as_dict(),
                "blank": wilson_interval(int((covered != STOP).sum()), len(covered)).as_dict(),
                "read_as": int(wrong.mode().values) if len(wrong) else None,
            }
        )
    return rows


def classes(prediction: Any) -> Tensor:
    """Classes (b,) with the highest logit."""
    return torch.as_tensor(prediction).argmax(1)


def shape_trials(steps: int = 20) -> Iterator[Trial]:
    """Stickers of many shapes in the middle of the sign."""
    aim = AIMS["any but background"]
    for count in (2, 3, 4, 5, 6):
        for width in (110, 145, 180, 225):
            for height in (180, 220, 260, 300, 340):
                share = AREA_MM2 / (width * height)
                fits = width / 2 + height / 2 <= SIGN_MM / 2**0.5
                if share < 0.9 and fits:
                    size = (float(width), float(height))
                    mask = make_mask(f"bars:{count}:{share:.4f}", *size, longest_px=72)
                    yield Trial.of(
                        f"{count} bars, {width} x {height}", mask, size, aim=aim, steps=steps
                    )
    for rows, columns in ((1, 3), (1, 4), (1, 5), (1, 6), (3, 3), (4, 4), (5, 5), (6, 6), (8, 8)):
        for size in ((145.0, 180.0), (180.0, 180.0), (180.0, 260.0), (225.0, 260.0)):
            mask = grid_mask(rows, columns, *size)
            name = f"grid of {rows} x {columns}, {size[0]:.0f} x {size[1]:.0f}"
            yield Trial.of(name, mask, size, aim=aim, steps=steps)
    for name, mask in whole_sign_masks().items():
        yield Trial.of(name, mask, (SIGN_MM, SIGN_MM), aim=aim, steps=steps)


def grid_mask(rows: int, columns: int, width_mm: float, height_mm: float) -> Tensor:
    """Evenly spaced rectangles, 8.3 % of the sign in all."""
    share = AREA_MM2 / (width_mm * height_mm)
    if rows == 1:
        bars = make_mask(f"bars:{columns}:{share:.4f}", height_mm, width_mm, longest_px=80)
        return bars.transpose(-1, -2).contiguous()
    level = make_mask(f"bars:{rows}:{share**0.5:.4f}", width_mm, height_mm, longest_px=80)
    upright = make_mask(f"bars:{columns}:{share**0.5:.4f}", height_mm, width_mm, longest_px=80)
    return level * upright.transpose(-1, -2)


def whole_sign_masks(px: int = 96, fine: int = 4) -> dict[str, Tensor]:
    """Rings, frames, arcs, crosses and upright bars anywhere on the sign, of the same area."""
    axis = (torch.arange(px * fine) + 0.5) / (px * fine) * SIGN_MM - SIGN_MM / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius, square = (x * x + y * y).sqrt(), torch.maximum(x.abs(), y.abs())
    octagon = torch.maximum(square, (x.abs() + y.abs()) / 2**0.5)
    upward = (torch.atan2(y, x).abs() - math.pi / 2).abs()

    shapes: dict[str, Callable[[float], Tensor]] = {}
    for r in (70, 100, 130, 150, 170, 190, 205):
        shapes[f"ring of {r} mm"] = lambda t, r=r: (radius - r).abs() < t  # type: ignore[misc]
    for r in (110, 150, 180):
        shapes[f"square frame of {r} mm"] = lambda t, r=r: (square - r).abs() < t  # type: ignore[misc]
    for r in (150, 180, 205):
        shapes[f"octagon of {r} mm"] = lambda t, r=r: (octagon - r).abs() < t  # type: ignore[misc]
    for r, half in ((130, 35), (130, 50), (150, 35), (150, 50)):
        near = upward < math.radians(half)
        shapes[f"two arcs of {r} mm, {2 * half} deg"] = (
            lambda t, r=r, near=near: ((radius - r).abs() < t) & near  # type: ignore[misc]
        )
    for xs in ((-100, 100), (-140, 140), (-180, 180), (-150, 0, 150)):
        away = torch.stack([(x - at).abs() for at in xs]).amin(0)
        shapes[f"upright bars at {xs}"] = (
            lambda t, away=away: (away < t) & (y.abs() < 100)  # type: ignore[misc]
        )
    shapes["cross"] = lambda t: (torch.minimum(x.abs(), y.abs()) < t) & (square < 160)
    shapes["X"] = lambda t: (torch.minimum((x - y).abs(), (x + y).abs()) < t) & (radius < 180)

    on_sign = octagon < 218
    masks = {}
    for name, shape in shapes.items():
        low, high = 0.0, 100.0
        for _ in range(22):
            middle = (low + high) / 2
            area = float((shape(middle) & on_sign).float().mean()) * SIGN_MM**2
            low, high = (low, middle) if area > AREA_MM2 else (middle, high)
        masks[name] = F.avg_pool2d((shape(low) & on_sign).float()[None, None], fine)
    return masks


def target_trials(steps: int = 20) -> Iterator[Trial]:
    """Three rectangles, each with every class as its target, any, and any but background."""
    for width, height, center in ((80, 180, (-52, -32)), (119.8, 119.8, (0, 0)), (319, 45, (0, 0))):
        scale = 48 / max(width, height)
        rows, columns = (max(8, round(side * scale)) for side in (height, width))
        mask = torch.ones(1, 1, rows, columns)
        aims = {"any": {}, "any but background": {"avoided_class": BACKGROUND}}
        aims |= {f"class {n}": {"target_class": n} for n in range(44) if n != STOP}
        for name, aim in aims.items():
            yield Trial.of(
                f"{width:.0f} x {height:.0f} at {center}, {name}",
                mask,
                (width, height),
                aim=aim,
                steps=steps,
                center_mm=center,
            )


def free_trials(
    task: PatchTask, steps: int = 120, px: int = 96, cells: int = 24
) -> Iterator[Trial]:
    """Stickers over the whole sign whose mask is optimized with the texture and then cut at 8.3 %."""
    (model,) = gradient_models(task)
    axis = (torch.arange(px) + 0.5) / px * SIGN_MM - SIGN_MM / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = (torch.maximum(x.abs(), y.abs()) < 215) & (x.abs() + y.abs() < 305)
    for name, aim in AIMS.items():
        source = torch.Generator().manual_seed(0)
        depth = 0.2 * torch.randn(1, 1, cells, cells, generator=source)
        trial = Trial.of(name, inside, (SIGN_MM, SIGN_MM), aim=aim, steps=steps, lr=0.1)
        update = CosineAdam(0.25, steps)
        state = update.init(depth)
        for index in range(steps):
            shown = Step.sample(task, "train", 16, "free", index)
            steepness = 1.5 * 20 ** min(1, index / (0.75 * steps))
            patch, depth = trial.patch.requires_grad_(), depth.requires_grad_()
            images = shown.photograph(task, trial, patch, soft_mask(depth, inside, steepness))
            loss = trial.goal.loss(model(images), shown.annotations).mean()
            gradients = torch.autograd.grad(loss, [patch, depth])
            move(trial, gradients[0])
            depth = update.step(depth.detach(), gradients[1], state).clamp(-3, 3).detach()
        heights = F.interpolate(depth, size=(px, px), mode="bicubic")[0, 0]
        chosen = heights.masked_fill(~inside, -50).flatten()
        cut = torch.zeros(px * px)
        cut[chosen.topk(round(AREA_MM2 / SIGN_MM**2 * px * px)).indices] = 1
        trial.mask = cut.view(1, 1, px, px)
        yield trial


def soft_mask(depth: Tensor, inside: Tensor, steepness: float) -> Tensor:
    """A mask that covers 8.3 % of the sign, with soft edges where it is not steep."""
    heights = F.interpolate(depth, size=inside.shape, mode="bicubic")
    low, high, middle = -20.0, 20.0, 0.0
    for _ in range(30):
        middle = (low + high) / 2
        share = float((torch.sigmoid(steepness * (heights.detach() - middle)) * inside).mean())
        low, high = (middle, high) if share > AREA_MM2 / SIGN_MM**2 else (low, middle)
    return torch.sigmoid(steepness * (heights - middle)) * inside


def loss_trials(task: PatchTask, steps: int = 160, draws: int = 32) -> list[Trial]:
    """One sticker of five bars under other losses, step sizes, pictures and batches."""
    (model,) = gradient_models(task)
    mask = make_mask(f"bars:5:{AREA_MM2 / (145 * 180):.4f}", 145, 180, longest_px=72)
    kinds = {
        "as it is": ({}, 0.1),
        "aim at any": ({"aim": AIMS["any"]}, 0.1),
        "aim at speed limit 100": ({"aim": AIMS["speed limit 100"]}, 0.1),
        "hardest half of the draws": ({}, 0.1),
        "sigmoid of the margin": ({}, 0.1),
        "logarithm of the loss": ({}, 0.1),
        "step size 0.04": ({}, 0.04),
        "step size 0.2": ({}, 0.2),
        "a ninth of the sticker dropped": ({}, 0.1),
        "noise of 0.03 in the picture": ({}, 0.1),
        "batches of 128, a quarter of the steps": ({}, 0.15),
    }
    trials = []
    for name, (changed, lr) in kinds.items():
        own = steps // 4 if "batches" in name else steps
        aim = changed.get("aim", AIMS["any but background"])
        trials.append(Trial.of(name, mask, (145, 180), aim=aim, steps=own, lr=lr))

    source, summed = torch.Generator().manual_seed(0), torch.zeros_like(trials[-1].patch)
    for index in range(steps):
        shown = Step.sample(task, "train", draws, "v", index)
        for trial in trials:
            gradient = loss_gradient(task, model, trial, shown, source)
            if "batches" not in trial.name:
                move(trial, gradient)
                continue
            summed += gradient / 4
            if index % 4 == 3:
                move(trial, summed)
                summed = torch.zeros_like(summed)
    return trials


def loss_gradient(
    task: PatchTask, model: Model, trial: Trial, shown: Step, source: torch.Generator
) -> Tensor:
    """Gradient of a trial's own loss in its patch."""
    patch, mask = trial.patch.requires_grad_(), trial.mask
    if "dropped" in trial.name:
        height, width = mask.shape[-2:]
        y = int(torch.randint(0, height * 2 // 3, (1,), generator=source))
        x = int(torch.randint(0, width * 2 // 3, (1,), generator=source))
        mask = mask.clone()
        mask[..., y : y + height // 3, x : x + width // 3] = 0
    images = shown.photograph(task, trial, patch, mask)
    if "noise" in trial.name:
        images = images + 0.03 * torch.randn(images.shape, generator=source)

    loss = trial.goal.loss(model(images), shown.annotations)
    soft_failure = -torch.expm1(
        -loss
    )  # the sigmoid of the margin + 1, since the loss is a softplus
    if "hardest" in trial.name:
        loss = loss.topk(len(loss) // 2).values
    elif "sigmoid" in trial.name:
        loss = 3 * soft_failure
    elif "logarithm" in trial.name:
        loss = 4 * loss.log1p()
    return torch.autograd.grad(loss.mean(), patch)[0]


def table() -> str:
    """The rows as Markdown, the strongest of each part first."""
    lines = ["| | | success | blank | read as |", "|" + "---|" * 5]
    rows = sorted(read_rows(ROWS), key=lambda row: (row["part"], -row["success"]["rate"]))
    for row in rows:
        success, blank = row["success"], row["blank"]
        ends = f"[{100 * success['low']:.0f}, {100 * success['high']:.0f}]"
        lines.append(
            f"| {row['part']} | {row['name']} | {100 * success['rate']:.1f} % {ends}, "
            f"n {success['n']} | {100 * blank['rate']:.1f} % | {row['read_as']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Make one part and append its rows, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("shapes", "targets", "free", "losses", "table"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if options.part == "table":
        print(table())
        return

    task = trials_task()
    if options.part in ("shapes", "targets"):
        trials = list(shape_trials() if options.part == "shapes" else target_trials())
        descend(task, trials, 20, 16, "scr")
    else:
        trials = list(free_trials(task)) if options.part == "free" else loss_trials(task)
    draws = 512 if options.part == "losses" else 128
    append_rows(ROWS, judged_rows(task, trials, options.part, draws))


if __name__ == "__main__":
    main()
