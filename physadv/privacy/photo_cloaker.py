"""The cloak as one object: detectors, embedders, mode and memory, applied photo by photo."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physadv.core.errors import OptionError, PhysadvError
from physadv.core.files import sha256_of, write_json
from physadv.core.image_io import Array, list_images
from physadv.core.random_streams import generator
from physadv.core.wording import count_noun
from physadv.models.faces.embedders import FaceEmbedder
from physadv.models.faces.face_detection import DetectedFace, FaceFinder, Points, Scheme
from physadv.models.faces.second_look import search_faces
from physadv.privacy.batch import CloakedPhoto, PixelReader, content_digest, recorded_embedders
from physadv.privacy.check.embeddings import aligned_crop, embed_crop
from physadv.privacy.check.pairs import PortraitPair, find_portraits, match_files
from physadv.privacy.cloak_faces import (
    CloakedFace,
    CloakMode,
    FaceWindow,
    cloak_faces,
    face_digest,
)
from physadv.privacy.embedding_loss import CloakMemory, decoy_embedding, own_embeddings
from physadv.privacy.face_choice import FaceChoice, PhotoFaces
from physadv.privacy.photo_io.photo import read_photo

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
        choice: Faces to cloak or to leave bare, by photo.

    Attributes:
        album: Digest of the photos whose faces :meth:`learn_album` remembers; empty for none.
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
        choice: FaceChoice | None = None,
    ) -> None:
        self.choice = choice or FaceChoice()
        self.finders, self.embedders, self.mode, self.seed = finders, embedders, mode, seed
        self.others, self.in_place = others, in_place
        self.memory = CloakMemory()
        self.found: dict[str, PhotoFaces] = {}
        """Faces found before, by the name of their photo, which are not searched again."""
        self.album = ""

    def faces(self, rgb: Array, name: str = "") -> PhotoFaces:
        """Find the faces of one photo: those to cloak, and those that stay as they are.

        Args:
            rgb: Photo (h, w, 3) uint8.
            name: Name of the photo in the choice.

        Returns:
            The faces by their number.

        Raises:
            OptionError: The choice names a face that the photo does not have.
        """
        if name in self.found:
            return self.found[name]
        search = search_faces(rgb, self.finders)
        small = [f for f in search.faces if _is_small(f, rgb)]
        return self.choice.apply(
            name,
            [f for f in search.faces if not _is_small(f, rgb)],
            [f for f in search.doubtful if not _is_small(f, rgb)],
            small,
        )

    def __call__(self, rgb: Array, name: str) -> CloakedPhoto:
        """Cloak the faces of one photo that the choice leaves in."""
        found = self.faces(rgb, name)
        own = self.choice.modes.get(name, {})
        modes = [own.get(number, self.mode) for number in found.cloaked]
        work = self.cloak(rgb, name, list(found.cloaked.values()), modes)
        if not found.bare:
            return work
        boxes = tuple(found.boxes(*rgb.shape[:2])[1].values())
        return replace(work, notes=found.notes(), bare=boxes)

    def cloak(
        self,
        rgb: Array,
        name: str,
        faces: list[DetectedFace],
        modes: Sequence[CloakMode] | None = None,
    ) -> CloakedPhoto:
        """Cloak given faces of one photo.

        They are remembered by :meth:`recall`, once the photo is written.

        Args:
            rgb: Photo (h, w, 3) uint8.
            name: Name of the photo in errors.
            faces: Faces to cloak.
            modes: Mode of each face; None for the cloaker's.

        Returns:
            The cloaked pixels and one row a face.
        """
        decoys = self._decoys(rgb, faces)
        done, notes = cloak_faces(
            rgb,
            faces,
            self.embedders,
            self.mode if modes is None else modes,
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

    def embedded(self, rgb: Array, faces: Sequence[DetectedFace]) -> list[dict[str, Tensor]]:
        """Return the embeddings (1, d) by embedder of each of ``faces`` in a photo ``rgb`` (h, w,
        3) uint8, as they are remembered."""
        windows = (FaceWindow.around(rgb, face, self.embedders[0].mean.device) for face in faces)
        return [
            {e.card.name: own_embeddings(w.scene, w.face, e)[:1] for e in self.embedders}
            for w in windows
        ]

    def _seen(
        self, rgb: Array, faces: list[DetectedFace]
    ) -> tuple[tuple[int, ...], list[dict[str, Tensor]]]:
        """The shape of a photo, and the embeddings of each face in it by embedder."""
        return rgb.shape, self.embedded(rgb, faces)

    def learn_album(self, folder: str | Path) -> int:
        """Remember the faces of photos that stay as they are, so that cloaks move away from what
        photos of a person share and not from one photo alone.

        Args:
            folder: Photos of the people to protect; files that cannot be read are left out.

        Returns:
            The number of faces.

        Raises:
            OptionError: There is no face.
        """
        count, digests = 0, []
        # In the order of their content, as sums depend on it in the last digit.
        for path in sorted(list_images(folder), key=content_digest):
            try:
                rgb = read_photo(path).rgb
            except PhysadvError:
                continue
            faces = [recorded_face(face) for face in self.faces(rgb).cloaked.values()]
            for clean in self.embedded(rgb, faces):
                self.memory.add_bare(clean)
                count += 1
            digests.append(sha256_of(path))
        if not count:
            raise OptionError(
                f"{folder}: no face", "An album has photos of the people to protect", "Add some"
            )
        self.album = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:16]
        return count

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
                f"{folder}: {count_noun(len(rows), 'person')}",
                f"{FEWEST} or more are averaged",
                "Add photos of others",
            )

        self.others = {
            e.card.name: torch.cat([row[e.card.name] for row in rows.values()]).to(e.mean)
            for e in self.embedders
        }

    def _decoys(self, rgb: Array, faces: list[DetectedFace]) -> dict[str, Tensor] | None:
        if self.others is None or not faces:
            return None

        window = FaceWindow.around(rgb, faces[0], self.embedders[0].mean.device)
        draw = generator(self.seed, "decoy", face_digest(rgb, faces[0]))
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
        **({"album": cloaker.album} if cloaker.album else {}),
        **_choice_table(cloaker.choice),
    }


def _choice_table(choice: FaceChoice) -> dict[str, Any]:
    """The faces chosen, as the settings keep them; nothing where none were."""
    table: dict[str, Any] = {
        option: {name: sorted(numbers) for name, numbers in sorted(chosen.items())}
        for option, chosen in (("only", choice.only), ("skip", choice.skip))
        if chosen
    }
    if choice.modes:
        table["modes"] = {
            name: {str(number): asdict(mode) for number, mode in sorted(modes.items())}
            for name, modes in sorted(choice.modes.items())
        }
    return {"choice": table} if table else {}


def _is_small(face: DetectedFace, rgb: Array) -> bool:
    """Whether a face of ``rgb`` is too small to be recognized."""
    x0, y0, x1, y1 = face.box(*rgb.shape[:2])
    return min(x1 - x0, y1 - y0) < SMALLEST


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


def recorded_face(face: DetectedFace) -> DetectedFace:
    """Return ``face`` as :func:`face_of` gives it back from the row of its manifest."""
    return face_of(_place(face))


def _place(face: DetectedFace) -> dict[str, Any]:
    """Where a face is and how sure that is, rounded as the manifest keeps it."""
    return {
        "score": round(face.score, 3),
        "marks": {k: np.round(v, 4).tolist() for k, v in face.marks.items()},
    }


def _row(face: DetectedFace, note: CloakedFace) -> dict[str, Any]:
    """A face as the manifest keeps it: places and figures, no embedding, for that would be the very
    thing to hide."""
    return {
        "box": list(note.box),
        **_place(face),
        "linf": note.change.linf,
        "dssim": round(note.change.dssim, 5),
        "psnr": round(note.change.psnr, 2) if np.isfinite(note.change.psnr) else None,
        "color": None if note.change.color is None else round(note.change.color, 3),
        "patches": None if note.change.patches is None else round(note.change.patches, 3),
        "ms_ssim": None if note.change.ms_ssim is None else round(note.change.ms_ssim, 5),
        "mode": note.mode,
        "others": note.others,
        "margins": note.margins,
        "steps": note.steps,
        "seconds": round(note.seconds, 3),
    }
