"""Attacks in sequence; each gets only the samples that earlier ones did not break.

Success is measured on the original model, which stages get behind a guard: one that runs an attack
is judged here and not by the attack's own gate.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier, frozen_eval
from physadv.attacks._fused_model import (
    FusedModel,
    Speed,
    calls_of_copy,
    gradient_model_for,
)
from physadv.attacks._guarded_model import GuardedModel, guarded
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import OptionError
from physadv.core.memory_limit import MemoryLimit
from physadv.threat.constraints import LpBall
from physadv.threat.criteria import Misclassification, success_criterion
from physadv.threat.losses import dlr_loss

CLEAN = "clean"
"""Stage 0, the prediction on the clean images; misclassified ones are not attacked."""
Family = Literal["white", "black"]


def in_pixels(attack: Callable[..., AttackResult]) -> Callable[..., AttackResult]:
    """Return an attack on a number of pixels as one whose radius in l_0 is that number.

    Args:
        attack: Function that takes ``pixels``, such as
            :func:`physadv.attacks.sparse.sparse_search`.

    Returns:
        Function that takes ``eps`` in its place, and the one norm it knows.
    """
    return partial(_within_pixels, attack=attack)


def _within_pixels(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    attack: Callable[..., AttackResult],
    eps: float,
    norm: Literal["l0"] = "l0",
    **options: Any,
) -> AttackResult:
    return attack(model, images, labels, pixels=int(eps), **options)


@dataclass(frozen=True)
class StageInput:
    """Input of a stage: the samples that no stage has broken so far, and the threat.

    Args:
        model: Model under test, guarded.
        gradient_model: The model or a faster copy of it, to take gradients of.
        images: Clean images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        ball: Threat model.
        seed: Seed of the attacks.
        index: Numbers (b,) of the samples, so that random starts do not depend on the batch.
        near: Lowest scale-free margin (b,) (DLR) of any stage so far; 0 would be broken.
        targets: Target classes (b,) of a targeted evaluation.
        room: Number of images that may be attacked at once.
    """

    model: GuardedModel
    gradient_model: Classifier
    images: Tensor
    labels: Tensor
    ball: LpBall
    seed: int
    index: Tensor
    near: Tensor
    targets: Tensor | None = None
    room: int = 1

    @property
    def speed(self) -> Speed | FusedModel:
        """The gradient model, as the attacks take it."""
        return self.gradient_model if isinstance(self.gradient_model, FusedModel) else "plain"

    def pick(self, rows: Tensor) -> StageInput:
        """Return the input restricted to the samples ``rows``."""
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
    """One attack of a plan.

    Args:
        name: Its name.
        family: Whether it takes gradients.
        run: The function that runs it.
        divisible: Whether the samples of a batch have no part in each other's result, so that it
            may run on parts of a batch that memory does not hold.
        settings: Numbers and words that it runs with, recorded with a run, which another plan
            does not resume.
    """

    name: str
    family: Family
    run: Callable[[StageInput], AttackResult]
    divisible: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)


def recorded_stage(
    name: str, family: Family, run: Callable[..., AttackResult], **settings: Any
) -> AttackStage:
    """Return a stage that runs ``run(case, **settings)``, and whose record are these settings.

    Args:
        name: Its name.
        family: Whether it takes gradients.
        run: Function of the stage's input and ``settings``.
        **settings: Its settings; an attack among them is recorded with its own defaults.
    """
    bound = partial(run, **settings)
    return AttackStage(name, family, bound, settings=settings_of(bound))


def settings_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the settings that decide a function's result: bound ones and defaults, by name.

    Args:
        function: A function, or a ``functools.partial`` of one.

    Returns:
        Numbers, texts, and mappings of them; of a function among them its name and settings.

    Example:
        >>> settings_of(partial(round, ndigits=2))
        {'ndigits': 2}
    """
    bound = function.keywords if isinstance(function, partial) else {}
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return {name: _as_record(value) for name, value in {**defaults, **bound}.items()}


