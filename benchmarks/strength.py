"""Stickers of 8.3 % of the sign against `signs`: ours beside ART's patch, at equal passes and area.

    python benchmarks/strength.py ours --scratch runs/strength
    python benchmarks/strength.py piece --scratch runs/strength
    python benchmarks/strength.py art --scratch runs/strength --art /path/to/art/bin/python
    python benchmarks/strength.py table

A pass is one picture, forward and backward. `ours` is `physadv patch --size 136.6x105.1 --search
shape --steps 100`, its race included; `piece` is one rectangle, `--search proportions`, whose race is
shorter and which gets 400 steps for that. ART's AdversarialPatchPyTorch gets as many passes on clean pictures of the same
training scenes, photographed under the same draws and turned upright, with a square patch of the
same area: once where our rectangle lies, once anywhere on the sign, and for each the learning rate that does
better on the validation draws. Both are judged on the same held-out faces under the same draws; a
patch made for anywhere is judged where our rectangle lies. One row a seed and method in
strength.jsonl. With `--share 0.16` all of them cover that share of the sign. Each patch stays in
--scratch as a bundle, ART's too, which every command of physadv and real_signs.py and path_traced.py
take; its run is in the row.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from kornia.geometry.transform import warp_perspective
from torch import Tensor

from physadv.core.rows import append_rows, read_rows
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.patches.bundle import write_bundle
from physadv.patches.card import make_card
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import (
    PatchMeasurement,
    measure_patch,
    sample_eot,
    to_8bit,
    validation_rate,
)
from physadv.patches.patch_run import PatchRun
from physadv.patches.race import Start, task_at
from physadv.patches.task import PatchTask, sample_scenes

ROWS = Path(__file__).with_suffix(".jsonl")
SIGN_MM = 457.0
SIGN_AREA_MM2 = 2 * (2**0.5 - 1) * SIGN_MM**2
SHARE = 0.083
"""Share of the sign that is covered."""
PICTURES, SIGN_PX = 1024, 56.0
"""ART's training pictures, and the width of the sign in them."""
RATES = (5 / 255, 0.1)
"""ART's learning rates: its default, for pictures in [0, 255], and a larger one."""
PLACES = {"ours": "art, at our place", "any": "art, anywhere"}
"""Where ART may put its patch, and what the rows call that."""
OURS = {"ours": ("shape", 100), "ours, one rectangle": ("proportions", 400)}
"""What is searched, and the steps after the race, so that the passes are about the same."""
RECTANGLE = "ours, one rectangle"


def side_mm(share: float) -> float:
    """Side of ART's square; ours has the same area."""
    return float((share * SIGN_AREA_MM2) ** 0.5)


def configured(method: str, seed: int, share: float) -> PatchConfig:
    """Our sticker: the command's, with a box of the square's area before the search."""
    search, steps = OURS[method]
    side = side_mm(share)
    return PatchConfig(
        size_mm=(round(side * 1.14, 1), round(side / 1.14, 1)),
        search=search,
        steps=steps,
        seed=seed,
        name=f"{method.replace(', ', '-').replace(' ', '-')}-{share:g}-{seed}",
    )


def folder_of(method: str, seed: int, share: float, scratch: Path) -> Path:
    """Folder of the run of one of our stickers."""
    return scratch / f"{OURS[method][0]}-{share:g}-{seed}"


def make_ours(method: str, seed: int, share: float, scratch: Path) -> dict[str, Any]:
    """Make one of our stickers, or find it finished in ``scratch``, and return its row."""
    folder = folder_of(method, seed, share, scratch)
    run = PatchRun(configured(method, seed, share), folder, overwrite=True, force=True)
    began = time.process_time()
    for _ in run.steps():
        pass
    bundle, measured = run.finish()
    race = bundle.card.optimisation["race"]["draws"]
    return {
        "method": method,
        "seed": seed,
        "share": share,
        "passes": race + run.config.steps * run.config.draws,
        "mask": run.config.mask,
        "center_mm": run.config.place_mm,
        "size_mm": run.config.size_mm,
        "cpu_s": round(time.process_time() - began, 1),
        "run_id": bundle.card.patch.run_id,
        **rates(measured),
    }


