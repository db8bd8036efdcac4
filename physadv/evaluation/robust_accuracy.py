"""Robust accuracy over a data set: resumable, with its doubts about itself, and a curve over
epsilon.

Batches are finished one by one, so what is done so far is an honest sample at every moment. A
sample broken at a smaller epsilon stays broken at a larger one, and one that withstood a larger
stays whole at a smaller.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier, frozen_eval, modules_of
from physadv.attacks._compiled_model import LEAST_SECONDS
from physadv.attacks._fused_model import BY_TIME, Speed, compile_fastest
from physadv.attacks._gate import changed_findings, copy_findings, non_finite_findings
from physadv.attacks._guarded_model import GuardedModel, guarded
from physadv.attacks.gradient import pgd
from physadv.core.lights import worst_light
from physadv.core.memory_limit import MemoryLimit
from physadv.core.rows import Row
from physadv.core.shards import WHOLE, Shard
from physadv.core.wording import count_noun
from physadv.evaluation import masking_checks
from physadv.evaluation.clean_accuracy import clean_accuracy_findings
from physadv.evaluation.data import SampleSource
from physadv.evaluation.ensemble import (
    decision_stages,
    quick_stages,
    score_based_stages,
    standard_stages,
)
from physadv.evaluation.masking_checks import Finding
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.evaluation.progress_log import ProgressLog
from physadv.evaluation.stages import (
    CLEAN,
    UNCHANGED,
    AttackStage,
    StageOutcome,
    sample_verdicts,
)
from physadv.models.black_box import black_box_within
from physadv.models.cards import ModelCard
from physadv.models.preserved_state import PreservedState, preserved_state
from physadv.threat.constraints import LpBall
from physadv.threat.norms import lp_distance
from physadv.threat.parsing import largest_radius

Keep = Callable[[Sequence[int], Tensor, Tensor], None]
"""Given positions, clean and adversarial images of what a stage broke, to save or to show."""


@dataclass(frozen=True)
class EvaluationProgress:
    """State of an evaluation: samples finished and in all, the rates among the finished, and the
    current stage and round."""

    done: int
    total: int
    clean: RateInterval
    robust: RateInterval
    stage: str
    round: str = "rows"


@dataclass
class Evaluation:
    """An evaluation over a data set: iterate over :meth:`run`, then read :meth:`result`.

    Modes, parameters, buffers and gradients of the model are its owner's again after the run. With
    a radius of 0 nothing is attacked, as robust accuracy is clean accuracy.

    Batches are finished one by one, so that at any moment the finished part is a fair sample.

    Args:
        model: Model under test.
        samples: Images and labels.
        ball: Threat model.
        plan: Attacks in order.
        curve: Further radii to measure.
        folder: Folder that records the run, and resumes it; None for memory alone.
        batch_size: Images a batch.
        device: Device of the model.
        speed: "plain", "fold", "bf16", "auto" or "timed".
        seed: Seed of the attacks.
        keep: Called with positions, clean and adversarial images of what was broken.
        targets: Function that returns the target classes of positions, for a targeted evaluation.
        card: Model's card, with whose accuracy the clean one is compared.
        shard: Batches to evaluate. A share of them leaves the other radii until the shares are
            merged, since these depend on all rows.
    """

    model: Classifier
    samples: SampleSource
    ball: LpBall
    plan: Sequence[AttackStage] = ()
    curve: Sequence[float] = ()
    folder: Path | None = None
    batch_size: int = 128
    device: str | torch.device = "cpu"
    speed: Speed = "fold"
    seed: int = 0
    keep: Keep | None = None
    targets: Callable[[Sequence[int]], Tensor] | None = None
    card: ModelCard | None = None
    shard: Shard = WHOLE
    findings: list[Finding] = field(default_factory=list)
    ledger: ProgressLog = field(init=False)
    rounds: dict[float, ProgressLog] = field(init=False, default_factory=dict)
    memory: MemoryLimit = field(init=False, default_factory=MemoryLimit)
    _guard: GuardedModel = field(init=False)
    _class_count: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.ledger = ProgressLog(self.folder, outcomes=("correct", "robust"))
        self._guard = guarded(self.model)

    def run(self) -> Iterator[EvaluationProgress]:
        """Check the model, attack every batch, then the other radii. What is already recorded is
        not done again."""
        state = PreservedState(modules_of(self.model))
        try:
            yield from self._run()
        finally:
            self.findings += changed_findings(state.restore_tensors())
            state.restore_modes()

    def _run(self) -> Iterator[EvaluationProgress]:
        self.findings = self.probe()
        if self.ball.eps == 0:
            self.plan = (UNCHANGED,)
        if not self.plan:
            blind = any(d.name == "no-gradient" for d in self.findings)
            self.plan = self._standard_plan(blind=blind)
        yield from self._round(
            self.ledger, self.ball, self.plan, list(range(len(self.samples))), self.keep
        )
        if self.shard.is_whole:
            yield from self._curve()

    def _standard_plan(self, *, blind: bool) -> Sequence[AttackStage]:
        """The ensemble for what the model gives: gradients, scores, or classes alone."""
        if not blind:
            return standard_stages(self.ball.norm)
        boxes = [black_box_within(module) for module in modules_of(self.model)]
        if any(box is not None and box.outputs == "labels" for box in boxes):
            return decision_stages(self.ball.norm)
        return score_based_stages(self.ball.norm)

    def probe(self, count: int = 64) -> list[Finding]:
        """Return the findings of the self-checks on ``count`` images, of which a batch is taken at
        once at most, or as many as memory holds."""
        fits = MemoryLimit(max(2, min(count, self.batch_size)))
        first = fits.run(count, lambda i, j: [] if i else self._probe(count, j - i))
        if fits.first_failed is not None:
            self.memory.first_failed, self.memory.most = fits.first_failed, fits.most
        return first[0] if first else []

    def _probe(self, count: int, at_once: int) -> list[Finding]:
        positions = list(range(0, len(self.samples), max(1, len(self.samples) // count)))[:count]
        images, labels = self._load(positions[:: -(-len(positions) // at_once)])
        with preserved_state(device=images.device), frozen_eval(self._guard), torch.no_grad():
            self._guard.open(images, labels, None)
        findings = masking_checks.masking_findings(
            self.model, images, labels, eps=self.ball.eps, norm=self.ball.norm
        )
        known = {finding.name for finding in findings}
        findings += [finding for finding in self._guard.findings if finding.name not in known]
        if self.ball.eps == 0:
            return [finding for finding in findings if finding.name not in _OF_GRADIENTS]
        if "no-gradient" in known:
            return findings

        images, labels = self._load(positions)
        few = self._pgd(images, labels, self.ball.eps, 5)
        findings += masking_checks.check_steps(
            few, self._pgd(images, labels, self.ball.eps, 20), (5, 20)
        )
        widest = largest_radius(self.ball.norm, images[0].numel(), images.shape[1])
        findings += masking_checks.check_unbounded(self._pgd(images, labels, widest, 20), widest)

        return findings

    def _pgd(self, images: Tensor, labels: Tensor, eps: float, steps: int) -> list[bool]:
        def part(first: int, last: int) -> list[bool]:
            found = pgd(
                self._guard,
                images[first:last],
                labels[first:last],
                eps=eps,
                norm=self.ball.norm,
                steps=steps,
                speed="plain" if self.speed == "plain" else "fold",
                seed=self.seed,
                index=torch.arange(first, last),
            )
            return [bool(x) for x in found.success.tolist()]

        fits = replace(self.memory, most=min(self.batch_size, self.memory.most or self.batch_size))
        broken = [one for some in fits.run(len(images), part) for one in some]
        if fits.first_failed is not None:
            self.memory.first_failed, self.memory.most = fits.first_failed, fits.most
        return broken

    def _load(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        images, labels = self.samples.images(positions), self.samples.targets(positions)
        return images.to(self.device), labels.to(self.device)

    def _round(
        self,
        ledger: ProgressLog,
        ball: LpBall,
        plan: Sequence[AttackStage],
        members: list[int],
        keep: Keep | None,
    ) -> Iterator[EvaluationProgress]:
        """Every batch of ``members`` in this shard through every stage of ``plan``."""
        starts = range(0, len(members), self.batch_size)
        batches = {
            number: members[start : start + self.batch_size]
            for number, start in enumerate(starts)
            if self.shard.holds(number)
        }
        for number, batch in batches.items():
            ledger.mend(number, batch, plan[-1].name)
        total = sum(map(len, batches.values()))
        waiting = [
            (number, batch)
            for number, batch in batches.items()
            if not ledger.finished(number, plan[-1].name)
        ]
        begun, compiled = time.perf_counter(), False
        for done, ((number, batch), after) in enumerate(zip_longest(waiting, waiting[1:])):
            self.samples.prefetch(after[1] if after else [])  # decoded while this one is attacked
            left = (time.perf_counter() - begun) / max(1, done) * (len(waiting) - done)
            if done and not compiled and left >= LEAST_SECONDS:
                compiled = True
                self._try_compiling(ledger, number, batch)
            for stage in self._batch(ledger, ball, plan, number, batch, keep):
                yield self._progress(ledger, total, stage)

    def _try_compiling(self, ledger: ProgressLog, number: int, batch: list[int]) -> None:
        """Compile the fastest copy for the batches from ``number`` on, where speed is chosen by
        time and that batch has not begun with another copy."""
        if self.speed in BY_TIME and self._guard.fastest and not ledger.stages_done(number):
            images = self._load(batch)[0]
            with preserved_state(device=images.device), frozen_eval(self._guard):
                compile_fastest(self._guard, images)

    def _batch(
        self,
        ledger: ProgressLog,
        ball: LpBall,
        plan: Sequence[AttackStage],
        number: int,
        batch: list[int],
        keep: Keep | None,
    ) -> Iterator[str]:
        left, names = ledger.unfinished(number, batch), [stage.name for stage in plan]
        # A batch goes on with the copy it began with: another one would round differently.
        own = ledger.stages_done(number)
        if own or self._guard.fastest is None:
            recorded = ledger.latest("fastest", number)
            if recorded is not None:
                self._guard.fastest = recorded
                self._guard.chosen_earlier = ledger.latest("chosen", number) == "earlier"
        begun = time.perf_counter()
        if left:
            images, labels = self._load(left)
            passes = ledger.state(number, "passes")
            for verdict in self._verdicts(ledger, ball, plan, number, left, images, labels):
                last = verdict.stage == names[-1]  # names are unique, see prepare_evaluation
                for row, count in zip(verdict.rows.tolist(), verdict.passes.tolist(), strict=True):
                    passes[left[row]] = int(passes.get(left[row], 0)) + count
                rows = [
                    self._row(left, images, labels, verdict, i, ball)
                    | {"forwards": passes[left[int(verdict.rows[i])]]}
                    for i in _finished(verdict, last)
                ]
                if keep is not None and verdict.stage != CLEAN and verdict.broken.any():
                    hit = verdict.rows[verdict.broken]
                    keep(
                        [left[i] for i in hit.tolist()], images[hit], verdict.images[verdict.broken]
                    )
                now = time.perf_counter()
                near = {
                    str(left[r]): float(verdict.near[i])
                    for i, r in enumerate(verdict.rows.tolist())
                }
                spent = {"seconds": now - begun, "forwards": verdict.forwards}
                ran = {"gradients_of": verdict.gradients_of} if verdict.gradients_of else {}
                if self._guard.fastest is not None:
                    ran["fastest"] = self._guard.fastest
                    ran["chosen"] = "earlier" if self._guard.chosen_earlier else "here"
                ledger.write(
                    number,
                    verdict.stage,
                    rows,
                    near=near,
                    passes={str(left[r]): passes[left[r]] for r in verdict.rows.tolist()},
                    **spent,
                    **ran,
                )
                begun = now
                yield verdict.stage
        if not ledger.finished(number, names[-1]):
            ledger.write(number, names[-1], [])
            yield names[-1]

    def _verdicts(
        self,
        ledger: ProgressLog,
        ball: LpBall,
        plan: Sequence[AttackStage],
        number: int,
        left: list[int],
        images: Tensor,
        labels: Tensor,
    ) -> Iterator[StageOutcome]:
        near = ledger.state(number, "near")
        return sample_verdicts(
            self._guard,
            images,
            labels,
            ball=ball,
            plan=plan,
            speed=self.speed,
            seed=self.seed,
            targets=None if self.targets is None else self.targets(left).to(images.device),
            index=torch.tensor([self.samples.indices[p] for p in left]),
            near=torch.tensor([near.get(p, torch.inf) for p in left]),
            done=ledger.stages_done(number),
            memory=self.memory,
        )

    def _row(
        self,
        left: list[int],
        images: Tensor,
        labels: Tensor,
        verdict: StageOutcome,
        at: int,
        ball: LpBall,
    ) -> Row:
        row, broken = int(verdict.rows[at]), bool(verdict.broken[at])
        moved = broken and verdict.stage != CLEAN
        away = (
            lp_distance(verdict.images[at : at + 1], images[row : row + 1], ball.norm)
            if moved
            else torch.zeros(1)
        )

        return {
            "index": left[row],
            "image": self.samples.name(left[row]),
            "label": int(labels[row]),
            "correct": not (broken and verdict.stage == CLEAN),
            "robust": not broken,
            "broken_by": verdict.stage if broken else "",
            "stage": verdict.stage,
            "distance": float(away[0]),
            "near": float(verdict.near[at]),
        }

    def _progress(self, ledger: ProgressLog, total: int, stage: str) -> EvaluationProgress:
        name = ledger.name
        return EvaluationProgress(
            min(len(ledger.rows), total),
            total,
            _rate(ledger, "correct"),
            _rate(ledger, "robust"),
            stage,
            name,
        )

    def _curve(self) -> Iterator[EvaluationProgress]:
        """Smaller radii from the largest down, on what the one above broke; larger ones up, on what
        is still whole."""
        self.rounds = {self.ball.eps: self.ledger}
        broken = [
            p for p, row in sorted(self.ledger.rows.items()) if row["correct"] and not row["robust"]
        ]
        for eps in sorted((e for e in self.curve if e < self.ball.eps), reverse=True):
            yield from self._radius(eps, broken)
            broken = [p for p in broken if not self.rounds[eps].row(p)["robust"]]

        unbroken = [p for p, row in sorted(self.ledger.rows.items()) if row["robust"]]
        for eps in sorted(e for e in self.curve if e > self.ball.eps):
            yield from self._radius(eps, unbroken)
            unbroken = [p for p in unbroken if self.rounds[eps].row(p)["robust"]]

    def _radius(self, eps: float, members: list[int]) -> Iterator[EvaluationProgress]:
        short = self.plan[:1] if self.plan[0].family == "black" else quick_stages(self.ball.norm)
        self.rounds[eps] = ProgressLog(self.folder, f"curve-{eps:.6g}", outcomes=("robust",))
        yield from self._round(self.rounds[eps], replace(self.ball, eps=eps), short, members, None)

    def robust_at(self) -> dict[float, RateInterval]:
        """Robust accuracy at every radius measured, and clean accuracy at 0."""
        rows, n = self.ledger.rows, len(self.ledger.rows)
        unbroken = {p for p, row in rows.items() if row["robust"]}
        found = {
            0.0: _rate(self.ledger, "correct"),
            self.ball.eps: wilson_interval(len(unbroken), n),
        }
        at = set(unbroken)
        for eps in sorted((e for e in self.rounds if e < self.ball.eps), reverse=True):
            at = at | {p for p, row in self.rounds[eps].rows.items() if row["robust"]}
            found[eps] = wilson_interval(len(at), n)

        at = set(unbroken)
        for eps in sorted(e for e in self.rounds if e > self.ball.eps):
            at = {p for p, row in self.rounds[eps].rows.items() if row["robust"]}
            found[eps] = wilson_interval(len(at), n)

        return dict(sorted(found.items()))

    def _hindsight(self) -> list[Finding]:
        """The checks that need the outcome, of a run that was stopped as well."""
        rows = list(self.ledger.rows.values())
        correct = [row for row in rows if row["correct"]]
        findings = clean_accuracy_findings(
            len(correct),
            len(rows),
            classes=self._classes(),
            labels=[row["label"] for row in rows],
            card=self.card,
        )
        broken = {s.name: [row["broken_by"] == s.name for row in correct] for s in self.plan}
        white = [s.name for s in self.plan if s.family == "white"]
        black = [s.name for s in self.plan if s.family == "black"]
        findings += masking_checks.check_blackbox(broken, white, black) if white else []
        findings += masking_checks.check_curve({e: r.rate for e, r in self.robust_at().items()})
        findings += non_finite_findings(self._guard)
        findings += copy_findings(self._guard, self.findings)
        return findings

    @torch.no_grad()
    def _classes(self) -> int:
        """The number of the model's classes; 0 without images."""
        if not self._class_count and len(self.samples):
            images, _ = self._load([0])
            modules = modules_of(self.model)
            with preserved_state(*modules, device=images.device), frozen_eval(self._guard):
                self._class_count = self._guard.output(images).shape[1]
        return self._class_count

    def result(self) -> dict[str, Any]:
        """Rates with intervals, what each attack broke, the curve, doubts and their light, seconds,
        images asked about, and what gradients were taken of."""
        rows = self.ledger.rows
        findings = [*self._hindsight(), *self.findings]
        by = Counter(
            row["broken_by"] for row in rows.values() if row["correct"] and not row["robust"]
        )
        ledgers = [self.ledger, *(led for eps, led in self.rounds.items() if eps != self.ball.eps)]
        return {
            "clean_accuracy": _rate(self.ledger, "correct").as_dict(),
            "robust_accuracy": _rate(self.ledger, "robust").as_dict(),
            "complete": len(rows) == len(self.samples),
            "broken_by": {stage.name: by.get(stage.name, 0) for stage in self.plan},
            "curve": [{"eps": eps, **rate.as_dict()} for eps, rate in self.robust_at().items()],
            "doubts": [finding.as_dict() for finding in findings],
            "light": worst_light(finding.light for finding in findings),
            "seconds": sum(led.total("seconds") for led in ledgers),
            "forwards": int(sum(led.total("forwards") for led in ledgers)),
            "spent_on_unbroken": spent_on_unbroken(list(rows.values())),
            "memory": self.memory.in_words(),
            "gradients_of": sorted({name for led in ledgers for name in led.named("gradients_of")}),
        }


