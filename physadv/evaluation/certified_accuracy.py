"""Certify a model over a data set: one row an image, whatever the method, resumable after a kill.

A row says that the class ``predicted`` holds for every image within ``radius`` of this one. So the
certified accuracy at any radius, and the whole curve, are recomputed from the rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.verify import TIME_LIMIT, BoundedMargins, verify_bounds
from physadv.certification.fixed_network import check_fixed
from physadv.certification.smoothing.certify import (
    SmoothingCertificate,
    certify_with_sampler,
    check_sample_counts,
)
from physadv.certification.smoothing.fixed_radius import certify_at_radius
from physadv.certification.smoothing.noise import SmoothingNoise
from physadv.certification.smoothing.sampler import NoiseSampler
from physadv.certification.smoothing.sequential_plan import SequentialPlan, make_sequential_plan
from physadv.certification.smoothing.settled_radius import certify_until_settled
from physadv.core.errors import OptionError
from physadv.core.memory_limit import MemoryLimit
from physadv.core.rows import Row
from physadv.core.shards import WHOLE, Shard
from physadv.core.types import Model
from physadv.defenses.registry import certified_defense
from physadv.evaluation.certificate_attack import (
    CertificateAttack,
    Counterexample,
    is_attackable,
)
from physadv.evaluation.data import SampleSource
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.evaluation.progress_log import ProgressLog
from physadv.models.cards import LoadedModel

Tick = Callable[[float], None]
"""Told how much of the present group is done, as a share in [0, 1]."""


class CertificationMethod(Protocol):
    """A method of certification with its settings; ``group`` is the number of images that it takes
    at once."""

    group: int

    def rows(self, images: Tensor, labels: Tensor, indices: Sequence[int], tick: Tick) -> list[Row]:
        """Certify images.

        Args:
            images: Images (b, c, h, w) in [0, 1].
            labels: True classes (b,).
            indices: Numbers of the images, which name their random streams.
            tick: Called with the share of the work done.

        Returns:
            One table an image, with at least ``predicted`` and ``radius``.
        """
        ...

    def memory_in_words(self) -> str:
        """Return what the method did where memory ran out within it; empty where nothing."""
        ...


class SmoothingCertifier:
    """Randomised smoothing: Cohen's certificates, or staged ones where a ``radius`` is fixed.

    ``n`` and ``n0`` default to 100,000 and 100, or to at most 120,000 and 32 in stages. Raises
    OptionError for numbers out of range and for a radius out of reach.
    """

    def __init__(
        self,
        model: Model,
        noise: SmoothingNoise,
        *,
        norm: str,
        dims: int,
        radius: float | None = None,
        n0: int | None = None,
        n: int | None = None,
        alpha: float = 0.001,
        batch: int = 256,
        seed: int = 0,
        decline: float = 0.0,
    ) -> None:
        self.decline = decline
        self.sampler = NoiseSampler(model, noise, seed=seed, batch=batch)
        self._is_checked = False
        self.norm, self.radius, self.alpha = norm, radius, alpha
        self.n = n if n is not None else (100_000 if radius is None else 120_000)
        self.n0 = n0 if n0 is not None else (100 if radius is None else 32)
        check_sample_counts(self.n0, self.n, alpha)
        self.plan: SequentialPlan | None = None

        if radius is not None:
            if radius <= 0:
                raise OptionError(
                    f"radius {radius}", "a positive radius is needed", "leave it out for full radii"
                )
            self.plan = make_sequential_plan(
                noise.needed(radius, norm, dims), n=self.n, alpha=alpha
            )
        self.widest = noise.radius(alpha ** (1 / self.n), norm, dims) if radius is None else radius
        self.group = 1 if radius is None else 16

    def rows(self, images: Tensor, labels: Tensor, indices: Sequence[int], tick: Tick) -> list[Row]:
        """Certify images; ``clean`` in a row is the model's own class, without noise.

        Args:
            images: Images (b, c, h, w) in [0, 1].
            labels: True classes (b,).
            indices: Numbers of the images, which name their random streams.
            tick: Called with the share of the work done.

        Returns:
            One table an image, with at least ``predicted`` and ``radius``.
        """
        if not self._is_checked and len(images):
            self.sampler.check_model(images[:1])
            self._is_checked = True
        clean = self.sampler.clean_classes(images)
        expected = len(images) * (self.n0 + (self.n if self.plan is None else self.plan.looks[0]))
        seen = 0

        def count(size: int) -> None:
            nonlocal seen
            seen += size
            tick(min(seen / expected, 0.99))

        self.sampler.tick = count
        singles = [image[None] for image in images]
        if self.plan is None or self.radius is None:
            found = [
                self._full(image, index) for image, index in zip(singles, indices, strict=True)
            ]
        else:
            found = certify_at_radius(
                self.sampler,
                singles,
                self.plan,
                radius=self.radius,
                norm=self.norm,
                n0=self.n0,
                indices=indices,
            )
        return [
            {
                "predicted": c.predicted,
                "radius": c.radius,
                "p_low": c.p_low,
                "samples": c.samples,
                "clean": own,
            }
            for c, own in zip(found, clean, strict=True)
        ]

    def memory_in_words(self) -> str:
        """Return at how many noisy images memory ran out; empty where it never did."""
        return self.sampler.memory.in_words()

    def _full(self, image: Tensor, index: int) -> SmoothingCertificate:
        if self.decline > 0:
            return certify_until_settled(
                self.sampler,
                image,
                norm=self.norm,
                n0=self.n0,
                n=self.n,
                alpha=self.alpha,
                decline=self.decline,
                index=index,
            )
        return certify_with_sampler(
            self.sampler, image, norm=self.norm, n0=self.n0, n=self.n, alpha=self.alpha, index=index
        )


class BoundCertifier:
    """Deterministic bounds at the radii ``eps`` (ascending). What holds at a radius holds at all
    smaller ones."""

    def __init__(
        self,
        graph: LayerGraph,
        method: str,
        *,
        norm: str,
        eps: Sequence[float],
        main: float,
        group: int = 32,
        time_limit: float = TIME_LIMIT,
        net: nn.Module | None = None,
    ) -> None:
        if not eps or main not in eps or min(eps) < 0:
            raise OptionError(
                f"radii {list(eps)}", f"ascending, 0 or more and with {main}", "name one radius"
            )
        self.graph, self.method, self.norm, self.group = graph, method, norm, group
        self.radii, self.main = sorted(eps), main
        self.time_limit, self.net = time_limit, net

    def rows(self, images: Tensor, labels: Tensor, indices: Sequence[int], tick: Tick) -> list[Row]:
        """Certify images; ``margin`` in a row is the bound at the main radius.

        Each radius is tried on those images only that no larger one has certified and no smaller
        one refused.

        Args:
            images: Images (b, c, h, w) in [0, 1].
            labels: True classes (b,).
            indices: Numbers of the images, which name their random streams.
            tick: Called with the share of the work done.

        Returns:
            One table an image, with at least ``predicted`` and ``radius``.
        """
        first = self._bounds(images, labels, self.main)
        right = first.predicted == labels
        best = [self.main if c else -1.0 for c in first.certified.tolist()]
        place = self.radii.index(self.main)
        for radius in self.radii[place + 1 :]:
            self._try(
                images,
                labels,
                radius,
                best,
                [i for i, b in enumerate(best) if b == self._below(radius)],
            )

        for radius in reversed(self.radii[:place]):
            self._try(
                images, labels, radius, best, [i for i, b in enumerate(best) if b < 0 and right[i]]
            )

        rows: list[Row] = [
            {"predicted": int(p), "radius": max(b, 0.0), "margin": float(m)}
            for p, b, m in zip(first.predicted, best, first.margins, strict=True)
        ]
        for row, verdict in zip(rows, first.verdicts, strict=False):
            row["verdict"] = verdict
        return rows

    def memory_in_words(self) -> str:
        """Return nothing: images are divided outside."""
        return ""

    def _bounds(self, images: Tensor, labels: Tensor, radius: float) -> BoundedMargins:
        return verify_bounds(
            self.graph,
            images,
            labels,
            eps=radius,
            method=self.method,
            norm=self.norm,
            time_limit=self.time_limit,
            net=self.net,
        )

    def _below(self, radius: float) -> float:
        return self.radii[self.radii.index(radius) - 1]

    def _try(
        self, images: Tensor, labels: Tensor, radius: float, best: list[float], chosen: list[int]
    ) -> None:
        if not chosen:
            return

        found = self._bounds(images[chosen], labels[chosen], radius)
        for i, is_certified in zip(chosen, found.certified.tolist(), strict=True):
            if is_certified:
                best[i] = radius


class PatchCertifier:
    """Certified patch defenses: ``radius`` is the side of the patch withstood, in px of the working
    size, or 0.

    A defense for an h x w px patch is told by the smaller side. Raises OptionError for a model
    without such a proof.
    """

    def __init__(self, model: LoadedModel, *, group: int = 8) -> None:
        found = certified_defense(model)
        if found is None:
            raise OptionError(
                f"model {model.card.name}",
                "no patch certificate belongs to it",
                "put patchcleanser, derandomized or patchguard before it: "
                "signs-masked+patchcleanser",
            )

        self.defense, self.resizing = found
        self.model, self.group, self.patch = model, group, min(self.defense.patch)
        self._is_checked = False

    @torch.no_grad()
    def rows(self, images: Tensor, labels: Tensor, indices: Sequence[int], tick: Tick) -> list[Row]:
        """Certify images.

        Args:
            images: Images (b, c, h, w) in [0, 1].
            labels: True classes (b,).
            indices: Numbers of the images, which name their random streams.
            tick: Called with the share of the work done.

        Returns:
            One table an image, with at least ``predicted`` and ``radius``.
        """
        working = self.resizing(images)
        if not self._is_checked:
            check_fixed(cast(Model, self.defense), working[:2], may_be_random=False)
            self._is_checked = True
        predicted, sure = self.defense.verdicts(working)
        return [
            {"predicted": p, "radius": float(self.patch) if s else 0.0}
            for p, s in zip(predicted.tolist(), sure.tolist(), strict=True)
        ]

    def memory_in_words(self) -> str:
        """Return nothing: images are divided outside."""
        return ""


@dataclass(frozen=True)
class CertificationProgress:
    """Images finished, their total, and how many of the finished are right within the radius."""

    done: int
    total: int


def certify_all(
    certifier: CertificationMethod,
    samples: SampleSource,
    ledger: ProgressLog,
    *,
    device: str,
    tick: Tick,
    attack: CertificateAttack | None = None,
    report: Callable[[Counterexample], None] = lambda example: None,
    shard: Shard = WHOLE,
) -> Iterator[CertificationProgress]:
    """Certify the samples that have no row yet, group by group.

    Args:
        certifier: The method.
        samples: The images.
        ledger: Rows of this and earlier attempts, which grow.
        device: Device of the model.
        tick: Called with the share of a group's work done.
        attack: Attack on the certificates; each row attacked says whether it is ``broken``.
        report: Called with each certificate that broke, before its row is written.
        shard: Groups of samples to certify.

    Yields:
        The progress after each group.
    """
    starts = range(0, len(samples), certifier.group)
    groups = [
        range(start, min(start + certifier.group, len(samples)))
        for number, start in enumerate(starts)
        if shard.holds(number)
    ]
    waiting = [[p for p in group if samples.indices[p] not in ledger.rows] for group in groups]
    memory = MemoryLimit()
    total = sum(map(len, groups))
    done = total - sum(map(len, waiting))
    yield CertificationProgress(done, total)
    for group in filter(None, waiting):
        indices = [samples.indices[p] for p in group]
        images, labels = samples.images(group).to(device), samples.targets(group).to(device)
        began = time.perf_counter()
        rows = _rows_in_parts(certifier, images, labels, indices, tick, memory)
        seconds = time.perf_counter() - began
        named = [
            {"index": i, "image": samples.name(p), "label": samples.labels[p], **row}
            for i, p, row in zip(indices, group, rows, strict=True)
        ]
        began = time.perf_counter()
        if attack is not None:
            named = _attacked(attack, images, named, indices, report)
        spent = {"seconds": seconds, "attack_seconds": time.perf_counter() - began}
        ran_out = memory.in_words() or certifier.memory_in_words()
        ledger.write(
            indices[0], "certify", named, **spent, **({"memory": ran_out} if ran_out else {})
        )
        done += len(group)
        yield CertificationProgress(done, total)


def _rows_in_parts(
    certifier: CertificationMethod,
    images: Tensor,
    labels: Tensor,
    indices: Sequence[int],
    tick: Tick,
    memory: MemoryLimit,
) -> list[Row]:
    """Rows of a group, certified in parts where memory does not hold it at once."""

    def part(first: int, last: int) -> list[Row]:
        chosen = slice(first, last)
        return certifier.rows(images[chosen], labels[chosen], indices[chosen], tick)

    return [row for rows in memory.run(len(images), part) for row in rows]


def _attacked(
    attack: CertificateAttack,
    images: Tensor,
    rows: list[Row],
    indices: Sequence[int],
    report: Callable[[Counterexample], None],
) -> list[Row]:
    """Return ``rows`` with whether each certificate broke under ``attack``; report those."""
    found = attack.counterexamples(images, rows, indices)
    for example in found:
        report(example)
    broken = {example.index for example in found}
    return [
        {**row, "broken": index in broken} if is_attackable(row) else row
        for index, row in zip(indices, rows, strict=True)
    ]


def is_certified(row: Row, radius: float) -> bool:
    """Return whether ``row`` is right and certified within ``radius``."""
    return bool(row["predicted"] == row["label"] and row["radius"] >= radius)


def summarize_certified(rows: Sequence[Row], radii: Sequence[float]) -> dict[str, Any]:
    """Return accuracies with intervals at several radii, and the mean certified radius.

    Args:
        rows: One table an image.
        radii: The radii; 0 is accuracy without a certificate.

    Returns:
        A table for the report and ``--json``.
    """
    n = len(rows)
    points = [
        {"radius": r, **wilson_interval(sum(is_certified(row, r) for row in rows), n).as_dict()}
        for r in radii
    ]
    mean = sum(row["radius"] for row in rows if row["predicted"] == row["label"]) / n if n else 0.0
    return {
        "accuracy": wilson_interval(
            sum(row["predicted"] == row["label"] for row in rows), n
        ).as_dict(),
        "abstained": sum(row["predicted"] < 0 for row in rows),
        "mean_radius": mean,
        "samples": sum(int(row.get("samples", 0)) for row in rows),
        "attacked": sum("broken" in row for row in rows),
        "broken": sum(bool(row.get("broken")) for row in rows),
        "curve": points,
    }
