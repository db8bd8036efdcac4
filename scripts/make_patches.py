"""Make, measure and lay out the ready-made bundles of patches/ from a folder with the data sets.

    python scripts/make_patches.py --data ../shared/data --scratch runs/patches [--only NAME ...]

A name's run is resumable in the scratch folder; one that is finished there is measured anew, as
after a change of the transforms. Names on the cards are relative to the data folder, which holds
benchmarks/stop-photos-boxes.csv too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from physadv.core.rows import Row
from physadv.patches.bundle import PatchBundle, read_bundle, write_bundle
from physadv.patches.config import PatchConfig
from physadv.patches.patch_run import PatchRun
from physadv.patches.preview import preview_picture
from physadv.printing.layout import smallest_paper
from physadv.printing.sheet import write_sheet

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 500_000
BOXES = "stop-photos-boxes.csv"
FASTESTDET = "weights/fastestdet_coco.pth"
YOLOX = "weights/yolox_nano_coco.onnx"
LARGE = (190, 150)
"""Size in mm before the search of proportions; it covers 16 % of the sign."""
MIDDLE = (200, 142)
"""Size in mm of what lies in the middle of the sign; it covers as much."""
COARSE = {"lr": 0.05, "tv": 0.1, "nps": 0.02}
"""Larger steps, and a weaker pull to smooth and printable pictures, than by default."""
PHOTOS = {"signs": ("stop-photos/stop",), "boxes": BOXES}


def _sticker(size_mm: tuple[float, float], **settings: Any) -> PatchConfig:
    """A sticker on drawn stop signs of many faces, whose place and proportions are searched; it
    needs no data."""
    chosen = {
        "goal": "untargeted",
        "steps": 400,
        "draws": 32,
        "search": "proportions",
        "restarts": 24,
    }
    return PatchConfig(size_mm=size_mm, **{**chosen, **settings})


def _hiding(**settings: Any) -> PatchConfig:
    """A sticker that hides drawn and photographed signs from a detector, of the default size unless
    one is given."""
    return PatchConfig(goal="vanish", draws=12, **{**PHOTOS, **COARSE, **settings})


PATCHES = {
    "stop-sticker-signs-v1": _sticker(LARGE, model="signs"),
    "stop-bars-signs-v1": PatchConfig(
        model="signs",
        mask="bars:2:0.85",
        size_mm=(221, 154.4),
        center_mm=(-20, 40),
        steps=1000,
        restarts=12,
    ),
    "stop-band-fastestdet-v1": _hiding(model="fastestdet", weights=FASTESTDET),
    "stop-band-yolox-v1": _hiding(model="yolox-nano", weights=YOLOX),
    "stop-sticker-fastestdet-v1": _sticker(
        LARGE,
        model="fastestdet",
        weights=FASTESTDET,
        goal="vanish",
        draws=12,
        restarts=8,
        backgrounds="backgrounds",
        **PHOTOS,
    ),
    "stop-sticker-yolox-v1": _hiding(model="yolox-nano", weights=YOLOX, size_mm=MIDDLE, steps=400),
    "stop-sticker-three-v1": _sticker(
        LARGE,
        model="signs",
        ensemble=(f"fastestdet={FASTESTDET}", f"yolox-nano={YOLOX}"),
        backgrounds="backgrounds",
        restarts=12,
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
        steps=1000,
        draws=16,
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
        steps=1000,
        draws=16,
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
    "weights": "physadv models fetch fastestdet, and yolox-nano",
}


def make_bundle(name: str, settings: PatchConfig, folder: Path, target: Path) -> None:
    """Optimize and measure one patch in ``folder``, and lay it out in ``target``, small enough to
    ship."""
    run = PatchRun(settings, folder, overwrite=True, force=True)
    run.check_controls()
    for step in run.steps():
        if step.success is not None:
            print(f"{name} {step.step} validation {step.best_success:.3f}", flush=True)
    made, measured = run.finish()

    named = [*(settings.signs or ()), settings.backgrounds, settings.photos, settings.weights]
    sources = {str(n).split("/")[0]: HOW[str(n).split("/")[0]] for n in named if n}
    rows = list(measured.rows)
    bundle = write_bundle(
        target,
        card=replace(made.card, data=sources),
        patch=made.patch,
        mask=made.mask,
        rows=rows,
        preview=preview_picture(run.task, made.patch),
    )
    _make_small(bundle, rows)
    if settings.boxes is not None:
        shutil.copy(settings.boxes, target)
    print(f"{name} success {measured.success}; blank {measured.blank_success}", flush=True)


def _make_small(bundle: PatchBundle, rows: list[Row]) -> None:
    """Shrink rows and preview of a bundle, and add its sheet where it is small enough to ship."""
    folder = bundle.folder
    lines = [json.dumps(row, separators=(",", ":")) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with Image.open(folder / "preview.png") as opened:
        small = opened.convert("RGB").resize((600, 300), Image.Resampling.LANCZOS).quantize(96)
    small.save(folder / "preview.png", optimize=True)

    paper = smallest_paper(bundle.card.size.width_mm, bundle.card.size.height_mm)
    write_sheet(read_bundle(folder), folder / "sheet.pdf", paper=paper)
    if sum(f.stat().st_size for f in folder.iterdir()) > LARGEST:
        for sheet in folder.glob("sheet*"):  # `physadv print` makes it at any time
            sheet.unlink()


def main() -> None:
    """Make the patches asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(PATCHES))
    parser.add_argument("--draws", type=int, default=300, help="held-out draws")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    scratch = options.scratch.resolve()
    os.chdir(options.data)
    for name in options.only:
        settings = replace(PATCHES[name], name=name, test_draws=options.draws)
        make_bundle(name, settings, scratch / name, ROOT / "patches" / name)


if __name__ == "__main__":
    main()
