"""Examination of a model before an attack: how it reads images, what it answers, and doubts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn

from physadv.core.findings import Finding
from physadv.core.types import Detections
from physadv.core.wording import count_noun, format_percent
from physadv.evaluation.clean_accuracy import clean_accuracy_findings
from physadv.evaluation.data import SampleSource
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.models.cards import LoadedModel
from physadv.models.classifiers import Preprocessed
from physadv.models.detectors import PredictSettings
from physadv.models.load import is_built_in

_TOP = 3
_BATCH = 32
_SAME_ANSWER = 4
"""Pictures from which one answer to all of them is a doubt."""
_SIGNIFICANCE = 0.01
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_DECLARED = ("mean", "std", "pixel_mean", "pixel_std", "image_mean", "image_std")


@dataclass(frozen=True)
class PictureAnswer:
    """What a model answers to one picture.

    Attributes:
        name: Name of the picture.
        image: The picture (3, h, w) in [0, 1].
        answers: Its best classes with their probabilities, or a detector's boxes with scores.
        boxes: Corners (n, 4) in px of a detector's boxes; none for a classifier.
    """

    name: str
    image: Tensor
    answers: tuple[tuple[str, float], ...]
    boxes: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on labeled images, as the model is read and as it could be read.

    Attributes:
        rate: Accuracy with its 95 % Wilson interval.
        variants: Accuracy of each other way to read images, by its name.
    """

    rate: RateInterval
    variants: Mapping[str, RateInterval] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        others = {name: rate.as_dict() for name, rate in self.variants.items()}
        return {**self.rate.as_dict(), "variants": others}


def answer_pictures(model: LoadedModel, pictures: Mapping[str, Tensor]) -> list[PictureAnswer]:
    """Return what a model answers to each picture.

    Args:
        model: The model.
        pictures: Images (c, h, w) in [0, 1] of any sizes, by name.
    """
    return [_answer(model, name, image) for name, image in pictures.items()]


@torch.no_grad()
def _answer(model: LoadedModel, name: str, image: Tensor) -> PictureAnswer:
    card = model.card
    output = model(image[None].to(model.device))
    if isinstance(output, Detections):
        (found,) = PredictSettings.of(card.extra).boxes_of(output)
        boxes = tuple(tuple(box.tolist()) for box in found.boxes[:10])
        pairs = zip(found.labels[:10].tolist(), found.scores[:10].tolist(), strict=True)
        named = tuple((card.class_name(label), score) for label, score in pairs)
        return PictureAnswer(name, image.cpu(), named, boxes)
    best = output[0].float().softmax(0).topk(min(_TOP, output.shape[1]))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return PictureAnswer(
        name, image.cpu(), tuple((card.class_name(label), value) for label, value in pairs)
    )


def model_facts(model: LoadedModel, image: Tensor) -> dict[str, str]:
    """Return what a person needs to judge how a model reads images, in words by heading.

    Args:
        model: The model.
        image: Image (1, c, h, w) for the measurement of its speed.
    """
    card, net = model.card, model.net
    resizing = card.resizing
    count = sum(p.numel() for p in model.parameters()) or sum(
        b.numel() for b in model.buffers() if b.is_floating_point()
    )
    known = is_built_in(card.name)
    shown = list(card.classes[:6])
    names = f": {', '.join(shown)}{' ...' if len(card.classes) > 6 else ''}" if shown else ""
    return {
        "task": card.task,
        "input": "images of any size, as they come" if resizing is None else resizing.in_words(),
        "normalization": _normalization(net),
        "stated by": "its card" if known else str(card.extra.get("preprocessing", "nothing")),
        "classes": f"{len(card.classes) or 'unnamed'}{names}",
        "parameters": f"{count:,}",
        "speed": f"{_milliseconds(model, image):.3g} ms an image, one at a time",
        "gradient": str(card.extra.get("gradient", "yes")),
        "source": card.source,
        "sha256": card.sha256,
    }


def _normalization(net: nn.Module) -> str:
    if not isinstance(net, Preprocessed):
        return "inside the network"
    mean, std = (v.flatten().tolist() for v in (net.mean, net.std))
    parts = [f"times {net.scale:g}"] if net.scale != 1 else []
    if any(mean) or any(s != 1 for s in std):
        parts += [f"minus {_in_words(mean)}", f"divided by {_in_words(std)}"]
    order = "blue, green, red" if net.bgr else "red, green, blue"
    layout = "" if net.layout == "nchw" else ", channels last"
    return f"{', '.join(parts) or 'none before the network: [0, 1]'}; {order}{layout}"


def _in_words(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.4g}" for v in values)


@torch.no_grad()
def _milliseconds(model: LoadedModel, image: Tensor) -> float:
    """Median time of a pass over one image, of three after a first one."""
    model(image)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        output = model(image)
        (output if isinstance(output, Tensor) else output.scores).sum().item()
        times.append(time.perf_counter() - start)
    return 1000 * sorted(times)[1]