_OF_GRADIENTS = {
    "no-gradient",
    "zero-gradient",
    "saturated-cross-entropy",
    "vanishing-gradient",
}
"""Findings about gradients, which say nothing about a figure that no attack made."""


def spent_on_unbroken(rows: Sequence[Row]) -> dict[str, int]:
    """Return how much was spent on the samples that no attack broke.

    Args:
        rows: Rows of samples, with ``robust`` and ``forwards``.

    Returns:
        Number of ``samples``, and the ``least``, ``median`` and ``most`` forward passes of one;
        empty where none stood.

    Example:
        >>> spent_on_unbroken([{"robust": True, "forwards": n} for n in (90, 10, 30)])
        {'samples': 3, 'least': 10, 'median': 30, 'most': 90}
    """
    # Rows of runs before this was counted have no such entry.
    passes = sorted(int(row["forwards"]) for row in rows if row["robust"] and "forwards" in row)
    if not passes:
        return {}
    middle = passes[len(passes) // 2]
    return {"samples": len(passes), "least": passes[0], "median": middle, "most": passes[-1]}


def unbroken_in_words(spent: Mapping[str, int]) -> str:
    """Return what :func:`spent_on_unbroken` counted, in words.

    Example:
        >>> unbroken_in_words({"samples": 3, "least": 10, "median": 30, "most": 90})
        '3 samples after 10 to 90 forward passes each (median 30)'
    """
    least, most = spent["least"], spent["most"]
    passes = f"{least:,} forward passes each"
    if least != most:
        passes = f"{least:,} to {most:,} forward passes each (median {spent['median']:,})"
    return f"{count_noun(spent['samples'], 'sample')} after {passes}"


def _finished(verdict: StageOutcome, last: bool) -> list[int]:
    """Places in a verdict whose samples are done: the broken ones, after the last stage all."""
    return [i for i, broken in enumerate(verdict.broken.tolist()) if broken or last]


def _rate(ledger: ProgressLog, key: str) -> RateInterval:
    rows = ledger.rows.values()
    return wilson_interval(sum(bool(row[key]) for row in rows), len(rows))
