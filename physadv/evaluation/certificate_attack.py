"""Attack issued certificates within their own radius: what is certified must not break.

A certificate that breaks is wrong, so each one found is saved with all that is needed to see it
again. Surviving shows nothing new: the attacks are cheap, and a certificate needs no attack.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from physadv.attacks._classifier_step import Classifier
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.gradient import pgd
from physadv.attacks.obfuscated import expectation_model
from physadv.certification.smoothing.certify import ABSTAIN
from physadv.certification.smoothing.noise import SmoothingNoise
from physadv.certification.smoothing.sampler import NoiseSampler, SampleRequest
from physadv.core.files import write_bytes
from physadv.core.findings import FindingWarning
from physadv.core.random_streams import derive, generator
from physadv.core.rows import Row
from physadv.core.types import Model
from physadv.defenses.registry import CertifiedDefense
from physadv.models.resizing import InputResizing

_INSIDE = 1 - 1e-4
"""Share of the radius that is attacked, so that rounding leaves no image outside the ball."""
_VOTES, _MORE_VOTES = 100, 20_000
"""Noisy images that vote on an attacked image, and those that decide where the first doubt."""
_WRONG = 1e-6
"""Chance of the votes under a true certificate below which it counts as broken."""


@dataclass(frozen=True)
class Counterexample:
    """An image within the certified radius on which the certificate does not hold.

    Attributes:
        index: Number of the image in its data set.
        image: The certified image (c, h, w).
        adversarial: The image (c, h, w) that breaks the certificate.
        label: True class.
        predicted: Certified class.
        radius: Certified radius, in the units of the certificate.
        found: What happened there, in words.
    """

    index: int
    image: Tensor
    adversarial: Tensor
    label: int
    predicted: int
    radius: float
    found: str

    def save(self, folder: Path, facts: dict[str, Any], command: str) -> Path:
        """Write ``folder``/broken-INDEX.npz: the images as float32, and all else by name.

        Args:
            folder: Folder of the run.
            facts: Settings of the certification.
            command: Command line that issued the certificate.

        Returns:
            Path of the file.
        """
        path = folder / f"broken-{self.index}.npz"
        entries: dict[str, Any] = {
            "image": self.image.cpu().numpy(),
            "adversarial": self.adversarial.cpu().numpy(),
            "label": self.label,
            "predicted": self.predicted,
            "radius": self.radius,
            "found": self.found,
            "command": command,
            **{f"setting_{key}": str(value) for key, value in facts.items()},
        }
        buffer = io.BytesIO()
        np.savez(buffer, **entries)
        return write_bytes(path, buffer.getvalue())


class CertificateAttack(Protocol):
    """An attack on certificates of one method."""

    def counterexamples(
        self, images: Tensor, rows: Sequence[Row], indices: Sequence[int]
    ) -> list[Counterexample]:
        """Attack the certificates in ``rows``.

        Args:
            images: Images (b, c, h, w) in [0, 1].
            rows: One table an image: at least ``predicted``, ``radius`` and ``label``.
            indices: Numbers of the images, which name their random streams.

        Returns:
            Those that broke.
        """
        ...


def is_attackable(row: Row) -> bool:
    """Return whether ``row`` holds a certificate of some size."""
    return bool(row["radius"] > 0 and row["predicted"] != ABSTAIN)


class BoundAttack:
    """PGD on the network itself, and corners of the ball, at each image's certified radius.

    A certificate breaks where the class changes, and where the margin falls below its bound.

    Args:
        net: The certified network.
        norm: "linf" or "l2".
        main: Radius that the ``margin`` of a row is a bound at.
        seed: Seed of the random starts.
    """

    _STEPS, _STARTS, _CORNERS = 20, 3, 8

    def __init__(self, net: nn.Module, *, norm: str, main: float, seed: int = 0) -> None:
        self.net, self.norm, self.main, self.seed = net, norm, main, seed

    def counterexamples(
        self, images: Tensor, rows: Sequence[Row], indices: Sequence[int]
    ) -> list[Counterexample]:
        """Attack the certificates in ``rows`` of ``images`` (b, c, h, w) numbered ``indices``."""
        broken: list[Counterexample] = []
        for radius, chosen in _by_radius(rows):
            broken += self._at(
                radius, images[chosen], [rows[i] for i in chosen], [indices[i] for i in chosen]
            )
        return broken

    def _at(
        self, radius: float, images: Tensor, rows: Sequence[Row], indices: Sequence[int]
    ) -> list[Counterexample]:
        predicted = torch.tensor([int(row["predicted"]) for row in rows], device=images.device)
        bounds = [float(row["margin"]) if radius == self.main else 0.0 for row in rows]
        worst = images.clone()
        least = self._margins(images, predicted)
        for points in self._points(radius, images, predicted, indices):
            margins = self._margins(points, predicted)
            margins[~_within(points, images, radius, self.norm)] = torch.inf
            better = margins < least
            worst[better], least[better] = points[better], margins[better]

        broken = []
        for i, row in enumerate(rows):
            margin = float(least[i])
            if not margin >= bounds[i] - 1e-6 * (1 + abs(margin)) or margin < 0:
                words = f"margin {margin:.6g}, certified to be at least {bounds[i]:.6g}"
                broken.append(_counterexample(row, indices[i], images[i], worst[i], words))
        return broken

    def _points(
        self, radius: float, images: Tensor, predicted: Tensor, indices: Sequence[int]
    ) -> list[Tensor]:
        """Return batches of attacked images: corners or points of the sphere, then PGD's."""
        found = []
        for number in range(self._CORNERS):
            draws = [generator(self.seed, "corner", i, number) for i in indices]
            noise = torch.stack([torch.randn(images.shape[1:], generator=d) for d in draws])
            noise = noise.to(images)
            if self.norm == "linf":
                step = noise.sign()
            else:
                step = noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            found.append((images + radius * _INSIDE * step).clamp(0, 1))
        attacked = _quiet_pgd(
            self.net,
            images,
            predicted,
            eps=radius * _INSIDE,
            norm=self.norm,
            steps=self._STEPS,
            restarts=self._STARTS,
            loss="margin",
            speed="plain",
            seed=self.seed,
            index=torch.tensor(list(indices)),
        )
        return [*found, attacked.images]

    @torch.no_grad()
    def _margins(self, images: Tensor, predicted: Tensor) -> Tensor:
        """Return the margins (b,) of the certified classes over the best others."""
        logits = self.net(images.clone())
        own = logits.gather(1, predicted[:, None])[:, 0]
        margins: Tensor = own - logits.scatter(1, predicted[:, None], -torch.inf).amax(1)
        return margins


