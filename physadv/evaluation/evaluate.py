"""Evaluate the robustness of a classifier: from a model, data and a threat to a result."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict, Unpack, get_args

import torch
from torch import Tensor, nn

from physadv.attacks._classifier_step import Classifier
from physadv.attacks._fused_model import Speed
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.obfuscated import expectation_model
from physadv.core.errors import DataError, ImageError, ModelError, OptionError
from physadv.core.findings import FindingWarning
from physadv.core.lights import Light, worst_light
from physadv.core.names import plain_name
from physadv.core.notebook_html import result_html
from physadv.core.number_checks import check_number, check_whole
from physadv.core.random_streams import numpy_generator
from physadv.core.rows import Row
from physadv.core.shards import WHOLE, Shard
from physadv.core.tensors import device_of, exact_device
from physadv.core.wording import count_noun
from physadv.datasets import ImageDataset
from physadv.datasets.class_matching import LabelMap
from physadv.defenses.load_model import load_model
from physadv.evaluation.adversarial_examples import AdversarialExamples, ExampleSaver
from physadv.evaluation.attack_plan import AttackSettings, attack_by_name
from physadv.evaluation.data import (
    EvaluationData,
    SampleSource,
    open_samples,
)
from physadv.evaluation.ensemble import plan_record
from physadv.evaluation.masking_checks import Finding, count_classes
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.evaluation.progress_log import ATTRIBUTES, SURROGATES, claim_folder
from physadv.evaluation.recorded_samples import sample_rows
from physadv.evaluation.robust_accuracy import Evaluation, unbroken_in_words
from physadv.evaluation.stages import AttackStage, StageInput
from physadv.evaluation.subject import (
    attribute_facts,
    ball_of,
    load_subject,
    model_digest,
    reading_facts,
    state_facts,
)
from physadv.models.cards import LoadedModel
from physadv.models.load import as_model, list_models, weights_of
from physadv.models.preserved_state import preserved_state
from physadv.threat.constraints import LpBall
from physadv.threat.parsing import (
    NormLike,
    check_radius,
    format_eps,
    parse_eps,
    parse_norm,
    round_radius,
)

OwnAttack = Callable[[Classifier, Tensor, Tensor], AttackResult | Tensor]
"""(model, images, labels) -> adversarial images, or an AttackResult that holds them."""
_FUNCTION_NAMES = {
    "square_attack": "square",
    "mi_fgsm": "mifgsm",
    "cw_l2": "cw",
    "gradient_ascent": "ascent",
    "universal_perturbation": "universal",
    "sigma_zero": "sigma-zero",
    "saliency_attack": "jsma",
    "sparse_search": "sparse-rs",
}
"""Names of functions in :mod:`physadv.attacks` that have a shorter one on the command line."""
_SPEEDS: tuple[Speed, ...] = get_args(Speed)


class EvaluationSettings(TypedDict, total=False):
    """Keywords that :func:`evaluate` hands to :func:`prepare_evaluation`, which documents them."""

    steps: int | None
    restarts: int
    loss: str | None
    targeted: bool
    target: str | int | None
    surrogates: Sequence[nn.Module | str]
    eot_draws: int
    curve: str | Sequence[float]
    limit: int | None
    split: str | None
    labels: LabelMap
    batch_size: int
    eight_bit: bool
    speed: str
    weights: str | Path | None
    model_settings: Mapping[str, Any] | None
    device: str | torch.device | None
    seed: int


@dataclass(frozen=True)
class EvaluationResult:
    """Robust accuracy of a classifier under a threat, and what it rests on.

    Attributes:
        clean_accuracy: Rate of right answers on clean images, with its 95 % interval.
        robust_accuracy: Rate of right answers that no attack broke, with its 95 % interval.
        broken_by: Number of samples that each attack broke.
        curve: Robust accuracies by radius; that of radius 0 is the clean one.
        findings: Reasons not to believe the figures; one whose ``light`` is red voids them.
        rows: One table a sample: index, image, label, correct, robust, broken_by, distance.
        seconds: Computing time.
        forwards: Images evaluated by the model.
        complete: Whether all samples were evaluated.
        facts: The model, the data and the settings.
        spent_on_unbroken: Number of ``samples`` that no attack broke, and the ``least``, ``median``
            and ``most`` forward passes that were spent on one of them; empty where none stood.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images = torch.rand(4, 3, 4, 4)
        >>> result = evaluate(net, (images, net(images).argmax(1)), attack="fgsm")
        >>> result.complete, len(result.rows)
        (True, 4)
    """

    clean_accuracy: RateInterval
    robust_accuracy: RateInterval
    broken_by: Mapping[str, int]
    curve: Mapping[float, RateInterval]
    findings: tuple[Finding, ...]
    rows: tuple[Row, ...]
    seconds: float
    forwards: int
    complete: bool
    facts: Mapping[str, Any]
    spent_on_unbroken: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, evaluation: Evaluation, facts: Mapping[str, Any]) -> EvaluationResult:
        """Return the result of ``evaluation`` as far as it has run; ``facts`` are handed
        through."""
        table = evaluation.result()
        return cls(
            clean_accuracy=RateInterval(**table["clean_accuracy"]),
            robust_accuracy=RateInterval(**table["robust_accuracy"]),
            broken_by=table["broken_by"],
            curve=evaluation.robust_at(),
            findings=tuple(Finding(**finding) for finding in table["doubts"]),
            rows=tuple(row for _, row in sorted(evaluation.ledger.rows.items())),
            seconds=table["seconds"],
            forwards=table["forwards"],
            complete=table["complete"],
            facts={**facts, **({"memory": table["memory"]} if table["memory"] else {})},
            spent_on_unbroken=table["spent_on_unbroken"],
        )

    @property
    def light(self) -> Light:
        """Worst light of the findings: green without any, amber in doubt, red where the figures
        mean nothing."""
        return worst_light(finding.light for finding in self.findings)

    def _repr_html_(self) -> str:
        """The result in a notebook."""
        facts = {"Clean accuracy": self.clean_accuracy, "Robust accuracy": self.robust_accuracy}
        broken = {f"Broken by {name}": count for name, count in self.broken_by.items()}
        heading = f"{self.facts['victim']} under {self.facts['threat']}"
        if not self.complete:
            heading += ", incomplete"
        return result_html(heading, {**facts, **broken}, notes=self.findings)

    def __str__(self) -> str:
        lines = [
            f"clean accuracy   {self.clean_accuracy}",
            f"robust accuracy  {self.robust_accuracy}  at {self.facts['threat']}",
        ]
        if self.spent_on_unbroken:
            lines.append(f"unbroken         {unbroken_in_words(self.spent_on_unbroken)}")
        if self.facts.get("memory"):
            lines.append(f"memory           {self.facts['memory']}")
        return "\n".join([*lines, *(f"finding          {finding}" for finding in self.findings)])


@dataclass(frozen=True)
class EvaluationTask:
    """One evaluation, ready to start: everything is loaded and checked, nothing is attacked.

    ``facts`` identify it; a run folder may only be resumed by a task of the same facts.
    """

    model: LoadedModel
    attacked: Classifier
    samples: SampleSource
    ball: LpBall
    plan: Sequence[AttackStage]
    curve: tuple[float, ...]
    targets: Callable[[Sequence[int]], Tensor] | None
    batch_size: int
    speed: Speed
    seed: int
    facts: dict[str, Any]
    identity: dict[str, Any]

    def claim(self, folder: Path) -> None:
        """Note in ``folder`` what is evaluated there. Raises OptionError where that is another."""
        claim_folder(folder, {**self.facts, **self.identity}, self.sample_rows)

    @cached_property
    def sample_rows(self) -> list[Row]:
        """One row an image with a hash of its contents, which a run that resumes compares."""
        return sample_rows(self.samples)

    def start(
        self, folder: Path | None = None, save: Path | None = None, *, shard: Shard = WHOLE
    ) -> Evaluation:
        """Return the evaluation to iterate over; one recorded in ``folder`` is resumed.

        Args:
            folder: the run's folder for rows, progress and examples; None records nothing.
            save: a folder for every adversarial image as PNG; needs a ball with 8-bit levels.
            shard: batches to evaluate; the folders of all shares are merged afterwards.

        Returns:
            The evaluation; iterate over its ``run()``, then read its ``result()``.

        Raises:
            OptionError: ``folder`` holds another evaluation, or ``save`` comes without 8 bit.
        """
        if save is not None and self.ball.levels is None:
            raise OptionError(
                f"save {save}", "PNG files hold 8 bit", "evaluate with eight_bit=True"
            )
        keepers: list[Callable[[Sequence[int], Tensor, Tensor], None]] = []
        class_name, labels = self.model.card.class_name, self.samples.labels
        if folder is not None:
            self.claim(folder)
            examples = folder / "examples"
            keepers.append(AdversarialExamples(examples, self.model, class_name, labels))
        if save is not None:
            keepers.append(ExampleSaver(save, class_name, labels))

        def keep(positions: Sequence[int], clean: Tensor, adversarial: Tensor) -> None:
            for keeper in keepers:
                keeper(positions, clean, adversarial)

        return Evaluation(
            model=self.attacked,
            samples=self.samples,
            ball=self.ball,
            plan=self.plan,
            curve=self.curve,
            folder=folder,
            batch_size=self.batch_size,
            device=_device_of(self.model),
            speed=self.speed,
            seed=self.seed,
            targets=self.targets,
            card=self.model.card,
            keep=keep if keepers else None,
            shard=shard,
        )


def evaluate(
    model: nn.Module | str | Path,
    data: EvaluationData,
    threat: str | tuple[NormLike, str | float] | LpBall = "linf:8/255",
    *,
    attack: str | OwnAttack | Sequence[str | OwnAttack] | None = None,
    out: str | Path | None = None,
    save: str | Path | None = None,
    on_progress: Callable[[Any], None] | None = None,
    **settings: Unpack[EvaluationSettings],
) -> EvaluationResult:
    """Measure the robust accuracy of a classifier, with an ensemble of attacks and self-checks.

    Args:
        model: a torch.nn.Module that maps images (b, c, h, w) in [0, 1] to logits (b, classes), or
            the name, file or ``module:factory`` of one; ``"signs+jpeg"`` is behind a defense.
            A module is copied: modes, flags, buffers and gradients of the caller's stay as they
            are.
        data: a path to a data set, a pair (images, labels) of tensors or arrays, a DataLoader, or
            a torch Dataset; floats in [0, 1] or uint8.
        threat: a norm and a radius: ``"linf:8/255"``, ``"L2:0.5"``, ``("inf", 0.03)``, an LpBall.
        attack: an attack's name, a function (model, images, labels) -> adversarial images, or a
            sequence of these, run one after the other; None is the whole ensemble. Images of a
            function are projected onto the threat before they are evaluated; bind settings of its
            own with ``functools.partial``. A resumed run tells functions apart by their code.
        out: a folder that records the run and that an interrupted run resumes from; one of other
            weights, plain attributes, images, labels or settings is refused.
        save: a folder for the adversarial images as PNG; makes every image 8-bit legal.
        on_progress: called after each stage of each batch with an EvaluationProgress.
        **settings: further settings of :func:`prepare_evaluation`: ``limit``, ``split``,
            ``labels``, ``batch_size``, ``steps``, ``restarts``, ``loss``, ``targeted``, ``target``,
            ``surrogates``, ``eot_draws``, ``curve``, ``eight_bit``, ``speed``, ``weights``,
            ``model_settings``, ``device``, ``seed``.

    Returns:
        Rates with intervals, what broke each sample, a curve over radii, and findings: reasons not
        to believe the figures.

    Raises:
        ModelError: the model cannot be loaded, is a detector, or returns no finite logits.
        DataError: the data are empty or of classes that the model does not have.
        ImageError: images outside [0, 1].
        OptionError: a setting outside what is allowed, or ``out`` holds another evaluation.

    Example:
        >>> import torch
        >>> source = torch.Generator().manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
        >>> images = torch.rand(8, 3, 8, 8, generator=source)
        >>> result = evaluate(net, (images, net(images).argmax(1)), "linf:4/255", attack="pgd")
        >>> result.clean_accuracy.rate, result.robust_accuracy.n
        (1.0, 8)
    """
    if save is not None:
        settings["eight_bit"] = True
    with preserved_state():
        task = prepare_evaluation(model, data, threat, attack=attack, **settings)
    folder = None if out is None else Path(out)
    evaluation = task.start(folder, None if save is None else Path(save))

    # Random parts of a model draw from the global generators, which are the caller's.
    with preserved_state(device=_device_of(task.model)):
        for progress in evaluation.run():
            if on_progress is not None:
                on_progress(progress)
    return EvaluationResult.of(evaluation, task.facts)


def prepare_evaluation(
    model: nn.Module | str | Path,
    data: EvaluationData,
    threat: str | tuple[NormLike, str | float] | LpBall = "linf:8/255",
    *,
    attack: str | OwnAttack | Sequence[str | OwnAttack] | None = None,
    steps: int | None = None,
    restarts: int = 1,
    loss: str | None = None,
    targeted: bool = False,
    target: str | int | None = None,
    surrogates: Sequence[nn.Module | str] = (),
    eot_draws: int = 0,
    curve: str | Sequence[float] = (),
    limit: int | None = None,
    split: str | None = "test",
    labels: LabelMap = None,
    batch_size: int = 128,
    eight_bit: bool = False,
    speed: str = "fold",
    weights: str | Path | None = None,
    model_settings: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
) -> EvaluationTask:
    """Load and check everything that an evaluation needs; see :func:`evaluate`.

    Args:
        model: a torch.nn.Module, or the name, file or ``module:factory`` of a model.
        data: a path, a pair (images, labels), a DataLoader or a torch Dataset.
        threat: a norm and a radius, such as ``"linf:8/255"``.
        attack: a name, a function, a sequence of these, or None for the ensemble.
        steps: steps of the attack (queries of a black box); None keeps the attack's own.
        restarts: random restarts of the attack.
        loss: the attack's loss: ce, margin or dlr; None keeps its own.
        targeted: attack each image towards a class drawn at random.
        target: attack all images of other classes towards this class, by name or number.
        surrogates: attack these models, by module, name or ``name=weights``, and count success on
            ``model``.
        eot_draws: attack the expectation over so many draws of a random model; 0 for none.
        curve: further radii to measure: numbers, text such as ``"1/255,2/255"``, ``"auto"`` or
            ``"none"``.
        limit: evaluate so many images, drawn at random; None for all.
        split: the part of a data set of files.
        labels: the model's classes by class of the data: a table such as ``{"Give Way": "yield"}``,
            a TOML file of one, or "in-order"; None matches them by name and refuses others.
        batch_size: images at a time.
        eight_bit: judge images rounded to 8 bit, inside the radius.
        speed: plain, fold (the same function, faster), bf16, or auto: the fastest of these that
            agrees, as timed once for this model and machine, and recorded; timed times them anew.
        weights: a state dict for a named model.
        model_settings: how a model of your own is read, as :func:`physadv.as_model` takes it; for
            a name or a file, not for a module.
        device: where to compute; None is the module's own, the CPU for a name.
        seed: decides the choice of images and every random start.

    Returns:
        The task; ``task.start(folder)`` returns the evaluation to iterate over.

    Raises:
        ModelError: the model cannot be loaded or is a detector.
        DataError: the data are empty or of classes that the model does not have.
        ImageError: images outside [0, 1].
        OptionError: a setting outside what is allowed.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
        >>> data = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
        >>> task = prepare_evaluation(net, data, "l2:0.5", attack="fgsm")
        >>> [progress.done for progress in task.start().run()][-1]
        4
    """
    ball = ball_of(threat, eight_bit=eight_bit, sparse=True)
    if speed not in _SPEEDS:
        raise OptionError(f"speed {speed!r}", ", ".join(_SPEEDS), "choose one of these")
    check_whole(batch_size=batch_size, limit=limit, steps=steps, restarts=restarts)
    check_whole(0, eot_draws=eot_draws)
    check_number("seed", seed, whole=True)
    if isinstance(surrogates, str | nn.Module):
        surrogates = (surrogates,)
    loaded = load_subject(model, "classify", weights, device, model_settings or {})

    others = tuple(_load_surrogate(s, device, loaded) for s in surrogates)
    settings = AttackSettings(steps, restarts, loss, others)
    plan = _plan_of(attack, ball, settings, targeted=targeted or target is not None)
    samples = open_samples(
        data,
        loaded.card,
        split=split,
        limit=limit,
        seed=seed,
        labels=labels,
        count_classes=lambda images: count_classes(loaded, images),
    )
    wanted = None if target is None else loaded.card.class_index(target)
    if wanted is not None:
        samples = samples.without(wanted)
    _check_class_numbers(loaded, others, samples, wanted)
    pixels = samples.size[0] * samples.size[1]
    check_radius(ball.eps, ball.norm, samples.channels * pixels, samples.channels)

    radii = curve_radii(curve, ball.norm, ball.eps)
    names = _attack_names(attack)
    facts = {
        "victim": loaded.card.name,
        "weights_sha256": loaded.card.sha256,
        "data": _data_name(data),
        "split": split,
        "images": len(samples),
        "image_size": f"{samples.channels}x{samples.size[0]}x{samples.size[1]}",
        "threat": f"{ball.norm}:{format_eps(ball.eps, 6)}",
        "norm": ball.norm,
        "eps": ball.eps,
        "attacks": names or "ensemble",
        "targeted": targeted or target is not None,
        "eight_bit": ball.levels is not None,
        "speed": speed,
        "batch_size": batch_size,
        "seed": seed,
        "surrogates": ", ".join(_model_name(s) for s in surrogates),
        "eot_draws": eot_draws,
        "physadv": version("physadv"),
        **reading_facts(model_settings, labels),
    }
    identity = {
        **state_facts(loaded),
        ATTRIBUTES: attribute_facts(loaded, samples.images([0])) if len(samples) else {},
        SURROGATES: [_digest_of(other, samples) for other in others],
        "curve": radii,
        "plan": plan_record(ball.norm, plan),
        "attack": names,
        "attack_code": _attack_code(attack),
        "steps": steps,
        "restarts": restarts,
        "loss": loss,
        "target": target,
    }
    if labels is not None and samples.match is not None:
        identity["class_numbers"] = ", ".join(map(str, samples.match.numbers))
    return EvaluationTask(
        model=loaded,
        attacked=expectation_model(loaded, draws=eot_draws, seed=seed) if eot_draws else loaded,
        samples=samples,
        ball=ball,
        plan=plan,
        curve=radii,
        targets=_targets_of(target, targeted, loaded, samples, seed),
        batch_size=batch_size,
        speed=next(known for known in _SPEEDS if known == speed),
        seed=seed,
        facts=facts,
        identity=identity,
    )


def curve_radii(curve: str | Sequence[float], norm: NormLike, eps: float) -> tuple[float, ...]:
    """Return the radii of a curve over epsilon, ascending, without 0 and ``eps`` itself.

    Args:
        curve: numbers, text such as ``"1/255,2/255"``, ``"auto"`` (eps / 4, eps / 2, 1.5 eps) or
            ``"none"``.
        norm: the norm of the radii.
        eps: the radius of the evaluation.

    Returns:
        The radii that an image in [0, 1] can have.

    Raises:
        OptionError: a radius cannot be read.

    Example:
        >>> curve_radii("auto", "linf", 0.2), curve_radii([0.5, 2], "L2", 1.0)
        ((0.05, 0.1, 0.3), (0.5, 2.0))
    """
    if isinstance(curve, str):
        if curve == "none":
            return ()
        if curve == "auto":
            radii = [round_radius(share * eps) for share in (0.25, 0.5, 1.5)]
            if parse_norm(norm, sparse=True) == "l0":
                radii = [float(round(radius)) for radius in radii]
        else:
            radii = [parse_eps(text, norm) for text in curve.split(",") if text.strip()]
    else:
        radii = [parse_eps(radius, norm) for radius in curve]
    largest = 1.0 if parse_norm(norm, sparse=True) == "linf" else float("inf")
    return tuple(sorted({radius for radius in radii if 0 < radius <= largest and radius != eps}))


def _check_class_numbers(
    model: LoadedModel, surrogates: Sequence[LoadedModel], samples: SampleSource, target: int | None
) -> None:
    """Refuse a label or a target that the model has no logit for, and surrogates of another number
    of classes. A model without a card says so only now."""
    if not len(samples):
        return
    image = samples.images([0])
    classes, highest = count_classes(model, image), max(samples.labels)
    own = f"{model.card.name} has {count_noun(classes, 'class')}"
    if highest >= classes:
        raise DataError(
            f"Label {highest}", f"{own}, numbered from 0", "Number the classes as the model does"
        )
    if target is not None and target >= classes:
        raise OptionError(f"target {target}", f"{own}, numbered from 0", "Choose one of these")
    for surrogate in surrogates:
        others = count_classes(surrogate, image)
        if others != classes:
            raise OptionError(
                f"surrogate {surrogate.card.name!r} of {count_noun(others, 'class')}",
                own,
                "Choose one trained alike",
            )


def _digest_of(surrogate: LoadedModel, samples: SampleSource) -> str:
    """A hash of a surrogate, which its name does not tell: of its file, or of what it holds."""
    if surrogate.card.sha256 or not len(samples):
        return surrogate.card.sha256[:16]
    return model_digest(surrogate, samples.images([0]))


def _load_surrogate(
    surrogate: nn.Module | str, device: str | torch.device | None, model: LoadedModel
) -> LoadedModel:
    """A surrogate by module, by name, or by ``name=weights``, with as many classes as the model."""
    if isinstance(surrogate, nn.Module):
        return as_model(surrogate)
    source, _, weights = surrogate.partition("=")
    known = {card.name for card in list_models()}
    if not weights and source in known and weights_of(source) is None:
        raise ModelError(
            f"surrogate {source!r}",
            "its weights are not here",
            f"name them: --surrogate {source}=FILE",
        )

    loaded = load_model(source, weights=Path(weights) if weights else None, device=device or "cpu")
    own, needed = loaded.card.classes, model.card.classes
    if own and needed and len(own) != len(needed):
        raise OptionError(
            f"surrogate {surrogate!r} of {count_noun(len(own), 'class')}",
            f"the model has {len(needed)}",
            "choose one trained alike",
        )
    pairs = zip(own, needed, strict=False)  # a model that names no classes is not compared
    differing = [i for i, (one, other) in enumerate(pairs) if plain_name(one) != plain_name(other)]
    if differing:
        i = differing[0]
        raise OptionError(
            f"surrogate {surrogate!r}, class {i}: {own[i]!r}",
            f"the model's is {needed[i]!r}, so its gradients would be of other classes",
            "choose one with the classes in the model's order",
        )
    return loaded


def _plan_of(
    attack: str | OwnAttack | Sequence[str | OwnAttack] | None,
    ball: LpBall,
    settings: AttackSettings,
    *,
    targeted: bool,
) -> tuple[AttackStage, ...]:
    """The stages of the attacks asked for; none is the ensemble's own plan."""
    if attack in (None, "", "ensemble"):
        return ()

    attacks = attack if isinstance(attack, Sequence) and not isinstance(attack, str) else [attack]
    stages: list[AttackStage] = []
    for one in attacks:
        if isinstance(one, str):
            name = _FUNCTION_NAMES.get(one, one)
            stages.append(attack_by_name(name, ball.norm, settings, targeted=targeted))
        elif callable(one):
            stages.append(_own_stage(one))
        else:
            raise OptionError(
                f"attack of type {type(one).__name__}",
                "a name or a function (model, images, labels) is needed",
                "see physadv.attacks",
            )

    # Rows and progress know a stage by its name, so no two may share one.
    named: list[AttackStage] = []
    for stage in stages:
        earlier = sum(stage.name == other.name for other in stages[: len(named)])
        name = stage.name if not earlier else f"{stage.name}#{earlier + 1}"
        named.append(replace(stage, name=name))
    return tuple(named)


