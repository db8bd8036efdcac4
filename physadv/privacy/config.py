"""Configurations of ``cloak`` and ``cloak check``: cloaked photos and a check of their effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import Config, ConfigField
from physadv.core.errors import OptionError

MODE_NAMES = ("low", "mid", "high")
"""Names of the modes, as in :data:`physadv.privacy.cloak_faces.MODES`, least visible first."""

BUDGETS = (0.5, 5.0)
"""Least and largest budget: CIEDE2000 of patches of skin."""

EmbedderNames = Annotated[
    tuple[str, ...],
    ConfigField(
        "Face recognizer: dlib, mobilefacenet, edgeface-xs or a descriptor .toml; may repeat.",
        "Model",
        metavar="NAME",
        default="all at hand; a cloak leaves one out, to judge it",
    ),
]
"""``--embedder`` wherever it stands."""
EmbedderWeights = Annotated[
    tuple[str, ...],
    ConfigField(
        "Weights of a face recognizer, or the net of a descriptor: TorchScript, torch.export or "
        "module:factory; may repeat.",
        "Model",
        metavar="NAME=FILE",
        code=True,
    ),
]
"""``--embedder-weights`` wherever it stands."""


@dataclass(frozen=True, kw_only=True)
class CloakConfig(Config):
    """Configuration of the cloaking of photos.

    Example:
        >>> CloakConfig(photos="photos/", embedder_weights=["dlib=d.dat"]).weights_files
        {'dlib': 'd.dat'}
    """

    command: ClassVar[str] = "cloak"

    photos: Annotated[
        tuple[str, ...],
        ConfigField(
            "A folder with photos (recursive), or one or more photos; none with --serve.",
            "Source",
            metavar="PHOTOS",
            argument=True,
            path=True,
            default="none with --serve",
        ),
    ] = ()
    mode: Annotated[
        str,
        ConfigField(
            f"Visibility of the cloak: {', '.join(MODE_NAMES)}; low is hardly seen and hardly "
            "protects.",
            "Cloak",
            completions=MODE_NAMES,
        ),
    ] = "mid"
    budget: Annotated[
        float | None,
        ConfigField(
            "Visibility in place of a mode: largest CIEDE2000 of patches of skin, 0.5 to 5; low is "
            "1.2, mid 2.4, high 3.2.",
            "Cloak",
            metavar="CIEDE2000",
            default="that of the mode",
        ),
    ] = None
    decoys: Annotated[
        str | None,
        ConfigField(
            "Photos of 8 people or more: move towards averages of them, never one person.",
            "Cloak",
            metavar="FOLDER",
            path=True,
        ),
    ] = None
    album: Annotated[
        str | None,
        ConfigField(
            "More photos of the same people, which stay as they are: move away from all of a "
            "person's, which protects better than from one.",
            "Cloak",
            metavar="FOLDER",
            path=True,
        ),
    ] = None
    only_faces: Annotated[
        tuple[str, ...],
        ConfigField(
            "Cloak only these faces of a photo, by their numbers in --preview; may repeat.",
            "Cloak",
            metavar="[PHOTO:]NUMBERS",
            aliases=("only",),
        ),
    ] = ()
    skip_faces: Annotated[
        tuple[str, ...],
        ConfigField(
            "Leave these faces of a photo bare, by their numbers in --preview; may repeat.",
            "Cloak",
            metavar="[PHOTO:]NUMBERS",
            aliases=("skip",),
        ),
    ] = ()
    face_mode: Annotated[
        tuple[str, ...],
        ConfigField(
            "Mode or budget of these faces of a photo, by their numbers in --preview; may repeat.",
            "Cloak",
            metavar="[PHOTO:]NUMBERS=MODE",
        ),
    ] = ()
    keep_metadata: Annotated[
        bool,
        ConfigField("Keep GPS, serial numbers and captions, which are left out else.", "Output"),
    ] = False
    strip_dates: Annotated[
        bool, ConfigField("Leave out dates and times too; --keep-metadata keeps no date.", "Output")
    ] = False
    mark: Annotated[
        bool,
        ConfigField(
            "Name the recognizers of the cloak in each photo's metadata, for `cloak check`.",
            "Output",
        ),
    ] = True
    embedder: EmbedderNames = ()
    embedder_weights: EmbedderWeights = ()
    detector_weights: shared.DetectorWeights = None
    serve: shared.ServePort = None
    seed: shared.Seed = 0
    device: shared.Device = "auto"

    def __post_init__(self) -> None:
        """Check the mode and the weights beside types."""
        super().__post_init__()
        if self.mode not in MODE_NAMES:
            raise OptionError(
                f"--mode {self.mode}", f"is none of {', '.join(MODE_NAMES)}", "choose one of them"
            )
        if self.budget is not None:
            if self.mode != "mid":
                raise OptionError(
                    f"--budget {self.budget:g} and --mode {self.mode}",
                    "Both say how visible the cloak may be",
                    "Give one",
                )
            assert_budget(self.budget)
        if self.serve is None:
            _ = self.source
        if self.photos and self.serve is not None:
            raise OptionError(
                f"--serve and {', '.join(self.photos)}",
                "The page takes photos itself",
                "Name one of them",
            )
        weights_files_of(self.embedder_weights)

    @property
    def source(self) -> str | tuple[str, ...]:
        """The photo or the folder; several photos where several are named.

        Raises OptionError where there is none.
        """
        if not self.photos:
            raise OptionError("No photos", "A photo or a folder is needed", "Name it, or --serve")
        return self.photos[0] if len(self.photos) == 1 else self.photos

    @property
    def weights_files(self) -> dict[str, str]:
        """The weights files by the name of their face recognizer."""
        return weights_files_of(self.embedder_weights)


@dataclass(frozen=True, kw_only=True)
class CloakCheckConfig(Config):
    """Configuration of a check of cloaked photos, by whatever tool they were made.

    Example:
        >>> CloakCheckConfig(cloaked="photos-cloaked", originals="photos").adaptive
        True
    """

    command: ClassVar[str] = "cloak-check"

    cloaked: Annotated[
        str,
        ConfigField(
            "The cloaked photos, by any tool.",
            "Source",
            metavar="CLOAKED",
            argument=True,
            path=True,
        ),
    ]
    originals: Annotated[
        str,
        ConfigField(
            "The photos they were made from; a folder a person.",
            "Data",
            metavar="FOLDER",
            path=True,
        ),
    ]
    gallery: Annotated[
        str | None,
        ConfigField(
            "Photos of other people, a folder a person.", "Data", metavar="FOLDER", path=True
        ),
    ] = None
    embedder: EmbedderNames = ()
    embedder_weights: EmbedderWeights = ()
    detector_weights: shared.DetectorWeights = None
    adaptive: Annotated[
        bool,
        ConfigField(
            "Also train a recognizer on the cloaks of half of the people (8 or more).", "Check"
        ),
    ] = True
    baselines: Annotated[
        bool, ConfigField("Also measure noise and blur of the same visibility.", "Check")
    ] = True
    seed: shared.Seed = 0
    device: shared.Device = "auto"

    def __post_init__(self) -> None:
        """Check the weights beside types."""
        super().__post_init__()
        weights_files_of(self.embedder_weights)

    @property
    def weights_files(self) -> dict[str, str]:
        """The weights files by the name of their face recognizer."""
        return weights_files_of(self.embedder_weights)


def assert_budget(budget: float) -> None:
    """Raise OptionError where ``budget``, in CIEDE2000, is out of range."""
    least, most = BUDGETS
    if not least <= budget <= most:
        raise OptionError(
            f"--budget {budget:g}",
            f"{least:g} to {most:g} is allowed",
            "1 is about just noticeable; low is 1.2, mid 2.4, high 3.2",
        )


def weights_files_of(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=FILE pairs as a table."""
    files = dict(pair.partition("=")[::2] for pair in pairs)
    if not all(files.values()):
        raise OptionError(
            f"--embedder-weights {' '.join(pairs)}",
            "NAME=FILE is expected",
            "for example mobilefacenet=weights.pt",
        )
    return files
