"""Train the ResNet of the epsilon-ball benchmark on CIFAR-10 by fast adversarial training.

    python scripts/train_benchmark_net.py ../shared/data/cifar10-jpg.zip runs/robust_net.pt --steps
    1500

The training method is :class:`physadv.training.methods.fast.FastTraining` (Wong, Rice and Kolter
2020), so that attacks of the benchmark meet some resistance. A stopped run is resumed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from physadv.training.data import ImageSubset, ShuffledBatches
from physadv.training.loop import TrainingSchedule, load_average, seed_all, train_model
from physadv.training.methods.fast import FastTraining

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from resnet import ResNet, load_cifar10  # type: ignore[import-not-found]


def train_net(data: ImageSubset, checkpoint: Path, *, steps: int, eps: float) -> torch.nn.Module:
    """Train a ResNet and return its averaged weights, in eval mode.

    Args:
        data: Training images of 32 px.
        checkpoint: File that holds the progress.
        steps: Number of steps, in epochs of at most 100.
        eps: Radius of the l_inf ball, in units of [0, 1].
    """
    net = seed_all(ResNet, 0).to(memory_format=torch.channels_last)
    schedule = TrainingSchedule(
        epochs=-(-steps // 100),
        steps=min(steps, 100),
        lr=0.15,
        optimizer="sgd",
        weight_decay=5e-4,
        average=0.99,
    )
    batches = ShuffledBatches(data, size=64, seed=0, shift=2)

    for step in train_model(
        net, batches, schedule, defense=FastTraining(eps), checkpoint=checkpoint
    ):
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
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--eps", type=float, default=6 / 255)
    parser.add_argument("--images", type=int, default=30_000)
    options = parser.parse_args()

    images, labels = load_cifar10(options.archive, "train", options.images)
    data = ImageSubset((images * 255).round().byte(), labels, ("",) * len(labels))
    checkpoint = options.out.with_suffix(".checkpoint.safetensors")
    net = train_net(data, checkpoint, steps=options.steps, eps=options.eps)
    torch.save(net.state_dict(), options.out)

    images, labels = load_cifar10(options.archive, "test", 500)
    with torch.no_grad():
        accuracy = float((net(images).argmax(1) == labels).float().mean())
    print(f"clean accuracy {accuracy:.3f}, n = {len(labels)}")


if __name__ == "__main__":
    main()
