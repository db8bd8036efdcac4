"""Training for randomized smoothing: classification under Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.attacks._classifier_step import frozen_eval
from physadv.threat.norms import parse_norm
from physadv.training.methods._inner_maximization import ascend_loss
from physadv.training.methods.base import Metrics, TrainingMethod, TrainingPosition, require_option


@dataclass
class GaussianAugmentation(TrainingMethod):
    """Gaussian augmentation (Cohen et al. 2019): the loss of images with noise N(0, ``sigma``^2),
    not clipped."""

    sigma: float = 0.25
    divisible: ClassVar[bool] = True
    shardable: ClassVar[bool] = True
    score: ClassVar[str] = "noisy"
    recorded_as: ClassVar[str] = "Gaussian"

    def __post_init__(self) -> None:
        require_option("sigma", self.sigma, self.sigma > 0, "Use 0.25")

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the loss of ``net`` on noisy ``images`` with ``labels``, drawn from ``at``."""
        noise = self.sigma * at.draw(torch.randn, images.shape).to(images)
        return F.cross_entropy(net(images + noise).float(), labels), {}


@dataclass
class SmoothAdvTraining(GaussianAugmentation):
    """SmoothAdv (Salman et al. 2019): PGD on the smoothed classifier, then the loss at the attacked
    images under the same noise.

    The smoothed classifier is the mean softmax over ``draws`` noises. ``eps`` grows from 0 over the
    share ``warmup``.
    """

    eps: float = 1.0
    norm: str = "l2"
    steps: int = 4
    draws: int = 2
    warmup: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_norm(self.norm)
        require_option("draws", self.draws, self.draws >= 1, "Use 2")

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the loss of ``net`` on attacked noisy ``images`` with ``labels``, drawn from
        ``at``."""
        noise = self.sigma * at.draw(torch.randn, (self.draws, *images.shape), 1).to(images)
        eps = self.eps * at.ramp(0.0, self.warmup)

        def smoothed(x: Tensor) -> Tensor:
            logits = net((x + noise).flatten(0, 1)).float().view(self.draws, len(x), -1)
            return F.nll_loss(logits.log_softmax(2).logsumexp(0), labels, reduction="sum")

        moved = images
        if eps > 0:
            with frozen_eval(net):
                size = 2 * eps / max(1, self.steps)
                moved = ascend_loss(
                    smoothed,
                    images,
                    eps=eps,
                    norm=parse_norm(self.norm),
                    steps=self.steps,
                    step_size=size,
                )

        noisy = (moved + noise).flatten(0, 1)
        return F.cross_entropy(net(noisy).float(), labels.repeat(self.draws)), {}
