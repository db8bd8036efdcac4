"""Training data of the patch remover: stickers optimized as by `physadv patch`, photographed on
signs.

    python scripts/remover_pictures.py DATA/gtsrb-train-third.zip --out
    runs/remover-stickers.safetensors

Pictures are 64 px. Signs are GTSRB's training tracks and the drawn stop sign before backgrounds
made by code; each sticker has a seed, shape, size, place, goal and smoothness of its own. None is
one of patches/, nor is any held-out track used.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from physadv.core.random_streams import generator, numpy_generator
from physadv.core.rows import Row
from physadv.core.stop_signs import PLAIN
from physadv.core.types import Model
from physadv.datasets import read_dataset
from physadv.datasets.box_annotations import box_corners
from physadv.datasets.split import split_by_group
from physadv.defenses.load_model import load_model
from physadv.defenses.patch_removal import PatchRemover
from physadv.eot.mask_shapes import make_mask
from physadv.eot.pipeline import Pipeline
from physadv.eot.placement import Placement
from physadv.eot.presets import eot_preset
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.load import SceneSources, load_scene_sources
from physadv.eot.scenes.signs import MixedScenes, PhotoScenes, PhotoSign, SceneSize
from physadv.eot.stage import ZERO
from physadv.eot.warp import warp_texture
from physadv.evaluation.metrics.intervals import clustered_interval
from physadv.patches.optimize import optimize_patch
from physadv.patches.task import PatchTask
from physadv.threat.patch_goals import PatchGoal

SIGN_MM, SIDE, STOP, SIGNS = 457.0, 64, 14, 43
HELD_STICKERS = 6
"""Number of stickers that are not trained on."""
SHAPES = ("rectangle", "rectangle", "circle", "octagon", "bars")
RANGES = (EotRanges(), EotRanges(), replace(eot_preset("camera"), lens_k1=ZERO))
"""The road as stickers meet it; every third batch with all effects of the camera but its
distortion."""


def photo_signs(
    data: Path, *, part: str = "train", label: int | None = None, most: int = 1600
) -> list[PhotoSign]:
    """Signs of one class or all of GTSRB: "validation" is a tenth of its training tracks, "test"
    the held-out fifth."""
    dataset = read_dataset(data, split="test" if part == "test" else "train")
    if part != "test":
        dataset = split_by_group(dataset, 0.1, 7)[part == "validation"]
    assert dataset.boxes is not None
    rng = numpy_generator(0, "photo signs", -1 if label is None else label)
    rows = rng.permutation(
        len(dataset) if label is None else np.flatnonzero(dataset.labels == label)
    )[:most]
    boxes = dataset.boxes
    return [
        PhotoSign(dataset.read(i), box_corners(*boxes[i].tolist()), dataset.groups[i]) for i in rows
    ]


def task_of(number: int, data: Path, model: Model, seed: int) -> tuple[PatchTask, float]:
    """The sticker problem number ``number``, and the weight of its smoothness."""
    rng = numpy_generator(seed, "sticker", number)
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    side, aspect = float(rng.uniform(90, 260)), math.exp(float(rng.uniform(-0.5, 0.5)))
    wide, high = side * aspect**0.5, side / aspect**0.5
    room = [max(0.0, SIGN_MM / 2 * 0.9 - length / 2) for length in (wide, high)]
    center = (float(rng.uniform(-room[0], room[0])), float(rng.uniform(-room[1], room[1])))
    drawn = number % 3 == 0
    label = STOP if number % 2 == 0 or drawn else int(rng.integers(SIGNS))
    target = (label + 1 + int(rng.integers(SIGNS))) % (SIGNS + 1)
    goal = (
        PatchGoal("untargeted", label)
        if rng.random() < 0.75
        else PatchGoal("targeted", label, target)
    )
    if drawn:
        material = load_scene_sources(None, None, width_mm=SIGN_MM, seed=seed + 1, faces=PLAIN)
    else:
        source = PhotoScenes(photo_signs(data, label=label, most=200), SIGN_MM)
        material = SceneSources(source, source, source, "photos")
    mask = make_mask(shape, wide, high, longest_px=64)
    task = PatchTask(
        [model],
        goal,
        material,
        mask,
        Placement(wide, high, center),
        SIGN_MM,
        SceneSize(SIDE, False),
        seed=seed + number,
    )
    return task, float(rng.choice([0.02, 0.1, 0.15, 0.3]))


def make_stickers(data: Path, model: Model, count: int, steps: int, seed: int) -> Tensor:
    """(count, 3, 64, 64) textures of stickers that attack ``model``, each stretched to a square."""
    found = []
    for number in range(count):
        began = time.process_time()
        task, tv = task_of(number, data, model, seed)
        loop = optimize_patch(
            task,
            steps=steps,
            draws=16,
            lr=0.08,
            tv=tv,
            validate_every=steps + 1,
            validation_draws=64,
        )
        *_, last = loop
        found.append(F.interpolate(last.patch, (SIDE, SIDE), mode="bilinear", align_corners=False))
        said = f"{task.goal.kind} {task.goal.true_class}, tv {tv}, {task.mask.shape[-1]} px"
        print(
            f"sticker {number}: {said}: success {last.success:.2f}, "
            f"{time.process_time() - began:.0f} s",
            flush=True,
        )
    return torch.cat(found)


@dataclass(frozen=True)
class Pictures:
    """``images`` (n, 3, 64, 64); ``areas`` (n, 1, 64, 64), 1 on stickers; ``care``, 0 where either
    answer will do."""

    images: Tensor
    areas: Tensor
    care: Tensor

    def __len__(self) -> int:
        return len(self.images)


def scene_source(data: Path, part: str, seed: int = 1) -> MixedScenes:
    """All signs twice, stop signs, and the drawn stop sign, in equal shares."""
    every = PhotoScenes(
        photo_signs(data, part=part, most=2400 if part == "train" else 500), SIGN_MM
    )
    stops = PhotoScenes(photo_signs(data, part=part, label=STOP), SIGN_MM)
    drawn = load_scene_sources(None, None, width_mm=SIGN_MM, seed=seed, faces=PLAIN)
    return MixedScenes([every, every, stops, drawn.train if part == "train" else drawn.validation])


def make_pictures(
    source: MixedScenes, stickers: Tensor, count: int, seed: int, *, batch: int = 16
) -> Pictures:
    """``count`` photographs: three in ten bare, three in twenty with a blank sticker, the others
    with a patterned one.

    On a blank sticker either answer will do: whether it goes or stays, the sign is read.
    """
    parts = [
        _photographed(source, stickers, batch, seed, number) for number in range(-(-count // batch))
    ]
    return Pictures(*(torch.cat(column)[:count] for column in zip(*parts, strict=True)))


@torch.no_grad()
def overlap_rows(net: nn.Module, pictures: Pictures) -> list[Row]:
    """One row a picture: IoU of what is taken out with the sticker or, without one, the share taken
    out."""
    remove = PatchRemover(net)
    taken = torch.cat([remove.marks(part) for part in pictures.images.split(64)])
    areas, care = pictures.areas > 0, pictures.care > 0
    rows: list[Row] = []
    for k in range(len(pictures)):
        found, there, known = taken[k] & care[k], areas[k], int(care[k].sum())
        row: Row = {"what": "pixels", "group": k, "sticker_px": int(there.sum())}
        if there.any():
            row["iou"] = round(int((found & there).sum()) / max(int((found | there).sum()), 1), 4)
        elif known == SIDE * SIDE:  # neither a sticker nor a blank one
            row["taken"] = round(int(found.sum()) / known, 5)
        rows.append(row)
    return rows


def overlap_text(rows: Sequence[Row], from_px: int = 200) -> str:
    """In words: mean IoU of small and of large stickers, and what is taken out of pictures without
    one."""
    means = []
    for name, values in (
        (
            f"stickers from {from_px} px",
            [r["iou"] for r in rows if "iou" in r and r["sticker_px"] >= from_px],
        ),
        ("smaller ones", [r["iou"] for r in rows if "iou" in r and r["sticker_px"] < from_px]),
        ("bare signs (share of the picture)", [r["taken"] for r in rows if "taken" in r]),
    ):
        rate = clustered_interval(values, range(len(values)))
        means.append(f"{name} {rate.rate:.3f} [{rate.low:.3f}, {rate.high:.3f}], n = {len(values)}")
    return "; ".join(means)


def _photographed(
    source: MixedScenes, stickers: Tensor, count: int, seed: int, number: int
) -> tuple[Tensor, Tensor, Tensor]:
    draws, rng = generator(seed, "pictures", number), numpy_generator(seed, "pictures", number)
    ranges = RANGES[number % len(RANGES)]
    scenes = source.sample(count, SceneSize(SIDE, False), ranges, rng)
    order = torch.randperm(count, generator=draws)
    kind = torch.rand(count, generator=draws)
    bare, blank = kind < 0.3, (kind >= 0.3) & (kind < 0.45)
    textures = torch.where(
        blank[:, None, None, None], _flat(count, draws), _patterned(stickers, count, draws)
    )
    mask = _outline(rng, draws)
    lying = replace(scenes, homography=scenes.homography @ _lies(count, draws))
    square = Placement(100.0, 100.0)
    pipeline = Pipeline.from_ranges(ranges)
    draw = pipeline.sample(scenes, draws)
    seen = torch.where(
        bare[:, None, None, None],
        pipeline.without_patch(scenes, draw),
        pipeline.apply(textures, mask, square, lying, draw),
    )
    there = warp_texture(mask, lying.homography, square.rectangle_mm, (SIDE, SIDE))
    there = there * (~bare)[:, None, None, None]
    unsure = (there > 0.05) & ((there < 0.5) | blank[:, None, None, None])
    area = (there >= 0.5).float() * (~blank)[:, None, None, None]
    return seen[order], area[order], (~unsure).float()[order]


def _lies(count: int, draws: torch.Generator) -> Tensor:
    """(count, 3, 3) from a square of 100 mm to a place on the sign: 2 to 30 % of the picture,
    turned and stretched."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=draws) * (high - low) + low

    side = uniform(0.02**0.5, 0.3**0.5) * SIGN_MM * 1.15
    stretch, angle = uniform(-0.35, 0.35).exp(), uniform(-math.pi, math.pi) * (uniform(0, 1) < 0.6)
    reach = (SIGN_MM * 0.6 - side / 2).clamp_min(0)
    matrix = torch.eye(3).repeat(count, 1, 1)
    wide, high = side * stretch / 100, side / stretch / 100
    matrix[:, 0, 0], matrix[:, 0, 1] = angle.cos() * wide, -angle.sin() * high
    matrix[:, 1, 0], matrix[:, 1, 1] = angle.sin() * wide, angle.cos() * high
    matrix[:, 0, 2], matrix[:, 1, 2] = uniform(-1, 1) * reach, uniform(-1, 1) * reach
    return matrix


