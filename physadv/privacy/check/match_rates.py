"""Match rates from embeddings: pairs, galleries and attacks, before and after; every rate is
computed from rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from physadv.core.rows import Row
from physadv.evaluation.metrics.intervals import RateInterval, clustered_interval
from physadv.models.faces.embedders import FaceEmbedder
from physadv.privacy.check.embeddings import EmbeddingBank, Variant
from physadv.privacy.embedding_loss import threshold_of

FARS = (0.01, 0.001)
_ENOUGH = 10
"""Impostor pairs over the threshold that a rate of false accepts must rest on; else the card's
threshold is used."""


@dataclass(frozen=True)
class MatchThreshold:
    """Similarity at which a share ``far`` of pairs of different people matches, and the source of
    that number."""

    far: float
    value: float
    pairs: int
    source: str


def match_thresholds(recognizer: FaceEmbedder, bank: EmbeddingBank) -> list[MatchThreshold]:
    """Return the thresholds of ``recognizer`` at each of ``FARS``, from impostor pairs among the
    originals in ``bank``.

    Where these pairs are too few, the recognizer's card decides; where it states none, few pairs
    must do; a value common for its metric only where there is no pair at all.
    """
    scores = impostor_scores(recognizer, bank.table(recognizer.card.name, "original"), bank.people)
    limits = []

    for far in FARS:
        if len(scores) * far >= _ENOUGH:
            limits.append(
                MatchThreshold(
                    far, float(np.quantile(scores, 1 - far)), len(scores), "impostor pairs here"
                )
            )
        elif recognizer.card.thresholds:
            limits.append(
                MatchThreshold(
                    far, threshold_of(recognizer, far), len(scores), "the recognizer's card"
                )
            )
        elif len(scores):
            limits.append(
                MatchThreshold(
                    far, float(np.quantile(scores, 1 - far)), len(scores), "few impostor pairs here"
                )
            )
        else:
            limits.append(
                MatchThreshold(far, threshold_of(recognizer, far), 0, "a guess: give --gallery")
            )
    return limits


def impostor_scores(
    recognizer: FaceEmbedder, embeddings: Tensor, people: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Return the similarities of all pairs of different people.

    Args:
        recognizer: Recognizer that computed the embeddings.
        embeddings: Embeddings (n, d); rows of NaN are left out.
        people: Person of each row.

    Returns:
        Similarities (pairs,).
    """
    scores = recognizer.similarity(embeddings, embeddings).double().numpy()
    first, second = np.triu_indices(len(people), 1)
    names = np.asarray(people)
    apart = names[first] != names[second]
    values = scores[first, second][apart]
    return np.asarray(values[np.isfinite(values)])


def pair_rows(
    recognizer: FaceEmbedder,
    bank: EmbeddingBank,
    limits: Sequence[MatchThreshold],
    channels: Sequence[str],
) -> Iterator[Row]:
    """Yield one row a pair of photos of one person: kinds "same photo", "cross photo" and
    "cloaked pair".

    The reference is the original as saved; in "cloaked pair" it is another cloaked photo of the
    person, as saved.

    Args:
        recognizer: Recognizer to compare by.
        bank: Embeddings.
        limits: Thresholds of the recognizer.
        channels: Names of the channels to report.

    Yields:
        One row a comparison, by variant and channel.
    """
    name, people = recognizer.card.name, np.asarray(bank.people)
    clean = bank.table(name, "original")
    both = bank.table(name, "cloaked")
    protected = torch.isfinite(both).all(1).numpy() if len(both) else np.zeros(len(people), bool)

    variants: tuple[Variant, ...] = ("original", "cloaked", "noise", "blur")
    for variant in variants:
        for channel in channels:
            if (name, variant, channel) not in bank.rows:
                continue

            probes = bank.table(name, variant, channel)
            to_clean = recognizer.similarity(probes, clean).numpy()
            to_cloaked = recognizer.similarity(probes, both).numpy()

            for i in _where(protected & torch.isfinite(probes).all(1).numpy()):
                for j in _where(people == people[i]):
                    kind = "same photo" if i == j else "cross photo"
                    yield _row(
                        name, variant, channel, kind, bank, i, j, float(to_clean[i, j]), limits
                    )
                    if i != j and variant == "cloaked" and protected[j]:
                        yield _row(
                            name,
                            variant,
                            channel,
                            "cloaked pair",
                            bank,
                            i,
                            j,
                            float(to_cloaked[i, j]),
                            limits,
                        )


def _row(
    recognizer: str,
    variant: str,
    channel: str,
    kind: str,
    bank: EmbeddingBank,
    i: int,
    j: int,
    score: float,
    limits: Sequence[MatchThreshold],
) -> Row:
    return {
        **_probe(recognizer, variant, channel, kind, bank, i),
        "other": bank.photos[j],
        "score": round(score, 5),
        **{f"matched_{limit.far:g}": bool(score >= limit.value) for limit in limits},
    }