class SmoothingAttack:
    """PGD in expectation over the noise, at each image's certified radius, and a fresh vote there.

    What is attacked is the smoothed classifier. A certificate says that its class has at least half
    of the votes in the whole ball; it breaks where fresh votes for the class are so few that this
    has a chance below one in a million. A certificate may be wrong with probability alpha, so one
    that breaks among very many is no error of the program.

    Args:
        sampler: Sampler of the certificates: model, noise and seed.
        norm: "l1", "l2" or "linf".
    """

    _STEPS, _DRAWS = 8, 4

    def __init__(self, sampler: NoiseSampler, *, norm: str) -> None:
        self.sampler, self.norm = sampler, norm

    def counterexamples(
        self, images: Tensor, rows: Sequence[Row], indices: Sequence[int]
    ) -> list[Counterexample]:
        """Attack the certificates in ``rows`` of ``images`` (b, c, h, w) numbered ``indices``."""
        broken = []
        for radius, chosen in _by_radius(rows):
            points = self._attacked(
                images[chosen],
                torch.tensor([int(rows[i]["predicted"]) for i in chosen], device=images.device),
                radius,
                indices[chosen[0]],
            )
            within = _within(points, images[chosen], radius, self.norm).tolist()
            inside = [(i, p) for i, p, ok in zip(chosen, points, within, strict=True) if ok]
            few = self._votes(inside, rows, indices, _VOTES)
            doubted = [each for each, own in zip(inside, few, strict=True) if 2 * own <= _VOTES]
            many = self._votes(doubted, rows, indices, _MORE_VOTES)
            for (i, point), own in zip(doubted, many, strict=True):
                if stats.binom.cdf(own, _MORE_VOTES, 0.5) <= _WRONG:
                    words = f"{own} of {_MORE_VOTES} votes for class {rows[i]['predicted']}"
                    broken.append(_counterexample(rows[i], indices[i], images[i], point, words))
        return broken

    def _attacked(self, images: Tensor, predicted: Tensor, radius: float, index: int) -> Tensor:
        """Return the attacked images; ``index`` names the stream of the noise."""
        noisy = _NoisyModel(self.sampler.model, self.sampler.noise)
        seed = derive(self.sampler.seed, "attack on a certificate", index) % 2**31
        return _quiet_pgd(
            expectation_model(noisy, draws=self._DRAWS, seed=seed),
            images,
            predicted,
            eps=min(radius * _INSIDE, 1.0) if self.norm == "linf" else radius * _INSIDE,
            norm=self.norm,
            steps=self._STEPS,
            random_start=False,
            keep="loss",
            drop_broken=False,
            speed="plain",
        ).images

    def _votes(
        self,
        attacked: Sequence[tuple[int, Tensor]],
        rows: Sequence[Row],
        indices: Sequence[int],
        votes: int,
    ) -> list[int]:
        """Return how many of fresh ``votes`` each attacked image has for its certified class."""
        requests = [
            SampleRequest(point[None], indices[i], "attack on a certificate", 0, votes)
            for i, point in attacked
        ]
        classes = [int(rows[i]["predicted"]) for i, _ in attacked]
        counts = self.sampler.count(requests)
        return [int(c[own]) if own < len(c) else 0 for c, own in zip(counts, classes, strict=True)]