def _as_record(value: Any) -> Any:
    """A setting as JSON holds it, the same in each process."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, Mapping):
        return {str(key): _as_record(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_record(item) for item in value]
    if inspect.isroutine(value) or isinstance(value, partial):
        inner = value.func if isinstance(value, partial) else value
        return {"function": getattr(inner, "__name__", ""), **settings_of(value)}
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


@dataclass(frozen=True)
class StageOutcome:
    """Outcome of one stage.

    Args:
        stage: Name of the stage.
        rows: Samples (k,) that the stage attacked.
        images: Their images (k, c, h, w) after the stage.
        broken: Whether the model misclassifies them (k,).
        near: Lowest scale-free margin (k,) so far.
        passes: Forward passes (k,) that the stage took of each sample, its verdict included.
        gradients_of: What gradients were taken of, in words; empty where none were.
    """

    stage: str
    rows: Tensor
    images: Tensor
    broken: Tensor
    near: Tensor
    passes: Tensor
    gradients_of: str = ""

    @property
    def forwards(self) -> int:
        """Number of images evaluated by the model or its faster copy."""
        return int(self.passes.sum())


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
    memory: MemoryLimit | None = None,
) -> Iterator[StageOutcome]:
    """Run the stages one by one, the prediction on clean images first.

    A generator, so that the caller can record each outcome. To resume a batch, pass the images not
    yet broken, their ``near``, and the names of the stages ``done``.

    Args:
        model: Model under test.
        images: Clean images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        ball: Threat model.
        plan: Attacks in order, at least one.
        speed: "plain", "fold", "bf16", "auto", "timed", or a copy of the model, for gradients.
        seed: Seed of the attacks.
        targets: Target classes (b,); a sample is then broken where its target is predicted.
        index: Numbers (b,) of the samples; 0, 1, ... without it.
        near: Lowest scale-free margins (b,) of the stages done.
        done: Names of the stages to skip.
        memory: How many samples memory holds at once, where it was learned before. A stage whose
            samples it does not hold runs on parts of them.

    Yields:
        The outcome of each stage.

    Raises:
        OptionError: The plan is empty.
    """
    if not plan:
        raise OptionError("a plan of 0 stages", "at least one attack is needed", "Name one")

    unbroken = torch.arange(len(images), device=images.device)
    index = unbroken if index is None else index.to(images.device)
    if near is None:
        near = torch.full((len(images),), torch.inf, device=images.device)
    near = near.to(images.device)

    guard, memory = guarded(model), MemoryLimit() if memory is None else memory
    with frozen_eval(guard):
        case = StageInput(
            guard, guard, images, labels, ball, seed, index, near, targets, len(images)
        )
        has_gradient_model = False
        for stage in (AttackStage(CLEAN, "white", _unchanged), *plan):
            if stage.name in done or not len(unbroken):
                continue

            # The faster copy is checked on the images, so it is made once they are known.
            if stage.name != CLEAN and not has_gradient_model:
                faster = gradient_model_for(guard, speed, case.images)
                case, has_gradient_model = replace(case, gradient_model=faster), True

            calls = calls_of_copy(case.gradient_model)
            outcome = _in_parts(case, stage, unbroken, memory)
            if stage.name != CLEAN and stage.family == "white":
                of_copy = calls_of_copy(case.gradient_model) > calls
                ran = str(case.gradient_model) if of_copy else "the model itself"
                if guard.chosen_earlier and of_copy == (guard.fastest != "plain"):
                    ran += ", as chosen in an earlier run"
                outcome = replace(outcome, gradients_of=ran)
            yield outcome
            remaining = (~outcome.broken).nonzero()[:, 0]
            unbroken = unbroken[remaining]
            case = replace(case, near=outcome.near).pick(remaining)


def _unchanged(case: StageInput) -> AttackResult:
    return AttackResult(case.images, torch.zeros(len(case.images), dtype=torch.bool))


UNCHANGED = AttackStage("unchanged", "white", _unchanged)
"""The one stage within a radius of 0, which leaves nothing to attack."""


def _in_parts(
    case: StageInput, stage: AttackStage, rows: Tensor, memory: MemoryLimit
) -> StageOutcome:
    """Run a stage and evaluate its images, on parts where memory does not hold all at once."""

    def part(first: int, last: int) -> StageOutcome:
        chosen = torch.arange(first, last, device=rows.device)
        inner = case
        if last - first < len(rows):  # no more than memory holds
            inner = replace(case.pick(chosen), room=last - first)
        return _evaluate(inner, stage.name, rows[chosen], stage.run(inner))

    if not stage.divisible:
        return part(0, len(rows))
    outcomes = memory.run(len(rows), part)
    if len(outcomes) == 1:
        return outcomes[0]
    return StageOutcome(
        stage.name,
        rows,
        torch.cat([outcome.images for outcome in outcomes]),
        torch.cat([outcome.broken for outcome in outcomes]),
        torch.cat([outcome.near for outcome in outcomes]),
        torch.cat([outcome.passes for outcome in outcomes]),
    )


@torch.no_grad()
def _evaluate(case: StageInput, stage: str, rows: Tensor, result: AttackResult) -> StageOutcome:
    """Evaluate the model itself on exactly the images that are returned."""
    images, criterion = result.images, success_criterion(case.labels, case.targets)
    if stage == CLEAN:
        criterion = Misclassification(case.labels)
    else:
        images = case.ball.quantized(images, case.images)

    output = case.model.output(images)
    logits = case.model(images) if case.model.has_log_probabilities else output
    near = torch.minimum(case.near, dlr_loss(logits, case.labels).to(case.near))
    passes = torch.ones(len(rows), dtype=torch.int64)
    if result.queries is not None:
        passes += result.queries.to(passes)
    return StageOutcome(stage, rows, images, criterion(output), near, passes)


@dataclass
class BestFound:
    """Images of each sample over several runs of one stage: a broken one, else the latest.

    Args:
        case: Input of the stage.
    """

    case: StageInput
    images: Tensor = field(init=False)
    success: Tensor = field(init=False)
    queries: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.images = self.case.images.clone()
        self.success = torch.zeros(len(self.images), dtype=torch.bool, device=self.images.device)
        self.queries = torch.zeros(len(self.images), dtype=torch.long, device=self.images.device)

    def unbroken(self) -> Tensor:
        """Return the samples (k,) that no run has broken."""
        return (~self.success).nonzero()[:, 0]

    def update(self, rows: Tensor, result: AttackResult) -> None:
        """Record the ``result`` of a run on the samples ``rows``; or of several runs on all of
        them, one after the other, of which the first that breaks a sample counts."""
        for first in range(0, len(result.images), max(1, len(rows))):
            run = torch.arange(first, first + len(rows), device=rows.device)
            new = ~self.success[rows]
            self.images[rows[new]] = result.images[run[new]]
            self.success[rows[new]] = result.success[run[new]].to(self.success)
            if result.queries is not None:
                self.queries[rows] += result.queries[run.to(result.queries.device)].to(self.queries)

    def result(self) -> AttackResult:
        """Return the images of all runs together."""
        return AttackResult(self.images, self.success, queries=self.queries)
