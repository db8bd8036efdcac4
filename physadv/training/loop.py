"""The one training loop: a generator of steps. A recipe gives the batches, a defense the loss; the
rest is here.

Batches are asked for by their number and a defense draws from a generator of its own step, so that
a run resumed after a kill goes on exactly where its last checkpoint stood, without saved generator
states.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import cos, inf, pi
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from physadv.core.errors import DataError, OptionError
from physadv.core.random_streams import derive, generator
from physadv.training.checkpoint import (
    Tensors,
    load_optimizer,
    load_training_state,
    optimizer_tensors,
    save_state,
)
from physadv.training.methods.base import (
    Metrics,
    StandardTraining,
    TrainingMethod,
    TrainingPosition,
    TrainingRun,
)

Batch = tuple[Tensor, Tensor]
FACTS = ("claim", "done", "history", "seconds")


@dataclass(frozen=True)
class TrainingSchedule:
    """How long and how fast. ``lr`` is the peak of a one-cycle schedule (linear up over ``warmup``,
    cosine down)."""

    epochs: int
    steps: int
    lr: float = 2e-3
    warmup: float = 0.15
    optimizer: str = "adamw"
    weight_decay: float = 0.02
    average: float = 0.998
    clip: float = 2.0
    precision: str = "bf16"

    def __post_init__(self) -> None:
        for name, value, fits in (
            ("epochs", self.epochs, self.epochs >= 1),
            ("steps an epoch", self.steps, self.steps >= 1),
            ("lr", self.lr, self.lr > 0),
            ("average", self.average, 0 <= self.average < 1),
            ("optimiser", self.optimizer, self.optimizer in ("adamw", "sgd")),
            ("precision", self.precision, self.precision in ("bf16", "fp32")),
        ):
            if not fits:
                raise OptionError(
                    f"{name} {value}",
                    "outside what the training loop takes",
                    "see Schedule's docstring",
                )

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.epochs * self.steps

    def rate(self, step: int) -> float:
        """The learning rate at ``step`` of ``total``."""
        rise = max(1.0, self.warmup * self.total)
        if step < rise:
            return self.lr * (step + 1) / (rise + 1)
        return self.lr * (
            0.001 + 0.999 * (1 + cos(pi * (step - rise) / max(1.0, self.total - rise))) / 2
        )


@dataclass(frozen=True)
class ValidationSchedule:
    """After each epoch ``judge`` measures the averaged net; the weights with the highest ``score``
    are kept as best.

    With ``patience`` the run ends once so many epochs brought nothing better. Epochs before the
    share ``after`` of the run are measured, not chosen: a defense still growing to its full
    strength is not yet what was asked for.
    """

    judge: Callable[[nn.Module], Metrics]
    score: str
    patience: int | None = None
    after: float = 0.0

    def scores(self, history: Sequence[Metrics], epochs: int) -> list[float]:
        """One score an epoch, -inf where it does not count."""
        return [
            h[self.score] if i + 1 > self.after * epochs else -inf for i, h in enumerate(history)
        ]

    def best(self, history: Sequence[Metrics], epochs: int) -> int:
        """The epoch (from 0) whose weights are best; of equals the latest."""
        scores = self.scores(history, epochs)
        return max(range(len(scores)), key=lambda i: (scores[i], i))

    def over(self, history: Sequence[Metrics], epochs: int) -> bool:
        """Whether patience has run out."""
        scores = self.scores(history, epochs)
        if self.patience is None or not scores or max(scores) == -inf:
            return False
        return len(scores) - 1 - scores.index(max(scores)) >= self.patience


@dataclass(frozen=True)
class TrainingStep:
    """What the loop reports after each step; ``average`` is the averaged net, to be judged and
    saved.

    ``metrics`` are the defense's and, at an epoch's end, the validation's; ``seconds`` is CPU time
    spent on training (without validation) since the run began.
    """

    number: int
    total: int
    epoch: int
    loss: float
    lr: float
    ends_epoch: bool
    average: nn.Module
    metrics: Metrics
    seconds: float


@dataclass
class _Progress:
    """What the checkpoint keeps beside the moving parts."""

    done: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    best: Tensors = field(default_factory=dict)


def train_model(
    net: nn.Module,
    batches: Callable[[int], Batch],
    schedule: TrainingSchedule,
    *,
    defense: TrainingMethod | None = None,
    seed: int = 0,
    validation: ValidationSchedule | None = None,
    checkpoint: Path | None = None,
    identity: str = "",
) -> Iterator[TrainingStep]:
    """Train ``net`` in place and yield a Step each; ``batches(number)`` gives images and labels.

    Without a ``defence`` the plain loss with a little label smoothing is used, so that logits stay
    calibrated enough to compare. With ``checkpoint`` the state is saved there at each epoch's end,
    and an existing file of the same schedule, defense, seed and ``identity`` (whatever else decides
    the result) is resumed, to the bit; a finished run yields nothing more. Raises DataError for a
    checkpoint of another run, or when the loss is no longer finite.
    """
    defense = defense or StandardTraining(0.05)
    defense.begin(net, generator(seed, "begin"))
    run = TrainingRun(
        net, copy.deepcopy(net).eval().requires_grad_(False), _optimizer(net, schedule)
    )
    claim = {"schedule": asdict(schedule), **defense.settings(), "seed": seed, "identity": identity}
    claim = json.loads(json.dumps(claim))  # as it will be read back: tuples are lists
    progress = _resume(checkpoint, run, defense, claim)
    for number in range(progress.done, schedule.total):
        if validation is not None and validation.over(progress.history, schedule.epochs):
            return
        begun = time.process_time()
        at = TrainingPosition(number, schedule.total, generator(seed, "defence", number))
        for group in run.optimizer.param_groups:
            group["lr"] = schedule.rate(number)
        metrics = dict(defense.watch(run, at))
        value, found = _step(
            net, batches(number // defense.repeats), at, run.optimizer, schedule, defense
        )
        metrics |= found
        update_average(run.mean, net, min(schedule.average, (1 + number) / (10 + number)))
        progress.seconds += time.process_time() - begun
        progress.done, ends = number + 1, (number + 1) % schedule.steps == 0
        if ends:
            if validation is not None:
                metrics |= _validate(validation, run.mean, progress, schedule.epochs)
            if checkpoint is not None:
                _save(checkpoint, run, defense, progress, claim)
        yield TrainingStep(
            number + 1,
            schedule.total,
            number // schedule.steps + 1,
            value,
            schedule.rate(number),
            ends,
            run.mean,
            metrics,
            progress.seconds,
        )


def seed_all(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a net whose initial weights depend on ``seed`` alone; the global RNG is left as it was
    found."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        return build()


@torch.no_grad()
def update_average(mean: nn.Module, net: nn.Module, keep: float) -> None:
    """Exponential moving average of weights and of batch statistics (Polyak and Juditsky 1992)."""
    latest = net.state_dict()
    for name, value in mean.state_dict().items():
        if value.is_floating_point():
            value.lerp_(latest[name].to(value.dtype), 1 - keep)
        else:
            value.copy_(latest[name])


def load_average(checkpoint: Path, net: nn.Module, *, best: bool = False) -> nn.Module:
    """Put the averaged weights of a checkpoint into ``net`` and return it in eval mode. DataError
    as ``train``.

    With ``best`` they are those of the epoch that validation chose, where there was one.
    """
    groups, _ = load_training_state(checkpoint, facts=FACTS)
    net.load_state_dict(groups["best"] if best and "best" in groups else groups["mean"])
    return net.eval()


def read_progress(checkpoint: Path) -> Mapping[str, Any]:
    """``done`` steps, the ``history`` of validations, CPU ``seconds`` and the ``claim`` of a
    checkpoint."""
    return load_training_state(checkpoint, facts=FACTS)[1]


def _step(
    net: nn.Module,
    batch: Batch,
    at: TrainingPosition,
    optimizer: torch.optim.Optimizer,
    schedule: TrainingSchedule,
    defense: TrainingMethod,
) -> tuple[float, Metrics]:
    net.train()
    optimizer.zero_grad(set_to_none=True)
    images, labels = batch
    with torch.autocast(images.device.type, torch.bfloat16, enabled=schedule.precision == "bf16"):
        loss, metrics = defense.loss(net, images, labels, at)
    if not torch.isfinite(loss):
        met = f"loss {float(loss.detach())} at step {at.step + 1}"
        raise DataError(met, "the training diverged", "lower the learning rate")
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(net.parameters(), schedule.clip)
    optimizer.step()
    return float(loss.detach()), metrics


def _validate(
    validation: ValidationSchedule, mean: nn.Module, progress: _Progress, epochs: int
) -> Metrics:
    found = dict(validation.judge(mean))
    progress.history.append(found)
    if validation.best(progress.history, epochs) == len(progress.history) - 1:
        progress.best = {key: value.clone() for key, value in mean.state_dict().items()}
    return found


def _optimizer(net: nn.Module, schedule: TrainingSchedule) -> torch.optim.Optimizer:
    """Weight decay for matrices and kernels only, not for biases and norms."""
    kernels = [p for p in net.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in net.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=schedule.lr)


def _save(
    path: Path,
    run: TrainingRun,
    defense: TrainingMethod,
    progress: _Progress,
    claim: dict[str, Any],
) -> None:
    groups = {
        "net": run.net.state_dict(),
        "mean": run.mean.state_dict(),
        "best": progress.best,
        "optimiser": optimizer_tensors(run.optimizer),
        "defence": defense.state(),
    }
    facts = {
        "claim": claim,
        "done": progress.done,
        "history": progress.history,
        "seconds": progress.seconds,
    }
    save_state(path, groups, facts)


def _resume(
    path: Path | None, run: TrainingRun, defense: TrainingMethod, claim: dict[str, Any]
) -> _Progress:
    if path is None or not path.is_file():
        return _Progress()
    groups, facts = load_training_state(path, facts=FACTS)
    if facts["claim"] != claim:
        raise DataError(
            f"{path}", "belongs to another run", "use the options it was begun with, or remove it"
        )
    run.net.load_state_dict(groups["net"])
    run.mean.load_state_dict(groups["mean"])
    load_optimizer(run.optimizer, groups.get("optimiser", {}))
    defense.load(groups.get("defence", {}))
    return _Progress(
        int(facts["done"]), facts["history"], float(facts["seconds"]), groups.get("best", {})
    )