def gallery_rows(
    recognizer: FaceEmbedder, bank: EmbeddingBank, channels: Sequence[str]
) -> Iterator[Row]:
    """Yield one row a probe for attacks with a gallery: "rank-1" and the two attacks on a
    poisoned gallery.

    Rank-1: the gallery holds all originals of everybody but the probe itself. Poisoned: the gallery
    holds a person's *cloaked* photos among other people's originals, the probe is another,
    uncloaked photo of that person; identified by the nearest neighbor, or by a linear probe (ridge
    regression on unit embeddings) trained on half of the cloaked photos and tested on the others.

    Args:
        recognizer: Recognizer to compare by.
        bank: Embeddings.
        channels: Names of the channels to report.

    Yields:
        One row a probe.
    """
    name, people = recognizer.card.name, np.asarray(bank.people)
    clean, cloaked = bank.table(name, "original"), bank.table(name, "cloaked")
    protected = (
        torch.isfinite(cloaked).all(1).numpy() if len(cloaked) else np.zeros(len(people), bool)
    )
    if len(set(bank.people)) < 2:
        return

    for variant in ("original", "cloaked"):
        for channel in channels:
            scores = recognizer.similarity(bank.table(name, variant, channel), clean).numpy()
            for i in _where(protected):
                if (people == people[i]).sum() > 1:
                    yield _told(
                        name,
                        variant,
                        channel,
                        "rank-1",
                        bank,
                        i,
                        _nearest(scores[i], people, i) == people[i],
                    )

    for person in dict.fromkeys(people[protected]):
        own = np.array(_where((people == person) & protected))
        others = np.array(_where(people != person))
        if len(own) < 2:
            continue
        for variant, source in (("original", clean), ("cloaked", cloaked)):
            for i in own.tolist():
                rest = own[own != i]
                gallery = torch.cat([source[rest], clean[others]])
                names = np.concatenate([people[rest], people[others]])
                best = int(recognizer.similarity(clean[i : i + 1], gallery)[0].argmax())
                yield _told(name, variant, "png", "poisoned 1-NN", bank, i, names[best] == person)

            for half in (own[::2], own[1::2]):
                asked = np.setdiff1d(own, half)
                guesses = linear_probe(
                    torch.cat([source[half], clean[others]]),
                    np.concatenate([people[half], people[others]]),
                    clean[asked],
                )
                for i, guess in zip(asked.tolist(), guesses, strict=True):
                    yield _told(
                        name, variant, "png", "poisoned linear probe", bank, i, guess == person
                    )


def _where(mask: npt.NDArray[np.bool_]) -> list[int]:
    return [int(i) for i in np.flatnonzero(mask)]


def _nearest(scores: npt.NDArray[np.float32], people: npt.NDArray[np.str_], own: int) -> str:
    remaining = scores.copy()
    remaining[own] = -np.inf
    return str(people[int(np.nanargmax(remaining))])


def _told(
    recognizer: str, variant: str, channel: str, kind: str, bank: EmbeddingBank, i: int, hit: bool
) -> Row:
    return {**_probe(recognizer, variant, channel, kind, bank, i), "matched_0.01": bool(hit)}


def _probe(
    recognizer: str, variant: str, channel: str, kind: str, bank: EmbeddingBank, i: int
) -> Row:
    """What every row says of the photo that was asked about."""
    return {
        "recogniser": recognizer,
        "variant": variant,
        "channel": channel,
        "kind": kind,
        "person": bank.people[i],
        "photo": bank.photos[i],
    }


def linear_probe(
    gallery: Tensor, names: npt.NDArray[np.str_], probes: Tensor, *, ridge: float = 1.0
) -> list[str]:
    """Name probes by ridge regression on a labeled gallery, classes weighted alike.

    Args:
        gallery: Embeddings (n, d).
        names: Person of each row of the gallery.
        probes: Embeddings (m, d).
        ridge: Weight of the regularization.

    Returns:
        One name a probe.

    Example:
        >>> import numpy as np, torch
        >>> linear_probe(torch.eye(2), np.array(["ann", "bob"]), torch.tensor([[0.1, 0.9]]))
        ['bob']
    """
    known, label = np.unique(names, return_inverse=True)
    x = torch.nn.functional.normalize(gallery.double())
    center = x.mean(0)

    weights = torch.from_numpy(1.0 / np.bincount(label)[label])[:, None]
    targets = torch.nn.functional.one_hot(torch.from_numpy(label), len(known)).double() * 2 - 1

    x = x - center
    gram = x.T @ (weights * x) + ridge / x.shape[1] * torch.eye(x.shape[1], dtype=x.dtype)
    solution = torch.linalg.solve(gram, x.T @ (weights * targets))
    scores = (torch.nn.functional.normalize(probes.double()) - center) @ solution
    return [str(known[k]) for k in scores.argmax(1)]


def rate_of(rows: Sequence[Row], key: str = "matched_0.01") -> RateInterval:
    """Return the share of ``rows`` in which ``key`` is true, with its interval.

    Its trials are people, or photos where there is one person only.
    """
    alone = len({row["person"] for row in rows}) == 1
    return clustered_interval(
        [bool(row[key]) for row in rows], [row["photo" if alone else "person"] for row in rows]
    )
