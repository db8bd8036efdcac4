"""Stickers on photographed signs that they were not made on, under the draws of their cards.

    python benchmarks/real_signs.py stop-sticker-signs-v1 --signs stop-photos/stop \\
        --boxes benchmarks/stop-photos-boxes.csv [--model yolox-nano --weights FILE]

Every sign in every photo is a scene of the test; photos are the trials of the interval (Gaffke
2005). A bundle that was made on photos must not be judged by the same ones. One row a bundle and
model is appended to real_signs.jsonl, with the run that the bundle held; rows of runs that were
measured before November 29 do not name theirs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from physadv.core.rows import append_rows
from physadv.eot.scenes.load import read_signs
from physadv.eot.scenes.signs import PhotoScenes
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.patches.bundle import PatchBundle, read_bundle
from physadv.patches.optimize import PatchMeasurement, measure_patch, summarize_rows
from physadv.patches.reverify import config_from_bundle, recorded_ranges
from physadv.patches.task import PatchTask


def measure_on_photos(
    bundle: PatchBundle,
    signs: Path,
    boxes: Path,
    draws: int,
    model: str | None,
    weights: str | None,
) -> tuple[PatchMeasurement, int]:
    """Measure a bundle on all signs in the photos; return its rates and the number of photos."""
    config = replace(
        config_from_bundle(bundle), ensemble=(), signs=(), boxes=None, backgrounds=None
    )
    if model is not None:
        config = replace(config, model=model, weights=weights)
    photos, _, _ = read_signs(signs, boxes)

    task = PatchTask.from_config(config, ranges=recorded_ranges(config, bundle))
    scenes = replace(
        task.scene_sources, test=PhotoScenes(photos, config.sign_width_mm), kind="photos"
    )
    task = replace(task, scene_sources=scenes, mask=bundle.mask)
    rows = measure_patch(task, bundle.patch, draws=draws, name="real signs").rows
    return summarize_rows(rows, by_group=True), len({photo.group for photo in photos})


def cell(rate: RateInterval) -> str:
    """A rate in percent with its interval."""
    return f"{rate.rate:.0%} [{rate.low:.0%}, {rate.high:.0%}]".replace("%", " %")


def main() -> None:
    """Measure and print a line of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--signs", type=Path, required=True)
    parser.add_argument("--boxes", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--weights")
    parser.add_argument("--draws", type=int, default=480)
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)

    bundle = read_bundle(options.bundle)
    measured, photos = measure_on_photos(
        bundle,
        options.signs,
        options.boxes,
        options.draws,
        options.model,
        options.weights,
    )
    rates = {
        "clean": measured.clean_recognised,
        "blank": measured.blank_success,
        "patch": measured.success,
    }
    about = {
        "bundle": options.bundle,
        "run_id": bundle.card.patch.run_id,
        "model": options.model or bundle.card.victim.name,
        "photos": photos,
    }
    append_rows(options.rows, [{**about, **{k: r.as_dict() for k, r in rates.items()}}])
    line = " | ".join(cell(rate) for rate in rates.values())
    print(f"| {options.bundle} | {about['model']} | {line} | {measured.success.n} in {photos} |")


if __name__ == "__main__":
    main()
