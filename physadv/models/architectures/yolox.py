"""YOLOX (Ge et al., 2021): an anchor-free detector with decoupled heads, batch norm folded in.

A CSPDarknet trunk returns maps at strides 8, 16 and 32. A path aggregation network (Liu et al.,
2018) passes them down and up again, and at each stride two branches predict the class, and box and
objectness. The sizes differ in width and depth; YOLOX-Nano has depthwise convolutions. Module names
follow the published state dict, without its batch norms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.core.types import Detections

SIDE = 416
"""Side in px of the input of YOLOX-Nano and YOLOX-Tiny; the larger sizes have 640."""
STRIDES = (8, 16, 32)
_STEM_CHANNELS, _HEAD_CHANNELS = 64, 256
"""Channels at width 1."""
_MOST_BLOCKS = 4
"""Residual blocks of the shallow stages of YOLOX-X, the deepest published size."""
_FEWEST_CONVOLUTIONS = 8
"""Fewer tell nothing of a size."""


class ConvUnit(nn.Module):
    """Convolution with bias, then SiLU: x * sigmoid(x)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, inputs, h, w) to (b, outputs, h / stride, w / stride)."""
        return F.silu(self.conv(x))


class SeparableUnit(nn.Module):
    """Depthwise convolution, then 1x1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.dconv = ConvUnit(inputs, inputs, kernel, stride=stride, groups=inputs)
        self.pconv = ConvUnit(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, inputs, h, w) to (b, outputs, h / stride, w / stride)."""
        return self.pconv(self.dconv(x))  # type: ignore[no-any-return]


def _spatial_unit(
    inputs: int, outputs: int, *, stride: int = 1, depthwise: bool
) -> ConvUnit | SeparableUnit:
    """3x3 convolution of the kind that the size has."""
    unit = SeparableUnit if depthwise else ConvUnit
    return unit(inputs, outputs, 3, stride=stride)


class PixelStem(nn.Module):
    """First layer: four pixels of a 2x2 square become channels of one, then a 3x3 convolution."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = ConvUnit(12, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, 3, h, w) to (b, outputs, h / 2, w / 2)."""
        corners = [x[..., top::2, left::2] for left in (0, 1) for top in (0, 1)]
        return self.conv(torch.cat(corners, 1))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """1x1 and 3x3 convolution, added to their input where ``shortcut`` is set."""

    def __init__(self, channels: int, *, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels, 1)
        self.conv2 = _spatial_unit(channels, channels, depthwise=depthwise)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, channels, h, w) to the same shape."""
        computed: Tensor = self.conv2(self.conv1(x))
        return computed + x if self.shortcut else computed


class CrossStage(nn.Module):
    """Cross-stage partial layer (Wang et al., 2020): one half of the channels goes through the
    residual blocks, the other passes by."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, *, shortcut: bool, depthwise: bool
    ) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1, self.conv2 = ConvUnit(inputs, half, 1), ConvUnit(inputs, half, 1)
        self.m = nn.Sequential(
            *(ResidualBlock(half, shortcut=shortcut, depthwise=depthwise) for _ in range(blocks))
        )
        self.conv3 = ConvUnit(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, inputs, h, w) to (b, outputs, h, w)."""
        return self.conv3(torch.cat((self.m(self.conv1(x)), self.conv2(x)), 1))  # type: ignore[no-any-return]


class PyramidPooling(nn.Module):
    """Spatial pyramid pooling (He et al., 2015): the largest value within 5, 9 and 13 cells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels // 2, 1)
        self.conv2 = ConvUnit(channels // 2 * 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (b, channels, h, w) to the same shape."""
        x = self.conv1(x)

        # A maximum over 9 cells is one over 5 of maxima over 5, and so on for 13.
        pooled = [x]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 5, 1, 2))
        return self.conv2(torch.cat(pooled, 1))  # type: ignore[no-any-return]