def rates(measured: PatchMeasurement) -> dict[str, Any]:
    """Success and the blank's, as a row has them."""
    return {
        "success": measured.success.as_dict(),
        "blank": measured.blank_success.as_dict(),
    }


@torch.no_grad()
def upright_pictures(task: PatchTask, count: int) -> Tensor:
    """Clean training scenes under their draws, the sign upright and frontal, (count, 3, h, h)."""
    side, pictures = task.scene_size.size, []
    scale = SIGN_PX / SIGN_MM
    target = torch.tensor([[scale, 0, side / 2], [0, scale, side / 2], [0, 0, 1.0]])
    to_index = torch.tensor([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])
    for first in range(0, count, 64):
        name = ("art", first)
        scenes = sample_scenes(task, task.scene_sources.train, 64, *name)
        images = task.stages.without_patch(scenes, sample_eot(task, scenes, name))
        turn = to_index @ target @ scenes.homography.inverse() @ to_index.inverse()
        pictures.append(warp_perspective(images, turn, (side, side), padding_mode="border"))
    return torch.cat(pictures)[:count].clamp(0, 1)


def allowed_centers(
    place: str, center_mm: tuple[float, float], px: int, side: float
) -> npt.NDArray[np.bool_]:
    """Where ART may put the patch's center, (px, px): at ``center_mm``, or anywhere it fits."""
    scale, half = SIGN_PX / SIGN_MM, side / 2
    y, x = (np.mgrid[0:px, 0:px] + 0.5 - px / 2) / scale
    if place == "ours":
        away = np.maximum(abs(x - center_mm[0]), abs(y - center_mm[1]))
        return np.asarray(away <= 0.51 / scale)
    reach_x, reach_y = abs(x) + half, abs(y) + half
    fits = np.maximum(reach_x, reach_y) <= SIGN_MM / 2
    return np.asarray(fits & (reach_x + reach_y <= SIGN_MM / 2**0.5))


