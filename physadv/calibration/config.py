"""Configurations of ``calibrate chart``, ``calibrate fit`` and ``calibrate camera``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import Config, ConfigField

ViewCount = Annotated[
    int,
    ConfigField(
        "Most usable views to take of a video or a camera.",
        "Source",
        least=1,
        aliases=("frames",),
    ),
]
Guided = Annotated[
    bool,
    ConfigField(
        "Say what to do before the camera, and take each view once it is still and sharp; always "
        "for a camera's index.",
        "Source",
        affects_result=False,
    ),
]
CameraName = Annotated[
    str,
    ConfigField(
        "Name of the camera, for the profile.", "Profile", metavar="NAME", aliases=("camera",)
    ),
]


@dataclass(frozen=True, kw_only=True)
class ChartConfig(Config):
    """Configuration of a page to print: the color chart, or the board for the camera's lens.

    Example:
        >>> ChartConfig(paper="letter").kind
        'color'
    """

    command: ClassVar[str] = "calibrate-chart"

    kind: Annotated[
        str,
        ConfigField(
            "Page: color, or charuco, the board for `calibrate camera`.",
            "Page",
            completions=("color", "charuco"),
        ),
    ] = "color"
    set: Annotated[
        int,
        ConfigField(
            "Colors of the chart: 1 to fit on; 2 to 4 to test the fit.", "Page", least=1, most=4
        ),
    ] = 1
    paper: shared.Paper = "a4"

    def without_use(self) -> dict[str, str]:
        """Return the names of the fields that change nothing beside the others, and why."""
        return {} if self.kind == "color" else {"set": "only the color chart has sets"}


@dataclass(frozen=True, kw_only=True)
class ColorFitConfig(Config):
    """Configuration of a color profile's fit.

    Example:
        >>> ColorFitConfig(sources=["chart.jpg"], printer_name="office laser").map
        'auto'
    """

    command: ClassVar[str] = "calibrate-fit"

    sources: shared.PictureSources
    check: Annotated[
        tuple[str, ...],
        ConfigField(
            "Photo of another set, whose colors test the fit; may repeat.",
            "Source",
            metavar="SOURCE",
        ),
    ] = ()
    views: ViewCount = 8
    guided: Guided = False
    serve: shared.ServePort = None
    camera_profile: shared.FilmedCameraProfile = None
    map: Annotated[
        str,
        ConfigField(
            "Form of the color map: auto (least leave-one-out error), 3x4, 10-term ... 56-term.",
            "Profile",
            completions=("auto", "3x4", "10-term", "20-term", "35-term", "56-term"),
        ),
    ] = "auto"
    printer_name: Annotated[
        str,
        ConfigField(
            "Name of the printer, for the profile.",
            "Profile",
            metavar="NAME",
            aliases=("printer",),
        ),
    ] = ""
    printed_on: Annotated[
        str, ConfigField("Paper or foil, for the profile.", "Profile", metavar="NAME")
    ] = ""
    camera_name: CameraName = ""


@dataclass(frozen=True, kw_only=True)
class CameraFitConfig(Config):
    """Configuration of a camera profile's measurement.

    Example:
        >>> CameraFitConfig(sources=["board-photos/"]).views
        30
    """

    command: ClassVar[str] = "calibrate-camera"

    sources: shared.PictureSources
    views: ViewCount = 30
    guided: Guided = False
    serve: shared.ServePort = None
    camera_name: CameraName = ""
