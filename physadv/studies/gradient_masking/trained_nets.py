"""Networks of the gradient-masking study: each defense gets a small network trained through the
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
"""Levels of the thermometer, share of winners (0.3 to 0.005 on MNIST in the paper), largest
shrinking factor (1.11 in the paper), batch size."""
KEPT, PIXELS = 0.1, 0.025
"""Shares of the cosines kept, and of the pixels that the attacker may change."""


@dataclass
class _PreprocessedTraining(TrainingMethod):
    """Plain cross-entropy behind a transform that may draw from the global generator, seeded anew
    each step."""

    name: str
    transform: Callable[[Tensor], Tensor] = field(repr=False)
    score: ClassVar[str] = "clean"

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the cross-entropy of ``net`` on transformed ``images`` with ``labels``, drawn from
        ``at``."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(int(torch.randint(2**62, (), generator=at.generator)))
            transformed = self.transform(images)
        return F.cross_entropy(net(transformed).float(), labels), {}

    def settings(self) -> dict[str, Any]:
        """Return the name and the transform, to tell one run from another."""
        return {"defence": "Through", "part": self.name}


@dataclass(frozen=True)
class StudyNets:
    """Trains the small networks of the study once each; finished ones are loaded from the folder.

    Args:
        training: Training and validation images.
        folder: Folder of the checkpoints.
        epochs: Epochs of each training.
        eps: Radius of the l_inf ball of adversarial trainings.
        seed: Seed of weights and batches.
        tell: Called with a network's name and the share of its training that is done.
    """

    training: TrainingData
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
        """Return a trained network, in eval mode and frozen.

        Args:
            name: Name of its checkpoint.
            defense: Training method.
            channels: Input channels; those of the data by default.
            epochs: Epochs; those of the study by default.
            start: Network whose weights to start from.
        """
        net = self._initial(channels)
        if start is not None:
            net.load_state_dict(start.state_dict())
        batches = ShuffledBatches(
            self.training.train, size=min(BATCH, len(self.training.train)), seed=self.seed
        )
        lr = 3e-3 if start is None else 1e-3
        schedule = TrainingSchedule(
            epochs or self.epochs, batches.steps, lr=lr, precision="fp32", average=0.98
        )

        checkpoint = self.folder / f"{name}.safetensors"
        steps = train_model(
            net,
            batches,
            schedule,
            defense=defense,
            seed=derive(self.seed, name),
            checkpoint=checkpoint,
            identity=f"{len(self.training.train)} images, side {self.training.image_size}, "
            f"shuffled by {self.seed}",
        )
        for step in steps:
            self.tell(name, step.number / step.total)

        load_average(checkpoint, net)
        return net.requires_grad_(False)

    def _initial(self, channels: int | None) -> nn.Module:
        side, classes = self.training.image_size, len(self.training.classes)
        inputs = channels or self.training.channels
        return seed_all(
            lambda: SmallCNN(inputs, side, classes, WIDTHS["small-cnn"], norm=False), self.seed
        )


def trained_gallery(nets: StudyNets) -> Iterator[MaskedDefense]:
    """Yield the controls and the defenses of ``nets``, each as soon as its network is trained."""
    training = nets.training
    base = nets.net("plain", StandardTraining())
    yield _control("no defence", "", base)
    yield gallery.one_hot_defense(base)

    fill = 0.0 if training.channels == 1 else 0.5
    resize = _PreprocessedTraining(
        f"random resizing to 1/{MOST}", partial(obfuscations.random_resize, most=MOST, fill=fill)
    )
    yield gallery.random_resizing_defense(nets.net("random-resizing", resize), MOST, fill)

    code = partial(obfuscations.thermometer_code, levels=LEVELS)
    coded = nets.net(
        "thermometer",
        _PreprocessedTraining("thermometer", code),
        channels=training.channels * LEVELS,
    )
    yield gallery.thermometer_net_defense(coded, LEVELS)

    yield gallery.staircase_defense(base, LEVELS)
    yield _winners(nets)
    yield gallery.generative_defense(
        *training.train.floats(slice(0, 6000)), classes=len(training.classes)
    )
    yield gallery.matrix_completion_defense(
        nets.net(
            "matrix-completion",
            _PreprocessedTraining("matrix completion", obfuscations.complete_matrix),
        )
    )

    yield _sparse(nets)
    yield _asymmetric(nets, base)
    robust = nets.net(
        "adversarial", PgdTraining(nets.eps, steps=7), epochs=2 * nets.epochs, start=base
    )
    yield _control("adversarial training", "Madry 2018", robust)


def _control(name: str, paper: str, net: Classifier) -> MaskedDefense:
    """Return a network that hides nothing: here plain PGD measures nearly the real robustness."""
    return MaskedDefense(name, paper, "nothing (control)", "none needed", net, net)


def _winners(nets: StudyNets) -> MaskedDefense:
    """Return a network trained with the activation it is deployed with, from a plain ReLU network's
    weights."""

    class Winners(TrainingMethod):
        def begin(self, net: nn.Module, generator: torch.Generator) -> None:
            obfuscations.replace_relus(net, WINNERS, adaptive=False)

        def loss(
            self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
        ) -> tuple[Tensor, Metrics]:
            return F.cross_entropy(net(images).float(), labels), {}

        def settings(self) -> dict[str, Any]:
            return {"defence": "k winners", "share": WINNERS}

    trained = nets.net("k-winners", Winners())
    return gallery.trained_k_winners_defense(trained)


def _sparse(nets: StudyNets) -> MaskedDefense:
    """Return a network trained, as by the authors, on images of few cosines; corrupted pixels are
    removed only in deployment."""
    size = nets.training.image_size**2
    few = partial(obfuscations.hard_threshold, kept=max(1, round(KEPT * size)), spoiled=0)
    trained = nets.net("sparse", _PreprocessedTraining(f"{KEPT} of the cosines", few))
    like = nets.training.train.images[:1]
    return gallery.sparse_recovery_defense(trained, like, kept=KEPT, pixels=PIXELS)


def _asymmetric(nets: StudyNets, base: Classifier) -> MaskedDefense:
    detectors = nets.net("asymmetric", AsymmetricTraining(nets.eps), epochs=2 * nets.epochs)

    # The threshold is set on images not trained on, where there are enough of them.
    validation = nets.training.validation
    subset = validation if len(validation) >= 100 else nets.training.train
    threshold = acceptance_threshold(detectors, *subset.floats(slice(0, 2000)))
    return gallery.asymmetric_defense(base, detectors, threshold)
