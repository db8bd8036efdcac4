"""JPEG files and video frames with 4:2:0 chroma, differentiable.

kornia's codec is a little further from libjpeg and costs several times as much
(benchmarks/eot_kornia.py measures both).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from kornia.enhance import jpeg_codec_differentiable
from torch import Tensor

from physadv.eot.sampling import DrawStream, draw_bernoulli
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import SHARE, Range, Stage, StageRanges, span

NO_CODEC: Range = (101.0, 101.0)
"""A JPEG quality that leaves the codec out."""


@dataclass(frozen=True)
class CodecRanges(StageRanges):
    """Ranges of the compression."""

    jpeg_quality: Range = span(45, 95, off=NO_CODEC, within=(1.0, NO_CODEC[0]), effects=("codec",))
    """Quality of a JPEG file as libjpeg counts it, 1 to 100; 101 leaves the file out."""
    video_probability: Range = span(0, 0, within=SHARE, effects=("codec",))
    """Share of pictures that come from a video stream instead of a JPEG file."""
    video_qp: Range = span(0, 0, within=(0.0, 51.0))
    """Quantizer of an intra-coded H.264-like frame: the step doubles every 6."""


@dataclass(frozen=True)
class CodecDraw:
    """Compression of b pictures; (b,) each."""

    quality: Tensor
    video: Tensor | None = None  # 1: a frame of a video stream
    video_qp: Tensor | None = None


_LUMA = (
    16,
    11,
    10,
    16,
    24,
    40,
    51,
    61,
    12,
    12,
    14,
    19,
    26,
    58,
    60,
    55,
    14,
    13,
    16,
    24,
    40,
    57,
    69,
    56,
    14,
    17,
    22,
    29,
    51,
    87,
    80,
    62,
    18,
    22,
    37,
    56,
    68,
    109,
    103,
    77,
    24,
    35,
    55,
    64,
    81,
    104,
    113,
    92,
    49,
    64,
    78,
    87,
    103,
    121,
    120,
    101,
    72,
    92,
    95,
    98,
    112,
    100,
    103,
    99,
)
_CHROMA = (
    17,
    18,
    24,
    47,
    99,
    99,
    99,
    99,
    18,
    21,
    26,
    66,
    99,
    99,
    99,
    99,
    24,
    26,
    56,
    99,
    99,
    99,
    99,
    99,
    47,
    66,
    99,
    99,
    99,
    99,
    99,
    99,
    *(99,) * 32,
)
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@cache
def _dct() -> Tensor:
    """Return the orthonormal 8-point DCT-II matrix."""
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    matrix = torch.cos(math.pi * (2 * n + 1) * k / 16) / 2
    return torch.cat([matrix[:1] / math.sqrt(2), matrix[1:]])


def _table(base: tuple[int, ...], quality: Tensor) -> Tensor:
    """Return Annex K's table at (b,) quality in 1..100, scaled as libjpeg does: (b, 1, 1, 1, 8,
    8)."""
    whole = quality.round().clamp(1, 100)
    scale = torch.where(whole < 50, (5000 / whole).floor(), 200 - 2 * whole)
    table = torch.tensor(base, device=quality.device, dtype=quality.dtype).view(8, 8)
    return ((table * scale[:, None, None] + 50) / 100).floor().clamp(1, 255)[:, None, None, None]


def _soft_round(x: Tensor) -> Tensor:
    """Round with a usable gradient: 1 where the value survives, 3 x^2 where nothing is left of it.

    The first is the straight-through estimate; the second is Shin & Song's (2017), which lets a
    lost coefficient come back once it is near the threshold without pretending that it passes.
    """
    whole = x.detach().round()
    if not x.requires_grad:
        return whole
    slope = torch.where(whole != 0, torch.ones_like(whole), 3 * x.detach() ** 2)
    return whole + slope * (x - x.detach())


def quantize_blocks(plane: Tensor, table: Tensor) -> Tensor:
    """Quantize 8x8 blocks of (b, c, h, w) planes in 0..255 levels about 0; sides are whole
    blocks."""
    b, c, h, w = plane.shape
    matrix = _dct().to(plane)
    steps = table.transpose(3, 4)  # (b, c or 1, 1, 8, 1, 8), as the blocks lie in memory

    # Rows of blocks and then their columns, without a copy that gathers each block.
    down = matrix @ plane.reshape(b, c, h // 8, 8, w)
    coefficients = down.view(b, c, h // 8, 8, w // 8, 8) @ matrix.T
    kept = _soft_round(coefficients / steps) * steps
    back = (kept @ matrix).view(b, c, h // 8, 8, w)
    return (matrix.T @ back).view(b, c, h, w)


def differentiable_jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """Encode and decode ``image`` at ``quality`` as libjpeg would.

    The forward pass is the codec's arithmetic without its 8-bit roundings; sides are padded to
    whole 16 px blocks.

    Args:
        image: (b, 3, h, w) in [0, 1].
        quality: (b,) in 1 to 100.

    Returns:
        (b, 3, h, w) in [0, 1].

    Example:
        >>> gray = torch.full((1, 3, 16, 16), 0.5)
        >>> bool((differentiable_jpeg(gray, torch.tensor([50.0])) - gray).abs().max() < 0.01)
        True
    """
    strength = quality.to(image)
    return _coded(image, _table(_LUMA, strength), _table(_CHROMA, strength))


def file_or_frame(image: Tensor, quality: Tensor, video: Tensor, qp: Tensor) -> Tensor:
    """Encode and decode pictures as files, or as intra-coded frames of a video stream.

    All coefficients of such a frame share one step, 2^((qp - 4) / 6), as in H.264 without its
    prediction and filter.

    Args:
        image: (b, 3, h, w) in [0, 1].
        quality: (b,) of the files, in 1 to 100.
        video: (b,) 1: a frame.
        qp: (b,) quantizers of the frames.

    Returns:
        (b, 3, h, w) in [0, 1].
    """
    is_video = video.to(image)[:, None, None, None, None, None] > 0
    step = torch.exp2((qp.to(image) - 4) / 6)[:, None, None, None, None, None]
    luma, chroma = (
        torch.where(is_video, step, _table(base, quality.to(image))) for base in (_LUMA, _CHROMA)
    )
    return _coded(image, luma, chroma)


def to_ycc(image: Tensor) -> Tensor:
    """Return luma and the two chroma differences of ``image`` (b, 3, h, w), as JPEG has them.

    kornia's rgb_to_ycbcr has rounded coefficients.
    """
    return _mixed(_ycc_matrix(image), image)


def from_ycc(ycc: Tensor) -> Tensor:
    """Return RGB of ``ycc`` (b, 3, h, w); the inverse of :func:`to_ycc`."""
    return _mixed(torch.linalg.inv(_ycc_matrix(ycc)), ycc)


def _ycc_matrix(like: Tensor) -> Tensor:
    return torch.tensor(_TO_YCC, device=like.device, dtype=like.dtype)


def _halved(image: Tensor) -> Tensor:
    """Return the mean of 2 x 2 pixels; sums of slices take a third of avg_pool2d's CPU time."""
    down = image[..., 0::2, :] + image[..., 1::2, :]
    return (down[..., 0::2] + down[..., 1::2]) / 4


