"""What keeps a sticker of 8.3 % of the sign from winning on `signs`, at one place and size.

    python benchmarks/strength_limits.py scenes      # the best sticker for each single scene
    python benchmarks/strength_limits.py worlds      # one sticker for all scenes of a narrower world
    python benchmarks/strength_limits.py table

`scenes` optimizes a sticker of its own for every held-out scene, with three aims, under one fixed
draw of light, blur and noise, and under many. `worlds` optimizes one sticker on scenes of a narrower
kind and judges it on other scenes of that kind: one face, one drawing of it, frontal, near, far, in
mild light. Made on held-out faces, these say what is possible, not what is reached. Rows:
strength_limits.jsonl.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physadv.attacks._optimizers import CosineAdam
from physadv.core.rows import append_rows, read_rows
from physadv.core.sign_artwork import SignFace
from physadv.eot.pipeline import Draw
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.scenes.sign_faces import HELD_OUT_FACES, FaceDesign
from physadv.eot.scenes.signs import DrawnScenes
from physadv.evaluation.metrics.intervals import RateInterval, clustered_interval, wilson_interval
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import (
    annotations_of,
    gradient_models,
    measure_patch,
    optimize_patch,
    sample_eot,
)
from physadv.patches.task import PatchTask, sample_scenes
from physadv.patches.visibility import measure_visibility, visible_ranges
from physadv.threat.patch_goals import PatchGoal

ROWS = Path(__file__).with_suffix(".jsonl")
PLACE = PatchConfig(size_mm=(80, 180), center_mm=(-52, -32), resolution=48)
"""Where the race of seed 0 puts the sticker: 8.3 % of the sign."""
STOP, LIMIT_30, BACKGROUND = 14, 1, 43
AIMS = {
    "nearest class": PatchGoal("untargeted", STOP),
    "any but background": PatchGoal("untargeted", STOP, avoided_class=BACKGROUND),
    "speed limit 30": PatchGoal("targeted", STOP, LIMIT_30),
}
MILD = {
    "exposure_ev": (-0.2, 0.2),
    "white_balance": (1.0, 1.0),
    "contrast": (1.0, 1.0),
    "brightness": (0.0, 0.0),
    "gamma": (1.0, 1.0),
    "read_noise": (0.005, 0.005),
    "shot_noise": (0.005, 0.005),
    "jpeg_quality": (90.0, 90.0),
    "defocus_px": (0.4, 0.4),
    "motion_px": (0.0, 0.0),
    "ink_black": (0.03, 0.03),
    "paper_white": (0.9, 0.9),
    "ink_mixing": (0.05, 0.05),
}
FRONTAL = {"yaw_deg": (-3.0, 3.0), "pitch_deg": (-2.0, 2.0), "roll_deg": (-2.0, 2.0)}
ONE_SIZE = dict.fromkeys(FRONTAL, (0.0, 0.0)) | {"margin": (0.08, 0.08)}
NEAR, FAR = {"size_px": (60.0, 110.0)}, {"size_px": (15.1, 25.0)}
WORLDS: dict[str, dict[str, tuple[float, float]]] = {
    "all draws": {},
    "frontal": FRONTAL,
    "near": NEAR,
    "far": FAR,
    "mild light": MILD,
    "mild, frontal, near": {**MILD, **FRONTAL, **NEAR},
    "mild, frontal, near, one size": {**MILD, **NEAR, **ONE_SIZE},
}
COMPARED = ("all draws", "mild, frontal, near", "mild, frontal, near, one size")
"""Worlds in which single faces are tried too."""


def visible_task() -> PatchTask:
    """The sticker's task, with distances down to where `signs` reads a clean sign."""
    task = PatchTask.from_config(PLACE)
    return replace(task, ranges=visible_ranges(task, measure_visibility(task)))


def single_scenes(task: PatchTask, count: int, steps: int) -> Iterator[dict[str, Any]]:
    """Optimize a sticker for each of ``count`` scenes, and yield a row an aim.

    Under one draw of light, blur and noise a sticker is judged under that one; made under a new
    draw at every step, under four others.
    """
    scenes = sample_scenes(task, task.scene_sources.test, count, "limits")
    fixed = [sample_eot(task, scenes, ("limits",))]
    others = [sample_eot(task, scenes, ("limits", "judged", number)) for number in range(4)]
    for under, judged in (("one draw", fixed), ("all draws", others)):
        won = torch.zeros(len(judged), count, dtype=torch.bool)
        for name, goal in AIMS.items():

            def draw_of(step: int, under: str = under) -> Draw:
                if under == "one draw":
                    return fixed[0]
                return sample_eot(task, scenes, ("limits", "train", step))

            many = 3 if under == "all draws" else 1
            patches = own_patches(task, scenes, goal, steps * many, draw_of)
            reached, valid = outcome(task, patches, scenes, judged)
            won |= reached
            rate = by_face(reached, valid, scenes.groups)
            yield {"what": f"own sticker for each scene, {under}", "name": name, "rate": rate}
        rate = by_face(won, valid, scenes.groups)
        yield {
            "what": f"own sticker for each scene, {under}",
            "name": "best of these",
            "rate": rate,
        }


