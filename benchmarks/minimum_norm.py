"""Minimum-norm attacks side by side: success, mean distance, seconds, on a small MNIST net.

python benchmarks/minimum_norm.py --data mnist/ [--images 200]

Trains the net (4 epochs, 10,000 images, seed 0), then attacks test images that it reads rightly.
Interleaved: each attack on each of 4 groups of images in turn. One thread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from physadv import attacks
from physadv.core.image_io import to_tensor
from physadv.core.random_streams import generator
from physadv.datasets import read_dataset
from physadv.studies.gradient_masking.trained_nets import StudyNets
from physadv.training.data import load_training_data
from physadv.training.methods.base import StandardTraining

RUNS = {
    "cw_l2, 5 searches of 100": lambda n, x, y: attacks.cw_l2(n, x, y),
    "cw_l2, 5 searches of 11": lambda n, x, y: attacks.cw_l2(n, x, y, steps=11, searches=5),
    "deepfool, l2": lambda n, x, y: attacks.deepfool(n, x, y, norm="l2"),
    "superdeepfool, 50 steps": lambda n, x, y: attacks.superdeepfool(n, x, y),
    "superdeepfool, 100 steps": lambda n, x, y: attacks.superdeepfool(n, x, y, steps=100),
    "fab, l2, 100 steps": lambda n, x, y: attacks.fab(n, x, y, norm="l2"),
    "ddn, 50 steps": lambda n, x, y: attacks.ddn(n, x, y, steps=50),
    "ddn, 100 steps": lambda n, x, y: attacks.ddn(n, x, y),
    "fmn, l2, 100 steps": lambda n, x, y: attacks.fmn(n, x, y, norm="l2"),
    "fab, linf, 100 steps": lambda n, x, y: attacks.fab(n, x, y, norm="linf"),
    "fmn, linf, 100 steps": lambda n, x, y: attacks.fmn(n, x, y, norm="linf"),
    "fab, l1, 100 steps": lambda n, x, y: attacks.fab(n, x, y, norm="l1"),
    "fmn, l1, 100 steps": lambda n, x, y: attacks.fmn(n, x, y, norm="l1"),
}


def main() -> None:
    """Train, attack, print one line an attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)

    training = load_training_data(Path(options.data), limit=10_000, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        nets = StudyNets(training, Path(folder), 4, 0.2, 0, lambda *_: None)
        net = nets.net("plain", StandardTraining())

    test = read_dataset(options.data, split="test")
    rows = torch.randperm(len(test), generator=generator(0, "minimum-norm")).tolist()
    pairs = [test[i] for i in rows[: 2 * options.images]]
    x = torch.stack([to_tensor(image)[:1] for image, _ in pairs])
    y = torch.tensor([label for _, label in pairs])
    right = (net(x).argmax(1) == y).nonzero()[:, 0][: options.images]
    groups = right.chunk(4)

    found = {name: ([], 0.0) for name in RUNS}
    for group in groups:
        for name, run in RUNS.items():
            begun = time.process_time()
            result = run(net, x[group], y[group])
            seconds = found[name][1] + time.process_time() - begun
            distance = result.loss.double().masked_fill(~result.success, torch.inf)
            found[name] = ([*found[name][0], *distance.tolist()], seconds)

    for name, (distances, seconds) in found.items():
        values = torch.tensor(distances)
        done = values.isfinite()
        row = {
            "attack": name,
            "n": len(values),
            "success": round(float(done.double().mean()), 3),
            "mean": round(float(values[done].mean()), 4),
            "median": round(float(values.median()), 4),
            "seconds": round(seconds, 2),
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
