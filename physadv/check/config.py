"""Configuration of ``check``: sources, model, goal, locating, camera, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import ConfigField
from physadv.core.model_settings import ModelSettings


@dataclass(frozen=True, kw_only=True)
class CheckConfig(ModelSettings):
    """Configuration of a check of printed or simulated signs.

    Example:
        >>> config = CheckConfig(source="0", bundle="stop-sticker-signs-v1", box=(40, 20, 80, 60))
        >>> config.box
        (40.0, 20.0, 80.0, 60.0)
    """

    command: ClassVar[str] = "check"

    source: Annotated[
        str,
        ConfigField(
            "Twin folder, camera index, video, stream address, or folder of photos or clips.",
            "Source",
            metavar="SOURCE",
            argument=True,
        ),
    ]
    clean: Annotated[
        str | None,
        ConfigField(
            "Source of the clean control, where SOURCE lacks it.", "Source", metavar="SOURCE"
        ),
    ] = None
    blank: Annotated[
        str | None,
        ConfigField(
            "Source of the blank control, where SOURCE lacks it.", "Source", metavar="SOURCE"
        ),
    ] = None
    block: Annotated[
        str | None,
        ConfigField(
            "Block of all frames of SOURCE: clean, blank or patch.",
            "Source",
            default="by markers",
            completions=("clean", "blank", "patch"),
        ),
    ] = None

    bundle: Annotated[
        str | None,
        ConfigField(
            "Bundle that was printed, which names model, goal and classes: a folder, or a name in "
            "patches/.",
            "Model",
            metavar="BUNDLE",
            path=True,
        ),
    ] = None
    model: shared.ModelOfBundle = None
    weights: shared.ModelWeights = None

    goal: shared.GoalOfBundle = None
    true_class: shared.TrueClassOfBundle = None
    target: shared.TargetOfBundle = None
    threshold: shared.ScoreThreshold = None
    iou: Annotated[
        float,
        ConfigField(
            "Detectors: least overlap (IoU) of a detection with the sign's box.",
            "Goal",
            most=1,
            task="detect",
        ),
    ] = 0.3

    locate: Annotated[
        str,
        ConfigField(
            "How the sign is located: auto, truth, fiducials, box, features, detector or frame.",
            "Locating",
            completions=("auto", "truth", "fiducials", "box", "features", "detector", "frame"),
        ),
    ] = "auto"
    box: Annotated[
        tuple[float, float, float, float] | None,
        ConfigField(
            "Box of the sign in px, for a fixed camera and a fixed sign.",
            "Locating",
            metavar="X0,Y0,X1,Y1",
            separator=",",
        ),
    ] = None
    select: Annotated[
        bool, ConfigField("Draw that box in a window on the first frame.", "Locating")
    ] = False
    detector_weights: shared.DetectorWeights = None

    camera_profile: shared.FilmedCameraProfile = None
    focal_px: Annotated[
        float | None,
        ConfigField("Focal length of the camera in px.", "Camera", least=1, default="assumed"),
    ] = None
    distance: Annotated[
        str | None,
        ConfigField(
            "Distance of the sign where it cannot be measured: 2.5m, 250cm.",
            "Camera",
            metavar="LENGTH",
        ),
    ] = None
    sign_width_mm: Annotated[
        float | None,
        ConfigField(
            shared.SIGN_WIDTH_HELP,
            "Camera",
            least=1,
            default="the test page's where its markers show, else the bundle's",
        ),
    ] = None
    paper: shared.FilmedPaper = "a4"
    camera_size: Annotated[
        tuple[int, int],
        ConfigField(
            "Picture size requested from a camera, in px.",
            "Camera",
            metavar="WIDTHxHEIGHT",
            separator="x",
        ),
    ] = (1280, 720)
    lock: Annotated[
        bool,
        ConfigField("Lock the camera's exposure, white balance and focus.", "Camera"),
    ] = True
    timeout: Annotated[
        float,
        ConfigField(
            "Seconds that a source may take to open or to give a frame.",
            "Camera",
            least=0.1,
            affects_result=False,
        ),
    ] = 20.0
    retry: Annotated[
        float,
        ConfigField(
            "Seconds during which a lost camera or stream is tried again; 0: never.",
            "Camera",
            least=0,
            affects_result=False,
        ),
    ] = 30.0

    clip_seconds: Annotated[
        float | None,
        ConfigField(
            "Cut recordings into clips of this length.",
            "Length",
            least=0,
            default="uncut; live sources every 10 s",
        ),
    ] = None
    every: Annotated[
        int, ConfigField("Classify every n-th frame of a file.", "Length", least=1)
    ] = 1
    max_frames: Annotated[
        int | None, ConfigField("Most frames of each block.", "Length", least=1, default="all")
    ] = None
    width: Annotated[
        float | None,
        ConfigField(
            "End a block when its 95 % interval is this narrow; 0: never.",
            "Length",
            least=0,
            default="0.1 for live sources, else never",
        ),
    ] = None

    window: Annotated[
        bool, ConfigField("Show the live picture in a window.", "Output", affects_result=False)
    ] = False
    serve: shared.ServePort = None
    twin_check: Annotated[
        str | None,
        ConfigField(
            "Folder of the check of the twin, for a report of both side by side.",
            "Output",
            metavar="FOLDER",
            path=True,
            affects_result=False,
        ),
    ] = None
    record: Annotated[
        bool,
        ConfigField(
            "Write the rates on the card of each bundle.",
            "Output",
            affects_result=False,
        ),
    ] = False

    seed: shared.Seed = 0
    device: shared.Device = "auto"
