"""Small convolutional nets to train defenses on, by name, and how a weights file says which one it
is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from physadv.core.errors import ModelError, OptionError
from physadv.models.architectures.signnet import INPUT_PX, SignNet

WIDTHS = {"small-cnn": (16, 32, 100), "wide-cnn": (32, 64, 256)}
ARCHITECTURES = ("small-cnn", "small-cnn-bn", "wide-cnn", "wide-cnn-bn", "signnet")


class SmallCNN(nn.Module):
    """conv, conv (4x4, stride 2, pad 1), linear, linear, with ReLU between; images in [0, 1] of the
    net's own size.

    The layers of Wong and Kolter's net (2018); ``norm`` puts batch normalization after all but the
    last (Shi et al. 2021). Color images are mapped to [-2, 2] inside. A net of one channel takes
    RGB too, by the mean of the channels.
    """

    def __init__(
        self, channels: int, side: int, classes: int, widths: tuple[int, int, int], *, norm: bool
    ) -> None:
        super().__init__()
        self.channels, self.side = channels, side
        a, b, c = widths
        flat = b * (side // 4) ** 2
        layers: list[nn.Module] = []
        for layer, outputs in (
            (nn.Conv2d(channels, a, 4, 2, 1), a),
            (nn.Conv2d(a, b, 4, 2, 1), b),
            (nn.Linear(flat, c), c),
        ):
            if isinstance(layer, nn.Linear):
                layers.append(nn.Flatten())
            layers.append(layer)
            if norm:
                layers.append(
                    nn.BatchNorm1d(outputs)
                    if isinstance(layer, nn.Linear)
                    else nn.BatchNorm2d(outputs)
                )
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers, nn.Linear(c, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes) of images (b, 1 or 3, side, side)."""
        if self.channels == 1 and images.shape[1] == 3:
            images = images.mean(1, keepdim=True)
        logits: Tensor = self.layers(images * 4 - 2 if self.channels == 3 else images)
        return logits


def build_network(architecture: str, *, channels: int, side: int, classes: int) -> nn.Module:
    """A net by name. Raises OptionError for an unknown name, and for a size or channels the net
    cannot take."""
    name = architecture.removesuffix("-bn")
    if architecture not in ARCHITECTURES:
        raise OptionError(
            f"architecture {architecture!r}", f"one of {', '.join(ARCHITECTURES)}", "use small-cnn"
        )
    if channels not in (1, 3) or classes < 2:
        raise OptionError(
            f"{channels} channels, {classes} classes", "1 or 3, and 2 or more", "check the data"
        )
    if name == "signnet":
        if channels != 3:
            raise OptionError("signnet on gray images", "it takes RGB", "use small-cnn")
        return SignNet(classes)
    if side < 8 or side % 4:
        raise OptionError(
            f"side {side}", f"{architecture} needs a multiple of 4, 8 or more", "use 28 or 32"
        )
    return SmallCNN(channels, side, classes, WIDTHS[name], norm=architecture.endswith("-bn"))


def build_from_card(table: Mapping[str, Any], name: str) -> nn.Module:
    """The net that a card's ``architecture``, ``channels``, ``input_size`` and ``classes``
    describe. ModelError."""
    try:
        size = table.get("input_size", INPUT_PX)
        side = int(size if isinstance(size, int) else size[0])
        with torch.random.fork_rng(devices=[]):
            return build_network(
                str(table["architecture"]),
                channels=int(table.get("channels", 3)),
                side=side,
                classes=len(table["classes"]),
            )
    except (KeyError, TypeError, ValueError, IndexError, OptionError) as error:
        raise ModelError(
            f"card of {name}", f"describes no net of ours ({error})", "repair the card"
        ) from error
