"""Certify a classifier over a data set: from a configuration to rows, rates and a curve."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from physadv.certification.bounds.input_ball import NORMS, InputBall
from physadv.certification.bounds.verify import BRANCH_AND_BOUND, prepare_graph
from physadv.certification.config import CertifyConfig
from physadv.certification.smoothing.noise import noise_by_name
from physadv.core.errors import OptionError
from physadv.core.lights import worst_light
from physadv.core.rows import Row
from physadv.core.shards import WHOLE, Shard
from physadv.datasets import read_dataset
from physadv.defenses.load_model import load_model
from physadv.evaluation.certificate_attack import (
    BoundAttack,
    CertificateAttack,
    Counterexample,
    PatchAttack,
    SmoothingAttack,
)
from physadv.evaluation.certified_accuracy import (
    BoundCertifier,
    CertificationMethod,
    CertificationProgress,
    PatchCertifier,
    SmoothingCertifier,
    Tick,
    certify_all,
    is_certified,
    summarize_certified,
)
from physadv.evaluation.clean_accuracy import clean_accuracy_findings
from physadv.evaluation.evaluate import curve_radii
from physadv.evaluation.masking_checks import Finding, count_classes
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.evaluation.progress_log import ATTRIBUTES, ProgressLog, claim_folder
from physadv.evaluation.recorded_samples import sample_rows
from physadv.evaluation.samples import EvaluationSamples, choose_samples
from physadv.evaluation.subject import attribute_facts, reading_facts, state_facts
from physadv.models.cards import LoadedModel, ModelCard

_CHECKED_IMAGES = 16
"""Most images of the data about which a graph is compared with its network."""
_GAUSSIAN_ONE_SIGMA = 0.84134
"""Class probability that certifies a radius of one sigma under Gaussian noise."""


@dataclass(frozen=True)
class CertificationTask:
    """One certification, ready to run: everything is loaded and checked, nothing is certified.

    ``radius`` is the radius by which images are counted, ``radii`` those of the table. ``facts``
    identify the task; a folder may only be resumed by a task of the same facts. ``attack`` is tried
    on each certificate; ``command`` is the command line of the task, for those that break.
    ``identity`` has what identifies it beside its facts.

    Example:
        >>> def certify_signs(data):  # a path to GTSRB
        ...     config = CertifyConfig(model="signs", data=data, threat="l2:0.25", limit=100)
        ...     task, log = CertificationTask.from_config(config), ProgressLog(None)
        ...     for progress in task.run(log):
        ...         print(progress.done, "of", progress.total)
        ...     return task.result(log)["certified_accuracy"]
    """

    certifier: CertificationMethod
    samples: EvaluationSamples
    radius: float
    radii: tuple[float, ...]
    facts: dict[str, Any]
    device: str
    card: ModelCard
    classes: int
    attack: CertificateAttack | None = None
    command: str = ""
    identity: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: CertifyConfig) -> CertificationTask:
        """Load and check everything that ``config`` names.

        Raises:
            ModelError: the model cannot be loaded, or bounds cannot pass one of its operations.
            DataError: the data cannot be read or have classes that the model does not have.
            OptionError: a setting outside what is allowed.
        """
        model = load_model(
            config.model,
            weights=config.weights,
            device=config.device,
            settings=config.model_settings,
        )
        samples = choose_samples(
            read_dataset(config.data or "", split=config.split),
            model.card,
            limit=config.limit,
            seed=config.seed,
            labels=config.labels,
            count_classes=lambda images: count_classes(model, images),
        )

        prepare = {"smoothing": _prepare_smoothing, "patch": _prepare_patch}
        method = prepare.get(config.method, _prepare_bounds)(config, model, samples)
        height, width = samples.size
        facts = {
            "victim": model.card.name,
            "weights_sha256": model.card.sha256,
            "data": config.data,
            "split": config.split,
            "images": len(samples),
            "image_size": f"{samples.channels}x{height}x{width}",
            "method": config.method,
            "norm": "patch" if config.method == "patch" else config.norm,
            "seed": config.seed,
            "physadv": version("physadv"),
            **state_facts(model),
            **method.facts,
            **reading_facts(config.model_settings),
        }
        if config.labels is not None and samples.match is not None:
            facts["labels"] = config.labels
            facts["class_numbers"] = ", ".join(map(str, samples.match.numbers))
        device = str(model.home)
        return cls(
            method.certifier,
            samples,
            method.radius,
            method.radii,
            facts,
            device,
            model.card,
            count_classes(model, samples.images([0])),
            None if config.no_attack else method.attack,
            _command_line(config),
            {ATTRIBUTES: attribute_facts(model, samples.images([0]))},
        )

    def claim(self, folder: Path) -> None:
        """Note in ``folder`` what is certified there. Raises OptionError where that is another."""
        claim_folder(folder, {**self.facts, **self.identity}, self.sample_rows)

    @cached_property
    def sample_rows(self) -> list[Row]:
        """One row an image with a hash of its contents, which a run that resumes compares."""
        return sample_rows(self.samples)

    def open_log(self, folder: Path) -> ProgressLog:
        """Return the rows in ``folder``, which become or already are this task's.

        Raises OptionError where another certification lies in it.
        """
        self.claim(folder)
        return ProgressLog(folder)

    def run(
        self, log: ProgressLog, tick: Tick = lambda share: None, *, shard: Shard = WHOLE
    ) -> Iterator[CertificationProgress]:
        """Certify every image that ``log`` has no row of yet, and yield after each group.

        ``tick`` is called with the share of the present group that is finished. Of several shares
        of one run, ``shard`` is certified alone. A certificate that
        breaks under attack is saved in the folder of ``log``, as broken-INDEX.npz.
        """
        folder, facts, command = log.folder, self.facts, self.command

        def save(example: Counterexample) -> None:
            if folder is not None:
                example.save(folder, facts, command)

        yield from certify_all(
            self.certifier,
            self.samples,
            log,
            device=self.device,
            tick=tick,
            attack=self.attack,
            report=save,
            shard=shard,
        )

    def certified_share(self, log: ProgressLog) -> float:
        """Return the share of the rows of ``log`` that are right within the task's radius."""
        rows = log.rows.values()
        return sum(is_certified(row, self.radius) for row in rows) / max(len(rows), 1)

    def result(self, log: ProgressLog) -> dict[str, Any]:
        """Return the rates of the rows of ``log`` with intervals, the curve, the doubts and their
        light, and the facts."""
        rows = list(log.rows.values())
        findings = self._findings(rows)
        certified = sum(is_certified(row, self.radius) for row in rows)
        return {
            "certified_accuracy": wilson_interval(certified, len(rows)).as_dict(),
            **summarize_certified(rows, self.radii),
            "complete": len(rows) == len(self.samples),
            "doubts": [finding.as_dict() for finding in findings],
            "light": worst_light(finding.light for finding in findings),
            **_verdict_counts(rows),
            "seconds": log.total("seconds"),
            "attack_seconds": log.total("attack_seconds"),
            "memory": "; ".join(sorted(log.named("memory"))),
            **self.facts,
            "device": self.device,
        }

    def _findings(self, rows: list[Row]) -> list[Finding]:
        """Reasons not to believe the figures: the model's clean accuracy, and where noise decides
        the class that of the vote too."""
        labels = [int(row["label"]) for row in rows]
        right = sum(row["predicted"] == row["label"] for row in rows)
        clean = sum(row.get("clean", row["predicted"]) == row["label"] for row in rows)
        findings = clean_accuracy_findings(
            clean, len(rows), classes=self.classes, labels=labels, card=self.card
        )
        if any("clean" in row for row in rows) and right != clean:
            subject = "accuracy of the vote under noise"
            vote = clean_accuracy_findings(
                right, len(rows), classes=self.classes, labels=labels, subject=subject
            )
            known = {finding.name for finding in findings}
            findings += [finding for finding in vote if finding.name not in known]
        return [*_broken_findings(rows), *findings]


