"""Configuration of ``patch``: everything that decides a sticker."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import ConfigField
from physadv.core.errors import OptionError
from physadv.core.files import sha256_of
from physadv.core.model_settings import ModelSettings
from physadv.core.stop_signs import PLAIN, STOP_NAMES, VARIED, check_face_kind

ANYWHERE = "anywhere"
"""Value of ``object`` for a patch that may lie anywhere in a photo."""
STEP_RULES = ("auto", "gradient", "square", "evolution")
"""Values of ``search_by``."""
SEARCHES = ("auto", "none", "place", "proportions", "shape")
"""Values of ``search``."""
_LEAST_SEARCHED_STEPS, _LEAST_SEARCHED_DRAWS = 200, 16
"""Steps, and draws a step, from which "auto" searches: a race takes about 11,000 draws."""
_SEARCHED_STARTS, _STARTS_WITH_BARS = 20, 32
"""Starts of a race where the place is searched and no number is given: of one piece, and where bars
race too."""
DEFAULT_SIZE_MM = (190.0, 150.0)
"""Width and height of a sticker where none are given."""
DETECTOR_SIZE_MM = (380.0, 127.0)
"""Width and height, on a stop sign 457 mm wide, of a rectangle against detectors where none are
given: a band over the word. A detector reads the sign as a whole, so that a sticker has to cover
more of it than one against a classifier: the share of the sign decides, not steps, loss or draws
(benchmarks/physical.md)."""
_STOP_SIGN_MM = 457.0
WITHOUT_TARGET = ("untargeted", "vanish")
"""Goals that aim at no class."""
PROFILES = ("profile", "camera_profile")
"""Fields that name a profile; a bundle keeps a copy of each as <field>.json."""


@dataclass(frozen=True, kw_only=True)
class PatchConfig(ModelSettings):
    """Configuration of one patch optimization; its card records it, so that it can be verified.

    Example:
        >>> config = PatchConfig(model="signs", goal="untargeted", steps=100)
        >>> config.width_mm, config.height_mm
        (190.0, 150.0)
    """

    command: ClassVar[str] = "patch"

    model: shared.ModelName = "signs"
    weights: shared.ModelWeights = None
    goal: Annotated[
        str,
        ConfigField(
            shared.GOAL_HELP,
            "Goal",
            completions=("untargeted", "targeted", "vanish", "misclassify", "create"),
        ),
    ] = "untargeted"
    true_class: Annotated[str, ConfigField(shared.TRUE_CLASS_HELP, "Goal", metavar="CLASS")] = (
        "stop"
    )
    target_class: Annotated[
        str | None,
        ConfigField(shared.TARGET_HELP, "Goal", flag="--target", metavar="CLASS"),
    ] = None
    mask: Annotated[
        str,
        ConfigField(
            "Shape: rectangle, circle, octagon, bars (two), bars:COUNT:SHARE (so many, which cover "
            "that share of the height), or a PNG (alpha) or SVG file.",
            "Sticker",
        ),
    ] = "rectangle"
    size_mm: Annotated[
        tuple[float, float] | None,
        ConfigField(
            "Width x height of the sticker in mm.",
            "Sticker",
            flag="--size",
            metavar="WxH",
            separator="x",
            default="190x150; against detectors on a stop sign a band of 28 % of it",
        ),
    ] = None
    center_mm: Annotated[
        tuple[float, float] | None,
        ConfigField(
            "Center of the sticker from that of the sign in mm, x right, y down.",
            "Sticker",
            flag="--center",
            metavar="X,Y",
            separator=",",
            default="the middle, or what --search finds",
        ),
    ] = None
    sign_width_mm: Annotated[
        float,
        ConfigField(
            shared.SIGN_WIDTH_HELP,
            "Sticker",
            least=1,
            aliases=("sign-width",),
        ),
    ] = 457.0
    signs: shared.SignFolders = ()
    faces: shared.DrawnFaces = VARIED
    backgrounds: shared.BackgroundPhotos = None
    boxes: shared.BoxesFile = None
    object: Annotated[
        str,
        ConfigField(
            "What carries the patch: sign, anywhere (any photo), or a class that the detector "
            "knows.",
            "Scene",
        ),
    ] = "sign"
    photos: shared.ScenePhotos = None
    share: Annotated[
        tuple[float, float] | None,
        ConfigField(
            "Width of the patch, LOW:HIGH, over the diagonal of the object, or anywhere over the "
            "side of the picture.",
            "Scene",
            metavar="LOW:HIGH",
            separator=":",
            default="as published",
        ),
    ] = None
    ensemble: Annotated[
        tuple[str, ...],
        ConfigField(
            "Further model that the patch shall work on, NAME or NAME=WEIGHTS; may repeat.",
            "Model",
            metavar="MODEL",
            code=True,
        ),
    ] = ()
    palette: Annotated[
        str | None, ConfigField("The only colors that it may show: #c01c28,#ffffff,...", "Sticker")
    ] = None
    content: Annotated[
        str | None,
        ConfigField(
            "Reference image that the patch should resemble.", "Sticker", metavar="FILE", path=True
        ),
    ] = None
    content_weight: Annotated[
        float, ConfigField("Weight of the reference image.", "Sticker", least=0)
    ] = 5.0
    eot: Annotated[
        str,
        ConfigField(shared.EOT_HELP, "Scene", code=True),
    ] = "default"
    eot_ranges: Annotated[
        str | None,
        ConfigField(
            "TOML file of ranges in place of the preset's.", "Scene", metavar="FILE", path=True
        ),
    ] = None
    profile: shared.ColorProfileFile = None
    camera_profile: shared.CameraProfileFile = None
    steps: Annotated[int, ConfigField(shared.STEPS_HELP, "Optimization", least=1)] = 400
    draws: Annotated[
        int, ConfigField("Draws of the transformations a step.", "Optimization", least=1)
    ] = 32
    lr: Annotated[float, ConfigField(shared.LEARNING_RATE_HELP, "Optimization")] = 0.04
    tv: Annotated[float, ConfigField("Weight of total variation.", "Optimization", least=0)] = 0.15
    nps: Annotated[
        float,
        ConfigField("Weight of non-printability; unused with --profile.", "Optimization", least=0),
    ] = 0.05
    search: Annotated[
        str,
        ConfigField(
            "What is searched before the optimization, at the same area: place (any on the sign), "
            "proportions (and place), shape (bars in place of one rectangle too) or none (--center "
            "and --size as given). auto is proportions, or place where --size is given: for a "
            "rectangle without --center on stop signs, against classifiers, in runs of 200 "
            "steps of 16 draws or more; else none.",
            "Optimization",
            completions=SEARCHES,
        ),
    ] = "auto"
    search_by: Annotated[
        str,
        ConfigField(
            "What steps follow: gradient; scores alone, by square or evolution; auto: square for a "
            "model that only answers, else gradient.",
            "Optimization",
            completions=STEP_RULES,
        ),
    ] = "auto"
    restarts: Annotated[
        int,
        ConfigField(
            shared.RESTARTS_HELP,
            "Optimization",
            least=0,
            default="20 with --search, 32 where bars race too, else 1",
        ),
    ] = 0
    resolution: Annotated[
        int,
        ConfigField("Pixels of the patch along its longer side.", "Sticker", least=8, most=1024),
    ] = 64
    test_draws: Annotated[int, ConfigField(shared.TEST_DRAWS_HELP, "Optimization", least=1)] = 400
    threshold: Annotated[
        float | None,
        ConfigField(
            shared.THRESHOLD_HELP,
            "Goal",
            least=0,
            most=1,
            task="detect",
            default="the model's",
        ),
    ] = None
    seed: shared.Seed = 0
    device: shared.Device = "auto"
    name: Annotated[str, ConfigField("Name on the card and the sheet.", "Sticker")] = ""

    def __post_init__(self) -> None:
        """Check the values. OptionError for one of the wrong type or outside its limits."""
        object.__setattr__(self, "signs", shared.as_folders(self.signs))
        super().__post_init__()
        check_face_kind(self.faces)
        if not all(0 < side < math.inf for side in (self.width_mm, self.height_mm)):
            raise OptionError(
                f"--size {self.width_mm:g}x{self.height_mm:g}",
                "Both sides must be over 0 mm",
                "Write for example 280x190",
            )
        if self.search not in SEARCHES:
            raise OptionError(
                f"--search {self.search}", f"It must be one of {', '.join(SEARCHES)}", "Choose one"
            )
        if self.search_by not in STEP_RULES:
            raise OptionError(
                f"--search-by {self.search_by}",
                f"It must be one of {', '.join(STEP_RULES)}",
                "Choose one",
            )
        if self.search not in ("auto", "none") and self.object != "sign":
            raise OptionError(
                f"--search {self.search} on {self.object!r}",
                "Only on a sign does the patch have one place",
                "Leave it out",
            )
        if not all(math.isfinite(value) for value in self.place_mm):
            raise OptionError("--center", "Both numbers must be finite", "Write for example 0,95")

    @property
    def number_of_starts(self) -> int:
        """Number of the starts that race; 1 for none but the one configured."""
        if self.restarts or self.search in ("auto", "none"):
            return self.restarts or 1
        return _STARTS_WITH_BARS if self.searches_bars else _SEARCHED_STARTS

    @property
    def place_mm(self) -> tuple[float, float]:
        """Center of the sticker from that of the sign in mm: the middle where none is given."""
        return self.center_mm or (0.0, 0.0)

    def search_on(self, *, class_name: str, classifiers: bool) -> str:
        """Return what is searched, where ``search`` may leave it open.

        Searched is what gains by it: the place and the proportions of a plain sticker that somebody
        left to us, on the octagon of a stop sign, by gradients of classifiers. Detectors are
        best met in the middle. A race takes about as long as the default steps, so short runs go
        without.

        Args:
            class_name: The victim's name of the true class.
            classifiers: Whether all victims are classifiers with gradients.
        """
        if self.search != "auto":
            return self.search
        is_ours_to_place = (
            self.object == "sign"
            and self.center_mm is None
            and self.mask == "rectangle"
            and self.content is None
            and class_name in STOP_NAMES
        )
        long_enough = self.steps >= _LEAST_SEARCHED_STEPS and self.draws >= _LEAST_SEARCHED_DRAWS
        if not (is_ours_to_place and classifiers and long_enough):
            return "none"
        return "proportions" if self.size_mm in (None, DEFAULT_SIZE_MM) else "place"

    def size_on(self, *, class_name: str, detectors: bool) -> tuple[float, float]:
        """Return the width and height of the sticker in mm, which ``size_mm`` may leave open.

        Left open, it is that of :data:`DETECTOR_SIZE_MM`, as wide a share of the sign, for a plain
        rectangle without a center on a stop sign against detectors; else :data:`DEFAULT_SIZE_MM`.

        Args:
            class_name: The victim's name of the true class.
            detectors: Whether all victims are detectors.

        Example:
            >>> PatchConfig().size_on(class_name="stop sign", detectors=False)
            (190.0, 150.0)
        """
        if self.size_mm is not None:
            return self.size_mm
        is_plain = self.mask == "rectangle" and self.content is None
        is_ours_to_place = self.object == "sign" and self.center_mm is None
        if detectors and is_plain and is_ours_to_place and class_name in STOP_NAMES:
            return self._size_against_detectors
        return DEFAULT_SIZE_MM

    @property
    def _size_against_detectors(self) -> tuple[float, float]:
        scale = self.sign_width_mm / _STOP_SIGN_MM
        width, height = DETECTOR_SIZE_MM
        return round(width * scale, 1), round(height * scale, 1)

    @property
    def possible_sizes(self) -> tuple[tuple[float, float], ...]:
        """Widths and heights in mm that the sticker may have before any search: those that
        :meth:`size_on` chooses from where none is given."""
        if self.size_mm is not None:
            return (self.size_mm,)
        return DEFAULT_SIZE_MM, self._size_against_detectors

    @property
    def searches_bars(self) -> bool:
        """Whether bars race beside the rectangle."""
        return self.search == "shape" and self.mask == "rectangle"

    @property
    def printability_weight(self) -> float:
        """Weight of non-printability: none where a measured printer stands in the way itself."""
        return 0.0 if self.profile else self.nps

    @property
    def width_mm(self) -> float:
        """Width of the sticker in mm; that of :data:`DEFAULT_SIZE_MM` where none is given."""
        return (self.size_mm or DEFAULT_SIZE_MM)[0]

    @property
    def height_mm(self) -> float:
        """Height of the sticker in mm; that of :data:`DEFAULT_SIZE_MM` where none is given."""
        return (self.size_mm or DEFAULT_SIZE_MM)[1]

    def without_use(self) -> dict[str, str]:
        """Return the names of the fields that change nothing beside the others, and why."""
        if self.object == "sign":
            unused = dict.fromkeys(("photos", "share"), "the patch is on a sign, see --object")
            needed = ("--signs", bool(self.signs))
        else:
            of_signs = ("signs", "faces", "backgrounds", "center_mm", "true_class")
            unused = dict.fromkeys(of_signs, f"the patch is on {self.object!r}, not on a sign")
            needed = ("--photos", self.photos is not None)
        if not needed[1]:
            unused["boxes"] = f"they are those of {needed[0]}, which is not given"
        if self.goal in WITHOUT_TARGET:
            unused["target_class"] = f"the goal {self.goal!r} has none"
        if self.content is None:
            unused["content_weight"] = "it weighs --content, which is not given"
        if self.profile is not None:
            unused["nps"] = "the measured printer of --profile stands in its place"
        return unused

    def as_card_table(self) -> dict[str, Any]:
        """Return the configuration as a card spells it, in the order of the fields."""
        table: dict[str, Any] = {}
        for field in fields(self):
            if field.name == "size_mm":
                table |= {"width_mm": self.width_mm, "height_mm": self.height_mm}
            elif field.name == "center_mm":
                table["center_mm"] = self.place_mm
            else:
                table["victim" if field.name == "model" else field.name] = getattr(self, field.name)
        return table

    @property
    def scene_files(self) -> list[str]:
        """Folders and files of photos, drawings, boxes and the reference image."""
        single = (self.backgrounds, self.boxes, self.photos, self.content)
        return [*self.signs, *(path for path in single if path is not None)]

    def profile_checksums(self) -> dict[str, str]:
        """Return the sha256 of every profile that is named, as <field>_sha256."""
        paths = {"profile": self.profile, "camera_profile": self.camera_profile}
        return {f"{name}_sha256": sha256_of(path) for name, path in paths.items() if path}

    @classmethod
    def from_card_table(cls, table: dict[str, Any]) -> PatchConfig:
        """Return the configuration that ``table``, as a card spells it, records.

        Keys that are no fields are left out; the device is chosen anew. Cards of earlier versions
        name no ``faces``, since they knew the plain one only, and no ``search``.
        """
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in table.items() if key in known}
        values = {"faces": PLAIN, "search": "none"} | values
        if "victim" in table:
            values["model"] = table["victim"]
        if "width_mm" in table and "height_mm" in table:
            values["size_mm"] = (table["width_mm"], table["height_mm"])
        values["device"] = "auto"
        return cls(**values)
