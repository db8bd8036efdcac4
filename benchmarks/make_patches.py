"""The ready-made bundles under patches/: made, measured and laid out, from a folder with the data sets.

    python benchmarks/make_patches.py --data ../shared/data --scratch runs/patches [--only NAME ...] [--measure]

A name's run is resumable in the scratch folder; with --measure no step is made and the best patch there is measured
anew, as after a change of the transforms. Names on the cards are relative to the data folder.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch

from physadv.journey.sticker import StickerSettings

ROOT = Path(__file__).resolve().parents[1]
BOXES = "stop-photos-boxes.csv"
PATCHES = {
    "stop-sticker-signs-v1": StickerSettings(victim="signs", goal="untargeted", steps=400, draws=32),
    "stop-sticker-fastestdet-v1": StickerSettings(
        victim="fastestdet", weights="weights/fastestdet_coco.pth", goal="vanish", signs="stop-photos/stop",
        backgrounds="backgrounds", boxes=BOXES, steps=400, draws=12, width_mm=200, height_mm=200, center_mm=(0, 40),
    ),
    "toaster-universal-v1": StickerSettings(
        victim="efficientnet-lite0", goal="targeted", target_class="toaster", object="anywhere",
        photos="imagenet-photos", mask="circle", width_mm=180, height_mm=180, steps=240, draws=16, lr=0.06, tv=0.1,
        resolution=128,
    ),
    "person-fastestdet-v1": StickerSettings(
        victim="fastestdet", weights="weights/fastestdet_coco.pth", goal="vanish", object="person",
        photos="coco128/images", width_mm=190, height_mm=190, steps=340, draws=12, resolution=96,
    ),
}  # fmt: skip


def optimise(name: str, settings: StickerSettings, folder: Path) -> None:
    """Make the steps; the checkpoint in ``folder`` is the product."""
    from physadv.journey.sticker import StickerRun

    for step in StickerRun(settings, folder).steps():
        if step.success is not None:
            print(name, step.step, f"loss {step.loss:.3f} validation {step.best_success:.3f}", flush=True)


def main() -> None:
    """Make the patches asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(PATCHES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    scratch = options.scratch.resolve()
    os.chdir(options.data)
    for name in options.only:
        settings = replace(PATCHES[name], name=name, test_draws=300)
        optimise(name, settings, scratch / name)


if __name__ == "__main__":
    main()
