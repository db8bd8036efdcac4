"""The training loop: a generator of steps, given batches by a recipe and a loss by a training
method.

Batches are requested by number and a method draws from a generator of its own step, so that a run
resumed after a kill continues exactly from its last checkpoint, without saved generator states.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import cos, inf, pi
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from physadv.core.errors import DataError, OptionError, is_out_of_memory
from physadv.core.memory_limit import MemoryLimit
from physadv.core.process_group import ALONE, ProcessGroup, lost_processes
from physadv.core.random_streams import derive, generator
from physadv.training.batch_statistics import synchronized_batch_norm
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
from physadv.training.sharded_network import (
    NetworkOutline,
    as_sharded,
    restore_network,
    shard_network,
    whole_tensors,
)

Batch = tuple[Tensor, Tensor]
FACTS = ("claim", "done", "history", "seconds")


@dataclass(frozen=True)
class TrainingSchedule:
    """Length and speed of a training: a one-cycle learning rate, linear up and cosine down.

    Attributes:
        epochs: Epochs, at least 1.
        steps: Steps an epoch, at least 1.
        lr: Peak of the learning rate.
        warmup: Share of the run in which the learning rate rises.
        optimizer: "adamw" or "sgd".
        weight_decay: Weight decay of matrices and kernels.
        average: Decay of the weights' moving average, in [0, 1).
        clip: Largest norm of the gradient.
        precision: "bf16" or "fp32".

    Raises:
        OptionError: A number is out of range.
    """

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
                    "is outside what the training loop takes",
                    "See the ranges of TrainingSchedule",
                )

    @property
    def total(self) -> int:
        """Number of steps in all."""
        return self.epochs * self.steps

    def rate(self, step: int) -> float:
        """Return the learning rate at ``step`` of ``total``."""
        rise = max(1.0, self.warmup * self.total)
        if step < rise:
            return self.lr * (step + 1) / (rise + 1)
        return self.lr * (
            0.001 + 0.999 * (1 + cos(pi * (step - rise) / max(1.0, self.total - rise))) / 2
        )


@dataclass(frozen=True)
class ValidationSchedule:
    """Validation after each epoch, selection of the best weights, and early stopping.

    Attributes:
        judge: Measures the averaged network.
        score: Metric whose highest value selects the weights.
        patience: Epochs without improvement that end the run; None for no end.
        after: Share of the run before which epochs are measured but not selected, for methods that
            grow to their full strength first.
    """

    judge: Callable[[nn.Module], Metrics]
    score: str
    patience: int | None = None
    after: float = 0.0

    def scores(self, history: Sequence[Metrics], epochs: int) -> list[float]:
        """Return one score for each epoch of ``history``, -inf where it does not count in a run of
        ``epochs``."""
        return [
            h[self.score] if i + 1 > self.after * epochs else -inf for i, h in enumerate(history)
        ]

    def best(self, history: Sequence[Metrics], epochs: int) -> int:
        """Return the epoch of ``history`` (from 0) with the best weights in a run of ``epochs``; of
        equals the latest."""
        scores = self.scores(history, epochs)
        return max(range(len(scores)), key=lambda i: (scores[i], i))

    def over(self, history: Sequence[Metrics], epochs: int) -> bool:
        """Return whether patience has run out after ``history`` in a run of ``epochs``."""
        scores = self.scores(history, epochs)
        if self.patience is None or not scores or max(scores) == -inf:
            return False
        return len(scores) - 1 - scores.index(max(scores)) >= self.patience


@dataclass(frozen=True)
class TrainingStep:
    """Report of one step.

    Attributes:
        number: Number of the step, from 1.
        total: Number of steps in all.
        epoch: Number of the epoch, from 1.
        loss: Loss of the batch.
        lr: Learning rate of the step.
        ends_epoch: Whether the epoch ends here.
        average: Averaged network, to be evaluated and saved.
        metrics: Metrics of the method and, at an epoch's end, of the validation.
        seconds: CPU time spent on training, without validation, since the run began.
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
    """State of a run that the checkpoint stores beside the tensors."""

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
    processes: ProcessGroup = ALONE,
    memory: MemoryLimit | None = None,
    fsdp: bool = False,
) -> Iterator[TrainingStep]:
    """Train a network in place and yield after each step.

    Several processes each take their share of every batch and add up their gradients, so that all
    hold the same weights, up to rounding those of one process. Where a process runs out of memory,
    it takes its images in parts whose gradients add up to the same.

    Args:
        net: Network to train.
        batches: Function of a number that returns images and labels of that batch.
        schedule: Length and speed.
        defense: Training method. By default cross-entropy with a little label smoothing, so that
            logits stay calibrated enough to compare.
        seed: Seed of the method's draws.
        validation: Validation after each epoch.
        checkpoint: File that holds the state after each epoch. An existing file of the same
            schedule, method, seed and ``identity`` is resumed bit-identically; a finished run
            yields nothing more.
        identity: Text of everything else that decides the result.
        processes: Processes that train this network together, from the same weights and batches;
            the first one writes the checkpoint.
        memory: How many images memory holds at once, which the steps learn; None: a fresh one.
        fsdp: Whether several processes hold a shard each of weights, gradients, averages and
            moments, by PyTorch's FSDP; each gathers the averaged weights for the validation. The
            checkpoint is that of whole weights. Memory is not looked after then.

    Yields:
        The step.

    Raises:
        DataError: The checkpoint is of another run, or the loss is no longer finite.
        OptionError: Several processes cannot share the batches of this method or network, or its
            weights.

    Example:
        >>> import torch
        >>> from physadv.training.loop import TrainingSchedule, train_model
        >>> images, labels = torch.rand(16, 2), torch.arange(16) % 2
        >>> net = torch.nn.Linear(2, 2)
        >>> schedule = TrainingSchedule(epochs=2, steps=3, precision="fp32")
        >>> [step.epoch for step in train_model(net, lambda number: (images, labels), schedule)]
        [1, 1, 1, 2, 2, 2]
    """
    defense = defense or StandardTraining(0.05)
    fsdp = fsdp and processes.count > 1
    _check_division(defense, processes, fsdp=fsdp)
    defense.begin(net, generator(seed, "begin"))
    processes.copy_from_first([*net.parameters(), *net.buffers()])
    mean = copy.deepcopy(net).eval().requires_grad_(False)
    outline = _shard(net, mean, processes) if fsdp else None
    run = TrainingRun(net, mean, _optimizer(net, schedule))

    claim = {"schedule": asdict(schedule), **defense.settings(), "seed": seed, "identity": identity}
    claim = json.loads(json.dumps(claim))  # as it will be read back: tuples become lists
    progress = _resume(checkpoint, run, defense, claim)
    memory = MemoryLimit() if memory is None else memory
    worker = _Worker(net, defense, schedule.precision, processes, memory, sharded=bool(outline))

    for number in range(progress.done, schedule.total):
        if validation is not None and validation.over(progress.history, schedule.epochs):
            return

        begun = time.process_time()
        at = TrainingPosition(number, schedule.total, generator(seed, "defence", number))
        for group in run.optimizer.param_groups:
            group["lr"] = schedule.rate(number)

        metrics = dict(defense.watch(run, at))
        batch = batches(number // defense.repeats)
        value, step_metrics = _step(worker, batch, at, run.optimizer, schedule)
        metrics |= step_metrics
        update_average(run.mean, net, min(schedule.average, (1 + number) / (10 + number)))

        progress.seconds += time.process_time() - begun
        progress.done, ends = number + 1, (number + 1) % schedule.steps == 0

        if ends:
            if validation is not None:
                judged = outline.filled(run.mean) if outline else run.mean
                metrics |= _validate(validation, judged, run.mean, progress, schedule.epochs)
            if checkpoint is not None:  # each of several processes knows a part
                groups = _state(run, defense, progress, keep=processes.is_first)
                if processes.is_first:
                    _save(checkpoint, groups, progress, claim)

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
    """Build a network whose initial weights depend on ``seed`` alone, by calling ``build`` under a
    seeded fork of the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        return build()


@torch.no_grad()
def update_average(mean: nn.Module, net: nn.Module, keep: float) -> None:
    """Update an exponential moving average of weights and batch statistics (Polyak and Juditsky
    1992).

    Args:
        mean: Averaged network, changed in place.
        net: Network in training.
        keep: Share of the old average to keep.
    """
    latest = net.state_dict()
    for name, value in mean.state_dict().items():
        if value.is_floating_point():
            value.lerp_(latest[name].to(value.dtype), 1 - keep)
        else:
            value.copy_(latest[name])


def load_average(checkpoint: Path, net: nn.Module, *, best: bool = False) -> nn.Module:
    """Load the averaged weights of a checkpoint and return the network in eval mode.

    Args:
        checkpoint: File that :func:`train_model` wrote.
        net: Network to load them into.
        best: Whether to load those of the best epoch, where validation selected one.

    Raises:
        DataError: The file is no such checkpoint.
    """
    groups, _ = load_training_state(checkpoint, facts=FACTS)
    net.load_state_dict(groups["best"] if best and "best" in groups else groups["mean"])
    return net.eval()


def read_progress(checkpoint: Path) -> Mapping[str, Any]:
    """Return ``done`` steps, the ``history`` of validations, CPU ``seconds`` and the ``claim`` of
    ``checkpoint``."""
    return load_training_state(checkpoint, facts=FACTS)[1]


def _with_draws(at: TrainingPosition, state: Tensor) -> TrainingPosition:
    """``at`` with a generator of its own in the given state."""
    source = torch.Generator()
    source.set_state(state)
    return replace(at, generator=source)


class _Loss:
    """The loss of a batch, in the precision of the schedule."""

    def __init__(self, net: nn.Module, defense: TrainingMethod, precision: str) -> None:
        self.net, self.defense, self.precision = net, defense, precision

    def __call__(
        self, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the loss and the metrics of the method."""
        kind, is_low = images.device.type, self.precision == "bf16"
        with (
            torch.autocast(kind, torch.bfloat16, enabled=is_low),
            synchronized_batch_norm(at.processes),
        ):
            return self.defense.loss(self.net, images, labels, at)


class _Worker:
    """Takes the gradients of batches: whole, in parts, or its share of several processes."""

    def __init__(
        self,
        net: nn.Module,
        defense: TrainingMethod,
        precision: str,
        processes: ProcessGroup,
        memory: MemoryLimit,
        *,
        sharded: bool = False,
    ) -> None:
        self.net, self.processes, self.memory, self.sharded = net, processes, memory, sharded
        normalized = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
        # Weights in shards are gathered at each pass, so that all must make the same ones.
        self.divides = defense.divisible and not normalized and not sharded
        self.loss = _Loss(net, defense, precision)

    def backward(self, batch: Batch, at: TrainingPosition) -> tuple[float, Metrics]:
        """Add the gradient of the loss of a whole ``batch``, ``at`` a position in the run, to the
        network's parameters; return the loss and the method's metrics."""
        count, draws = len(batch[0]), at.generator.get_state()
        if count < self.processes.count:
            self.processes.refuse_several(f"A batch of {count}", "Use a larger batch")
        rows = self.processes.share(count)
        own, ran_out = rows.stop - rows.start, False
        while True:
            size = min(self.memory.most or own, own) if self.divides else own
            try:
                value, metrics = self._in_parts(batch, rows, size, at, draws)
                break
            except Exception as error:  # memory's errors come from torch and Python itself
                if size == 1 or not self.divides or not is_out_of_memory(error):
                    raise
                ran_out = True
            self.net.zero_grad(set_to_none=True)
            self.memory.halve(size)
        return self._over_processes(value, ran_out), metrics

    def _over_processes(self, value: float, ran_out: bool) -> float:
        """Add up losses and gradients of all processes, once each has done its own, so that one
        that runs out of memory may take it in parts; then all take as little at once."""
        if self.processes.count == 1:
            return value
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        if self.sharded:  # added up already
            gradients = []
        told = torch.tensor([value, float(ran_out)], dtype=torch.float64)
        self.processes.add_up([*gradients, told])
        if told[1] > 0:
            known = self.processes.gather((self.memory.most, self.memory.first_failed))
            self.memory.most = min(most for most, _ in known if most is not None)
            self.memory.first_failed = max(failed for _, failed in known if failed is not None)
        return float(told[0])

    def _in_parts(
        self, batch: Batch, rows: slice, size: int, at: TrainingPosition, draws: Tensor
    ) -> tuple[float, Metrics]:
        """Add the gradient of the images ``rows`` of a batch, ``size`` at once, as their share of
        the batch's; return their share of the loss, and their metrics."""
        count, own = len(batch[0]), rows.stop - rows.start
        if size >= count:
            loss, metrics = self._checked(batch, rows, at)
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach()), metrics

        value, means = 0.0, dict[str, float]()
        for first in range(rows.start, rows.stop, size):
            part = slice(first, min(first + size, rows.stop))
            position = replace(
                _with_draws(at, draws), whole=batch, first=first, processes=self.processes
            )
            loss, metrics = self._checked(batch, part, position)
            length = part.stop - part.start
            (loss * (length / count)).backward()
            value += length / count * float(loss.detach())
            means = {k: means.get(k, 0.0) + length / own * v for k, v in metrics.items()}
        return value, {**means, "images_at_once": float(size)} if size < own else means

    def _checked(self, batch: Batch, rows: slice, at: TrainingPosition) -> tuple[Tensor, Metrics]:
        loss, metrics = self.loss(batch[0][rows], batch[1][rows], at)
        if not torch.isfinite(loss):
            raise DataError(
                f"loss {float(loss.detach())} at step {at.step + 1}",
                "the training diverged",
                "Lower the learning rate",
            )
        return loss, metrics


