"""The guard of fast adversarial training, on and off, on MNIST at linf 0.3.

    python benchmarks/fast_guard.py --data mnist/ --seeds 3

Trains ``small-cnn`` for 500 steps of 128 images by one step of 1.25 eps from a random start, with
and without the guard, and measures accuracy on 1000 test images: clean, under FGSM, and under PGD
of 30 steps. Neither the guard nor its limits were chosen by these test images. Writes one row a run
to benchmarks/fast_guard.jsonl.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from physadv.attacks.gradient import fgsm, pgd
from physadv.core.random_streams import generator, numpy_generator
from physadv.core.rows import Row, append_rows
from physadv.datasets import ImageDataset, read_dataset
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.models.architectures.cnn import build_network
from physadv.training.loop import TrainingSchedule, seed_all, train_model
from physadv.training.methods.fast import FastTraining

EPS, STEPS, BATCH, TESTED = 0.3, 500, 128, 1000
ROWS = Path(__file__).resolve().parent / "fast_guard.jsonl"


def draw_images(data: ImageDataset, count: int) -> tuple[Tensor, Tensor]:
    """Return ``count`` images (n, 1, 28, 28) of ``data``, drawn at random, and their labels."""
    chosen = numpy_generator(0, "fast-guard").permutation(len(data))[:count]
    images = [torch.from_numpy(data[int(i)][0][None, ..., 0].copy()) / 255 for i in chosen]
    return torch.stack(images).float(), torch.from_numpy(data.labels[chosen])


def measure(net: nn.Module, images: Tensor, labels: Tensor) -> dict[str, int]:
    """Return how many of ``images`` stay right: clean, under FGSM, under PGD of 30 steps."""
    attacked = {
        "clean": images,
        "fgsm": fgsm(net, images, labels, eps=EPS).images,
        "pgd30": pgd(net, images, labels, eps=EPS, steps=30).images,
    }
    with torch.no_grad():
        return {name: int((net(x).argmax(1) == labels).sum()) for name, x in attacked.items()}


def run(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], seed: int, guarded: bool) -> Row:
    """Train one network and return its row."""
    net = seed_all(lambda: build_network("small-cnn", channels=1, side=28, classes=10), seed)
    defense = FastTraining(EPS) if guarded else FastTraining(EPS, drop=1.0, gap=1.0)

    def batches(number: int) -> tuple[Tensor, Tensor]:
        draw = generator(seed, "batch", number)
        chosen = torch.randint(0, len(train[0]), (BATCH,), generator=draw)
        return train[0][chosen], train[1][chosen]

    begun, fired = time.process_time(), []
    schedule = TrainingSchedule(1, STEPS, lr=2e-3, precision="fp32")
    for step in train_model(net, batches, schedule, defense=defense, seed=seed):
        if "guard_fired" in step.metrics:
            fired.append(step.number)

    seconds = time.process_time() - begun
    row = {"seed": seed, "guard": guarded, "fired": fired, "seconds": round(seconds, 1)}
    return row | {"n": len(test[0])} | measure(net.eval(), *test)


def main() -> None:
    """Run all seeds, with and without the guard in turn, and write the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()

    torch.set_flush_denormal(True)
    train = draw_images(read_dataset(options.data, split="train"), 12_000)
    test = draw_images(read_dataset(options.data, split="test"), TESTED)

    rows = []
    for seed in range(options.seeds):
        for guarded in (False, True):
            rows.append(row := run(train, test, seed, guarded))
            shown = {k: wilson_interval(row[k], row["n"]) for k in ("clean", "fgsm", "pgd30")}
            rates = {k: f"{i.rate:.1%} [{i.low:.1%}, {i.high:.1%}]" for k, i in shown.items()}
            print(f"seed {seed}, guard {guarded}, fired at {row['fired']}: {rates}")

    ROWS.unlink(missing_ok=True)
    append_rows(ROWS, rows)


if __name__ == "__main__":
    main()
