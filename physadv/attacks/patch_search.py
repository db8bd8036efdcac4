"""Search for a patch by scores alone, where the models give no gradient.

"square" changes one square of the patch at a time and keeps what lowers the loss (after the Square
attack of Andriushchenko et al. 2020, and Sparse-RS patches of Croce et al. 2022). "evolution"
follows antithetic differences along soft random blots (NES: Wierstra et al. 2014).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.attacks._optimizers import UpdateRule
from physadv.attacks.patch_loop import PatchStep, View
from physadv.core.errors import ModelError, OptionError
from physadv.core.random_streams import generator

SearchMethod = Literal["square", "evolution"]
METHODS: tuple[SearchMethod, ...] = ("square", "evolution")
HELD_STEPS = 5
"""Steps of "square" on the same draws, so that the loss of the patch itself is known."""
PAIRS = 4
"""Pairs of differences of "evolution" in a step."""
_FIRST_SHARE = 0.25
"""Share of the patch's area that the first squares cover."""
_BLOTS = 12
"""Blots of "evolution" along a side of the patch."""
_SIGMA = 0.12
"""Standard deviation of a difference of "evolution"."""


def search_patch(
    patch: Tensor,
    *,
    views: Sequence[View],
    regularizer: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    update: UpdateRule,
    steps: int,
    method: SearchMethod = "square",
    start: int = 0,
    state: Any = None,
    seed: int = 0,
) -> Iterator[PatchStep]:
    """Descend the mean objective over rendered draws, by its values alone.

    Args:
        patch: First patch (1, 3, ph, pw) in [0, 1].
        views: Images that are drawn at each step, and the victims that judge them.
        regularizer: Patch to a scalar that is added to the loss.
        project: Patch to the nearest allowed patch.
        update: Optimizer; "square" keeps its state alone.
        steps: Number of the last step.
        method: "square" or "evolution".
        start: Steps already made: a saved run resumes to the same result.
        state: State of the optimizer after ``start`` steps; None for a fresh one.
        seed: Seed of the squares and blots.

    Yields:
        One result a step.

    Raises:
        OptionError: The method is unknown.
        ModelError: The loss is not finite.

    Example:
        >>> from physadv.attacks._optimizers import CosineAdam
        >>> from physadv.attacks.patch_loop import Victim
        >>> bright = Victim(
        ...     model=lambda images: images.flatten(1),
        ...     objective=lambda prediction, _: prediction.mean(1),
        ...     criterion=lambda prediction, _: prediction.mean(1) < 0.1,
        ... )
        >>> *_, last = search_patch(
        ...     torch.full((1, 3, 8, 8), 0.5),
        ...     views=[View(lambda patch, step: (patch, None), [bright])],
        ...     regularizer=lambda patch: 0 * patch.sum(),
        ...     project=lambda patch: patch.clamp(0, 1),
        ...     update=CosineAdam(lr=0.1, steps=100),
        ...     steps=100,
        ... )
        >>> float(last.patch.mean()) < 0.3
        True
    """
    if method not in METHODS:
        raise OptionError(f"method {method!r}", f"One of {', '.join(METHODS)}", "Choose one")
    current = patch.detach().clone()
    state = update.init(current) if state is None else state
    objective = _Objective(views, regularizer)
    known: float | None = None
    for index in range(start, steps):
        if method == "evolution":
            loss, gradient = _estimated(objective, current, project, index, seed)
            current = project(update.step(current, gradient, state)).detach()
        else:
            draws = index // HELD_STEPS
            if known is None or index % HELD_STEPS == 0:
                known = objective(current, draws)
            candidate = project(_with_square(current, index, steps, seed)).detach()
            value = objective(candidate, draws)
            if value <= known:
                current, known = candidate, value
            loss = known
            # The optimizer counts the step, so that a saved run has the form of any other.
            update.step(current, torch.zeros_like(current), state)
        yield PatchStep(index + 1, current, loss, state)


def queries_of(method: SearchMethod, steps: int, draws: int) -> int:
    """Return how many pictures a search of ``steps`` with ``draws`` a step shows to each model."""
    if method == "evolution":
        return 2 * PAIRS * steps * draws
    return (steps + -(-steps // HELD_STEPS)) * draws


class _Objective:
    """Mean loss of a patch on the draws of a step, with its regularizer."""

    def __init__(self, views: Sequence[View], regularizer: Callable[[Tensor], Tensor]) -> None:
        self.views, self.regularizer = views, regularizer

    @torch.no_grad()
    def __call__(self, patch: Tensor, draws: int) -> float:
        losses = []
        for view in self.views:
            images, annotations = view.render(patch, draws)
            for victim in view.victims:
                losses.append(float(victim.objective(victim.model(images), annotations).mean()))
        loss = sum(losses) / len(losses) + float(self.regularizer(patch))
        if not torch.isfinite(torch.tensor(loss)):
            raise ModelError(f"loss {loss}", "must be finite", "Check the model's output for NaN")
        return loss


def _with_square(patch: Tensor, index: int, steps: int, seed: int) -> Tensor:
    """The patch with a square of one color, which is smaller the later the step."""
    source = generator(seed, "patch square", index)
    height, width = patch.shape[-2:]
    share = _FIRST_SHARE * 0.5 ** (6 * index / max(1, steps))
    side = max(1, round((share * height * width) ** 0.5))
    rows, columns = min(side, height), min(side, width)
    top = int(torch.randint(0, height - rows + 1, (1,), generator=source))
    left = int(torch.randint(0, width - columns + 1, (1,), generator=source))
    color = torch.rand(3, generator=source)
    if index % 2:  # pure colors change a score most
        color = color.round()
    changed = patch.clone()
    changed[..., top : top + rows, left : left + columns] = color.to(patch)[None, :, None, None]
    return changed


def _estimated(
    objective: _Objective,
    patch: Tensor,
    project: Callable[[Tensor], Tensor],
    index: int,
    seed: int,
) -> tuple[float, Tensor]:
    """Mean loss around the patch, and the gradient as antithetic differences estimate it."""
    source = generator(seed, "patch evolution", index)
    side = min(_BLOTS, *patch.shape[-2:])
    gradient, total = torch.zeros_like(patch), 0.0
    for _ in range(PAIRS):
        blots = torch.randn((1, 3, side, side), generator=source)
        soft = F.interpolate(blots, size=patch.shape[-2:], mode="bilinear", align_corners=False)
        direction = soft.to(patch)
        above = objective(project(patch + _SIGMA * direction), index)
        below = objective(project(patch - _SIGMA * direction), index)
        gradient += (above - below) / (2 * _SIGMA * PAIRS) * direction
        total += (above + below) / (2 * PAIRS)
    return total, gradient
