"""From a data set and the name of a defense to a victim: train, judge on what was held out, write
weights and card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from physadv.core.random_streams import generator
from physadv.core.tensor_files import write_tensors
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.models.architectures.cnn import build_network
from physadv.threat.parsing import parse_norm, parse_threat
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
"""What judges a net that was trained to a bound, where that is not the interval bound."""
GROWN = 0.5
"""Share of a run after which weights may be chosen, where the defense grows to its full strength
first."""


@dataclass(frozen=True)
class ClassifierRecipe:
    """Everything that decides the weights, apart from the data. ``eps`` and ``norm`` are the threat
    it is judged by.

    ``settings`` are those of the defense (see :data:`physadv.training.methods.by_name.DEFENSES`),
    None where it shall keep its own. ``judged`` is how many held-out images each epoch is judged
    on, ``patience`` ends a run early.
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
                raise OptionError(f"{name} {value}", "outside its range", "leave it out")
        self.made()

    @classmethod
    def from_config(cls, config: TrainConfig) -> ClassifierRecipe:
        """Return the part of ``config`` that decides the weights, apart from the data.

        Raises OptionError for a setting outside what is allowed, or one that the defense lacks.
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

    def made(self) -> TrainingMethod:
        """The defense, fresh."""
        return method_by_name(self.defense, {**self.settings, "eps": self.eps, "norm": self.norm})

    def net(self, material: TrainingData) -> nn.Module:
        """The net, with the initial weights that the seed gives."""
        classes = len(material.classes)
        return seed_all(
            lambda: build_network(
                self.architecture,
                channels=material.channels,
                side=material.image_size,
                classes=classes,
            ),
            self.seed,
        )


def train_defense(
    recipe: ClassifierRecipe,
    material: TrainingData,
    out: Path | None = None,
    *,
    device: str | torch.device = "cpu",
) -> Iterator[TrainingStep]:
    """Train and yield a Step each. With ``out`` the run is kept there at each epoch's end, and
    resumed to the bit."""
    batches = ShuffledBatches(
        material.train, size=recipe.batch, seed=recipe.seed, shift=recipe.shift, device=device
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
    defense = recipe.made()
    judge = Validator(recipe, defense, material.validation, recipe.judged, device)
    after = GROWN if defense.score == "certified" else 0.0
    plain = {k: v for k, v in asdict(recipe).items() if k != "settings"}
    shape = f"{material.channels}x{material.image_size}x{material.image_size}"
    facts = f"{plain}, {shape}, {len(material.train)} + {len(material.validation)}"
    return train_model(
        recipe.net(material).to(device),
        batches,
        schedule,
        defense=defense,
        seed=recipe.seed,
        identity=facts,
        validation=ValidationSchedule(judge, defense.score, recipe.patience, after),
        checkpoint=None if out is None else out / CHECKPOINT,
    )


class Validator:
    """What a net gets right of held-out images: clean, under PGD, and as its defense asks (noisy,
    masked, proven)."""

    def __init__(
        self,
        recipe: ClassifierRecipe,
        defense: TrainingMethod,
        part: ImageSubset,
        count: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self.recipe, self.defense, self.device = recipe, defense, device
        rows = torch.randperm(len(part), generator=generator(recipe.seed, "judged"))[:count]
        self.images, self.labels = part.floats(rows.sort().values)
        self.n = len(rows)

    def __call__(self, net: nn.Module) -> dict[str, float]:
        """Shares by name."""
        return {name: right / self.n for name, right in self.counts(net).items()}

    def counts(self, net: nn.Module) -> dict[str, int]:
        """How many of ``n`` images are right, by name."""
        found: dict[str, int] = {}
        for start in range(0, self.n, 128):
            images = self.images[start : start + 128].to(self.device)
            labels = self.labels[start : start + 128].to(self.device)
            for name, right in self._batch(net, images, labels, start).items():
                found[name] = found.get(name, 0) + int(right.sum())
        return found

    def _batch(
        self, net: nn.Module, images: Tensor, labels: Tensor, start: int
    ) -> dict[str, Tensor]:
        eps, norm = self.recipe.eps, parse_norm(self.recipe.norm)
        with torch.no_grad():
            found = {"clean": net(images).argmax(1) == labels}
        broken = pgd(
            net, images, labels, eps=eps, norm=norm, steps=10, seed=self.recipe.seed
        ).success
        found["robust"] = found["clean"] & ~broken
        if self.defense.score == "certified":
            graph = prepare_graph(net, tuple(images.shape[1:]))
            method = BOUND.get(self.recipe.defense, "ibp")
            found["certified"] = verify_bounds(
                graph, images, labels, eps=eps, method=method, norm=norm
            ).certified
        if self.defense.score == "noisy":
            sigma = float(getattr(self.defense, "sigma", 0.25))
            noise = sigma * torch.randn(
                images.shape, generator=generator(self.recipe.seed, "judged", start)
            )
            with torch.no_grad():
                found["noisy"] = net(images + noise.to(images)).argmax(1) == labels
        if isinstance(self.defense, OcclusionTraining):
            hidden = self.defense.hide(images, generator(self.recipe.seed, "judged", start))
            with torch.no_grad():
                found["masked"] = net(hidden).argmax(1) == labels
        return found


def publish_classifier(
    recipe: ClassifierRecipe, material: TrainingData, out: Path, *, data: str, command: str = ""
) -> dict[str, Any]:
    """Judge the chosen weights in ``out`` on all held-out images (at most 2000), write weights and
    card beside it.

    Returns the card as a table; `--model OUT/model.safetensors` loads it.
    """
    net = load_average(out / CHECKPOINT, recipe.net(material), best=True).requires_grad_(False)
    judge = Validator(recipe, recipe.made(), material.validation, 2000)
    measured = {name: wilson_interval(right, judge.n) for name, right in judge.counts(net).items()}
    write_tensors(out / WEIGHTS, net.state_dict())
    card = _card(recipe, material, out, measured, data, command)
    write_text(out / CARD, tomli_w.dumps(card))
    return card


def _card(
    recipe: ClassifierRecipe,
    material: TrainingData,
    out: Path,
    measured: Mapping[str, RateInterval],
    data: str,
    command: str,
) -> dict[str, Any]:
    progress = read_progress(out / CHECKPOINT)
    threat = f"{recipe.norm}:{recipe.eps:g}"
    said = ", ".join(f"{name} {rate}" for name, rate in measured.items())
    settings = {k: v for k, v in asdict(recipe).items() if v is not None and k != "settings"}
    own = {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in recipe.made().settings().items()
        if v is not None
    }
    return {
        "name": f"{recipe.architecture} {recipe.defense}",
        "task": "classify",
        "classes": list(material.classes),
        "architecture": recipe.architecture,
        "channels": material.channels,
        "input_size": material.image_size,
        "licence": "yours, as far as the data's terms allow",
        "source": "trained by `physadv train --defense`",
        "data": data,
        "sha256": sha256_of(out / WEIGHTS),
        "accuracy": f"{said} on held-out training images; robust is PGD-10 at {threat}",
        "command": command,
        "threat": threat,
        "measured": {name: rate.as_dict() for name, rate in measured.items()},
        "cpu_seconds": round(float(progress["seconds"]), 1),
        "epochs_done": len(progress["history"]),
        "recipe": {**settings, "defence_settings": own},
    }
