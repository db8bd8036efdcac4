"""Loss of a cloak: distance from the person's own embeddings and from cloaked siblings, nearness
to a decoy.

Similarities of different embedders are brought to one scale, the *margin*: 1 for the face itself, 0
at the threshold of 1 % false accepts, negative where the recognizer reports another person.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.core.errors import OptionError
from physadv.core.wording import count_noun
from physadv.models.faces.embedders import FaceEmbedder
from physadv.models.faces.face_detection import DetectedFace
from physadv.privacy.transforms import clean_view, crop_through_view

FAR = 0.01
_SAME_FAR = 0.001
"""Two faces are one person's where they match at this rate: among many people's photos, one in a
hundred of strangers' would outnumber a person's own."""
_UNKNOWN = {"cosine": 0.3, "euclidean": -1.0}
_SIBLINGS = 8
_SAME_PHOTO = 0.98
"""Margin above which two faces are one photo."""


def threshold_of(embedder: FaceEmbedder, far: float = FAR) -> float:
    """Return the threshold of ``embedder`` at false accept rate ``far``.

    Where its card states none at that rate, the one at the nearest rate is used; where it states
    none at all, a common one for its metric.
    """
    stated = embedder.card.thresholds
    nearest = min(stated, key=lambda rate: abs(rate - far), default=None)
    return _UNKNOWN[embedder.card.metric] if nearest is None else stated[nearest]


def similarity_margin(embedder: FaceEmbedder, first: Tensor, second: Tensor) -> Tensor:
    """Compare embeddings on the common scale.

    Args:
        embedder: Embedder that computed both.
        first: Embeddings (n, d).
        second: Embeddings (m, d).

    Returns:
        Margins (n, m): 1 for equal embeddings, 0 at the threshold; differentiable.
    """
    threshold = threshold_of(embedder)
    equal = 1.0 if embedder.card.metric == "cosine" else 0.0
    return (embedder.similarity(first, second) - threshold) / (equal - threshold)


@torch.no_grad()
def own_embeddings(scene: Tensor, face: DetectedFace, embedder: FaceEmbedder) -> Tensor:
    """Embed a face as it is: by each set of landmarks, plain and mirrored.

    Args:
        scene: Image (1, 3, h, w) in [0, 1].
        face: Face in pixels of ``scene``.
        embedder: Embedder to use.

    Returns:
        Embeddings (k, d), k = 2 or 4.
    """
    schemes = (True, False) if len(face.marks) > 1 else (True,)
    views = [
        clean_view(flip=flip, first_scheme=first) for flip in (False, True) for first in schemes
    ]
    embeddings: Tensor = embedder(
        torch.cat([crop_through_view(scene, face, embedder, view) for view in views])
    )
    return embeddings


class CloakMemory:
    """Embeddings of the faces of earlier photos, as they were and as they were cloaked, and of
    faces in an album, which stay bare; nothing else is kept.

    ``limit`` is the number of faces remembered of either kind; the oldest are dropped first.
    """

    def __init__(self, limit: int = 5000) -> None:
        self.limit = limit
        self._faces: list[tuple[dict[str, Tensor], Callable[[], dict[str, Tensor] | None]]] = []
        self._album: dict[bytes, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._faces)

    def copy(self) -> CloakMemory:
        """Return a memory of the same faces that forgets and learns on its own."""
        copied = CloakMemory(self.limit)
        copied._faces, copied._album = list(self._faces), dict(self._album)
        return copied

    def add_bare(self, clean: dict[str, Tensor]) -> None:
        """Remember one face that stays as it is by its embeddings (1, d) by embedder; the same
        face of the same photo once."""
        key = b"".join(rows.cpu().numpy().tobytes() for rows in clean.values())
        self._album[key] = clean
        if len(self._album) > self.limit:
            del self._album[next(iter(self._album))]

    def add(self, clean: dict[str, Tensor], cloaked: dict[str, Tensor]) -> None:
        """Remember one face by its embeddings (1, d) by embedder, ``clean`` and ``cloaked``."""
        self.expect(clean, lambda: cloaked)

    def expect(
        self, clean: dict[str, Tensor], cloaked: Callable[[], dict[str, Tensor] | None]
    ) -> None:
        """Remember one face whose cloak may still be in the making.

        Args:
            clean: Embeddings (1, d) by embedder of the face as it was.
            cloaked: Returns those of the face as it was cloaked, None where it was not; called only
                where the same person's face is to be cloaked.
        """
        self._faces.append((clean, cloaked))
        del self._faces[: max(0, len(self._faces) - self.limit)]

    def siblings(
        self, clean: dict[str, Tensor], embedders: Sequence[FaceEmbedder]
    ) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """Return the newest faces of the same person: those that every one of ``embedders``
        matched to ``clean`` before cloaking, at 0.1 % false accepts."""
        matches = []
        for old, cloaked in reversed(self._faces):
            if is_same_person(clean, old, embedders):
                made = cloaked()
                if made is not None:
                    matches.append((old, made))

            if len(matches) == _SIBLINGS:
                break
        return matches

    def bare(
        self, clean: dict[str, Tensor], embedders: Sequence[FaceEmbedder]
    ) -> list[dict[str, Tensor]]:
        """Return the faces of the album that every one of ``embedders`` matches to ``clean`` at
        0.1 % false accepts, by their embeddings (1, d); faces of this very photo tell nothing new
        and are left out."""
        return [
            old
            for old in self._album.values()
            if is_same_person(clean, old, embedders) and not _is_one_photo(clean, old, embedders)
        ]


def is_same_person(
    clean: dict[str, Tensor], old: dict[str, Tensor], embedders: Sequence[FaceEmbedder]
) -> bool:
    """Return whether every one of ``embedders`` that knows both faces, by their embeddings (1, d),
    takes them for one person at 0.1 % false accepts."""
    return all(
        float(e.similarity(clean[e.card.name], old[e.card.name])) > threshold_of(e, _SAME_FAR)
        for e in embedders
        if e.card.name in old
    )


def _is_one_photo(
    clean: dict[str, Tensor], old: dict[str, Tensor], embedders: Sequence[FaceEmbedder]
) -> bool:
    """Whether two faces are one, of the same photo."""
    return all(
        float(similarity_margin(e, clean[e.card.name], old[e.card.name])) > _SAME_PHOTO
        for e in embedders
    )


@dataclass(frozen=True)
class CloakGoal:
    """Targets by embedder: ``own`` (k, d) and ``siblings`` (m, d) to leave, ``decoys`` (1, d) to
    approach; ``others`` is the number of the person's other photos that ``own`` knows."""

    clean: dict[str, Tensor]
    own: dict[str, Tensor]
    siblings: dict[str, Tensor]
    decoys: dict[str, Tensor]
    others: int = 0

    @classmethod
    def of(
        cls,
        scene: Tensor,
        face: DetectedFace,
        embedders: Sequence[FaceEmbedder],
        memory: CloakMemory | None,
        decoys: dict[str, Tensor] | None,
    ) -> CloakGoal:
        """Collect the targets of a face as it is now.

        Args:
            scene: Image (1, 3, h, w) in [0, 1].
            face: Face in pixels of ``scene``.
            embedders: Embedders to optimize against.
            memory: Faces cloaked before.
            decoys: Averaged embeddings (1, d) by embedder.

        Returns:
            The targets.
        """
        own = {e.card.name: own_embeddings(scene, face, e) for e in embedders}
        clean = {name: rows[:1] for name, rows in own.items()}
        known = memory.siblings(clean, embedders) if memory is not None else []
        album = memory.bare(clean, embedders) if memory is not None else []
        others = [
            *(old for old, _ in known if not any(_is_one_photo(old, a, embedders) for a in album)),
            *album,
        ]

        return cls(
            clean=clean,
            own={
                name: _with_others(rows, [old[name] for old in others]) if others else rows
                for name, rows in own.items()
            },
            siblings={name: torch.cat([c[name] for _, c in known]) for name in own}
            if known
            else {},
            decoys=decoys or {},
            others=len(others),
        )

    def loss(self, embedder: FaceEmbedder, seen: Tensor) -> Tensor:
        """Return the loss of embeddings ``seen`` (views, d) by ``embedder``; lower is better for
        the cloak.

        It is the mean over views of the margin to the person, plus the margin to the nearest
        cloaked sibling where that is above 0, minus the margin to the decoy.
        """
        name = embedder.card.name
        loss = similarity_margin(embedder, seen, self.own[name]).clamp_min(-2).mean()

        if name in self.siblings:
            loss = (
                loss
                + 0.5
                * similarity_margin(embedder, seen, self.siblings[name])
                .clamp_min(-0.2)
                .mean(0)
                .max()
            )

        if name in self.decoys:
            loss = loss - 0.5 * similarity_margin(embedder, seen, self.decoys[name]).mean()
        return loss


