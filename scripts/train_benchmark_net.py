"""Train a net of the epsilon-ball benchmark on CIFAR-10 by fast adversarial training.

    python scripts/train_benchmark_net.py ../shared/data/cifar10-jpg.zip runs/robust_net.pt --steps
    1500
    python scripts/train_benchmark_net.py ../shared/data/cifar10-jpg.zip runs/vit.pt --net ViT

Without ``--net`` it is the ResNet of benchmarks/resnet.py, else one of benchmarks/auto_speed.py.
The training method is :class:`physadv.training.methods.fast.FastTraining` (Wong, Rice and Kolter
2020), so that attacks of the benchmark meet some resistance. A stopped run is resumed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from physadv.training.data import ImageSubset, ShuffledBatches
from physadv.training.loop import TrainingSchedule, load_average, seed_all, train_model
from physadv.training.methods.fast import FastTraining

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from auto_speed import NETS  # type: ignore[import-not-found]
from resnet import ResNet, load_cifar10  # type: ignore[import-not-found]


@dataclass(frozen=True)
class Recipe:
    """How a net is trained.

    Attributes:
        optimizer: "sgd" or "adamw".
        lr: Peak of the learning rate.
        weight_decay: Weight decay of matrices and kernels.
        batch: Images a step.
        held: Images that the guard of fast training attacks.
        every: Steps between two looks of the guard.
    """

    optimizer: str = "sgd"
    lr: float = 0.15
    weight_decay: float = 5e-4
    batch: int = 64
    held: int = 128
    every: int = 50


_BATCH_NORM = Recipe(held=64, every=100)
_NO_BATCH_NORM = Recipe(optimizer="adamw", lr=1e-3, weight_decay=0.02, held=64, every=100)
_TOKENS = replace(_NO_BATCH_NORM, lr=3e-4)
RECIPES = {
    "ResNet": _BATCH_NORM,
    "WRN, pre-activation": _BATCH_NORM,
    "ViT": _TOKENS,
    "ConvNeXt-like": _NO_BATCH_NORM,
    "Mixer-like": _TOKENS,
    "WRN-28-10": Recipe(lr=0.05, batch=16, held=16, every=100),
}
"""Recipes of the nets that the default one does not suit."""


def train_net(
    build: Callable[[], torch.nn.Module],
    data: ImageSubset,
    checkpoint: Path,
    recipe: Recipe,
    *,
    steps: int,
    eps: float,
) -> torch.nn.Module:
    """Train a net and return its averaged weights, in eval mode.

    Args:
        build: Makes the net, with random weights.
        data: Training images of 32 px.
        checkpoint: File that holds the progress.
        recipe: How it is trained.
        steps: Number of steps, in epochs of at most 100.
        eps: Radius of the l_inf ball, in units of [0, 1].
    """
    net = seed_all(build, 0).to(memory_format=torch.channels_last)
    schedule = TrainingSchedule(
        epochs=-(-steps // 100),
        steps=min(steps, 100),
        lr=recipe.lr,
        optimizer=recipe.optimizer,
        weight_decay=recipe.weight_decay,
        average=0.99,
    )
    batches = ShuffledBatches(data, size=recipe.batch, seed=0, shift=2)
    method = FastTraining(eps, held=recipe.held, every=recipe.every)

    for step in train_model(net, batches, schedule, defense=method, checkpoint=checkpoint):
        if step.ends_epoch:
            print(f"step {step.number}: loss {step.loss:.3f}, {step.seconds:.0f} s", flush=True)
    return load_average(checkpoint, net)


def main() -> None:
    """Train, save the weights and print the clean accuracy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--net", choices=list(NETS), help="a net of benchmarks/auto_speed.py")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--eps", type=float, default=6 / 255)
    parser.add_argument("--images", type=int, default=30_000)
    options = parser.parse_args()

    images, labels = load_cifar10(options.archive, "train", options.images)
    data = ImageSubset((images * 255).round().byte(), labels, ("",) * len(labels))
    checkpoint = options.out.with_suffix(".checkpoint.safetensors")
    net = train_net(
        NETS[options.net] if options.net else ResNet,
        data,
        checkpoint,
        RECIPES.get(options.net, Recipe()),
        steps=options.steps,
        eps=options.eps,
    )
    torch.save(net.state_dict(), options.out)

    images, labels = load_cifar10(options.archive, "test", 500)
    with torch.no_grad():
        accuracy = float((net(images).argmax(1) == labels).float().mean())
    print(f"clean accuracy {accuracy:.3f}, n = {len(labels)}")


if __name__ == "__main__":
    main()
