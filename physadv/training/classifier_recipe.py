"""Recipe of a trained classifier: training, selection on validation images, weights and card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor, nn

from physadv.attacks.gradient import pgd
from physadv.certification.bounds.verify import prepare_graph, verify_bounds
from physadv.core.errors import OptionError
from physadv.core.files import sha256_of, write_text
from physadv.core.lights import worst_light
from physadv.core.process_group import ALONE, ProcessGroup
from physadv.core.random_streams import generator
from physadv.core.tensor_files import write_tensors
from physadv.evaluation.clean_accuracy import clean_accuracy_findings
from physadv.evaluation.masking_checks import Finding
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.models.architectures.cnn import build_network
from physadv.threat.parsing import format_eps, parse_norm, parse_threat
from physadv.training.config import TrainConfig
from physadv.training.data import ImageSubset, ShuffledBatches, TrainingData
from physadv.training.loop import (
    TrainingSchedule,
    TrainingStep,
    ValidationSchedule,
    load_average,
    read_progress,
    seed_all,
    train_model,
)
from physadv.training.methods.base import TrainingMethod
from physadv.training.methods.by_name import method_by_name
from physadv.training.methods.occlusion import OcclusionTraining

CHECKPOINT, WEIGHTS, CARD = "checkpoint.safetensors", "model.safetensors", "model.safetensors.toml"
BOUND = {"polytope": "polytope"}
"""Bound that evaluates a network trained to a bound, where it is not the interval bound."""
GROWN = 0.5
"""Share of a run after which weights may be selected, where the method first grows to its full
strength."""


@dataclass(frozen=True)
class ClassifierRecipe:
    """Everything that decides the weights, apart from the data.

    Attributes:
        defense: Name of the training method, see :data:`physadv.training.methods.by_name.DEFENSES`.
        eps: Radius of the threat that the network is evaluated under.
        norm: Norm of the threat.
        architecture: Name of the architecture.
        epochs: Epochs.
        batch: Images in a batch.
        lr: Peak of the learning rate.
        optimizer: "adamw" or "sgd".
        weight_decay: Weight decay of matrices and kernels.
        average: Decay of the weights' moving average.
        clip: Largest norm of the gradient.
        precision: "fp32" or "bf16".
        shift: Largest random translation in px, 0 to 8.
        judged: Number of validation images that each epoch is evaluated on.
        patience: Epochs without improvement that end a run early; None for no end.
        seed: Seed of weights, batches and draws.
        settings: Settings of the method; None keeps the method's own.
    """

    defense: str
    eps: float = 0.1
    norm: str = "linf"
    architecture: str = TrainConfig.architecture
    epochs: int = TrainConfig.epochs
    batch: int = TrainConfig.batch_size
    lr: float = TrainConfig.lr
    optimizer: str = TrainConfig.optimizer
    weight_decay: float = 0.0005
    average: float = TrainConfig.average
    clip: float = 8.0
    precision: str = TrainConfig.precision
    shift: int = TrainConfig.shift
    judged: int = 500
    patience: int | None = None
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parse_norm(self.norm)
        for name, value, fits in (
            ("judged", self.judged, self.judged >= 1),
            ("patience", self.patience, self.patience is None or self.patience >= 1),
            ("shift", self.shift, 0 <= self.shift <= 8),
        ):
            if not fits:
                raise OptionError(
                    f"{name} {value}", "is outside its range", "Leave it out for the default"
                )
        self.build_method()

    @classmethod
    def from_config(cls, config: TrainConfig) -> ClassifierRecipe:
        """Return the part of ``config`` that decides the weights, apart from the data.

        Raises:
            OptionError: A setting is outside what is allowed, or the method does not have it.
        """
        norm, eps = parse_threat(config.threat)

        return cls(
            config.defense,
            eps,
            norm,
            config.architecture,
            config.epochs,
            config.batch_size,
            config.lr,
            config.optimizer,
            average=config.average,
            precision=config.precision,
            shift=config.shift,
            patience=config.patience,
            seed=config.seed,
            settings=config.method_settings,
        )

    def build_method(self) -> TrainingMethod:
        """Return the training method, newly built."""
        return method_by_name(self.defense, {**self.settings, "eps": self.eps, "norm": self.norm})

    def build_net(self, training_data: TrainingData) -> nn.Module:
        """Return the network for ``training_data`` with the initial weights that the seed gives."""
        classes = len(training_data.classes)
        return seed_all(
            lambda: build_network(
                self.architecture,
                channels=training_data.channels,
                side=training_data.image_size,
                classes=classes,
            ),
            self.seed,
        )


def train_defense(
    recipe: ClassifierRecipe,
    training_data: TrainingData,
    out: Path | None = None,
    *,
    device: str | torch.device = "cpu",
    processes: ProcessGroup = ALONE,
    fsdp: bool = False,
) -> Iterator[TrainingStep]:
    """Train a classifier and yield after each step.

    Args:
        recipe: Everything that decides the weights.
        training_data: Training and validation images.
        out: Folder that holds the progress after each epoch; a run in it is resumed
            bit-identically.
        device: Device to train on.
        processes: Processes that train together; the first one writes into ``out``.
        fsdp: Whether they hold a shard each of the training's state.

    Yields:
        The step.

    Example:
        >>> import torch
        >>> from physadv.training.classifier_recipe import ClassifierRecipe, train_defense
        >>> from physadv.training.data import ImageSubset, TrainingData
        >>> pixels = torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8)
        >>> subset = ImageSubset(pixels, torch.arange(64) % 2, tuple(map(str, range(64))))
        >>> training_data = TrainingData(subset, subset, ("even", "odd"), channels=1, image_size=28)
        >>> recipe = ClassifierRecipe("pgd", eps=0.1, epochs=1, batch=32, settings={"steps": 1})
        >>> [step.ends_epoch for step in train_defense(recipe, training_data)]
        [False, True]
    """
    batches = ShuffledBatches(
        training_data.train, size=recipe.batch, seed=recipe.seed, shift=recipe.shift, device=device
    )

    schedule = TrainingSchedule(
        recipe.epochs,
        batches.steps,
        lr=recipe.lr,
        optimizer=recipe.optimizer,
        weight_decay=recipe.weight_decay,
        average=recipe.average,
        clip=recipe.clip,
        precision=recipe.precision,
    )
    defense = recipe.build_method()

    validator = Validator(
        recipe, defense, training_data.validation, recipe.judged, device, processes
    )

    after = GROWN if defense.score == "certified" else 0.0
    plain = {k: v for k, v in asdict(recipe).items() if k != "settings"}
    shape = f"{training_data.channels}x{training_data.image_size}x{training_data.image_size}"
    facts = f"{plain}, {shape}, {len(training_data.train)} + {len(training_data.validation)}"

    return train_model(
        recipe.build_net(training_data).to(device),
        batches,
        schedule,
        defense=defense,
        seed=recipe.seed,
        identity=facts,
        validation=ValidationSchedule(validator, defense.score, recipe.patience, after),
        checkpoint=None if out is None else out / CHECKPOINT,
        processes=processes,
        fsdp=fsdp,
    )


class Validator:
    """Evaluates a network on validation images: clean, under PGD, and in the way its training
    method is scored by.

    Args:
        recipe: Recipe with the threat and the seed.
        defense: Training method; its score adds noisy, masked or certified accuracy.
        part: Validation images.
        count: Number of images to draw.
        device: Device to evaluate on.
        processes: Processes that share the images.
    """

    def __init__(
        self,
        recipe: ClassifierRecipe,
        defense: TrainingMethod,
        part: ImageSubset,
        count: int,
        device: str | torch.device = "cpu",
        processes: ProcessGroup = ALONE,
    ) -> None:
        self.recipe, self.defense, self.device = recipe, defense, device
        self.processes = processes
        rows = torch.randperm(len(part), generator=generator(recipe.seed, "judged"))[:count]
        self.images, self.labels = part.floats(rows.sort().values)
        self.n = len(rows)

    def __call__(self, net: nn.Module) -> dict[str, float]:
        """Return the accuracies of ``net`` by name."""
        return {name: right / self.n for name, right in self.counts(net).items()}

    def counts(self, net: nn.Module) -> dict[str, int]:
        """Return how many of ``n`` images ``net`` classifies correctly, by name."""

        def judged(start: int) -> list[dict[str, int]]:
            images = self.images[start : start + 128].to(self.device)
            labels = self.labels[start : start + 128].to(self.device)
            correct = self._batch(net, images, labels, start)
            return [{name: int(right.sum()) for name, right in correct.items()}]

        rows = self.processes.divided(range(0, self.n, 128), judged)
        return {name: sum(row[name] for row in rows) for name in rows[0]}

    def _batch(
        self, net: nn.Module, images: Tensor, labels: Tensor, start: int
    ) -> dict[str, Tensor]:
        eps, norm = self.recipe.eps, parse_norm(self.recipe.norm)
        with torch.no_grad():
            correct = {"clean": net(images).argmax(1) == labels}
        broken = pgd(
            net, images, labels, eps=eps, norm=norm, steps=10, seed=self.recipe.seed
        ).success
        correct["robust"] = correct["clean"] & ~broken
        if self.defense.score == "certified":
            graph = prepare_graph(net, tuple(images.shape[1:]))
            method = BOUND.get(self.recipe.defense, "ibp")
            correct["certified"] = verify_bounds(
                graph, images, labels, eps=eps, method=method, norm=norm
            ).certified
        if self.defense.score == "noisy":
            sigma = float(getattr(self.defense, "sigma", 0.25))
            noise = sigma * torch.randn(
                images.shape, generator=generator(self.recipe.seed, "judged", start)
            )
            with torch.no_grad():
                correct["noisy"] = net(images + noise.to(images)).argmax(1) == labels
        if isinstance(self.defense, OcclusionTraining):
            hidden = self.defense.hide(images, generator(self.recipe.seed, "judged", start))
            with torch.no_grad():
                correct["masked"] = net(hidden).argmax(1) == labels
        return correct


def publish_classifier(
    recipe: ClassifierRecipe,
    training_data: TrainingData,
    out: Path,
    *,
    data: str,
    command: str = "",
) -> dict[str, Any]:
    """Evaluate the selected weights on validation images (at most 2000), and write weights and
    card.

    A clean accuracy in doubt, such as that of guessing, stands under ``doubts`` on the card.
    ``--model OUT/model.safetensors`` loads them.

    Args:
        recipe: Recipe of the run.
        training_data: Training and validation images.
        out: Folder of the run.
        data: Name of the data set, for the card.
        command: Command line, for the card.

    Returns:
        The card as a table.
    """
    net = load_average(out / CHECKPOINT, recipe.build_net(training_data), best=True).requires_grad_(
        False
    )
    validator = Validator(recipe, recipe.build_method(), training_data.validation, 2000)
    counts = validator.counts(net)
    measured = {name: wilson_interval(correct, validator.n) for name, correct in counts.items()}
    findings = clean_accuracy_findings(
        counts["clean"],
        validator.n,
        classes=len(training_data.classes),
        labels=validator.labels.tolist(),
    )
    write_tensors(out / WEIGHTS, net.state_dict())
    card = _card(recipe, training_data, out, measured, findings, data, command)
    write_text(out / CARD, tomli_w.dumps(card))
    return card


def _card(
    recipe: ClassifierRecipe,
    training_data: TrainingData,
    out: Path,
    measured: Mapping[str, RateInterval],
    findings: Sequence[Finding],
    data: str,
    command: str,
) -> dict[str, Any]:
    progress = read_progress(out / CHECKPOINT)
    threat = f"{recipe.norm}:{format_eps(recipe.eps, 6)}"
    rates = ", ".join(f"{name} {rate}" for name, rate in measured.items())
    settings = {k: v for k, v in asdict(recipe).items() if v is not None and k != "settings"}

    own = {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in recipe.build_method().settings().items()
        if v is not None
    }

    return {
        "name": f"{recipe.architecture} {recipe.defense}",
        "task": "classify",
        "classes": list(training_data.classes),
        "architecture": recipe.architecture,
        "channels": training_data.channels,
        "input_size": training_data.image_size,
        "resize": training_data.resizing.fit,
        "licence": "yours, as far as the data's terms allow",
        "source": "trained by `physadv train --defense`",
        "data": data,
        "data_summary": training_data.summary.as_dict(),
        "sha256": sha256_of(out / WEIGHTS),
        "accuracy": f"{rates} on held-out training images; robust is PGD-10 at {threat}",
        "command": command,
        "threat": threat,
        "measured": {name: rate.as_dict() for name, rate in measured.items()},
        "doubts": [finding.as_dict() for finding in findings],
        "light": worst_light(finding.light for finding in findings),
        "cpu_seconds": round(float(progress["seconds"]), 1),
        "epochs_done": len(progress["history"]),
        "recipe": {**settings, "defence_settings": own},
    }