def _step(
    worker: _Worker,
    batch: Batch,
    at: TrainingPosition,
    optimizer: torch.optim.Optimizer,
    schedule: TrainingSchedule,
) -> tuple[float, Metrics]:
    net = worker.net
    net.train()
    optimizer.zero_grad(set_to_none=True)
    with lost_processes():
        value, metrics = worker.backward(batch, at)
        nn.utils.clip_grad_norm_(net.parameters(), schedule.clip)
    optimizer.step()
    return value, metrics


def _check_division(defense: TrainingMethod, processes: ProcessGroup, *, fsdp: bool) -> None:
    """Raise OptionError where several processes cannot share the method's batches or weights."""
    if not (defense.divisible or defense.synchronized):
        processes.refuse_several(
            f"Training with {type(defense).__name__}, which needs whole batches,"
        )
    if fsdp and not defense.shardable:
        raise OptionError(
            f"--fsdp with {type(defense).__name__}",
            "the method needs whole weights, or gradients of gradients",
            "Leave --fsdp out",
        )


def _shard(net: nn.Module, mean: nn.Module, processes: ProcessGroup) -> NetworkOutline:
    """Shard a network and its average; return the outline for whole copies of the average."""
    outline = NetworkOutline(mean)
    shard_network(net, processes)
    shard_network(mean, processes)
    return outline


