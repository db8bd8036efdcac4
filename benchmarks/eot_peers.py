"""One batched warp beside ART's loop of one warp per image, at the same rotations, scales and
places.

    OMP_NUM_THREADS=1 python benchmarks/eot_peers.py --art /path/to/venv/bin/python --out
    benchmarks/eot_peers.jsonl

Forward and backward to the patch, interleaved, CPU seconds. ART runs in an environment of its own
(art_overlay.py). "ours, warp" does what ART's overlay does (a round patch turned, scaled, moved,
blended), but anti-aliased and in linear light; "ours, default" and "ours, camera" add everything
between print and file that those presets draw.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physadv.core.random_streams import generator
from physadv.eot.mask_shapes import make_mask
from physadv.eot.pipeline import Pipeline
from physadv.eot.placement import Placement
from physadv.eot.presets import eot_preset
from physadv.eot.ranges import NOTHING
from physadv.eot.scenes.scene_batch import SceneBatch

SIDE_MM = 100.0


def places(seed: int, batch: int, size: int) -> Tensor:
    """(b, 3, 3) mm -> px of the rotations, scales and shifts that ART draws from numpy's global
    generator."""
    drawn = np.random.RandomState(seed)
    matrices = []
    for _ in range(batch):
        scale = drawn.uniform(0.2, 0.6)
        room = size * (1 - scale) / 2
        x, y = drawn.uniform(-room, room), drawn.uniform(-room, room)
        turn = np.radians(drawn.uniform(-22.5, 22.5))
        c, s = (f(turn) * scale * size / SIDE_MM for f in (np.cos, np.sin))
        matrices.append([[c, -s, size / 2 + x], [s, c, size / 2 + y], [0, 0, 1]])
    return torch.tensor(np.array(matrices), dtype=torch.float32)


def ours(preset: str, seed: int, batch: int, size: int, texels: int) -> float:
    """CPU seconds of one rendering with its gradient in the patch."""
    patch, mask = (
        torch.full((1, 3, texels, texels), 0.5).requires_grad_(),
        make_mask("circle", 1, 1, longest_px=texels),
    )
    ones = torch.ones(batch, 3)
    scenes = SceneBatch(
        torch.full((batch, 3, size, size), 0.5),
        places(seed, batch, size),
        ones,
        0 * ones,
        torch.ones(batch),
        (),
    )
    ranges = NOTHING if preset == "warp" else replace(eot_preset(preset), lens_k1=(0.0, 0.0))
    began = time.process_time()
    pipeline = Pipeline.from_ranges(ranges)
    draw = pipeline.sample(scenes, generator(seed, "peers"))
    seen = pipeline.apply(patch, mask, Placement(SIDE_MM, SIDE_MM), scenes, draw)
    torch.autograd.grad(seen.sum(), patch)
    return time.process_time() - began


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--art", required=True, help="python of an environment with ART")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/eot_peers.jsonl"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--texels", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    shape = (options.batch, options.size, options.texels)
    command = [options.art, str(Path(__file__).with_name("art_overlay.py")), *map(str, shape)]
    taken: dict[str, list[float]] = {"art": [], "warp": [], "default": [], "camera": []}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as peer:
        assert peer.stdin is not None and peer.stdout is not None  # noqa: PT018
        versions = json.loads(peer.stdout.readline())
        for seed in range(options.repeats + 1):
            peer.stdin.write(f"{seed}\n")
            peer.stdin.flush()
            times = {"art": float(peer.stdout.readline())}
            times |= {
                preset: ours(preset, seed, *shape) for preset in ("warp", "default", "camera")
            }
            for name, seconds in times.items() if seed else ():  # the first round warms up
                taken[name].append(seconds)
        peer.stdin.close()
    middle = {name: statistics.median(times) for name, times in taken.items()}
    rows = [
        {
            "what": "ART AdversarialPatchPyTorch overlay" if name == "art" else f"ours, {name}",
            "batch": options.batch,
            "size": options.size,
            "cpu_s": round(middle[name], 4),
            "art_over_this": round(middle["art"] / middle[name], 2),
            "all": [round(t, 4) for t in times],
            **versions,
        }
        for name, times in taken.items()
    ]
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        print({k: v for k, v in row.items() if k != "all"})


if __name__ == "__main__":
    main()
