"""Training of a classifier with a defense: from a configuration to weights and a card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from physadv.core.errors import OptionError
from physadv.core.process_group import ALONE, ProcessGroup
from physadv.evaluation.progress_log import DATA_DIGEST, claim_folder
from physadv.models.loading import pick_device
from physadv.training.classifier_recipe import (
    WEIGHTS,
    ClassifierRecipe,
    publish_classifier,
    train_defense,
)
from physadv.training.config import TrainConfig
from physadv.training.data import TrainingData, load_training_data
from physadv.training.loop import TrainingStep


@dataclass(frozen=True)
class ClassifierTask:
    """One training run, ready to start: data in memory, recipe checked.

    Example:
        >>> def train_robust(data, folder):  # MNIST, for example; the folder of the run
        ...     config = TrainConfig(defense="pgd", data=data, threat="linf:0.1", epochs=5)
        ...     task = ClassifierTask.from_config(config)
        ...     for step in task.run(folder):
        ...         if step.ends_epoch:
        ...             print(step.epoch, step.metrics)
        ...     return task.publish(folder)
    """

    config: TrainConfig
    recipe: ClassifierRecipe
    data: TrainingData
    device: torch.device

    @classmethod
    def from_config(cls, config: TrainConfig) -> ClassifierTask:
        """Check the settings of ``config`` and read its data.

        Raises:
            OptionError: A setting is outside what is allowed, or the method does not have it.
            DataError: The data cannot be read.
        """
        recipe = ClassifierRecipe.from_config(config)
        device = pick_device(config.device)
        data = load_training_data(
            Path(config.data),
            validation=config.validation,
            image_size=config.image_size,
            limit=config.limit,
            seed=config.seed,
            labels=config.labels,
        )
        return cls(config, recipe, data, device)

    def claim(self, folder: Path) -> None:
        """Record in ``folder`` which run it holds.

        Raises:
            OptionError: The folder holds another run.
        """
        claim_folder(folder, self._identity())

    def run(self, folder: Path, processes: ProcessGroup = ALONE) -> Iterator[TrainingStep]:
        """Train and yield after each step; ``folder`` holds the progress and resumes it.

        Args:
            folder: Folder of the run.
            processes: Processes that train together; the first one writes.

        Raises:
            OptionError: The folder holds another run, or the processes read other data.
        """
        if any(digest != self.data.digest for digest in processes.gather(self.data.digest)):
            raise OptionError(
                "The processes read other images or labels",
                "All need the same",
                f'Make the copies of "{self.config.data}" alike',
            )
        if processes.is_first:
            self.claim(folder)
        yield from train_defense(
            self.recipe,
            self.data,
            folder,
            device=self.device,
            processes=processes,
            fsdp=self.config.fsdp,
        )

    def publish(self, folder: Path, command: str = "") -> dict[str, Any]:
        """Evaluate the best weights in ``folder``, write them with their card, and return the card.

        ``command`` is the command line that the card records.
        """
        return publish_classifier(
            self.recipe, self.data, folder, data=Path(self.config.data).name, command=command
        )

    def weights_of(self, folder: Path) -> Path:
        """Return the weights file in ``folder``, which commands take as ``--model``."""
        return folder / WEIGHTS

    def _identity(self) -> dict[str, Any]:
        """Return the facts that tell this run from another, under the keys of earlier files."""
        recipe = {k: v for k, v in asdict(self.recipe).items() if k != "settings" and v is not None}
        method = {
            k: str(v) if isinstance(v, tuple) else v
            for k, v in self.recipe.build_method().settings().items()
            if k != "defence" and v is not None
        }

        return {
            **recipe,
            **method,
            "data": self.config.data,
            DATA_DIGEST: self.data.digest,
            "held": self.config.validation,
            "side": self.config.image_size,
            "limit": self.config.limit,
            **({} if self.config.labels is None else {"classes": ", ".join(self.data.classes)}),
        }
