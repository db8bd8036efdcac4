"""Speed of `physadv check` on recorded clips, beside the floor: decoding and the detector alone.

    physadv twin stop-sticker-fastestdet-v1 --clips 3 --frames 60 --camera phone --seed 5 --out twin
    python benchmarks/check_speed.py twin/clips --bundle stop-sticker-fastestdet-v1 \
        --weights fastestdet_coco.pth --repeats 5

Each turn decodes every frame and runs the model on it, one after the other, then runs the whole
check, and prints the CPU milliseconds a frame of both, their ratio, frames a second, and the time
from a frame to its verdict. Run it on a machine with two free cores: frames a second are of the
clock on the wall, and other programs slow them down.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from physadv.camera.open_source import open_frame_source
from physadv.check.check_patch import check
from physadv.core.image_io import to_tensor
from physadv.core.torch_threads import calm_threads
from physadv.defenses.load_model import load_model


def floor_ms(clips: Path, model: torch.nn.Module) -> float:
    """Return the CPU milliseconds a frame of decoding ``clips`` and running ``model`` on them."""
    frames, begin = 0, time.process_time()
    with open_frame_source(clips) as source, torch.inference_mode():
        for frame in source:
            model(to_tensor(frame.image)[None])
            frames += 1
    return 1000 * (time.process_time() - begin) / frames


def check_figures(clips: Path, bundle: str, model: torch.nn.Module) -> dict[str, float]:
    """Return the CPU milliseconds a frame of a check of ``clips``, and its own speed."""
    begin = time.process_time()
    with TemporaryDirectory() as folder:
        result = check(clips, bundle=bundle, model=model, out=folder)
        spent = time.process_time() - begin
        speed = json.loads((Path(folder) / "check.json").read_text(encoding="utf-8"))["speed"]
    return {**speed, "cpu_ms": 1000 * spent / len(result.rows)}


def main() -> None:
    """Measure in turns and print a table, the median of all turns and each turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("clips", type=Path)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    model = load_model("fastestdet", weights=options.weights)
    turns = []
    # Truth lies beside a twin's clips; a copy of them is located as a film is.
    with TemporaryDirectory() as films, calm_threads(1):
        for clip in sorted(options.clips.iterdir()):
            shutil.copy(clip, films)
        floor_ms(Path(films), model)  # what is made at the first call is not measured
        for _ in range(options.repeats):
            floor = floor_ms(Path(films), model)
            turns.append({"floor_ms": floor, **check_figures(Path(films), options.bundle, model)})

    keys = ("floor_ms", "cpu_ms", "frames_per_s", "latency_median_ms", "latency_p95_ms")
    lines = [
        "| turn | floor, CPU ms | check, CPU ms | ratio | frames/s | latency, ms | 95 % within, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    middle = {k: median(turn[k] for turn in turns) for k in keys}
    for name, turn in [*enumerate(turns, 1), ("median", middle)]:
        lines.append(
            f"| {name} | {turn['floor_ms']:.1f} | {turn['cpu_ms']:.1f} "
            f"| {turn['cpu_ms'] / turn['floor_ms']:.2f} | {turn['frames_per_s']:.1f} "
            f"| {turn['latency_median_ms']:.0f} | {turn['latency_p95_ms']:.0f} |"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
