"""Registry of the lecture's studies, in the lecture's order, without loading torch.

The command line is made of this list: configurations lie in modules that import no torch, and a
study's own module is imported when it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from physadv.core.errors import OptionError
from physadv.studies.attack_configs import ObfuscatedConfig, PhysicalConfig, ThreatsConfig
from physadv.studies.attack_studies_config import (
    BoundaryConfig,
    GradientConfig,
    PatchBenchmarkConfig,
    PrivacyConfig,
    TransferConfig,
)
from physadv.studies.certificate_studies_config import (
    IntervalsConfig,
    NormsConfig,
    PolytopeConfig,
    SmoothingStudyConfig,
)
from physadv.studies.config import BookletConfig, StudyConfig
from physadv.studies.learning_studies_config import (
    CostConfig,
    FeaturesConfig,
    SamplesConfig,
    TrainingStudyConfig,
)

if TYPE_CHECKING:
    from physadv.studies.study import Study


@dataclass(frozen=True)
class StudyEntry:
    """A study as the command line lists it.

    Args:
        name: Name of the command.
        module: Module of this package that holds its ``STUDY``.
        config: Class of its configuration, from a module that imports no torch.
        short: Line in the list of studies, such as "One gradient, used twice (Szegedy 2013)."
        help: First sentence of the command's help: what is measured, in the imperative.
        example: Options of the help's example, such as "--data mnist/".
        data_sets: Fields of the configuration that name data, with the option of ``study all``
            that gives it, without its ``_data``: mnist, cifar10, gtsrb, photos or faces.
        optional_sets: The same for data that the study can do without.
        full_minutes: CPU minutes that ``--full`` took where it was run to its end, on one thread.
    """

    name: str
    module: str
    config: type[StudyConfig]
    short: str
    help: str
    example: str = ""
    data_sets: tuple[tuple[str, str], ...] = ()
    optional_sets: tuple[tuple[str, str], ...] = ()
    full_minutes: int | None = None

    @property
    def full_time(self) -> str:
        """What ``--full`` takes, as far as it is known, in one sentence."""
        if self.full_minutes is None:
            return "--full takes hours on a CPU, days for some studies; complete parts are kept"
        return f"--full took {self.full_minutes} minutes of CPU time where it was measured"

    def load(self) -> Study[Any]:
        """Import the study's module and return the study."""
        study: Study[Any] = import_module(f"{__package__}.{self.module}").STUDY
        return study


