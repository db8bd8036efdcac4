"""PGD-10 at each `speed`, and with compiled gradients, of five small nets of five kinds and, in two
or three steps, of a WRN-16-10 and a WRN-28-10, interleaved in one run.

Times are CPU times of the process, the least of the rounds, beside plain and beside the floor: as
many forward and input-backward passes with nothing else. `auto` is told with and without the one
timing that it begins with; "compiled" is the folded copy whose gradients are compiled, and what
that takes is told beside it. Weights are random: only the time is measured. Raw rows are appended
to ``--rows``.

Example: python benchmarks/auto_speed.py --rows benchmarks/auto_speed.jsonl
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.attacks import pgd
from physadv.attacks._classifier_step import frozen_eval
from physadv.attacks._fused_model import FusedModel, _compile, fuse_model, gradient_model_for
from physadv.attacks._guarded_model import guarded
from physadv.core.rows import append_rows

STEPS, IMAGES, SIDE = 10, 16, 32
FEWER = {"WRN-16-10": (3, 2), "WRN-28-10": (2, 2)}
"""Steps and images of nets that take long."""
SPEEDS = ("floor", "plain", "fold", "bf16", "auto", "compiled")


class PostActivation(nn.Module):
    """A residual block with the activation last, as ResNet's: every batch norm folds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features in, features out."""
        return torch.relu(x + self.body(x))


class PreActivation(nn.Module):
    """A residual block with the activation first, as WideResNet's: half of the batch norms fold."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features in, features out."""
        out: Tensor = x + self.body(x)
        return out


class WidePreActivation(nn.Module):
    """A block of WideResNet (Zagoruyko & Komodakis 2016), with its shortcut where sides change."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )
        same = before == width and stride == 1
        self.shortcut = None if same else nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features in, features out."""
        normed = self.norm(x)
        out: Tensor = self.body(normed) + (x if self.shortcut is None else self.shortcut(normed))
        return out


class ConvNext(nn.Module):
    """A block of depthwise convolution, layer norm and two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features in, features out."""
        out: Tensor = x + self.mix(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out


class Tokens(nn.Module):
    """Patches of 4 px as tokens, through ``blocks``, to logits."""

    def __init__(self, width: int, blocks: nn.Module) -> None:
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(3, width, 4, 4), blocks
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, 10)."""
        tokens = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        logits: Tensor = self.head(tokens.mean(1))
        return logits


class Mixer(nn.Module):
    """A block that mixes tokens, then channels."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.across, self.along = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(count, 128), nn.GELU(), nn.Linear(128, count))
        self.channels = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens in, tokens out."""
        x = x + self.tokens(self.across(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.channels(self.along(x))
        return out


def convolutional(width: int, blocks: list[nn.Module], stem: nn.Module) -> nn.Module:
    """Stem, blocks, mean over the image, logits."""
    tail = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return nn.Sequential(stem, *blocks, *tail)


def wide_resnet(blocks: int = 2) -> nn.Module:
    """WRN-16-10, 17 M parameters; with four ``blocks`` at each of three widths WRN-28-10, 36 M."""
    layers: list[nn.Module] = []
    before = 16
    for width, stride in ((160, 1), (320, 2), (640, 2)):
        layers.append(WidePreActivation(before, width, stride))
        layers += [WidePreActivation(width, width, 1) for _ in range(blocks - 1)]
        before = width
    layers += [nn.BatchNorm2d(640), nn.ReLU()]
    return convolutional(640, layers, nn.Conv2d(3, 16, 3, padding=1, bias=False))


def transformer(width: int) -> nn.Module:
    """Six blocks of attention, norm first."""
    layer = nn.TransformerEncoderLayer(
        width, 6, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)


NETS: dict[str, Callable[[], nn.Module]] = {
    "ResNet": lambda: convolutional(
        48,
        [PostActivation(48) for _ in range(4)],
        nn.Sequential(nn.Conv2d(3, 48, 3, 2, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU()),
    ),
    "WRN, pre-activation": lambda: convolutional(
        48, [PreActivation(48) for _ in range(4)], nn.Conv2d(3, 48, 3, 2, 1, bias=False)
    ),
    "WRN-16-10": wide_resnet,
    "WRN-28-10": lambda: wide_resnet(blocks=4),
    "ViT": lambda: Tokens(192, transformer(192)),
    "ConvNeXt-like": lambda: convolutional(
        64, [ConvNext(64) for _ in range(4)], nn.Conv2d(3, 64, 2, 2)
    ),
    "Mixer-like": lambda: Tokens(192, nn.Sequential(*[Mixer(192, 64) for _ in range(6)])),
}


def floor(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """``steps`` forward and input-backward passes with frozen parameters and nothing else."""
    net.requires_grad_(False)
    for _ in range(steps):
        point = x.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(net(point), y, reduction="sum"), point)
    return x


def measure(name: str, rounds: int) -> dict[str, object]:
    """Time PGD of one net at every speed, in turns."""
    torch.manual_seed(0)
    net = NETS[name]().eval().requires_grad_(False)
    steps, count = FEWER.get(name, (STEPS, IMAGES))
    images = torch.rand(count, 3, SIDE, SIDE)
    with torch.no_grad():
        labels = net(images).argmax(1)

    guard = guarded(net)
    begun = time.process_time()
    with frozen_eval(guard):
        gradient_model_for(guard, "auto", images)
    choosing = time.process_time() - begun

    compiled = fuse_model(guard, images)
    begun = time.perf_counter()
    possible = isinstance(compiled, FusedModel) and _compile(compiled, guard, images)
    compiling = time.perf_counter() - begun

    least = dict.fromkeys(SPEEDS if possible else SPEEDS[:-1], float("inf"))
    for _ in range(rounds):
        for speed in least:
            if speed == "floor":
                begun = time.process_time()
                floor(net, images, labels, steps)
                least[speed] = min(least[speed], time.process_time() - begun)
                continue
            with frozen_eval(guard):
                model = compiled
                if speed != "compiled":
                    model = gradient_model_for(guard, speed, images)  # type: ignore[arg-type]
            begun = time.process_time()
            pgd(
                guard,
                images,
                labels,
                eps=0.0001,
                steps=steps,
                drop_broken=False,
                keep="loss",
                speed="plain" if model is guard else model,  # type: ignore[arg-type]
            )
            least[speed] = min(least[speed], time.process_time() - begun)
    return {
        "net": name,
        "chosen": guard.fastest,
        **{speed: round(seconds / least["plain"], 3) for speed, seconds in least.items()},
        "compiling_seconds": round(compiling, 1),
        "plain_seconds": round(least["plain"], 3),
        "choosing": round(choosing / least["plain"], 3),
        "steps": steps,
        "images": count,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }


def main() -> None:
    """Measure all nets and print a row of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in options.nets:
        row = measure(name, options.rounds)
        append_rows(options.rows, [row])
        print(row)


if __name__ == "__main__":
    main()