def _outline(rng: np.random.Generator, draws: torch.Generator) -> Tensor:
    """(1, 1, 64, 64): a drawn shape, or a blob of any form."""
    if rng.random() < 0.7:
        return make_mask(SHAPES[int(rng.integers(len(SHAPES)))], 100, 100, longest_px=64)
    noise = F.interpolate(
        torch.rand(1, 1, 5, 5, generator=draws), (64, 64), mode="bicubic", align_corners=False
    )
    line = torch.linspace(-1, 1, 64)
    return ((noise - 0.75 * (line[:, None] ** 2 + line[None] ** 2)) > -0.05).float()


def _flat(count: int, draws: torch.Generator) -> Tensor:
    colors = torch.rand(count, 3, 1, 1, generator=draws)
    white = torch.rand(count, 1, 1, 1, generator=draws) < 0.6
    return torch.where(white, torch.full_like(colors, 0.94), colors).expand(-1, -1, SIDE, SIDE)


def _patterned(stickers: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """Mostly optimized stickers, turned, mirrored, cut and recolored; noise of any grain for the
    others."""
    made = []
    for _ in range(count):
        a = torch.rand(6, generator=draws).tolist()
        if a[0] < 0.2:
            cells = 3 + int(a[1] * 22)
            noise = torch.rand(1, 3, cells, cells, generator=draws)
            mode = "nearest" if a[2] < 0.4 else "bilinear"
            texture = F.interpolate(noise, (SIDE, SIDE), mode=mode)
        else:
            texture = stickers[int(a[1] * len(stickers))][None]
            texture = torch.rot90(texture.flip(3) if a[2] < 0.5 else texture, int(a[3] * 4), (2, 3))
            cut = int(SIDE * (0.55 + 0.45 * a[4]))
            y, x = (int(torch.randint(0, SIDE - cut + 1, (), generator=draws)) for _ in range(2))
            texture = F.interpolate(
                texture[..., y : y + cut, x : x + cut], (SIDE, SIDE), mode="bilinear"
            )
            if a[5] < 0.3:
                texture = texture[:, torch.randperm(3, generator=draws)]
        tone = torch.rand(1, 3, 1, 1, generator=draws)
        strength = 1 - 0.6 * float(torch.rand((), generator=draws)) ** 2
        made.append(tone + (texture - tone) * strength)
    return torch.cat(made)


def main() -> None:
    """Make the stickers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/remover-stickers.safetensors"))
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--seed", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    save_file(
        {
            "stickers": make_stickers(
                args.data, load_model("signs"), args.count, args.steps, args.seed
            )
        },
        args.out,
    )


if __name__ == "__main__":
    main()
