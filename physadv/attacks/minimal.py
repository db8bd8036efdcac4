"""Minimum-norm attacks: FAB, DeepFool and Carlini & Wagner's l_2 look for the nearest image the victim gets wrong.

All follow one contract. Without ``eps`` the result is the nearest adversarial image found, and ``loss`` its distance.
With ``eps`` an image counts as success only within that ball; what was found beyond it is projected onto it and judged
there, and samples drop out once broken. Points on a decision boundary are at the mercy of rounding, so the last
``refine`` of the steps are a line search judged by the victim itself, never by its faster copy. ``speed``, ``levels``,
``targets`` and the errors are as in :mod:`physadv.attacks.gradient`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from physadv.attacks.directions import spread
from physadv.attacks.fold import Prepared, Speed, stepper_of
from physadv.attacks.gradient import laid_out
from physadv.attacks.logits import Classifier, asks, check, judge, quiet, task_of
from physadv.attacks.planes import to_plane
from physadv.attacks.result import AttackResult
from physadv.core.errors import OptionError, VictimError
from physadv.threat.constraints import LpBall
from physadv.threat.projections import Norm, distance, known

_REFINE = 6


def fab(
    victim: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | None = None,
    norm: Norm = "linf",
    steps: int = 100,
    targets: Tensor | None = None,
    classes: int = 10,
    overshoot: float = 1.05,
    backward: float = 0.9,
    pull: float = 0.1,
    refine: int = _REFINE,
    levels: int | None = None,
    speed: Speed | Prepared = "fold",
) -> AttackResult:
    """Fast adaptive boundary attack (Croce & Hein 2020): steps to the linearised boundary, pulled to the clean image.

    Untargeted it takes the nearest of the planes to the ``classes`` classes with the highest logits, a backward pass
    each; towards ``targets`` (b,) one. ``backward`` is how far an adversarial point keeps of its change before the
    next step, ``pull`` the largest weight of the clean image's own projection. steps + 1 forwards a sample.
    """

    def move(x: Tensor, x0: Tensor, value: Tensor, slope: Tensor, won: Tensor) -> Tensor:
        share = spread(torch.where(won, backward, 1.0), x).double()
        base = x0.double() + share * (x.double() - x0.double())
        plane = value.double() + _inner(slope, base - x.double())
        own = value.double() + _inner(slope, x0.double() - x.double())
        step, own_step = to_plane(base, slope, plane, norm), to_plane(x0, slope, own, norm)
        length, own_length = _length(step, norm), _length(own_step, norm)
        weight = (length / (length + own_length).clamp_min(1e-30)).clamp(max=pull)
        weight = spread(weight, x)
        mixed = (1 - weight) * (base + overshoot * step) + weight * (x0.double() + overshoot * own_step)
        return mixed.clamp(0, 1).to(x.dtype)

    with quiet(victim):
        hunt = Hunt(victim, images, labels, targets, eps, norm, speed)
        return _search(hunt, steps, refine, classes, levels, move, once=False)


def deepfool(
    victim: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | None = None,
    norm: Norm = "l2",
    steps: int = 50,
    targets: Tensor | None = None,
    classes: int = 10,
    overshoot: float = 0.02,
    refine: int = _REFINE,
    levels: int | None = None,
    speed: Speed | Prepared = "fold",
) -> AttackResult:
    """DeepFool (Moosavi-Dezfooli et al. 2016): steps to the nearest linearised boundary until the class changes.

    Planes as in :func:`fab`, but without a pull; steps stay within [0, 1]. steps + 1 forwards a sample.
    """

    def move(x: Tensor, x0: Tensor, value: Tensor, slope: Tensor, won: Tensor) -> Tensor:
        step = (1 + overshoot) * to_plane(x, slope, value, norm)
        return (x.double() + step * spread(~won, x)).clamp(0, 1).to(x.dtype)

    with quiet(victim):
        hunt = Hunt(victim, images, labels, targets, eps, norm, speed)
        return _search(hunt, steps, refine, classes, levels, move, once=True)


def cw_l2(
    victim: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | None = None,
    searches: int = 5,
    steps: int = 100,
    rate: float = 0.02,
    weight: float = 1.0,
    confidence: float = 0.0,
    targets: Tensor | None = None,
    refine: int = _REFINE,
    levels: int | None = None,
    speed: Speed | Prepared = "fold",
) -> AttackResult:
    """Carlini & Wagner 2017 in l_2: Adam on squared distance + c * margin, with [0, 1] kept by a tanh.

    c starts at ``weight`` and is bisected for each sample over ``searches`` runs of ``steps`` steps. The margin is
    divided by its own gradient's scale at the clean image, so that logits of any scale meet the same c.
    searches * steps + refine + 1 forwards a sample.
    """
    if searches < 1 or steps < 1:
        raise OptionError(f"{searches} searches of {steps} steps", "at least 1 of each", "raise them")
    with quiet(victim):
        hunt = Hunt(victim, images, labels, targets, eps, "l2", speed)
        low, factor = torch.zeros_like(hunt.distance), torch.full_like(hunt.distance, weight)
        high, scale = torch.full_like(low, torch.inf), torch.zeros_like(low)
        for _ in range(searches):
            rows = hunt.open()
            if not len(rows):
                break
            won, scale = _cw_run(hunt, rows, factor[rows], scale, steps, rate, confidence)
            high[rows] = torch.where(won, factor[rows], high[rows])
            low[rows] = torch.where(won, low[rows], factor[rows])
            factor = torch.where(high.isinf(), factor * 10, (low + high) / 2)
        return hunt.finish(refine, levels)


def _cw_run(
    hunt: Hunt, rows: Tensor, factor: Tensor, scales: Tensor, steps: int, rate: float, confidence: float
) -> tuple[Tensor, Tensor]:
    """One run of Adam; returns which samples were ever adversarial, and the scale of every margin."""
    x0 = hunt.x0[rows].double()
    z = ((x0 * 2 - 1) * 0.999999).atanh()
    mean, square = torch.zeros_like(z), torch.zeros_like(z)
    ever = torch.zeros(len(rows), dtype=torch.bool, device=x0.device)
    for step in range(1, steps + 1):
        x = ((z.tanh() + 1) / 2).clamp(0, 1).to(hunt.x0.dtype)
        gap, slope, won = hunt.look(rows, x)
        ever = ever | won
        new = scales[rows] == 0
        scales[rows] = torch.where(new, _length(slope, "l2").clamp_min(1e-30), scales[rows])
        active = factor * (gap / scales[rows] + confidence > 0) / scales[rows]
        grad = spread(active, x) * slope.double() + 2 * (x.double() - x0)
        grad = grad * (1 - z.tanh().square()) / 2
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad * grad
        z = z - rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    return ever, scales


Move = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""From points, clean images, planes (value, slope) and what has won to the next points."""


