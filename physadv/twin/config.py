"""Configuration of ``twin``: scenes, clips, cameras and printer of the simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import Config, ConfigField


@dataclass(frozen=True, kw_only=True)
class TwinConfig(Config):
    """Configuration of a print-and-film simulation.

    Example:
        >>> TwinConfig(bundle="stop-sticker-signs-v1", distances=[2, 12]).distances
        (2.0, 12.0)
    """

    command: ClassVar[str] = "twin"

    bundle: shared.BundlePath
    sheet: Annotated[
        str | None,
        ConfigField(
            "PDF of `physadv print`.",
            "Source",
            metavar="FILE",
            path=True,
            default="made here, in the run's folder",
        ),
    ] = None

    signs: shared.SignFolders = ()
    backgrounds: shared.BackgroundPhotos = None
    distances: Annotated[
        tuple[float, float] | None,
        ConfigField(
            "Nearest and farthest distance of the camera in m, as in 2,12.",
            "Scene",
            metavar="NEAR,FAR",
            separator=",",
            default="sign 1/16 to 11/32 of the picture wide",
            aliases=("distance",),
        ),
    ] = None

    clips: shared.ClipCount = 6
    frames: shared.FrameCount = 24
    frame_size: Annotated[
        tuple[int, int],
        ConfigField(
            "Size of a frame in px; the default is what `check` requests from a camera.",
            "Filming",
            metavar="WIDTHxHEIGHT",
            separator="x",
        ),
    ] = (1280, 720)
    camera: shared.VirtualCameras = ("phone", "webcam", "dashcam")
    printer: shared.VirtualPrinter = "drawn"
    without: Annotated[
        tuple[str, ...],
        ConfigField(
            "Effect to leave out: printer, distortion, defocus, motion, vignette, noise, bayer, "
            "white-balance, tone, sharpening or jpeg; may repeat.",
            "Filming",
            metavar="EFFECT",
            completions=(
                *("printer", "distortion", "defocus", "motion", "vignette", "noise", "bayer"),
                *("white-balance", "tone", "sharpening", "jpeg"),
            ),
        ),
    ] = ()

    seed: shared.Seed = 0

    def __post_init__(self) -> None:
        """Check the values; one folder of signs may stand for a list of one."""
        object.__setattr__(self, "signs", shared.as_folders(self.signs))
        super().__post_init__()

    def without_use(self) -> dict[str, str]:
        """Return the names of the fields that change nothing beside the others, and why."""
        return {"printer": "--without leaves the printer out"} if "printer" in self.without else {}