def make_art(
    art: str,
    learning_rates: list[float],
    seed: int,
    place: str,
    scratch: Path,
    ours: dict[str, Any],
) -> dict[str, Any]:
    """ART's patch at the place and passes of ``ours``, a rectangle, and its row."""
    share = ours["share"]
    config, width = configured(RECTANGLE, seed, share), side_mm(share)
    folder = folder_of(RECTANGLE, seed, share, scratch)
    run = PatchRun(config, folder, overwrite=True, force=True)
    center = inside(ours["center_mm"], width)
    task = task_at(run.task, config, Start(center, (width, width)))
    scenes, began = scratch / f"scenes-{share:g}-{seed}-{place}.npz", time.perf_counter()
    side = round(width * SIGN_PX / SIGN_MM)
    centers = allowed_centers(place, task.placement.center_mm, task.scene_size.size, width)
    images = upright_pictures(task, PICTURES).numpy()
    np.savez(scenes, images=images, side=side, centers=centers)

    found: list[tuple[float, float, Tensor]] = []
    for rate in learning_rates:
        target = scratch / f"art-{share:g}-{seed}-{place}-{rate:.3f}.npy"
        script = str(Path(__file__).with_name("art_patch.py"))
        budget = ["--rate", str(rate), "--passes", str(ours["passes"]), "--seed", str(seed)]
        subprocess.run(
            [art, script, str(scenes), str(target), *budget],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        patch = torch.from_numpy(np.load(target))[None]
        shown = torch.nn.functional.interpolate(
            patch, size=task.mask.shape[-2:], mode="bilinear", antialias=True
        ).clamp(0, 1)
        found.append((validation_rate(task, shown, 256).rate, rate, shown))

    _, rate, patch = max(found, key=lambda each: each[0])
    passes = round(ours["passes"] / PICTURES) * PICTURES
    name = f"art-{share:g}-{seed}-{place}"
    settings = replace(
        config,
        name=name,
        search="none",
        center_mm=task.placement.center_mm,
        size_mm=(round(width, 1), round(width, 1)),
    )
    patch = to_8bit(task, patch)
    measured = measure_patch(task, patch, draws=config.test_draws)
    card = make_card(settings, task, run.model, measured, steps_done=passes // PICTURES)
    card.optimisation["made_by"] = (
        f"AdversarialPatchPyTorch of ART, {passes} passes, learning rate {rate:.4f}"
    )
    made = write_bundle(
        scratch / name, card=card, patch=patch, mask=task.mask, rows=list(measured.rows)
    )
    return {
        "method": PLACES[place],
        "seed": seed,
        "share": share,
        "passes": passes,
        "mask": "rectangle",
        "center_mm": task.placement.center_mm,
        "size_mm": [round(width, 1)] * 2,
        "rate": round(rate, 4),
        "wall_s": round(time.perf_counter() - began, 1),
        "run_id": made.card.patch.run_id,
        **rates(measured),
    }


def inside(center_mm: tuple[float, float], side: float) -> tuple[float, float]:
    """The center nearest to ``center_mm`` at which ART's square lies on the octagon."""
    x, y = center_mm
    room, half = SIGN_MM / 2**0.5 - side, SIGN_MM / 2 - side / 2
    x, y = float(np.clip(x, -half, half)), float(np.clip(y, -half, half))
    excess = max(0.0, abs(x) + abs(y) - room) / 2
    shrunk = [float(np.sign(side) * max(0.0, abs(side) - excess)) for side in (x, y)]
    return shrunk[0], shrunk[1]


def table(rows: Path = ROWS) -> str:
    """The rows as Markdown."""
    lines = [
        "| share | method | seed | passes | shape | place, mm | size, mm | success | blank |",
        "|" + "---|" * 9,
    ]
    for row in read_rows(rows):
        if "method" not in row:
            continue
        success, blank = (RateInterval(**row[key]) for key in ("success", "blank"))
        x, y = row["center_mm"]
        width, height = row["size_mm"]
        lines.append(
            f"| {100 * row['share']:.1f} % | {row['method']} | {row['seed']} | {row['passes']} "
            f"| {row['mask']} | {x:.0f}, {y:.0f} "
            f"| {width:.0f} x {height:.0f} | {cell(success)}, n {success.n} | {cell(blank)} |"
        )
    return "\n".join(lines)


def cell(rate: RateInterval) -> str:
    """A rate in percent with its interval."""
    return f"{100 * rate.rate:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def main() -> None:
    """Make the rows of one method, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("ours", "piece", "art", "table"))
    parser.add_argument("--share", type=float, default=SHARE)
    parser.add_argument("--scratch", type=Path, default=Path("runs/strength"))
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--art", help="python of an environment with ART")
    parser.add_argument("--places", nargs="+", choices=tuple(PLACES), default=list(PLACES))
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if options.part == "table":
        print(table(options.rows))
        return

    rows = read_rows(options.rows) if options.rows.exists() else []
    share = options.share
    done = {(row["method"], row["seed"]): row for row in rows if row.get("share") == share}
    for seed in range(options.seeds):
        if options.part != "art":
            method = "ours" if options.part == "ours" else RECTANGLE
            if (method, seed) not in done:
                append_rows(options.rows, [make_ours(method, seed, share, options.scratch)])
            continue
        for place in options.places:
            if (PLACES[place], seed) not in done:
                ours = done[RECTANGLE, seed]
                row = make_art(options.art, options.rates, seed, place, options.scratch, ours)
                append_rows(options.rows, [row])


if __name__ == "__main__":
    main()
