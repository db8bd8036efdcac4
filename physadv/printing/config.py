"""Configuration of ``print``: paper, tiles, cut line, press profile and test signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import Config, ConfigField


@dataclass(frozen=True, kw_only=True)
class PrintConfig(Config):
    """Configuration of a print sheet.

    Example:
        >>> PrintConfig(bundle="stop-sticker-signs-v1", paper="300x400mm", bleed=2).bleed
        2.0
    """

    command: ClassVar[str] = "print"

    bundle: shared.BundlePath
    paper: Annotated[str | None, ConfigField(shared.PAPER_HELP, "Page", metavar="PAPER")] = None
    """None: a4, or without ``tile`` the smallest larger paper that takes the sticker."""
    tile: Annotated[
        bool, ConfigField("Lay a sticker larger than the paper over several sheets.", "Page")
    ] = False
    overlap: Annotated[
        float, ConfigField("Width that two tiles have in common, in mm.", "Page", least=5, most=50)
    ] = 10.0

    bleed: Annotated[
        float,
        ConfigField(
            "Width of the picture beyond the cut line, in mm.", "Cut line", least=0, most=5
        ),
    ] = 0.0
    safe: Annotated[
        float,
        ConfigField(
            "Safe area inside the cut line, in mm: a guide in the SVG.",
            "Cut line",
            least=0,
            most=20,
        ),
    ] = 2.0
    corner_radius: Annotated[
        float, ConfigField("Radius of the corners, in mm; 0.3 or more.", "Cut line", least=0.3)
    ] = 0.3
    cut_name: Annotated[str, ConfigField("Spot color of the cut line.", "Cut line")] = "CutContour"
    cut_width: Annotated[
        float, ConfigField("Width of the cut line, in pt.", "Cut line", least=0.25, most=1)
    ] = 0.25

    icc: Annotated[
        str | None,
        ConfigField(
            "Output profile of your print shop: makes the PDF PDF/X-4 and writes a soft proof.",
            "Color",
            metavar="FILE",
            path=True,
            default="sRGB",
        ),
    ] = None
    intent: Annotated[
        str,
        ConfigField(
            "Rendering intent with --icc: relative, perceptual, saturation or absolute.",
            "Color",
            completions=("relative", "perceptual", "saturation", "absolute"),
        ),
    ] = "relative"

    test_signs: Annotated[
        bool, ConfigField("Add three small paper signs to hold before a webcam.", "Test signs")
    ] = False
    sign: Annotated[
        str | None,
        ConfigField(
            "Drawing of the sign on them.",
            "Test signs",
            metavar="FILE",
            path=True,
            default="drawn by code",
            aliases=("signs",),
        ),
    ] = None

    def without_use(self) -> dict[str, str]:
        """Return the names of the fields that change nothing beside the others, and why."""
        unused = {}
        if not self.tile:
            unused["overlap"] = "only tiles overlap, see --tile"
        if self.icc is None:
            unused["intent"] = "it is for the profile of --icc, which is not given"
        if not self.test_signs:
            unused["sign"] = "it is drawn on --test-signs, which are not asked for"
        return unused
