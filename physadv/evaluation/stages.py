"""Attacks in a row, each on what the ones before left whole; every verdict is the model's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier, frozen_eval
from physadv.attacks._fused_model import FusedModel, Speed, gradient_model_for
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import OptionError
from physadv.threat.constraints import LpBall
from physadv.threat.criteria import Misclassification, success_criterion
from physadv.threat.losses import dlr_loss

CLEAN = "clean"
"""Stage 0: what the model says of the clean images. What it misreads is attacked no further."""
Family = Literal["white", "black"]


@dataclass(frozen=True)
class StageInput:
    """What a stage gets: images (b, c, h, w) still whole, their labels, the threat, and how near
    each came to breaking.

    ``stepper`` is the model or a faster copy of it. ``index`` (b,) numbers the samples, for random
    starts that do not depend on the batch. ``near`` (b,) is the lowest scale-free margin (DLR) that
    any stage so far reached; 0 would be broken. ``targets`` (b,), if any, are the classes wanted.
    """

    model: Classifier
    gradient_model: Classifier
    images: Tensor
    labels: Tensor
    ball: LpBall
    seed: int
    index: Tensor
    near: Tensor
    targets: Tensor | None = None

    @property
    def speed(self) -> Speed | FusedModel:
        """The stepper as the attacks take it."""
        return self.gradient_model if isinstance(self.gradient_model, FusedModel) else "plain"

    def pick(self, rows: Tensor) -> StageInput:
        """The same for a part of the samples."""
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            index=self.index[rows],
            near=self.near[rows],
            targets=None if self.targets is None else self.targets[rows],
        )


@dataclass(frozen=True)
class AttackStage:
    """One attack of a plan: its name, its family, and how it is run."""

    name: str
    family: Family
    run: Callable[[StageInput], AttackResult]


@dataclass(frozen=True)
class StageOutcome:
    """What one stage did: images and whether the model misreads them (b,), for the samples
    ``rows`` it was shown.

    ``forwards`` counts images that the model or its faster copy was asked about.
    """

    stage: str
    rows: Tensor
    images: Tensor
    broken: Tensor
    near: Tensor
    forwards: int


def sample_verdicts(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    ball: LpBall,
    plan: Sequence[AttackStage],
    speed: Speed | FusedModel = "fold",
    seed: int = 0,
    targets: Tensor | None = None,
    index: Tensor | None = None,
    near: Tensor | None = None,
    done: Sequence[str] = (),
) -> Iterator[StageOutcome]:
    """The stages one by one, so that the caller can save what each found; ``clean`` comes first.

    To go on with a batch, give the images still whole, their ``near``, and the names of the stages
    ``done``. With ``targets`` a sample is broken where the model sees its target. Raises
    OptionError for an empty plan.
    """
    if not plan:
        raise OptionError("a plan of 0 stages", "at least one attack is needed", "name one")
    unbroken = torch.arange(len(images), device=images.device)
    index = unbroken if index is None else index.to(images.device)
    near = (
        torch.full((len(images),), torch.inf, device=images.device)
        if near is None
        else near.to(images.device)
    )
    with frozen_eval(model):
        case, ready = (
            StageInput(model, model, images, labels, ball, seed, index, near, targets),
            False,
        )
        for stage in (AttackStage(CLEAN, "white", _untouched), *plan):
            if stage.name in done or not len(unbroken):
                continue
            if stage.name != CLEAN and not ready:
                case, ready = (
                    replace(case, gradient_model=gradient_model_for(model, speed, case.images)),
                    True,
                )
            found = stage.run(case)
            verdict = _judge(case, stage.name, unbroken, found)
            yield verdict
            left = (~verdict.broken).nonzero()[:, 0]
            unbroken, case = unbroken[left], replace(case, near=verdict.near).pick(left)


def _untouched(case: StageInput) -> AttackResult:
    return AttackResult(case.images, torch.zeros(len(case.images), dtype=torch.bool))


@torch.no_grad()
def _judge(case: StageInput, stage: str, rows: Tensor, found: AttackResult) -> StageOutcome:
    """Ask the model itself about the very images that are handed out."""
    images = found.images if stage == CLEAN else case.ball.quantized(found.images, case.images)
    logits = case.model(images)
    criterion = (
        Misclassification(case.labels)
        if stage == CLEAN
        else success_criterion(case.labels, case.targets)
    )
    closer = torch.minimum(case.near, dlr_loss(logits, case.labels).to(case.near))
    asked = len(rows) + (int(found.queries.sum()) if found.queries is not None else 0)
    return StageOutcome(stage, rows, images, criterion(logits), closer, asked)


@dataclass
class BestFound:
    """The image of each sample over several runs of one stage: one that is broken, else the latest."""

    case: StageInput
    images: Tensor = field(init=False)
    success: Tensor = field(init=False)
    queries: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.images = self.case.images.clone()
        self.success = torch.zeros(len(self.images), dtype=torch.bool, device=self.images.device)
        self.queries = torch.zeros(len(self.images), dtype=torch.long, device=self.images.device)

    def unbroken(self) -> Tensor:
        """Samples not broken yet."""
        return (~self.success).nonzero()[:, 0]

    def take(self, rows: Tensor, found: AttackResult) -> None:
        """Note what a run on ``rows`` found."""
        self.images[rows], self.success[rows] = found.images, found.success.to(self.success)
        if found.queries is not None:
            self.queries[rows] += found.queries.to(self.queries)

    def result(self) -> AttackResult:
        """All together."""
        return AttackResult(self.images, self.success, queries=self.queries)
