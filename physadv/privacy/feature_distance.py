"""Perceptual distance of two face boxes by the features of an image classifier.

It is built as LPIPS is (Zhang et al., 2018), without that paper's network and without its weights
learned from people: features of EfficientNet-Lite0 count alike. Its values are therefore no LPIPS,
and mean something beside one another alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.core.errors import ModelError
from physadv.models.architectures.efficientnet_lite import EfficientNetLite0
from physadv.models.classifiers import Preprocessed
from physadv.models.load import load_undefended_model

_LONGEST_PX, _LEAST_PX = 512, 64


@dataclass(frozen=True)
class FeatureDistance:
    """Distance of pictures by the features of a frozen network.

    Attributes:
        net: The network, in evaluation mode.
        mean: Mean that it takes off, one or a channel, in units of [0, 1].
        std: Divisor, likewise.
    """

    net: EfficientNetLite0
    mean: Tensor
    std: Tensor

    @torch.no_grad()
    def __call__(self, before: Tensor, after: Tensor) -> float:
        """Return the distance of ``before`` and ``after``, both (3, h, w) in [0, 1], at 512 px at
        most: 0 if equal.

        Of the stem and each stage, the features at each place are scaled to unit length; their
        squared differences are averaged over places and summed over stages.
        """
        pair = torch.stack([before, after]).to(self.mean)
        longest = max(pair.shape[-2:])
        factor = min(1.0, _LONGEST_PX / longest) if longest > _LEAST_PX else _LEAST_PX / longest
        if factor != 1:
            size = [max(1, round(side * factor)) for side in pair.shape[-2:]]
            pair = F.interpolate(pair, size, mode="bilinear", antialias=True, align_corners=False)
        total = 0.0
        for stage in self.net.features((pair - self.mean) / self.std):
            one, other = F.normalize(stage, dim=1)
            total += float(((one - other) ** 2).sum(0).mean())
        return total


def load_feature_distance() -> FeatureDistance | None:
    """Return the distance by EfficientNet-Lite0, whose weights the extra ``imagenet`` has; None
    where it is not installed.

    Example:
        >>> distance = load_feature_distance()
        >>> face = torch.rand(3, 80, 80)
        >>> distance is None or distance(face, face) == 0.0
        True
    """
    try:
        wrapped = load_undefended_model("efficientnet-lite0").net
    except ModelError:
        return None
    assert isinstance(wrapped, Preprocessed)
    assert isinstance(wrapped.net, EfficientNetLite0)
    return FeatureDistance(wrapped.net, wrapped.mean, wrapped.std)
