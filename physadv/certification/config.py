"""Configuration of ``certify``: one method of certification over a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from physadv.core import shared_fields as shared
from physadv.core.config import ConfigField
from physadv.core.errors import OptionError
from physadv.core.model_settings import ModelSettings
from physadv.threat.parsing import Norm, parse_eps, parse_norm

METHODS = ("smoothing", "ibp", "crown-ibp", "crown", "polytope", "alpha-crown", "bab", "patch")
"""Names of the methods: randomized smoothing, five bounds, branch and bound, and certified patch
defenses."""
_SEARCH = "bab"


@dataclass(frozen=True, kw_only=True)
class CertifyConfig(ModelSettings):
    """Configuration of a certification.

    ``threat`` is a norm and a radius. Bounds need both. Smoothing certifies the radius alone, in
    stages of few samples; without a radius (``"l2"``) it certifies the largest radius that each
    image allows. A patch defense brings its own threat, the size of its patch.

    Example:
        >>> config = CertifyConfig(model="signs", data="gtsrb.zip", threat="l2:0.25")
        >>> config.method, config.norm, config.radius
        ('smoothing', 'l2', 0.25)
    """

    command: ClassVar[str] = "certify"

    model: Annotated[
        str, ConfigField(shared.MODEL_HELP, "Model", metavar="MODEL", default="required", code=True)
    ] = ""
    weights: shared.ModelWeights = None
    data: Annotated[
        str | None,
        ConfigField(
            shared.DATA_HELP, "Data", metavar="PATH", default="required, or --vnnlib", path=True
        ),
    ] = None
    vnnlib: Annotated[
        str | None,
        ConfigField(
            "Property to verify instead of a data set, by branch and bound: a VNNLIB file of the "
            "ONNX file --model, or a folder or file of instances.csv.",
            "Data",
            metavar="PATH",
            path=True,
        ),
    ] = None
    split: shared.DataSplit = "test"
    labels: shared.ClassLabels = None
    limit: shared.SampleLimit = None
    method: Annotated[
        str, ConfigField(f"Method: {', '.join(METHODS)}.", "Method", completions=METHODS)
    ] = "smoothing"
    threat: Annotated[
        str | None,
        ConfigField(
            shared.THREAT_HELP,
            "Attack",
            metavar="NORM:EPS",
            default="smoothing: l2, at all radii",
        ),
    ] = None
    curve: shared.RadiusCurve = "auto"
    sigma: Annotated[float, ConfigField(shared.NOISE_HELP, "Method", least=1e-6)] = 0.25
    noise: Annotated[
        str | None,
        ConfigField(
            "Noise of smoothing: gaussian (l2, linf), laplace or uniform (l1).",
            "Method",
            default="by norm",
        ),
    ] = None
    n0: Annotated[
        int | None,
        ConfigField(
            "Smoothing: noisy images that pick the class.",
            "Method",
            least=1,
            default="100; at one radius 32",
        ),
    ] = None
    n: Annotated[
        int | None,
        ConfigField(
            "Smoothing: noisy images that bound its probability; at one radius the most.",
            "Method",
            least=1,
            default="100000; at one radius 120000",
        ),
    ] = None
    alpha: Annotated[
        float, ConfigField("Smoothing: allowed probability of error of each certificate.", "Method")
    ] = 0.001
    decline: Annotated[
        float,
        ConfigField(
            "Smoothing at all radii: share of an image's radius that may be lost by stopping "
            "early; 0 draws all noisy images.",
            "Method",
            least=0,
            most=0.9,
        ),
    ] = 0.0
    time_limit: Annotated[
        float,
        ConfigField(
            "bab: seconds an image, or a property, after which the search gives up.",
            "Method",
            least=0,
        ),
    ] = 60.0
    no_attack: Annotated[
        bool,
        ConfigField("Leave out the attack on each certificate at its own radius.", "Method"),
    ] = False
    batch_size: shared.BatchSize = 256
    seed: shared.Seed = 0
    device: shared.Device = "auto"

    def __post_init__(self) -> None:
        """Check the method beside types and limits."""
        super().__post_init__()
        if self.method not in METHODS:
            raise OptionError(
                f"method {self.method!r}",
                f"one of {', '.join(METHODS)} is needed",
                "Use e.g. smoothing",
            )
        for name in ("model", "data"):
            if self.vnnlib is None and not getattr(self, name):
                raise OptionError(f"--{name}", "is missing", f"Add --{name}, or --vnnlib")
        if self.vnnlib is not None and self.data:
            raise OptionError(
                "--vnnlib and --data", "A property has its own inputs", "Leave one of them out"
            )

    @property
    def norm(self) -> Norm:
        """Norm of the certificates: the threat's, else l2 for smoothing and linf for bounds.

        Raises OptionError for a threat whose norm cannot be read.
        """
        own = (self.threat or "").partition(":")[0]
        return parse_norm(own or ("l2" if self.method == "smoothing" else "linf"))

    @property
    def radius(self) -> float | None:
        """Radius of the threat in units of [0, 1] images; None where it names a norm alone.

        Raises OptionError for a radius that cannot be read.
        """
        own = (self.threat or "").partition(":")[2]
        return parse_eps(own, self.norm) if own else None

    def without_use(self) -> dict[str, str]:
        """Return the names of the fields that change nothing beside the others, and why."""
        if self.vnnlib is not None:
            used = {"vnnlib", "model", "limit", "time_limit", "seed"}
            why = "a property of --vnnlib is proved or refuted as it stands"
            return dict.fromkeys(self.documented_fields().keys() - used, why)

        unused: dict[str, str] = {}
        of_smoothing = ("sigma", "noise", "n0", "n", "alpha", "decline")
        if self.method != "smoothing":
            unused |= dict.fromkeys(of_smoothing, f"--method {self.method} draws no noise")
        elif self.radius is not None:
            unused["decline"] = "one radius is certified, not all"
        if self.method in ("smoothing", "patch"):
            unused["curve"] = f"--method {self.method} has radii of its own"
        if self.method != _SEARCH:
            unused["time_limit"] = f"--method {self.method} does not search"
        if self.method in ("patch", _SEARCH):
            unused["batch_size"] = f"--method {self.method} takes image by image"
        return unused
