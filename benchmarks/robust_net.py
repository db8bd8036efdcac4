"""Trains the ResNet of the benchmark against FGSM for a while, so that an attack meets some
resistance.

Example: python benchmarks/robust_net.py ../shared/data/cifar10-jpg.zip runs/robust_net.pt --steps
1500
"""

from __future__ import annotations

import argparse
import io
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from resnet import ResNet
from torch import Tensor

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load(archive: Path, part: str, limit: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """``limit`` images of "train" or "test", chosen by ``seed``: (n, 3, 32, 32) in [0, 1] and their
    classes."""
    with zipfile.ZipFile(archive) as file:
        names = sorted(n for n in file.namelist() if f"{part}/" in n and n.endswith(".jpg"))
        chosen = np.random.default_rng(seed).permutation(len(names))[:limit]
        pixels = np.stack(
            [np.asarray(Image.open(io.BytesIO(file.read(names[i]))).convert("RGB")) for i in chosen]
        )
    labels = [next(c for c, name in enumerate(CLASSES) if f"/{name}/" in names[i]) for i in chosen]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).contiguous(), torch.tensor(
        labels
    )


def train(
    images: Tensor, labels: Tensor, *, steps: int, batch: int, eps: float, seed: int = 0
) -> ResNet:
    """FGSM with random starts (Wong et al. 2020), one-cycle learning rate, bfloat16 convolutions."""
    torch.manual_seed(seed)
    net = ResNet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.15, total_steps=steps)
    start = time.time()
    for step in range(steps):
        rows = torch.randint(0, len(images), (batch,))
        x, y = images[rows].contiguous(memory_format=torch.channels_last), labels[rows]
        x = x.flip(3) if step % 2 else x
        shift = (torch.rand_like(x) * 2 - 1) * eps
        with torch.autocast("cpu", torch.bfloat16):
            noisy = (x + shift).clamp(0, 1).requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(net(noisy), y), noisy)
            attacked = (x + (shift + 1.25 * eps * grad.sign()).clamp(-eps, eps)).clamp(0, 1)
            loss = F.cross_entropy(net(attacked), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"{step} {loss.item():.3f} {time.time() - start:.0f} s", flush=True)
    return net.eval()


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--eps", type=float, default=6 / 255)
    options = parser.parse_args()
    net = train(
        *load(options.archive, "train", 30000), steps=options.steps, batch=64, eps=options.eps
    )
    torch.save(net.state_dict(), options.out)
    images, labels = load(options.archive, "test", 500)
    with torch.no_grad():
        print("clean accuracy", float((net(images).argmax(1) == labels).float().mean()))


if __name__ == "__main__":
    main()
