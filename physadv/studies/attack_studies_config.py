"""Configurations of the studies of attacks: gradient, transfer, boundary, privacy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import ConfigField
from physadv.studies.config import PICTURES_HELP, StudyConfig


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