def _verdict_counts(rows: list[Row]) -> dict[str, Any]:
    """The number of images of each verdict, where a search made them."""
    verdicts = Counter(str(row["verdict"]) for row in rows if "verdict" in row)
    return {"verdicts": dict(verdicts)} if verdicts else {}


def _broken_findings(rows: list[Row]) -> list[Finding]:
    """The finding that certificates broke under attack; none where all held."""
    broken = [str(row["image"]) for row in rows if row.get("broken")]
    if not broken:
        return []
    attacked = sum("broken" in row for row in rows)
    return [
        Finding(
            "certificate-broken",
            f"{len(broken)} of {attacked} certificates broke under attack within their own radius "
            f"({', '.join(broken[:3])}): the proof or its program is wrong",
            "Believe none of them, and report the files broken-*.npz of this run",
            "red",
        )
    ]


def _command_line(config: CertifyConfig) -> str:
    """The command line of ``config``: every setting that is not the default."""
    words = ["physadv", "certify"]
    for setting in fields(config):
        value, option = getattr(config, setting.name), setting.name.replace("_", "-")
        if isinstance(value, bool):
            words += [] if value == setting.default else [f"--{'' if value else 'no-'}{option}"]
        elif value != setting.default:
            words += [f"--{option}", str(value)]
    return shlex.join(words)


