"""Train the segmenter of the patch remover on traffic signs with patches optimised against the victim ``signs``.

    python benchmarks/patch_remover.py DATA/gtsrb-train-third.zip --out physadv/defences/weights/remover.safetensors

Half of the patches are optimised for a few steps against the victim, the others are noise at several scales; a third
of the images has none. Says how well pixels are found on held-out tracks. About a minute and a half of one core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from physadv.core.seeds import generator
from physadv.defences.remover import Segmenter
from physadv.defences.training.material import Material, Part, load_material
from physadv.training.loop import seeded
from physadv.victims.registry import load_victim

SIDE = 64


def rectangles(n: int, draw: torch.Generator) -> Tensor:
    """(n, 1, SIDE, SIDE) with one rectangle of ones each; empty for a third."""
    masks = torch.zeros(n, 1, SIDE, SIDE)
    for k in range(n):
        if float(torch.rand((), generator=draw)) < 1 / 3:
            continue
        high, wide = (int(torch.randint(7, 27, (), generator=draw)) for _ in range(2))
        top, left = (int(torch.randint(0, SIDE - size + 1, (), generator=draw)) for size in (high, wide))
        masks[k, :, top : top + high, left : left + wide] = 1
    return masks


def textures(n: int, draw: torch.Generator) -> Tensor:
    """Noise in squares of 1 to 8 px, of any contrast about any colour."""
    found = []
    for _ in range(n):
        cell = int(torch.tensor([1, 2, 3, 4, 6, 8])[torch.randint(0, 6, (), generator=draw)])
        count = -(-SIDE // cell)
        noise = torch.rand(1, 3, count, count, generator=draw)
        big = noise.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[..., :SIDE, :SIDE]
        strength = float(torch.rand((), generator=draw)) * 0.7 + 0.3
        found.append(big * strength + torch.rand(1, 3, 1, 1, generator=draw) * (1 - strength))
    return torch.cat(found)


def patched(
    victim: torch.nn.Module, images: Tensor, labels: Tensor, draw: torch.Generator, steps: int
) -> tuple[Tensor, Tensor]:
    """Images with patches, and the masks; the first half climbs the victim's loss for ``steps`` signed steps."""
    masks, content = rectangles(len(images), draw), textures(len(images), draw)
    half = len(images) // 2
    x, m, y = images[:half], masks[:half], labels[:half]
    patch = content[:half]
    for _ in range(steps):
        patch = patch.detach().requires_grad_(True)
        loss = F.cross_entropy(victim(x * (1 - m) + patch * m), y, reduction="sum")
        (slope,) = torch.autograd.grad(loss, patch)
        patch = (patch + 0.08 * slope.sign()).clamp(0, 1)
    content = torch.cat((patch.detach(), content[half:]))
    return images * (1 - masks) + content * masks, masks


def pool(victim: torch.nn.Module, part: Part, n: int, seed: int, steps: int) -> tuple[Tensor, Tensor]:
    """``n`` patched images and masks."""
    draw = generator(seed, "pool")
    order = torch.randperm(len(part), generator=draw)[:n]
    made = [patched(victim, *part.floats(rows), draw, steps) for rows in order.split(64)]
    return torch.cat([m[0] for m in made]), torch.cat([m[1] for m in made])


def main() -> None:
    """Train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    began = time.process_time()
    victim = load_victim("signs")
    material: Material = load_material(args.data, held=0.1, side=SIDE, limit=4000, seed=args.seed)
    x, masks = pool(victim, material.train, args.images, args.seed, 8)
    held, held_masks = pool(victim, material.held, 256, args.seed + 1, 20)
    net = seeded(Segmenter, args.seed)
    optimiser = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=1e-3)
    steps = args.epochs * (len(x) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for epoch in range(args.epochs):
        order = torch.randperm(len(x), generator=generator(args.seed, "epoch", epoch))
        for rows in order[: len(x) // 32 * 32].split(32):
            optimiser.zero_grad()
            loss = F.binary_cross_entropy_with_logits(net(x[rows]), masks[rows])
            loss.backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            marks = net(held) > 0
        inside = marks[held_masks > 0].float().mean()
        outside = marks[held_masks == 0].float().mean()
        said = f"{inside:.1%} of patch pixels marked, {outside:.2%} of others"
        print(f"epoch {epoch + 1}: held out: {said}; {time.process_time() - began:.0f} s CPU", flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), args.out)


if __name__ == "__main__":
    main()
