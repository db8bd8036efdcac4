"""Fast adversarial training (Wong, Rice and Kolter 2020), with a guard against catastrophic
overfitting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.training.checkpoint import load_optimizer, optimizer_tensors
from physadv.training.methods._inner_maximization import frozen_attack
from physadv.training.methods.adversarial import _Attacked
from physadv.training.methods.base import Metrics, TrainingPosition, TrainingRun, require_option

STRONGEST = 8
"""Largest number of steps of the training attack."""
_PARTS = ("net", "mean", "optimiser")


@dataclass
class FastTraining(_Attacked):
    """One step of ``stride`` eps from a random start, with a guard.

    A network trained so can overfit to the single step within a few batches: its accuracy under
    FGSM stays and under PGD drops to none. So every ``every`` steps the network is attacked by PGD
    on a held-out batch: the first ``held`` images it was given. Where that accuracy fell by more
    than ``drop`` since the last sound check, the guard restores weights, average and optimizer of
    that check and doubles the steps of the training attack (1, 2, 4, 8 of PGD's usual length) from
    then on.
    """

    stride: float = 1.25
    every: int = 50
    drop: float = 0.2
    held: int = 128
    strength: int = field(default=1, init=False)
    """Current number of steps of the attack."""
    _images: Tensor | None = field(default=None, init=False, repr=False)
    _labels: Tensor | None = field(default=None, init=False, repr=False)
    _sound: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _accuracy: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_option("steps between two checks", self.every, self.every >= 1, "Use 50")
        require_option("drop", self.drop, 0 < self.drop <= 1, "Use 0.2")

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the loss of ``net`` on attacked ``images`` with ``labels``, started by draws of
        ``at``."""
        if self._images is None:
            self._images, self._labels = images[: self.held].clone(), labels[: self.held].clone()

        size = self.stride * self.eps if self.strength == 1 else None
        moved = frozen_attack(
            net,
            images,
            labels,
            eps=self.eps,
            norm=self.norm,
            steps=self.strength,
            generator=at.generator,
            step_size=size,
        )

        return F.cross_entropy(net(moved).float(), labels), {"attack_steps": float(self.strength)}

    def watch(self, run: TrainingRun, at: TrainingPosition) -> Metrics:
        """Check the accuracy of ``run`` under PGD at ``at`` and restore the last sound state where
        it collapsed."""
        if at.step == 0 or at.step % self.every or self._images is None:
            return {}

        accuracy = self._pgd_accuracy(run.net, at)
        if self._sound and accuracy < self._accuracy - self.drop:
            _restore(run, self._sound)
            self.strength = min(2 * self.strength, STRONGEST)
            return {"guard_fired": 1.0, "held_robust": accuracy}
        self._accuracy, self._sound = accuracy, _snapshot(run)
        return {"held_robust": accuracy}

    def _pgd_accuracy(self, net: nn.Module, at: TrainingPosition) -> float:
        assert self._images is not None
        assert self._labels is not None
        moved = frozen_attack(
            net,
            self._images,
            self._labels,
            eps=self.eps,
            norm=self.norm,
            steps=10,
            generator=at.generator,
        )

        training = net.training
        net.eval()
        with torch.no_grad():
            accuracy = float((net(moved).argmax(1) == self._labels).float().mean())
        net.train(training)
        return accuracy

    def state(self) -> dict[str, Tensor]:
        """Return the guard's images, numbers and last sound state."""
        if self._images is None or self._labels is None:
            return {}
        numbers = torch.tensor([float(self.strength), self._accuracy], dtype=torch.float64)
        return {"images": self._images, "labels": self._labels, "numbers": numbers, **self._sound}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the guard from ``state``."""
        if "numbers" not in state:
            return
        self._images, self._labels = state["images"], state["labels"]
        self.strength, self._accuracy = int(state["numbers"][0]), float(state["numbers"][1])
        self._sound = {
            key: value for key, value in state.items() if key.partition(".")[0] in _PARTS
        }


def _snapshot(run: TrainingRun) -> dict[str, Tensor]:
    groups = (run.net.state_dict(), run.mean.state_dict(), optimizer_tensors(run.optimizer))
    return {
        f"{part}.{key}": value.detach().clone()
        for part, group in zip(_PARTS, groups, strict=True)
        for key, value in group.items()
    }


def _restore(run: TrainingRun, sound: Mapping[str, Tensor]) -> None:
    groups: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, value in sound.items():
        part, _, key = name.partition(".")
        groups[part][key] = value.clone()
    run.net.load_state_dict(groups["net"])
    run.mean.load_state_dict(groups["mean"])
    load_optimizer(run.optimizer, groups["optimiser"])
