"""Study ``cost``: what robust training costs in accuracy, and when (Tsipras et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from math import ceil, sqrt

import numpy as np
import torch
from torch import nn

from physadv.attacks.gradient import pgd
from physadv.core.rows import Row
from physadv.models.architectures.cnn import build_network
from physadv.studies.accuracy_cost_page import (
    IMAGE_SETS,
    MODEL_RADII,
    MODEL_SIZES,
    SHARES,
    TSIPRAS,
    ImageSet,
    cost_page,
)
from physadv.studies.learning_studies_config import LEAST_SIGNS, CostConfig
from physadv.studies.odds_model import OddsModel, train_linear
from physadv.studies.page import Paper
from physadv.studies.small_classifiers import (
    StudyData,
    accuracy,
    broken_images,
    fit_classifier,
    load_study_data,
    subset,
)
from physadv.studies.study import Part, Study, Workspace
from physadv.training.methods.adversarial import PgdTraining
from physadv.training.methods.base import StandardTraining, TrainingMethod


def _measure_plane(config: CostConfig, workspace: Workspace) -> Iterable[Row]:
    """Yield both accuracies of classifiers between the weak coordinates and the strong one."""
    model, trials = OddsModel(config.weak), config.scaled(200, 2000, 20_000)
    for k, share in enumerate(SHARES):
        weights = model.mixed(share)
        draws = workspace.numpy_generator("plane", k)
        yield {
            "kind": "mixed",
            "share": share,
            "standard": model.accuracy(weights),
            "robust": model.accuracy(weights, model.eps),
            "right": model.count_correct(weights, 0.0, trials, draws),
            "right_attacked": model.count_correct(weights, model.eps, trials, draws),
            "trials": trials,
        }
    for factor in MODEL_RADII[:3]:
        draws = workspace.numpy_generator("plane-trained", round(100 * factor))
        many = config.scaled(500, 10_000, 50_000)
        weights = train_linear(*model.draw(many, draws), factor * model.eta, rate=0.05)
        yield {
            "kind": "trained",
            "factor": factor,
            "standard": model.accuracy(weights),
            "robust": model.accuracy(weights, model.eps),
        }


def _measure_model(config: CostConfig, workspace: Workspace) -> Iterable[Row]:
    """Yield the mean accuracy of trained classifiers by size of the training set."""
    model = OddsModel(config.weak)
    for n in MODEL_SIZES[: config.scaled(3, len(MODEL_SIZES), len(MODEL_SIZES))]:
        found: dict[float, list[float]] = {factor: [] for factor in MODEL_RADII}
        for repeat in range(config.repeats if n <= 300 else max(2, config.repeats // 2)):
            samples = model.draw(n, workspace.numpy_generator("model", n, repeat))
            for factor in MODEL_RADII:
                weights = train_linear(*samples, factor * model.eta, rate=0.05)
                found[factor].append(model.accuracy(weights))
        for factor, values in found.items():
            deviation = float(np.std(values, ddof=1)) / sqrt(len(values))
            yield {
                "n": n,
                "factor": factor,
                "accuracy": float(np.mean(values)),
                "deviation": deviation,
                "repeats": len(values),
            }


def _measure_images(
    images: ImageSet, eps: float, config: CostConfig, workspace: Workspace
) -> Iterable[Row]:
    """Yield both accuracies of networks trained at ``eps``, by size of the training set."""
    data = workspace.once(images.name, lambda: _read(images, config, workspace))
    order = torch.randperm(len(data.train), generator=workspace.generator(images.name, "order"))
    test, labels = data.test.floats(slice(None))
    for n in config.sizes(len(data.train)):
        part = subset(data.train, order[:n])
        method: TrainingMethod = (
            PgdTraining(eps, steps=config.attack_steps) if eps else StandardTraining()
        )
        net = workspace.net(
            f"{images.name}-{n}-{eps:.4f}",
            partial(_build, data),
            partial(
                fit_classifier,
                images=part,
                epochs=max(3, ceil(config.seen / n)),
                seed=workspace.seed_of(images.name, n) % 2**31,
                method=method,
            ),
        )
        clean = accuracy(net, test, labels)
        attacked = slice(0, config.attacked)
        broken = broken_images(
            pgd, net, test[attacked], labels[attacked], eps=images.radii[-1], steps=10
        )
        yield {
            "n": n,
            "eps": eps,
            "right": round(clean.rate * clean.n),
            "tested": clean.n,
            "withstood": int((~broken).sum()),
            "attacked": len(broken),
        }


def _read(images: ImageSet, config: CostConfig, workspace: Workspace) -> StudyData:
    # Some of the images that are read are held out for validation, which is not needed here.
    most = round(1.03 * config.sizes(1 << 40)[-1]) + 10
    if images.field == "gtsrb_data":
        most = max(most, LEAST_SIGNS)
    path = config.data if images.field == "data" else config.gtsrb_data
    assert path is not None
    return load_study_data(
        path, train=most, test=config.tested, seed=config.seed, image_size=images.side
    )


def _build(data: StudyData) -> nn.Module:
    return build_network(
        "small-cnn", channels=data.channels, side=data.image_size, classes=len(data.classes)
    )


def _parts(config: CostConfig) -> list[Part]:
    parts = [
        Part("plane", "both accuracies in the theorem's model", partial(_measure_plane, config)),
        Part("model", "accuracy against samples, model", partial(_measure_model, config)),
    ]
    for images in IMAGE_SETS:
        if getattr(config, images.field) is not None:
            parts += [
                Part(
                    f"{images.name}-{number}",
                    f"accuracy against samples, {images.label}, {images.in_words(eps)}",
                    partial(_measure_images, images, eps, config),
                )
                for number, eps in enumerate(images.radii)
            ]
    return parts


STUDY = Study(
    name="cost",
    title="What robustness costs in accuracy",
    question="Does training against an adversary make a classifier better or worse on unchanged "
    "images?",
    config=CostConfig,
    papers=(
        TSIPRAS,
        Paper(
            "Schmidt et al.",
            2018,
            "Adversarially Robust Generalization Requires More Data",
            "NeurIPS 2018, arXiv:1804.11285",
        ),
    ),
    parts=_parts,
    page=cost_page,
)
