"""What each part of the camera's way buys: the same sticker optimized under `camera`, under
`camera` without one effect, and under published presets; judged on one set of held-out draws of
`camera` and in the twin.

    OMP_NUM_THREADS=1 python benchmarks/ablation.py --out benchmarks/ablation.jsonl

The twin shares no code with the chain that the stickers are optimized under. Every arm has the same
steps, draws and seed, and is filmed by the same cameras on the same paths; success counts frames,
its interval resamples whole clips. So arms are compared clip by clip: the last column is the mean
difference to `camera` on the same clips.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from physadv.core.rows import read_rows
from physadv.demo import film, judge, lay_out
from physadv.eot.presets import eot_preset
from physadv.eot.ranges import EotRanges, without
from physadv.evaluation.metrics.intervals import paired_difference
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import measure_patch
from physadv.patches.patch_run import PatchRun
from physadv.report.check_report import write_check_report

ARMS = (
    "camera",
    "athalye",
    "camera - blur",
    "camera - codec",
    "camera - color",
    "camera - noise",
    "default",
    "thys",
)


def ranges_of(arm: str) -> EotRanges:
    """A preset, or a preset without one effect ("camera - blur")."""
    preset, *left_out = arm.split(" - ")
    return without(eot_preset(preset), *left_out)


def run_arm(arm: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Optimize, measure under `camera`, print and film one sticker; returns its row."""
    began = time.process_time()
    settings = PatchConfig(
        steps=options.steps, draws=options.draws, seed=options.seed, test_draws=64, name=arm
    )
    run = PatchRun(settings, folder / "bundle")
    run.task = replace(run.task, ranges=ranges_of(arm))
    for _ in run.steps(validate_every=max(10, options.steps // 4)):
        pass
    bundle, own = run.finish()
    camera = measure_patch(
        replace(run.task, ranges=eot_preset("camera")),
        bundle.patch,
        draws=options.test_draws,
        name="camera",
    )
    sheet = lay_out(folder)
    for _ in film(folder, sheet, clips=options.clips, frames=options.frames, seed=options.seed + 1):
        pass
    for _ in judge(folder, settings):
        pass
    blocks = write_check_report(folder / "check").summary["blocks"]
    shots = [r for r in read_rows(folder / "check" / "rows.jsonl") if r["block"] == "patch"]
    hits = {
        clip: _mean([r["success"] for r in shots if r["clip"] == clip])
        for clip in {r["clip"] for r in shots}
    }
    return {
        "arm": arm,
        "steps": options.steps,
        "draws": options.draws,
        "seed": options.seed,
        "own_draws": own.success.as_dict(),
        "camera_draws": camera.success.as_dict(),
        "camera_blank": camera.blank_success.as_dict(),
        "clips": options.clips,
        "twin": blocks,
        "by_clip": dict(sorted(hits.items())),
        "cpu_s": round(time.process_time() - began, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: success under the arm's own draws, under `camera`, and in the twin, each with its
    interval."""
    lines = [
        "| optimized under | own held-out draws | held-out `camera` draws | twin | blank sticker "
        "in the twin "
        "| twin, less `camera` |",
        "|---|" + "---|" * 5,
    ]
    full: dict[str, float] = next((row["by_clip"] for row in rows if row["arm"] == "camera"), {})
    for row in rows:
        rates = [_rate(row["own_draws"]), _rate(row["camera_draws"])]
        seen = [_block(row["twin"][name]) for name in ("patch", "blank")]
        lines.append(
            f"| {row['arm']} | {' | '.join([*rates, *seen, _difference(row['by_clip'], full)])} |"
        )
    return "\n".join(lines)


def _difference(mine: dict[str, float], full: dict[str, float]) -> str:
    """Difference over the clips that both have, clip by clip, with its 95 % interval."""
    clips = [clip for clip in full if clip in mine]
    change = paired_difference([full[c] for c in clips], [mine[c] for c in clips], clips)
    return f"{change}, n = {len(clips)} clips"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rate(rate: dict[str, Any]) -> str:
    return f"{rate['rate']:.1%} ({rate['low']:.1%} to {rate['high']:.1%}, n = {rate['n']})"


def _block(block: dict[str, Any]) -> str:
    low, high = (f"{block[k]:.1%}" for k in ("low", "high"))
    return f"{block['attack_success_rate']:.1%} ({low} to {high}, n = {block['frames']} frames)"


def main() -> None:
    """Run the arms that have no row yet, one line each, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/ablation.jsonl"))
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--draws", type=int, default=32)
    parser.add_argument("--test-draws", type=int, default=400)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=1e6, help="start no further arm after this time"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    began = time.monotonic()
    done = list(read_rows(options.out)) if options.out.is_file() else []
    known = {(row["arm"], row["steps"], row["draws"], row["seed"], row["clips"]) for row in done}
    for arm in options.arms:
        late = time.monotonic() - began > 60 * options.minutes
        if late or (arm, options.steps, options.draws, options.seed, options.clips) in known:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            row = run_arm(arm, options, Path(scratch))
        with options.out.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(json.dumps({k: row[k] for k in ("arm", "camera_draws", "cpu_s")}), flush=True)
    print(table(list(read_rows(options.out))))


if __name__ == "__main__":
    main()
