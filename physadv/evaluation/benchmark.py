"""Robust accuracy in RobustBench's protocol: its images in their order, preprocessing and radii."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torch import nn

from physadv.core.errors import DataError, OptionError
from physadv.core.image_io import Array, to_tensor
from physadv.core.number_checks import check_whole
from physadv.core.random_streams import drawn_positions
from physadv.core.text import read_text
from physadv.core.wording import count_noun
from physadv.datasets import ImageDataset, read_dataset
from physadv.datasets.known_sets import known_set, sets_with
from physadv.datasets.summary import CLASS_FOLDERS
from physadv.evaluation.evaluate import EvaluationResult, evaluate
from physadv.models.cards import ModelCard
from physadv.models.resizing import InputResizing
from physadv.threat.constraints import LpBall
from physadv.threat.parsing import NORMS, NormLike, parse_eps, parse_norm, parse_threat

_IMAGENET_ORDER = Path(__file__).resolve().parent / "robustbench_imagenet.txt"

PREPROCESSINGS: dict[str, InputResizing] = {
    "Res256Crop224": InputResizing((224, 224), short_side=256),
    "BicubicRes256Crop224": InputResizing((224, 224), short_side=256, interpolation="bicubic"),
    "Res224": InputResizing((224, 224), fit="stretch"),
}
"""Preprocessings of ImageNet's images by RobustBench's names."""


@dataclass(frozen=True)
class BenchmarkProtocol:
    """What RobustBench evaluates on a data set.

    Attributes:
        known_set: Name of the data set.
        images: Number of images.
        radii: Radius of each norm, as text; norms that it does not rank are left out.
        folders: Names below ``data_dir`` that are looked for, in order.
    """

    known_set: str
    images: int
    radii: Mapping[str, str]
    folders: tuple[str, ...]


PROTOCOLS: dict[str, BenchmarkProtocol] = {
    "cifar10": BenchmarkProtocol(
        "CIFAR-10",
        10_000,
        {"linf": "8/255", "l2": "0.5"},
        ("cifar-10-batches-bin", "cifar10", "cifar10.zip", "cifar10.npz"),
    ),
    "cifar100": BenchmarkProtocol(
        "CIFAR-100",
        10_000,
        {"linf": "8/255"},
        ("cifar-100-binary", "cifar100", "cifar100.zip", "cifar100.npz"),
    ),
    "imagenet": BenchmarkProtocol(
        "ImageNet", 5_000, {"linf": "4/255"}, ("imagenet/val", "val", "imagenet")
    ),
}


def benchmark(
    model: nn.Module | str | Path,
    data: str | Path | Any = "cifar10",
    threat: str | tuple[NormLike, str | float] | LpBall = "Linf",
    *,
    images: int | None = None,
    data_dir: str | Path = "data",
    preprocessing: str | None = None,
    batch_size: int = 128,
    out: str | Path | None = None,
    on_progress: Callable[[Any], None] | None = None,
    **settings: Any,
) -> EvaluationResult:
    """Measure robust accuracy on the images, and at the radius, of RobustBench's leaderboards.

    Of a data set in its own order (CIFAR's binary files, a torch Dataset, arrays) the first images
    are taken, of ImageNet those of RobustBench's list in its order. Class folders have lost the
    order of CIFAR: fewer than all are then drawn at random, always the same, and ``facts`` says so.
    The attacks are those of :func:`physadv.evaluate`.

    Args:
        model: a torch.nn.Module that maps images (b, c, h, w) in [0, 1] to logits (b, classes), or
            the name, file or ``module:factory`` of one.
        data: ``"cifar10"``, ``"cifar100"`` or ``"imagenet"``, looked for below ``data_dir``; or a
            path, or anything else that :func:`physadv.evaluate` takes as data.
        threat: ``"Linf"`` or ``"L2"`` with the radius of the leaderboard (CIFAR 8/255 and 0.5,
            ImageNet 4/255), or a norm and a radius as in ``"linf:4/255"``.
        images: number of images; None for the leaderboard's own, 10,000 or 5,000 of ImageNet.
        data_dir: folder where a data set given by name lies; nothing is downloaded.
        preprocessing: RobustBench's name of how ImageNet's images are brought to one size,
            ``"Res256Crop224"``, ``"BicubicRes256Crop224"`` or ``"Res224"``; None is what the model
            states, and the first of these for one that states nothing.
        batch_size: images at a time.
        out: a folder that records the run and that an interrupted run resumes from.
        on_progress: called after each stage of each batch with an EvaluationProgress.
        **settings: further settings of :func:`physadv.evaluation.evaluate.prepare_evaluation`.

    Returns:
        The result; ``facts["protocol"]`` says which images were taken, and ``spent_on_unbroken``
        how many forward passes were spent on those that stood.

    Raises:
        DataError: the data set is not below ``data_dir``, or lacks images of RobustBench's list.
        OptionError: a norm without a radius that no leaderboard has, or an unknown preprocessing.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
        >>> test_set = torch.rand(6, 3, 32, 32), torch.arange(6)
        >>> result = benchmark(net, test_set, "linf:8/255", images=4)
        >>> result.robust_accuracy.n, result.facts["protocol"]
        (4, 'the first 4 of 6 images')
    """
    if preprocessing is None and isinstance(model, nn.Module) and not _states_resizing(model):
        preprocessing = "Res256Crop224"
    chosen, protocol, words = _chosen_images(data, Path(data_dir), images, preprocessing)
    result = evaluate(
        model,
        chosen,
        _threat_of(threat, protocol),
        batch_size=batch_size,
        out=out,
        on_progress=on_progress,
        **settings,
    )
    return replace(result, facts={**result.facts, "protocol": words})


def _states_resizing(model: nn.Module) -> bool:
    """Whether a module says how images are brought to its input."""
    card = getattr(model, "card", None)
    return isinstance(card, ModelCard) and card.resizing is not None


def _threat_of(
    threat: str | tuple[NormLike, str | float] | LpBall, protocol: BenchmarkProtocol | None
) -> tuple[NormLike, str | float] | LpBall:
    """The threat with the leaderboard's radius where a norm stands alone."""
    if isinstance(threat, LpBall) or not isinstance(threat, str):
        return threat
    if ":" in threat:
        return parse_threat(threat)
    if threat.lower().startswith("corruptions"):
        raise OptionError(
            f"threat {threat!r}", "Common corruptions are not evaluated here", "Use Linf or L2"
        )
    norm = parse_norm(threat)
    radii = {} if protocol is None else protocol.radii
    if norm not in radii:
        ranked = ", ".join(f"{n}:{radii[n]}" for n in NORMS if n in radii) or "none"
        raise OptionError(
            f"threat {threat!r} without a radius",
            f"leaderboards of these data: {ranked}",
            f"Write {norm}:RADIUS",
        )
    return norm, parse_eps(radii[norm], norm)


def _chosen_images(
    data: Any, data_dir: Path, images: int | None, preprocessing: str | None
) -> tuple[Any, BenchmarkProtocol | None, str]:
    """The images, the protocol they belong to, and which they are in words."""
    if preprocessing is not None and preprocessing not in PREPROCESSINGS:
        known = ", ".join(PREPROCESSINGS)
        raise OptionError(f"preprocessing {preprocessing!r}", known, "Choose one of these")
    check_whole(images=images)

    if isinstance(data, str) and data.lower().replace("-", "") in PROTOCOLS:
        name = data.lower().replace("-", "")
        data = read_dataset(_folder_of(name, data_dir), split=_split_of(name))
    elif isinstance(data, str | Path):
        data = read_dataset(data, split=None if _is_imagenet_val(data) else "test")
    if not isinstance(data, ImageDataset):
        return _first_of(data, images)

    protocol = _protocol_of(data)
    if protocol is None or protocol.known_set != "ImageNet":
        numbers, words = _in_order(data, images or (protocol.images if protocol else None))
        return data.subset(numbers), protocol, words
    numbers, words = _of_list(data, images or protocol.images)
    chosen = data.subset(numbers)
    if preprocessing is not None:
        chosen, words = _resized(chosen, PREPROCESSINGS[preprocessing]), f"{words}, {preprocessing}"
    return chosen, protocol, words


def _folder_of(name: str, data_dir: Path) -> Path:
    """The folder or file below ``data_dir`` that holds a known data set."""
    protocol = PROTOCOLS[name]
    places = [data_dir / folder for folder in protocol.folders]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise DataError(
            f"{data_dir}: no {protocol.known_set}",
            f"looked for {', '.join(protocol.folders)}; nothing is downloaded",
            "Name data_dir, or give the path of the data set itself",
        )
    return place


def _split_of(name: str) -> str | None:
    return None if name == "imagenet" else "test"


def _is_imagenet_val(path: str | Path) -> bool:
    """Whether a path is a folder of ImageNet's validation images itself, which has no parts."""
    return PurePosixPath(str(path)).name == "val"


def _protocol_of(data: ImageDataset) -> BenchmarkProtocol | None:
    """The protocol of a data set with the classes of a known one; None for others."""
    known = data.summary.known_set
    if not known:
        return _protocol_with(data.classes)
    return next((p for p in PROTOCOLS.values() if p.known_set == known), None)


def _protocol_with(classes: Sequence[str]) -> BenchmarkProtocol | None:
    """The protocol whose data set has these classes; of ImageNet, some of them are enough."""
    names = {known.name for known in sets_with(classes)} if classes else set()
    for protocol in PROTOCOLS.values():
        complete = len(known_set(protocol.known_set).classes) == len(classes)
        if protocol.known_set in names and (complete or protocol.known_set == "ImageNet"):
            return protocol
    return None


def _first_of(data: Any, images: int | None) -> tuple[Any, BenchmarkProtocol | None, str]:
    """The first images of data that are no files, in the order they have."""
    if isinstance(data, tuple | list) and len(data) == 2 and hasattr(data[0], "__len__"):
        count = len(data[0])
        first = min(images or count, count)
        return (
            (data[0][:first], data[1][:first]),
            None,
            f"the first {first} of {count_noun(count, 'image')}",
        )
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        protocol = _protocol_with(getattr(data, "classes", None) or ())
        count = len(data)
        first = min(images or (protocol.images if protocol else count), count)
        return _First(data, first), protocol, f"the first {first} of {count_noun(count, 'image')}"
    if images is not None:
        raise OptionError(
            f"{count_noun(images, 'image')} of a {type(data).__name__}",
            "it has no first ones that could be counted",
            "Pass its data set, or tensors",
        )
    return data, None, "all images"


@dataclass(frozen=True)
class _First:
    """The first ``count`` items of a data set, with the class names that it has."""

    data: Any
    count: int

    @property
    def dataset(self) -> Any:
        """The data set itself, which may name its classes."""
        return self.data

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.data[index]


def _in_order(data: ImageDataset, images: int | None) -> tuple[Sequence[int], str]:
    """The first images where the data set has an order, else drawn ones."""
    count = len(data)
    first = min(images or count, count)
    if first == count:
        return range(count), f"all {count_noun(count, 'image')}"
    if data.summary.layout != CLASS_FOLDERS:
        return range(first), f"the first {first} of {count_noun(count, 'image')}"
    words = (
        f"{first} of {count_noun(count, 'image')}, drawn at random: class folders keep no order "
        "of the set"
    )
    return drawn_positions(count, first, seed=0).tolist(), words


def _of_list(data: ImageDataset, images: int) -> tuple[Sequence[int], str]:
    """The first ``images`` of RobustBench's list; of another set of ImageNet's classes, drawn
    ones."""
    listed = [
        int(word)
        for line in read_text(_IMAGENET_ORDER).splitlines()
        if not line.startswith("#")
        for word in line.split()
    ]
    by_number = {}
    for position, name in enumerate(data.names):
        stem = PurePosixPath(name).stem
        if "_val_" in stem and stem.rsplit("_", 1)[1].isdigit():
            by_number[int(stem.rsplit("_", 1)[1])] = position
    if not by_number:
        return _in_order(data, images)

    wanted = listed[:images]
    missing = [number for number in wanted if number not in by_number]
    if missing:
        raise DataError(
            f"{data.summary.path or 'ImageNet'}: {len(missing)} of "
            f"{count_noun(len(wanted), 'image')}",
            f"are not there, first ILSVRC2012_val_{missing[0]:08d}",
            "Give the whole validation set",
        )
    words = f"the first {len(wanted)} of the 5000 images of RobustBench's list"
    return [by_number[number] for number in wanted], words


def _resized(data: ImageDataset, resizing: InputResizing) -> ImageDataset:
    """The same images, brought to one size and rounded to 8 bits."""

    def read(index: int) -> Array:
        image = resizing(to_tensor(data.read(index))[None])[0].clamp(0, 1)
        return np.ascontiguousarray(image.mul(255).round().byte().permute(1, 2, 0).numpy())

    height, width = resizing.size
    return replace(data, read=read, header_size=lambda index: (width, height))
