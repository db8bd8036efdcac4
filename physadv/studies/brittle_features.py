"""Study ``features``: adversarial examples carry features that generalize (Ilyas et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from physadv.attacks.gradient import pgd
from physadv.core.rows import Row
from physadv.studies.brittle_features_page import (
    ILYAS,
    IMAGE_SETS,
    RADII,
    SHOWN,
    TRAINING_EPS,
    TRAININGS,
    features_page,
)
from physadv.studies.feature_sets import inverted_set, mislabeled_set
from physadv.studies.learning_studies_config import LEAST_SIGNS, FeaturesConfig
from physadv.studies.page import Paper
from physadv.studies.small_architectures import SmallResNet
from physadv.studies.small_classifiers import (
    StudyData,
    broken_images,
    fit_classifier,
    load_study_data,
    predict,
    subset,
)
from physadv.studies.study import Part, Study, Workspace
from physadv.training.data import ImageSubset
from physadv.training.methods.adversarial import PgdTraining
from physadv.training.methods.base import TrainingMethod

_PATH = 8.0
"""Length in l_2 of the way from an unrelated image to one with the wanted features."""


class _Bench:
    """Data set, networks and training sets of one part of the study.

    Args:
        name: Name of the data set.
        config: Configuration.
        workspace: Workspace.
    """

    def __init__(self, name: str, config: FeaturesConfig, workspace: Workspace) -> None:
        self.name, self.config, self.workspace = name, config, workspace
        self.data: StudyData = workspace.once(name, self._read)

    def _read(self) -> StudyData:
        field = IMAGE_SETS[self.name].field
        images = self.config.images if field == "data" else self.config.signs
        data = load_study_data(
            getattr(self.config, field),
            train=images if field == "data" else max(images, LEAST_SIGNS),
            test=self.config.tested,
            seed=self.config.seed,
            image_size=32,
        )
        order = torch.randperm(
            len(data.train), generator=self.workspace.generator(self.name, "order")
        )
        return replace(data, train=subset(data.train, order[:images]))

    def net(
        self, training: str, part: ImageSubset, method: TrainingMethod | None = None
    ) -> SmallResNet:
        """Return the network trained on ``part``, or load it."""
        classes = len(self.data.classes)
        net = self.workspace.net(
            f"{self.name}-{training}",
            lambda: SmallResNet(self.data.channels, classes, self.config.width),
            partial(
                fit_classifier,
                images=part,
                epochs=self.config.epochs,
                seed=self.workspace.seed_of(self.name, "batches") % 2**31,
                method=method,
                lr=4e-3,
            ),
        )
        assert isinstance(net, SmallResNet)
        return net

    def standard(self) -> SmallResNet:
        """Return the network of standard training on the data as they are."""
        return self.net("standard", self.data.train)

    def adversarial(self) -> SmallResNet:
        """Return the network of adversarial training on the data as they are."""
        method = PgdTraining(TRAINING_EPS, "l2", steps=self.config.training_steps)
        return self.net("adversarial", self.data.train, method)

    def training_set(self, training: str) -> ImageSubset:
        """Return the images of ``training`` with their labels."""
        part, labels = self.data.train, self.data.train.labels
        classes, config = len(self.data.classes), self.config
        draws = self.workspace.generator(self.name, training)
        if training in ("random-labels", "next-labels"):
            targets = (
                torch.randint(0, classes, labels.shape, generator=draws)
                if training == "random-labels"
                else (labels + 1) % classes
            )
            return mislabeled_set(
                self.standard(),
                part,
                targets,
                eps=config.mislabel_eps,
                steps=config.mislabel_steps,
            )
        if training in ("robust-set", "brittle-set"):
            net = self.adversarial() if training == "robust-set" else self.standard()
            starts = torch.randperm(len(part), generator=draws)
            return inverted_set(
                lambda x: features_of(net, x),
                part,
                starts,
                steps=config.inversion_steps,
                path=_PATH,
            )
        return part


def features_of(net: SmallResNet, images: Tensor) -> Tensor:
    """Return the pooled features (b, k) in front of the last layer.

    Args:
        net: The network.
        images: Images (b, c, h, w) in [0, 1].
    """
    features: Tensor = net.layers(images * 2 - 1).mean((2, 3))
    return features


def _measure(
    name: str, training: str, config: FeaturesConfig, workspace: Workspace
) -> Iterable[Row]:
    """Yield how a network of one training does on true test images, and pictures of its data."""
    bench = _Bench(name, config, workspace)
    pictures: list[str] = []
    seen_as = None
    if training == "adversarial":
        net = bench.adversarial()
    else:
        part = bench.training_set(training)
        if training != "standard":
            agreed = predict(bench.standard(), part.floats(slice(0, 1000))[0])
            seen_as = [int((agreed == part.labels[:1000]).sum()), len(agreed)]
        pictures = [
            workspace.save_picture(f"{name}-{training}-{k}", part.floats(slice(k, k + 1))[0][0])
            for k in range(SHOWN)
        ]
        net = bench.net(training, part)
        labels = [bench.data.classes[int(label)] for label in part.labels[:SHOWN]]
    yield {
        **_verdicts(net, bench.data, config),
        "seen_as": seen_as,
        "pictures": pictures,
        "shown_labels": labels if pictures else [],
        "train": len(bench.data.train),
        "classes": len(bench.data.classes),
    }


def _verdicts(net: nn.Module, data: StudyData, config: FeaturesConfig) -> Row:
    """Right and shifted predictions on test images, and those that withstand each radius."""
    test, labels = data.test.floats(slice(None))
    found = predict(net, test)
    images, own = test[: config.attacked], labels[: config.attacked]
    withstood = [
        int((~broken_images(pgd, net, images, own, eps=eps, norm="l2", steps=10)).sum())
        for eps in RADII
    ]
    return {
        "right": int((found == labels).sum()),
        "next": int((found == (labels + 1) % len(data.classes)).sum()),
        "most_frequent": int(torch.bincount(labels).max()),
        "tested": len(labels),
        "withstood": withstood,
        "attacked": len(images),
    }


def _parts(config: FeaturesConfig) -> list[Part]:
    return [
        Part(
            f"{name}-{training}",
            f"{images.label}: {words.lower()}",
            partial(_measure, name, training, config),
        )
        for name, images in IMAGE_SETS.items()
        if getattr(config, images.field) is not None
        for training, words in TRAININGS.items()
    ]


STUDY = Study(
    name="features",
    title="Adversarial examples are features",
    question="Is what an attack puts into an image noise, or something that holds for new images?",
    config=FeaturesConfig,
    papers=(
        ILYAS,
        Paper(
            "Engstrom et al.",
            2019,
            "A Discussion of 'Adversarial Examples Are Not Bugs, They Are Features'",
            "Distill 2019",
        ),
    ),
    parts=_parts,
    page=features_page,
)
