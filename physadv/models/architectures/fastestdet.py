"""FastestDet (Ma, 2022): a one-scale, anchor-free COCO detector of 0.24 M parameters,
differentiable end to end.

A ShuffleNetV2 trunk (Ma et al., 2018) returns maps at strides 8, 16 and 32. They are merged at
stride 16, where three stacks of 5x5 depthwise convolutions add context of three widths, and three
heads predict objectness, box and class. Module names follow the published state dict, so that it
loads with ``strict=True``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.core.types import Detections

SIDE = 352
STRIDE = 16


def _conv(
    inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, depthwise: bool = False
) -> list[nn.Module]:
    """Convolution and batch norm, the pair everything here is made of."""
    groups = inputs if depthwise else 1
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class ShuffleUnit(nn.Module):
    """ShuffleNetV2 unit: half of the channels pass unchanged (stride 1), or both halves are
    computed (stride 2)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride

        used = inputs if stride == 2 else inputs // 2
        middle = outputs // 2

        self.branch_main = nn.Sequential(
            *_conv(used, middle),
            nn.ReLU(),
            *_conv(middle, middle, 3, stride=stride, depthwise=True),
            *_conv(middle, outputs - used),
            nn.ReLU(),
        )
        if stride == 2:
            self.branch_proj = nn.Sequential(
                *_conv(used, used, 3, stride=2, depthwise=True), *_conv(used, used), nn.ReLU()
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, c, h, w) to (b, outputs, h / stride, w / stride)."""
        if self.stride == 2:
            return torch.cat((self.branch_proj(x), self.branch_main(x)), 1)
        return torch.cat((x[:, 0::2], self.branch_main(x[:, 1::2])), 1)


class ShuffleTrunk(nn.Module):
    """ShuffleNetV2 with 24, 48, 96 and 192 channels; returns the maps at strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(*_conv(3, 24, 3, stride=2), nn.ReLU())
        self.stage2 = self._stage(24, 48, 4)
        self.stage3 = self._stage(48, 96, 8)
        self.stage4 = self._stage(96, 192, 4)

    @staticmethod
    def _stage(inputs: int, outputs: int, units: int) -> nn.Sequential:
        rest = (ShuffleUnit(outputs, outputs, stride=1) for _ in range(units - 1))
        return nn.Sequential(ShuffleUnit(inputs, outputs, stride=2), *rest)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return maps of 48, 96 and 192 channels of ``x`` (b, 3, h, w)."""
        fine = self.stage2(F.max_pool2d(self.first_conv(x), 3, 2, 1))
        middle = self.stage3(fine)
        return fine, middle, self.stage4(middle)


class PointConv(nn.Module):
    """1x1 convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Sequential(*_conv(inputs, outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, inputs, h, w) to (b, outputs, h, w)."""
        return self.conv1x1(x)  # type: ignore[no-any-return]


class ContextPyramid(nn.Module):
    """Adds context to the merged map by one, two and three 5x5 depthwise layers in parallel."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.Conv1x1 = PointConv(inputs, channels)
        self.S1, self.S2, self.S3 = (self._stack(channels, layers) for layers in (1, 2, 3))
        self.output = nn.Sequential(*_conv(3 * channels, channels))

    @staticmethod
    def _stack(channels: int, layers: int) -> nn.Sequential:
        return nn.Sequential(
            *(
                m
                for _ in range(layers)
                for m in (*_conv(channels, channels, 5, depthwise=True), nn.ReLU())
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, inputs, h, w) to (b, channels, h, w)."""
        x = self.Conv1x1(x)
        return F.relu(x + self.output(torch.cat((self.S1(x), self.S2(x), self.S3(x)), 1)))


class HeadBranch(nn.Module):
    """One output of the head: 5x5 depthwise, then 1x1."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.conv5x5 = nn.Sequential(
            *_conv(channels, channels, 5, depthwise=True), nn.ReLU(), *_conv(channels, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, channels, h, w) to (b, outputs, h, w)."""
        return self.conv5x5(x)  # type: ignore[no-any-return]


class DetectionHead(nn.Module):
    """Raw predictions of objectness, box and class."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1x1 = PointConv(channels, channels)
        self.obj_layers = HeadBranch(channels, 1)
        self.reg_layers = HeadBranch(channels, 4)
        self.cls_layers = HeadBranch(channels, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map ``x`` (b, channels, h, w) to (b, 1, h, w), (b, 4, h, w) and (b, classes, h, w)."""
        x = self.conv1x1(x)
        return self.obj_layers(x), self.reg_layers(x), self.cls_layers(x)


class FastestDet(nn.Module):
    """The detector: images in [0, 1] of any size -> one candidate per cell of a 22x22 grid."""

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.backbone = ShuffleTrunk()
        self.SPP = ContextPyramid(48 + 96 + 192, 96)
        self.detect_head = DetectionHead(96, classes)

    def forward(self, images: Tensor) -> Detections:
        """Detect objects in ``images`` (b, 3, h, w), sRGB in [0, 1].

        The images are stretched to 352x352 with anti-aliasing and turned to BGR, as in training.

        Returns:
            Detections in pixels of ``images``: boxes (b, 484, 4) and scores (b, 484, classes).
        """
        height, width = images.shape[-2:]
        if (height, width) != (SIDE, SIDE):
            images = F.interpolate(
                images, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
            )

        bgr = images.flip(1)
        if not torch.is_grad_enabled():  # a third faster on the CPU
            bgr = bgr.contiguous(memory_format=torch.channels_last)
        fine, middle, coarse = self.backbone(bgr)
        coarse = F.interpolate(coarse, size=middle.shape[-2:], mode="nearest")
        merged = torch.cat((F.avg_pool2d(fine, 3, 2, 1), middle, coarse), 1)
        objectness, box, kind = self.detect_head(self.SPP(merged))
        return Detections(decode_boxes(box, height, width), decode_scores(objectness, kind))


def decode_boxes(box: Tensor, height: int, width: int) -> Tensor:
    """Convert raw box predictions to corners in px.

    Args:
        box: Raw predictions (b, 4, rows, columns).
        height: Height of the image in px.
        width: Width of the image in px.

    Returns:
        Corners (b, rows * columns, 4): x0, y0, x1, y1 in px.
    """
    rows, columns = box.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(rows, device=box.device, dtype=box.dtype),
        torch.arange(columns, device=box.device, dtype=box.dtype),
        indexing="ij",
    )

    center_x = (box[:, 0].tanh() + x) / columns * width
    center_y = (box[:, 1].tanh() + y) / rows * height
    half_w, half_h = box[:, 2].sigmoid() * width / 2, box[:, 3].sigmoid() * height / 2
    corners = (center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h)
    return torch.stack(corners, -1).flatten(1, 2)


def decode_scores(objectness: Tensor, kind: Tensor) -> Tensor:
    """Combine raw ``objectness`` (b, 1, h, w) and class predictions ``kind`` (b, classes, h, w)
    to scores.

    The scores (b, h * w, classes) are sigmoid(objectness)^0.6 * softmax(kind)^0.4, computed from
    logarithms: the derivative of p^0.4 is infinite at 0, that of exp(0.4 log p) is not.
    """
    logarithm = 0.6 * F.logsigmoid(objectness) + 0.4 * F.log_softmax(kind, 1)
    return logarithm.exp().flatten(2).transpose(1, 2)
