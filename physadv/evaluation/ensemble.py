"""An attack ensemble: APGD-CE, APGD-T, FAB-T and Square, cheapest first, each on unbroken samples.

After AutoAttack (Croce & Hein 2020). What makes it cheaper at no higher robust accuracy: samples
already broken are dropped at once, targets are tried in the order in which a linear model says they
lie near (as MALT, Melamed et al. 2024) and several at once where few samples are left, steps are
made on a folded copy of the model, and only close calls get FAB and the long runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier, check_batch
from physadv.attacks._fused_model import Speed
from physadv.attacks._inputs import open_inputs
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.auto_pgd import apgd
from physadv.attacks.decision_based import hopskipjump, rays
from physadv.attacks.fewest_pixels import sigma_zero
from physadv.attacks.geometric_decision import geoda
from physadv.attacks.gradient import Loss, pgd
from physadv.attacks.minimum_norm import fab
from physadv.attacks.pointwise_decision import pointwise
from physadv.attacks.score_based import square_attack
from physadv.attacks.sparse import sparse_search
from physadv.core.errors import OptionError
from physadv.evaluation.stages import (
    AttackStage,
    BestFound,
    StageInput,
    in_pixels,
    recorded_stage,
    sample_verdicts,
)
from physadv.threat.constraints import LpBall
from physadv.threat.norms import Norm

CLOSE = 0.3
"""Samples whose scale-free margin came below this get the long runs."""
FEW, MANY = 12, 100
"""Highest logits among which the nearest classes are looked for, a backward pass each: in short
runs, and in long ones, as MALT does."""
QUERIES = 5000
GIVE_UP = {
    200: (0.8, 0.0),
    500: (0.6, 0.08),
    1000: (0.4, 0.1),
    1500: (0.35, 0.08),
    2000: (0.3, 0.08),
    3000: (0.15, 0.08),
}
"""Queries of Square, as AutoAttack's. By a number of them: the scale-free margin above which a
sample is given up, unless Square brought it nearer than the gradients did, and the share of its
margin that must have gone since the number before. On most nets Square stands still after 200."""
DESCENDED = {200: 0.25, 500: 0.2, 1000: 0.15, 1500: 0.1, 2000: 0.08, 3000: 0.06}
"""By a number of Square's queries, the scale-free margin above which a sample is given up after the
descent from its point, which tells best whether more queries would break it."""
NEARER = 0.9
"""Share of the gradients' margin below which Square's shows that the gradients mislead."""
_SPARSE_RS = in_pixels(sparse_search)


@dataclass(frozen=True)
class EnsembleResult(AttackResult):
    """Result of the ensemble on a batch.

    Attributes:
        images: Images (b, c, h, w); a misclassified clean one comes back as it was.
        success: Whether (b,) the model misclassifies them, judged after the attack.
        loss: None; the stages have losses of their own.
        queries: None; see ``forwards``.
        findings: Reasons not to believe the success.
        broken_by: Name of the stage that broke each sample, "clean" for one that was wrong from the
            start, "" where none did.
        forwards: Images evaluated by the model or its faster copy.
    """

    broken_by: tuple[str, ...] = ()
    forwards: int = 0

    def __post_init__(self) -> None:
        # What the last judgment does not confirm has been broken by no stage.
        kept = zip(self.broken_by, self.success.tolist(), strict=True)
        object.__setattr__(self, "broken_by", tuple(name if won else "" for name, won in kept))


@open_inputs
def attack_ensemble(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    plan: Sequence[AttackStage] | None = None,
    levels: int | None = None,
    speed: Speed = "fold",
    seed: int = 0,
) -> EnsembleResult:
    """Attack a batch with several attacks in sequence.

    After AutoAttack (Croce & Hein 2020): each attack sees only the samples that earlier ones did
    not break. For a whole data set see :func:`physadv.evaluate`.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w) in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        eps: Radius of the ball, at least 0, in units of [0, 1]; in l_0 a number of pixels.
        norm: "linf", "l2", "l1" or "l0".
        plan: Attacks in order; None for :func:`standard_stages`.
        levels: Round the images to k / levels (255 for 8 bits), still within ``eps``.
        speed: "plain", "fold", "bf16", "auto" or "timed".
        seed: Seed of the attacks.

    Returns:
        Images, success, and what broke each sample.

    Raises:
        OptionError: The plan is empty, the norm is unknown, or ``eps`` is negative.
        ImageError: Images lie outside [0, 1].

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images = torch.rand(2, 3, 4, 4)
        >>> result = attack_ensemble(net, images, net(images).argmax(1), eps=0.1)
        >>> len(result.broken_by)
        2
    """
    check_batch(images, labels)
    plan = standard_stages(norm) if plan is None else plan
    result, success = (
        images.detach().clone(),
        torch.zeros(len(images), dtype=torch.bool, device=images.device),
    )
    broken_by, forwards = [""] * len(images), 0
    ball = LpBall(norm, eps, levels)
    for verdict in sample_verdicts(
        model, images.detach(), labels, ball=ball, plan=plan, speed=speed, seed=seed
    ):
        rows = verdict.rows[verdict.broken]
        result[rows], success[rows] = verdict.images[verdict.broken], True
        for row in rows.tolist():
            broken_by[row] = verdict.stage
        forwards += verdict.forwards

    return EnsembleResult(result, success, broken_by=tuple(broken_by), forwards=forwards)


def standard_stages(norm: Norm = "linf") -> list[AttackStage]:
    """Return the attacks of :func:`attack_ensemble` in ``norm``: those of AutoAttack, short for all
    samples, long for close calls; in l_0 PGD_0, sigma-zero and Sparse-RS."""
    if norm == "l0":
        return [
            recorded_stage("pgd-ce", "white", _pgd_l0, loss="ce", steps=20),
            recorded_stage("pgd-margin", "white", _pgd_l0, loss="margin", steps=60),
            recorded_stage("sigma-zero", "white", _sigma_zero, attack=sigma_zero),
            recorded_stage("sparse-rs", "black", _asked, attack=_SPARSE_RS, queries=1000),
        ]
    return [
        recorded_stage("apgd-ce", "white", _apgd, loss="ce", steps=10),
        recorded_stage("apgd-t", "white", apgd_targeted, count=3, steps=20),
        recorded_stage("fab-t", "white", _short_fab, below=CLOSE, count=2, steps=24),
        recorded_stage("apgd-long", "white", _long, below=CLOSE, candidates=MANY),
        recorded_stage(
            "square",
            "black",
            _square,
            queries=QUERIES,
            give_up=GIVE_UP,
            nearer_than=NEARER,
            descended=DESCENDED,
        ),
    ]


def quick_stages(norm: Norm = "linf") -> list[AttackStage]:
    """Return the gradient attacks in ``norm`` that are short, for the curve over epsilon: two, in
    l_0 sigma-zero too, without which pixels that differ in worth by little are missed."""
    return standard_stages(norm)[: 3 if norm == "l0" else 2]


def score_based_stages(norm: Norm = "linf") -> list[AttackStage]:
    """Return the attacks in ``norm`` on a model without gradients, by its scores and its labels."""
    if norm == "l0":
        return [recorded_stage("sparse-rs", "black", _asked, attack=_SPARSE_RS, queries=5000)]
    plan = [recorded_stage("square", "black", _asked, attack=square_attack, queries=5000)]
    if norm == "linf":
        plan.append(recorded_stage("rays", "black", _rays, attack=rays))
    return plan


def decision_stages(norm: Norm = "linf") -> list[AttackStage]:
    """Return the attacks in ``norm`` on a model that answers with classes alone."""
    if norm == "l0":
        attack = in_pixels(pointwise)
        return [recorded_stage("pointwise", "black", _asked, attack=attack, queries=5000)]
    if norm == "l1":
        return [recorded_stage("geoda", "black", _asked, attack=geoda, queries=5000)]
    rays_first = [recorded_stage("rays", "black", _rays, attack=rays)] if norm == "linf" else []
    return [*rays_first, recorded_stage("hopskipjump", "black", _asked, attack=hopskipjump)]


def plan_record(norm: Norm, plan: Sequence[AttackStage] = ()) -> dict[str, Any]:
    """Return the settings of the stages of a plan, for the record of a run.

    Args:
        norm: Norm of the threat.
        plan: Attacks in order; none for those that an evaluation chooses by what the model gives.

    Returns:
        By the name of each stage its settings; without a plan, by each that may be chosen.

    Example:
        >>> plan_record("l0")["sparse-rs"]["queries"]
        1000
    """
    plans: dict[str, Sequence[AttackStage]] = {"": plan}
    if not plan:
        plans = {"": standard_stages(norm), "scores ": score_based_stages(norm)}
        plans["classes "] = decision_stages(norm)
        plans["curve "] = quick_stages(norm)
    return {
        what + stage.name: dict(stage.settings)
        for what, stages in plans.items()
        for stage in stages
    }


AUTOATTACK_NAMES = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
"""Attacks that :func:`autoattack_stage` knows."""


def autoattack_stage(name: str, norm: Norm, *, restarts: int = 1) -> AttackStage:
    """Return an attack of AutoAttack with that package's own budget, on all samples.

    Args:
        name: One of ``AUTOATTACK_NAMES``; "-t" goes towards the 9 nearest classes (APGD in l_1: 5).
        norm: Norm of the threat.
        restarts: Random starts of "apgd-ce" and "apgd-dlr".

    Returns:
        The stage: 100 steps, or 5,000 queries of Square.

    Raises:
        OptionError: The name is unknown.

    Example:
        >>> autoattack_stage("apgd-t", "linf").family
        'white'
    """
    if name not in AUTOATTACK_NAMES:
        known = ", ".join(AUTOATTACK_NAMES)
        raise OptionError(f"attack {name!r}", f"one of {known}", "Choose one of these")
    if name == "square":
        return recorded_stage(name, "black", _asked, attack=square_attack, queries=5000)

    near = 5 if norm == "l1" else 9
    runs: dict[str, Callable[[StageInput], AttackResult]] = {
        "apgd-ce": partial(_apgd, loss="ce", steps=100, restarts=restarts),
        "apgd-dlr": partial(_apgd, loss="dlr", steps=100, restarts=restarts),
        "apgd-t": partial(apgd_targeted, count=near, steps=100, candidates=MANY),
        "fab": _fab,
        "fab-t": partial(fab_targeted, count=9, steps=200),
    }
    return recorded_stage(name, "white", runs[name])


def _asked(case: StageInput, *, attack: Callable[..., AttackResult], **budget: Any) -> AttackResult:
    """Run a black-box attack within the threat of its case."""
    return attack(
        case.gradient_model,
        case.images,
        case.labels,
        eps=case.ball.eps,
        norm=case.ball.norm,
        seed=case.seed,
        **budget,
    )


def _pgd_l0(case: StageInput, loss: Loss, steps: int) -> AttackResult:
    return pgd(
        case.model,
        case.images,
        case.labels,
        eps=case.ball.eps,
        norm="l0",
        steps=steps,
        loss=loss,
        levels=case.ball.levels,
        speed=case.speed,
        seed=case.seed,
        index=case.index,
    )


def _sigma_zero(case: StageInput, attack: Callable[..., AttackResult]) -> AttackResult:
    return attack(
        case.model,
        case.images,
        case.labels,
        eps=case.ball.eps,
        levels=case.ball.levels,
        speed=case.speed,
    )


def _apgd(
    case: StageInput,
    loss: Loss,
    steps: int,
    targets: Tensor | None = None,
    restarts: int = 1,
    starts: Tensor | None = None,
) -> AttackResult:
    return apgd(
        case.model,
        case.images,
        case.labels,
        eps=case.ball.eps,
        norm=case.ball.norm,
        steps=steps,
        loss=loss,
        targets=targets,
        any_class=targets is not None,
        restarts=restarts,
        starts=starts,
        levels=case.ball.levels,
        seed=case.seed,
        speed=case.speed,
        index=case.index,
    )


def _short_fab(case: StageInput, below: float, count: int, steps: int) -> AttackResult:
    """FAB-T on close calls; of two classes, on all samples."""
    below = below if _classes(case) > 2 else torch.inf
    return close_calls(case, below, partial(fab_targeted, count=count, steps=steps))


def _long(
    case: StageInput,
    below: float,
    candidates: int,
    steps: int = 100,
    count: int = 9,
    first_steps: int = 25,
    best: int = 3,
) -> AttackResult:
    """On close calls: APGD of ``steps`` on cross-entropy; then ``first_steps`` towards each of
    ``count`` classes, and ``steps`` towards the ``best`` that these brought nearest."""

    def run(part: StageInput) -> AttackResult:
        kept = BestFound(part)
        kept.update(torch.arange(len(part.images)), _apgd(part, "ce", steps=steps))
        rows = kept.unbroken()
        if not len(rows):
            return kept.result()

        targets = nearest_classes(part.pick(rows), count, candidates)
        toward = partial(_toward, steps=first_steps)
        short, margins = _toward_each(part.pick(rows), targets, toward)
        kept.update(rows, short)
        left = ~short.success
        if bool(left.any()):
            nearest = targets.gather(1, margins.argsort(dim=1, stable=True))[left, :best]
            last = _toward_each(part.pick(rows[left]), nearest, partial(_toward, steps=steps))[0]
            kept.update(rows[left], last)
        return kept.result()

    return close_calls(case, below, run)


def _toward(case: StageInput, targets: Tensor, steps: int) -> AttackResult:
    return _apgd(case, "dlr", steps, targets)


def _square(
    case: StageInput,
    queries: int,
    give_up: Mapping[int, tuple[float, float]],
    nearer_than: float,
    descended: Mapping[int, float],
    descent_steps: int = 30,
    ahead: int = 64,
) -> AttackResult:
    """Square, which needs no gradient, for as long as it brings a sample nearer to breaking; from
    where it has come to, gradients lead on that mislead at the start."""

    def descend(rows: Tensor, points: Tensor) -> AttackResult:
        return _apgd(case.pick(rows), "margin", descent_steps, starts=points)

    infinite = torch.full_like(case.near, torch.inf)
    nearer = nearer_than * case.near if _classes(case) > 2 else infinite
    limits = {n: (nearer.clamp_min(margin), gone) for n, (margin, gone) in give_up.items()}
    return _asked(
        case,
        attack=square_attack,
        queries=queries,
        give_up=limits,
        descend=descend,
        descended=descended if _classes(case) > 2 else {},
        ahead=ahead,
    )


@torch.no_grad()
def _classes(case: StageInput) -> int:
    """Number of classes; of two, margins have a scale."""
    return case.gradient_model(case.images[:1]).shape[1]


def _rays(case: StageInput, attack: Callable[..., AttackResult]) -> AttackResult:
    return attack(case.gradient_model, case.images, case.labels, eps=case.ball.eps)


def apgd_targeted(
    case: StageInput, *, count: int, steps: int, candidates: int = FEW
) -> AttackResult:
    """Run APGD on the targeted DLR loss towards the nearest classes, one after the other.

    Args:
        case: Samples of the stage.
        count: Number of classes.
        steps: Steps towards each.
        candidates: Number of highest logits among which the nearest are looked for.

    Returns:
        The result on all samples.
    """
    targets = nearest_classes(case, count, candidates)
    return _toward_each(case, targets, partial(_toward, steps=steps))[0]


def fab_targeted(case: StageInput, *, count: int, steps: int) -> AttackResult:
    """Run FAB towards the nearest classes, one after the other.

    Args:
        case: Samples of the stage.
        count: Number of classes.
        steps: Steps towards each.

    Returns:
        The result on all samples.
    """
    targets = nearest_classes(case, count)
    return _toward_each(case, targets, lambda part, column: _fab(part, steps, column))[0]


def _fab(case: StageInput, steps: int = 200, targets: Tensor | None = None) -> AttackResult:
    return fab(
        case.model,
        case.images,
        case.labels,
        eps=case.ball.eps,
        norm=case.ball.norm,
        steps=steps,
        targets=targets,
        levels=case.ball.levels,
        speed=case.speed,
    )


def _toward_each(
    case: StageInput, targets: Tensor, run: Callable[[StageInput, Tensor], AttackResult]
) -> tuple[AttackResult, Tensor]:
    """Run towards the targets of each sample in turn, as many at once as there is room for; a
    target reached is a class that is not the true one, so it counts.

    Args:
        case: Samples of the stage.
        targets: Classes (b, count), the first one first.
        run: The attack, on samples with a target each.

    Returns:
        The result on all samples, and by how much (b, count) each target's logit stayed below the
        true one's; infinite where it was not tried.
    """
    kept, first = BestFound(case), 0
    margins = torch.full(targets.shape, torch.inf, device=targets.device)
    while first < targets.shape[1]:
        rows = kept.unbroken()
        if not len(rows):
            break
        last = min(first + max(1, case.room // len(rows)), targets.shape[1])
        columns = torch.arange(first, last, device=rows.device).repeat_interleave(len(rows))
        tried = rows.repeat(last - first)
        part, aims = case.pick(tried), targets[tried, columns]
        result = run(part, aims)
        margins[tried, columns] = _target_margins(part, result.images, aims).to(margins)
        kept.update(rows, result)
        first = last
    return kept.result(), margins


@torch.no_grad()
def _target_margins(case: StageInput, images: Tensor, targets: Tensor) -> Tensor:
    """Return by how much (b,) the true class's logit is above the target's."""
    logits = case.gradient_model(images)
    own, aim = (logits.gather(1, classes[:, None])[:, 0] for classes in (case.labels, targets))
    return own - aim


def close_calls(
    case: StageInput, below: float, run: Callable[[StageInput], AttackResult]
) -> AttackResult:
    """Run an attack on the samples that came near to breaking; others come back as they are.

    Args:
        case: Samples of the stage.
        below: Scale-free margin under which a sample counts as near.
        run: The attack.

    Returns:
        The result on all samples.
    """
    kept = BestFound(case)
    rows = (case.near < below).nonzero()[:, 0]
    if len(rows):
        kept.update(rows, run(case.pick(rows)))
    return kept.result()


def nearest_classes(case: StageInput, count: int, candidates: int = FEW) -> Tensor:
    """Return the classes whose boundary is nearest by a linear model: margin over gradient norm
    (MALT, Melamed et al. 2024).

    Args:
        case: Samples of the stage.
        count: Number of classes.
        candidates: Number of highest logits that are compared.

    Returns:
        Classes (b, count), nearest first; fewer columns where there are fewer classes.
    """
    x = case.images.detach().requires_grad_()
    with torch.enable_grad():
        logits = case.gradient_model(x)
        others = logits.detach().scatter(1, case.labels[:, None], -torch.inf)
        order = others.topk(min(candidates, logits.shape[1] - 1), 1).indices
        gaps = logits.gather(1, case.labels[:, None]) - logits.gather(1, order)
        dual = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}[case.ball.norm]
        ratios = []
        for column in gaps.T:
            (slope,) = torch.autograd.grad(column.sum(), x, retain_graph=True)
            steep = torch.linalg.vector_norm(slope.flatten(1), ord=dual, dim=1)
            ratios.append(column.detach() / steep.clamp_min(1e-12))

    near = torch.stack(ratios, 1).argsort(dim=1, stable=True)

    return order.gather(1, near)[:, :count]
