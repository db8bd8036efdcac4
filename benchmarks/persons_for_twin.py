"""Photos of persons for the twin: those that person-fastestdet-v1 was not made on, cut to one person.

    python benchmarks/persons_for_twin.py coco128/images PERSONS --weights yolox_nano_coco.onnx
    physadv twin person-fastestdet-v1 --signs PERSONS --camera all --clips 28 --frames 2 --seed 3 --out FILM
    physadv check FILM --bundle person-fastestdet-v1 --weights fastestdet_coco.pth --record

Of each held-out photo on the bundle's rows, PERSONS gets a copy and, in boxes.csv, the box of the
largest person that YOLOX-Nano, which the patch was not made on, finds at 0.6 or more; photos where
that box is not higher than a quarter of the picture are left out.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from physadv.core.image_io import read_rgba, to_tensor
from physadv.core.rows import read_rows
from physadv.core.types import Detections
from physadv.defenses.load_model import load_model
from physadv.models.cards import LoadedModel
from physadv.models.detectors import non_maximum_suppression
from physadv.patches.bundle import read_bundle

LEAST_SCORE, LEAST_HEIGHT = 0.6, 0.25


@torch.no_grad()
def largest_person(model: LoadedModel, photo: Path) -> tuple[int, ...] | None:
    """Return the box (x0, y0, x1, y1) in px of the largest person that is sure and high enough."""
    image = to_tensor(read_rgba(photo)[..., :3])
    detections = model(image[None])
    assert isinstance(detections, Detections)
    found = non_maximum_suppression(detections, LEAST_SCORE)[0]
    boxes = found.of_class(model.card.class_index("person")).boxes
    boxes = boxes[boxes[:, 3] - boxes[:, 1] > LEAST_HEIGHT * image.shape[-2]]
    if not len(boxes):
        return None
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return tuple(round(float(edge)) for edge in boxes[areas.argmax()])


def main() -> None:
    """Copy the photos and write their boxes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("persons", type=Path)
    parser.add_argument("--weights")
    options = parser.parse_args()
    rows = read_rows(read_bundle("person-fastestdet-v1").folder / "rows.jsonl")
    model = load_model("yolox-nano", weights=options.weights)
    options.persons.mkdir(parents=True)

    lines = ["file,x0,y0,x1,y1"]
    held_out = list(dict.fromkeys(str(row["group"]) for row in rows))
    for name in held_out:
        box = largest_person(model, options.photos / name)
        if box is not None:
            shutil.copy(options.photos / name, options.persons)
            lines.append(",".join(map(str, (name, *box))))
    (options.persons / "boxes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines) - 1} of {len(held_out)} photos")


if __name__ == "__main__":
    main()
