"""Small convolutional networks to train defenses on, by name or from the card of a weights file."""

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
    """conv, conv (4x4, stride 2, pad 1), linear, linear, with ReLU between.

    The layers of Wong and Kolter's network (2018); ``norm`` puts batch normalization after all but
    the last (Shi et al. 2021). Color images are mapped to [-2, 2] inside. A network of one channel
    takes RGB too, by the mean of the channels.

    Args:
        channels: 1 or 3.
        side: Side of the images in px, a multiple of 4.
        classes: Number of classes.
        widths: Channels of the two convolutions and width of the first linear layer.
        norm: Whether to add batch normalization.
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
        """Return logits (b, classes) of ``images`` (b, 1 or 3, side, side) in [0, 1]."""
        if self.channels == 1 and images.shape[1] == 3:
            images = images.mean(1, keepdim=True)
        logits: Tensor = self.layers(images * 4 - 2 if self.channels == 3 else images)
        return logits


def build_network(architecture: str, *, channels: int, side: int, classes: int) -> nn.Module:
    """Build a network by name, with freshly drawn weights.

    Args:
        architecture: One of ``ARCHITECTURES``.
        channels: 1 or 3.
        side: Side of the images in px; a multiple of 4, 8 or more.
        classes: Number of classes, 2 or more.

    Returns:
        The network, in training mode.

    Raises:
        OptionError: The name is unknown, or the network cannot take that size or number of
            channels.

    Example:
        >>> network = build_network("small-cnn", channels=1, side=28, classes=10)
        >>> type(network).__name__
        'SmallCNN'
    """
    name = architecture.removesuffix("-bn")
    if architecture not in ARCHITECTURES:
        raise OptionError(
            f"architecture {architecture!r}", f"one of {', '.join(ARCHITECTURES)}", "Use small-cnn"
        )

    if channels not in (1, 3) or classes < 2:
        raise OptionError(
            f"{channels} channels, {classes} classes", "1 or 3, and 2 or more", "Check the data"
        )

    if name == "signnet":
        if channels != 3:
            raise OptionError("signnet on gray images", "it takes RGB", "Use small-cnn")
        return SignNet(classes)

    if side < 8 or side % 4:
        raise OptionError(
            f"side {side}", f"{architecture} needs a multiple of 4, 8 or more", "Use 28 or 32"
        )
    return SmallCNN(channels, side, classes, WIDTHS[name], norm=architecture.endswith("-bn"))


def build_from_card(table: Mapping[str, Any], name: str) -> nn.Module:
    """Build the network that a card ``table`` describes by architecture, channels, input_size and
    classes.

    ``name`` is what an error calls the card. The caller's random state is preserved.

    Raises:
        ModelError: The card describes none of these networks.
    """
    try:
        size = table.get("input_size", INPUT_PX)
        side = int(size if isinstance(size, int) else size[0])

        # Building draws first weights; the caller's generator must not move.
        with torch.random.fork_rng(devices=[]):
            return build_network(
                str(table["architecture"]),
                channels=int(table.get("channels", 3)),
                side=side,
                classes=len(table["classes"]),
            )
    except (KeyError, TypeError, ValueError, IndexError, OptionError) as error:
        raise ModelError(
            f"card of {name}", f"describes no net of ours ({error})", "Repair the card"
        ) from error
