"""Interface of a training method: a loss, and optionally a beginning, a guard and a state of its
own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from physadv.core.errors import OptionError
from physadv.core.process_group import ALONE, ProcessGroup

Metrics = Mapping[str, float]
Sampler = Callable[..., Tensor]
"""(shape, generator=) -> draws of that shape."""


@dataclass(frozen=True)
class TrainingPosition:
    """Position in a run: ``step`` of ``total``, from 0. ``generator`` (CPU) is this step's own.

    Where a batch is divided, ``whole`` is all of it, images and labels, and a loss is that of the
    images from number ``first`` on. Where ``processes`` divide it, each has one part.
    """

    step: int
    total: int
    generator: Generator
    whole: tuple[Tensor, Tensor] | None = None
    first: int = 0
    processes: ProcessGroup = ALONE

    def part(self, count: int) -> tuple[slice, int]:
        """Return which images of the whole batch the ``count`` at hand are, and how many it has."""
        size = count if self.whole is None else len(self.whole[0])
        return slice(self.first, self.first + count), size

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of the entries of ``values`` in all processes; gradients flow through
        it."""
        if self.processes.count == 1:
            return values.mean()
        own = torch.stack([values.sum(), values.new_tensor(float(values.numel()))])
        sums = self.processes.total(own)
        return sums[0] / sums[1]

    def draw(self, sample: Sampler, shape: Sequence[int], dim: int = 0) -> Tensor:
        """Draw what a batch needs at random; a part of a batch gets its part of the same draws.

        Args:
            sample: Function such as ``torch.rand``.
            shape: Shape of the draws.
            dim: Its dimension that counts the images.

        Returns:
            Draws of that shape, on the CPU.
        """
        if self.whole is None:
            return sample(tuple(shape), generator=self.generator)
        whole = [*shape]
        whole[dim] = len(self.whole[0])
        drawn = sample(tuple(whole), generator=self.generator)
        return drawn.narrow(dim, self.first, shape[dim])

    @property
    def share(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.step / self.total

    def ramp(self, begin: float, end: float) -> float:
        """Return 0 before the share ``begin`` of the run, 1 from ``end`` on, linear between."""
        return (
            min(1.0, max(0.0, (self.share - begin) / (end - begin)))
            if end > begin
            else float(self.share >= end)
        )


class TrainingRun(NamedTuple):
    """Mutable state of a run: the network, its average, and the optimizer."""

    net: nn.Module
    mean: nn.Module
    optimizer: torch.optim.Optimizer


class TrainingMethod(ABC):
    """Base of training methods. Subclasses are dataclasses whose fields are their settings.

    ``score`` names the metric that selects the best epoch: "clean", "robust" (under PGD),
    "certified", "noisy" or "masked".

    Example:
        >>> from dataclasses import dataclass
        >>> import torch
        >>> from physadv.training.methods.base import TrainingMethod
        >>> @dataclass
        ... class NoisyTraining(TrainingMethod):
        ...     sigma: float = 0.1
        ...     def loss(self, net, images, labels, at):
        ...         noise = self.sigma * torch.randn(images.shape, generator=at.generator)
        ...         return torch.nn.functional.cross_entropy(net(images + noise), labels), {}
        >>> NoisyTraining().settings()
        {'defence': 'NoisyTraining', 'sigma': 0.1}
    """

    recorded_as: ClassVar[str] = ""
    """Name in checkpoints and cards; the name of the class where empty."""

    score: ClassVar[str] = "robust"

    divisible: ClassVar[bool] = False
    """Whether the loss of a batch is the mean over its images, and all that is drawn for it comes
    from ``at.draw``: then parts of a batch, in several processes or for want of memory, add up to
    it."""

    synchronized: ClassVar[bool] = False
    """Whether several processes may divide a batch whose loss is not such a mean: what is of all of
    it comes from ``at.mean`` and ``at.processes``."""

    shardable: ClassVar[bool] = False
    """Whether the network's weights may lie in shards: the loss asks it for outputs and their first
    derivatives alone, as often in every process."""

    @property
    def repeats(self) -> int:
        """Number of steps in a row that get the same batch."""
        return 1

    def begin(self, net: nn.Module, generator: Generator) -> None:  # noqa: B027 - most need nothing
        """Prepare ``net`` before the first step, for example with own initial weights drawn from
        ``generator``."""

    @abstractmethod
    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the scalar loss of a batch and metrics to report, with the network in train mode.

        Args:
            net: Network to train.
            images: Images (b, c, h, w) in [0, 1].
            labels: True classes (b,).
            at: Position in the run; draw from its generator alone.
        """

    def watch(self, run: TrainingRun, at: TrainingPosition) -> Metrics:
        """Check ``run`` before the step ``at`` and repair it where it fails; return metrics to
        report."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold, as named tensors; each of several processes calls
        it."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Restore the ``state`` that :meth:`state` returned."""

    def settings(self) -> dict[str, Any]:
        """Return the name and settings, to tell one run from another."""
        names: list[str] = [f.name for f in fields(self) if f.init] if is_dataclass(self) else []
        return {
            "defence": self.recorded_as or type(self).__name__,
            **{name: getattr(self, name) for name in names},
        }


def require_option(what: str, value: float, fits: bool, remedy: str) -> None:
    """Raise OptionError where a setting is outside its range.

    Args:
        what: Name of the setting.
        value: Its value.
        fits: Whether it is within its range.
        remedy: Advice for the error.
    """
    if not fits:
        raise OptionError(f"{what} {value:g}", "is outside its range", remedy)


@dataclass
class StandardTraining(TrainingMethod):
    """Plain cross-entropy, with label ``smoothing``."""

    smoothing: float = 0.0
    divisible: ClassVar[bool] = True
    shardable: ClassVar[bool] = True
    score: ClassVar[str] = "clean"

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the cross-entropy of ``net`` on ``images`` with ``labels``; ``at`` is not used."""
        return F.cross_entropy(net(images).float(), labels, label_smoothing=self.smoothing), {}
