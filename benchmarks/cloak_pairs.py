"""Pairs of faces at 100 % to be judged blind: the same face of two folders, left or right by chance.

    python benchmarks/cloak_pairs.py FOLDER ORIGINALS CLOAKED --count 10 --seed 7

writes pair-01.png ... into FOLDER, and who is who into FOLDER/key.json: write the judgements down
before you open it. ORIGINALS and CLOAKED are two folders with photos of the same names; the second
is that of a run of ``physadv cloak``, whose manifest has the places of the faces.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from physadv.core.files import write_json
from physadv.core.image_io import Array, save_png
from physadv.core.members import member_of
from physadv.core.random_streams import numpy_generator
from physadv.core.rows import read_rows
from physadv.privacy.batch import MANIFEST
from physadv.privacy.photo_io.photo import read_photo

MOST_PX, GAP_PX = 620, 24


def face_crops(first: Path, second: Path) -> dict[str, tuple[Array, Array]]:
    """The largest face of each photo in both folders, by the name of the photo."""
    last = {row["source"]: row for row in read_rows(second / MANIFEST)}
    crops = {}
    for name, row in sorted(last.items()):
        if row["status"] != "cloaked":
            continue
        boxes = [face["box"] for face in row["faces"]]
        x0, y0, x1, y1 = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        part = slice(_start(y0, y1), _end(y0, y1)), slice(_start(x0, x1), _end(x0, x1))
        pair = [read_photo(member_of(folder, name)).rgb[part] for folder in (first, second)]
        crops[name] = (pair[0], pair[1])
    return crops


def _start(low: int, high: int) -> int:
    return max(low, (low + high - MOST_PX) // 2)


def _end(low: int, high: int) -> int:
    return min(high, _start(low, high) + MOST_PX)


def main() -> None:
    """Write the pairs and the key."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    draw = numpy_generator(options.seed, "cloak pairs", options.first.name, options.second.name)
    crops = face_crops(options.first, options.second)
    names = [str(name) for name in draw.permutation(list(crops))[: options.count]]
    key = []
    for number, name in enumerate(names, 1):
        swapped = bool(draw.integers(2))
        left, right = crops[name][::-1] if swapped else crops[name]
        gap = np.full((left.shape[0], GAP_PX, 3), 128, np.uint8)
        picture = np.concatenate([left, gap, right], 1)
        save_png(options.folder / f"pair-{number:02}.png", picture)
        sides = (
            [options.second.name, options.first.name]
            if swapped
            else [
                options.first.name,
                options.second.name,
            ]
        )
        key.append({"pair": number, "photo": name, "left": sides[0], "right": sides[1]})
    write_json(options.folder / "key.json", {"seed": options.seed, "pairs": key})


if __name__ == "__main__":
    main()
