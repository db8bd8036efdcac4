"""Study ``training``: adversarial trainings, their cost, overfitting and capacity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from physadv.attacks.gradient import fgsm, pgd
from physadv.core.rows import Row
from physadv.models.architectures.cnn import SmallCNN, build_network
from physadv.studies.learning_studies_config import TrainingStudyConfig
from physadv.studies.page import Paper
from physadv.studies.robust_training_page import (
    FREE,
    METHODS,
    PHOTO_EPS,
    WIDTH_TRAININGS,
    training_page,
)
from physadv.studies.small_classifiers import (
    BATCH,
    StudyData,
    accuracy,
    broken_images,
    fit_classifier,
    load_study_data,
    subset,
)
from physadv.studies.study import Part, Study, Workspace
from physadv.training.data import ImageSubset, ShuffledBatches
from physadv.training.loop import TrainingSchedule, train_model
from physadv.training.methods.adversarial import (
    FgsmTraining,
    FreeTraining,
    GradientPenalty,
    PgdTraining,
    TradesTraining,
)
from physadv.training.methods.base import StandardTraining, TrainingMethod
from physadv.training.methods.fast import FastTraining


def method_named(name: str, eps: float) -> TrainingMethod:
    """Return the training method that the study calls ``name``, newly built.

    Args:
        name: One of the page's methods, such as "pgd-7" or "free-4".
        eps: Radius of the adversary in l_inf.
    """
    kind, _, number = name.partition("-")
    makers: dict[str, Callable[[], TrainingMethod]] = {
        "standard": StandardTraining,
        "gradient": GradientPenalty,
        "fgsm": lambda: FgsmTraining(eps, mix=0.0),
        "fast": lambda: FastTraining(eps),
        "free": lambda: FreeTraining(eps, replays=int(number)),
        "pgd": lambda: PgdTraining(eps, steps=int(number)),
        "trades": lambda: TradesTraining(eps, steps=int(number)),
    }
    return makers[kind]()


def _digits(config: TrainingStudyConfig, workspace: Workspace) -> StudyData:
    def read() -> StudyData:
        # Some of the images that are read are held out for validation, which is not needed here.
        most = round(1.03 * max(config.images, config.width_images)) + 10
        return load_study_data(config.data, train=most, test=config.tested, seed=config.seed)

    return workspace.once("digits", read)


def _fit_counted(
    net: nn.Module, part: ImageSubset, method: TrainingMethod, epochs: int, seed: int
) -> float:
    """Train ``net`` in place and return how often each image of each epoch was passed forward."""
    passed = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal passed
        passed += len(inputs[0])

    hook = net.register_forward_hook(count)
    fit_classifier(net, part, epochs=epochs, seed=seed, method=method)
    hook.remove()
    batch = min(BATCH, len(part))
    return passed / (epochs * (len(part) // batch) * batch)


def _measure_method(name: str, config: TrainingStudyConfig, workspace: Workspace) -> Iterable[Row]:
    """Yield both accuracies of a network trained by one method, and its cost in passes."""
    data = _digits(config, workspace)
    part = subset(data.train, torch.arange(min(config.images, len(data.train))))
    passes: list[float] = []

    def fit(net: nn.Module) -> None:
        method, seed = method_named(name, config.eps), workspace.seed_of("batches") % 2**31
        passes.append(_fit_counted(net, part, method, config.epochs, seed))

    # Not kept on disk: a loaded network has no cost.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(workspace.seed_of("net") % 2**63)
        net = build_network(
            "small-cnn",
            channels=data.channels,
            side=data.image_size,
            classes=len(data.classes),
        )
    workspace.tell(f"training {name}")
    fit(net)
    yield {
        "method": name,
        "passes": passes[0],
        "train": len(part),
        **_verdicts(net.eval().requires_grad_(False), data.test, config, config.eps),
    }


def _verdicts(net: nn.Module, test: ImageSubset, config: TrainingStudyConfig, eps: float) -> Row:
    """Images that are right unchanged, after one step, and after many."""
    images, labels = test.floats(slice(None))
    clean = accuracy(net, images, labels)
    images, labels = images[: config.attacked], labels[: config.attacked]
    one = broken_images(fgsm, net, images, labels, eps=eps)
    many = broken_images(pgd, net, images, labels, eps=eps, steps=config.test_steps)
    return {
        "right": round(clean.rate * clean.n),
        "tested": clean.n,
        "withstood_fgsm": int((~one).sum()),
        "withstood": int((~(one | many)).sum()),
        "attacked": len(labels),
    }


def _measure_epochs(config: TrainingStudyConfig, workspace: Workspace) -> Iterable[Row]:
    """Yield errors on training and test images as PGD training goes on."""
    data, eps = _few_images(config, workspace)
    count = min(config.few_images, len(data.train))
    part = subset(data.train, torch.arange(count))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(workspace.seed_of("long", "net") % 2**63)
        net = build_network(
            "wide-cnn" if data.channels == 3 else "small-cnn",
            channels=data.channels,
            side=data.image_size,
            classes=len(data.classes),
        )
    seed = workspace.seed_of("long", "batches") % 2**31
    batches = ShuffledBatches(part, size=min(BATCH, count), seed=seed)
    schedule = TrainingSchedule(
        config.long_epochs, batches.steps, lr=3e-3, average=0.9, precision="fp32"
    )
    every = max(1, config.long_epochs // 15)
    method = PgdTraining(eps, steps=config.pgd_steps)
    for step in train_model(net, batches, schedule, defense=method, seed=seed):
        if step.ends_epoch and (step.epoch % every == 0 or step.epoch == 1):
            workspace.tell(f"epoch {step.epoch} of {config.long_epochs}")
            yield {
                "epoch": step.epoch,
                "eps": eps,
                "train": count,
                **_errors(step.average, data.test, part, config, eps),
            }


def _errors(
    net: nn.Module,
    test: ImageSubset,
    part: ImageSubset,
    config: TrainingStudyConfig,
    eps: float,
) -> Row:
    """Counts of errors on test and training images, under attack and not."""
    attacked = min(config.attacked, len(test), len(part))
    images, labels = test.floats(slice(None))
    clean = accuracy(net, images, labels)
    row: Row = {"tested": clean.n, "wrong": clean.n - round(clean.rate * clean.n)}
    for name, images_of in (("test", test), ("train", part)):
        x, y = images_of.floats(slice(0, attacked))
        broken = broken_images(pgd, net, x, y, eps=eps, steps=max(3, config.test_steps // 2))
        row[f"broken_{name}"] = int(broken.sum())
    return {**row, "attacked": attacked}


def _few_images(config: TrainingStudyConfig, workspace: Workspace) -> tuple[StudyData, float]:
    """Data and radius of the long training: small photos where they are given."""
    if config.cifar10_data is None:
        return _digits(config, workspace), config.eps
    photos = load_study_data(
        config.cifar10_data,
        train=round(1.03 * config.few_images) + 10,
        test=config.tested,
        seed=config.seed,
    )
    return photos, PHOTO_EPS


def _measure_width(width: int, config: TrainingStudyConfig, workspace: Workspace) -> Iterable[Row]:
    """Yield accuracies of networks of one width, trained against three adversaries."""
    data = _digits(config, workspace)
    part = subset(data.train, torch.arange(min(config.width_images, len(data.train))))
    for training in WIDTH_TRAININGS:
        name = f"pgd-{config.pgd_steps}" if training == "pgd" else training
        net = workspace.net(
            f"width-{width}-{training}",
            lambda: SmallCNN(
                data.channels,
                data.image_size,
                len(data.classes),
                (2 * width, 4 * width, 64),
                norm=False,
            ),
            partial(
                fit_classifier,
                images=part,
                epochs=config.width_epochs,
                seed=workspace.seed_of("width", "batches") % 2**31,
                method=method_named(name, config.eps),
            ),
        )
        yield {
            "width": width,
            "training": training,
            **_verdicts(net, data.test, config, config.eps),
        }


def _parts(config: TrainingStudyConfig) -> list[Part]:
    return [
        *(
            Part(f"method-{name}", f"training: {words}", partial(_measure_method, name, config))
            for name, words in METHODS.items()
        ),
        Part("epochs", "robust error over epochs", partial(_measure_epochs, config)),
        *(
            Part(f"width-{width}", f"width {width}", partial(_measure_width, width, config))
            for width in config.widths
        ),
    ]


STUDY = Study(
    name="training",
    title="Adversarial training: cost, overfitting, capacity",
    question="What does it take to train a network that withstands an adversary?",
    config=TrainingStudyConfig,
    papers=(
        Paper(
            "Madry et al.",
            2017,
            "Towards Deep Learning Models Resistant to Adversarial Attacks",
            "ICLR 2018, arXiv:1706.06083",
        ),
        FREE,
        Paper(
            "Wong, Rice and Kolter",
            2020,
            "Fast Is Better than Free: Revisiting Adversarial Training",
            "ICLR 2020, arXiv:2001.03994",
        ),
        Paper(
            "Zhang et al.",
            2019,
            "Theoretically Principled Trade-off between Robustness and Accuracy",
            "ICML 2019, arXiv:1901.08573",
        ),
        Paper(
            "Ross and Doshi-Velez",
            2017,
            "Improving the Adversarial Robustness and Interpretability of Deep Neural Networks by "
            "Regularizing Their Input Gradients",
            "AAAI 2018, arXiv:1711.09404",
        ),
        Paper(
            "Rice, Wong and Kolter",
            2020,
            "Overfitting in Adversarially Robust Deep Learning",
            "ICML 2020, arXiv:2002.11569",
        ),
    ),
    parts=_parts,
    page=training_page,
)