ENTRIES: tuple[StudyEntry, ...] = (
    StudyEntry(
        "gradient",
        "input_gradient",
        GradientConfig,
        "One gradient, used for the weights and for the input (Szegedy 2013).",
        "Follow one gradient both ways, to train a network and to attack it, and measure how far "
        "the nearest error is (Szegedy et al. 2013).",
        "--data mnist/ --pictures photos/",
        (("data", "mnist"),),
        (("pictures", "photos"),),
    ),
    StudyEntry(
        "transfer",
        "transfer_matrix",
        TransferConfig,
        "Examples made for one network, given to others (Szegedy 2013, Dong 2018).",
        "Attack networks of several architectures and halves of the training images, and measure "
        "how often the examples fool the others, with and without momentum and diverse inputs.",
        "--data mnist/",
        (("data", "mnist"),),
        (("sign_data", "gtsrb"),),
    ),
    StudyEntry(
        "boundary",
        "decision_boundary",
        BoundaryConfig,
        "Decision regions and loss surfaces around an image (Madry 2017).",
        "Draw the decision regions and the loss around an image, for standard, adversarially "
        "trained and smoothed networks, and in two dimensions (Madry et al. 2017).",
        "--data mnist/",
        (("data", "mnist"),),
    ),
    StudyEntry(
        "obfuscated",
        "obfuscated_gradients",
        ObfuscatedConfig,
        "Shattered, stochastic, vanishing gradients, and what gives each away (Athalye 2018).",
        "Compare the apparent and the real robustness of defenses that hide their gradients, and "
        "run the checks that give each away.",
        "--data mnist/",
        (("data", "mnist"),),
    ),
    StudyEntry(
        name="training",
        module="robust_training",
        config=TrainingStudyConfig,
        short="Adversarial training: cost, overfitting, capacity (Madry 2017).",
        help="Train networks by PGD, Free, fast, TRADES and a gradient penalty; compare robust "
        "accuracy with cost, over epochs, and by width.",
        example="--data mnist/ --cifar10-data cifar10.zip",
        data_sets=(("data", "mnist"), ("cifar10_data", "cifar10")),
    ),
    StudyEntry(
        name="polytope",
        module="outer_polytope",
        config=PolytopeConfig,
        short="All that a network can reach, inside a convex polytope (Wong and Kolter 2017).",
        help="Draw what networks reach from a box inside the convex outer polytope and the "
        "interval box, and measure tightness by depth, training and cost.",
        example="--data mnist/",
        data_sets=(("data", "mnist"),),
    ),
    StudyEntry(
        name="intervals",
        module="interval_bounds",
        config=IntervalsConfig,
        short="What intervals prove, and lines in their place (Gowal 2018, Zhang 2019).",
        help="Measure the certified error of IBP, CROWN-IBP, CROWN and alpha-CROWN against the "
        "radius, for networks trained without and with bounds.",
        example="--data mnist/",
        data_sets=(("data", "mnist"),),
    ),
    StudyEntry(
        name="smoothing",
        module="randomized_smoothing",
        config=SmoothingStudyConfig,
        short="A majority vote under noise and the ball that it proves (Cohen 2019).",
        help="Smooth classifiers by a vote under Gaussian noise and certify l_2 balls: regions, "
        "votes, noise against accuracy.",
        example="--data mnist/",
        data_sets=(("data", "mnist"),),
    ),
    StudyEntry(
        name="norms",
        module="noise_and_norms",
        config=NormsConfig,
        short="What noise pays for l_inf: the root of the dimension (Blum, Yang 2020).",
        help="Measure the certified l_inf radius of smoothing against the number of dimensions, by "
        "formula, by simulation and on images of several sizes.",
        example="--data mnist/",
        data_sets=(("data", "mnist"),),
    ),
    StudyEntry(
        name="cost",
        module="accuracy_cost",
        config=CostConfig,
        short="What robustness costs in accuracy, and when (Tsipras 2019).",
        help="Measure clean accuracy by size of the training set for several adversaries in "
        "training, and both accuracies in a model where their conflict is proved.",
        example="--data mnist/ --gtsrb-data gtsrb.zip",
        data_sets=(("data", "mnist"), ("gtsrb_data", "gtsrb")),
    ),
    StudyEntry(
        "samples",
        "robust_samples",
        SamplesConfig,
        "How many samples robust learning needs (Schmidt 2018).",
        "Count the samples that standard and robust learning need in two models where both are "
        "known in closed form (Schmidt et al. 2018).",
        full_minutes=5,
    ),
    StudyEntry(
        name="features",
        module="brittle_features",
        config=FeaturesConfig,
        short="Adversarial examples are features, not bugs (Ilyas 2019).",
        help="Train networks on images that look mislabeled, on robust features alone and on "
        "non-robust ones, and test them on true images.",
        example="--data cifar10.zip --gtsrb-data gtsrb.zip",
        data_sets=(("data", "cifar10"), ("gtsrb_data", "gtsrb")),
    ),
    StudyEntry(
        "physical",
        "sticker_effects",
        PhysicalConfig,
        "What each effect of print and camera destroys (Athalye, Eykholt 2018).",
        "Measure what each effect between print and picture destroys of stickers made with and "
        "without it, from one view to the cameras of the simulation.",
    ),
    StudyEntry(
        "patches",
        "patch_benchmark",
        PatchBenchmarkConfig,
        "Patches on objects: attacks x detectors x defenses (Brown 2017, Thys 2019).",
        "Optimize patches that hide objects, for detectors alone, by scores and through each "
        "defense, and measure average precision and the objects found on other photos.",
        "--data coco128/ --detector fastestdet=fastestdet.pth",
        (("data", "boxes"),),
    ),
    StudyEntry(
        "threats",
        "attacker_access",
        ThreatsConfig,
        "Gradients, scores, labels or nothing: success against queries (Papernot 2016).",
        "Compare attackers who see gradients, scores, labels or nothing of the same net.",
        "--data mnist/",
        (("data", "mnist"),),
    ),
    StudyEntry(
        "privacy",
        "cloaked_faces",
        PrivacyConfig,
        "The cloak of a photo: an adversarial example for good (Shan 2020).",
        "Cloak photos of faces with several budgets and measure how often face recognizers, used "
        "for the cloak or not, still match them (Shan et al. 2020).",
        "--people faces/",
        (("people", "faces"),),
    ),
)
"""All studies, in the order of the lecture."""


@dataclass(frozen=True)
class BookletPlan:
    """Studies of a booklet.

    Args:
        chosen: Each study to run, with its configuration, in order.
        left_out: Why each other study is not run, by its name.
    """

    chosen: tuple[tuple[StudyEntry, StudyConfig], ...]
    left_out: dict[str, str]


def plan_booklet(config: BookletConfig) -> BookletPlan:
    """Choose the studies of a booklet and give each its data set, scale and seed.

    Args:
        config: Configuration of the booklet.

    Raises:
        OptionError: ``study`` names an unknown study, or no study has its data set.
    """
    for name in config.study:
        if all(entry.name != name for entry in ENTRIES):
            study_named(name)

    chosen, left_out = [], {}
    for entry in ENTRIES:
        if config.study and entry.name not in config.study:
            continue
        paths = {field: (kind, config.data_set(kind)) for field, kind in entry.data_sets}
        missing = [kind for kind, path in paths.values() if path is None]
        if missing:
            left_out[entry.name] = f"needs {' and '.join(f'--{kind}-data' for kind in missing)}"
            continue
        values: dict[str, Any] = {field: path for field, (_, path) in paths.items()}
        values |= {field: config.data_set(kind) for field, kind in entry.optional_sets}
        values |= {"quick": config.quick, "full": config.full, "seed": config.seed}
        chosen.append((entry, entry.config(**values)))

    if not chosen:
        wants = "; ".join(f"{name} {why}" for name, why in left_out.items())
        raise OptionError("no study can run", wants or "no study is known", "Give its data set")
    return BookletPlan(tuple(chosen), left_out)


def study_named(name: str) -> Study[Any]:
    """Return the study called ``name``.

    Raises:
        OptionError: There is none.
    """
    for entry in ENTRIES:
        if entry.name == name:
            return entry.load()
    known = ", ".join(entry.name for entry in ENTRIES)
    raise OptionError(f"study {name!r}", f"one of {known}", "Choose one of them")