class PatchAttack:
    """Foreign content in patches of the certified size, at a few places, through the defense.

    Three places an image (the center and two random ones), each with black, white, the inverted
    image and another image of the group: no gradient is taken.

    Args:
        defense: The certified defense.
        resizing: How images are brought to the size that the defense works at.
        seed: Seed of the places.
    """

    _PLACES = 3

    def __init__(
        self, defense: CertifiedDefense, resizing: InputResizing, *, seed: int = 0
    ) -> None:
        self.defense, self.resizing, self.seed = defense, resizing, seed

    @torch.no_grad()
    def counterexamples(
        self, images: Tensor, rows: Sequence[Row], indices: Sequence[int]
    ) -> list[Counterexample]:
        """Attack the certificates in ``rows`` of ``images`` (b, c, h, w) numbered ``indices``."""
        working = self.resizing(images)
        broken = []
        for i, row in enumerate(rows):
            if not is_attackable(row):
                continue
            other = working[(i + 1) % len(working)]
            points = self._patched(working[i], other, indices[i])
            classes = self.defense(points).argmax(1)  # type: ignore[operator]
            wrong = (classes != int(row["predicted"])).nonzero()[:, 0]
            if len(wrong):
                place = int(wrong[0])
                words = f"class {int(classes[place])} under a patch"
                broken.append(_counterexample(row, indices[i], working[i], points[place], words))
        return broken

    def _patched(self, image: Tensor, other: Tensor, index: int) -> Tensor:
        """Return copies of ``image`` (c, h, w), each with one patch."""
        contents = (torch.zeros_like(image), torch.ones_like(image), 1 - image, other)
        height, width = self.defense.patch
        draw = generator(self.seed, "patch on a certificate", index)
        room = (image.shape[1] - height, image.shape[2] - width)
        places = [(room[0] // 2, room[1] // 2)]
        places += [
            tuple(int(torch.randint(0, r + 1, (), generator=draw)) for r in room)  # type: ignore[misc]
            for _ in range(self._PLACES - 1)
        ]
        copies = []
        for top, left in places:
            for content in contents:
                copy = image.clone()
                window = (slice(None), slice(top, top + height), slice(left, left + width))
                copy[window] = content[window]
                copies.append(copy)
        return torch.stack(copies)


def _by_radius(rows: Sequence[Row]) -> list[tuple[float, list[int]]]:
    """Return each certified radius with the numbers of the rows that have it."""
    places: dict[float, list[int]] = {}
    for i, row in enumerate(rows):
        if is_attackable(row):
            places.setdefault(float(row["radius"]), []).append(i)
    return sorted(places.items())


def _quiet_pgd(model: Classifier, images: Tensor, labels: Tensor, **options: Any) -> AttackResult:
    """Run :func:`pgd` without its warnings: what it returns is judged here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FindingWarning)
        return pgd(model, images, labels, **options)


class _NoisyModel(nn.Module):
    """The model under fresh noise from the global generator, as an expectation model seeds it."""

    def __init__(self, net: Model, noise: SmoothingNoise) -> None:
        super().__init__()
        self.net, self.noise = net, noise

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (b, classes) of ``images`` with noise."""
        draw = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        logits = self.net(images + self.noise.draw(tuple(images.shape), draw).to(images))
        assert isinstance(logits, Tensor)  # the sampler has refused other outputs
        return logits


def _within(points: Tensor, images: Tensor, radius: float, norm: str) -> Tensor:
    """Return (b,) bool: whether each point lies in the ball about its image, in float64."""
    step = (points.double() - images.double()).flatten(1)
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    inside: Tensor = torch.linalg.vector_norm(step, ord=order, dim=1) <= radius
    return inside


def _counterexample(
    row: Row, index: int, image: Tensor, adversarial: Tensor, found: str
) -> Counterexample:
    return Counterexample(
        index,
        image,
        adversarial,
        int(row["label"]),
        int(row["predicted"]),
        float(row["radius"]),
        found,
    )
