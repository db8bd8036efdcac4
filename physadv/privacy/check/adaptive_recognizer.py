"""A recognizer fine-tuned on cloaked photos of *other* people (Radiya-Dixit et al., 2022)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.core.random_streams import numpy_generator
from physadv.core.rows import Row
from physadv.models.faces.embedders import FaceEmbedder
from physadv.privacy.check.embeddings import EmbeddingBank
from physadv.privacy.check.match_rates import match_thresholds, pair_rows

FEWEST = 8
"""People with cloaked photos that it takes: half to train on, half to ask about."""
_SHARE = 0.01


def adaptive_rows(
    recognizer: FaceEmbedder, bank: EmbeddingBank, *, steps: int = 60, seed: int = 0
) -> Iterator[Row]:
    """Yield rows like those of ``pair_rows`` by copies of a recognizer, each trained on half of
    the people and tested on the others.

    Yields nothing with fewer than ``FEWEST`` people. The recognizer itself is not changed.

    Args:
        recognizer: Recognizer to copy.
        bank: Embeddings and crops; it must have been filled with ``keep_crops``.
        steps: Training steps.
        seed: Seed of the random streams.

    Yields:
        One row a comparison.
    """
    pairs = bank.crops.get(recognizer.card.name, [])
    cloaked = [i for i, (_, after) in enumerate(pairs) if after is not None]
    names = sorted({bank.people[i] for i in cloaked})
    if len(names) < FEWEST:
        return

    for taught in (names[1::2], names[::2]):
        train = [i for i, person in enumerate(bank.people) if person in taught]
        adapted = adapt_recognizer(recognizer, pairs, train, bank.people, steps=steps, seed=seed)

        # Everybody else is asked about, the gallery too: its people are impostors for the
        # threshold.
        fold = _fold(
            adapted,
            bank,
            pairs,
            [i for i, person in enumerate(bank.people) if person not in taught],
        )
        yield from pair_rows(adapted, fold, match_thresholds(adapted, fold), ["png"])


def adapt_recognizer(
    recognizer: FaceEmbedder,
    pairs: Sequence[tuple[Tensor, Tensor | None]],
    train: Sequence[int],
    people: Sequence[str],
    *,
    steps: int = 60,
    batch: int = 8,
    rate: float = 3e-4,
    temperature: float = 0.1,
    seed: int = 0,
) -> FaceEmbedder:
    """Train a copy of a recognizer to embed cloaked and original photos of a person alike (Khosla
    et al., 2020).

    Only the last stage is trained, on features computed once; networks without ``trunk`` and
    ``tail`` get a linear layer on their embeddings instead.

    Args:
        recognizer: Recognizer to copy; it is not changed.
        pairs: Aligned crops (1, 3, size, size) uint8 a photo: original, and cloaked or None.
        train: Indices into ``pairs`` to train on.
        people: Person of each photo.
        steps: Training steps.
        batch: People a step.
        rate: Learning rate.
        temperature: Temperature of the contrastive loss.
        seed: Seed of the random streams.

    Returns:
        The trained copy, frozen, compared by cosine.
    """
    adapted = copy.deepcopy(recognizer)

    # It learns angles, whatever its like was compared by before.
    adapted.card = replace(
        recognizer.card, name=f"{recognizer.card.name}, adapted", thresholds={}, metric="cosine"
    )

    trunk, tail = _parts(adapted)
    features = torch.cat(
        [_features(adapted, trunk, crop) for i in train for crop in pairs[i] if crop is not None]
    )

    by_person: dict[str, tuple[list[int], list[int]]] = {}
    row = 0
    for i in train:
        for place, crop in enumerate(pairs[i]):
            if crop is not None:
                by_person.setdefault(people[i], ([], []))[place].append(row)
                row += 1

    tail.requires_grad_(True)
    optimizer = torch.optim.Adam(_groups(tail, rate))
    rng = numpy_generator(seed, "adaptive", recognizer.card.name)

    for _ in range(steps):
        chosen = rng.choice(sorted(by_person), min(batch, len(by_person)), replace=False)
        rows, labels = [], []
        for label, person in enumerate(chosen):
            for photos in by_person[str(person)]:  # two of the originals, two of the cloaked
                rows += [int(k) for k in rng.choice(photos, 2)]
                labels += [label, label]

        out = F.normalize(tail(features[rows]))
        optimizer.zero_grad()
        _supervised_contrast(out, torch.tensor(labels), temperature).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return adapted.requires_grad_(False)


def _groups(tail: nn.Module, rate: float) -> list[dict[str, Any]]:
    """Parameters with steps of ``rate``, at most ``_SHARE`` of their own size: dlib's are a hundred
    times smaller."""
    return [
        {"params": [p], "lr": min(rate, _SHARE * float(p.detach().square().mean().sqrt()))}
        for p in tail.parameters()
        if p.requires_grad
    ]


def _supervised_contrast(out: Tensor, labels: Tensor, temperature: float) -> Tensor:
    scores = out @ out.T / temperature
    itself = torch.eye(len(out), dtype=torch.bool)
    log_share = scores - torch.logsumexp(scores.masked_fill(itself, float("-inf")), 1, keepdim=True)
    same = (labels[:, None] == labels[None]) & ~itself
    return -(log_share.masked_fill(~same, 0).sum(1) / same.sum(1)).mean()


def _parts(embedder: FaceEmbedder) -> tuple[nn.Module | None, nn.Module]:
    """What stays fixed, and what is trained."""
    net = embedder.net
    if hasattr(net, "trunk") and hasattr(net, "tail"):
        return net, _Tail(net)

    width = embedder.card.dimension
    head = nn.Linear(width, width, bias=False)
    nn.init.eye_(head.weight)
    embedder.net = nn.Sequential(net, head)
    return net, head


class _Tail(nn.Module):
    """The last stage of a net as a module of its own. The trunk's parameters get no gradient and so
    never move."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, features: Tensor) -> Tensor:
        """Features of the trunk -> embeddings."""
        out: Tensor = self.net.tail(features)  # type: ignore[operator]
        return out


@torch.no_grad()
def _features(embedder: FaceEmbedder, trunk: nn.Module | None, crop: Tensor) -> Tensor:
    crops = embedder.prepared(crop.float() / 255)
    net: nn.Module = trunk if trunk is not None else embedder.net
    out: Tensor = net.trunk(crops) if hasattr(net, "trunk") else net(crops)  # type: ignore[operator]
    return out


@torch.no_grad()
def _fold(
    adapted: FaceEmbedder,
    bank: EmbeddingBank,
    pairs: Sequence[tuple[Tensor, Tensor | None]],
    rows: Sequence[int],
) -> EmbeddingBank:
    """A bank of these rows alone, as the adapted recognizer sees them."""
    fold = EmbeddingBank()

    for i in rows:
        number = fold.add(bank.people[i], bank.photos[i])
        for variant, crop in zip(("original", "cloaked"), pairs[i], strict=True):
            if crop is not None:
                embedding = adapted(crop.float() / 255)[0]
                fold.put((adapted.card.name, variant, "png"), number, embedding)  # type: ignore[arg-type]
    return fold