class DarknetTrunk(nn.Module):
    """CSPDarknet; returns the maps at strides 8, 16 and 32.

    Args:
        channels: Channels of the stem; the maps have 4, 8 and 16 times as many.
        blocks: Residual blocks of the shallowest stage; the two stages after it have three times
            as many.
        depthwise: Whether 3x3 convolutions are depthwise.
    """

    def __init__(self, channels: int, blocks: int, *, depthwise: bool) -> None:
        super().__init__()

        def stage(outputs: int, blocks: int) -> list[nn.Module]:
            return [
                _spatial_unit(outputs // 2, outputs, stride=2, depthwise=depthwise),
                CrossStage(outputs, outputs, blocks, shortcut=True, depthwise=depthwise),
            ]

        self.stem = PixelStem(channels)
        self.dark2 = nn.Sequential(*stage(2 * channels, blocks))
        self.dark3 = nn.Sequential(*stage(4 * channels, 3 * blocks))
        self.dark4 = nn.Sequential(*stage(8 * channels, 3 * blocks))
        last = 16 * channels
        self.dark5 = nn.Sequential(
            _spatial_unit(last // 2, last, stride=2, depthwise=depthwise),
            PyramidPooling(last),
            CrossStage(last, last, blocks, shortcut=False, depthwise=depthwise),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps of ``x`` (b, 3, h, w), the finest first."""
        fine = self.dark3(self.dark2(self.stem(x)))
        middle = self.dark4(fine)
        return fine, middle, self.dark5(middle)


class PathAggregation(nn.Module):
    """The trunk, and the network that mixes its maps: coarse to fine, then fine to coarse.

    The modules are in the order in which they run.
    """

    def __init__(self, channels: int, blocks: int, *, depthwise: bool) -> None:
        super().__init__()
        fine, middle, coarse = 4 * channels, 8 * channels, 16 * channels

        def merge(inputs: int, outputs: int) -> CrossStage:
            return CrossStage(inputs, outputs, blocks, shortcut=False, depthwise=depthwise)

        self.backbone = DarknetTrunk(channels, blocks, depthwise=depthwise)
        self.lateral_conv0 = ConvUnit(coarse, middle, 1)
        self.C3_p4 = merge(2 * middle, middle)
        self.reduce_conv1 = ConvUnit(middle, fine, 1)
        self.C3_p3 = merge(2 * fine, fine)
        self.bu_conv2 = _spatial_unit(fine, fine, stride=2, depthwise=depthwise)
        self.C3_n3 = merge(2 * fine, middle)
        self.bu_conv1 = _spatial_unit(middle, middle, stride=2, depthwise=depthwise)
        self.C3_n4 = merge(2 * middle, coarse)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mixed maps of ``x`` (b, 3, h, w), the finest first."""
        fine, middle, coarse = self.backbone(x)

        narrow_coarse = self.lateral_conv0(coarse)
        middle = self.C3_p4(torch.cat((_doubled(narrow_coarse), middle), 1))
        narrow_middle = self.reduce_conv1(middle)
        fine = self.C3_p3(torch.cat((_doubled(narrow_middle), fine), 1))

        middle = self.C3_n3(torch.cat((self.bu_conv2(fine), narrow_middle), 1))
        coarse = self.C3_n4(torch.cat((self.bu_conv1(middle), narrow_coarse), 1))
        return fine, middle, coarse


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class DecoupledHead(nn.Module):
    """Predictions at each stride: one branch for the class, one for box and objectness.

    Args:
        inputs: Channels of the maps, the finest first.
        channels: Channels of the branches.
        classes: Number of classes.
        depthwise: Whether 3x3 convolutions are depthwise.
    """

    def __init__(
        self, inputs: Sequence[int], channels: int, classes: int, *, depthwise: bool
    ) -> None:
        super().__init__()

        def branch() -> nn.Sequential:
            units = (_spatial_unit(channels, channels, depthwise=depthwise) for _ in range(2))
            return nn.Sequential(*units)

        def prediction(outputs: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(channels, outputs, 1) for _ in inputs)

        self.stems = nn.ModuleList(ConvUnit(count, channels, 1) for count in inputs)
        self.cls_convs = nn.ModuleList(branch() for _ in inputs)
        self.reg_convs = nn.ModuleList(branch() for _ in inputs)
        self.cls_preds = prediction(classes)
        self.reg_preds = prediction(4)
        self.obj_preds = prediction(1)

    def parts(self, level: int) -> tuple[nn.Module, ...]:
        """Return the modules of the stride with the number ``level``, in the order in which they
        run."""
        lists = (
            *(self.stems, self.cls_convs, self.cls_preds),
            *(self.reg_convs, self.reg_preds, self.obj_preds),
        )
        return tuple(modules[level] for modules in lists)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map each of ``maps`` (b, inputs, h, w) to raw box, objectness and classes in one tensor
        (b, 5 + classes, h, w)."""
        outputs = []
        for level, features in enumerate(maps):
            stem, class_branch, to_class, box_branch, to_box, to_objectness = self.parts(level)
            features = stem(features)
            box_features = box_branch(features)
            outputs.append(
                torch.cat(
                    (
                        to_box(box_features),
                        to_objectness(box_features),
                        to_class(class_branch(features)),
                    ),
                    1,
                )
            )
        return outputs


class YoloX(nn.Module):
    """The detector: images in [0, 1], sides in multiples of 32 px -> one candidate a cell.

    Args:
        width: Factor of the channels: 0.25 for nano, 0.375 for tiny, 0.5 for S.
        blocks: Residual blocks of the shallow stages: 1 for nano, tiny and S.
        classes: Number of classes.
        depthwise: Whether 3x3 convolutions are depthwise, as in nano.

    Example:
        >>> YoloX(0.25, depthwise=True).eval()(torch.rand(1, 3, 64, 96)).boxes.shape
        torch.Size([1, 126, 4])
    """

    def __init__(
        self, width: float, blocks: int = 1, classes: int = 80, *, depthwise: bool = False
    ) -> None:
        super().__init__()
        self.classes = classes
        channels = int(_STEM_CHANNELS * width)
        self.backbone = PathAggregation(channels, blocks, depthwise=depthwise)
        self.head = DecoupledHead(
            (4 * channels, 8 * channels, 16 * channels),
            int(_HEAD_CHANNELS * width),
            classes,
            depthwise=depthwise,
        )

    @classmethod
    def from_shapes(cls, shapes: Sequence[tuple[int, ...]]) -> Self | None:
        """Build the size whose convolutions, in the order in which they run, have weights of these
        ``shapes``; None where no size has.

        Example:
            >>> net = YoloX(0.375)
            >>> shapes = [tuple(conv.weight.shape) for conv in net.convolutions()]
            >>> YoloX.from_shapes(shapes).backbone.lateral_conv0.conv.weight.shape
            torch.Size([192, 384, 1, 1])
        """
        if len(shapes) < _FEWEST_CONVOLUTIONS or any(min(shape) < 1 for shape in shapes):
            return None
        width, depthwise = shapes[0][0] / _STEM_CHANNELS, shapes[1][1] == 1

        # The last class prediction is followed by a branch of two units and two predictions.
        classes = shapes[-7 if depthwise else -5][0]
        for blocks in range(1, _MOST_BLOCKS + 1):
            with torch.device("meta"):  # shapes alone: a foreign file may suggest huge ones
                candidate = cls(width, blocks, classes, depthwise=depthwise)
            if [tuple(conv.weight.shape) for conv in candidate.convolutions()] == list(shapes):
                return cls(width, blocks, classes, depthwise=depthwise)
        return None

    def convolutions(self) -> Iterator[nn.Conv2d]:
        """Yield the convolutions in the order in which they run."""
        parts = (part for level in range(len(STRIDES)) for part in self.head.parts(level))
        for part in (self.backbone, *parts):
            yield from (module for module in part.modules() if isinstance(module, nn.Conv2d))

    def forward(self, images: Tensor) -> Detections:
        """Detect objects in ``images`` (b, 3, h, w), sRGB in [0, 1], h and w multiples of 32.

        Returns:
            Detections in px of ``images``: boxes (b, n, 4) and scores (b, n, classes), the
            objectness times the probability of the class.
        """
        outputs = self.raw_outputs(images)
        pairs = zip(outputs, STRIDES, strict=True)
        boxes = torch.cat([decode_boxes(output[:, :4], stride) for output, stride in pairs], 1)
        raw = torch.cat([o[:, 4:].flatten(2) for o in outputs], 2).transpose(1, 2)
        return Detections(boxes, raw[..., :1].sigmoid() * raw[..., 1:].sigmoid())

    def raw_outputs(self, images: Tensor) -> list[Tensor]:
        """Return raw box, objectness and classes at each stride, (b, 5 + classes, h, w), of
        ``images`` in [0, 1]."""
        blue_first = 255 * images.flip(1)  # the net was trained on 8-bit values in OpenCV's order
        return self.head(self.backbone(blue_first))  # type: ignore[no-any-return]


def decode_boxes(box: Tensor, stride: int) -> Tensor:
    """Convert raw box predictions to corners in px.

    Args:
        box: Raw predictions (b, 4, rows, columns): center in cells from the cell's corner, and the
            logarithms of width and height in cells.
        stride: Side of a cell in px.

    Returns:
        Corners (b, rows * columns, 4): x0, y0, x1, y1 in px.

    Example:
        >>> decode_boxes(torch.zeros(1, 4, 1, 2), 8).tolist()
        [[[-4.0, -4.0, 4.0, 4.0], [4.0, -4.0, 12.0, 4.0]]]
    """
    rows, columns = box.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(rows, device=box.device, dtype=box.dtype),
        torch.arange(columns, device=box.device, dtype=box.dtype),
        indexing="ij",
    )
    center = box[:, :2] + torch.stack((x, y))
    half = box[:, 2:].exp() / 2
    return (stride * torch.cat((center - half, center + half), 1)).flatten(2).transpose(1, 2)
