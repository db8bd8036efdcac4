"""Adversarial training: methods whose loss is taken at attacked images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.attacks._classifier_step import frozen_eval
from physadv.core.process_group import ALONE, ProcessGroup
from physadv.threat.norms import parse_norm, steepest_point
from physadv.training.methods._inner_maximization import (
    ascend_loss,
    class_cross_entropy,
    frozen_attack,
    input_gradient,
)
from physadv.training.methods.base import Metrics, TrainingMethod, TrainingPosition, require_option


@dataclass
class _Attacked(TrainingMethod):
    """Base of methods with a ball of ``eps`` in ``norm`` to attack in."""

    eps: float
    norm: str = "linf"

    def __post_init__(self) -> None:
        parse_norm(self.norm)
        require_option("eps", self.eps, self.eps >= 0, "Write it like 0.1 or 8/255")


@dataclass
class FgsmTraining(_Attacked):
    """FGSM training (Goodfellow et al. 2015): ``mix`` of the clean loss and 1 - ``mix`` of the loss
    after one step of length eps."""

    divisible: ClassVar[bool] = True
    shardable: ClassVar[bool] = True
    mix: float = 0.5

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the mixed loss of ``net`` on ``images`` with ``labels``; ``at`` is not used.

        Norms other than l_inf take the best step on the linearized loss.
        """
        with frozen_eval(net):
            gradient = input_gradient(class_cross_entropy(net, labels), images)
        if self.norm == "linf":  # as steepest_point, without its float64
            moved = (images + self.eps * gradient.sign()).clamp(0, 1)
        else:
            moved = steepest_point(-gradient, images, self.eps, parse_norm(self.norm))
        clean = F.cross_entropy(net(images).float(), labels)
        return self.mix * clean + (1 - self.mix) * F.cross_entropy(net(moved).float(), labels), {}


@dataclass
class PgdTraining(_Attacked):
    """PGD training (Madry et al. 2018): the loss at the end of ``steps`` of PGD from a random
    start."""

    divisible: ClassVar[bool] = True
    shardable: ClassVar[bool] = True
    steps: int = 10
    step_size: float | None = None

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the loss of ``net`` on attacked ``images`` with ``labels``, started by draws of
        ``at``."""
        moved = frozen_attack(
            net,
            images,
            labels,
            eps=self.eps,
            norm=self.norm,
            steps=self.steps,
            at=at,
            step_size=self.step_size,
        )
        return F.cross_entropy(net(moved).float(), labels), {}


@dataclass
class FreeTraining(_Attacked):
    """Free training (Shafahi et al. 2019): a batch is replayed ``replays`` times, and each backward
    pass updates weights and images.

    The change of the images carries over from batch to batch. An epoch counts steps, so that it
    costs what an epoch of the standard loss costs and the data is passed once in ``replays``
    epochs. All batches must be of one size.
    """

    synchronized: ClassVar[bool] = True
    shardable: ClassVar[bool] = True
    replays: int = 4
    _processes: ProcessGroup = field(default=ALONE, init=False, repr=False)
    _change: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_option("replays", self.replays, self.replays >= 1, "Use 4 or 8")

    @property
    def repeats(self) -> int:
        """Number of steps in a row that get the same batch."""
        return self.replays

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the loss of ``net`` on changed ``images`` with ``labels``; ``at`` tells which of
        the batch they are.

        The loop's own backward pass provides the gradient that the next call ascends.
        """
        moved, self._processes = self._moved(), at.processes
        rows, count = at.part(len(images))
        if moved is not None and len(moved) == count:  # of all processes, from a checkpoint
            moved = moved[rows]
        self._change = (
            torch.zeros_like(images) if moved is None else moved.to(images)
        ).requires_grad_()
        return F.cross_entropy(net((images + self._change).clamp(0, 1)).float(), labels), {}

    def _moved(self) -> Tensor | None:
        """Return the change after a step of eps along the gradient of the last backward pass,
        projected into the ball."""
        if self._change is None:
            return None
        change, gradient = self._change.detach(), self._change.grad
        if gradient is None:
            return change
        if self.norm == "linf":
            return (change + self.eps * gradient.sign()).clamp(-self.eps, self.eps)
        order = {"l2": 2, "l1": 1}[self.norm]
        column = (-1, *[1] * (change.ndim - 1))
        slope: Tensor = gradient.flatten(1).norm(order, 1).clamp_min(1e-12)
        change = change + self.eps * gradient / slope.view(column)

        size: Tensor = change.flatten(1).norm(order, 1).clamp_min(1e-12)
        inside: Tensor = change * (self.eps / size).clamp_max(1).view(column)
        return inside

    def state(self) -> dict[str, Tensor]:
        """Return the change of the images of all processes."""
        moved = self._moved()
        if moved is None:
            return {}
        parts = self._processes.gather(moved.cpu())
        return {"change": torch.cat(parts)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the change of the images from ``state``."""
        self._change = state.get("change")


@dataclass
class TradesTraining(_Attacked):
    """TRADES (Zhang et al. 2019): the clean loss plus ``beta`` times the divergence between clean
    and attacked prediction."""

    divisible: ClassVar[bool] = True
    shardable: ClassVar[bool] = True
    beta: float = 6.0
    steps: int = 10

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the loss of ``net`` on ``images`` with ``labels``; the attack starts at a tiny
        change drawn from ``at``.

        The attack maximizes the divergence itself.
        """
        if self.beta == 0:
            return F.cross_entropy(net(images).float(), labels), {}

        with frozen_eval(net):
            with torch.no_grad():
                prediction = F.log_softmax(net(images).float(), 1)
            nudge = 0.001 * at.draw(torch.randn, images.shape).to(images)
            moved = ascend_loss(
                lambda x: _divergence(prediction, net(x), "sum"),
                images,
                eps=self.eps,
                norm=parse_norm(self.norm),
                steps=self.steps,
                step_size=2.5 * self.eps / max(1, self.steps),
                start=(images + nudge).clamp(0, 1),
            )

        clean = net(images).float()
        gap = _divergence(F.log_softmax(clean, 1), net(moved), "batchmean")
        return F.cross_entropy(clean, labels) + self.beta * gap, {"divergence": float(gap.detach())}


def _divergence(target: Tensor, logits: Tensor, reduction: str) -> Tensor:
    """Return KL(target || softmax(logits)); ``target`` are log-probabilities."""
    return F.kl_div(F.log_softmax(logits.float(), 1), target, reduction=reduction, log_target=True)


@dataclass
class GradientPenalty(TrainingMethod):
    """Gradient regularization (Ross and Doshi-Velez 2018): the clean loss plus ``penalty`` times
    the squared l_2 norm of each image's input gradient."""

    divisible: ClassVar[bool] = True
    penalty: float = 10.0

    def __post_init__(self) -> None:
        require_option("penalty", self.penalty, self.penalty >= 0, "Use 10")

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the penalized loss of ``net`` on ``images`` with ``labels``; ``at`` is not
        used."""
        x = images.detach().requires_grad_()
        each = F.cross_entropy(net(x).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(each, x, create_graph=True)
        slopes = gradient.flatten(1).square().sum(1).mean()
        return each / len(images) + self.penalty * slopes, {"slope": float(slopes.detach().sqrt())}
