"""Momentum iterative FGSM, on views of the images, on the model itself or on surrogates of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
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
from physadv.attacks.input_views import DiverseInputs as DiverseInputs
from physadv.attacks.input_views import InputView
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.threat.constraints import LpBall
from physadv.threat.losses import Objective
from physadv.threat.norms import Norm, unit_noise


@dataclass(frozen=True)
class GradientRelevance:
    """Gradient relevance, GRA (Zhu et al. 2023): gradients in the neighborhood count the more, the
    less they agree with the image's own, and elements whose direction flips take shorter steps.

    Args:
        neighbors: Number of points around an iterate.
        reach: Radius of the neighborhood in radii of the ball.
        damping: Factor of an element's step for each flip, in (0, 1].

    Raises:
        OptionError: A value is out of range.

    Example:
        >>> GradientRelevance(neighbors=5).neighbors
        5
    """

    neighbors: int = 20
    reach: float = 3.5
    damping: float = 0.94

    def __post_init__(self) -> None:
        if self.neighbors < 1 or self.reach < 0 or not 0 < self.damping <= 1:
            raise OptionError(
                f"{self.neighbors} neighbors, reach {self.reach}, damping {self.damping}",
                "at least 1 neighbor, reach not below 0, damping above 0 to 1",
                "Correct them",
            )


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
    diverse: InputView | None = None,
    relevance: GradientRelevance | None = None,
    surrogates: Sequence[Classifier] = (),
    loss: Loss = "ce",
    targets: Tensor | None = None,
    levels: int | None = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> AttackResult:
    """Attack with momentum iterative FGSM (Dong et al. 2018), made to transfer.

    Steps follow a running sum of gradients, each divided by its mean magnitude. With ``diverse``
    they are gradients of random views: diverse inputs (Xie et al. 2019), BSR, SIA or DeCoWA; with
    ``relevance`` those of neighbors count, too (GRA). With ``surrogates`` the gradients are the
    mean of theirs and the model evaluates the last iterate only; without them the model is its own
    surrogate, and of plain steps the best iterate is kept, after steps + 1 forward passes.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        eps: Radius of the ball, at least 0, in units of [0, 1].
        norm: "linf", "l2" or "l1".
        steps: Number of steps, at least 1.
        step_size: Length of a step; eps / steps without it.
        decay: Weight of the past gradients; 0 is no momentum.
        diverse: Random views that gradients are taken of, such as ``DiverseInputs()``,
            ``BlockShuffle()``, ``StructureInvariant()`` or ``DeformationWarp()``; None for the
            images themselves.
        relevance: Neighbors whose gradients are taken as well; None for none.
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
        mover = ProjectedStep(
            x0,
            ball,
            [size] * steps,
            decay=decay,
            damping=None if relevance is None else relevance.damping,
        )
        gradients = _Gradients(surrogates or (model,), task.objective, diverse, seed, numbers)
        only_last = bool(surrogates) or diverse is not None or relevance is not None
        x = x0

        for step in range(steps):
            point = ball.quantized(x, x0)
            logits, value, grad = gradients(point, step)
            if relevance is not None:
                grad = _relevant(gradients, point, grad, step, relevance, ball)
            if not only_last:
                best.update_best(rows, point, value, task.criterion(logits))
            x = mover(x, grad, step)

        # With surrogates, views or neighbors the last iterate alone is evaluated on the model.
        point = ball.quantized(x, x0)
        best.update_best(
            rows, point, *loss_and_success(model, point, task.objective, task.criterion)
        )
        if not surrogates and only_last:
            each = 1 if diverse is None else diverse.passes
            points = 1 if relevance is None else 1 + relevance.neighbors
            best.queries += steps * each * points * forward_count(model)
        return best.result(images)


@dataclass(frozen=True)
class _Gradients:
    """Gradients of several nets, of views of the images where asked.

    Each net's gradient is divided by its mean magnitude, so that the nets count alike.
    """

    nets: Sequence[Classifier]
    goal: Objective
    view: InputView | None
    seed: int
    numbers: Sequence[int]

    def __call__(self, x: Tensor, step: int, point: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits and losses of the last net, and the mean of the nets' gradients.

        The views are those of step number ``step`` and of its ``point``, 0 for the iterate.
        """
        total = torch.zeros_like(x)
        for net in self.nets:
            logits, value, grad = self._of_views(net, x, step, point)
            scaled = _directions.scale_by_largest(grad)
            mean = scaled.abs().flatten(1).mean(1)
            mean = torch.where(mean > 0, mean, torch.ones_like(mean))
            total = total + scaled / _directions.per_sample(mean, x)
        return logits, value, total / len(self.nets)

    def _of_views(
        self, net: Classifier, x: Tensor, step: int, point: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and losses of the last view, and the sum of the gradients of all."""
        if self.view is None:
            return loss_and_gradient(net, x, self.goal)
        total = torch.zeros_like(x)
        for copy in range(self.view.copies):
            more = (copy, point) if copy or point else ()
            sources = [generator(self.seed, "diverse", step, n, *more) for n in self.numbers]
            shown = self.view.drawn(net, x, self.goal, sources)
            logits, value, grad = loss_and_gradient(_composed(net, shown), x, self.goal)
            total = total + grad
        return logits, value, total


def _relevant(
    gradients: _Gradients,
    x: Tensor,
    grad: Tensor,
    step: int,
    relevance: GradientRelevance,
    ball: LpBall,
) -> Tensor:
    """The gradient mixed with the mean of its neighbors': where they agree the own one counts."""
    total = torch.zeros_like(x)
    for neighbor in range(relevance.neighbors):
        sources = [
            generator(gradients.seed, "neighbor", step, n, neighbor) for n in gradients.numbers
        ]
        noise = [unit_noise(x.shape[1:], ball.norm, source) for source in sources]
        shift = torch.stack(noise).to(x) * (relevance.reach * ball.eps) if noise else x * 0
        total = total + gradients(x + shift, step, neighbor + 1)[2]
    around = total / relevance.neighbors
    alike = torch.nn.functional.cosine_similarity(grad.flatten(1), around.flatten(1), dim=1)
    share = _directions.per_sample(alike.to(x), x)
    return share * grad + (1 - share) * around


def _composed(net: Classifier, view: Classifier) -> Classifier:
    return lambda x: net(view(x))