def _search(
    hunt: Hunt, steps: int, refine: int, classes: int, levels: int | None, move: Move, once: bool
) -> AttackResult:
    """steps - refine moves of all samples still open, then the line search; with ``once`` the first find is enough."""
    if steps <= refine or refine < 1:
        raise OptionError(f"{steps} steps, {refine} of them to refine", "1 <= refine < steps", "raise steps")
    x, rows = hunt.x0, hunt.open()
    for _ in range(steps - refine):
        value, slope, won = hunt.look(rows, x, classes)
        x = move(x, hunt.x0[rows], value, slope, won)
        hunt.last[rows] = x
        left = ((~won) if once else hunt.distance[rows] > hunt.reach).nonzero()[:, 0]
        x, rows = x[left], rows[left]
        if not len(rows):
            break
    return hunt.finish(refine, levels)


class Hunt:
    """The nearest adversarial image of each sample so far, and the line search at the end."""

    def __init__(
        self,
        victim: Classifier,
        images: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        eps: float | None,
        norm: Norm,
        speed: Speed | Prepared,
    ) -> None:
        check(images, labels, targets)
        self.norm, self.eps, self.images, self.targets = known(norm), eps, images, targets
        self.reach = -1.0 if eps is None else LpBall(norm, eps).eps
        stepper = stepper_of(victim, speed, images)
        self.x0 = laid_out(images, stepper)
        self.task = task_of(victim, stepper, "margin", labels, targets)
        self.best, self.last = self.x0.clone(), self.x0.clone()
        self.distance = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
        self.clean_gap = torch.full_like(self.distance, torch.nan)
        self.queries = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def open(self) -> Tensor:
        """Samples for which nothing is found within reach: all, where the nearest image is asked for."""
        return (self.distance > self.reach).nonzero()[:, 0]

    def look(self, rows: Tensor, x: Tensor, classes: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Value (b,) and slope of each sample's nearest boundary, linearised at ``x``, and whether ``x`` has won.

        One forward pass. The value is positive where the attack has not won. With ``classes`` the nearest of so many
        planes is taken where there are no targets, else the one of the highest rival.
        """
        part = self.task.pick(rows)
        x = x.detach().requires_grad_()
        logits = part.stepper(x)
        if not logits.requires_grad:
            raise VictimError(
                "victim's output", "does not depend on its input differentiably", "use a black-box attack"
            )
        won = part.criterion(logits.detach())
        rivals = min(classes, logits.shape[1] - 1)
        if self.targets is not None or rivals < 2:
            value = part.objective(logits)
            (slope,) = torch.autograd.grad(value.sum(), x)
        else:
            value, slope = _nearest_plane(logits, x, part.objective.labels, rivals, won, self.norm)
        self.queries[rows] += asks(part.stepper)
        gap = part.objective(logits.detach()).double()
        self.clean_gap[rows] = torch.where(self.clean_gap[rows].isnan(), gap, self.clean_gap[rows])
        self.offer(rows, x.detach(), won)
        return value.detach().double(), torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0), won

    def offer(self, rows: Tensor, x: Tensor, won: Tensor) -> None:
        """Keep points that have won and are nearer than those before."""
        far = distance(x, self.x0[rows], self.norm)
        nearer = won & (far < self.distance[rows])
        self.best[rows[nearer]], self.distance[rows[nearer]] = x[nearer], far[nearer]

    def finish(self, refine: int, levels: int | None) -> AttackResult:
        """Line search between clean and found images, judged by the victim; then the verdict on what is handed out."""
        sure = self._refined(refine)
        out = torch.where(spread(sure, self.x0), self.best, self.last)
        size = float(distance(self.x0, self.x0 * 0 + 1, self.norm).max()) + 1 if len(out) else 1.0
        ball = LpBall(self.norm, size if self.eps is None else self.eps, levels)
        out = ball.legal(ball.project(out, self.x0), self.x0)
        _, success = judge(self.task.victim, out, self.task.objective, self.task.criterion)
        self.queries += asks(self.task.victim)
        far = distance(out, self.x0, self.norm).to(torch.float32)
        return AttackResult(torch.empty_like(self.images).copy_(out), success, far, self.queries)

    def _refined(self, refine: int) -> Tensor:
        """Move each find along its line to the boundary in ``refine`` forwards; returns which the victim confirms.

        The first look is at the find itself; while it is refused the search goes outwards. Then it is by turns false
        position and bisection.
        """
        rows = self.distance.isfinite().nonzero()[:, 0]
        sure = torch.zeros_like(self.distance, dtype=torch.bool)
        part, x0 = self.task.pick(rows), self.x0[rows]
        change = self.best[rows].double() - x0.double()
        low, low_gap = torch.zeros_like(self.distance[rows]), self.clean_gap[rows]
        high, high_gap = torch.ones_like(low), torch.zeros_like(low)
        at = high
        for turn in range(refine if len(rows) else 0):
            x = (x0.double() + spread(at, x0) * change).clamp(0, 1).to(x0.dtype)
            gap, won = judge(part.victim, x, part.objective, part.criterion)
            self.queries[rows] += asks(part.victim)
            self.distance[rows[won & ~sure[rows]]] = torch.inf  # until here it was the copy's word
            self.offer(rows, x, won)
            sure[rows] |= won
            low, low_gap = torch.where(won, low, at), torch.where(won, low_gap, gap.double())
            high, high_gap = torch.where(won, at, high), torch.where(won, gap.double(), high_gap)
            at = torch.where(sure[rows], _between(low, low_gap, high, high_gap, turn), 3 * at - 1.98)
        return sure


def _between(low: Tensor, low_gap: Tensor, high: Tensor, high_gap: Tensor, turn: int) -> Tensor:
    """Where to look next: a little beyond the zero of the line through both gaps, or halfway in odd turns."""
    zero = low + (high - low) * (low_gap / (low_gap - high_gap).clamp_min(1e-30) + 0.002)
    usable = zero.isfinite() & (zero > low) & (zero < high) & (turn % 2 == 0)
    return torch.where(usable, zero, (low + high) / 2)


def _nearest_plane(
    logits: Tensor, x: Tensor, labels: Tensor, rivals: int, won: Tensor, norm: Norm
) -> tuple[Tensor, Tensor]:
    """Margin to a rival and its slope: of the rival whose plane is nearest, or of the leader where it has won."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    own = wide.gather(1, labels[:, None])
    others = wide.detach().scatter(1, labels[:, None], -torch.inf).topk(rivals, 1).indices
    gaps = own - wide.gather(1, others)
    best_far = torch.full_like(gaps[:, 0], torch.inf).detach()
    value, slope = torch.zeros_like(best_far), torch.zeros_like(x)
    for i in range(rivals):
        (way,) = torch.autograd.grad(gaps[:, i].sum(), x, retain_graph=i + 1 < rivals)
        dual: Norm = {"linf": "l1", "l2": "l2", "l1": "linf"}[norm]  # type: ignore[assignment]
        far = gaps[:, i].detach().abs() / _length(way, dual).to(value).clamp_min(1e-30)
        nearer = (far < best_far) & (~won | (i == 0))
        best_far, value = torch.where(nearer, far, best_far), torch.where(nearer, gaps[:, i].detach(), value)
        slope = torch.where(spread(nearer, x), way, slope)
    return value, slope.detach()


def _length(change: Tensor, norm: Norm) -> Tensor:
    """Length (b,) of a change in a norm, float64."""
    return distance(change.detach(), torch.zeros_like(change), norm)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).flatten(1).sum(1)
