"""Models on a device without float64, for images that stay on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from physadv.core.types import Detections, Prediction


class OnOwnDevice(nn.Module):
    """A model whose passes run on a device of its own; images come from another, and answers go
    back there. Gradients pass.

    Args:
        model: The model: a module, or a function of images.
        device: Its device.

    Example:
        >>> model = OnOwnDevice(torch.nn.Flatten(), torch.device("cpu"))
        >>> model(torch.rand(2, 3, 4, 4)).shape
        torch.Size([2, 48])
    """

    def __init__(self, model: Callable[[Tensor], Prediction], device: torch.device) -> None:
        super().__init__()
        self.model, self.device = model, device

    def forward(self, images: Tensor) -> Prediction:
        """Return the answers of the model to ``images``, on the device of these."""
        return moved_prediction(self.model(images.to(self.device)), images.device)


def moved_prediction(prediction: Prediction, device: torch.device) -> Prediction:
    """Return ``prediction`` on ``device``; what is no prediction, as it is."""
    if isinstance(prediction, Detections):
        return Detections(prediction.boxes.to(device), prediction.scores.to(device))
    output: Any = prediction  # a user's network may return anything, which others refuse
    return cast(Prediction, output.to(device) if isinstance(output, Tensor) else output)