def _own_stage(attack: OwnAttack) -> AttackStage:
    """A stage of a user's own attack; its images are projected onto the ball before the verdict."""

    def run(case: StageInput) -> AttackResult:
        # It gets the model itself, which may have to be a module, and copies of its own.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FindingWarning)  # the evaluation has its own findings
            answer = attack(case.model.model, case.images.clone(), case.labels.clone())
        images = answer.images if isinstance(answer, AttackResult) else answer
        if not isinstance(images, Tensor):
            raise OptionError(
                f"The attack returned {type(images).__name__}",
                "A tensor of images or an AttackResult is needed",
                "Return one adversarial image for each given",
            )
        if not bool(torch.isfinite(images).all()):
            raise ImageError(
                "The attack returned NaN or infinity",
                "Finite images are needed, since NaN would count as a break",
                "Check the gradients of the attack",
            )
        if images.shape != case.images.shape:
            raise OptionError(
                f"the attack returned images of shape {tuple(images.shape)}",
                f"{tuple(case.images.shape)} is needed",
                "return one adversarial image for each given",
            )

        inside = case.ball.project(images.detach().to(case.images), case.images)
        nothing = torch.zeros(len(inside), dtype=torch.bool, device=inside.device)

        return AttackResult(inside, nothing)

    # A function of the user's may draw, or look, at its batch as a whole.
    return AttackStage(_function_name(attack), "white", run, divisible=False)


