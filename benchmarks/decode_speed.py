"""Speed of reading a folder of photos, beside Pillow alone, which is the floor.

    python benchmarks/decode_speed.py photos/ [--limit 128] [--repeats 5]

Prints a JSON row a way to read: CPU time an image (all threads; the least of the repeats), and
images a second by the clock (the most of them). Batches are of 32; "busy" is a device that takes as
long as Pillow takes for the batch, and "waited" the share of the time that it had to wait.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from physadv.core.image_io import list_images, to_tensor
from physadv.datasets.decoding import Decoder
from physadv.datasets.read import read_dataset

BATCH = 32


def main() -> None:
    """Measure each way on the same files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos")
    parser.add_argument("--limit", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    files = [file.resolve() for file in list_images(given.photos)][: given.limit]

    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "photos.csv"
        listing.write_text("path,label\n" + "".join(f"{f},{i % 5}\n" for i, f in enumerate(files)))
        data = read_dataset(listing, split="all")

        def tensor(index: int) -> torch.Tensor:
            return to_tensor(data[index][0])

        def floor() -> None:
            for file in files:
                with Image.open(file) as image:
                    np.array(image.convert("RGB"))

        def batched(workers: int | None, read: Callable[[int], object]) -> Callable[[], None]:
            decoder = Decoder(workers)

            def run() -> None:
                for start in range(0, len(files), BATCH):
                    decoder.take(read, range(start, min(start + BATCH, len(files))))

            return run

        ways: dict[str, Callable[[], object]] = {
            "Pillow alone": floor,
            "in the caller": lambda: [data[i] for i in range(len(data))],
            "in the caller, as tensors": lambda: [tensor(i) for i in range(len(data))],
            "1 thread": batched(1, data.__getitem__),
            "2 threads": batched(2, data.__getitem__),
        }
        spent = least_times(ways, given.repeats)
        for name, (wall, cpu) in spent.items():
            speed = {"cpu_ms": 1e3 * cpu / len(files), "per_s": len(files) / wall}
            print(json.dumps({"way": name, "n": len(files), **rounded(speed)}))
        pause = BATCH * spent["Pillow alone"][0] / len(files)
        for workers in (1, 2):
            shares = [waited(data.__getitem__, len(files), workers, pause) for _ in range(3)]
            row = {"way": f"{workers} threads ahead", "busy_ms": 1e3 * pause}
            print(json.dumps(row | rounded({"waited": min(shares)})))


def least_times(
    ways: dict[str, Callable[[], object]], repeats: int
) -> dict[str, tuple[float, float]]:
    """Return the least seconds by the clock and of CPU time of each way, which take turns."""
    walls: dict[str, list[float]] = {name: [] for name in ways}
    cpus: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            walls[name].append(time.perf_counter() - wall)
            cpus[name].append(time.process_time() - cpu)
    return {name: (min(walls[name]), min(cpus[name])) for name in ways}


def waited(read: Callable[[int], object], count: int, workers: int, busy_s: float) -> float:
    """Return the share of the time that a device waits for batches that are decoded ahead."""
    decoder, waiting = Decoder(workers), 0.0
    begun = time.perf_counter()
    batches = [range(s, min(s + BATCH, count)) for s in range(0, count, BATCH)]
    decoder.begin(read, batches[0])
    for number, batch in enumerate(batches):
        before = time.perf_counter()
        decoder.take(read, batch)
        waiting += time.perf_counter() - before if number else 0.0
        if number + 1 < len(batches):
            decoder.begin(read, batches[number + 1])
        time.sleep(busy_s)
    return waiting / (time.perf_counter() - begun)


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Return values with three significant digits."""
    return {key: float(f"{value:.3g}") for key, value in values.items()}


if __name__ == "__main__":
    main()
