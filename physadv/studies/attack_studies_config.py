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
