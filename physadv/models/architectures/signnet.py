"""SignNet: the small residual network behind the embedded model ``signs``, resizing and
normalization included.

Plain 3x3 convolutions, batch normalization and ReLU in residual blocks (after He et al. 2016),
widths 32-64-96-128, global average pooling: about 0.78 M parameters and 35 M multiply-adds an
image, so that an attack of a thousand steps takes minutes on one CPU core.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from physadv.core.errors import ModelError

INPUT_PX = 64
CLASSES = 44
BACKGROUND = 43
STOP = 14
NAMES = (
    "speed limit 20",
    "speed limit 30",
    "speed limit 50",
    "speed limit 60",
    "speed limit 70",
    "speed limit 80",
    "end of speed limit 80",
    "speed limit 100",
    "speed limit 120",
    "no passing",
    "no passing for trucks",
    "right of way at next intersection",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no trucks",
    "no entry",
    "general caution",
    "dangerous curve left",
    "dangerous curve right",
    "double curve",
    "bumpy road",
    "slippery road",
    "road narrows on the right",
    "road work",
    "traffic signals",
    "pedestrians",
    "children crossing",
    "bicycles crossing",
    "beware of ice or snow",
    "wild animals crossing",
    "end of all limits",
    "turn right ahead",
    "turn left ahead",
    "ahead only",
    "go straight or right",
    "go straight or left",
    "keep right",
    "keep left",
    "roundabout mandatory",
    "end of no passing",
    "end of no passing for trucks",
    "background",
)
"""GTSRB's 43 classes in their official order, in English, then ``background``: nothing of these."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the shortcut is a 1x1 convolution where width or
    stride change."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, inputs, h, w) to (b, outputs, h / stride, w / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class SignNet(nn.Module):
    """Traffic sign classifier: images (b, 3, h, w) in [0, 1], sRGB, of any size -> logits (b,
    classes); differentiable.

    The image is resized to 64x64 (bilinear, anti-aliased; aspect is not kept, as in the training
    crops) and mapped to [-1, 1].

    Raises:
        ModelError: On use, for another number of channels or an empty image.

    Example:
        >>> import torch
        >>> SignNet().eval()(torch.zeros(2, 3, 40, 50)).shape
        torch.Size([2, 44])
    """

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 5, 2, 2, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.body = nn.Sequential(
            ResidualBlock(32, 64, 2),
            ResidualBlock(64, 96, 2),
            ResidualBlock(96, 128, 2),
            ResidualBlock(128, 128),
        )

        self.head = nn.Linear(128, classes)

    def normalize(self, images: Tensor) -> Tensor:
        """Resize ``images`` of any size in [0, 1] to 64x64 and map them to [-1, 1]."""
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[-2:]:
            raise ModelError(
                f"images of shape {tuple(images.shape)}",
                "(b, 3, h, w) is needed",
                "Pass RGB batches",
            )

        if images.shape[-2:] != (INPUT_PX, INPUT_PX):
            images = F.interpolate(
                images, size=(INPUT_PX, INPUT_PX), mode="bilinear", antialias=True
            )
        return images * 2 - 1

    def features(self, images: Tensor) -> Tensor:
        """Return the 128 pooled features of each of ``images``."""
        pooled: Tensor = self.body(self.stem(self.normalize(images))).mean((2, 3))
        return pooled

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (b, classes) of ``images``."""
        logits: Tensor = self.head(self.features(images))
        return logits


def count_parameters(net: nn.Module) -> int:
    """Return the number of learned values in ``net``."""
    return sum(p.numel() for p in net.parameters())