def picture_findings(model: LoadedModel, answers: Sequence[PictureAnswer]) -> list[Finding]:
    """Return doubts that need no labels: one answer to all pictures, answers near to guessing,
    batch statistics of no training, and a declared normalization that nobody uses.

    Args:
        model: The model.
        answers: What it answers to some pictures.
    """
    findings = [*_untrained(model), *_unused_normalization(model, answers)]
    if model.card.task == "detect":
        if len(answers) >= _SAME_ANSWER and not any(a.answers for a in answers):
            said = f"no box is found in any of {count_noun(len(answers), 'picture')}"
            findings.append(
                Finding(
                    "finds-nothing", said, "Give photos with its objects, or check its settings"
                )
            )
        return findings

    best = [a.answers[0] for a in answers if a.answers]
    names = {name for name, _ in best}
    if len(best) >= _SAME_ANSWER and len(names) == 1:
        said = f"all {count_noun(len(best), 'picture')} are called {next(iter(names))}"
        remedy = "Give photos of several classes; an untrained or wrongly read model answers so"
        findings.append(Finding("one-answer", said, remedy))
    classes = len(model.card.classes)
    if len(best) >= _SAME_ANSWER and classes >= 3:
        highest = max(value for _, value in best)
        if highest < 2 / classes:
            guess = 1 / classes
            said = (
                f"no class gets over {format_percent(highest)}, and guessing among {classes} is "
                f"{format_percent(guess)}"
            )
            remedy = "An untrained model answers so: check that its weights are loaded"
            findings.append(Finding("no-preference", said, remedy))
    return findings


def _untrained(model: LoadedModel) -> Iterator[Finding]:
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(m.running_mean, m.running_var) for m in norms if m.track_running_stats]
    fresh = [
        mean
        for mean, var in kept
        if mean is not None and var is not None and not mean.any() and bool(var.eq(1).all())
    ]
    if kept and len(fresh) == len(kept):
        yield Finding(
            "untrained-statistics",
            f"all {len(kept)} batch norms hold the statistics of a new network: mean 0, variance 1",
            "Load its weights, as with --weights",
        )


def _unused_normalization(
    model: LoadedModel, answers: Sequence[PictureAnswer]
) -> Iterator[Finding]:
    net = model.net
    if not isinstance(net, Preprocessed) or bool(net.mean.any()) or bool((net.std != 1).any()):
        return
    for name, part in net.net.named_modules():
        for attribute in ("default_cfg", "pretrained_cfg"):
            table = getattr(part, attribute, None)
            mean = table.get("mean") if isinstance(table, Mapping) else None
            if isinstance(table, Mapping) and isinstance(mean, list | tuple) and any(mean):
                std = tuple(table.get("std") or (1.0,))
                yield _unused(f"{attribute} of the network", tuple(mean), std)
                return
        for attribute in _DECLARED:
            value = getattr(part, attribute, None)
            if not isinstance(value, Tensor) or not value.is_floating_point() or not answers:
                continue
            if _changes_nothing(model, value, answers[0].image):
                where = f"{name}.{attribute}".strip(".")
                yield _unused(where, tuple(value.flatten().tolist()[:3]), None)
                return


def _unused(where: str, mean: tuple[float, ...], std: tuple[float, ...] | None) -> Finding:
    numbers = ",".join(f"{v:.4g}" for v in mean)
    more = "" if std is None else f" --std {','.join(f'{v:.4g}' for v in std)}"
    option = f"--mean {numbers}{more}" if std is not None else "--mean and --std"
    return Finding(
        "unused-normalization",
        f"{where} declares a normalization ({numbers}), and images are not normalized",
        f"If it was trained with it, give {option}",
    )


@torch.no_grad()
def _changes_nothing(model: LoadedModel, value: Tensor, image: Tensor) -> bool:
    """Whether another value of a buffer leaves the output as it is."""
    image = image[None].to(model.device)
    before, kept = _values(model(image)), value.clone()
    try:
        value.add_(0.37)
        return torch.equal(_values(model(image)), before)
    finally:
        value.copy_(kept)


def _values(output: Tensor | Detections) -> Tensor:
    return output if isinstance(output, Tensor) else output.scores


def examine_accuracy(model: LoadedModel, samples: SampleSource) -> tuple[Accuracy, list[Finding]]:
    """Measure a classifier's accuracy on labeled images, and that of other ways to read them.

    A way that is right significantly more often (an exact sign test over the images on which both
    differ, 1 % over all ways) is a doubt, as are an accuracy near to guessing and answers that are
    right but for the order of the classes.

    Args:
        model: A classifier.
        samples: Images with their classes.

    Returns:
        The accuracy, and the doubts.
    """
    labels = torch.tensor(samples.labels)
    answers = _predictions(model, samples, model.device)
    right = answers == labels
    count = len(model.card.classes)
    findings = clean_accuracy_findings(
        int(right.sum()), len(labels), classes=count, labels=labels.tolist(), card=model.card
    )
    variants: dict[str, Tensor] = {
        name: _predictions(run, samples, model.device) == labels
        for name, run in _other_ways(model).items()
    }
    gains = {
        name: int((other & ~right).sum()) - int((right & ~other).sum())
        for name, other in variants.items()
        if _is_better(other, right, len(variants))
    }
    order, ordered = _class_order(answers, labels, model)
    name = max(gains, key=gains.__getitem__, default="")
    if name and float(variants[name].float().mean()) >= ordered:
        said = (
            f"{int(variants[name].sum())} of {count_noun(len(labels), 'image')} are right {name}, "
            f"and {int(right.sum())} as it is read now"
        )
        findings.append(Finding("read-otherwise", said, _REMEDIES[name]))
    findings += order
    rates = {name: _rate(other) for name, other in variants.items()}
    return Accuracy(_rate(right), rates), findings


