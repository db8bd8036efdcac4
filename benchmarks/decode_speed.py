"""Speed of reading a folder of photos, beside Pillow alone, which is the floor.

    python benchmarks/decode_speed.py photos/ [--limit 128] [--repeats 5] [--model NAME]

Prints a JSON row a way to read: CPU time an image (all threads; the least of the repeats), and
images a second by the clock (the most of them). Batches are of 32; "busy" is a device that takes as
long as Pillow takes for the batch, and "waited" the share of the time that it had to wait.

With --model a classifier consumes the batches instead (forward passes on one thread): decoded in
line, and ahead by two threads, in turns. A row a turn: seconds, and the share that the model waited.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import physadv
from physadv.core.image_io import list_images, to_tensor
from physadv.datasets.decoding import Decoder
from physadv.datasets.read import read_dataset
from physadv.models.resizing import InputResizing

BATCH = 32


def main() -> None:
    """Measure each way on the same files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos")
    parser.add_argument("--limit", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="")
    given = parser.parse_args()
    torch.set_num_threads(1)
    files = [file.resolve() for file in list_images(given.photos)][: given.limit]

    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "photos.csv"
        listing.write_text("path,label\n" + "".join(f"{f},{i % 5}\n" for i, f in enumerate(files)))
        data = read_dataset(listing, split="all")

        if given.model:
            for row in consumed(given.model, data.__getitem__, len(files), given.repeats):
                print(json.dumps(row), flush=True)
            return

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


def consumed(
    name: str, read: Callable[[int], Any], count: int, repeats: int
) -> Iterator[dict[str, object]]:
    """Yield a row for each turn of a model that consumes images decoded in line, or ahead."""
    model = physadv.load_model(name)
    resizing = InputResizing((224, 224), short_side=256)

    def brought(index: int) -> torch.Tensor:
        return resizing(to_tensor(read(index)[0])[None])[0]

    for turn in range(repeats + 1):  # the first warms up
        for ahead in (False, True):
            decoder, waiting, begun = Decoder(2 if ahead else 1), 0.0, time.perf_counter()
            batches = [range(s, min(s + BATCH, count)) for s in range(0, count, BATCH)]
            for number, batch in enumerate(batches):
                before = time.perf_counter()
                images = decoder.take(brought, batch) if ahead else [brought(i) for i in batch]
                waiting += time.perf_counter() - before
                if ahead and number + 1 < len(batches):
                    decoder.begin(brought, batches[number + 1])
                with torch.no_grad():
                    model(torch.stack(images))
            wall = time.perf_counter() - begun
            values = {"wall_s": wall, "waited": waiting / wall, "per_s": count / wall}
            if turn:
                way = "2 threads ahead" if ahead else "in line"
                yield {"model": name, "way": way, "turn": turn, "n": count, **rounded(values)}


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Return values with three significant digits."""
    return {key: float(f"{value:.3g}") for key, value in values.items()}


if __name__ == "__main__":
    main()