def _validate(
    validation: ValidationSchedule,
    judged: nn.Module,
    mean: nn.Module,
    progress: _Progress,
    epochs: int,
) -> Metrics:
    """Measure ``judged``, a whole copy of ``mean`` or itself; keep ``mean`` where it is best."""
    metrics = dict(validation.judge(judged))
    progress.history.append(metrics)
    if validation.best(progress.history, epochs) == len(progress.history) - 1:
        progress.best = {key: value.clone() for key, value in mean.state_dict().items()}
    return metrics


def _optimizer(net: nn.Module, schedule: TrainingSchedule) -> torch.optim.Optimizer:
    """Return the optimizer, with weight decay for matrices and kernels only, not for biases and
    norms."""
    kernels = [p for p in net.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in net.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=schedule.lr)


def _state(
    run: TrainingRun, defense: TrainingMethod, progress: _Progress, *, keep: bool
) -> dict[str, Tensors]:
    """Return the whole tensors of a checkpoint, where this process is to ``keep`` them."""
    groups = {
        "net": run.net.state_dict(),
        "mean": run.mean.state_dict(),
        "best": progress.best,
        "optimiser": optimizer_tensors(run.optimizer),
        "defence": defense.state(),
    }
    return {name: whole_tensors(tensors, keep=keep) for name, tensors in groups.items()}


def _save(
    path: Path, groups: Mapping[str, Tensors], progress: _Progress, claim: dict[str, Any]
) -> None:
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
            f"{path}", "belongs to another run", "Use the options it was begun with, or remove it"
        )

    restore_network(run.net, groups["net"])
    restore_network(run.mean, groups["mean"])
    load_optimizer(run.optimizer, groups.get("optimiser", {}))
    defense.load(groups.get("defence", {}))
    own = run.mean.state_dict()
    best = {k: as_sharded(v, own[k]) if k in own else v for k, v in groups.get("best", {}).items()}
    return _Progress(int(facts["done"]), facts["history"], float(facts["seconds"]), best)
