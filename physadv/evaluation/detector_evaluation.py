"""Evaluation of a detector within an epsilon ball: average precision, and how often a goal is met.

Goals are those of :mod:`physadv.attacks.detection`. Every figure is computed from rows that hold
objects and boxes, so that anyone can compute it again.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from physadv.attacks.attack_result import AttackResult
from physadv.attacks.detection import GOALS, DetectorGoal, DetectorMargin
from physadv.core.errors import ModelError, OptionError
from physadv.core.findings import FindingWarning
from physadv.core.lights import worst_light
from physadv.core.number_checks import check_number, check_whole
from physadv.core.rows import Row
from physadv.core.types import Detections
from physadv.core.wording import count_noun, format_percent
from physadv.datasets.class_matching import LabelMap
from physadv.evaluation.attack_plan import AttackSettings, attack_function
from physadv.evaluation.detection_samples import (
    DetectionData,
    DetectionSamples,
    boxes_in_row,
    image_detections,
    objects_in_row,
    open_detection_samples,
)
from physadv.evaluation.masking_checks import Finding
from physadv.evaluation.metrics.coco_average_precision import CocoMatches
from physadv.evaluation.metrics.detection import (
    IntervalEstimate,
    count_added,
    count_interval,
    jackknife_interval,
    match_boxes,
)
from physadv.evaluation.metrics.intervals import (
    RateInterval,
    clustered_interval,
    wilson_interval,
)
from physadv.evaluation.progress_log import ATTRIBUTES, ProgressLog, claim_folder
from physadv.evaluation.recorded_samples import sample_rows
from physadv.evaluation.subject import (
    attribute_facts,
    ball_of,
    load_subject,
    reading_facts,
    state_facts,
)
from physadv.models.black_box import black_box_within
from physadv.models.cards import LoadedModel
from physadv.models.detectors import DetectedBoxes, PredictSettings
from physadv.models.preserved_state import preserved_state
from physadv.threat.constraints import LpBall
from physadv.threat.norms import lp_distance
from physadv.threat.parsing import format_eps

FLOOR = 0.01
"""Score from which detections are kept for average precision."""
CLEAN = "clean"
ENSEMBLE = ("apgd", "square")
"""Attacks of an evaluation, in order: the second takes no gradient and sees what the first left."""
_GROUPS = 40
"""Groups of images that the jackknife leaves out in turn, at most."""
Keep = Callable[[int, str, Tensor, Tensor, DetectedBoxes, DetectedBoxes], None]
"""Given a position, the goal, clean and attacked image and the boxes of both, to show them."""


@dataclass(frozen=True)
class DetectorProgress:
    """State of a detector's evaluation: images finished and in all, and the current goal."""

    done: int
    total: int
    stage: str


