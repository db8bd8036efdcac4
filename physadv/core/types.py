"""Shared types and their shapes.

Images are sRGB-encoded RGB, NCHW, float32 in [0, 1]. Box coordinates are pixels of the image handed
to the model, (x0, y0, x1, y1), origin at the outer corner of the top-left pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

Image = Float[Tensor, "b 3 h w"]
Patch = Float[Tensor, "1 3 ph pw"]
Mask = Float[Tensor, "1 1 ph pw"]
Logits = Float[Tensor, "b classes"]
Loss = Float[Tensor, " b"]
Success = Bool[Tensor, " b"]
Homography = Float[Tensor, "b 3 3"]


@dataclass(frozen=True)
class Detections:
    """Everything a detector proposes, before suppression, so that gradients reach every candidate.

    Attributes:
        boxes: Corners (b, n, 4) x0, y0, x1, y1 in px of the input image.
        scores: Scores (b, n, classes) in [0, 1].

    Example:
        >>> import torch
        >>> found = Detections(torch.tensor([[[0.0, 0, 8, 8]]]), torch.tensor([[[0.9, 0.1]]]))
        >>> found.scores.argmax(-1).tolist()
        [[0]]
    """

    boxes: Float[Tensor, "b n 4"]
    scores: Float[Tensor, "b n classes"]


Prediction = Tensor | Detections
"""Logits of shape (b, classes) from a classifier, :class:`Detections` from a detector."""

Model = Callable[[Tensor], Prediction]
"""Takes images in [0, 1] and owns resizing and normalization; any ``torch.nn.Module`` that returns
logits is one."""
