"""Configurations of ``attack`` and ``evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import ConfigField
from physadv.core.model_settings import ModelSettings
from physadv.threat.parsing import parse_threat

WITHOUT_SPEED = (
    *("fgsm", "mifgsm", "difgsm", "bsr", "sia", "decowa", "gra"),
    *("nes", "square", "rays", "hopskipjump", "surfree", "geoda", "pointwise", "jsma"),
    "sparse-rs",
)
"""Attacks whose arithmetic is always plain."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig(ModelSettings):
    """Fields shared by all evaluations under an epsilon ball."""

    model: shared.ModelName
    weights: shared.ModelWeights = None
    detector_goal: Annotated[
        tuple[str, ...],
        ConfigField(
            "Detectors: hide, fabricate or mislabel objects; may repeat.",
            "Attack",
            default="all three",
            completions=("hide", "fabricate", "mislabel"),
        ),
    ] = ()
    data: shared.DataPath
    split: shared.DataSplit = "test"
    labels: shared.ClassLabels = None
    limit: shared.SampleLimit = None
    threat: shared.ThreatText
    eot_draws: shared.EotDraws = 0
    eight_bit: Annotated[
        bool, ConfigField("Round images to 8 bits, inside the radius.", "Attack")
    ] = False
    save: Annotated[
        str | None,
        ConfigField(
            "Folder for all adversarial images as PNG (implies --eight-bit).",
            "Output",
            metavar="FOLDER",
            path=True,
        ),
    ] = None
    batch_size: shared.BatchSize = 128
    speed: Annotated[
        str,
        ConfigField(
            "Arithmetic: plain, fold (same function, faster), bf16, auto (the fastest, timed once "
            "a model and machine; in long runs compiled), or timed (auto, timed anew).",
            "Run",
            completions=("plain", "fold", "bf16", "auto", "timed"),
        ),
    ] = "fold"
    seed: shared.Seed = 0
    device: shared.Device = "auto"

    @property
    def ball(self) -> tuple[str, float]:
        """Norm and radius of the threat. Raises OptionError where ``threat`` cannot be read."""
        return parse_threat(self.threat, sparse=True)

    @property
    def rounds_to_8_bit(self) -> bool:
        """Whether images are rounded to 8 bits before success is evaluated."""
        return self.eight_bit or self.save is not None


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SampleConfig):
    """Configuration of an ensemble evaluation.

    Example:
        >>> EvaluateConfig(model="signs", data="gtsrb.zip", threat="linf:8/255").ball[0]
        'linf'
    """

    command: ClassVar[str] = "evaluate"

    curve: shared.RadiusCurve = "auto"


@dataclass(frozen=True, kw_only=True)
class AttackConfig(SampleConfig):
    """Configuration of one attack over a data set.

    Example:
        >>> AttackConfig(model="signs", data="gtsrb.zip", attack="apgd").threat
        'linf:8/255'
    """

    command: ClassVar[str] = "attack"

    threat: shared.ThreatText = "linf:8/255"
    attack: Annotated[
        str,
        ConfigField(
            "Attack: ascent, fgsm, pgd, apgd, fab, deepfool, superdeepfool, ddn, fmn, alma, "
            "cw, universal (one change for each batch); for transfer: mifgsm, difgsm, bsr, sia, "
            "decowa, gra; black boxes: nes, square, and by classes alone rays, hopskipjump, "
            "surfree, geoda; in l0 fgsm, pgd, sigma-zero, jsma, by scores sparse-rs, by classes "
            "pointwise.",
            "Attack",
            completions=(
                *("ascent", "fgsm", "pgd", "apgd", "fab", "deepfool", "superdeepfool"),
                *("ddn", "fmn", "alma", "cw", "universal"),
                *("mifgsm", "difgsm", "bsr", "sia", "decowa", "gra"),
                *("nes", "square", "rays", "hopskipjump", "surfree", "geoda"),
                *("sigma-zero", "jsma", "sparse-rs", "pointwise"),
            ),
        ),
    ] = "pgd"
    steps: Annotated[
        int | None,
        ConfigField(
            shared.STEPS_HELP,
            "Attack",
            least=1,
            default="the attack's own",
        ),
    ] = None
    restarts: Annotated[int, ConfigField(shared.RESTARTS_HELP, "Attack", least=1)] = 1
    loss: Annotated[
        str | None,
        ConfigField("Loss: ce, margin, dlr or pm.", "Attack", default="the attack's own"),
    ] = None
    targeted: Annotated[
        bool, ConfigField("Attack each image towards a random class.", "Attack")
    ] = False
    target: Annotated[
        str | None,
        ConfigField(shared.TARGET_HELP, "Attack", metavar="CLASS"),
    ] = None
    surrogate: Annotated[
        tuple[str, ...],
        ConfigField(
            "Take gradients of this model (or NAME=WEIGHTS) instead; may repeat.",
            "Model",
            metavar="MODEL",
            code=True,
        ),
    ] = ()

    def without_use(self) -> dict[str, str]:
        """Return the names of the fields that change nothing beside the others, and why."""
        unused = {}
        if self.target is not None:
            unused["targeted"] = "--target names the class"
        if self.surrogate:
            unused["speed"] = "gradients of --surrogate are plain"
        elif self.attack in WITHOUT_SPEED:
            unused["speed"] = f"{self.attack} is always plain"
        return unused


@dataclass(frozen=True, kw_only=True)
class ModelCheckConfig(ModelSettings):
    """Configuration of a model's examination.

    Example:
        >>> ModelCheckConfig(model="signs", photos="photos").limit
        200
    """

    command: ClassVar[str] = "models-check"

    model: Annotated[
        str,
        ConfigField("A name, a model file, or module:factory.", argument=True, code=True),
    ]
    weights: shared.ModelWeights = None
    photos: Annotated[
        str | None,
        ConfigField(shared.PHOTOS_HELP, "Check", metavar="FOLDER", path=True, aliases=("images",)),
    ] = None
    data: Annotated[
        str | None,
        ConfigField(
            shared.DATA_HELP, "Check", metavar="PATH", path=True, default="accuracy is not tested"
        ),
    ] = None
    split: shared.DataSplit = "test"
    labels: shared.ClassLabels = None
    limit: shared.SampleLimit = 200
    gradients: Annotated[
        bool, ConfigField("Check as well that a gradient reaches the image.", "Check")
    ] = True
    html: Annotated[
        str | None,
        ConfigField("HTML page to write.", "Output", metavar="FILE", path=True, default="none"),
    ] = None
    device: shared.Device = "auto"

    def without_use(self) -> dict[str, str]:
        """Return the names of the fields that change nothing beside the others, and why."""
        if self.data is not None:
            return {}
        return dict.fromkeys(("split", "labels", "limit"), "only --data has labeled images")
