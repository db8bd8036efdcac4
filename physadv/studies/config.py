"""Configurations of the studies."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, TypeVar

from physadv.core import shared_fields as shared
from physadv.core.config import Config, ConfigField
from physadv.core.errors import OptionError
from physadv.threat.parsing import parse_threat

QUICK_HELP = "A few images, steps and queries, to see that it runs."
"""Help of ``--quick`` wherever it stands."""
PICTURES_HELP = "Folder of photos to attack."
"""Help of ``--pictures`` wherever it stands."""

Scale = TypeVar("Scale")


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Config):
    """Base of the configurations of the lecture's studies.

    Raises:
        OptionError: ``quick`` and ``full`` are both given.
    """

    quick: Annotated[bool, ConfigField(QUICK_HELP, "Run")] = False
    full: Annotated[
        bool, ConfigField("The paper's scale where it can be had: minutes to days on a CPU.", "Run")
    ] = False
    seed: shared.Seed = 0

    def __post_init__(self) -> None:
        """Check the scale beside types and limits."""
        super().__post_init__()
        if self.quick and self.full:
            raise OptionError("--quick and --full", "A study has one scale", "Give one of them")

    def scaled(self, quick: Scale, usual: Scale, full: Scale) -> Scale:
        """Return the value for the scale that is asked for.

        Args:
            quick: Value to see that it runs: seconds.
            usual: Value by default: minutes on two cores.
            full: Value at the paper's scale.
        """
        return quick if self.quick else full if self.full else usual


@dataclass(frozen=True, kw_only=True)
class BookletConfig(StudyConfig):
    """Configuration of all studies in a row. A study whose data set is not given is left out.

    Example:
        >>> BookletConfig(mnist_data="mnist/", quick=True).data_set("mnist")
        'mnist/'
    """

    command: ClassVar[str] = "study-all"

    mnist_data: Annotated[
        str | None, ConfigField("MNIST: its four idx files.", "Data", metavar="PATH", path=True)
    ] = None
    cifar10_data: Annotated[
        str | None,
        ConfigField(
            "CIFAR-10: class folders, or a zip of them.", "Data", metavar="PATH", path=True
        ),
    ] = None
    gtsrb_data: Annotated[
        str | None,
        ConfigField(
            "GTSRB: the German signs, or a zip of them.", "Data", metavar="PATH", path=True
        ),
    ] = None
    photos_data: Annotated[
        str | None, ConfigField("Folder of photos.", "Data", metavar="FOLDER", path=True)
    ] = None
    boxes_data: Annotated[
        str | None,
        ConfigField("Photos with boxes: YOLO, COCO or VOC.", "Data", metavar="PATH", path=True),
    ] = None
    faces_data: Annotated[
        str | None,
        ConfigField(
            "Folder of people, each a folder of photos.", "Data", metavar="FOLDER", path=True
        ),
    ] = None
    study: Annotated[
        tuple[str, ...],
        ConfigField("Studies to run; may repeat.", "Run", metavar="STUDY", default="all"),
    ] = ()

    def data_set(self, kind: str) -> str | None:
        """Return the path that is given for the data set ``kind``, None where none is."""
        value: str | None = getattr(self, f"{kind}_data")
        return value

    def without_use(self) -> dict[str, str]:
        """Return the names of the fields that change nothing beside the others, and why."""
        from physadv.studies.registry import ENTRIES

        run = [entry for entry in ENTRIES if not self.study or entry.name in self.study]
        taken = {kind for e in run for _, kind in (*e.data_sets, *e.optional_sets)}
        paths = [field.name for field in fields(self) if field.name.endswith("_data")]
        why = "no study of --study takes it"
        return {name: why for name in paths if name.removesuffix("_data") not in taken}


def linf_radius(threat: str, *, below: float = 1.0) -> float:
    """Return the radius of a threat in l_inf, in units of [0, 1] images.

    Args:
        threat: Norm and radius, such as "linf:0.2".
        below: Limit that the radius must stay below.

    Raises:
        OptionError: The norm is another, or the radius not between 0 and ``below``.

    Example:
        >>> linf_radius("linf:8/255") == 8 / 255
        True
    """
    norm, eps = parse_threat(threat)
    if norm != "linf" or not 0 < eps < below:
        raise OptionError(
            f"threat {threat!r}",
            f"the study is of l_inf, with a radius between 0 and {below:.3g}",
            "Use e.g. linf:0.2",
        )
    return eps


PARTS = ("report", "choose")
"""Halves of the test images: figures are reported of the first, settings chosen on the second."""


@dataclass(frozen=True, kw_only=True)
class MaskingConfig(Config):
    """Configuration of the study of defenses that mask gradients.

    The images attacked are drawn from one half of the test images, ``part``. The halves never
    overlap and do not depend on ``seed``.

    Example:
        >>> MaskingConfig(data="mnist/", quick=True).effective.attack_steps
        5
    """

    command: ClassVar[str] = "study-masked"

    data: shared.DataPath
    limit: shared.SampleLimit = 200
    part: Annotated[
        str,
        ConfigField(
            "Half of the test images: report, or choose, which settings were chosen on.", "Data"
        ),
    ] = "report"
    train_images: Annotated[
        int,
        ConfigField(
            "Number of images the small nets are trained on.",
            "Training",
            least=10,
            aliases=("train",),
        ),
    ] = 10_000
    epochs: Annotated[int, ConfigField("Epochs.", "Training", least=1)] = 4
    threat: shared.ThreatText = "linf:0.2"
    attack_steps: Annotated[
        int,
        ConfigField(shared.ATTACK_STEPS_HELP, "Attack", least=1, aliases=("steps",)),
    ] = 40
    queries: Annotated[
        int,
        ConfigField("Queries of the black-box attack for each image; 0: none.", "Attack", least=0),
    ] = 1000
    rounds: Annotated[
        int,
        ConfigField(
            "Largest number of rounds that attack what is left, each with twice the steps, queries "
            "and seeds; they end with one that breaks nothing.",
            "Attack",
            least=0,
        ),
    ] = 3
    quick: Annotated[bool, ConfigField(QUICK_HELP, "Run")] = False
    seed: shared.Seed = 0

    def __post_init__(self) -> None:
        """Check threat and part beside types and limits."""
        super().__post_init__()
        linf_radius(self.threat)
        if self.part not in PARTS:
            raise OptionError(f"part {self.part!r}", f"one of {', '.join(PARTS)}", "Use report")

    @property
    def eps(self) -> float:
        """Radius of the threat in l_inf, in units of [0, 1] images."""
        return linf_radius(self.threat)

    @property
    def effective(self) -> MaskingConfig:
        """Configuration with ``quick`` applied to the numbers that it reduces."""
        if not self.quick:
            return self
        return replace(
            self,
            limit=min(self.limit or 20, 20),
            attack_steps=5,
            queries=min(self.queries, 20),
            rounds=min(self.rounds, 1),
            train_images=min(self.train_images, 512),
            epochs=1,
            quick=False,
        )

    def without_use(self) -> dict[str, str]:
        """Return the names of the fields that change nothing beside the others, and why."""
        values = {field.name: getattr(self.effective, field.name) for field in fields(self)}
        return {
            name: f"--quick makes it {value}"
            for name, value in values.items()
            if name != "quick" and value != getattr(self, name)
        }

    def facts(self) -> dict[str, Any]:
        """Return what identifies a study, under the keys that its files have always had.

        The rounds are not among them: a study with more of them goes on from one with fewer.
        """
        config = self.effective
        return {
            "data": config.data,
            "eps": config.eps,
            "images": config.limit,
            "steps": config.attack_steps,
            "queries": config.queries,
            "train": config.train_images,
            "epochs": config.epochs,
            "seed": config.seed,
            "part": config.part,
        }


@dataclass(frozen=True, kw_only=True)
class PhotographedConfig(Config):
    """Configuration of the study of printed and photographed adversarial pictures.

    Every picture is photographed by each of the cameras. ``only`` adds photographs by the last of
    them with one effect of the simulation alone, all others left out.

    Example:
        >>> PhotographedConfig(pictures="photos/", eps255=[8]).camera
        ('phone',)
    """

    command: ClassVar[str] = "study-photographed"

    model: shared.ModelName = "efficientnet-lite0"
    weights: shared.ModelWeights = None
    pictures: Annotated[
        str,
        ConfigField(
            PICTURES_HELP,
            "Data",
            metavar="FOLDER",
            path=True,
            aliases=("data",),
        ),
    ]
    picture_count: Annotated[
        int,
        ConfigField(
            "Number of pictures, spread evenly over the folder.",
            "Data",
            least=1,
            aliases=("limit",),
        ),
    ] = 48
    picture_size: Annotated[
        int, ConfigField("Side in pixels of the squares that are attacked.", "Data", least=8)
    ] = 224
    eps255: Annotated[
        tuple[int, ...],
        ConfigField("Radius in l_inf, in 255ths; may repeat.", "Attack", metavar="N"),
    ] = (16, 8)
    camera: shared.VirtualCameras = ("phone",)
    printer: shared.VirtualPrinter = "office-laser"
    only: Annotated[
        tuple[str, ...],
        ConfigField(
            "Also by the last camera with this effect of the simulation alone; may repeat.",
            "Filming",
            metavar="EFFECT",
        ),
    ] = ()
    seed: shared.Seed = 0
    device: shared.Device = "auto"

    def __post_init__(self) -> None:
        """Check the radii beside types and limits."""
        super().__post_init__()
        if not self.eps255 or min(self.eps255) < 1:
            raise OptionError(
                f"eps255 {list(self.eps255)}", "radii of at least 1/255 are needed", "Use e.g. 8"
            )

    def facts(self) -> dict[str, str]:
        """Return what identifies a study, under the keys that its files have always had."""
        return {
            "data": self.pictures,
            "images": str(self.picture_count),
            "eps": str(self.eps255),
            "cameras": str(self.camera),
            "printer": self.printer,
            "only": str(self.only),
            "size": str(self.picture_size),
            "seed": str(self.seed),
        }
