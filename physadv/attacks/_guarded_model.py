"""A model as attacks may call it: out of reach of their tensors, its output read as logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from physadv.attacks._classifier_step import (
    Classifier,
    LogProbabilities,
    RandomizedModel,
    is_randomized,
)
from physadv.core.errors import OptionError, PhysadvError, is_out_of_memory
from physadv.core.findings import Finding
from physadv.core.wording import count_noun
from physadv.models.checks import looks_like_probabilities
from physadv.models.failures import failure_of
from physadv.models.outputs import ends_in_activation, read_logits


class Observations:
    """What showed while an attack ran: gradients of exactly zero, outputs that are not finite,
    losses of a faster copy that are not the model's."""

    def __init__(self) -> None:
        self.gradients: Tensor | None = None
        self.non_finite: Tensor | int = 0
        self.compared: Tensor | int = 0
        self.differing: Tensor | int = 0
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Note nothing within: the images there are a probe's, not the attack's."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def note_gradient(self, gradient: Tensor) -> None:
        """Keep which samples (b,) of the first ``gradient`` (b, ...) have one of any use."""
        if self.gradients is None and len(gradient):
            slopes = gradient.detach().flatten(1)
            self.gradients = ((slopes != 0) & slopes.isfinite()).any(1)

    def note_logits(self, logits: Tensor) -> None:
        """Count the rows of ``logits`` (b, classes) that predict no class."""
        if self._paused:
            return
        self.non_finite = self.non_finite + (~logits.detach().amax(1).isfinite()).sum()

    def note_losses(self, own: Tensor, of_copy: Tensor, tolerance: float) -> None:
        """Compare the losses (b,) of the model and of a faster copy for the same images."""
        known = own.isfinite() & of_copy.isfinite()
        far = (own - of_copy).abs() > tolerance * own.abs().masked_fill(~known, 0).amax()
        self.compared = self.compared + known.sum()
        self.differing = self.differing + (known & far).sum()

    def shielded(self, images: Tensor) -> Tensor:
        """Return a copy of ``images`` for the model to use as it likes; gradients pass through."""
        copy = images.clone()
        if self.gradients is None and copy.requires_grad and not self._paused:
            copy.register_hook(self.note_gradient)  # type: ignore[no-untyped-call]
        return copy


class GuardedModel:
    """A model that cannot change the images it is given, and whose output is read as logits.

    An attack that is given one runs without a gate of its own: whoever made it judges the result.

    Args:
        model: Model under attack.

    Attributes:
        source: The model, or its log-probabilities where it returns probabilities.
        classes: Number of the model's classes, 0 until it is opened.
        fastest: Name of the copy that was found to be the fastest; None until they were timed.
        chosen_earlier: Whether that name is the choice of an earlier run.
        compiled: That copy, where its gradients are compiled.
    """

    def __init__(self, model: Classifier) -> None:
        self.model = model
        self.source: Classifier = model
        self.observations = Observations()
        self.findings: list[Finding] = []
        self.classes = 0
        self.fastest: str | None = None
        self.chosen_earlier = False
        self.compiled: Classifier | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits (b, classes) of ``images`` (b, ...)."""
        return self._read(self.source, images)

    def _read(self, source: Classifier, images: Tensor) -> Tensor:
        logits = read_logits(source(self.observations.shielded(images)), len(images))
        self.observations.note_logits(logits)
        # Models may return the same buffer from every call, and inference tensors.
        return logits.clone()

    def output(self, images: Tensor) -> Tensor:
        """Return the output (b, classes) of the untouched model for ``images`` (b, ...)."""
        output = read_logits(self.model(images.clone()), len(images)).clone()
        self.observations.note_logits(output)
        return output

    @property
    def has_log_probabilities(self) -> bool:
        """Whether the logits that attacks get are the logarithm of the model's output."""
        return self.source is not self.model

    def open(self, images: Tensor, labels: Tensor, targets: Tensor | None) -> None:
        """Run the model on the first images and check that it can be attacked.

        Args:
            images: Clean images (b, ...).
            labels: True classes (b,).
            targets: Target classes (b,), or None.

        Raises:
            ModelError: The model fails on the images, or returns no logits of 2 classes or more.
            OptionError: A label or target is not a class of the model.
        """
        first, written = self._first_output(images)
        self.classes = first.shape[1]
        for name, classes in (("label", labels), ("target", targets)):
            highest = -1 if classes is None else int(classes.max())
            if highest >= first.shape[1]:
                raise OptionError(
                    f"{name} {highest}",
                    f"the model has {count_noun(first.shape[1], 'class')}, numbered from 0",
                    "Number the classes as the model does",
                )
        own = 0 if targets is None else int((targets == labels).sum())
        if own:
            self.findings.append(
                Finding(
                    "target-is-label",
                    f"the target of {own} of {count_noun(len(images), 'image')} is the true class",
                    "Leave them out: they count as successes without any change",
                )
            )
        if written:
            self.findings.append(
                Finding(
                    "changes-its-input",
                    "the model overwrites the images it is given",
                    "It was given copies here; replace operations like x.sub_() by x - mean",
                )
            )

    def _first_output(self, images: Tensor) -> tuple[Tensor, bool]:
        """Return the output for the first images, and whether the model wrote into them."""
        # Two images suffice; models of a fixed batch size get all.
        for count in sorted({min(2, len(images)), len(images)}):
            copy = images[:count].clone()
            try:
                output, exact = ends_in_activation(self.model, copy)
            except Exception as error:  # whatever the user's model raises is told in one line
                if isinstance(error, PhysadvError) or is_out_of_memory(error):
                    raise
                if count < len(images):
                    continue
                raise failure_of(self.model, images, error) from error
            break
        if exact or looks_like_probabilities(output):
            self.source = LogProbabilities(self.model)
        if looks_like_probabilities(output):
            self.findings.append(
                Finding(
                    "softmax-output",
                    "the outputs are probabilities (no value below 0, each row sums to 1)",
                    "Return logits: softmax flattens the gradients; their logarithm was attacked",
                )
            )
        return output, not torch.equal(copy, images[:count])


class GuardedExpectation(GuardedModel):
    """A guarded model with random parts, which attacks evaluate over several draws."""

    model: RandomizedModel

    @property
    def eot_count(self) -> int:
        """Number of draws."""
        return self.model.eot_count

    def fresh_output(self, images: Tensor) -> Tensor:
        """Return the output (b, classes) for ``images`` (b, ...) over draws of another seed."""
        source = getattr(self.model, "with_fresh_draws", lambda: self.model)()
        return read_logits(source(images.clone()), len(images)).clone()

    def eot_draws(self) -> Iterator[Classifier]:
        """Yield the model once for each draw."""
        for draw in self.model.eot_draws():
            yield partial(self._read, draw)


def guarded(model: Classifier) -> GuardedModel:
    """Return ``model`` behind a guard, itself where it is behind one."""
    if isinstance(model, GuardedModel):
        return model
    return GuardedExpectation(model) if is_randomized(model) else GuardedModel(model)


def unguarded(model: Any) -> Any:
    """Return the model behind a guard; any other as it is."""
    return model.model if isinstance(model, GuardedModel) else model
