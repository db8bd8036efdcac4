"""Momentum and diverse inputs: attacks made to transfer, on the victim itself or on surrogates of
it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.attacks import _directions
from physadv.attacks._classifier_step import (
    BestIterates,
    Classifier,
    build_task,
    check_batch,
    forward_count,
    frozen_eval,
    loss_and_gradient,
    loss_and_success,
)
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.gradient import Loss, ProjectedStep
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.threat.constraints import LpBall
from physadv.threat.losses import Objective
from physadv.threat.norms import Norm


@dataclass(frozen=True)
class DiverseInputs:
    """Input diversity (Xie et al. 2019): a share of the images is shrunk and put somewhere on
    black, each time anew."""

    share: float = 0.5
    smallest: float = 0.85

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 < self.smallest <= 1):
            raise OptionError(
                f"share {self.share}, smallest {self.smallest}", "0..1 and above 0..1", "check both"
            )

    def __call__(self, images: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
        """Images (b, c, h, w) as the surrogates see them, differentiable; a generator a sample."""
        if not sources:
            return images
        draws = torch.stack([torch.rand(4, generator=g, dtype=torch.float64) for g in sources]).to(
            images
        )
        scale = self.smallest + (1 - self.smallest) * draws[:, 1]
        scale = torch.where(draws[:, 0] < self.share, scale, torch.ones_like(scale))
        shift = (draws[:, 2:] * 2 - 1) * (1 / scale - 1)[:, None]
        zoom = torch.diag_embed(torch.stack([1 / scale, 1 / scale], 1))
        grid = F.affine_grid(
            torch.cat([zoom, shift[:, :, None]], 2), list(images.shape), align_corners=False
        )
        return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def mi_fgsm(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    diverse: DiverseInputs | None = None,
    surrogates: Sequence[Classifier] = (),
    loss: Loss = "ce",
    targets: Tensor | None = None,
    levels: int | None = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> AttackResult:
    """Momentum iterative FGSM (Dong et al. 2018), with ``diverse`` also diverse-input (Xie et al.
    2019).

    Steps follow a running sum of gradients, each divided by its mean magnitude, with ``decay`` for
    the past; with ``decay=0`` and ``diverse`` it is diverse-input PGD. With ``surrogates`` the
    gradients are theirs, the mean over them of such normalized gradients, and the model is asked
    about the last iterate only: one query a sample. Without them the model is its own surrogate
    (steps + 1 forwards) and the best iterate is kept. Random choices derive from ``seed`` and
    ``index`` as in :func:`physadv.attacks.gradient.pgd`. Raises the errors named there.
    """
    check_batch(images, labels, targets)
    if steps < 1:
        raise OptionError(f"{steps} steps", "at least 1", "raise steps")
    if diverse is not None and images.ndim != 4:
        raise OptionError(
            f"images of shape {tuple(images.shape)}",
            "diverse input needs (b, c, h, w)",
            "leave it out",
        )
    ball = LpBall(norm, eps, levels)
    numbers = list(range(len(images))) if index is None else index.tolist()
    size = step_size if step_size is not None else eps / steps
    with frozen_eval(model, *surrogates):
        x0 = images.detach().clone()
        task = build_task(model, model, loss, labels, targets)
        best, rows = BestIterates(x0, task), torch.arange(len(x0), device=x0.device)
        mover = ProjectedStep(x0, ball, [size] * steps, decay=decay)
        x = x0
        for step in range(steps):
            point = ball.quantized(x, x0)
            sources = [generator(seed, "diverse", step, n) for n in numbers] if diverse else None
            logits, value, grad = _seen_by(
                surrogates or (model,), point, task.objective, diverse, sources
            )
            if not surrogates and diverse is None:
                best.update_best(rows, point, value, task.criterion(logits))
            x = mover(x, grad, step)
        point = ball.quantized(x, x0)
        best.update_best(
            rows, point, *loss_and_success(model, point, task.objective, task.criterion)
        )
        if not surrogates and diverse is not None:
            best.queries += steps * forward_count(model)
        return best.result(images)


def _seen_by(
    nets: Sequence[Classifier],
    x: Tensor,
    goal: Objective,
    diverse: DiverseInputs | None,
    sources: Sequence[torch.Generator] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and losses of the last net, and the mean over the nets of gradients of mean magnitude
    1."""
    total = torch.zeros_like(x)
    for net in nets:
        view = (
            net
            if diverse is None or sources is None
            else _viewed(net, diverse, [_again(s) for s in sources])
        )
        logits, value, grad = loss_and_gradient(view, x, goal)
        scaled = _directions.scale_by_largest(grad)
        mean = scaled.abs().flatten(1).mean(1)
        total = total + scaled / _directions.per_sample(
            torch.where(mean > 0, mean, torch.ones_like(mean)), x
        )
    return logits, value, total / len(nets)


def _viewed(
    net: Classifier, diverse: DiverseInputs, sources: Sequence[torch.Generator]
) -> Classifier:
    return lambda x: net(diverse(x, sources))


def _again(source: torch.Generator) -> torch.Generator:
    """A copy of the generator, so that every surrogate sees the same views."""
    copy = torch.Generator()
    copy.set_state(source.get_state())
    return copy
