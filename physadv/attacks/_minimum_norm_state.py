"""The state of a minimum-norm attack: the nearest find of each sample, its planes, and the line
search at the end."""

from __future__ import annotations

import torch
from torch import Tensor

from physadv.attacks._classifier_step import (
    Classifier,
    build_task,
    check_batch,
    forward_count,
    loss_and_success,
)
from physadv.attacks._directions import per_sample
from physadv.attacks._fused_model import FusedModel, Speed, gradient_model_for
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.gradient import to_memory_format
from physadv.core.errors import ModelError
from physadv.threat.constraints import LpBall
from physadv.threat.norms import Norm, lp_distance, parse_norm


class NearestAdversarial:
    """The nearest adversarial image of each sample so far, and the line search at the end."""

    def __init__(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        eps: float | None,
        norm: Norm,
        speed: Speed | FusedModel,
    ) -> None:
        check_batch(images, labels, targets)
        self.norm, self.eps, self.images, self.targets = parse_norm(norm), eps, images, targets
        self.reach = -1.0 if eps is None else LpBall(norm, eps).eps
        gradient_model = gradient_model_for(model, speed, images)
        self.x0 = to_memory_format(images, gradient_model)
        self.task = build_task(model, gradient_model, "margin", labels, targets)
        self.best, self.last = self.x0.clone(), self.x0.clone()
        self.distance = torch.full(
            (len(images),), torch.inf, dtype=torch.float64, device=images.device
        )
        self.clean_gap = torch.full_like(self.distance, torch.nan)
        self.queries = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def open(self) -> Tensor:
        """Samples for which nothing is found within reach: all, where the nearest image is asked
        for."""
        return (self.distance > self.reach).nonzero()[:, 0]

    def look(self, rows: Tensor, x: Tensor, classes: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Value (b,) and slope of each sample's nearest boundary, linearized at ``x``, and whether
        ``x`` has won.

        One forward pass. The value is positive where the attack has not won. With ``classes`` the
        nearest of so many planes is taken where there are no targets, else the one of the highest
        rival.
        """
        part = self.task.pick(rows)
        x = x.detach().requires_grad_()
        logits = part.gradient_model(x)
        if not logits.requires_grad:
            raise ModelError(
                "victim's output",
                "does not depend on its input differentiably",
                "use a black-box attack",
            )
        is_adversarial = part.criterion(logits.detach())
        rivals = min(classes, logits.shape[1] - 1)
        if self.targets is not None or rivals < 2:
            value = part.objective(logits)
            (slope,) = torch.autograd.grad(value.sum(), x)
        else:
            value, slope = _nearest_plane(
                logits, x, part.objective.labels, rivals, is_adversarial, self.norm
            )
        self.queries[rows] += forward_count(part.gradient_model)
        gap = part.objective(logits.detach()).double()
        self.clean_gap[rows] = torch.where(self.clean_gap[rows].isnan(), gap, self.clean_gap[rows])
        self.update_best(rows, x.detach(), is_adversarial)
        return (
            value.detach().double(),
            torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0),
            is_adversarial,
        )

    def update_best(self, rows: Tensor, x: Tensor, is_adversarial: Tensor) -> None:
        """Keep points that have won and are nearer than those before."""
        far = lp_distance(x, self.x0[rows], self.norm)
        nearer = is_adversarial & (far < self.distance[rows])
        self.best[rows[nearer]], self.distance[rows[nearer]] = x[nearer], far[nearer]

    def finish(self, refine: int, levels: int | None) -> AttackResult:
        """Line search between clean and found images, judged by the victim; then the verdict on
        what is handed out."""
        sure = self._refined(refine)
        out = torch.where(per_sample(sure, self.x0), self.best, self.last)
        size = (
            float(lp_distance(self.x0, self.x0 * 0 + 1, self.norm).max()) + 1 if len(out) else 1.0
        )
        ball = LpBall(self.norm, size if self.eps is None else self.eps, levels)
        out = ball.quantized(ball.project(out, self.x0), self.x0)
        _, success = loss_and_success(
            self.task.model, out, self.task.objective, self.task.criterion
        )
        self.queries += forward_count(self.task.model)
        far = lp_distance(out, self.x0, self.norm).to(torch.float32)
        return AttackResult(torch.empty_like(self.images).copy_(out), success, far, self.queries)

    def _refined(self, refine: int) -> Tensor:
        """Move each find along its line to the boundary in ``refine`` forwards; returns which the
        victim confirms.

        The first look is at the find itself; while it is refused the search goes outwards. Then it
        is by turns false position and bisection.
        """
        rows = self.distance.isfinite().nonzero()[:, 0]
        sure = torch.zeros_like(self.distance, dtype=torch.bool)
        part, x0 = self.task.pick(rows), self.x0[rows]
        change = self.best[rows].double() - x0.double()
        low, low_gap = torch.zeros_like(self.distance[rows]), self.clean_gap[rows]
        high, high_gap = torch.ones_like(low), torch.zeros_like(low)
        at = high
        for turn in range(refine if len(rows) else 0):
            x = (x0.double() + per_sample(at, x0) * change).clamp(0, 1).to(x0.dtype)
            gap, is_adversarial = loss_and_success(part.model, x, part.objective, part.criterion)
            self.queries[rows] += forward_count(part.model)
            self.distance[rows[is_adversarial & ~sure[rows]]] = (
                torch.inf
            )  # until here it was the copy's word
            self.update_best(rows, x, is_adversarial)
            sure[rows] |= is_adversarial
            low, low_gap = (
                torch.where(is_adversarial, low, at),
                torch.where(is_adversarial, low_gap, gap.double()),
            )
            high, high_gap = (
                torch.where(is_adversarial, at, high),
                torch.where(is_adversarial, gap.double(), high_gap),
            )
            at = torch.where(
                sure[rows], _between(low, low_gap, high, high_gap, turn), 3 * at - 1.98
            )
        return sure


def _between(low: Tensor, low_gap: Tensor, high: Tensor, high_gap: Tensor, turn: int) -> Tensor:
    """Where to look next: a little beyond the zero of the line through both gaps, or halfway in odd
    turns."""
    zero = low + (high - low) * (low_gap / (low_gap - high_gap).clamp_min(1e-30) + 0.002)
    usable = zero.isfinite() & (zero > low) & (zero < high) & (turn % 2 == 0)
    return torch.where(usable, zero, (low + high) / 2)


def _nearest_plane(
    logits: Tensor, x: Tensor, labels: Tensor, rivals: int, is_adversarial: Tensor, norm: Norm
) -> tuple[Tensor, Tensor]:
    """Margin to a rival and its slope: of the rival whose plane is nearest, or of the leader where
    it has won."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    own = wide.gather(1, labels[:, None])
    others = wide.detach().scatter(1, labels[:, None], -torch.inf).topk(rivals, 1).indices
    gaps = own - wide.gather(1, others)
    best_far = torch.full_like(gaps[:, 0], torch.inf).detach()
    value, slope = torch.zeros_like(best_far), torch.zeros_like(x)
    for i in range(rivals):
        (way,) = torch.autograd.grad(gaps[:, i].sum(), x, retain_graph=i + 1 < rivals)
        dual: Norm = {"linf": "l1", "l2": "l2", "l1": "linf"}[norm]  # type: ignore[assignment]
        far = gaps[:, i].detach().abs() / change_length(way, dual).to(value).clamp_min(1e-30)
        nearer = (far < best_far) & (~is_adversarial | (i == 0))
        best_far, value = (
            torch.where(nearer, far, best_far),
            torch.where(nearer, gaps[:, i].detach(), value),
        )
        slope = torch.where(per_sample(nearer, x), way, slope)
    return value, slope.detach()


def change_length(change: Tensor, norm: Norm) -> Tensor:
    """Length (b,) of a change in a norm, float64."""
    return lp_distance(change.detach(), torch.zeros_like(change), norm)
