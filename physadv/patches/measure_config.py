"""Configurations of ``patch verify`` and ``patch transfer``, which measure finished bundles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import Config, ConfigField

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
    eot: Annotated[str | None, ConfigField(shared.EOT_HELP, "Scene", default="the card's")] = None

    @property
    def replacements(self) -> dict[str, str | tuple[str, ...]]:
        """The files, model and pipeline that take the place of those on the card."""
        names = ("model", "weights", "signs", "backgrounds", "photos", "boxes", "eot")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value}


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
    model: Annotated[tuple[str, ...], ConfigField(shared.MODEL_HELP, "Model", metavar="MODEL")]
    weights: Annotated[
        tuple[str, ...], ConfigField(shared.WEIGHTS_HELP, "Model", metavar="FILE", path=False)
    ] = ()
    test_draws: CardDraws = None
    data_folder: DataFolder = None
