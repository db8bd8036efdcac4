"""MobileFaceNet (Chen et al., 2018) in the variant of foamliu: 128 outputs from an aligned face
of 112 px, 1 M parameters.

Inverted residuals (Sandler et al., 2018) and a depthwise convolution over the whole last map in
place of a pool. Module names follow the published state dict, so that it loads with
``strict=True``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SIZE, DIMENSION = 112, 128
# (expansion, channels, repeats, stride of the first)
_STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


def _conv(
    inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class SeparableConv(nn.Module):
    """Depthwise, then pointwise convolution, each with batch norm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, c, h, w) to the same shape."""
        return torch.relu(self.bn2(self.pointwise(torch.relu(self.bn1(self.depthwise(x))))))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            _conv(inputs, wide, 1),
            _conv(wide, wide, stride=stride, groups=wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, inputs, h, w) to (b, outputs, h / stride, w / stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.shortcut else y


class GlobalDepthwise(nn.Module):
    """One depthwise convolution as large as the map: a learned pool that keeps positions."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, side, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, c, side, side) to (b, c, 1, 1)."""
        y: Tensor = self.bn(self.depthwise(x))
        return y


def fold_batch_norms(net: nn.Module) -> nn.Module:
    """Fold the batch norms of ``net`` into the convolutions before them, in place, and return it.

    The function stays the same and runs a seventh faster. ``net`` must be in eval mode.
    """
    for module in list(net.modules()):
        before: tuple[str, nn.Conv2d] | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and before is not None:
                module.register_module(before[0], fuse_conv_bn_eval(before[1], child))
                module.register_module(name, nn.Identity())
            before = (name, child) if isinstance(child, nn.Conv2d) else None
    return net


class MobileFaceNet(nn.Module):
    """Aligned, normalized faces (b, 3, 112, 112) -> embeddings (b, 128), not yet of unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, stride=2)
        self.dw_conv = SeparableConv(64)

        blocks, inputs = [], 64
        for expansion, channels, repeats, stride in _STAGES:
            for index in range(repeats):
                step = stride if index == 0 else 1
                blocks.append(InvertedResidual(inputs, channels, stride=step, expansion=expansion))
                inputs = channels

        self.features = nn.Sequential(*blocks)
        self.conv2 = _conv(inputs, 512, 1)
        self.gdconv = GlobalDepthwise(512, 7)
        self.conv3 = nn.Conv2d(512, DIMENSION, 1)
        self.bn = nn.BatchNorm2d(DIMENSION)

    def forward(self, x: Tensor) -> Tensor:
        """Return embeddings (b, 128) of ``x`` (b, 3, 112, 112)."""
        return self.tail(self.trunk(x))

    def trunk(self, x: Tensor) -> Tensor:
        """Apply all but the last stage to ``x``: (b, 3, 112, 112) -> (b, 128, 14, 14)."""
        y: Tensor = self.features[:-3](self.dw_conv(self.conv1(x)))
        return y

    def tail(self, features: Tensor) -> Tensor:
        """Apply the last stage and the head to ``features``: (b, 128, 14, 14) -> (b, 128)."""
        y: Tensor = self.bn(self.conv3(self.gdconv(self.conv2(self.features[-3:](features)))))
        return y.flatten(1)
