"""Configurations of the studies of what attackers see, of print and film, of hidden gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from physadv.core import shared_fields as shared
from physadv.studies.config import StudyConfig, linf_radius

RADIUS_SCALES = (0.5, 1.0, 1.5)
"""Radii of the study of threats as multiples of that of its threat."""


@dataclass(frozen=True, kw_only=True)
class ThreatsConfig(StudyConfig):
    """Configuration of the study of what attackers may see of a model.

    Raises:
        OptionError: The threat is none in l_inf with a radius between 0 and 2/3.

    Example:
        >>> ThreatsConfig(data="mnist/", quick=True).queries
        120
    """

    command: ClassVar[str] = "study-threats"

    data: shared.DataPath
    threat: shared.ThreatText = "linf:0.2"

    def __post_init__(self) -> None:
        """Check the threat beside types and limits."""
        super().__post_init__()
        linf_radius(self.threat, below=1 / max(RADIUS_SCALES))

    @property
    def radii(self) -> tuple[float, ...]:
        """Radii in l_inf that are measured, ascending, in units of [0, 1]."""
        return tuple(round(scale * linf_radius(self.threat), 6) for scale in RADIUS_SCALES)

    @property
    def queries(self) -> int:
        """Largest number of queries for an image."""
        return self.scaled(120, 5000, 10_000)

    @property
    def labels_bought(self) -> tuple[int, ...]:
        """Numbers of labels that an attacker has the model give to train a net of its own."""
        return self.scaled((40,), (30, 100, 300, 1000, 3000), (30, 100, 300, 1000, 6400, 25_000))


@dataclass(frozen=True, kw_only=True)
class PhysicalConfig(StudyConfig):
    """Configuration of the study of what print and camera destroy.

    Example:
        >>> PhysicalConfig(quick=True).frame_size
        (320, 180)
    """

    command: ClassVar[str] = "study-physical"

    @property
    def frame_size(self) -> tuple[int, int]:
        """Width and height in px of the twin's frames."""
        return self.scaled((320, 180), (640, 360), (1280, 720))


@dataclass(frozen=True, kw_only=True)
class ObfuscatedConfig(StudyConfig):
    """Configuration of the study of hidden gradients.

    Raises:
        OptionError: The threat is none in l_inf with a radius between 0 and 1.

    Example:
        >>> ObfuscatedConfig(data="mnist/").threat
        'linf:0.2'
    """

    command: ClassVar[str] = "study-obfuscated"

    data: shared.DataPath
    threat: shared.ThreatText = "linf:0.2"

    def __post_init__(self) -> None:
        """Check the threat beside types and limits."""
        super().__post_init__()
        linf_radius(self.threat)
