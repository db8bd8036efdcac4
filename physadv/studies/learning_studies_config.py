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
Cifar10Data = Annotated[
    str | None,
    ConfigField(
        "CIFAR-10: class folders, or a zip of them.",
        "Data",
        metavar="PATH",
        path=True,
        default="none: --data alone",
    ),
]
"""Second data set of a study, of small photos."""
LEAST_SIGNS = 3000
"""Signs to read at least, so that every class has several tracks, of which one is held out."""


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
        return self.scaled(100, 500, 1000)

    @property
    def repeats(self) -> int:
        """Training sets of each size, of the theorem's model."""
        return self.scaled(2, 6, 30)


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(StudyConfig):
    """Configuration of the study of robust and non-robust features.

    Example:
        >>> FeaturesConfig(data="cifar10.zip", full=True).mislabel_eps
        0.5
    """

    command: ClassVar[str] = "study-features"

    data: shared.DataPath
    gtsrb_data: GtsrbData = None

    @property
    def images(self) -> int:
        """Training images of --data."""
        return self.scaled(256, 7000, 50_000)

    @property
    def signs(self) -> int:
        """Training images of traffic signs."""
        return self.scaled(256, 3500, 50_000)

    @property
    def epochs(self) -> int:
        """Epochs of each training."""
        return self.scaled(1, 10, 100)

    @property
    def width(self) -> int:
        """Channels of the residual network's first layer."""
        return self.scaled(4, 16, 64)

    @property
    def mislabel_eps(self) -> float:
        """Change in l_2 that makes an image look like another class to the network."""
        return 0.5

    @property
    def mislabel_steps(self) -> int:
        """Steps of the attack that changes the images."""
        return self.scaled(2, 8, 100)

    @property
    def inversion_steps(self) -> int:
        """Steps of the search for images with given features."""
        return self.scaled(2, 10, 1000)

    @property
    def training_steps(self) -> int:
        """Steps of the adversary in adversarial training."""
        return self.scaled(1, 2, 7)

    @property
    def tested(self) -> int:
        """Test images."""
        return self.scaled(60, 2000, 10_000)

    @property
    def attacked(self) -> int:
        """Test images that are attacked."""
        return self.scaled(20, 300, 1000)


@dataclass(frozen=True, kw_only=True)
class TrainingStudyConfig(StudyConfig):
    """Configuration of the study of adversarial training: cost, overfitting, capacity.

    Example:
        >>> TrainingStudyConfig(data="mnist/", quick=True).epochs
        1
    """

    command: ClassVar[str] = "study-training"

    data: shared.DataPath
    cifar10_data: Cifar10Data = None

    @property
    def images(self) -> int:
        """Training images for the comparison of methods."""
        return self.scaled(256, 10_000, 60_000)

    @property
    def epochs(self) -> int:
        """Epochs of each training; Free-m passes the data once in m of them."""
        return self.scaled(1, 4, 24)

    @property
    def eps(self) -> float:
        """Radius in l_inf for the comparison of methods and of widths."""
        return self.scaled(0.1, 0.1, 0.3)

    @property
    def test_steps(self) -> int:
        """Steps of the attack that judges."""
        return self.scaled(3, 20, 100)

    @property
    def tested(self) -> int:
        """Test images."""
        return self.scaled(60, 2000, 10_000)

    @property
    def attacked(self) -> int:
        """Test images that are attacked."""
        return self.scaled(20, 400, 10_000)

    @property
    def few_images(self) -> int:
        """Training images for overfitting."""
        return self.scaled(128, 600, 50_000)

    @property
    def long_epochs(self) -> int:
        """Epochs for overfitting."""
        return self.scaled(3, 50, 200)

    @property
    def width_images(self) -> int:
        """Training images for the comparison of widths."""
        return self.scaled(256, 5000, 60_000)

    @property
    def width_epochs(self) -> int:
        """Epochs for the comparison of widths."""
        return self.scaled(1, 3, 24)

    @property
    def widths(self) -> tuple[int, ...]:
        """Factors of the smallest network's width."""
        return self.scaled((1, 2), (1, 2, 4, 8), (1, 2, 4, 8, 16))

    @property
    def pgd_steps(self) -> int:
        """Steps of PGD in the trainings of overfitting and widths."""
        return self.scaled(1, 5, 10)
