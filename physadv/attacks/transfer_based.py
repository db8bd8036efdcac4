"""Momentum iterative FGSM with diverse inputs, on the model itself or on surrogates of it."""

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
from physadv.attacks._inputs import open_inputs
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.gradient import Loss, ProjectedStep
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.threat.constraints import LpBall
from physadv.threat.losses import Objective
from physadv.threat.norms import Norm


@dataclass(frozen=True)
class DiverseInputs:
    """Input diversity (Xie et al. 2019): random shrinking and placement on black.

    Args:
        share: Share of the images that are shrunk, in [0, 1].
        smallest: Smallest scale, in (0, 1].

    Raises:
        OptionError: A value is out of range.

    Example:
        >>> import torch
        >>> views = DiverseInputs(share=1.0, smallest=0.5)
        >>> source = torch.Generator().manual_seed(0)
        >>> views(torch.ones(1, 3, 8, 8), [source]).shape
        torch.Size([1, 3, 8, 8])
    """

    share: float = 0.5
    smallest: float = 0.85

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 < self.smallest <= 1):
            raise OptionError(
                f"share {self.share}, smallest {self.smallest}",
                "share is 0 to 1, smallest above 0 to 1",
                "Correct them",
            )

    def __call__(self, images: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
        """Return ``images`` (b, c, h, w) diversified, each with a random stream of ``sources``."""
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


@open_inputs
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
    """Attack with momentum iterative FGSM (Dong et al. 2018), made to transfer.

    Steps follow a running sum of gradients, each divided by its mean magnitude. With ``diverse`` it
    is diverse-input (Xie et al. 2019). With ``surrogates`` the gradients are the mean of theirs and
    the model evaluates the last iterate only; without them the model is its own surrogate and the
    best iterate is kept, after steps + 1 forward passes.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        eps: Radius of the ball, at least 0, in units of [0, 1].
        norm: "linf", "l2" or "l1".
        steps: Number of steps, at least 1.
        step_size: Length of a step; eps / steps without it.
        decay: Weight of the past gradients; 0 is no momentum.
        diverse: Random views that gradients are taken of; None for the images themselves.
        surrogates: Models to take gradients of, or their names.
        loss: "ce", "margin" or "dlr".
        targets: Target classes (b,) for a targeted attack.
        levels: Round the images to k / levels (255 for 8 bits).
        seed: Seed of every random choice.
        index: Numbers (b,) of the samples; 0, 1, ... without it.

    Returns:
        The adversarial images with success, loss and query counts.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: An option is out of range.
        ModelError: The output is no differentiable logits.

    Example:
        >>> import torch
        >>> from physadv.attacks import mi_fgsm
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
        >>> result = mi_fgsm(net, images, labels, eps=8 / 255)
        >>> bool((result.images - images).abs().max() <= 8 / 255)
        True
    """
    check_batch(images, labels, targets)
    if steps < 1:
        raise OptionError(f"{steps} steps", "at least 1", "Raise steps")
    if diverse is not None and images.ndim != 4:
        raise OptionError(
            f"images of shape {tuple(images.shape)}",
            "diverse inputs need (b, c, h, w)",
            "Leave out diverse",
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
            logits, value, grad = _mean_gradient(
                surrogates or (model,), point, task.objective, diverse, sources
            )
            if not surrogates and diverse is None:
                best.update_best(rows, point, value, task.criterion(logits))
            x = mover(x, grad, step)

        # With surrogates or diverse inputs only the last iterate is evaluated on the model itself.
        point = ball.quantized(x, x0)
        best.update_best(
            rows, point, *loss_and_success(model, point, task.objective, task.criterion)
        )
        if not surrogates and diverse is not None:
            best.queries += steps * forward_count(model)
        return best.result(images)


def _mean_gradient(
    nets: Sequence[Classifier],
    x: Tensor,
    goal: Objective,
    diverse: DiverseInputs | None,
    sources: Sequence[torch.Generator] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits and losses of the last net, and the mean of the nets' normalized gradients.

    Each gradient is divided by its mean magnitude, so that the nets count alike.
    """
    total = torch.zeros_like(x)
    for net in nets:
        diversified = net
        if diverse is not None and sources is not None:
            diversified = _diversified(net, diverse, [_copy_of(source) for source in sources])
        logits, value, grad = loss_and_gradient(diversified, x, goal)

        scaled = _directions.scale_by_largest(grad)
        mean = scaled.abs().flatten(1).mean(1)
        mean = torch.where(mean > 0, mean, torch.ones_like(mean))
        total = total + scaled / _directions.per_sample(mean, x)
    return logits, value, total / len(nets)


def _diversified(
    net: Classifier, diverse: DiverseInputs, sources: Sequence[torch.Generator]
) -> Classifier:
    return lambda x: net(diverse(x, sources))


def _copy_of(source: torch.Generator) -> torch.Generator:
    """Return a copy of the stream, so that every surrogate gets the same transforms."""
    copy = torch.Generator()
    copy.set_state(source.get_state())
    return copy
