"""The one training loop: a generator of steps. A recipe, or a later defence, is only the part that differs.

Batches are asked for by their number, so that a run resumed after a kill goes on exactly where its last checkpoint
stood, without saved generator states.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from math import cos, pi
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.core.errors import DataError, OptionError
from physadv.core.files import atomic_path
from physadv.core.seeds import derive

Batch = tuple[Tensor, Tensor]
LossHook = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
"""(net in train mode, images, labels, step number) -> scalar loss; adversarial training replaces this alone."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. ``lr`` is the peak of a one-cycle schedule (linear up over ``warmup``, cosine down)."""

    epochs: int
    steps: int
    lr: float = 2e-3
    warmup: float = 0.15
    optimiser: str = "adamw"
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
            ("optimiser", self.optimiser, self.optimiser in ("adamw", "sgd")),
            ("precision", self.precision, self.precision in ("bf16", "fp32")),
        ):
            if not fits:
                raise OptionError(f"{name} {value}", "outside what the training loop takes", "see Schedule's docstring")

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.epochs * self.steps

    def rate(self, step: int) -> float:
        """The learning rate at ``step`` of ``total``."""
        rise = max(1.0, self.warmup * self.total)
        if step < rise:
            return self.lr * (step + 1) / (rise + 1)
        return self.lr * (0.001 + 0.999 * (1 + cos(pi * (step - rise) / max(1.0, self.total - rise))) / 2)


@dataclass(frozen=True)
class Step:
    """What the loop reports after each step; ``average`` is the averaged net, to be judged and saved."""

    number: int
    total: int
    epoch: int
    loss: float
    lr: float
    ends_epoch: bool
    average: nn.Module


def cross_entropy(net: nn.Module, images: Tensor, labels: Tensor, step: int) -> Tensor:
    """The plain loss, with a little label smoothing so that the logits stay calibrated enough to compare."""
    return F.cross_entropy(net(images).float(), labels, label_smoothing=0.05)


def train(
    net: nn.Module,
    batches: Callable[[int], Batch],
    schedule: Schedule,
    *,
    loss: LossHook = cross_entropy,
    checkpoint: Path | None = None,
    identity: str = "",
) -> Iterator[Step]:
    """Train ``net`` in place and yield a Step each; ``batches(step)`` gives the images and labels of that step.

    With ``checkpoint`` the state is saved there at each epoch's end, and an existing file of the same schedule and
    ``identity`` (whatever else decides the result: data, seed) is resumed; a finished run yields nothing more. Raises
    DataError for a checkpoint of another run, or when the loss is no longer finite.
    """
    mean = copy.deepcopy(net).eval().requires_grad_(False)
    optimiser = _optimiser(net, schedule)
    claim = {"schedule": asdict(schedule), "identity": identity}
    first = _resume(checkpoint, net, mean, optimiser, claim)
    for number in range(first, schedule.total):
        images, labels = batches(number)
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(number)
        value = _step(net, images, labels, number, optimiser, schedule, loss)
        update_average(mean, net, min(schedule.average, (1 + number) / (10 + number)))
        ends = (number + 1) % schedule.steps == 0
        if ends and checkpoint is not None:
            _save(checkpoint, net, mean, optimiser, claim, number + 1)
        yield Step(number + 1, schedule.total, number // schedule.steps + 1, value, schedule.rate(number), ends, mean)


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a net whose initial weights depend on ``seed`` alone; the global RNG is left as it was found."""
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


def _step(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    number: int,
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    loss: LossHook,
) -> float:
    net.train()
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=schedule.precision == "bf16"):
        value = loss(net, images, labels, number)
    if not torch.isfinite(value):
        met = f"loss {float(value.detach())} at step {number + 1}"
        raise DataError(met, "the training diverged", "lower the learning rate")
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(net.parameters(), schedule.clip)
    optimiser.step()
    return float(value.detach())


def _optimiser(net: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Weight decay for matrices and kernels only, not for biases and norms."""
    kernels = [p for p in net.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in net.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=schedule.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=schedule.lr)


def load_average(checkpoint: Path, net: nn.Module) -> nn.Module:
    """Put the averaged weights of a checkpoint into ``net`` and return it in eval mode. DataError as ``train``."""
    net.load_state_dict(_read(checkpoint)["mean"])
    return net.eval()


def _save(
    path: Path,
    net: nn.Module,
    mean: nn.Module,
    optimiser: torch.optim.Optimizer,
    claim: dict[str, Any],
    done: int,
) -> None:
    state = {
        "claim": claim,
        "done": done,
        "net": net.state_dict(),
        "mean": mean.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _resume(
    path: Path | None, net: nn.Module, mean: nn.Module, optimiser: torch.optim.Optimizer, claim: dict[str, Any]
) -> int:
    if path is None or not path.is_file():
        return 0
    state = _read(path)
    if state["claim"] != claim:
        raise DataError(f"{path}", "belongs to another run", "use the options it was begun with, or remove it")
    net.load_state_dict(state["net"])
    mean.load_state_dict(state["mean"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["done"])


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return {key: state[key] for key in ("claim", "done", "net", "mean", "optimiser")}
    except Exception as error:  # torch raises many kinds for a broken file
        raise DataError(f"{path}", "not a readable checkpoint", "remove it to start afresh") from error
