"""The cloak as one object: detectors, embedders, mode and memory, applied photo by photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physadv.core.errors import OptionError
from physadv.core.files import write_json
from physadv.core.image_io import Array
from physadv.core.random_streams import generator
from physadv.models.faces.embedders import FaceEmbedder
from physadv.models.faces.face_detection import DetectedFace, FaceFinder, Points, Scheme, find_faces
from physadv.privacy.batch import CloakedPhoto, PixelReader, recorded_embedders
from physadv.privacy.check.embeddings import aligned_crop, embed_crop
from physadv.privacy.check.pairs import PortraitPair, find_portraits, match_files
from physadv.privacy.cloak_faces import CloakedFace, CloakMode, FaceWindow, cloak_faces
from physadv.privacy.embedding_loss import CloakMemory, decoy_embedding, own_embeddings

FEWEST = 8
SMALLEST = 24
"""Faces with a box narrower than this, in px, are left alone: no embedder tells them apart."""


class PhotoCloaker:
    """Detects and cloaks the faces of photos; remembers them, so that cloaked photos do not match
    each other.

    Args:
        finders: Face detectors.
        embedders: Embedders to optimize against.
        mode: Limits and settings of the cloak.
        others: Embeddings (n, d) of other people by embedder, to average decoys from; None for
            none.
        seed: Seed of the random streams.
        in_place: Whether faces are changed in the pixels handed in, which saves the memory of a
            copy.
    """

    def __init__(
        self,
        finders: Sequence[FaceFinder],
        embedders: Sequence[FaceEmbedder],
        mode: CloakMode,
        *,
        others: dict[str, Tensor] | None = None,
        seed: int = 0,
        in_place: bool = False,
    ) -> None:
        self.finders, self.embedders, self.mode, self.seed = finders, embedders, mode, seed
        self.others, self.in_place = others, in_place
        self.memory = CloakMemory()

    def faces(self, rgb: Array) -> tuple[list[DetectedFace], list[DetectedFace]]:
        """Return the faces of ``rgb`` (h, w, 3) uint8 large enough to be recognized, and the
        smaller ones, which stay as they are."""
        faces = find_faces(rgb, self.finders)
        boxes = [face.box(*rgb.shape[:2]) for face in faces]
        large = [min(x1 - x0, y1 - y0) >= SMALLEST for x0, y0, x1, y1 in boxes]
        return (
            [face for face, keep in zip(faces, large, strict=True) if keep],
            [face for face, keep in zip(faces, large, strict=True) if not keep],
        )

    def __call__(self, rgb: Array, name: str) -> CloakedPhoto:
        """Cloak every face of one photo."""
        faces, small = self.faces(rgb)
        work = self.cloak(rgb, name, faces)
        if not small:
            return work
        note = f"left as they are, under {SMALLEST} px: {len(small)}"
        bare = tuple(face.box(*rgb.shape[:2]) for face in small)
        return replace(work, notes=(note,), bare=bare)

    def cloak(self, rgb: Array, name: str, faces: list[DetectedFace]) -> CloakedPhoto:
        """Cloak given faces of one photo.

        They are remembered by :meth:`recall`, once the photo is written.

        Args:
            rgb: Photo (h, w, 3) uint8.
            name: Name of the photo in the random streams.
            faces: Faces to cloak.

        Returns:
            The cloaked pixels and one row a face.
        """
        decoys = self._decoys(rgb, faces, name)
        done, notes = cloak_faces(
            rgb,
            faces,
            self.embedders,
            self.mode,
            memory=self.memory.copy(),
            decoys=decoys,
            seed=self.seed,
            name=name,
            in_place=self.in_place,
        )

        return CloakedPhoto(
            done, [_row(face, note) for face, note in zip(faces, notes, strict=True)]
        )

    def recall(self, before: PixelReader, after: PixelReader, rows: list[dict[str, Any]]) -> None:
        """Remember the faces of a cloaked photo as they stand in its file.

        Args:
            before: Reads the original pixels (h, w, 3) uint8.
            after: Reads the cloaked pixels; of another shape, nothing is remembered.
            rows: Face rows of the manifest.
        """
        faces = [face_of(row) for row in rows]
        shape, originals = self._seen(before(), faces)
        cloaked_shape, cloaked = self._seen(after(), faces)
        if shape == cloaked_shape:
            for original, changed in zip(originals, cloaked, strict=True):
                self.memory.add(original, changed)

    def _seen(
        self, rgb: Array, faces: list[DetectedFace]
    ) -> tuple[tuple[int, ...], list[dict[str, Tensor]]]:
        """The shape of a photo, and the embeddings of each face in it by embedder."""
        windows = (FaceWindow.around(rgb, face, self.embedders[0].mean.device) for face in faces)
        return rgb.shape, [
            {e.card.name: own_embeddings(w.scene, w.face, e)[:1] for e in self.embedders}
            for w in windows
        ]

    def learn_others(self, folder: str | Path) -> None:
        """Embed the largest face of each photo in ``folder`` (one a person) to average decoys
        from.

        Raises:
            OptionError: There are fewer than eight people.
        """
        rows: dict[str, dict[str, Tensor]] = {}
        for item in find_portraits(match_files(folder)[0], self.finders):
            if isinstance(item, PortraitPair):
                key = (
                    item.pair.person
                    if item.pair.original.parent != Path(folder)
                    else item.pair.original.stem
                )
                rows[key] = {
                    e.card.name: embed_crop(e, aligned_crop(item.before, item.face, e))[None]
                    for e in self.embedders
                }

        if len(rows) < FEWEST:
            raise OptionError(
                f"{folder}: {len(rows)} people",
                f"{FEWEST} or more are averaged",
                "Add photos of others",
            )

        self.others = {
            e.card.name: torch.cat([row[e.card.name] for row in rows.values()]).to(e.mean)
            for e in self.embedders
        }

    def _decoys(self, rgb: Array, faces: list[DetectedFace], name: str) -> dict[str, Tensor] | None:
        if self.others is None or not faces:
            return None

        window = FaceWindow.around(rgb, faces[0], self.embedders[0].mean.device)
        draw = generator(self.seed, "decoy", name)
        return {
            e.card.name: decoy_embedding(
                e, self.others[e.card.name], own_embeddings(window.scene, window.face, e), draw
            )
            for e in self.embedders
        }


def cloaker_settings(cloaker: PhotoCloaker) -> dict[str, Any]:
    """Return everything the results of ``cloaker`` depend on, for the manifest's key and for the
    check."""
    return {
        "physadv": version("physadv"),
        "mode": asdict(cloaker.mode),
        "embedders": [{"name": e.card.name, "sha256": e.card.sha256} for e in cloaker.embedders],
        "finders": [type(f).__name__ for f in cloaker.finders],
        "decoys": cloaker.others is not None,
        "seed": cloaker.seed,
    }


def write_settings(path: Path, settings: dict[str, Any]) -> Path:
    """Write ``settings`` to ``path`` beside the cloaked photos; embedders of earlier runs into
    that folder stay listed.

    Raises DataError where ``path`` holds something else.
    """
    before = recorded_embedders(path) if path.is_file() else []
    known = {e["sha256"] for e in settings["embedders"]}
    merged = {
        **settings,
        "embedders": [*settings["embedders"], *(e for e in before if e["sha256"] not in known)],
    }
    return write_json(path, merged)


def face_of(row: dict[str, Any]) -> DetectedFace:
    """Return the face that ``row`` of a manifest describes."""
    marks: dict[Scheme, Points] = {k: np.array(v, float) for k, v in row["marks"].items()}
    return DetectedFace(float(row["score"]), marks)


def _row(face: DetectedFace, note: CloakedFace) -> dict[str, Any]:
    """A face as the manifest keeps it: places and figures, no embedding, for that would be the very
    thing to hide."""
    return {
        "box": list(note.box),
        "score": round(face.score, 3),
        "marks": {k: np.round(v, 4).tolist() for k, v in face.marks.items()},
        "linf": note.change.linf,
        "dssim": round(note.change.dssim, 5),
        "psnr": round(note.change.psnr, 2) if np.isfinite(note.change.psnr) else None,
        "margins": note.margins,
        "steps": note.steps,
        "seconds": round(note.seconds, 3),
    }
