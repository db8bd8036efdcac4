"""The ready-made universal patch, printed with its photo and photographed by every camera of the
twin (a simulation).

    OMP_NUM_THREADS=1 python benchmarks/universal_in_twin.py ../shared/data/imagenet-photos

The photos are those that the bundle's rows hold out. Each is cut to a square, gets the patch (or
its shape in white, or nothing) 0.45 of its side wide at a place drawn by the seed, is printed by
the twin's office-laser printer, photographed from the front and cut out again. A row a photo and
camera says whether the clean photo is read as its class in labels.csv, and the others as a toaster;
the table goes to standard output.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch

from physadv.core.image_io import Array, read_rgba, to_tensor
from physadv.core.package_data import patches_dir
from physadv.core.random_streams import numpy_generator
from physadv.core.rows import Row, append_rows, read_rows
from physadv.defenses.load_model import load_model
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.patches.bundle import PatchBundle, read_bundle
from physadv.twin.cameras import KNOWN
from physadv.twin.flat_print import photograph_flat, print_flat

SIDE, SHARE = 224, 0.45
BLOCKS = ("clean", "blank", "patch")


def square(file: Path) -> Array:
    """The middle of a photo, (SIDE, SIDE, 3)."""
    image = read_rgba(file)[..., :3]
    side = min(image.shape[:2])
    y, x = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return np.asarray(
        cv2.resize(image[y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA),
        np.uint8,
    )


def laid(photo: Array, bundle: PatchBundle, place: tuple[float, float], *, blank: bool) -> Array:
    """The photo with the patch on it, or with its shape in white."""
    size = round(SHARE * SIDE)
    texture = (bundle.patch[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    small = (
        np.full((size, size, 3), 240, np.uint8)
        if blank
        else cv2.resize(texture, (size, size), interpolation=cv2.INTER_AREA)
    )
    alpha = cv2.resize(bundle.mask[0, 0].numpy(), (size, size), interpolation=cv2.INTER_AREA)[
        ..., None
    ]
    x, y = (round(p * (SIDE - size)) for p in place)
    out = photo.copy()
    out[y : y + size, x : x + size] = (
        alpha * small + (1 - alpha) * out[y : y + size, x : x + size]
    ).round()
    return out


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("-n", type=int, default=30)
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = patches_dir() / "toaster-universal-v1"
    bundle, model = read_bundle(folder), load_model("efficientnet-lite0")
    target = model.card.class_index("toaster")

    def read(image: Array) -> int:
        with torch.no_grad():
            return int(model(to_tensor(image)[None]).argmax(1))

    with (options.photos / "labels.csv").open(encoding="utf-8", newline="") as stream:
        classes = {line["file"]: line["class"] for line in csv.DictReader(stream)}
    about = {"run_id": bundle.card.patch.run_id, "model": model.card.name}

    def judged(photo: str, versions: Mapping[str, Array]) -> Row:
        own = model.card.class_index(classes[photo])
        seen = {block: read(picture) for block, picture in versions.items()}
        return {
            "clean": seen["clean"] == own,
            "blank": seen["blank"] == target,
            "patch": seen["patch"] == target,
        }

    held = list(dict.fromkeys(str(row["group"]) for row in read_rows(folder / "rows.jsonl")))[
        : options.n
    ]
    rows = []
    for number, name in enumerate(held):
        photo = square(options.photos / name)
        place = tuple(numpy_generator(0, "universal in twin", number).uniform(0.1, 0.9, 2))
        versions = {
            "clean": photo,
            "blank": laid(photo, bundle, place, blank=True),
            "patch": laid(photo, bundle, place, blank=False),
        }
        rows.append({**about, "photo": name, "camera": "on disk", **judged(name, versions)})
        prints = {k: print_flat(v, "office-laser") for k, v in versions.items()}
        for camera in KNOWN.values():
            shown = {k: photograph_flat(v, camera=camera, shot=number) for k, v in prints.items()}
            rows.append({**about, "photo": name, "camera": camera.name, **judged(name, shown)})
    append_rows(options.rows, rows)
    for camera in dict.fromkeys(row["camera"] for row in rows):
        mine = [row for row in rows if row["camera"] == camera]
        rates = (wilson_interval(sum(r[k] for r in mine), len(mine)) for k in BLOCKS)
        print("| " + " | ".join([str(camera), *map(str, rates)]) + " |", flush=True)


if __name__ == "__main__":
    main()