def _attack_names(attack: str | OwnAttack | Sequence[str | OwnAttack] | None) -> str:
    if attack in (None, "", "ensemble"):
        return ""
    attacks = attack if isinstance(attack, Sequence) and not isinstance(attack, str) else [attack]
    return ", ".join(one if isinstance(one, str) else _function_name(one) for one in attacks)


def _attack_code(attack: str | OwnAttack | Sequence[str | OwnAttack] | None) -> str | None:
    """A digest of the code and bound settings of functions among the attacks; None without any."""
    attacks = attack if isinstance(attack, Sequence) and not isinstance(attack, str) else [attack]
    digest = hashlib.sha256()
    functions = [one for one in attacks if callable(one)]
    for one in functions:
        inner = getattr(one, "func", one)
        code = getattr(inner, "__code__", None)
        bound = (getattr(one, "args", ()), sorted(getattr(one, "keywords", {}).items()))
        parts = (inner, bound) if code is None else (code.co_code, code.co_consts, bound)
        digest.update(re.sub(r"0x[0-9a-f]+", "", repr(parts)).encode())
    return digest.hexdigest()[:16] if functions else None


def _function_name(attack: Any) -> str:
    inner = getattr(attack, "func", attack)  # of a functools.partial
    return str(getattr(inner, "__name__", type(attack).__name__))


