"""Configurations of ``patch verify`` and ``patch transfer``, which measure finished bundles, and of
``patch visibility``, which measures a model before there is one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import Config, ConfigField
from physadv.core.stop_signs import VARIED
from physadv.patches.config import PatchConfig

DataFolder = Annotated[
    str | None,
    ConfigField(
        "Folder that holds the data sets named on the card.",
        "Scene",
        metavar="FOLDER",
        path=True,
        aliases=("data",),
    ),
]
CardDraws = Annotated[
    int | None,
    ConfigField(
        shared.TEST_DRAWS_HELP,
        "Measurement",
        least=1,
        default="the card's number",
        aliases=("draws",),
    ),
]


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(Config):
    """Configuration of a bundle's second measurement; what is not given is as on its card.

    Example:
        >>> VerifyConfig(bundle="stop-sticker-signs-v1", fresh=True).replacements
        {}
    """

    command: ClassVar[str] = "patch-verify"

    bundle: shared.BundlePath
    model: shared.ModelOfBundle = None
    weights: shared.ModelWeights = None
    fresh: Annotated[
        bool, ConfigField("Take new draws instead of the card's: a sharper test.", "Measurement")
    ] = False
    test_draws: CardDraws = None
    signs: shared.SignFolders = ()
    backgrounds: shared.BackgroundPhotos = None
    photos: shared.ScenePhotos = None
    boxes: shared.BoxesFile = None
    data_folder: DataFolder = None
    eot: Annotated[
        str | None, ConfigField(shared.EOT_HELP, "Scene", default="the card's", code=True)
    ] = None

    @property
    def replacements(self) -> dict[str, str | tuple[str, ...]]:
        """The files, model and pipeline that take the place of those on the card."""
        names = ("model", "weights", "signs", "backgrounds", "photos", "boxes", "eot")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value}

    def unused_on(self, recorded: PatchConfig) -> list[str]:
        """Return one text for each option that changes nothing for a bundle, as
        :meth:`unused_options` does.

        Args:
            recorded: Configuration that the bundle's card records.
        """
        given = {name: self.replacements.get(name) for name in ("signs", "photos", "boxes")}
        own: dict[str, Any] = {name: value for name, value in given.items() if value}
        return self.unused_options(replace(recorded, **own).without_use())


@dataclass(frozen=True, kw_only=True)
class TransferConfig(Config):
    """Configuration of a matrix of bundles and the models that they are tried on.

    Example:
        >>> TransferConfig(bundles=["a", "b"], model=["signs"]).model
        ('signs',)
    """

    command: ClassVar[str] = "patch-transfer"

    bundles: Annotated[
        tuple[str, ...],
        ConfigField(
            "Bundle folders, or names in patches/.", "Source", metavar="BUNDLE", argument=True
        ),
    ]
    model: Annotated[
        tuple[str, ...],
        ConfigField(
            shared.MODEL_HELP,
            "Model",
            metavar="MODEL",
            default="the card's, with --verify",
            code=True,
        ),
    ] = ()
    weights: Annotated[
        tuple[str, ...], ConfigField(shared.WEIGHTS_HELP, "Model", metavar="FILE", path=False)
    ] = ()
    faces: Annotated[
        str | None,
        ConfigField(
            shared.FACES_HELP, "Scene", default="the card's", completions=("varied", "plain")
        ),
    ] = None
    record: Annotated[
        bool, ConfigField("Write the rates on the card of each bundle.", "Measurement")
    ] = False
    verify: Annotated[
        bool,
        ConfigField(
            "Measure again what the cards record; exit code 1 where it differs.", "Measurement"
        ),
    ] = False
    test_draws: CardDraws = None
    data_folder: DataFolder = None


@dataclass(frozen=True, kw_only=True)
class VisibilityConfig(Config):
    """Configuration of a model's visibility: how small it still reads a clean sign.

    Example:
        >>> VisibilityConfig(model="signs", eot="camera").patch_config.eot
        'camera'
    """

    command: ClassVar[str] = "patch-visibility"

    model: shared.ModelName = "signs"
    weights: shared.ModelWeights = None
    true_class: Annotated[str, ConfigField(shared.TRUE_CLASS_HELP, "Goal", metavar="CLASS")] = (
        "stop"
    )
    threshold: Annotated[
        float | None,
        ConfigField(
            shared.THRESHOLD_HELP, "Goal", least=0, most=1, default="the model's", task="detect"
        ),
    ] = None
    sign_width_mm: Annotated[
        float, ConfigField(shared.SIGN_WIDTH_HELP, "Scene", least=1, aliases=("sign-width",))
    ] = 457.0
    signs: shared.SignFolders = ()
    faces: shared.DrawnFaces = VARIED
    backgrounds: shared.BackgroundPhotos = None
    boxes: shared.BoxesFile = None
    eot: Annotated[str, ConfigField(shared.EOT_HELP, "Scene", code=True)] = "default"
    eot_ranges: Annotated[
        str | None,
        ConfigField(
            "TOML file of ranges in place of the preset's.", "Scene", metavar="FILE", path=True
        ),
    ] = None
    camera_profile: shared.CameraProfileFile = None
    seed: shared.Seed = 0
    device: shared.Device = "auto"

    @property
    def patch_config(self) -> PatchConfig:
        """The configuration of a patch whose scenes are those that are shown."""
        return PatchConfig(**{field.name: getattr(self, field.name) for field in fields(self)})

    def without_use(self) -> dict[str, str]:
        """Return the names of the fields that change nothing beside the others, and why."""
        return self.patch_config.without_use()
