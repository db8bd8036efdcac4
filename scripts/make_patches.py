"""Make, measure and lay out the ready-made bundles of patches/ from a folder with the data sets.

    python scripts/make_patches.py --data ../shared/data --scratch runs/patches [--only NAME ...]
    [--measure]

A name's run is resumable in the scratch folder. With --measure no step is made: the patch there (a
checkpoint, or patch.png of an earlier bundle) is measured anew, as after a change of the
transforms, and written to patches/. Names on the cards are relative to the data folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from physadv.core.image_io import read_image
from physadv.patches.config import PatchConfig

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 300_000
BOXES = "stop-photos-boxes.csv"
PATCHES = {
    "stop-sticker-signs-v1": PatchConfig(model="signs", goal="untargeted", steps=300, draws=32),
    "stop-sticker-fastestdet-v1": PatchConfig(
        model="fastestdet",
        weights="weights/fastestdet_coco.pth",
        goal="vanish",
        signs=("stop-photos/stop",),
        backgrounds="backgrounds",
        boxes=BOXES,
        steps=400,
        draws=12,
        size_mm=(200, 200),
        center_mm=(0, 40),
    ),
    "toaster-universal-v1": PatchConfig(
        model="efficientnet-lite0",
        goal="targeted",
        target_class="toaster",
        object="anywhere",
        photos="imagenet-photos",
        mask="circle",
        size_mm=(180, 180),
        share=(0.35, 0.55),
        steps=300,
        draws=12,
        lr=0.08,
        tv=0.1,
        resolution=128,
    ),
    "person-fastestdet-v1": PatchConfig(
        model="fastestdet",
        weights="weights/fastestdet_coco.pth",
        goal="vanish",
        object="person",
        photos="coco128/images",
        size_mm=(190, 190),
        steps=340,
        draws=12,
        resolution=96,
    ),
}


HOW = {
    "stop-photos": "12 street photos of github.com/mbasilyan/Stop-Sign-Detection; boxes in this "
    "bundle",
    "backgrounds": "300 photos, train and val, of BSDS500: github.com/BIDS/BSDS500",
    "coco128": "128 photos of COCO train2017: lightly-ai/coco128_yolo",
    "imagenet-photos": "300 photos of github.com/EliSchwartz/imagenet-sample-images, with "
    "labels.csv: file, class",
    "weights": "physadv models fetch fastestdet",
}


HISTORY = {
    "toaster-universal-v1": "two runs: 240 steps of 16 draws, lr 0.06, share 0.3-0.5; then, from "
    "its last patch, steps "
    "as above, stopped early",
    "person-fastestdet-v1": "stopped after 200 of 340 steps",
}
"""Where a shipped patch is not what one run of its settings gives."""


def optimize(name: str, settings: PatchConfig, folder: Path) -> None:
    """Make the steps; the checkpoint in ``folder`` is the product."""
    from physadv.patches.patch_run import PatchRun

    for step in PatchRun(settings, folder).steps():
        if step.success is not None:
            print(
                name,
                step.step,
                f"loss {step.loss:.3f} validation {step.best_success:.3f}",
                flush=True,
            )


def patch_in(folder: Path, steps: int) -> tuple[Tensor, int]:
    """The best patch of a run and how many steps were made, from its checkpoint or, without one,
    its bundle."""
    checkpoint = folder / "checkpoint.safetensors"
    if not checkpoint.is_file():
        return read_image(folder / "patch.png")[None], steps
    with safe_open(checkpoint, framework="pt") as file:
        return file.get_tensor("best"), int((file.metadata() or {}).get("step", steps))


def measured_bundle(name: str, settings: PatchConfig, folder: Path, target: Path) -> None:
    """Measure the patch in ``folder`` and write it as a ready-made bundle, small enough to ship."""
    from physadv.patches.bundle import read_bundle, write_bundle
    from physadv.patches.card import make_card
    from physadv.patches.optimize import measure_patch, to_8bit
    from physadv.patches.patch_run import PatchRun
    from physadv.patches.preview import preview_picture
    from physadv.printing.layout import smallest_paper
    from physadv.printing.sheet import write_sheet

    run = PatchRun(settings, folder, overwrite=True)
    task = run.task
    best, steps_done = patch_in(folder, settings.steps)
    patch = to_8bit(task, best)
    measured = measure_patch(task, patch, draws=settings.test_draws)
    card = make_card(settings, task, run.model, measured, steps_done=steps_done, curves=run.curves)
    if name in HISTORY:
        card.optimisation["history"] = HISTORY[name]
    named = [*settings.signs, settings.backgrounds, settings.photos, settings.weights]
    sources = {str(n).split("/")[0]: HOW[str(n).split("/")[0]] for n in named if n}
    rows = list(measured.rows)
    bundle = write_bundle(
        target,
        card=replace(card, data=sources),
        patch=patch,
        mask=task.mask,
        rows=rows,
        preview=preview_picture(task, patch),
    )
    lines = [json.dumps(row, separators=(",", ":")) for row in rows]
    (target / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with Image.open(target / "preview.png") as opened:
        small = opened.convert("RGB").resize((600, 300), Image.Resampling.LANCZOS).quantize(96)
    small.save(target / "preview.png", optimize=True)
    if settings.boxes is not None:
        shutil.copy(settings.boxes, target)
    paper = smallest_paper(settings.width_mm, settings.height_mm)
    write_sheet(read_bundle(target), target / "sheet.pdf", paper=paper)
    if (
        sum(f.stat().st_size for f in target.iterdir()) > LARGEST
    ):  # `physadv print` makes the sheet at any time
        for sheet in target.glob("sheet*"):
            sheet.unlink()
    size = sum(f.stat().st_size for f in target.iterdir()) / 1000
    print(
        name,
        f"success {measured.success}; blank {measured.blank_success}; clean "
        f"{measured.clean_recognised}",
    )
    for block, found in measured.detection.items():
        print(f"  {block}: misses {found.fnr}; AP50 {found.ap}; extra {found.extra}")
    print(f"  {bundle.folder.name}: {size:.0f} kB", flush=True)


def main() -> None:
    """Make the patches asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(PATCHES))
    parser.add_argument("--measure", action="store_true", help="make no step")
    parser.add_argument("--draws", type=int, default=300, help="held-out draws")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    scratch = options.scratch.resolve()
    os.chdir(options.data)
    for name in options.only:
        settings = replace(PATCHES[name], name=name, test_draws=options.draws)
        if not options.measure:
            optimize(name, settings, scratch / name)
        measured_bundle(name, settings, scratch / name, ROOT / "patches" / name)


if __name__ == "__main__":
    main()
