"""Configuration fields that several activities have: one name, one type, one meaning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from physadv.core.config import ConfigField
from physadv.core.errors import OptionError

MODEL_HELP = (
    "Model under test: a name of `physadv models list`, a file, or module:factory. + puts a "
    "defense before it, as in signs+jpeg (jpeg, median, blur, lgs, remover, patchcleanser, "
    "derandomized, patchguard)."
)
"""Help of ``--model`` wherever it stands."""

ModelName = Annotated[str, ConfigField(MODEL_HELP, "Model", metavar="MODEL", code=True)]
ModelOfBundle = Annotated[
    str | None,
    ConfigField(MODEL_HELP, "Model", metavar="MODEL", default="the bundle's", code=True),
]
"""``--model`` of commands that take the model from a bundle's card where none is given."""
WEIGHTS_HELP = "Weights file of the model, where it does not carry its own."
"""Help of ``--weights`` wherever it stands."""
ModelWeights = Annotated[
    str | None,
    ConfigField(
        WEIGHTS_HELP,
        "Model",
        flag="--weights",
        metavar="FILE",
        path=True,
    ),
]
EotDraws = Annotated[
    int,
    ConfigField(
        "For a model with random parts: attack the mean over this many draws.", "Attack", least=0
    ),
]

GOAL_HELP = "Goal of the patch: untargeted, targeted, vanish, misclassify or create."
TRUE_CLASS_HELP = "True class of the sign or object, by name or number."
TARGET_HELP = "Class aimed at, by name or number."
THRESHOLD_HELP = "Detectors: score from which a detection counts."
"""Help of ``--goal``, ``--true-class``, ``--target`` and ``--threshold`` wherever they stand."""

TEST_DRAWS_HELP = "Held-out draws for the reported figure."
EOT_HELP = (
    "Ranges of the transformations: default, camera, athalye, brown, rp2, thys, tsea; or "
    "MODULE:FACTORY of your own pipeline or stages."
)
"""Help of ``--test-draws`` and ``--eot`` wherever they stand."""

GoalOfBundle = Annotated[
    str | None,
    ConfigField(
        GOAL_HELP,
        "Goal",
        default="the bundle's",
        completions=("targeted", "untargeted", "vanish", "misclassify", "create"),
    ),
]
TrueClassOfBundle = Annotated[
    str | None, ConfigField(TRUE_CLASS_HELP, "Goal", metavar="CLASS", default="the bundle's")
]
TargetOfBundle = Annotated[
    str | None, ConfigField(TARGET_HELP, "Goal", metavar="CLASS", default="the bundle's")
]
ScoreThreshold = Annotated[
    float | None,
    ConfigField(
        THRESHOLD_HELP,
        "Goal",
        least=0,
        most=1,
        default="the model card's, else 0.25",
        task="detect",
    ),
]

DATA_HELP = (
    "Data set: class folders, CSV or list of paths, globs, Arrow or Parquet, WebDataset, idx, npz, "
    "GTSRB, zip or tar; YOLO, COCO or VOC boxes for detectors."
)
"""Help of ``--data`` wherever it stands."""
DataPath = Annotated[
    str,
    ConfigField(
        DATA_HELP,
        "Data",
        metavar="PATH",
        path=True,
    ),
]
DataSplit = Annotated[
    str,
    ConfigField(
        "Part of the data set, where it has parts: train, val, test or all.",
        "Data",
        completions=("train", "val", "test", "all"),
    ),
]
LABELS_HELP = (
    "Classes of the data where their names are not the model's: a TOML file with lines such as "
    '"Give Way" = "yield", or in-order.'
)
"""Help of ``--labels`` wherever it stands."""
ClassLabels = Annotated[
    str | None,
    ConfigField(
        LABELS_HELP,
        "Data",
        metavar="MAP.toml|in-order",
        default="by name",
        completions=("in-order",),
        is_open=True,
    ),
]
SampleLimit = Annotated[
    int | None,
    ConfigField("Number of images, drawn at random.", "Data", least=1, default="all"),
]
BatchSize = Annotated[int, ConfigField("Images processed at once.", "Run", least=1)]

SIGN_WIDTH_HELP = "Width of the sign in mm."
"""Help of ``--sign-width-mm`` wherever it stands."""
RESTARTS_HELP = "Number of starts, of which the best is kept."
STEPS_HELP = "Steps of the optimization; queries of a black-box attack."
"""Help of ``--steps`` wherever it stands."""
LEARNING_RATE_HELP = "Learning rate, at its peak where it follows a schedule."
"""Help of ``--lr`` wherever it stands."""

THREAT_HELP = (
    "Norm and radius of the allowed change: linf:8/255, l2:0.5, l1:12, l0:10 (pixels; attack and "
    "evaluate); in studies linf alone. Short forms: --norm, --eps."
)
"""Help of ``--threat`` wherever it stands."""

ThreatText = Annotated[str, ConfigField(THREAT_HELP, "Attack", metavar="NORM:EPS")]
ATTACK_STEPS_HELP = "Steps of each gradient attack."
"""Help of ``--attack-steps`` wherever it stands."""

NOISE_HELP = "Scale of the noise; its standard deviation where it is Gaussian."
"""Help of ``--sigma`` wherever it stands."""
RadiusCurve = Annotated[
    str,
    ConfigField(
        "Further radii, separated by commas; auto: 1/4, 1/2 and 3/2 of the radius; none.", "Attack"
    ),
]