def _model_name(model: nn.Module | str) -> str:
    return model if isinstance(model, str) else type(model).__name__


def _targets_of(
    target: str | int | None,
    targeted: bool,
    model: LoadedModel,
    samples: SampleSource,
    seed: int,
) -> Callable[[Sequence[int]], Tensor] | None:
    """None, or a function from positions to the classes that the attack wants there."""
    if target is not None:
        fixed = model.card.class_index(target)
        return lambda positions: torch.full((len(positions),), fixed)
    if not targeted:
        return None
    device = _device_of(model)
    with preserved_state(model, device=device), torch.no_grad():
        classes = int(model(samples.images([0]).to(device)).shape[1])

    def draw(position: int) -> int:
        stream = numpy_generator(seed, "target", samples.indices[position])
        return (samples.labels[position] + int(stream.integers(1, classes))) % classes

    return lambda positions: torch.tensor([draw(p) for p in positions])


def _data_name(data: EvaluationData) -> str:
    if isinstance(data, str | Path):
        return str(data)
    if isinstance(data, tuple | list):
        return "images in memory"
    if isinstance(data, ImageDataset):
        return data.summary.path or "data set"
    return type(data).__name__


def _device_of(model: nn.Module) -> torch.device:
    """Where a model's images are kept; those of one without parameters on the CPU."""
    return exact_device(device_of(model) or torch.device("cpu"))