def _rate(right: Tensor) -> RateInterval:
    return wilson_interval(int(right.sum()), len(right))


_BGR, _RGB = "with red and blue swapped", "with red and blue not swapped"
_NORMALIZED, _PLAIN = "with ImageNet's mean and std", "without mean and std"
_BYTES, _UNIT = "on images of 0 to 255", "on images of 0 to 1"
_REMEDIES = {
    _BGR: "Give --bgr",
    _RGB: "Leave --bgr out",
    _NORMALIZED: "Give --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
    _PLAIN: "Give --mean 0 --std 1",
    _BYTES: "Give --scale 255",
    _UNIT: "Give --scale 1",
}


def _other_ways(model: LoadedModel) -> dict[str, Callable[[Tensor], Any]]:
    """The model with images read otherwise, by what is other."""
    net = model.net
    if not isinstance(net, Preprocessed):
        return {_BGR: lambda images: model(images.flip(1))}

    def changed(**settings: Any) -> Preprocessed:
        plain: dict[str, Any] = {
            "task": net.task,
            "mean": net.mean.flatten().tolist(),
            "std": net.std.flatten().tolist(),
            "resizing": net.resizing,
            "outputs": net.outputs,
            "bgr": net.bgr,
            "scale": net.scale,
            "layout": net.layout,
            "classes": net.classes,
            "gray": net.gray,
        }
        return Preprocessed(net.net, **{**plain, **settings}).eval().to(model.device)

    gray = model.card.extra.get("channels") == 1
    ways = {} if gray else {_RGB if net.bgr else _BGR: changed(bgr=not net.bgr)}
    if bool(net.mean.any()) or bool((net.std != 1).any()):
        ways[_PLAIN] = changed(mean=None, std=None)
    elif not gray:
        ways[_NORMALIZED] = changed(scale=1.0, **_IMAGENET)
    if net.scale != 1:
        ways[_UNIT] = changed(scale=1.0)
    elif not bool(net.mean.any()):
        ways[_BYTES] = changed(scale=255.0)
    return dict(ways)


@torch.no_grad()
def _predictions(
    run: Callable[[Tensor], Any], samples: SampleSource, device: torch.device
) -> Tensor:
    """Best class (n,) of each image."""
    found = []
    for start in range(0, len(samples), _BATCH):
        images = samples.images(range(start, min(start + _BATCH, len(samples))))
        found.append(run(images.to(device)).argmax(1).cpu())
    return torch.cat(found)


def _is_better(other: Tensor, right: Tensor, ways: int) -> bool:
    gained, lost = int((other & ~right).sum()), int((right & ~other).sum())
    if gained <= lost:
        return False
    test = stats.binomtest(gained, gained + lost, 0.5, alternative="greater")
    return bool(test.pvalue < _SIGNIFICANCE / ways)


def _class_order(
    answers: Tensor, labels: Tensor, model: LoadedModel
) -> tuple[list[Finding], float]:
    """A doubt where answers are right by another order of the classes, which one half of the images
    tells and the other half confirms; and the share that is right by it, 0 without a doubt."""
    first, second = slice(0, None, 2), slice(1, None, 2)
    mapping: dict[int, int] = {}
    for label in sorted(set(labels[first].tolist())):
        counts = Counter(answers[first][labels[first] == label].tolist())
        mapping[label] = counts.most_common(1)[0][0]
    if len(set(mapping.values())) < max(2, len(mapping) / 2):
        return [], 0.0
    mapped = torch.tensor([mapping.get(label, -1) for label in labels[second].tolist()])
    other, right = answers[second] == mapped, answers[second] == labels[second]
    if not _is_better(other, right, 1):
        return [], 0.0
    wrong = [label for label, answer in mapping.items() if label != answer][:3]
    name = model.card.class_name
    shown = ", ".join(f"{name(label)} is called {name(mapping[label])}" for label in wrong)
    found = Finding(
        "class-order",
        f"by another order of the classes {int(other.sum())} of {count_noun(len(other), 'image')} "
        f"are right, and {int(right.sum())} by this one: {shown}",
        "Give --classes in the model's order, or --labels for the data's",
    )
    return [found], float(other.float().mean())
