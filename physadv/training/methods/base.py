"""What a defense is to the training loop: a loss, and at most a way to begin, to watch and to
remember."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from physadv.core.errors import OptionError

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class TrainingPosition:
    """Where in its schedule a run stands: ``step`` of ``total``, from 0. ``generator`` (CPU) is
    this step's own."""

    step: int
    total: int
    generator: Generator

    @property
    def share(self) -> float:
        """How much of the run lies behind, in [0, 1)."""
        return self.step / self.total

    def ramp(self, begin: float, end: float) -> float:
        """0 before the share ``begin`` of the run, 1 from ``end`` on, linear between."""
        return (
            min(1.0, max(0.0, (self.share - begin) / (end - begin)))
            if end > begin
            else float(self.share >= end)
        )


class TrainingRun(NamedTuple):
    """The moving parts of a run: the net, its average, and the optimizer."""

    net: nn.Module
    mean: nn.Module
    optimizer: torch.optim.Optimizer


class TrainingMethod(ABC):
    """The part of training that differs. Subclasses are dataclasses whose fields are their
    settings.

    ``score`` names what chooses the best epoch: "clean", "robust" (under PGD), "certified", "noisy"
    or "masked".
    """

    recorded_as: ClassVar[str] = ""
    """Its name in checkpoints and cards; empty: the name of the class."""

    score: ClassVar[str] = "robust"

    @property
    def repeats(self) -> int:
        """How many steps in a row get the same batch."""
        return 1

    def begin(self, net: nn.Module, generator: Generator) -> None:  # noqa: B027 - most need nothing
        """Once, before the first step: own initial weights, for example."""

    @abstractmethod
    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """The scalar loss of a batch, with the net in train mode, and what to report of it.

        Images are (b, c, h, w) in [0, 1], labels (b,). Draw from ``at.generator`` alone.
        """

    def watch(self, run: TrainingRun, at: TrainingPosition) -> Metrics:
        """Before each step: look at the run and, where it goes wrong, repair it. Returns what to
        report."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """What must survive a kill, as named tensors."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take back what :meth:`state` gave."""

    def settings(self) -> dict[str, Any]:
        """Its name and settings, to tell one run from another."""
        names: list[str] = [f.name for f in fields(self) if f.init] if is_dataclass(self) else []
        return {
            "defence": self.recorded_as or type(self).__name__,
            **{name: getattr(self, name) for name in names},
        }


def require_option(what: str, value: float, fits: bool, remedy: str) -> None:
    """Raise OptionError where a setting of a defense is outside its range."""
    if not fits:
        raise OptionError(f"{what} {value:g}", "outside its range", remedy)


@dataclass
class StandardTraining(TrainingMethod):
    """Plain cross-entropy, with ``smoothing`` of the labels."""

    smoothing: float = 0.0
    score: ClassVar[str] = "clean"

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """See :class:`Defence`."""
        return F.cross_entropy(net(images).float(), labels, label_smoothing=self.smoothing), {}
