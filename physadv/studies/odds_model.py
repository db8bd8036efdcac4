"""Model of Tsipras et al. (2019) in which robustness and accuracy are at odds, in closed form.

A label y is +1 or -1 with equal probability. The first coordinate is y with probability p, else
-y. Each of the d others is normal with mean eta y and variance 1: weak alone, strong together. The
adversary moves every coordinate by up to eps = 2 eta, which turns the weak ones against the label.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.special import ndtr
from torch import Tensor

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OddsModel:
    """One strong coordinate and many weak ones.

    Args:
        weak: Number d of weak coordinates, at least 1.
        strong: Probability p that the strong coordinate is the label, in (1/2, 1).
        strength: Mean of a weak coordinate times the root of d; 2 makes all weak ones together
            right on 97.7 %.
    """

    weak: int
    strong: float = 0.95
    strength: float = 2.0

    @property
    def eta(self) -> float:
        """Mean of a weak coordinate of the class +1."""
        return self.strength / sqrt(self.weak)

    @property
    def eps(self) -> float:
        """Radius of the adversary of the theorem, twice the mean of a weak coordinate."""
        return 2 * self.eta

    def accuracy(self, weights: Floats, eps: float = 0.0) -> float:
        """Return the accuracy of a linear classifier under attack, exactly.

        Args:
            weights: Weights (1 + d,), the strong coordinate's first.
            eps: Radius of the adversary in l_inf; 0 for none.

        Example:
            >>> round(OddsModel(100).accuracy(np.ones(101) * [0] + np.eye(101)[0], 0.5), 2)
            0.95
        """
        first, others = float(weights[0]), weights[1:]
        loss = eps * float(np.abs(weights).sum())
        sides = np.array([first, -first]) + self.eta * float(others.sum()) - loss
        length = float(np.linalg.norm(others))
        chances = np.array([self.strong, 1 - self.strong])
        if length == 0:
            return float(chances @ (np.sign(sides) + 1) / 2)
        return float(chances @ ndtr(sides / length))

    def mixed(self, share: float) -> Floats:
        """Return weights (1 + d,) that give the strong coordinate ``share`` of the vote, in [0, 1],
        and the weak ones the rest in equal parts, at most 1 / root d each."""
        others = np.full(self.weak, (1 - share) / sqrt(self.weak))
        return np.concatenate([[share], others])

    def bound(self, standard: float) -> float:
        """Return the most that any classifier of accuracy ``standard`` can have under attack.

        With accuracy 1 - delta it is p / (1 - p) times delta, and the strong coordinate limits it
        to p where that is less.
        """
        return min(self.strong, self.strong / (1 - self.strong) * (1 - standard))

    def draw(self, samples: int, draws: np.random.Generator) -> tuple[Floats, Floats]:
        """Draw samples (n, 1 + d) and labels (n,), +1 or -1.

        Args:
            samples: Number of samples n.
            draws: Source of the draws.
        """
        labels = draws.choice([-1.0, 1.0], samples)
        right = np.where(draws.random(samples) < self.strong, 1.0, -1.0)
        others = draws.standard_normal((samples, self.weak)) + self.eta * labels[:, None]
        return np.concatenate([(labels * right)[:, None], others], axis=1), labels

    def count_correct(
        self, weights: Floats, eps: float, samples: int, draws: np.random.Generator
    ) -> int:
        """Return how many drawn samples a linear classifier gets right after the worst change.

        Args:
            weights: Weights (1 + d,).
            eps: Radius of the adversary in l_inf.
            samples: Number of samples.
            draws: Source of the draws.
        """
        x, labels = self.draw(samples, draws)
        moved = x - eps * labels[:, None] * np.sign(weights)
        return int((labels * (moved @ weights) > 0).sum())


def train_linear(
    samples: Floats, labels: Floats, eps: float, *, steps: int = 300, rate: float = 0.02
) -> Floats:
    """Train a linear classifier against the worst change of every sample, by logistic loss.

    The worst change of a sample within eps costs eps times the l_1 norm of the weights, so that
    the inner maximum is exact.

    Args:
        samples: Samples (n, k).
        labels: Labels (n,), +1 or -1.
        eps: Radius of the adversary in l_inf; 0 for standard training.
        steps: Steps of Adam over all samples.
        rate: Learning rate, which falls to 0.

    Returns:
        Weights (k,).
    """
    x = torch.from_numpy((samples * labels[:, None]).astype(np.float32))
    w: Tensor = torch.zeros(x.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        loss = F.softplus(eps * w.abs().sum() - x @ w).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return w.detach().numpy().astype(np.float64)