def _with_others(own: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Embeddings (k, d) of a face, and as often the mean of the person's ``others`` (1, d): what
    photos of a person share is what a recognizer that judges matches by."""
    mean = torch.cat(list(others)).mean(0, keepdim=True)
    return torch.cat([own, mean.expand_as(own)])


def decoy_embedding(
    embedder: FaceEmbedder,
    others: Tensor,
    own: Tensor,
    generator: torch.Generator,
    *,
    people: int = 8,
) -> Tensor:
    """Return a synthetic target: of 32 averages of random people, the one farthest from the
    person.

    It never is a real person's embedding.

    Args:
        embedder: Embedder that computed the embeddings.
        others: Embeddings (n, d) of other people.
        own: Embeddings (k, d) of the person.
        generator: Source of all randomness.
        people: Number of people averaged.

    Returns:
        Embedding (1, d).

    Raises:
        OptionError: There are fewer than ``people`` others.
    """
    if len(others) < people:
        raise OptionError(
            f"{count_noun(len(others), 'face')} for a decoy",
            f"at least {people} are averaged",
            "Add photos to the folder",
        )

    groups = [torch.randperm(len(others), generator=generator)[:people] for _ in range(32)]
    averages = torch.stack([others[group].mean(0) for group in groups])
    return averages[similarity_margin(embedder, averages, own).max(1).values.argmin()][None]
