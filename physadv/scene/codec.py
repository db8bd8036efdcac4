"""What a file or a stream does to a picture: JPEG, with gradients through kornia's differentiable codec."""

from __future__ import annotations

import torch.nn.functional as F
from kornia.enhance import jpeg_codec_differentiable
from torch import Tensor


def jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """Encode and decode (b, 3, h, w) in [0, 1] at (b,) quality in 1..100; sides are padded to whole 16 px blocks."""
    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % 16, 0, -height % 16), mode="replicate")
    decoded: Tensor = jpeg_codec_differentiable(padded.clamp(0, 1), quality.to(image))
    return decoded[..., :height, :width].clamp(0, 1)