def own_patches(
    task: PatchTask,
    scenes: SceneBatch,
    goal: PatchGoal,
    steps: int,
    draw_of: Callable[[int], Draw],
) -> Tensor:
    """Optimize a patch for each of b scenes under the draw of each step, (b, 3, ph, pw)."""
    (model,) = gradient_models(task)
    judged = annotations_of(task, scenes)
    patches = torch.full((len(scenes.images), 3, *task.mask.shape[-2:]), 0.5)
    update = CosineAdam(0.12, steps)
    state = update.init(patches)
    for step in range(steps):
        patches.requires_grad_()
        images = task.stages.apply(patches, task.mask, task.placement, scenes, draw_of(step))
        (gradient,) = torch.autograd.grad(goal.loss(model(images), judged).sum(), patches)
        length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
        patches = update.step(patches.detach(), 0.02 * gradient / length, state).clamp(0, 1)
    return (255 * patches.detach()).round() / 255


@torch.no_grad()
def outcome(
    task: PatchTask, patches: Tensor, scenes: SceneBatch, draws: Sequence[Draw]
) -> tuple[Tensor, Tensor]:
    """Whether each draw of each scene is won, and whether its clean sign is read, (draws, b)."""
    judged, model, reached, valid = annotations_of(task, scenes), task.models[0], [], []
    for draw in draws:
        clean = task.stages.without_patch(scenes, draw)
        valid.append(task.goal.recognized(model(clean), judged))
        images = task.stages.apply(patches, task.mask, task.placement, scenes, draw)
        reached.append(task.goal.succeeded(model(images), judged))
    return torch.stack(reached), torch.stack(valid)


def by_face(reached: Tensor, valid: Tensor, faces: Sequence[str]) -> dict[str, Any]:
    """Share of the valid draws (draws, b) that are won, with faces as trials."""
    kept = valid.nonzero().tolist()
    hits = [bool(reached[draw, number]) for draw, number in kept]
    return clustered_interval(hits, [faces[number] for _, number in kept]).as_dict()


def worlds(task: PatchTask, steps: int, draws: int) -> Iterator[dict[str, Any]]:
    """Optimize and judge one sticker in each world that has no row yet, and yield its row."""
    designs = [face for face in HELD_OUT_FACES if isinstance(face, FaceDesign)][:4]
    drawings = [face.draw(np.random.default_rng(3), 400) for face in designs]
    kinds: dict[str, list[Sequence[SignFace | FaceDesign]]] = {
        "all faces": [HELD_OUT_FACES],
        "one design": [[face] for face in designs],
        "one drawing": [[face] for face in drawings],
    }
    done = {row["name"] for row in read_rows(ROWS)} if ROWS.exists() else set()
    for kind, groups in kinds.items():
        for name, ranges in WORLDS.items():
            alone = kind == "all faces" or name in COMPARED
            if alone and f"{kind}, {name}" not in done:
                yield world_row(f"{kind}, {name}", task, groups, ranges, steps, draws)


def world_row(
    name: str,
    task: PatchTask,
    groups: Sequence[Sequence[SignFace | FaceDesign]],
    ranges: dict[str, tuple[float, float]],
    steps: int,
    draws: int,
) -> dict[str, Any]:
    """The mean success over ``groups`` of faces, each with a sticker of its own."""
    narrowed: EotRanges = replace(task.ranges, **ranges)
    tested = task.scene_sources.test
    assert isinstance(tested, DrawnScenes)  # the configuration names no photos
    hits, total, rates = 0, 0, []
    for faces in groups:
        source = DrawnScenes(faces, tested.backgrounds, PLACE.sign_width_mm)
        sources = replace(task.scene_sources, train=source, validation=source, test=source)
        own = replace(task, ranges=narrowed, scene_sources=sources)
        own = replace(own, goal=AIMS["speed limit 30"], goals=())
        loop = optimize_patch(own, steps=steps, draws=32, lr=0.12, validate_every=steps)
        *_, last = loop
        judged = replace(own, goal=task.goal)
        rate = measure_patch(judged, last.patch, draws=draws, name="limits").success
        hits, total = hits + round(rate.rate * rate.n), total + rate.n
        rates.append(round(rate.rate, 3))
    return {
        "what": "worlds",
        "name": name,
        "rate": wilson_interval(hits, total).as_dict(),
        "each": rates,
    }


def table() -> str:
    """The rows as Markdown."""
    lines = ["| | success |", "|---|---|"]
    for row in read_rows(ROWS):
        rate = RateInterval(**row["rate"])
        ends = f"[{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
        lines.append(
            f"| {row['what']}: {row['name']} | {100 * rate.rate:.1f} % {ends}, n {rate.n} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure one part and append its rows, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("scenes", "worlds", "table"))
    parser.add_argument("--scenes", type=int, default=192)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--draws", type=int, default=192)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if options.part == "table":
        print(table())
        return
    task = visible_task()
    rows = (
        single_scenes(task, options.scenes, options.steps)
        if options.part == "scenes"
        else worlds(task, options.steps, options.draws)
    )
    for row in rows:
        append_rows(ROWS, [row])
        print(row, flush=True)


if __name__ == "__main__":
    main()
