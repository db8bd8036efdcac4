"""Configurations of ``train`` and ``train signs``: a classifier trained with a defense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import Config, ConfigField
from physadv.core.errors import OptionError
from physadv.core.stop_signs import check_face_kind

DEFENSE_NAMES = (
    "standard",
    "fgsm",
    "pgd",
    "free",
    "fast",
    "trades",
    "gradient-penalty",
    "gaussian",
    "smoothadv",
    "ibp",
    "crown-ibp",
    "polytope",
    "patch",
    "masked",
)
"""Names of the training methods, as in :data:`physadv.training.methods.by_name.DEFENSES`."""

_DEFENSE_HELP = f"Training method: {', '.join(DEFENSE_NAMES)}."
_BatchSize = Annotated[
    int, ConfigField("Images processed at once.", "Run", least=2, aliases=("batch",))
]
_Epochs = Annotated[int, ConfigField("Epochs.", "Training", least=1)]
_LearningRate = Annotated[float, ConfigField(shared.LEARNING_RATE_HELP, "Training", least=1e-6)]
_Precision = Annotated[str, ConfigField("Arithmetic of training: fp32 or bf16.", "Training")]
_METHOD = "Settings of a training method (default: its own)"


def _setting(help_text: str, least: float | None = None, **more: Any) -> ConfigField:
    """Documentation of a setting that a training method has a default of its own for."""
    return ConfigField(help_text, _METHOD, least=least, **more)


_Plain = Annotated[float | None, _setting("masked: share of images left whole.")]
_Kept = Annotated[float | None, _setting("masked: share of images reduced to a band or a square.")]
_Covers = Annotated[
    tuple[float, float] | None,
    _setting(
        "masked: least and largest side of the rectangles, as shares of the image's.",
        metavar="LOW HIGH",
    ),
]
_Windows = Annotated[
    tuple[float, float] | None,
    _setting(
        "masked: least and largest side of the band or square, as a share.", metavar="LOW HIGH"
    ),
]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Configuration of a training run with a defense.

    Example:
        >>> config = TrainConfig(defense="pgd", data="mnist/", threat="linf:0.1", attack_steps=7)
        >>> config.method_settings
        {'steps': 7}
    """

    command: ClassVar[str] = "train"

    defense: Annotated[str, ConfigField(_DEFENSE_HELP, "Training")]
    data: shared.DataPath
    labels: shared.ClassLabels = None
    limit: shared.SampleLimit = None
    validation: Annotated[
        float,
        ConfigField(
            "Share of the training images held out, by group, to judge by.",
            "Data",
            aliases=("held",),
        ),
    ] = 0.05
    image_size: Annotated[
        int | None,
        ConfigField(
            "Height and width in pixels that images are resized and center-cropped to.",
            "Data",
            default="their own, else 32",
            aliases=("side",),
        ),
    ] = None
    shift: Annotated[
        int,
        ConfigField("Largest random translation of the images, in pixels.", "Training", least=0),
    ] = 0
    architecture: Annotated[
        str,
        ConfigField(
            "Network: small-cnn, wide-cnn, each also with -bn (for ibp), or signnet.",
            "Training",
            aliases=("arch",),
        ),
    ] = "small-cnn"
    threat: shared.ThreatText = "linf:8/255"
    epochs: _Epochs = 10
    batch_size: _BatchSize = 128
    lr: _LearningRate = 2e-3
    optimizer: Annotated[str, ConfigField("Optimizer: adamw or sgd.", "Training")] = "adamw"
    average: Annotated[
        float, ConfigField("Share of the averaged weights that each step keeps.", "Training")
    ] = 0.99
    precision: _Precision = "fp32"
    patience: Annotated[
        int | None,
        ConfigField(
            "End after so many epochs without improvement.", "Training", least=1, default="never"
        ),
    ] = None
    fsdp: Annotated[
        bool,
        ConfigField(
            "Shard weights, gradients and moments among the processes of torchrun (FSDP).",
            "Run",
        ),
    ] = False
    attack_steps: Annotated[
        int | None, _setting(shared.ATTACK_STEPS_HELP, 0, aliases=("steps",))
    ] = None
    replays: Annotated[int | None, _setting("free: uses of each batch.", 1)] = None
    beta: Annotated[float | None, _setting("trades: weight of the divergence.", 0)] = None
    penalty: Annotated[float | None, _setting("gradient-penalty: weight of the slope.", 0)] = None
    sigma: Annotated[float | None, _setting(shared.NOISE_HELP, 1e-6)] = None
    projections: Annotated[int | None, _setting("polytope: random projections.", 1)] = None
    grow: Annotated[
        tuple[float, float] | None,
        _setting(
            "ibp, crown-ibp, polytope: shares of the run between which the radius grows.",
            metavar="LOW HIGH",
        ),
    ] = None
    stretch: Annotated[
        float | None,
        _setting("ibp, crown-ibp, polytope: train at so many times the threat's radius.", 1),
    ] = None
    plain: _Plain = None
    kept: _Kept = None
    covers: _Covers = None
    windows: _Windows = None
    seed: shared.Seed = 0
    device: shared.Device = "auto"

    @property
    def method_settings(self) -> dict[str, Any]:
        """Settings of the training method that are given, by their names there."""
        own = {
            "steps": self.attack_steps,
            "replays": self.replays,
            "beta": self.beta,
            "penalty": self.penalty,
            "sigma": self.sigma,
            "projections": self.projections,
            "grow": self.grow,
            "stretch": self.stretch,
        }
        given = {name: value for name, value in own.items() if value is not None}
        return {**given, **_masking_settings(self)}