@dataclass(frozen=True)
class BlockFigures:
    """Figures of a detector on clean images, or on those attacked with one goal.

    Attributes:
        ap: COCO's average precision, over ten overlaps.
        ap50: Average precision at overlap 0.5.
        recall: Share of the true objects that the detector finds at its own threshold.
        extra: Boxes an image that the clean image does not have.
        success: Share of the images on which the goal is met, of those it can be met on; None for
            clean images.
    """

    ap: IntervalEstimate
    ap50: IntervalEstimate
    recall: RateInterval
    extra: IntervalEstimate | None = None
    success: RateInterval | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values: dict[str, IntervalEstimate | RateInterval | None] = {
            "ap": self.ap,
            "ap50": self.ap50,
            "recall": self.recall,
            "extra_boxes": self.extra,
            "success": self.success,
        }
        return {key: value.as_dict() for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class DetectorResult:
    """Result of a detector's evaluation.

    Attributes:
        clean: Figures on clean images.
        goals: Figures by goal.
        findings: Reasons not to believe the figures.
        rows: One table an image: objects, boxes before and after, and whether goals are met.
        facts: The model, the data and the settings.
        complete: Whether all images were evaluated.

    Example:
        >>> one, found = IntervalEstimate(1.0, None, None, 1), wilson_interval(1, 1)
        >>> DetectorResult(BlockFigures(one, one, found), {}, (), (), {}, True).clean.ap50.value
        1.0
    """

    clean: BlockFigures
    goals: Mapping[str, BlockFigures]
    findings: tuple[Finding, ...]
    rows: tuple[Row, ...]
    facts: Mapping[str, Any]
    complete: bool


@dataclass
class DetectorEvaluation:
    """A detector's evaluation: iterate over :meth:`run`, then read :meth:`result`.

    Args:
        model: Detector under test.
        samples: Images and objects.
        ball: Threat model.
        attacks: Attack functions by name, run in order on what the earlier ones left.
        goals: Goals of the attacks.
        folder: Folder that records the run, and resumes it; None for memory alone.
        seed: Seed of the attacks.
        keep: Called with each image whose goal is met.
    """

    model: LoadedModel
    samples: DetectionSamples
    ball: LpBall
    attacks: Mapping[str, Callable[..., AttackResult]]
    goals: Sequence[DetectorGoal] = GOALS
    folder: Path | None = None
    seed: int = 0
    keep: Keep | None = None
    ledger: ProgressLog = field(init=False)
    _forwards: int = field(init=False, default=0)
    _predict: PredictSettings = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = ProgressLog(self.folder)
        self._predict = PredictSettings.of(self.model.card.extra)

    def run(self) -> Iterator[DetectorProgress]:
        """Attack every image that is not recorded yet, goal by goal."""
        hook = self.model.register_forward_hook(self._count)
        try:
            yield from self._run()
        finally:
            hook.remove()

    def _count(self, model: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
        """Count the images of one call of the model, whoever made it."""
        self._forwards += len(given[0])

    def _run(self) -> Iterator[DetectorProgress]:
        for position in range(len(self.samples)):
            self.ledger.mend(position, [position], "attacked")
            if self.ledger.finished(position, "attacked"):
                continue
            begun, self._forwards = time.perf_counter(), 0
            image, row, before = self._clean_row(position)
            yield DetectorProgress(len(self.ledger.rows), len(self.samples), CLEAN)
            for goal in self.goals:
                self._attack(position, goal, image, before, row)
                yield DetectorProgress(len(self.ledger.rows), len(self.samples), goal)
            spent = {"seconds": time.perf_counter() - begun, "forwards": self._forwards}
            self.ledger.write(position, "attacked", [row], **spent)

    def _clean_row(self, position: int) -> tuple[Tensor, Row, DetectedBoxes]:
        """An image (1, 3, h, w), its row before it is attacked, and the boxes found on it."""
        image, objects = self.samples.sample(position)
        image = image.to(self.model.device)
        detections = self._detect(image)
        row = {
            "index": position,
            "image": self.samples.name(position),
            "stage": "attacked",
            "width": image.shape[-1],
            "height": image.shape[-2],
            "threshold": self._predict.score_threshold,
            "objects": objects_in_row(objects),
            CLEAN: boxes_in_row(self._predict.boxes_of(detections, FLOOR)[0]),
            "findings": {},
        }
        return image, row, self._predict.boxes_of(detections)[0]

    def _attack(
        self,
        position: int,
        goal: DetectorGoal,
        image: Tensor,
        before: DetectedBoxes,
        row: Row,
    ) -> None:
        """Attack an image with one goal, and enter into its row what the detector sees then."""
        possible = bool(len(before)) or goal == "fabricate"
        best, by = image, ""
        if possible and self.ball.eps > 0:
            best, by = self._search(position, goal, image, before, row)

        after = self._detect(best)
        found = self._predict.boxes_of(after)[0]
        row[goal] = {
            "possible": possible,
            "success": bool(by),
            "broken_by": by,
            "found": boxes_in_row(self._predict.boxes_of(after, FLOOR)[0]),
            "extra": count_added(found, before),
            "distance": float(lp_distance(best, image, self.ball.norm)[0]),
        }
        if by and self.keep is not None:
            self.keep(position, goal, image[0], best[0], before, found)

    def _search(
        self,
        position: int,
        goal: DetectorGoal,
        image: Tensor,
        before: DetectedBoxes,
        row: Row,
    ) -> tuple[Tensor, str]:
        """Run the attacks until one meets the goal; return the image (1, 3, h, w) nearest to it,
        the very one that counts, and the attack that met it."""
        margin = DetectorMargin(self.model, before, goal, row["threshold"])
        label = torch.zeros(1, dtype=torch.long, device=image.device)
        best, closest = image, float("inf")
        for name, attack in self.attacks.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FindingWarning)  # rows hold the findings
                result = attack(margin, image, label, index=self.samples.indices[position])
            row["findings"] |= {f.name: f.as_dict() for f in result.findings}
            moved = self.ball.quantized(result.images, image)
            with torch.no_grad():
                logits = margin(moved)[0]
            left = float(logits[0] - logits[1])
            if left < closest:
                best, closest = moved, left
            if left < 0:
                return best, name
        return best, ""

    def _detect(self, image: Tensor) -> Detections:
        with torch.no_grad():
            found = self.model(image)
        if not isinstance(found, Detections):
            raise ModelError(self.model.card.name, "It returned no Detections", "Check the model")
        return found

    def figures(self) -> tuple[BlockFigures, dict[str, BlockFigures]]:
        """Return the figures on clean images and by goal, of the images finished so far."""
        rows = [self.ledger.rows[p] for p in sorted(self.ledger.rows)]
        return block_figures(rows, CLEAN), {goal: block_figures(rows, goal) for goal in self.goals}

    def result(self) -> dict[str, Any]:
        """Return figures with intervals by goal, findings and their light, and what was spent."""
        clean, goals = self.figures()
        rows = list(self.ledger.rows.values())
        findings = self.findings()
        by_attack = {
            goal: {
                name: sum(row[goal]["broken_by"] == name for row in rows) for name in self.attacks
            }
            for goal in self.goals
        }
        return {
            "clean": clean.as_dict(),
            "goals": {goal: figures.as_dict() for goal, figures in goals.items()},
            "broken_by": by_attack,
            "complete": len(rows) == len(self.samples),
            "doubts": [finding.as_dict() for finding in findings],
            "light": worst_light(finding.light for finding in findings),
            "seconds": self.ledger.total("seconds"),
            "forwards": int(self.ledger.total("forwards")),
        }

    def findings(self) -> list[Finding]:
        """Return reasons not to believe the figures."""
        rows = list(self.ledger.rows.values())
        findings = []
        matches = CocoMatches([image_detections(r[CLEAN], r["objects"]) for r in rows])
        clean = matches.average_precision()
        if clean.objects and clean.ap50 < 0.02:
            findings.append(
                Finding(
                    "nothing-found",
                    f"AP50 on clean images is {format_percent(clean.ap50)}",
                    "Figures under attack mean nothing here; check that class names and order, "
                    "channel order and resizing are the model's",
                    "red",
                )
            )
        if black_box_within(self.model) is not None:
            words = "the output carries no gradient to the image"
            remedy = "The model is only asked: the figures hold for black-box attacks alone"
            findings.append(Finding("no-gradient", words, remedy))
        findings += self._gradient_findings(rows)
        return findings + _findings_of_attacks(rows)

    def _gradient_findings(self, rows: Sequence[Row]) -> list[Finding]:
        """A finding where the attack without gradients meets goals that gradients did not."""
        names = list(self.attacks)
        if len(names) < 2:
            return []
        tried = [r[g] for r in rows for g in self.goals if r[g]["possible"]]
        left = [entry for entry in tried if entry["broken_by"] != names[0]]
        late = sum(bool(entry["broken_by"]) for entry in left)
        if not left or late <= max(1, 0.1 * len(tried)):
            return []
        return [
            Finding(
                "black-box-better",
                f"{names[1]} met {late} of {len(left)} goals that {names[0]} did not",
                "Gradients of this model may be masked; attack a copy without its defense, or with "
                "another loss",
            )
        ]


def _findings_of_attacks(rows: Sequence[Row]) -> list[Finding]:
    """What the attacks found, each once, with the number of images it was found on."""
    counts = Counter(name for row in rows for name in row["findings"])
    findings = []
    for name, count in counts.items():
        first = next(row["findings"][name] for row in rows if name in row["findings"])
        text = f"on {count} of {count_noun(len(rows), 'image')}: {first['finding']}"
        findings.append(Finding(name, text, first["remedy"], first["light"]))
    return findings


def block_figures(rows: Sequence[Row], block: str) -> BlockFigures:
    """Return the figures of one block of rows.

    Args:
        rows: Rows of a detector's evaluation.
        block: "clean", or a goal.

    Returns:
        Average precision with intervals over images, boxes added, and how often the goal is met.
    """
    found = [row[block] if block == CLEAN else row[block]["found"] for row in rows]
    ap, ap50 = precision_intervals(found, [row["objects"] for row in rows])
    hits = [objects_found(own, row) for own, row in zip(found, rows, strict=True)]
    owners = [str(row["index"]) for row, own in zip(rows, hits, strict=True) for _ in own]
    recall = clustered_interval([hit for own in hits for hit in own], owners)
    if block == CLEAN:
        return BlockFigures(ap, ap50, recall)
    possible = [row[block] for row in rows if row[block]["possible"]]
    success = wilson_interval(sum(entry["success"] for entry in possible), len(possible))
    extra = None
    if rows:
        names = [str(row["index"]) for row in rows]
        extra = count_interval([row[block]["extra"] for row in rows], names)
    return BlockFigures(ap, ap50, recall, extra, success)


def objects_found(found: Sequence[Sequence[float]], row: Row) -> list[bool]:
    """Tell which objects of a row that count are found, at the detector's own threshold.

    Args:
        found: x0, y0, x1, y1, score, class of each detection.
        row: Row with ``objects`` and ``threshold``.

    Returns:
        As many hits as objects were found, class by class, then misses.
    """
    hits = []
    for label in sorted({int(o[4]) for o in row["objects"]}):
        truth = [o[:4] for o in row["objects"] if int(o[4]) == label and not o[5]]
        own = [f for f in found if int(f[5]) == label and f[4] >= row["threshold"]]
        boxes = torch.tensor([f[:4] for f in own]).reshape(-1, 4)
        matched = sum(match_boxes(boxes, torch.tensor(truth).reshape(-1, 4)))
        hits += [i < matched for i in range(len(truth))]
    return hits


def precision_intervals(
    found: Sequence[Any], objects: Sequence[Any]
) -> tuple[IntervalEstimate, IntervalEstimate]:
    """Return AP and AP50 by COCO's rules with 95 % intervals over images.

    The jackknife leaves out one image in turn, or one of 40 groups of images where there are more.

    Args:
        found: Detections of each image as rows hold them.
        objects: Objects of each image as rows hold them.

    Returns:
        AP and AP50.
    """
    pairs = zip(found, objects, strict=True)
    matches = CocoMatches([image_detections(f, o) for f, o in pairs])
    groups = [str(i % _GROUPS) for i in range(len(found))]
    known: dict[bytes, tuple[float, float]] = {}

    def both(chosen: npt.NDArray[np.intp]) -> tuple[float, float]:
        key = chosen.tobytes()
        if key not in known:
            figures = matches.average_precision(chosen.tolist())
            known[key] = (figures.ap, figures.ap50)
        return known[key]

    count = sum(len(own) for own in objects)
    if not groups:
        nothing = IntervalEstimate(float("nan"), None, None, 0)
        return nothing, nothing
    return (
        jackknife_interval(lambda chosen: both(chosen)[0], groups, n=count),
        jackknife_interval(lambda chosen: both(chosen)[1], groups, n=count),
    )


@dataclass
class DetectorTask:
    """Everything that a detector's evaluation needs, loaded and checked.

    Attributes:
        model: Detector under test.
        samples: Images and objects.
        ball: Threat model.
        attacks: Attack functions by name.
        goals: Goals of the attacks.
        seed: Seed of the attacks.
        facts: The model, the data and the settings.
        identity: What identifies the evaluation beside its facts.
    """

    model: LoadedModel
    samples: DetectionSamples
    ball: LpBall
    attacks: Mapping[str, Callable[..., AttackResult]]
    goals: tuple[DetectorGoal, ...]
    seed: int
    facts: dict[str, Any]
    identity: Mapping[str, Any] = field(default_factory=dict)

    def claim(self, folder: Path) -> None:
        """Note in ``folder`` what is evaluated there. Raises OptionError where that is another."""
        claim_folder(folder, {**self.facts, **self.identity}, self.sample_rows)

    @cached_property
    def sample_rows(self) -> list[Row]:
        """One row an image with a hash of its contents, which a run that resumes compares."""
        return sample_rows(self.samples)

    def start(self, folder: Path | None = None, keep: Keep | None = None) -> DetectorEvaluation:
        """Return the evaluation to iterate over; one recorded in ``folder`` is resumed.

        Args:
            folder: The run's folder; None records nothing.
            keep: Called with each image whose goal is met.
        """
        if folder is not None:
            self.claim(folder)
        return DetectorEvaluation(
            self.model,
            self.samples,
            self.ball,
            self.attacks,
            self.goals,
            folder,
            self.seed,
            keep,
        )


def prepare_detector_evaluation(
    model: nn.Module | str | Path,
    data: DetectionData,
    threat: str | tuple[Any, str | float] | LpBall = "linf:4/255",
    *,
    goals: Sequence[str] = GOALS,
    attack: str | Sequence[str] | None = None,
    steps: int | None = None,
    restarts: int = 1,
    loss: str | None = None,
    limit: int | None = None,
    split: str | None = "test",
    labels: LabelMap = None,
    eight_bit: bool = False,
    weights: str | Path | None = None,
    model_settings: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
) -> DetectorTask:
    """Load and check everything that a detector's evaluation needs; see :func:`evaluate_detector`.

    Args:
        model: A detector, as a module or by name.
        data: A path, a DetectionDataset, or a sequence of (image, boxes and labels).
        threat: Norm and radius, such as ``"linf:4/255"``.
        goals: Any of "hide", "fabricate" and "mislabel".
        attack: Name of an attack, several of them, or None for apgd, then square; a model that only
            answers is attacked by square alone.
        steps: Steps of the attack; None keeps its own.
        restarts: Random restarts of the attack.
        loss: Loss of the attack, or None for its own.
        limit: Number of images, drawn at random.
        split: Part of a data set of files.
        labels: The model's classes by class of the data.
        eight_bit: Judge images rounded to 8 bit, inside the radius.
        weights: State dict for a named model.
        model_settings: How a model file of your own is read.
        device: Where to compute.
        seed: Seed of the choice and the attacks.

    Returns:
        The task.

    Raises:
        ModelError: The model cannot be loaded, or is no detector.
        DataError: The data cannot be read or have classes that the model has not.
        OptionError: A setting is out of range.
    """
    ball = ball_of(threat, eight_bit=eight_bit)
    check_whole(limit=limit, steps=steps, restarts=restarts)
    check_number("seed", seed, whole=True)
    goals = (goals,) if isinstance(goals, str) else goals
    chosen = tuple(goal for goal in GOALS if goal in goals)
    if not chosen or len(chosen) < len(goals):
        raise OptionError(f"goals {', '.join(goals)}", f"Any of {', '.join(GOALS)}", "Choose some")
    loaded = load_subject(model, "detect", weights, device, model_settings or {})
    names = _attack_names(attack, loaded)
    settings = AttackSettings(steps, restarts, loss)
    chosen_by_user = len(names) == 1 and (attack not in _STANDARD or steps is not None)
    attacks = {
        name: attack_function(name, ball, settings if chosen_by_user else _QUICK[name], seed)
        for name in names
    }

    samples = open_detection_samples(
        data,
        loaded.card,
        split=split,
        limit=limit,
        seed=seed,
        labels=labels,
        count=None if loaded.card.classes else _class_count(loaded),
    )
    predict = PredictSettings.of(loaded.card.extra)
    facts = {
        "victim": loaded.card.name,
        "task": "detect",
        "weights_sha256": loaded.card.sha256,
        "data": str(data) if isinstance(data, str | Path) else type(data).__name__,
        "split": split,
        "images": len(samples),
        "threat": f"{ball.norm}:{format_eps(ball.eps, 6)}",
        "norm": ball.norm,
        "eps": ball.eps,
        "goal": ", ".join(chosen),
        "attacks": ", ".join(names),
        "steps": steps,
        "restarts": restarts,
        "eight_bit": ball.levels is not None,
        "boxes": predict.in_words(),
        "input": "" if loaded.card.resizing is None else loaded.card.resizing.in_words(),
        "seed": seed,
        "physadv": version("physadv"),
        **state_facts(loaded),
        **reading_facts(model_settings, labels),
    }
    identity = {ATTRIBUTES: attribute_facts(loaded, samples.sample(0)[0])}
    return DetectorTask(loaded, samples, ball, attacks, chosen, seed, facts, identity)


def _attack_names(attack: str | Sequence[str] | None, model: LoadedModel) -> tuple[str, ...]:
    """Names of the attacks that are meant; those without gradients alone for a model that only
    answers."""
    if attack in _STANDARD:
        return ENSEMBLE if black_box_within(model) is None else ENSEMBLE[1:]
    return (attack,) if isinstance(attack, str) else tuple(attack or ())


_STANDARD = (None, "", "ensemble")
"""What stands for the standard attacks."""
_QUICK = {
    "apgd": AttackSettings(steps=30),
    "square": AttackSettings(steps=200),
}
"""Settings of the attacks of the ensemble."""


def evaluate_detector(
    model: nn.Module | str | Path,
    data: DetectionData,
    threat: str | tuple[Any, str | float] | LpBall = "linf:4/255",
    *,
    out: str | Path | None = None,
    on_progress: Callable[[DetectorProgress], None] | None = None,
    **settings: Any,
) -> DetectorResult:
    """Measure a detector under attacks that hide, fabricate or mislabel objects.

    The attacks after Chow et al. (2020, TOG) and Xie et al. (2017, DAG), image by image; objects
    are those that the detector finds on the clean image. Average precision is COCO's, of the true
    objects.

    Args:
        model: A detector, as a module or by name; ``"fastestdet+jpeg"`` is behind a defense.
        data: A path to a YOLO, COCO or Pascal VOC set, a DetectionDataset, or a sequence such as a
            torch Dataset of (image, {"boxes": (k, 4) in px, "labels": (k,)}).
        threat: Norm and radius, such as ``"linf:4/255"``.
        out: Folder that records the run, and that an interrupted run resumes from.
        on_progress: Called with a DetectorProgress after each goal of each image.
        **settings: Further settings of :func:`prepare_detector_evaluation`: ``goals``, ``attack``,
            ``steps``, ``restarts``, ``loss``, ``limit``, ``split``, ``labels``, ``eight_bit``,
            ``weights``, ``model_settings``, ``device``, ``seed``.

    Returns:
        Figures on clean images and by goal, with intervals, and the rows they are computed from.

    Raises:
        ModelError: The model cannot be loaded, or is no detector.
        DataError: The data cannot be read or have classes that the model has not.
        OptionError: A setting is out of range.

    Example:
        >>> from physadv.datasets.detection import detection_in_memory
        >>> from physadv.models.load import as_model
        >>> class Level(torch.nn.Module):
        ...     def forward(self, x):
        ...         score = (20 * (x.mean((1, 2, 3)) - 0.4)).sigmoid()[:, None, None]
        ...         return Detections(x.new_tensor([[[0.0, 0, 8, 8]]]).repeat(len(x), 1, 1), score)
        >>> image, box = np.full((8, 8, 3), 128, np.uint8), np.array([[0, 0, 8, 8]], np.float32)
        >>> data = detection_in_memory([image], [box], [np.array([0])], ("object",))
        >>> detector = as_model(Level(), task="detect", classes=["object"])
        >>> result = evaluate_detector(detector, data, "linf:0.3", goals=["hide"], attack="pgd")
        >>> result.clean.recall.rate, result.goals["hide"].recall.rate
        (1.0, 0.0)
    """
    with preserved_state():
        task = prepare_detector_evaluation(model, data, threat, **settings)
        evaluation = task.start(None if out is None else Path(out))
        for progress in evaluation.run():
            if on_progress is not None:
                on_progress(progress)
    clean, goals = evaluation.figures()
    rows = tuple(evaluation.ledger.rows[p] for p in sorted(evaluation.ledger.rows))
    complete = len(rows) == len(task.samples)
    return DetectorResult(
        clean, goals, tuple(evaluation.findings()), rows, dict(task.facts), complete
    )


@torch.no_grad()
def _class_count(model: LoadedModel) -> int:
    """Number of classes of a detector without names."""
    size = model.card.input_size or (320, 320)
    found = model(torch.full((1, 3, *size), 0.5, device=model.device))
    return int(found.scores.shape[2]) if isinstance(found, Detections) else 0
