"""The first adversarial attack: box-constrained L-BFGS on distance plus loss (Szegedy et al.
2013)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from physadv.attacks._classifier_step import Classifier

LOWEST, HIGHEST = 1e-3, 1e3
"""Range of the weight of the distance."""


@dataclass
class _Objective:
    """Weighted squared distance plus cross-entropy towards the target, with its gradient; keeps the
    nearest point of the target class among all that it was evaluated at."""

    model: Classifier
    image: Tensor
    target: Tensor
    weight: float = 1.0
    nearest: Tensor | None = None
    distance: float = float("inf")

    def __call__(self, point: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        x = torch.from_numpy(point).float().view_as(self.image).requires_grad_()
        with torch.enable_grad():
            logits = self.model(x[None])
            loss = F.cross_entropy(logits, self.target)
            (slope,) = torch.autograd.grad(loss, x)

        change = (x.detach() - self.image).double()
        squared = float(change.square().sum())
        self._keep(x.detach(), logits, squared)
        gradient = slope.double() + 2 * self.weight * change
        return float(loss.detach()) + self.weight * squared, gradient.numpy().ravel()

    @torch.no_grad()
    def reaches(self, point: npt.NDArray[np.float64]) -> bool:
        """Return whether ``point`` is of the target class."""
        x = torch.from_numpy(point).float().view_as(self.image)
        return int(self.model(x[None]).argmax()) == int(self.target)

    def _keep(self, x: Tensor, logits: Tensor, squared: float) -> None:
        if int(logits.argmax()) == int(self.target) and squared < self.distance:
            self.nearest, self.distance = x.clamp(0, 1), squared


def box_lbfgs(
    model: Classifier, image: Tensor, target: int, *, searches: int = 8, steps: int = 30
) -> Tensor | None:
    """Find a near image of a target class as the first paper on adversarial examples did.

    Minimizes c |r|^2 + cross-entropy(x + r, target) over r with x + r in [0, 1], by L-BFGS-B, and
    bisects the logarithm of c: a larger c gives a nearer image or none. The paper writes |r|; the
    square is the smooth form of the same search.

    Args:
        model: Classifier with frozen parameters, on the CPU: images in [0, 1] to logits.
        image: Clean image (c, h, w) in [0, 1].
        target: Class to reach.
        searches: Values of c to try, at least 1.
        steps: Steps of L-BFGS for each c, at least 1.

    Returns:
        The nearest image (c, h, w) of the target class that was found; None where there was none.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> image = torch.rand(1, 2, 2)
        >>> other = 1 - int(net(image[None]).argmax())
        >>> found = box_lbfgs(net, image, other)
        >>> found is None or int(net(found[None]).argmax()) == other
        True
    """
    objective = _Objective(model, image.detach(), torch.tensor([target]))
    start = image.detach().double().numpy().ravel()
    low, high = np.log(LOWEST), np.log(HIGHEST)
    for search in range(searches):
        # The smallest weight is tried first: where it fails, larger ones are not tried.
        middle = low if search == 0 else (low + high) / 2
        objective.weight = float(np.exp(middle))
        result = minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, 1.0)] * len(start),
            options={"maxiter": steps, "maxfun": 2 * steps},
        )
        reached = objective.reaches(result.x)
        if search == 0 and not reached:
            break
        low, high = (middle, high) if reached else (low, middle)
    return objective.nearest