@dataclass(frozen=True)
class _PreparedMethod:
    """A method with its settings, the radius it is judged by, the radii of its table, its facts,
    and the attack on its certificates."""

    certifier: CertificationMethod
    radius: float
    radii: tuple[float, ...]
    facts: dict[str, Any]
    attack: CertificateAttack


def _prepare_smoothing(
    config: CertifyConfig, model: LoadedModel, samples: EvaluationSamples
) -> _PreparedMethod:
    kind = config.noise or ("uniform" if config.norm == "l1" else "gaussian")
    noise = noise_by_name(kind, config.sigma)
    inputs = samples.channels * samples.size[0] * samples.size[1]
    certifier = SmoothingCertifier(
        model,
        noise,
        norm=config.norm,
        dims=inputs,
        radius=config.radius,
        n0=config.n0,
        n=config.n,
        alpha=config.alpha,
        batch=config.batch_size,
        seed=config.seed,
        decline=config.decline,
    )

    radii: tuple[float, ...]
    if config.radius is not None:
        radius, radii = config.radius, (0.0, config.radius)
    else:
        radius = noise.radius(_GAUSSIAN_ONE_SIGMA, config.norm, inputs)
        eighths = (certifier.widest * i / 8 for i in range(1, 9))
        radii = tuple(sorted({0.0, radius, *eighths}))

    facts = {
        "noise": kind,
        "sigma": config.sigma,
        "radius": config.radius,
        "n0": certifier.n0,
        "n": certifier.n,
        "alpha": config.alpha,
        **({"decline": config.decline} if config.decline else {}),
        "threat": f"{config.norm}:{radius:.4g}",
    }
    attack = SmoothingAttack(certifier.sampler, norm=config.norm)
    return _PreparedMethod(certifier, radius, radii, facts, attack)


def _prepare_patch(
    config: CertifyConfig, model: LoadedModel, samples: EvaluationSamples
) -> _PreparedMethod:
    if config.threat is not None:
        raise OptionError(
            f"threat {config.threat!r} with method 'patch'",
            "the defense sets the size of the patch",
            "leave the threat out, and name a size as in signs-masked+patchcleanser:patch6",
        )

    certifier = PatchCertifier(model)
    side = float(certifier.patch)
    pairs = (certifier.resizing.size, certifier.defense.patch)
    size, patch = ("{} x {}".format(*pair) for pair in pairs)

    return _PreparedMethod(
        certifier,
        side,
        (0.0, side),
        {"threat": f"one patch of {patch} px in {size} px"},
        PatchAttack(certifier.defense, certifier.resizing, seed=config.seed),
    )


def _prepare_bounds(
    config: CertifyConfig, model: LoadedModel, samples: EvaluationSamples
) -> _PreparedMethod:
    if config.norm not in NORMS:
        raise OptionError(
            f"norm {config.norm}",
            f"{config.method} bounds {' and '.join(NORMS)}",
            "use --method smoothing for l1",
        )
    radius = config.radius
    if radius is None or config.threat is None:
        raise OptionError(
            f"method {config.method!r}", "it needs a radius", "for example --threat linf:8/255"
        )

    searches = config.method == BRANCH_AND_BOUND
    curve = "none" if searches and config.curve == "auto" else config.curve  # each costs a search
    radii = sorted({radius, *curve_radii(curve, config.norm, radius)})
    checked = samples.images(range(min(len(samples), _CHECKED_IMAGES)))
    ball = InputBall(checked, radius, config.norm)
    graph = prepare_graph(model, (samples.channels, *samples.size), ball=ball)
    certifier = BoundCertifier(
        graph,
        config.method,
        norm=config.norm,
        eps=radii,
        main=radius,
        group=1 if searches else min(config.batch_size, 32),
        time_limit=config.time_limit,
        net=model,
    )
    facts = {
        "eps": radius,
        "radii": ", ".join(f"{r:.6g}" for r in radii),
        "threat": f"{config.norm}:{config.threat.partition(':')[2].strip()}",
        **({"time_limit": config.time_limit} if searches else {}),
    }
    attack = BoundAttack(model, norm=config.norm, main=radius, seed=config.seed)
    return _PreparedMethod(certifier, radius, (0.0, *radii), facts, attack)
