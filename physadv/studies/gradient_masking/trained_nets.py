"""The nets of the masked study: each defense stands on a small net of its own, trained through the
defense itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.attacks._classifier_step import Classifier
from physadv.core.random_streams import derive
from physadv.models.architectures.cnn import WIDTHS, SmallCNN
from physadv.studies.gradient_masking import gallery, obfuscations
from physadv.studies.gradient_masking.asymmetric_training import (
    AsymmetricTraining,
    acceptance_threshold,
)
from physadv.studies.gradient_masking.gallery import MaskedDefense
from physadv.training.data import ShuffledBatches, TrainingData
from physadv.training.loop import TrainingSchedule, load_average, seed_all, train_model
from physadv.training.methods.adversarial import PgdTraining
from physadv.training.methods.base import (
    Metrics,
    StandardTraining,
    TrainingMethod,
    TrainingPosition,
)

LEVELS, WINNERS, MOST, BATCH = 16, 0.2, 1.3, 128
"""Marks of the thermometer, share of winners (the authors: 0.3 to 0.005 on MNIST), largest
shrinking (theirs: 1.11)."""
KEPT, PIXELS = 0.1, 0.025
"""Shares of the cosines that are kept and of the pixels that are taken for spoiled, which the
attacker may change."""


@dataclass
class _PreprocessedTraining(TrainingMethod):
    """Plain cross-entropy behind a part that may draw from the global generator; each step seeds it
    anew."""

    name: str
    part: Callable[[Tensor], Tensor] = field(repr=False)
    score: ClassVar[str] = "clean"

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """See :class:`Defence`."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(int(torch.randint(2**62, (), generator=at.generator)))
            seen = self.part(images)
        return F.cross_entropy(net(seen).float(), labels), {}

    def settings(self) -> dict[str, Any]:
        """See :class:`Defence`."""
        return {"defence": "Through", "part": self.name}


@dataclass(frozen=True)
class StudyNets:
    """Trains small nets on ``material``, once each: what is finished in ``folder`` is taken from
    there.

    ``tell`` hears which net is at which share of its training.
    """

    material: TrainingData
    folder: Path
    epochs: int
    eps: float
    seed: int
    tell: Callable[[str, float], None]

    def net(
        self,
        name: str,
        defense: TrainingMethod,
        *,
        channels: int | None = None,
        epochs: int | None = None,
        start: nn.Module | None = None,
    ) -> nn.Module:
        """A small net trained with ``defence``, from the weights of ``start`` where given; in eval
        mode and frozen."""
        found = self._fresh(channels)
        if start is not None:
            found.load_state_dict(start.state_dict())
        batches = ShuffledBatches(
            self.material.train, size=min(BATCH, len(self.material.train)), seed=self.seed
        )
        lr = 3e-3 if start is None else 1e-3
        schedule = TrainingSchedule(
            epochs or self.epochs, batches.steps, lr=lr, precision="fp32", average=0.98
        )
        checkpoint = self.folder / f"{name}.safetensors"
        steps = train_model(
            found,
            batches,
            schedule,
            defense=defense,
            seed=derive(self.seed, name),
            checkpoint=checkpoint,
            identity=f"{len(self.material.train)} images, side {self.material.image_size}, shuffled by "
            f"{self.seed}",
        )
        for step in steps:
            self.tell(name, step.number / step.total)
        load_average(checkpoint, found)
        return found.requires_grad_(False)

    def _fresh(self, channels: int | None) -> nn.Module:
        side, classes = self.material.image_size, len(self.material.classes)
        wanted = channels or self.material.channels
        return seed_all(
            lambda: SmallCNN(wanted, side, classes, WIDTHS["small-cnn"], norm=False), self.seed
        )


def trained_gallery(shop: StudyNets) -> Iterator[MaskedDefense]:
    """The controls and the nine defenses, one after the other, as their nets are ready."""
    material = shop.material
    base = shop.net("plain", StandardTraining())
    yield _control("no defence", "", base)
    yield gallery.one_hot_defense(base)
    fill = 0.0 if material.channels == 1 else 0.5
    resize = _PreprocessedTraining(
        f"random resizing to 1/{MOST}", partial(obfuscations.random_resize, most=MOST, fill=fill)
    )
    yield gallery.random_resizing_defense(shop.net("random-resizing", resize), MOST, fill)
    code = partial(obfuscations.thermometer_code, levels=LEVELS)
    coded = shop.net(
        "thermometer",
        _PreprocessedTraining("thermometer", code),
        channels=material.channels * LEVELS,
    )
    yield gallery.thermometer_net_defense(coded, LEVELS)
    yield gallery.staircase_defense(base, LEVELS)
    yield _winners(shop)
    yield gallery.generative_defense(
        *material.train.floats(slice(0, 6000)), classes=len(material.classes)
    )
    yield gallery.matrix_completion_defense(
        shop.net(
            "matrix-completion",
            _PreprocessedTraining("matrix completion", obfuscations.complete_matrix),
        )
    )
    yield _sparse(shop)
    yield _asymmetric(shop, base)
    robust = shop.net(
        "adversarial", PgdTraining(shop.eps, steps=7), epochs=2 * shop.epochs, start=base
    )
    yield _control("adversarial training", "Madry 2018", robust)


def _control(name: str, paper: str, net: Classifier) -> MaskedDefense:
    """A net that hides nothing: what plain PGD says of it is nearly true."""
    return MaskedDefense(name, paper, "nothing (control)", "none needed", net, net)


def _winners(shop: StudyNets) -> MaskedDefense:
    """Trained with the activation it is deployed with, from a plain ReLU net's shape."""

    class Winners(TrainingMethod):
        def begin(self, net: nn.Module, generator: torch.Generator) -> None:
            obfuscations.replace_relus(net, WINNERS, adaptive=False)

        def loss(
            self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
        ) -> tuple[Tensor, Metrics]:
            return F.cross_entropy(net(images).float(), labels), {}

        def settings(self) -> dict[str, Any]:
            return {"defence": "k winners", "share": WINNERS}

    trained = shop.net("k-winners", Winners())
    return gallery.trained_k_winners_defense(trained)


def _sparse(shop: StudyNets) -> MaskedDefense:
    """Trained, as its authors' nets, on images of few cosines; only when deployed are spoiled
    pixels taken out."""
    size = shop.material.image_size**2
    few = partial(obfuscations.hard_threshold, kept=max(1, round(KEPT * size)), spoiled=0)
    trained = shop.net("sparse", _PreprocessedTraining(f"{KEPT} of the cosines", few))
    like = shop.material.train.images[:1]
    return gallery.sparse_recovery_defense(trained, like, kept=KEPT, pixels=PIXELS)


def _asymmetric(shop: StudyNets, base: Classifier) -> MaskedDefense:
    detectors = shop.net("asymmetric", AsymmetricTraining(shop.eps), epochs=2 * shop.epochs)
    held = shop.material.validation
    part = held if len(held) >= 100 else shop.material.train
    return gallery.asymmetric_defense(
        base, detectors, acceptance_threshold(detectors, *part.floats(slice(0, 2000)))
    )
