"""Train the segmentation network of the patch remover on photographs of signs with stickers.

    python scripts/remover_pictures.py DATA/gtsrb-train-third.zip --out
    runs/remover-stickers.safetensors python scripts/train_patch_remover.py
    DATA/gtsrb-train-third.zip --out runs/remover.safetensors

The loss is cross-entropy plus dice. In the last epochs some stickers are moved against the
segmenter and the model behind it (self adversarial training, Liu et al. 2022). A stopped run is
resumed. ``benchmarks/patch_remover.py`` evaluates the result.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from remover_pictures import (  # type: ignore[import-not-found]
    HELD_STICKERS,
    Pictures,
    make_pictures,
    overlap_rows,
    overlap_text,
    scene_source,
)
from safetensors.torch import load_file
from torch import Tensor, nn

from physadv.core.random_streams import generator
from physadv.core.tensor_files import write_tensors
from physadv.defenses.load_model import load_model
from physadv.defenses.patch_removal import PatchSegmenter, fill_marked
from physadv.threat.losses import margin_loss
from physadv.training.loop import Batch, TrainingSchedule, load_average, seed_all, train_model
from physadv.training.methods.base import Metrics, TrainingMethod, TrainingPosition

BATCH = 32
ATTACKED, SMALLEST_PX = 8, 40
"""Stickers of a batch moved in the last epochs, and the fewest pixels of such a sticker."""


def segmentation_loss(logits: Tensor, areas: Tensor, care: Tensor) -> Tensor:
    """Return the cross-entropy of labeled pixels plus one minus the dice overlap of each sticker.

    Args:
        logits: Logits (b, 1, h, w) of a pixel being part of a sticker.
        areas: Labels of the same shape, 1 on stickers.
        care: 0 on pixels whose label does not matter, else 1.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, areas, care)

    chance = logits.sigmoid() * care
    both, sums = (chance * areas).sum((1, 2, 3)), (chance + areas).sum((1, 2, 3))
    dice = 1 - (2 * both + 1) / (sums + 1)
    has_sticker = areas.amax((1, 2, 3))
    return entropy + 0.5 * (dice * has_sticker).sum() / has_sticker.sum().clamp_min(1)


@dataclass
class SegmentationTraining(TrainingMethod):
    """Training of a segmenter whose labels are (b, 2, h, w): the areas of stickers, and care.

    Attributes:
        model: Classifier that moved stickers attack too.
        attack_from: Share of the run from which stickers are moved.
        steps: Steps of their attack.
    """

    model: nn.Module = field(repr=False)
    attack_from: float
    steps: int = 4
    score: ClassVar[str] = "clean"

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the loss of ``net`` on ``images`` with ``labels``; ``at`` decides on the
        attack."""
        areas, care = labels[:, :1], labels[:, 1:]
        if at.share >= self.attack_from:
            images = self._with_moved(net, images, areas, at.generator)

        # Signs are mirrored after the attack: the model knows them as they are.
        if at.step % 2:
            images, areas, care = images.flip(3), areas.flip(3), care.flip(3)
        logits = net(images.contiguous(memory_format=torch.channels_last))
        return segmentation_loss(logits.float(), areas, care), {}

    def settings(self) -> dict[str, object]:
        """Return the settings that decide the result, without the model's weights."""
        return {"defence": "Segmentation", "attack_from": self.attack_from, "steps": self.steps}

    def _with_moved(
        self, net: nn.Module, images: Tensor, areas: Tensor, draws: torch.Generator
    ) -> Tensor:
        """Return the batch with some of its stickers moved against ``net`` as it is now."""
        rows = (areas.sum((1, 2, 3)) > SMALLEST_PX).nonzero().flatten()[:ATTACKED]
        if len(rows) == 0:
            return images

        net.eval()
        images = images.clone()
        images[rows] = self._moved(net, images[rows], areas[rows], draws)
        net.train()
        return images

    def _moved(
        self, net: nn.Module, images: Tensor, areas: Tensor, draws: torch.Generator
    ) -> Tensor:
        """Return ``images`` with the stickers' pixels moved so that segmenter and model fail."""
        with torch.no_grad():
            labels = self.model(images).argmax(1)
        noise = torch.rand(images.shape, generator=draws)
        mix = (torch.rand(len(images), 1, 1, 1, generator=draws) < 0.5).float()
        x = images * (1 - areas) + areas * torch.lerp(images, noise, 0.5 * mix)

        for _ in range(self.steps):
            x = x.detach().requires_grad_(True)
            logits = net(x).float()
            hidden = (F.softplus(logits) * areas).sum() / areas.sum().clamp_min(1)
            cleaned = fill_marked(x, logits.sigmoid())
            wrong = margin_loss(self.model(cleaned).float(), labels).clamp_min(-2).mean()
            (slope,) = torch.autograd.grad(hidden + wrong, x)
            x = (x - 0.08 * slope.sign() * areas).clamp(0, 1)
        return x.detach()


def train_segmenter(
    pictures: Pictures,
    model: nn.Module,
    checkpoint: Path,
    *,
    epochs: int,
    hard: int,
    seed: int,
    lr: float,
) -> nn.Module:
    """Train a segmenter and return its averaged weights, in eval mode.

    Args:
        pictures: Photographs with the areas of their stickers.
        model: Classifier that moved stickers attack too.
        checkpoint: File that holds the progress.
        epochs: Epochs.
        hard: Last epochs in which stickers are moved.
        seed: Seed of weights and order.
        lr: Peak of the learning rate.
    """
    labels = torch.cat((pictures.areas, pictures.care), 1)
    count = len(pictures) // BATCH

    def batches(number: int) -> Batch:
        epoch, position = divmod(number, count)
        order = torch.randperm(len(pictures), generator=generator(seed, "epoch", epoch))
        rows = order[position * BATCH : (position + 1) * BATCH]
        return pictures.images[rows], labels[rows]

    net = seed_all(PatchSegmenter, seed)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    schedule = TrainingSchedule(
        epochs, count, lr=lr, warmup=0.2, weight_decay=1e-2, average=0.995, clip=2.0
    )
    method = SegmentationTraining(model, attack_from=(epochs - hard) / epochs)
    for step in train_model(
        net, batches, schedule, defense=method, seed=seed, checkpoint=checkpoint
    ):
        if step.ends_epoch:
            print(f"epoch {step.epoch}: loss {step.loss:.3f}; {step.seconds:.0f} s CPU", flush=True)
    return load_average(checkpoint, net)


def main() -> None:
    """Train, write the weights and print the overlap on held-out stickers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--stickers", type=Path, default=Path("runs/remover-stickers.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("runs/remover.safetensors"))
    parser.add_argument("--pictures", type=int, default=7000)
    parser.add_argument("--judged", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--hard", type=int, default=2)
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)

    stickers, model = load_file(options.stickers)["stickers"], load_model("signs")
    source = scene_source(options.data, "train")
    pictures = make_pictures(source, stickers[:-HELD_STICKERS], options.pictures, options.seed)
    checkpoint = options.out.with_suffix(".checkpoint.safetensors")
    net = train_segmenter(
        pictures,
        model,
        checkpoint,
        epochs=options.epochs,
        hard=options.hard,
        seed=options.seed,
        lr=options.lr,
    )
    write_tensors(options.out, net.state_dict())

    held_out = make_pictures(
        scene_source(options.data, "validation"),
        stickers[-HELD_STICKERS:],
        options.judged,
        options.seed + 1,
    )
    print(f"validation: {overlap_text(overlap_rows(net, held_out))}", flush=True)


if __name__ == "__main__":
    main()