def _mixed(matrix: Tensor, image: Tensor) -> Tensor:
    """Return (b, n, h, w): channels of (b, c, h, w) mixed by an (n, c) matrix."""
    return (matrix @ image.flatten(2)).view(len(image), len(matrix), *image.shape[2:])


def _coded(image: Tensor, luma_table: Tensor, chroma_table: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    scaled = image * 255
    if height % 16 or width % 16:
        scaled = F.pad(scaled, (0, -width % 16, 0, -height % 16), mode="replicate")

    # Chroma of the mean of four pixels is the mean of their chroma.
    matrix = _ycc_matrix(image)
    luma_row, chroma_rows = matrix[:1], matrix[1:]
    luma = quantize_blocks(_mixed(luma_row, scaled) - 128, luma_table) + 128
    chroma = quantize_blocks(_mixed(chroma_rows, _halved(scaled)), chroma_table)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)

    decoded = from_ycc(torch.cat([luma, chroma], 1)) / 255
    return decoded[..., :height, :width].clamp(0, 1)


class FileOrStream(Stage[CodecRanges, CodecDraw]):
    """JPEG file or intra-coded video frame.

    Example:
        >>> stage = FileOrStream(CodecRanges(jpeg_quality=(30.0, 30.0)))
        >>> gray = torch.full((1, 3, 16, 16), 0.5)
        >>> stage.apply(gray, CodecDraw(torch.tensor([30.0]))).shape
        torch.Size([1, 3, 16, 16])
    """

    windowed = True
    blockwise = True
    backends = ("own", "kornia")

    def sample(
        self, batch: SceneBatch, ranges: CodecRanges, stream: DrawStream
    ) -> CodecDraw | None:
        """Draw the compression of ``batch`` within ``ranges`` from ``stream``."""
        if ranges.jpeg_quality == NO_CODEC:
            return None

        quality, count = stream.shared("jpeg_quality", ranges.jpeg_quality), len(batch.images)
        if not ranges.acts("video_probability"):
            return CodecDraw(quality)
        video = draw_bernoulli(stream.named("video"), ranges.video_probability, count)
        return CodecDraw(quality, video, stream.uniform("video qp", ranges.video_qp, count))

    def apply(self, images: Tensor, params: CodecDraw) -> Tensor:
        """Return encoded ``images`` coded and decoded with ``params``."""
        inside = images.clamp(0, 1)
        if self.backend == "kornia":
            return self._with_kornia(inside, params)
        if params.video is None or params.video_qp is None:
            return differentiable_jpeg(inside, params.quality)
        return file_or_frame(inside, params.quality, params.video, params.video_qp)

    def _with_kornia(self, images: Tensor, params: CodecDraw) -> Tensor:
        """Code files by kornia's JPEG; it has no video frames, which stay ours."""
        quality = params.quality.to(images)
        files: Tensor = jpeg_codec_differentiable(images, quality)
        if params.video is None or params.video_qp is None:
            return files
        frames = file_or_frame(images, quality, params.video, params.video_qp)
        return torch.where(params.video.to(images)[:, None, None, None] > 0, frames, files)
