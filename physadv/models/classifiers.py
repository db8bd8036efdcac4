"""Preprocessing and output adapters around a network: resizing, normalization, logits,
detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.tensors import device_of
from physadv.core.types import Prediction
from physadv.core.wording import count_noun
from physadv.models.detector_outputs import read_detections
from physadv.models.outputs import log_probabilities, read_logits, two_logits
from physadv.models.resizing import InputResizing

Outputs = Literal["logits", "probabilities", "logit", "probability"]
"""What a classifier returns: one value a class, or one value for the second of two classes."""
Layout = Literal["nchw", "nhwc"]
_LUMA = (0.299, 0.587, 0.114)


def resize_images(images: Tensor, height: int, width: int) -> Tensor:
    """Stretch ``images`` (b, c, h, w) to ``height`` x ``width`` px.

    Bilinear, anti-aliased where it shrinks, differentiable; images of that size are returned as
    they are.
    """
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(
        images, (height, width), mode="bilinear", antialias=True, align_corners=False
    )


class Preprocessed(nn.Module):
    """A network with its own preprocessing, so that callers pass images in [0, 1] of any size.

    Args:
        net: Network on normalized images.
        task: "classify" or "detect".
        mean: Subtracted mean in units of [0, 1]: one number or one a channel.
        std: Divisor in units of [0, 1]: one number or one a channel, positive.
        resizing: How images are brought to the network's input; None takes them as they come.
        outputs: What a classifier returns: "logits" or "probabilities" (b, classes), or for two
            classes one "logit" or "probability" an image, that of the second. The logarithm of
            probabilities stands for the logits.
        bgr: Whether the network takes blue, green, red.
        scale: Factor on images in [0, 1] before mean and std, such as 255; positive.
        layout: "nchw", or "nhwc" for a network that takes channels last.
        classes: Number of a detector's classes; None where it is not known.
        gray: Whether the network takes one channel; images of three become gray by BT.601, as
            Pillow's do.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        task: str = "classify",
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        resizing: InputResizing | None = None,
        outputs: Outputs = "logits",
        bgr: bool = False,
        scale: float = 1.0,
        layout: Layout = "nchw",
        classes: int | None = None,
        gray: bool = False,
    ) -> None:
        super().__init__()
        self.gray = gray
        self.net, self.task, self.outputs, self.classes = net, task, outputs, classes
        self.bgr, self.scale, self.layout = bgr, scale, layout
        self.resizing = resizing
        # A net that lies on a device already gets its images normalized there.
        home = device_of(net)
        self.register_buffer("mean", _channels(mean, 0.0, "mean").to(home), persistent=False)
        self.register_buffer("std", _channels(std, 1.0, "std").to(home), persistent=False)

    def forward(self, images: Tensor) -> Prediction:
        """Map ``images`` (b, 3, h, w) in [0, 1] to logits, or to Detections in pixels of
        ``images``."""
        height, width = images.shape[-2:]
        if self.gray and images.shape[1] == 3:
            images = (images * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        resized = images if self.resizing is None else self.resizing(images)

        normalized = self._normalized(resized)
        if self.task != "detect" and self.outputs == "probabilities":
            return log_probabilities(self.net, normalized)
        output = self.net(normalized)
        if self.task != "detect" and self.outputs in ("logit", "probability"):
            return two_logits(output, len(images), is_probability=self.outputs == "probability")
        if self.task == "detect":
            found = read_detections(
                output, len(images), (resized.shape[-2], resized.shape[-1]), classes=self.classes
            )
            if self.resizing is None:
                return found
            return replace(found, boxes=self.resizing.boxes_on_image(found.boxes, height, width))
        return read_logits(output, len(images))

    def _normalized(self, images: Tensor) -> Tensor:
        """Images as the network takes them."""
        if self.bgr:
            images = images.flip(1)
        if self.scale != 1:
            images = images * self.scale
        normalized = (images - self.mean) / self.std
        return normalized if self.layout == "nchw" else normalized.permute(0, 2, 3, 1)


def _channels(value: float | Sequence[float] | None, default: float, name: str) -> Tensor:
    try:
        numbers = torch.as_tensor(default if value is None else value, dtype=torch.float32).reshape(
            1, -1, 1, 1
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{name} {value!r}", "is not one or three numbers", "Give one per channel"
        ) from error

    if numbers.shape[1] not in (1, 3):
        raise ModelError(
            f"{name} of {count_noun(numbers.shape[1], 'number')}",
            "one or three are needed",
            "Give one per channel",
        )
    if name == "std" and not bool((numbers > 0).all()):
        raise ModelError(
            f"std {value}", "must be positive", "Give the numbers the model was trained with"
        )
    return numbers
