"""Recipe of the built-in model ``signs``: data, training run, evaluation, weights and card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from torch import nn

from physadv.core.errors import DataError, ModelError, OptionError
from physadv.core.files import digest_of, sha256_of, write_text
from physadv.core.image_io import Array
from physadv.core.lights import worst_light
from physadv.core.random_streams import numpy_generator
from physadv.core.rows import Row, replace_rows
from physadv.core.stop_signs import PLAIN
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.core.tensor_files import write_tensors
from physadv.core.wording import count_noun
from physadv.datasets import DatasetSummary, ImageDataset, read_dataset
from physadv.datasets.class_matching import match_classes
from physadv.datasets.gtsrb import HELD_OUT, SPLIT_SEED
from physadv.datasets.summary import sizes_in_words
from physadv.defenses.load_model import load_model
from physadv.eot.scenes.sign_faces import HELD_OUT_FACES, TRAINING_FACES, UNREAD_FACES
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.models.architectures.signnet import (
    BACKGROUND,
    CLASSES,
    INPUT_PX,
    NAMES,
    SignNet,
    count_parameters,
)
from physadv.training.config import TrainSignsConfig
from physadv.training.loop import (
    Batch,
    TrainingSchedule,
    TrainingStep,
    load_average,
    seed_all,
    train_model,
)
from physadv.training.methods.base import TrainingMethod
from physadv.training.methods.by_name import method_by_name
from physadv.training.sign_classifier.batches import BatchMix, SignBatches
from physadv.training.sign_classifier.canvases import BackgroundPhotos, load_photos, sign_canvases
from physadv.training.sign_classifier.validation import (
    DRAWN_SETS,
    accuracy_findings,
    accuracy_rates,
    judge_crops,
    judge_drawn_faces,
    judge_stop_photos,
    judge_tracks,
    named_photos,
    read_sign_boxes,
    stop_rate_by_face,
    stop_share_by_sign,
)

CHECKPOINT, WEIGHTS, CARD, ROWS = (
    "checkpoint.safetensors",
    "signs.safetensors",
    "signs.toml",
    "rows.jsonl",
)
LICENSE = (
    "The weights are given under Apache-2.0 as far as their makers can; they were trained on "
    "research data sets "
    "(GTSRB; photos of BSDS500 and ImageNet) whose terms may bind commercial use."
)


@dataclass(frozen=True)
class SignRecipe:
    """Everything that decides the weights, apart from the content of the data.

    The held-out fifth of tracks and photos is fixed and does not depend on ``seed``.

    Attributes:
        data: GTSRB in its official layout.
        backgrounds: Folders of photos without signs of its classes.
        epochs: Epochs.
        steps: Steps an epoch.
        batch: Samples in a batch.
        lr: Peak of the learning rate.
        precision: "fp32" or "bf16".
        seed: Seed of weights and batches.
        mix: Shares of the kinds of samples.
        defense: Training method; None for plain training.
        start: File of weights to start from, or "signs" for the built-in ones; None to draw them.
    """

    data: Path
    backgrounds: tuple[Path, ...] = ()
    epochs: int = TrainSignsConfig.epochs
    steps: int = TrainSignsConfig.epoch_steps
    batch: int = TrainSignsConfig.batch_size
    lr: float = TrainSignsConfig.lr
    precision: str = TrainSignsConfig.precision
    seed: int = 0
    mix: BatchMix = field(default_factory=BatchMix)
    defense: TrainingMethod | None = None
    start: str | None = None

    @classmethod
    def from_config(cls, config: TrainSignsConfig) -> SignRecipe:
        """Return the part of ``config`` that decides the weights.

        Raises:
            OptionError: The defense is unknown or does not have a setting.
        """
        method = None
        if config.defense is not None:
            method = method_by_name(config.defense, config.method_settings)

        return cls(
            Path(config.data),
            tuple(Path(folder) for folder in config.backgrounds),
            config.epochs,
            config.epoch_steps,
            config.batch_size,
            config.lr,
            config.precision,
            config.seed,
            BatchMix.of_faces(config.faces, config.hardest),
            defense=method,
            start=config.start,
        )

    @property
    def name(self) -> str:
        """Name of the trained model: "signs", with a defense "signs-masked" and the like."""
        return (
            "signs"
            if self.defense is None
            else f"signs-{self.defense.settings()['defence'].lower()}"
        )

    @property
    def schedule(self) -> TrainingSchedule:
        """Length and speed of the training."""
        return TrainingSchedule(self.epochs, self.steps, lr=self.lr, precision=self.precision)


_PROBED_IMAGES = 64
_DRAWS_OF_A_FACE = 200


@dataclass(frozen=True)
class SignTrainingData:
    """Training and validation data: signs divided by track, backgrounds by photo."""

    signs: ImageDataset
    validation_signs: ImageDataset
    photos: list[Array]
    validation_photos: list[Array]

    @cached_property
    def digest(self) -> str:
        """Hash of signs, labels, boxes and photos, by which a run that resumes knows them."""
        parts: list[bytes | memoryview] = []
        for signs in (self.signs, self.validation_signs):
            parts += [signs.content_digest(i).encode() for i in range(len(signs))]
            parts += [signs.labels.tobytes(), b"" if signs.boxes is None else signs.boxes.tobytes()]
        for photo in (*self.photos, *self.validation_photos):
            parts += [repr(photo.shape).encode(), photo.tobytes()]
        return digest_of(*parts)

    @property
    def summary(self) -> DatasetSummary:
        """What the signs were taken for: layout, part, images and names of each class."""
        few = range(0, len(self.signs), max(1, len(self.signs) // _PROBED_IMAGES))
        arrays = (self.signs.read(i) for i in few)
        return self.signs.summary.of_labels(
            self.signs.labels.tolist(),
            self.signs.classes,
            match=match_classes(self.signs.classes, NAMES, model="signs", known="GTSRB"),
            image_sizes=sizes_in_words((int(a.shape[0]), int(a.shape[1])) for a in arrays),
        )


@dataclass(frozen=True)
class StreetPhotos:
    """Photos for evaluation alone: boxed stop signs, and folders of photos without stop signs."""

    stop_photos: Path | None = None
    boxes: Path | None = None
    others: tuple[Path, ...] = ()

    @classmethod
    def from_config(cls, config: TrainSignsConfig) -> StreetPhotos:
        """Return the photos that ``config`` names for judging."""
        stop, boxes = (
            None if path is None else Path(path) for path in (config.judge_stop, config.judge_boxes)
        )
        return cls(stop, boxes, tuple(Path(folder) for folder in config.judge_other))


def load_sign_data(recipe: SignRecipe) -> SignTrainingData:
    """Read and divide the data of ``recipe``.

    Raises:
        DataError: The data set is not GTSRB's 43 classes with boxes.
        OptionError: The batch is below 2 images.
    """
    if recipe.batch < 2:
        raise OptionError(
            f"batch {recipe.batch}",
            "must be at least 2 images for batch normalization",
            "Use e.g. 128",
        )

    signs = read_dataset(recipe.data, split="train")
    if signs.boxes is None or len(signs.classes) > BACKGROUND:
        content = count_noun(len(signs.classes), "class")
        if signs.boxes is None:
            content += " without boxes"
        raise DataError(
            f"{recipe.data}: {content}",
            "GTSRB's 43 classes with boxes are needed",
            "Use its official layout",
        )
    photos = load_photos(recipe.backgrounds)
    order = numpy_generator(SPLIT_SEED, "split", "photos").permutation(len(photos))
    held_out = round(HELD_OUT * len(photos))

    return SignTrainingData(
        signs,
        read_dataset(recipe.data, split="test"),
        [photos[i] for i in order[held_out:]],
        [photos[i] for i in order[:held_out]],
    )


def train_signs(
    recipe: SignRecipe,
    training_data: SignTrainingData,
    out: Path,
    *,
    device: str | torch.device = "cpu",
) -> Iterator[TrainingStep]:
    """Train SignNet and yield after each step.

    Args:
        recipe: Everything that decides the weights.
        training_data: Training and validation data.
        out: Folder of the run; its ``checkpoint.safetensors`` is written each epoch and resumed
            from.
        device: Device to train on.

    Yields:
        The step.

    Raises:
        DataError: ``out`` holds the checkpoint of another run, or the loss is no longer finite.
        ModelError: ``recipe.start`` names no weights of the sign classifier.
    """
    batches = SignBatches(
        sign_canvases(training_data.signs),
        BackgroundPhotos(training_data.photos, recipe.seed),
        size=recipe.batch,
        seed=recipe.seed,
        mix=recipe.mix,
    )
    net, origin = first_net(recipe)
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def ordered(step: int) -> Batch:
        images, labels = batches(step)
        ordered_images = images.to(device, memory_format=torch.channels_last)
        return ordered_images, labels.to(device)

    settings = f"seed {recipe.seed}, batch {recipe.batch}, mix {asdict(recipe.mix)}"
    identity = f"{settings}, {_sizes(training_data)}{origin}"
    return train_model(
        net,
        ordered,
        recipe.schedule,
        defense=recipe.defense,
        checkpoint=out / CHECKPOINT,
        identity=identity,
    )


def first_net(recipe: SignRecipe) -> tuple[nn.Module, str]:
    """Return SignNet with the initial weights of ``recipe``, and a text that identifies given ones.

    Raises:
        ModelError: ``start`` is neither a file of its weights nor a SignNet by name.
    """
    if recipe.start is None:
        return seed_all(SignNet, recipe.seed), ""

    file = Path(recipe.start)
    loaded = load_model("signs", weights=file) if file.is_file() else load_model(recipe.start)
    if not isinstance(loaded.net, SignNet):
        raise ModelError(
            f"--from {recipe.start}",
            "are no weights of the model signs",
            "Use signs or a file of its weights",
        )

    return loaded.net.requires_grad_(True), f", from sha256 {loaded.card.sha256}"


def judge_held_out(
    net: nn.Module,
    training_data: SignTrainingData,
    street: StreetPhotos,
    *,
    each: int = 40,
    drawn_each: int = 0,
    seed: int = 0,
) -> list[Row]:
    """Evaluate a network on everything held out: tracks, background photos, drawn stop faces and,
    where given, street photos.

    Args:
        net: Network to evaluate.
        training_data: Data with the held-out parts.
        street: Photos for evaluation alone.
        each: Number of crops of each photo.
        drawn_each: Number of draws of each drawn face; 0 leaves them out.
        seed: Seed of the crops and draws.

    Returns:
        Raw rows, one a prediction.
    """
    held = [(f"photo {i}", picture) for i, picture in enumerate(training_data.validation_photos)]

    rows = judge_tracks(net, training_data.validation_signs) + judge_crops(
        net, "held-out photos", held, each, seed
    )
    backgrounds = training_data.validation_photos or [synthetic_background(seed, "judge")]
    drawn = (HELD_OUT_FACES, TRAINING_FACES) if drawn_each else ((), ())
    for name, faces in zip(DRAWN_SETS, drawn, strict=True):
        rows += judge_drawn_faces(net, name, faces, backgrounds, drawn_each, seed)
    if street.stop_photos is not None and street.boxes is not None:
        rows += judge_stop_photos(
            net, street.stop_photos, read_sign_boxes(street.boxes), each, seed
        )

    for folder in street.others:
        rows += judge_crops(
            net, f"photos {folder.parent.name}/{folder.name}", named_photos([folder]), each, seed
        )
    return rows


def publish_sign_classifier(
    recipe: SignRecipe,
    training_data: SignTrainingData,
    street: StreetPhotos,
    out: Path,
    command: str = "",
) -> dict[str, Any]:
    """Evaluate the averaged weights of a run, and write weights (fp32 safetensors under 4 MB), card
    and rows.

    Args:
        recipe: Recipe of the run.
        training_data: Data with the held-out parts.
        street: Photos for evaluation alone.
        out: Folder of the run.
        command: Command line, for the card.

    Returns:
        The card as a table.
    """
    net = load_average(out / CHECKPOINT, SignNet())
    drawn_each = 0 if recipe.mix.faces == PLAIN else _DRAWS_OF_A_FACE
    rows = judge_held_out(net, training_data, street, drawn_each=drawn_each)
    write_tensors(out / WEIGHTS, net.state_dict())
    replace_rows(out / ROWS, rows)
    card = _card_table(recipe, training_data, rows, net, sha256_of(out / WEIGHTS), command)
    write_text(out / CARD, tomli_w.dumps(card))
    return card


def _card_table(
    recipe: SignRecipe,
    training_data: SignTrainingData,
    rows: Sequence[Row],
    net: nn.Module,
    sha256: str,
    command: str,
) -> dict[str, Any]:
    """Return the card: the keys of every model card, then measurements and the recipe."""
    measured = accuracy_rates(rows)
    findings = accuracy_findings(rows, classes=len(NAMES))
    tracks = measured["held-out tracks"]
    by_track = _interval_text(tracks["by_group"])
    accuracy = (
        f"{tracks['right']} frames of {tracks['groups']} held-out tracks (by track {by_track})"
    )

    return {
        "name": recipe.name,
        "task": "classify",
        "classes": list(NAMES),
        "input_size": INPUT_PX,
        "licence": "Apache-2.0, data terms apply (see licence_note)",
        "source": "trained by `physadv train signs`",
        "data": "GTSRB training set, every third frame (Stallkamp et al. 2012); backgrounds from "
        "BSDS500 and ImageNet "
        "sample photos, and made by code",
        "data_summary": training_data.summary.as_dict(),
        "sha256": sha256,
        "accuracy": accuracy,
        "licence_note": LICENSE,
        "note": "frames of one track are alike, so by_group is the honest interval; few tracks of "
        "a class are held "
        "out, see groups; stop photos and other street photos were used for judging alone",
        "command": command,
        "parameters": count_parameters(net),
        "measured": {name: _plain(rates) for name, rates in measured.items()},
        "doubts": [finding.as_dict() for finding in findings],
        "light": worst_light(finding.light for finding in findings),
        "stop_photos_by_sign": stop_share_by_sign(rows),
        "stop_by_face": {
            name: _rounded(rate.as_dict()) for name, rate in stop_rate_by_face(rows).items()
        },
        "recipe": {
            **{
                k: v
                for k, v in asdict(recipe).items()
                if k not in ("data", "backgrounds", "defense", "start")
            },
            **_defended(recipe),
            "sign_images_px": _median_px(training_data.signs),
            "backgrounds": [folder.name for folder in recipe.backgrounds],
            "held_out": f"{HELD_OUT:.0%} of tracks and photos, split seed {SPLIT_SEED}; "
            f"{_sizes(training_data)}",
            "augmentation": "perspective, rotation to 20 degrees, crop margin from tight to 45 % "
            "context, light, "
            "distance, blur, sharpening, noise, JPEG-like loss, growing over the first steps; "
            "blank and noise stickers "
            f"over 3-25 % of the sign on {recipe.mix.covered:.0%} of the samples; never mirrored",
            "drawn": _drawn_in_words(recipe.mix),
            "weights": "exponential moving average",
        },
    }


def _drawn_in_words(mix: BatchMix) -> str:
    """What of the samples is drawn, for the card."""
    share = f"{mix.drawn:.0%} of the stop samples are"
    if mix.faces == PLAIN:
        return f"{share} the stop face drawn by physadv.core.sign_artwork, laid on backgrounds"
    return (
        f"{share} drawn anew and laid on backgrounds, from the {len(TRAINING_FACES)} training "
        f"designs of physadv.eot.scenes.sign_faces and, less often, its {len(UNREAD_FACES)} with "
        "letters or shapes that mean nothing, or none; "
        f"{mix.decoys:.0%} of the samples without a sign are its decoys"
    )


def _defended(recipe: SignRecipe) -> dict[str, Any]:
    """Return the training method and the initial weights for the card, where there were any."""
    facts: dict[str, Any] = {} if recipe.start is None else {"start": Path(recipe.start).name}
    if recipe.defense is not None:
        settings = recipe.defense.settings()
        facts["defence"] = {
            k: list(v) if isinstance(v, tuple) else v for k, v in settings.items() if v is not None
        }
    return facts


def _sizes(training_data: SignTrainingData) -> str:
    signs, photos = training_data.signs, training_data.photos
    held_signs, held_photos = training_data.validation_signs, training_data.validation_photos
    return (
        f"{count_noun(len(signs), 'frame')} of {count_noun(len(set(signs.groups)), 'track')} and "
        f"{count_noun(len(photos), 'photo')} to train on, {count_noun(len(held_signs), 'frame')} "
        f"of {count_noun(len(set(held_signs.groups)), 'track')} and "
        f"{count_noun(len(held_photos), 'photo')} held out"
    )


def _median_px(dataset: ImageDataset, probes: int = 200) -> int:
    """Return the median longer side of the images, since small images teach less about sharp
    signs."""
    indices = np.linspace(0, len(dataset) - 1, min(probes, len(dataset))).astype(int)
    return int(np.median([max(dataset.read(int(i)).shape[:2]) for i in indices]))


def _interval_text(rate: Any) -> str:
    return f"[{rate.low:.1%}, {rate.high:.1%}]"


def _plain(measured: Mapping[str, RateInterval | int]) -> dict[str, Any]:
    digits = {k: v.as_dict() if isinstance(v, RateInterval) else v for k, v in measured.items()}
    return {k: _rounded(v) if isinstance(v, dict) else v for k, v in digits.items()}


def _rounded(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table with its floats to four places."""
    return {key: round(x, 4) if isinstance(x, float) else x for key, x in table.items()}


__all__ = [
    "CLASSES",
    "SignRecipe",
    "SignTrainingData",
    "StreetPhotos",
    "_card_table",
    "first_net",
    "judge_held_out",
    "load_sign_data",
    "publish_sign_classifier",
    "train_signs",
]
