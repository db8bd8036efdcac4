"""Configurations of the studies of certificates: polytope, intervals, smoothing, norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import ConfigField
from physadv.studies.config import StudyConfig


@dataclass(frozen=True, kw_only=True)
class SmoothingStudyConfig(StudyConfig):
    """Configuration of the study of randomized smoothing.

    Example:
        >>> SmoothingStudyConfig(data="mnist/", quick=True).votes
        200
    """

    command: ClassVar[str] = "study-smoothing"

    data: shared.DataPath
    published_rows: Annotated[
        str | None,
        ConfigField(
            "Folder of published certification logs (idx, label, predict, radius, correct).",
            "Data",
            metavar="FOLDER",
            path=True,
            default="none: published rows are not recomputed",
        ),
    ] = None

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Standard deviations of the noise on images."""
        return self.scaled((0.5,), (0.25, 0.5, 1.0), (0.12, 0.25, 0.5, 1.0))

    @property
    def votes(self) -> int:
        """Votes that bound the probability of an image's class."""
        return self.scaled(200, 1000, 100_000)

    @property
    def test_images(self) -> int:
        """Number of images that are certified."""
        return self.scaled(6, 120, 500)


@dataclass(frozen=True, kw_only=True)
class PolytopeConfig(StudyConfig):
    """Configuration of the study of the convex outer polytope.

    Example:
        >>> PolytopeConfig(data="mnist/", quick=True).depths
        (1, 2)
    """

    command: ClassVar[str] = "study-polytope"

    data: shared.DataPath
    published_weights: Annotated[
        str | None,
        ConfigField(
            "Weights of the published network, as of the model wongkolter-mnist.",
            "Data",
            metavar="FILE",
            path=True,
            default="none: the published network is not measured",
        ),
    ] = None

    @property
    def depths(self) -> tuple[int, ...]:
        """Numbers of hidden layers of the random networks."""
        return self.scaled((1, 2), (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6, 8, 10))


@dataclass(frozen=True, kw_only=True)
class IntervalsConfig(StudyConfig):
    """Configuration of the study of bounds by intervals and by lines.

    Example:
        >>> IntervalsConfig(data="mnist/", quick=True).bounded_images
        4
    """

    command: ClassVar[str] = "study-intervals"

    data: shared.DataPath

    @property
    def bounded_images(self) -> int:
        """Number of test images that every bound is computed for."""
        return self.scaled(4, 40, 500)

    @property
    def optimized_images(self) -> int:
        """Number of test images that the bound with optimized lines is computed for."""
        return self.scaled(2, 40, 100)

    @property
    def test_images(self) -> int:
        """Number of test images of the errors at the radius of the training."""
        return self.scaled(12, 1000, 10_000)


@dataclass(frozen=True, kw_only=True)
class NormsConfig(StudyConfig):
    """Configuration of the study of what noise pays for l_inf.

    Example:
        >>> NormsConfig(data="mnist/", quick=True).sides
        (8, 16)
    """

    command: ClassVar[str] = "study-norms"

    data: shared.DataPath

    @property
    def sides(self) -> tuple[int, ...]:
        """Heights and widths in px that the images are brought to."""
        return self.scaled((8, 16), (8, 16, 32, 64), (8, 16, 32, 64, 96))

    @property
    def votes(self) -> int:
        """Votes that bound the probability of an image's class."""
        return self.scaled(100, 1000, 100_000)
