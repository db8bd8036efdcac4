"""Configurations of the studies of attacks: gradient, transfer, boundary, privacy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import ConfigField
from physadv.core.errors import OptionError
from physadv.privacy.config import EmbedderNames, EmbedderWeights, weights_files_of
from physadv.studies.config import PICTURES_HELP, StudyConfig
from physadv.threat.parsing import parse_threat


@dataclass(frozen=True, kw_only=True)
class GradientConfig(StudyConfig):
    """Configuration of the study of the input gradient.

    Example:
        >>> GradientConfig(data="mnist/", quick=True).model
        'efficientnet-lite0'
    """

    command: ClassVar[str] = "study-gradient"

    data: shared.DataPath
    pictures: Annotated[
        str | None,
        ConfigField(
            PICTURES_HELP,
            "Data",
            metavar="FOLDER",
            path=True,
            default="none: images of --data alone",
        ),
    ] = None
    model: shared.ModelName = "efficientnet-lite0"
    weights: shared.ModelWeights = None

    def without_use(self) -> dict[str, str]:
        """Return the names of the fields that change nothing beside the others, and why."""
        why = "it is attacked on --pictures, which are not given"
        return {} if self.pictures is not None else dict.fromkeys(("model", "weights"), why)


@dataclass(frozen=True, kw_only=True)
class TransferConfig(StudyConfig):
    """Configuration of the study of transfer between networks.

    Example:
        >>> TransferConfig(data="mnist/").eps
        0.2
    """

    command: ClassVar[str] = "study-transfer"

    data: shared.DataPath
    threat: shared.ThreatText = "linf:0.2"
    sign_data: Annotated[
        str | None,
        ConfigField(
            "Traffic signs: networks trained on them and the model signs are attacked in turn.",
            "Data",
            metavar="PATH",
            path=True,
            default="none: networks of --data alone",
        ),
    ] = None

    def __post_init__(self) -> None:
        """Check the threat beside types and limits."""
        super().__post_init__()
        linf_radius(self.threat)

    @property
    def eps(self) -> float:
        """Radius of the threat in l_inf, in units of [0, 1] images."""
        return linf_radius(self.threat)


def linf_radius(threat: str) -> float:
    """Return the radius of a threat in l_inf, in units of [0, 1] images.

    Raises:
        OptionError: The threat is of another norm, or its radius is not between 0 and 1.
    """
    norm, eps = parse_threat(threat)
    if norm != "linf" or not 0 < eps < 1:
        raise OptionError(
            f"threat {threat!r}",
            "the study is of l_inf, with a radius between 0 and 1",
            "Use e.g. linf:0.2",
        )
    return eps


@dataclass(frozen=True, kw_only=True)
class BoundaryConfig(StudyConfig):
    """Configuration of the study of decision boundaries.

    Example:
        >>> BoundaryConfig(data="mnist/", threat="linf:0.1").eps
        0.1
    """

    command: ClassVar[str] = "study-boundary"

    data: shared.DataPath
    threat: shared.ThreatText = "linf:0.2"

    def __post_init__(self) -> None:
        """Check the threat beside types and limits."""
        super().__post_init__()
        linf_radius(self.threat)

    @property
    def eps(self) -> float:
        """Radius of the threat in l_inf, in units of [0, 1] images."""
        return linf_radius(self.threat)


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig(StudyConfig):
    """Configuration of the study of cloaked photos.

    Example:
        >>> PrivacyConfig(people="faces/", embedder_weights=["dlib=d.dat"]).weights_files
        {'dlib': 'd.dat'}
    """

    command: ClassVar[str] = "study-privacy"

    people: Annotated[
        str,
        ConfigField(
            "Folder of people, each a folder of three photos or more.",
            "Data",
            metavar="FOLDER",
            path=True,
        ),
    ]
    embedder: EmbedderNames = ()
    embedder_weights: EmbedderWeights = ()
    detector_weights: shared.DetectorWeights = None

    def __post_init__(self) -> None:
        """Check the weights beside types and limits."""
        super().__post_init__()
        weights_files_of(self.embedder_weights)

    @property
    def weights_files(self) -> dict[str, str]:
        """The weights files by the name of their face recognizer."""
        return weights_files_of(self.embedder_weights)


@dataclass(frozen=True, kw_only=True)
class PatchBenchmarkConfig(StudyConfig):
    """Configuration of the benchmark of patches on detectors behind defenses.

    Example:
        >>> PatchBenchmarkConfig(data="coco128/", quick=True).patch_steps
        2
    """

    command: ClassVar[str] = "study-patches"

    data: shared.DataPath
    split: shared.DataSplit = "val"
    detector: Annotated[
        tuple[str, ...],
        ConfigField(
            "Detector to attack, NAME or NAME=WEIGHTS; may repeat.",
            "Model",
            metavar="MODEL",
            code=True,
        ),
    ] = ("fastestdet", "yolox-nano")
    behind: Annotated[
        tuple[str, ...],
        ConfigField(
            "Defense before the detectors: jpeg, median, blur, lgs or remover; may repeat.",
            "Model",
            metavar="DEFENSE",
        ),
    ] = ("jpeg", "median", "lgs", "remover:side128")
    object_class: Annotated[
        str, ConfigField("Class of the objects that carry the patch.", "Scene", metavar="CLASS")
    ] = "person"

    @property
    def training_photos(self) -> int:
        """Photos that patches are optimized on."""
        return self.scaled(2, 24, 400)

    @property
    def test_photos(self) -> int:
        """Photos that patches are measured on."""
        return self.scaled(3, 32, 1000)

    @property
    def patch_steps(self) -> int:
        """Steps of a patch by gradient."""
        return self.scaled(2, 120, 1000)

    @property
    def search_steps(self) -> int:
        """Steps of a patch by scores."""
        return self.scaled(4, 200, 5000)

    @property
    def photos_a_step(self) -> int:
        """Photos that a patch is shown on in a step."""
        return self.scaled(2, 4, 16)
