"""Configurations of the studies of robust learning: samples, cost, features, training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import ConfigField
from physadv.studies.config import StudyConfig

GtsrbData = Annotated[
    str | None,
    ConfigField(
        "GTSRB: the German signs, or a zip of them.",
        "Data",
        metavar="PATH",
        path=True,
        default="none: --data alone",
    ),
]
"""Second data set of a study, of traffic signs."""


@dataclass(frozen=True, kw_only=True)
class SamplesConfig(StudyConfig):
    """Configuration of the study of the samples that robust learning needs.

    Example:
        >>> SamplesConfig(quick=True).dimension
        1000
    """

    command: ClassVar[str] = "study-samples"

    @property
    def dimension(self) -> int:
        """Dimension of the simulations of both models."""
        return self.scaled(1000, 10_000, 10_000)

    @property
    def trials(self) -> int:
        """Independent trials of each simulation."""
        return self.scaled(100, 2000, 10_000)

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Dimensions in which the samples needed are searched."""
        return self.scaled(
            (1000, 3000),
            (1000, 10_000, 100_000, 1_000_000),
            (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
        )

    @property
    def floor_dimension(self) -> int:
        """Dimension of the simulation of the lower bound."""
        return self.scaled(10_000, 1_000_000, 1_000_000)

    @property
    def floor_trials(self) -> int:
        """Trials of the simulation of the lower bound."""
        return self.scaled(20, 60, 400)


@dataclass(frozen=True, kw_only=True)
class CostConfig(StudyConfig):
    """Configuration of the study of what robust training costs in accuracy.

    Example:
        >>> CostConfig(data="mnist/").sizes(20_000)
        (100, 300, 1000, 4000, 16000)
    """

    command: ClassVar[str] = "study-cost"

    data: shared.DataPath
    gtsrb_data: GtsrbData = None

    def sizes(self, available: int) -> tuple[int, ...]:
        """Return numbers of training images, none above ``available``."""
        wanted = self.scaled(
            (64, 256), (100, 300, 1000, 4000, 16_000), (100, 300, 1000, 3000, 10_000, 50_000)
        )
        return tuple(size for size in wanted if size <= available) or (available,)

    @property
    def seen(self) -> int:
        """Images that each training passes at least, repetitions counted."""
        return self.scaled(512, 25_000, 300_000)

    @property
    def attack_steps(self) -> int:
        """Steps of the adversary in training."""
        return self.scaled(1, 3, 10)

    @property
    def tested(self) -> int:
        """Test images."""
        return self.scaled(100, 3000, 10_000)

    @property
    def attacked(self) -> int:
        """Test images that are attacked."""
        return self.scaled(20, 300, 1000)

    @property
    def weak(self) -> int:
        """Weak coordinates of the theorem's model."""
        return self.scaled(100, 1000, 1000)

    @property
    def repeats(self) -> int:
        """Training sets of each size, of the theorem's model."""
        return self.scaled(2, 8, 30)
