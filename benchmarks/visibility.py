"""How far victims see a clean sign, and what share of a patch's draws they read.

    OMP_NUM_THREADS=1 python benchmarks/visibility.py --data ../shared/data
    --out benchmarks/visibility.jsonl --page benchmarks/visibility.md

Each row is one victim under one preset on one kind of drawn faces: its curve of visibility, the
share of held-out draws whose clean sign it recognizes under the preset's own distances and under
those down to its limit, and the CPU seconds of the curve and of one optimization step of 32 draws.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import annotations_of, optimize_patch, sample_eot
from physadv.patches.task import PatchTask, sample_scenes
from physadv.patches.visibility import measure_visibility, visible_ranges

BATCH = 16
VICTIMS = {
    "signs": None,
    "fastestdet": "weights/fastestdet_coco.pth",
    "yolox-nano": "weights/yolox_nano_coco.onnx",
}
CASES = [
    ("signs", "varied", "default"),
    ("signs", "varied", "camera"),
    ("fastestdet", "plain", "default"),
    ("fastestdet", "plain", "camera"),
    ("fastestdet", "varied", "default"),
    ("fastestdet", "varied", "camera"),
    ("yolox-nano", "varied", "default"),
    ("yolox-nano", "varied", "camera"),
]
"""Victim, faces, preset."""


@torch.no_grad()
def clean_rate(task: PatchTask, draws: int) -> RateInterval:
    """Share of held-out draws whose clean sign the task's model recognizes."""
    hits = 0
    for first in range(0, draws, BATCH):
        name = ("visibility benchmark", first)
        scenes = sample_scenes(task, task.scene_sources.test, BATCH, *name)
        images = task.stages.without_patch(scenes, sample_eot(task, scenes, name))
        known = task.goal.recognized(task.models[0](images), annotations_of(task, scenes))
        hits += int(known.sum())
    return wilson_interval(hits, draws)


def step_seconds(task: PatchTask) -> float:
    """CPU seconds of one step of 32 draws."""
    loop = optimize_patch(task, steps=3, validate_every=99, validation_draws=1)
    next(loop)
    began = time.process_time()
    next(loop)
    return time.process_time() - began


def measured(victim: str, faces: str, preset: str, data: Path, draws: int) -> dict[str, Any]:
    """The row of one case."""
    weights = VICTIMS[victim]
    task = PatchTask.from_config(
        PatchConfig(
            model=victim,
            weights=None if weights is None else str(data / weights),
            goal="untargeted" if weights is None else "vanish",
            faces=faces,
            backgrounds=str(data / "backgrounds"),
            eot=preset,
        )
    )
    began = time.process_time()
    (curve,) = measure_visibility(task)
    seconds = time.process_time() - began
    narrowed = replace(task, ranges=visible_ranges(task, [curve]))
    return {
        **{"victim": victim, "faces": faces, "preset": preset},
        "before": clean_rate(task, draws).as_dict(),
        "after": clean_rate(narrowed, draws).as_dict(),
        "curve_seconds": round(seconds, 2),
        "step_seconds": round(step_seconds(task), 2),
        "curve": curve.as_dict(),
    }


def page(rows: Sequence[dict[str, Any]], command: str) -> str:
    """The rows as Markdown: shares of draws, then the curves."""
    lines = [
        "# How far victims see",
        "",
        "Share of held-out draws whose clean sign the victim recognizes, at the distances of the "
        "preset and at those",
        "down to the limit of visibility, which `physadv patch` draws; the limit is a share of the "
        "frame's height for a",
        "detector and px of the camera for a classifier. CPU seconds are of one thread on a busy "
        "machine. Made by",
        f"`{command}` ([rows](visibility.jsonl)).",
        "Of the varied faces some are read in no size: that share is no matter of distance.",
        "",
        "| victim | faces | preset | limit | read before | read after | n | curve, s | in steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        before, after = (RateInterval(**row[key]) for key in ("before", "after"))
        steps = row["curve_seconds"] / row["step_seconds"]
        lines.append(
            f"| {row['victim']} | {row['faces']} | {row['preset']} | {_limit(row['curve'])} | "
            f"{_cell(before)} | {_cell(after)} | {before.n} | {row['curve_seconds']:.1f} | "
            f"{steps:.1f} |"
        )

    lines += [
        "",
        "Clean signs that are recognized, by apparent size; n = 32 a bin unless said.",
        "",
    ]
    for unit in ("share", "px"):
        lines += _curves([row for row in rows if row["curve"]["unit"] == unit])
    return "\n".join([*lines[:-1], ""])


def _curves(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table of the curves of one unit: a column a case, a line a bin."""
    names = [f"{row['victim']}, {row['faces']}, {row['preset']}" for row in rows]
    ends = {(b["from"], b["to"]) for row in rows for b in row["curve"]["sizes"]}
    lines = [f"| size | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for low, high in sorted(ends):
        cells = []
        for row in rows:
            bins = {(b["from"], b["to"]): b for b in row["curve"]["sizes"]}
            cells.append(_bin_cell(bins.get((low, high))))
        lines.append(f"| {low:g}-{high:g} | {' | '.join(cells)} |")
    return [*lines, ""]


def _bin_cell(table: dict[str, Any] | None) -> str:
    if table is None:
        return "-"
    n = "" if table["n"] == 32 else f", n {table['n']}"
    return f"{100 * table['rate']:.0f} [{100 * table['low']:.0f}, {100 * table['high']:.0f}]{n}"


def _cell(rate: RateInterval) -> str:
    return f"{100 * rate.rate:.0f} % [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"


def _limit(curve: dict[str, Any]) -> str:
    limit = curve.get("limit")
    if limit is None:
        return "none"
    return f"{limit:.3f}" if curve["unit"] == "share" else f"{limit:.0f} px"


def main() -> None:
    """Measure the cases that --out has no row of, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of weights, backgrounds")
    parser.add_argument("--draws", type=int, default=160, help="held-out draws a case")
    parser.add_argument("--out", type=Path, required=True, help="rows; cases there are kept")
    parser.add_argument("--page", type=Path, required=True, help="Markdown page to write")
    options = parser.parse_args()

    text = options.out.read_text(encoding="utf-8") if options.out.is_file() else ""
    rows = [json.loads(line) for line in text.splitlines()]
    done = {(row["victim"], row["faces"], row["preset"]) for row in rows}
    for case in CASES:
        if case not in done:
            rows.append(measured(*case, options.data, options.draws))
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    command = (
        "python benchmarks/visibility.py --data DATA --out visibility.jsonl --page visibility.md"
    )
    options.page.write_text(page(rows, command), encoding="utf-8")


if __name__ == "__main__":
    main()
