"""Stickers of 8.3 % of the sign against `signs`: ours beside ART's patch, at equal passes and area.

    python benchmarks/strength.py ours --scratch runs/strength
    python benchmarks/strength.py art --scratch runs/strength --art /path/to/art/bin/python
    python benchmarks/strength.py table

A pass is one picture, forward and backward. `ours` is `physadv patch --size 137x105 --search shape`,
its race included. ART's AdversarialPatchPyTorch gets as many passes on clean pictures of the same
training scenes, photographed under the same draws and turned upright, with a square patch of the
same area: once where ours lies, once anywhere on the sign, and for each the learning rate that does
better on the validation draws. Both are judged on the same held-out faces under the same draws; a
patch made for anywhere is judged where ours lies. One row a seed and method in strength.jsonl.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from kornia.geometry.transform import warp_perspective
from torch import Tensor

from physadv.core.rows import append_rows, read_rows
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import PatchMeasurement, measure_patch, sample_eot, validation_rate
from physadv.patches.patch_run import PatchRun
from physadv.patches.race import Start, task_at
from physadv.patches.task import PatchTask, sample_scenes

ROWS = Path(__file__).with_suffix(".jsonl")
SIGN_MM = 457.0
SIGN_AREA_MM2 = 2 * (2**0.5 - 1) * SIGN_MM**2
SIDE_MM = (0.083 * SIGN_AREA_MM2) ** 0.5
"""Side of ART's square; ours has the same area."""
PICTURES, SIGN_PX = 1024, 56.0
"""ART's training pictures, and the width of the sign in them."""
RATES = (5 / 255, 0.1)
"""ART's learning rates: its default, for pictures in [0, 255], and a larger one."""
PLACES = {"ours": "art, at our place", "any": "art, anywhere"}
"""Where ART may put its patch, and what the rows call that."""


def configured(seed: int) -> PatchConfig:
    """Our sticker: the command's, with a box of the square's area before the search."""
    return PatchConfig(
        size_mm=(round(SIDE_MM * 1.14, 1), round(SIDE_MM / 1.14, 1)), search="shape", seed=seed
    )


def make_ours(seed: int, scratch: Path) -> tuple[PatchRun, dict[str, Any]]:
    """Our sticker, finished in ``scratch`` or made there, and its row."""
    run = PatchRun(configured(seed), scratch / f"ours-{seed}", overwrite=True, force=True)
    began = time.process_time()
    for _ in run.steps():
        pass
    bundle, measured = run.finish()
    race = bundle.card.optimisation["race"]["draws"]
    row = {
        "method": "ours",
        "seed": seed,
        "passes": race + run.config.steps * run.config.draws,
        "center_mm": run.config.center_mm,
        "size_mm": run.config.size_mm,
        "cpu_s": round(time.process_time() - began, 1),
        **rates(measured),
    }
    return run, row


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


def allowed_centers(place: str, center_mm: tuple[float, float], px: int) -> npt.NDArray[np.bool_]:
    """Where ART may put the patch's center, (px, px): at ``center_mm``, or anywhere it fits."""
    scale, half = SIGN_PX / SIGN_MM, SIDE_MM / 2
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
    """ART's patch at the place and passes of ``ours``, and its row."""
    config = configured(seed)
    run = PatchRun(config, scratch / f"ours-{seed}", overwrite=True, force=True)
    task = task_at(run.task, config, Start(inside(ours["center_mm"]), (SIDE_MM, SIDE_MM)))
    scenes, began = scratch / f"scenes-{seed}-{place}.npz", time.perf_counter()
    side = round(SIDE_MM * SIGN_PX / SIGN_MM)
    centers = allowed_centers(place, task.placement.center_mm, task.scene_size.size)
    images = upright_pictures(task, PICTURES).numpy()
    np.savez(scenes, images=images, side=side, centers=centers)

    found: list[tuple[float, float, Tensor]] = []
    for rate in learning_rates:
        target = scratch / f"art-{seed}-{place}-{rate:.3f}.npy"
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
    return {
        "method": PLACES[place],
        "seed": seed,
        "passes": round(ours["passes"] / PICTURES) * PICTURES,
        "center_mm": task.placement.center_mm,
        "size_mm": [round(SIDE_MM, 1)] * 2,
        "rate": round(rate, 4),
        "wall_s": round(time.perf_counter() - began, 1),
        **rates(measure_patch(task, patch, draws=config.test_draws)),
    }


def inside(center_mm: tuple[float, float]) -> tuple[float, float]:
    """The center nearest to ``center_mm`` at which ART's square lies on the octagon."""
    x, y = center_mm
    room, half = SIGN_MM / 2**0.5 - SIDE_MM, SIGN_MM / 2 - SIDE_MM / 2
    x, y = float(np.clip(x, -half, half)), float(np.clip(y, -half, half))
    excess = max(0.0, abs(x) + abs(y) - room) / 2
    shrunk = [float(np.sign(side) * max(0.0, abs(side) - excess)) for side in (x, y)]
    return shrunk[0], shrunk[1]


def table() -> str:
    """The rows as Markdown."""
    lines = [
        "| method | seed | passes | place, mm | size, mm | success | blank |",
        "|" + "---|" * 7,
    ]
    for row in read_rows(ROWS):
        if "method" not in row:
            continue
        success, blank = (RateInterval(**row[key]) for key in ("success", "blank"))
        x, y = row["center_mm"]
        width, height = row["size_mm"]
        lines.append(
            f"| {row['method']} | {row['seed']} | {row['passes']} | {x:.0f}, {y:.0f} "
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
    parser.add_argument("part", choices=("ours", "art", "table"))
    parser.add_argument("--scratch", type=Path, default=Path("runs/strength"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--art", help="python of an environment with ART")
    parser.add_argument("--places", nargs="+", choices=tuple(PLACES), default=list(PLACES))
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if options.part == "table":
        print(table())
        return

    rows = read_rows(ROWS) if ROWS.exists() else []
    done = {(row["method"], row["seed"]): row for row in rows if "method" in row}
    for seed in range(options.seeds):
        if options.part == "ours":
            if ("ours", seed) not in done:
                append_rows(ROWS, [make_ours(seed, options.scratch)[1]])
            continue
        for place in options.places:
            if (PLACES[place], seed) not in done:
                ours = done["ours", seed]
                row = make_art(options.art, options.rates, seed, place, options.scratch, ours)
                append_rows(ROWS, [row])


if __name__ == "__main__":
    main()
