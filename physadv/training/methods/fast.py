"""Fast adversarial training (Wong, Rice and Kolter 2020), with a guard against catastrophic
overfitting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.attacks._classifier_step import frozen_eval
from physadv.threat.norms import parse_norm
from physadv.training.checkpoint import load_optimizer, optimizer_tensors
from physadv.training.methods._inner_maximization import (
    ascend_loss,
    class_cross_entropy,
    frozen_attack,
)
from physadv.training.methods.adversarial import _Attacked
from physadv.training.methods.base import Metrics, TrainingPosition, TrainingRun, require_option
from physadv.training.sharded_network import restore_network

STRONGEST = 8
"""Largest number of steps of the training attack."""
_PARTS = ("net", "mean", "optimiser")


@dataclass
class FastTraining(_Attacked):
    """One step of ``stride`` eps from a random start, with a guard.

    A network trained so can overfit to the single step within a few batches, from the first ones
    on: its accuracy under FGSM rises while under PGD it stays at none or drops to it. So every
    ``every`` steps, and before the last one, the network is attacked by FGSM and by PGD on the
    first ``held`` images it was given. It has collapsed where its accuracy under PGD is more than
    ``drop`` below the best one so far, or more than ``gap`` below that under FGSM. Then the guard
    restores weights, average and optimizer of the last sound check, or of the start of the run, and
    doubles the steps of the training attack (1, 2, 4, 8 of PGD's usual length) from then on. At 8
    steps it restores no more, and reports the collapse alone.

    Example:
        >>> FastTraining(8 / 255, drop=0.1).settings()["drop"]
        0.1
    """

    divisible: ClassVar[bool] = True
    shardable: ClassVar[bool] = True
    stride: float = 1.25
    every: int = 50
    drop: float = 0.2
    gap: float = 0.3
    held: int = 128
    strength: int = field(default=1, init=False)
    """Current number of steps of the attack."""
    _images: Tensor | None = field(default=None, init=False, repr=False)
    _labels: Tensor | None = field(default=None, init=False, repr=False)
    _sound: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _best: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_option("steps between two checks", self.every, self.every >= 1, "Use 50")
        require_option("drop", self.drop, 0 < self.drop <= 1, "Use 0.2")
        require_option("gap", self.gap, 0 < self.gap <= 1, "Use 0.3")

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the loss of ``net`` on attacked ``images`` with ``labels``, started by draws of
        ``at``."""
        if self._images is None:
            all_images, all_labels = at.whole or (images, labels)
            self._images = all_images[: self.held].clone()
            self._labels = all_labels[: self.held].clone()

        size = self.stride * self.eps if self.strength == 1 else None
        moved = frozen_attack(
            net,
            images,
            labels,
            eps=self.eps,
            norm=self.norm,
            steps=self.strength,
            at=at,
            step_size=size,
        )

        return F.cross_entropy(net(moved).float(), labels), {"attack_steps": float(self.strength)}

    def watch(self, run: TrainingRun, at: TrainingPosition) -> Metrics:
        """Check ``run`` under FGSM and PGD at ``at``, and restore the last sound state where it
        collapsed."""
        if at.step == 0:
            self._sound = _snapshot(run)
        if self._images is None or (at.step % self.every and at.step != at.total - 1):
            return {}

        single, robust = self._accuracy(run.net, at, steps=1), self._accuracy(run.net, at, steps=10)
        metrics = {"held_robust": robust, "held_gap": single - robust}
        if robust >= self._best - self.drop and single - robust <= self.gap:
            self._best, self._sound = max(self._best, robust), _snapshot(run)
            return metrics

        # At full strength a restored run would only walk into the same state again, and at its end
        # first weights are no result.
        ends_untrained = at.step == at.total - 1 and not self._best
        if self.strength >= STRONGEST or ends_untrained:
            return {"guard_exhausted": 1.0, **metrics}

        _restore(run, self._sound)
        self.strength = min(2 * self.strength, STRONGEST)
        return {"guard_fired": 1.0, **metrics}

    def _accuracy(self, net: nn.Module, at: TrainingPosition, *, steps: int) -> float:
        """Return the accuracy of ``net`` on the held images under PGD from a random start, or under
        FGSM, which is one step of eps from the image itself."""
        assert self._images is not None
        assert self._labels is not None
        if steps == 1:
            with frozen_eval(net):
                objective = class_cross_entropy(net, self._labels)
                moved = ascend_loss(
                    objective,
                    self._images,
                    eps=self.eps,
                    norm=parse_norm(self.norm),
                    steps=1,
                    step_size=self.eps,
                )
        else:
            moved = frozen_attack(
                net,
                self._images,
                self._labels,
                eps=self.eps,
                norm=self.norm,
                steps=steps,
                at=at,
            )

        with frozen_eval(net), torch.no_grad():
            return float((net(moved).argmax(1) == self._labels).float().mean())

    def state(self) -> dict[str, Tensor]:
        """Return the guard's images, numbers and last sound state."""
        if self._images is None or self._labels is None:
            return {}
        numbers = torch.tensor([float(self.strength), self._best], dtype=torch.float64)
        return {"images": self._images, "labels": self._labels, "numbers": numbers, **self._sound}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the guard from ``state``."""
        if "numbers" not in state:
            return
        self._images, self._labels = state["images"], state["labels"]
        self.strength, self._best = int(state["numbers"][0]), float(state["numbers"][1])
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
    restore_network(run.net, groups["net"])
    restore_network(run.mean, groups["mean"])
    load_optimizer(run.optimizer, groups["optimiser"])
