"""A small face detector with five landmarks (biubug6, 2019): RetinaFace's heads (Deng et al.,
2020) on a trunk of 0.3 M parameters.

Module names follow the published state dict, so that it loads with ``strict=True``. Input: BGR,
0-255, minus MEAN_BGR.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEAN_BGR = (104.0, 117.0, 123.0)
_SIDES = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
_STRIDES = (8, 16, 32, 64)
_VARIANCE = (0.1, 0.2)


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _plain(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """The same without batch norm, as the heads have it."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1),
    )


class SlimFaceNet(nn.Module):
    """Normalized images (b, 3, h, w) -> box offsets (b, n, 4), face scores (b, n), landmark
    offsets (b, n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.conv2, self.conv3, self.conv4 = (
            _separable(16, 32),
            _separable(32, 32, 2),
            _separable(32, 32),
        )

        # The numbers are those of the published state dict; strides of 2 stand at 1, 3, 5, 9, 12
        # and 14.
        self.conv5, self.conv6, self.conv7 = (
            _separable(32, 64, 2),
            _separable(64, 64),
            _separable(64, 64),
        )
        self.conv8, self.conv9, self.conv10 = (
            _separable(64, 64),
            _separable(64, 128, 2),
            _separable(128, 128),
        )
        self.conv11, self.conv12, self.conv13 = (
            _separable(128, 128),
            _separable(128, 256, 2),
            _separable(256, 256),
        )
        self.conv14 = nn.Sequential(nn.Conv2d(256, 64, 1), nn.ReLU(), _plain(64, 256, 2), nn.ReLU())

        self.loc, self.conf, self.landm = _heads(4), _heads(2), _heads(10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return raw predictions for ``x`` at strides 8, 16, 32 and 64; :func:`decode_faces`
        converts them to px."""
        maps = []
        for number in range(1, 15):
            x = getattr(self, f"conv{number}")(x)
            if number in (8, 11, 13, 14):
                maps.append(x)

        offsets, scores, marks = (
            _gather(heads, maps, k)
            for heads, k in ((self.loc, 4), (self.conf, 2), (self.landm, 10))
        )
        return offsets, scores.softmax(-1)[..., 1], marks


def _heads(numbers: int) -> nn.Sequential:
    channels = (64, 128, 256)
    heads: list[nn.Module] = [
        _plain(c, len(s) * numbers) for c, s in zip(channels, _SIDES, strict=False)
    ]
    return nn.Sequential(*heads, nn.Conv2d(256, len(_SIDES[3]) * numbers, 3, padding=1))


def _gather(heads: nn.Sequential, maps: list[Tensor], numbers: int) -> Tensor:
    outs = [head(x).permute(0, 2, 3, 1) for head, x in zip(heads, maps, strict=True)]
    return torch.cat([out.reshape(out.shape[0], -1, numbers) for out in outs], 1)


def anchor_boxes(height: int, width: int) -> Tensor:
    """Return the anchor squares of an image of ``height`` x ``width`` px, in the predictions'
    order.

    The result (n, 4) holds center x, center y, side and side in px.
    """
    boxes = []
    for sides, stride in zip(_SIDES, _STRIDES, strict=True):
        y, x = ((torch.arange(-(-length // stride)) + 0.5) * stride for length in (height, width))
        side = torch.tensor(sides, dtype=torch.float32)
        grid = torch.meshgrid(y, x, side, indexing="ij")
        boxes.append(torch.stack([grid[1], grid[0], grid[2], grid[2]], -1).reshape(-1, 4))
    return torch.cat(boxes)


def decode_faces(offsets: Tensor, marks: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """Convert one image's predictions to boxes and landmarks in px.

    Args:
        offsets: Box offsets (n, 4), as the network returns them.
        marks: Landmark offsets (n, 10).
        base: Anchors (n, 4) of :func:`anchor_boxes`.

    Returns:
        Boxes (n, 4) x0, y0, x1, y1 and landmarks (n, 5, 2), both in px.
    """
    centers = base[:, :2] + offsets[:, :2] * _VARIANCE[0] * base[:, 2:]
    sides = base[:, 2:] * (offsets[:, 2:] * _VARIANCE[1]).exp()
    points = base[:, None, :2] + marks.reshape(-1, 5, 2) * _VARIANCE[0] * base[:, None, 2:]
    return torch.cat([centers - sides / 2, centers + sides / 2], 1), points