SignFolders = Annotated[
    tuple[str, ...],
    ConfigField(
        "Photos (with or without box files) or drawings of the sign; may repeat.",
        "Scene",
        metavar="PATH",
        path=True,
        default="drawn by code",
    ),
]
FACES_HELP = "Drawn stop signs: varied (many faces, each drawn anew) or plain (one face)."
"""Help of ``--faces`` wherever it stands."""

DrawnFaces = Annotated[
    str,
    ConfigField(
        FACES_HELP,
        "Scene",
        completions=("varied", "plain"),
    ),
]
BACKGROUNDS_HELP = "Folder of photos without the sign."
"""Help of ``--backgrounds`` wherever it stands."""

BackgroundPhotos = Annotated[
    str | None,
    ConfigField(
        BACKGROUNDS_HELP,
        "Scene",
        metavar="FOLDER",
        path=True,
        default="made by code",
    ),
]
PHOTOS_HELP = "Folder of photos, with labels.csv or boxes.csv; else the model labels them."
"""Help of ``--photos`` wherever it stands."""
ScenePhotos = Annotated[
    str | None,
    ConfigField(
        PHOTOS_HELP,
        "Scene",
        metavar="FOLDER",
        path=True,
    ),
]
BoxesFile = Annotated[
    str | None,
    ConfigField(
        "Boxes of the signs or objects: CSV file,x0,y0,x1,y1; COCO; VOC; YOLO.",
        "Scene",
        metavar="FILE",
        path=True,
        default="boxes.csv beside",
    ),
]
ColorProfileFile = Annotated[
    str | None,
    ConfigField(
        "Color profile of your printer and camera, from `calibrate fit`.",
        "Scene",
        metavar="FILE",
        path=True,
    ),
]
CAMERA_PROFILE_HELP = "Lens profile of your camera, from `calibrate camera`."
"""Help of ``--camera-profile`` wherever it stands."""
CameraProfileFile = Annotated[
    str | None,
    ConfigField(
        CAMERA_PROFILE_HELP,
        "Scene",
        metavar="FILE",
        path=True,
    ),
]
BundlePath = Annotated[
    str,
    ConfigField(
        "A bundle folder, or a name in patches/.", "Source", metavar="BUNDLE", argument=True
    ),
]
DetectorWeights = Annotated[
    str | None,
    ConfigField(
        "Weights file of the detector: fastestdet for signs, facedet-slim for faces.",
        "Locating",
        metavar="FILE",
        path=True,
        default="those in the cache",
    ),
]
FilmedCameraProfile = Annotated[
    str | None, ConfigField(CAMERA_PROFILE_HELP, "Camera", metavar="FILE", path=True)
]
PAPER_HELP = "Paper of the printed page: a5, letter, a4, legal, a3, a2, a1, or a size as 300x400mm."
"""Help of ``--paper`` wherever it stands."""
Paper = Annotated[str, ConfigField(PAPER_HELP, "Output", metavar="PAPER")]
FilmedPaper = Annotated[str, ConfigField(PAPER_HELP, "Camera", metavar="PAPER")]

ClipCount = Annotated[
    int, ConfigField("Clips of each block: clean, blank, patch.", "Filming", least=1)
]
FrameCount = Annotated[int, ConfigField("Frames of each clip.", "Filming", least=1)]
VirtualCameras = Annotated[
    tuple[str, ...],
    ConfigField(
        "Simulated camera: phone, webcam, dashcam, old-phone, system-camera, action-cam, cctv, or "
        "all; may repeat.",
        "Filming",
        metavar="NAME",
        completions=(
            *("phone", "webcam", "dashcam", "old-phone", "system-camera", "action-cam", "cctv"),
            "all",
        ),
    ),
]
VirtualPrinter = Annotated[
    str,
    ConfigField(
        "Simulated printer: drawn (another for each seed), office-laser, office-inkjet, "
        "photo-inkjet, vinyl-latex, poster-offset, newsprint or ideal.",
        "Filming",
        metavar="NAME",
        completions=(
            *("drawn", "office-laser", "office-inkjet", "photo-inkjet", "vinyl-latex"),
            *("poster-offset", "newsprint", "ideal"),
        ),
    ),
]
PictureSources = Annotated[
    tuple[str, ...],
    ConfigField(
        "Photos, a folder, a video, a camera index or an address.",
        "Source",
        metavar="SOURCE",
        argument=True,
    ),
]

ServePort = Annotated[
    int | None,
    ConfigField(
        "Show the live picture on a page of this machine, at this port or any free one.",
        "Output",
        metavar="[PORT]",
        least=0,
        most=65535,
        affects_result=False,
    ),
]

Seed = Annotated[int, ConfigField("Named seed of the run: same seed, same result.", "Run")]
Device = Annotated[
    str,
    ConfigField(
        "Where to compute: auto, cpu, cuda, cuda:1, mps.",
        "Run",
        metavar="DEVICE",
        completions=("auto", "cpu", "cuda", "mps"),
        is_open=True,
        affects_result=False,
    ),
]


def as_folders(signs: str | Path | Sequence[str | Path] | None) -> tuple[str, ...]:
    """Return one folder, several or none as their names; OptionError for anything else, as a card
    from elsewhere may hold.

    Example:
        >>> as_folders("photos"), as_folders(None)
        (('photos',), ())
    """
    if isinstance(signs, str | Path):
        return (str(signs),)
    if signs is not None and not isinstance(signs, list | tuple):
        raise OptionError(f"signs = {signs!r}", "a folder or a list of them", "Name folders")
    return tuple(str(folder) for folder in signs or ())
