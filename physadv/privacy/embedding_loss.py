"""What a cloak is after: away from the person's own embeddings and from cloaked siblings, towards a
decoy if wished.

Similarities of different embedders are brought to one scale, the *margin*: 1 for the face itself, 0
at the threshold of 1 % false accepts, negative where the recognizer sees another person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.core.errors import OptionError
from physadv.models.faces.embedders import FaceEmbedder
from physadv.models.faces.face_detection import DetectedFace
from physadv.privacy.transforms import clean_view, crop_through_view

FAR = 0.01
_UNKNOWN = {"cosine": 0.3, "euclidean": -1.0}
_SIBLINGS = 8


def threshold_of(embedder: FaceEmbedder, far: float = FAR) -> float:
    """The card's threshold at ``far``, or at its only stated rate, or a common one where it states
    none."""
    stated = embedder.card.thresholds
    nearest = min(stated, key=lambda rate: abs(rate - far), default=None)
    return _UNKNOWN[embedder.card.metric] if nearest is None else stated[nearest]


def similarity_margin(embedder: FaceEmbedder, first: Tensor, second: Tensor) -> Tensor:
    """Similarities (n, m) on the common scale: 1 for equal, 0 at the threshold."""
    threshold = threshold_of(embedder)
    equal = 1.0 if embedder.card.metric == "cosine" else 0.0
    return (embedder.similarity(first, second) - threshold) / (equal - threshold)


@torch.no_grad()
def own_embeddings(scene: Tensor, face: DetectedFace, embedder: FaceEmbedder) -> Tensor:
    """Embeddings (k, d) of a face as it is: by each set of landmarks, plain and mirrored."""
    schemes = (True, False) if len(face.marks) > 1 else (True,)
    views = [
        clean_view(flip=flip, first_scheme=first) for flip in (False, True) for first in schemes
    ]
    found: Tensor = embedder(
        torch.cat([crop_through_view(scene, face, embedder, view) for view in views])
    )
    return found


class CloakMemory:
    """Embeddings of the faces of earlier photos, as they were and as they were cloaked; nothing
    else is kept.

    ``limit`` is how many faces are remembered; the oldest go first.
    """

    def __init__(self, limit: int = 5000) -> None:
        self.limit = limit
        self._faces: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def __len__(self) -> int:
        return len(self._faces)

    def add(self, clean: dict[str, Tensor], cloaked: dict[str, Tensor]) -> None:
        """Remember one face: embeddings (1, d) by embedder."""
        self._faces.append((clean, cloaked))
        del self._faces[: max(0, len(self._faces) - self.limit)]

    def siblings(
        self, clean: dict[str, Tensor], embedders: Sequence[FaceEmbedder]
    ) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """The newest faces of the same person: those that every embedder matched before they were
        cloaked."""
        found = []
        for old, cloaked in reversed(self._faces):
            if all(
                float(similarity_margin(e, clean[e.card.name], old[e.card.name])) > 0
                for e in embedders
                if e.card.name in old
            ):
                found.append((old, cloaked))
            if len(found) == _SIBLINGS:
                break
        return found


@dataclass(frozen=True)
class CloakGoal:
    """Targets by embedder: ``own`` (k, d) and ``siblings`` (m, d) to leave, ``decoys`` (1, d) to
    approach."""

    clean: dict[str, Tensor]
    own: dict[str, Tensor]
    siblings: dict[str, Tensor]
    decoys: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        scene: Tensor,
        face: DetectedFace,
        embedders: Sequence[FaceEmbedder],
        memory: CloakMemory | None,
        decoys: dict[str, Tensor] | None,
    ) -> CloakGoal:
        """The targets of a face as it is now, with what ``memory`` holds of the same person."""
        own = {e.card.name: own_embeddings(scene, face, e) for e in embedders}
        clean = {name: rows[:1] for name, rows in own.items()}
        known = memory.siblings(clean, embedders) if memory is not None else []
        return cls(
            clean=clean,
            own={
                name: torch.cat([rows, *(old[name] for old, _ in known)])
                for name, rows in own.items()
            },
            siblings={name: torch.cat([c[name] for _, c in known]) for name in own}
            if known
            else {},
            decoys=decoys or {},
        )

    def loss(self, embedder: FaceEmbedder, seen: Tensor) -> Tensor:
        """Mean over views of the margin to the person, and of what is over 0 of the margin to
        cloaked siblings."""
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


def decoy_embedding(
    embedder: FaceEmbedder,
    others: Tensor,
    own: Tensor,
    generator: torch.Generator,
    *,
    people: int = 8,
) -> Tensor:
    """A synthetic target (1, d): of 32 averages of ``people`` random others (n, d), the one
    farthest from ``own``.

    Never a real person. Raises OptionError with fewer than ``people`` others.
    """
    if len(others) < people:
        raise OptionError(
            f"{len(others)} faces for a decoy",
            f"at least {people} are averaged",
            "add photos to the folder",
        )
    groups = [torch.randperm(len(others), generator=generator)[:people] for _ in range(32)]
    averages = torch.stack([others[group].mean(0) for group in groups])
    return averages[similarity_margin(embedder, averages, own).max(1).values.argmin()][None]
