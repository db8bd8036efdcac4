"""Tests of whether a recognizer judges a cloak independently, by its embeddings of the photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from physadv.models.faces.embedders import FaceEmbedder
from physadv.privacy.check.embeddings import EmbeddingBank
from physadv.privacy.check.match_rates import impostor_scores
from physadv.privacy.check.provenance import Role

_FEWEST = 4
"""Photos and pairs of strangers below which nothing is concluded."""
_BLIND = 0.25
"""Quantile of strangers' similarities below which a recognizer is as blind as only a surrogate is.
Of real faces, at eight to six a cell, it named the surrogate in eight of nine cells of mode and
data, and none of the eighteen recognizers held out; their median named one of those
(benchmarks/cloak.md)."""
_SAME_NET = 0.8
"""Correlation of two recognizers' similarities of strangers above which they are one net, or one
made from the other. Of a net quantized to 8 bits, fine-tuned, or shown mirrored, gray or tighter
crops it was 0.88 to 0.99 (37 photos, 666 pairs); of different nets at most 0.79 (300 draws of 10
people of 20, 45 pairs; in the median 0.5)."""
_TELLING = 45
"""Pairs of strangers from which that can be told: those of ten people."""


def independent_roles(
    recognizers: Sequence[FaceEmbedder], bank: EmbeddingBank, stated: Mapping[str, Role]
) -> dict[str, Role]:
    """Return the part of each recognizer in the cloak, where its embeddings speak against what is
    stated.

    A recognizer stated to be held out is "untested" where there are too few pairs of strangers to
    tell, and "suspect" where it is as blind as only a surrogate is. It is a surrogate, or "copy",
    where it is another recognizer's net under a further name, or one made from it.

    Args:
        recognizers: The recognizers.
        bank: Their embeddings.
        stated: Part of each recognizer as settings and marks tell, by its name.

    Returns:
        The part of each recognizer, by its name.
    """
    scores = {
        r.card.name: impostor_scores(r, bank.table(r.card.name, "original"), bank.people)
        for r in recognizers
    }
    roles = dict(stated)
    for number, recognizer in enumerate(recognizers):
        name = recognizer.card.name
        if roles[name] == "held-out" and is_suspiciously_blind(recognizer, bank):
            roles[name] = "suspect"
        elif roles[name] == "held-out" and len(scores[name]) < _TELLING:
            roles[name] = "untested"

        for other in (r.card.name for r in recognizers if r is not recognizer):
            if not _same_net(scores[name], scores[other]):
                continue
            if stated[other] == "surrogate":
                roles[name] = "surrogate"
            elif other in [r.card.name for r in recognizers[:number]] and roles[name] == "held-out":
                roles[name] = "copy"
    return roles


def is_suspiciously_blind(recognizer: FaceEmbedder, bank: EmbeddingBank) -> bool:
    """Return whether a recognizer finds cloaked photos less like their own originals than
    strangers are.

    A cloak is pushed away from the person as its surrogates see it, past the strangers. A
    recognizer that had no part in it loses the person at most among them.

    Args:
        recognizer: Recognizer that computed the embeddings.
        bank: Embeddings of the photos as saved.

    Returns:
        Whether the median similarity of a cloaked photo and its own original is below the lowest
        quarter of different people; False for too few of either.
    """
    clean = bank.table(recognizer.card.name, "original")
    cloaked = bank.table(recognizer.card.name, "cloaked")
    if (recognizer.card.name, "cloaked", "png") not in bank.rows:
        return False
    own = recognizer.similarity(cloaked, clean).diagonal().numpy()
    own = own[np.isfinite(own)]
    strangers = impostor_scores(recognizer, clean, bank.people)
    if len(own) < _FEWEST or len(strangers) < _FEWEST:
        return False
    return bool(np.median(own) < np.quantile(strangers, _BLIND))


def _same_net(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> bool:
    """Whether two recognizers rank pairs of strangers so alike that one is made from the other."""
    if len(first) != len(second) or len(first) < _TELLING:
        return False
    if not (first.std() and second.std()):
        return False
    return bool(np.corrcoef(first, second)[0, 1] > _SAME_NET)
