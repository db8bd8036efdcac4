"""Configurations of the studies of robust learning: samples, cost, features, training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from physadv.studies.config import StudyConfig


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