@dataclass(frozen=True, kw_only=True)
class TrainSignsConfig(Config):
    """Configuration of the training of the embedded traffic-sign classifier.

    Example:
        >>> TrainSignsConfig(data="gtsrb-train.zip", defense="masked", start="signs").epochs
        24
    """

    command: ClassVar[str] = "train-signs"

    data: shared.DataPath
    backgrounds: Annotated[
        tuple[str, ...],
        ConfigField(
            shared.BACKGROUNDS_HELP, "Scene", metavar="FOLDER", path=True, default="made by code"
        ),
    ] = ()
    defense: Annotated[str | None, ConfigField(_DEFENSE_HELP, "Training", default="standard")] = (
        None
    )
    epochs: _Epochs = 24
    epoch_steps: Annotated[
        int, ConfigField("Batches an epoch.", "Training", least=1, aliases=("steps",))
    ] = 100
    batch_size: _BatchSize = 64
    lr: _LearningRate = 2e-3
    precision: _Precision = "bf16"
    start: Annotated[
        str | None,
        ConfigField(
            "Begin with these weights: signs, or a signs.safetensors of yours.",
            "Training",
            flag="--from",
            metavar="MODEL",
            default="drawn by the seed",
        ),
    ] = None
    hardest: Annotated[
        float,
        ConfigField(
            "Strength of poses, occlusion and camera effects: 1 full, 0.5 half.", "Training"
        ),
    ] = 1.0
    faces: Annotated[
        str,
        ConfigField(
            shared.FACES_HELP,
            "Training",
            completions=("varied", "plain"),
        ),
    ] = "varied"
    plain: _Plain = None
    kept: _Kept = None
    covers: _Covers = None
    windows: _Windows = None
    judge_stop: Annotated[
        str | None,
        ConfigField(
            "Street photos with stop signs, for judging only.",
            "Judging",
            metavar="FOLDER",
            path=True,
        ),
    ] = None
    judge_boxes: Annotated[
        str | None,
        ConfigField(
            "Boxes of these signs: CSV with file,x0,y0,x1,y1,note.",
            "Judging",
            metavar="FILE",
            path=True,
        ),
    ] = None
    judge_other: Annotated[
        tuple[str, ...],
        ConfigField(
            "Photos without stop signs, for judging only; may repeat.",
            "Judging",
            metavar="FOLDER",
            path=True,
        ),
    ] = ()
    seed: shared.Seed = 0
    device: shared.Device = "auto"

    @property
    def method_settings(self) -> dict[str, Any]:
        """Settings of the training method that are given, by their names there."""
        return _masking_settings(self)

    @property
    def identity(self) -> dict[str, Any]:
        """Fields that tell one run from another: all that decide the weights."""
        apart = ("judge_stop", "judge_boxes", "judge_other", "device")
        return {key: value for key, value in self.as_table().items() if key not in apart}

    def __post_init__(self) -> None:
        """Check options that depend on each other, beside types and limits."""
        super().__post_init__()
        check_face_kind(self.faces)
        if (self.judge_stop is None) != (self.judge_boxes is None):
            raise OptionError(
                "--judge-stop and --judge-boxes", "belong together", "Give both or neither"
            )
        if self.method_settings and self.defense is None:
            name = next(iter(self.method_settings))
            raise OptionError(f"--{name}", "is a setting of a defense", "Add --defense masked")


def _masking_settings(config: TrainConfig | TrainSignsConfig) -> dict[str, Any]:
    """Return the settings of ``masked`` that are given."""
    own = {
        "plain": config.plain,
        "kept": config.kept,
        "covers": config.covers,
        "windows": config.windows,
    }
    return {name: value for name, value in own.items() if value is not None}
