"""The gate of every attack: what goes in is checked and kept, what comes out is judged anew.

The images returned are judged by the untouched model, on its own and in another composition of the
batch, so that success is what a caller finds who asks the model again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from physadv.attacks._classifier_step import (
    Classifier,
    check_batch,
    frozen_eval,
    modules_of,
)
from physadv.attacks._guarded_model import GuardedExpectation, GuardedModel, guarded
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import ImageError
from physadv.core.findings import Finding
from physadv.core.wording import count_noun
from physadv.models.preserved_state import PreservedState, preserved_state
from physadv.threat.criteria import Criterion
from physadv.threat.norms import Norm, lp_distance

_Result = TypeVar("_Result", bound=AttackResult)

# Differences of outputs, in units of their spread: of two runs on the same batch, and of the same
# images in another batch, where rounding differs (TF32 and half precision more than float32).
SAME_BATCH, OTHER_BATCH = 1e-4, 1e-2


@dataclass(frozen=True)
class Limits:
    """What an attack promises of its images.

    Attributes:
        norm: Norm of the distance.
        eps: Largest distance; None for no limit.
        pixels: Largest number of changed pixels; None for no limit.
    """

    norm: Norm = "linf"
    eps: float | None = None
    pixels: int | None = None


@dataclass(frozen=True)
class Gate:
    """A batch behind the gate.

    Attributes:
        model: Model under attack, guarded.
        images: Copies (b, ...) of the clean images.
        labels: Copies (b,) of the true classes.
        state: The caller's modules as they were.
    """

    model: GuardedModel
    images: Tensor
    labels: Tensor
    state: PreservedState

    def judged(self, result: _Result, criterion: Criterion, limits: Limits) -> _Result:
        """Return ``result`` with the verdict of the untouched model, and what is to be doubted.

        Args:
            result: Result of the attack.
            criterion: What counts as success.
            limits: What the attack promises of its images.

        Returns:
            The result; success holds in every one of the passes.

        Raises:
            ImageError: The images are not finite, leave [0, 1] or the ball, or have another shape.
        """
        _check_images(result.images, self.images, limits)
        if not len(self.images):
            return result

        changed = self.state.restore_tensors()
        with frozen_eval(self.model), torch.no_grad():
            verdict = _judge(self.model, result.images, self.images, criterion)
        findings = [*self.model.findings, *verdict.findings, *changed_findings(changed)]
        findings += _observed(self.model, verdict.success)
        findings += copy_findings(self.model, findings)
        return replace(result, success=verdict.success, findings=tuple(findings))


@contextmanager
def gate(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None = None,
    *,
    also: tuple[object, ...] = (),
) -> Iterator[Gate]:
    """Check a batch, and give back everything of the caller's at the end, whatever happens.

    Args:
        model: Model under attack.
        images: Clean images (b, ...), floats in [0, 1].
        labels: True classes (b,), int64.
        targets: Target classes (b,), or None.
        also: Further models, such as surrogates, whose state is kept.

    Yields:
        The batch behind the gate.

    Raises:
        ImageError: The images are not floats in [0, 1].
        ModelError: The model fails on the images, or returns no logits of 2 classes or more.
        OptionError: Labels or targets are not classes of the model.
    """
    check_batch(images, labels, targets)
    guard = guarded(model)
    modules = [module for owner in (guard, *also) for module in modules_of(owner)]
    with torch.inference_mode(False), preserved_state(*modules, device=images.device) as state:
        if len(images):
            with frozen_eval(guard), torch.no_grad():
                guard.open(images.detach(), labels, targets)
        yield Gate(guard, images.detach().clone(), labels.clone(), state)


def _check_images(images: Tensor, clean: Tensor, limits: Limits) -> None:
    """Raise ImageError where an attack breaks its promise."""
    remedy = "Check the attack: its images are not what it promises"
    if images.shape != clean.shape:
        raise ImageError(
            f"the attack returned images of shape {tuple(images.shape)}",
            f"{tuple(clean.shape)} is needed",
            remedy,
        )
    if not len(images):
        return
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):  # false for NaN as well
        raise ImageError(f"the attack returned images in [{low:.3g}, {high:.3g}]", "[0, 1]", remedy)
    if limits.eps is not None:
        far = float(lp_distance(images, clean, limits.norm).max())
        if far > limits.eps:
            raise ImageError(
                f"the attack returned an image {far:.6g} away in {limits.norm}",
                f"at most {limits.eps:.6g}",
                remedy,
            )
    if limits.pixels is not None:
        most = int((images != clean).any(1).flatten(1).sum(1).max())
        if most > limits.pixels:
            raise ImageError(
                f"the attack changed {count_noun(most, 'pixel')}",
                f"at most {limits.pixels}",
                remedy,
            )


@dataclass(frozen=True)
class _Verdict:
    """Success (b,) in every pass of a judgment, and what showed in it."""

    success: Tensor
    findings: list[Finding]


def _judge(model: GuardedModel, images: Tensor, clean: Tensor, criterion: Criterion) -> _Verdict:
    """Judge images in two passes: all together, and in another composition of the batch.

    Only where these differ a third pass tells chance from the batch.
    """
    logits = model.output(images)
    success, findings = criterion(logits), list(check_ties(logits))
    if isinstance(model, GuardedExpectation):
        return _judge_again(model, images, clean, success, criterion, findings)
    other = in_other_batches(model.output, images, clean)
    spread = spread_of(logits)
    rounding = float(torch.finfo(logits.dtype).eps) if logits.is_floating_point() else 0.0
    if other is None or difference(logits, other) <= SAME_BATCH * spread:
        return _Verdict(success, findings)

    again = model.output(images)
    if difference(logits, again) > max(SAME_BATCH, 8 * rounding) * spread:
        kept = success & criterion(again) & criterion(other)
        flipped = int((criterion(again) != success).sum())
        findings.append(
            Finding(
                "random-output",
                f"two passes on the same images differ, and {flipped} of "
                f"{count_noun(len(images), 'verdict')} with them; the "
                f"{count_noun(int(kept.sum()), 'success')} held in three passes",
                "Attack the expectation (physadv.attacks.expectation_model), and read success as "
                "one draw",
            )
        )
        return _Verdict(kept, findings)
    if difference(logits, other) > max(OTHER_BATCH, 16 * rounding) * spread:
        kept = success & criterion(other)
        flipped = int((criterion(other) != success).sum())
        findings.append(
            Finding(
                "batch-dependent",
                f"the output for an image depends on the other images of its batch, and {flipped} "
                f"of {count_noun(len(images), 'verdict')} with it; the "
                f"{count_noun(int(kept.sum()), 'success')} held in two compositions",
                "Make the model use no statistics of the batch (model.eval())",
            )
        )
        return _Verdict(kept, findings)
    return _Verdict(success, findings)


def _judge_again(
    model: GuardedExpectation,
    images: Tensor,
    clean: Tensor,
    success: Tensor,
    criterion: Criterion,
    findings: list[Finding],
) -> _Verdict:
    """Judge images of an expectation model by fresh draws too, in another composition of the batch.

    The draws attacked go with the place in the batch, so the batch alone cannot be changed.
    """
    other = in_other_batches(model.fresh_output, images, clean)
    fresh = criterion(model.fresh_output(images) if other is None else other)
    flipped = int((fresh != success).sum())
    if flipped:
        findings.append(
            Finding(
                "random-output",
                f"fresh draws change {flipped} of {count_noun(len(images), 'verdict')}; the "
                f"{count_noun(int((success & fresh).sum()), 'success')} held in both",
                "Raise the number of draws of the expectation model",
            )
        )
    return _Verdict(success & fresh, findings)


def in_other_batches(
    output: Callable[[Tensor], Tensor], images: Tensor, clean: Tensor
) -> Tensor | None:
    """Return outputs (b, classes) of the images in other batches; None if the model takes none.

    Args:
        output: Model: images (b, ...) to outputs (b, classes).
        images: Images (b, ...); every other one goes together, a single one with its clean image.
        clean: Clean images (b, ...).
    """
    try:
        if len(images) == 1:
            return output(torch.cat([images, clean]))[:1]
        odd, even = output(images[1::2]), output(images[::2])
    except Exception:
        return None  # a model of a fixed batch size was run on the batch it takes
    logits = torch.empty_like(torch.cat([odd, even]))
    logits[1::2], logits[::2] = odd, even
    return logits


def spread_of(logits: Tensor) -> float:
    """Return the standard deviation of all outputs, the unit of their differences."""
    finite = logits.double()[logits.isfinite()]
    return float(finite.std(correction=0).clamp_min(1e-12)) if len(finite) else 1.0


def difference(first: Tensor, second: Tensor) -> float:
    """Return the largest difference of outputs, infinite where only one is finite."""
    apart = (first.double() - second.double()).abs()
    both_lost = ~first.isfinite() & ~second.isfinite()
    return float(apart.masked_fill(both_lost, 0).nan_to_num(nan=torch.inf).max())


def check_ties(logits: Tensor) -> Iterator[Finding]:
    """Report exact ties of the largest logits."""
    best = logits.double().topk(2, 1).values
    ties = int((best[:, 0] == best[:, 1]).sum())
    if ties:
        yield Finding(
            "tied-output",
            f"the two largest outputs are exactly equal for {ties} of "
            f"{count_noun(len(logits), 'image')}, where the class of the lower number counts as "
            "predicted",
            "Return outputs of more precision: rounding, saturation or a dead layer makes them tie",
        )


def changed_findings(names: list[str]) -> Iterator[Finding]:
    """Report parameters and buffers, by name, that the model changed while it ran."""
    if names:
        yield Finding(
            "changes-itself",
            f"the model changed {len(names)} of its own tensors while it ran ({names[0]}), in eval "
            "mode; they have their values back",
            "Let forward change nothing: outputs depend on what the model has seen before",
        )


def _observed(model: GuardedModel, success: Tensor) -> Iterator[Finding]:
    """Report what showed during the search, where some sample withstood it."""
    seen, unbroken = model.observations, int((~success).sum())
    dead = 0 if seen.gradients is None else int((~seen.gradients).sum())
    if seen.gradients is not None and dead > 0.05 * len(seen.gradients) and unbroken:
        yield Finding(
            "zero-gradient",
            f"the gradient was zero or not finite for {dead} of "
            f"{count_noun(len(seen.gradients), 'image')}, and {unbroken} withstood the attack",
            "A saturated output, a step or a rounding hides it: use bpda, or a black-box attack",
        )
    yield from non_finite_findings(model)


_UNSTEADY = {"random-output", "batch-dependent", "changes-itself"}
"""Findings that explain why a copy's outputs are others."""


def copy_findings(model: GuardedModel, known: Iterable[Finding]) -> Iterator[Finding]:
    """Report a faster copy of ``model`` whose losses were others, unless a finding that is
    ``known`` already explains it.

    A copy is compared on two images before it is used. A model that does something else with more
    images, or with others, shows only afterwards.
    """
    seen = model.observations
    compared, differing = int(seen.compared), int(seen.differing)
    if differing > 0.1 * compared and not _UNSTEADY & {finding.name for finding in known}:
        yield Finding(
            "copy-differs",
            f"a faster copy of the model, which gradients were taken of, has other losses for "
            f"{differing} of {count_noun(compared, 'image')}",
            'Attack the model itself (speed "plain"): what it does depends on the images at hand',
        )


def non_finite_findings(model: GuardedModel) -> Iterator[Finding]:
    """Report images, of all that ``model`` has been given, for which it predicts no class."""
    lost = int(model.observations.non_finite)
    if lost:
        yield Finding(
            "non-finite-output",
            f"the model returned NaN or infinity for {lost} of the images tried, which counts as "
            "no success",
            "Find the overflow or the division by zero in the model",
        )
