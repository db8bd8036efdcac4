"""Cloaking of a folder by several processes, photo by photo as one process would.

A person's cloak in one photo follows those in the photos before it. So all faces are found and
embedded first, each photo by one process. Then each process cloaks its photos in their order; where
a face needs the cloak of an earlier photo of the same person that another process makes, it waits
for that photo's row in the other's manifest and reads the file.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from physadv.core.image_io import Array
from physadv.core.process_group import ProcessGroup
from physadv.core.rows import Row
from physadv.models.faces.embedders import FaceEmbedder
from physadv.models.faces.face_detection import DetectedFace
from physadv.privacy.batch import (
    CarriedOptions,
    CloakedPhoto,
    PhotoJob,
    PhotoOutcome,
    finished_rows,
    gather_manifests,
    manifest_rows,
    ordered_by_content,
    output_of,
    rank_manifest,
    run_folder,
)
from physadv.privacy.embedding_loss import is_same_person
from physadv.privacy.folder_survey import Embeddings, SurveyedPhoto, know_photos, survey_photo
from physadv.privacy.photo_cloaker import PhotoCloaker, face_of
from physadv.privacy.photo_io.photo import read_photo

_OVERHEAD = 0.2
"""Cost of a photo without a face, as a share of that of cloaking one face."""
_WAIT_S = 0.1


@dataclass
class DividedCloak:
    """One run over photos, divided among processes.

    Attributes:
        jobs: All photos, the same in every process; :meth:`run` puts them in its order.
        folder: Target folder, which all processes share.
        cloaker: Finds and cloaks faces; it is given what the others found.
        group: The processes.
        settings: Everything the result depends on.
        carried: Options of what the files carry: ``keep_metadata``, ``strip_dates``, ``mark``.
    """

    jobs: Sequence[PhotoJob]
    folder: Path
    cloaker: PhotoCloaker
    group: ProcessGroup
    settings: dict[str, Any]
    carried: CarriedOptions
    _owners: list[int] = field(default_factory=list, init=False)
    _photos: list[SurveyedPhoto] = field(default_factory=list, init=False)
    _finished: dict[str, Row] = field(default_factory=dict, init=False)
    _cloaked: dict[int, list[Embeddings]] = field(default_factory=dict, init=False)
    _remembered: int = field(default=0, init=False)

    def run(self, *, overwrite: bool = False) -> Generator[PhotoOutcome]:
        """Cloak this process's photos and yield after each, as :func:`run_folder` does.

        Args:
            overwrite: Whether photos cloaked with other settings are replaced.
        """
        if self.group.is_first:
            self._finished = finished_rows(self.jobs, self.folder, self.settings, **self.carried)
        self._finished = self.group.from_first(self._finished)
        if self.group.is_first:
            self.jobs = ordered_by_content(self.jobs, self._finished)
        self.jobs = self.group.from_first(self.jobs)
        self._photos = self.group.divided(
            self.jobs, lambda job: [survey_photo(job, self.cloaker, self._finished)]
        )
        know_photos(self.cloaker, self.jobs, self._photos)
        if self.group.is_first:
            faces = [photo.clean for photo in self._photos]
            self._owners = divide_photos(faces, self.cloaker.embedders, self.group.count)
        self._owners = self.group.from_first(self._owners)

        mine = {
            j.name for j, n in zip(self.jobs, self._owners, strict=True) if n == self.group.rank
        }
        yield from run_folder(
            self.jobs,
            self.folder,
            self._cloak,
            settings=self.settings,
            **self.carried,
            overwrite=overwrite,
            only=mine,
            manifest=rank_manifest(self.group.rank),
        )

    def gathered(self, own: Sequence[PhotoOutcome]) -> list[PhotoOutcome]:
        """Return the outcomes of all processes, in the order of the photos; the first process joins
        the manifests.

        Args:
            own: Outcomes of this process's photos.
        """
        parts = self.group.gather(list(own))
        if self.group.is_first:
            gather_manifests(self.folder, [job.name for job in self.jobs])
        return sorted((outcome for part in parts for outcome in part), key=lambda o: o.index)

    def _cloak(self, rgb: Array, name: str) -> CloakedPhoto:
        """Cloak a photo with the memory of all photos before it."""
        number = next(n for n, job in enumerate(self.jobs) if job.name == name)
        memory, device = self.cloaker.memory, self.cloaker.embedders[0].mean.device
        for earlier in range(self._remembered, number):
            for face, clean in enumerate(self._photos[earlier].clean):
                on_device = {key: rows.to(device) for key, rows in clean.items()}
                memory.expect(on_device, partial(self._cloaked_face, earlier, face))
        self._remembered = number
        return self.cloaker(rgb, name)

    def _cloaked_face(self, number: int, face: int) -> Embeddings | None:
        """Return the embeddings of a face of the photo ``number`` as it is cloaked, once it is;
        None where it is not."""
        if number not in self._cloaked:
            self._cloaked[number] = self._cloaked_faces(number)
        faces = self._cloaked[number]
        return faces[face] if face < len(faces) else None

    def _cloaked_faces(self, number: int) -> list[Embeddings]:
        job = self.jobs[number]
        row = self._finished.get(job.name) or self._row_of(job.name, self._owners[number])
        if row["status"] in ("failed", "no face"):
            return []
        faces: list[DetectedFace] = [face_of(each) for each in row["faces"]]
        rgb = read_photo(output_of(row, self.folder)).rgb
        if rgb.shape != self._photos[number].shape:
            return []
        return self.cloaker.embedded(rgb, faces)

    def _row_of(self, name: str, owner: int) -> Row:
        """Wait for the last row of a photo in the manifest of the process that cloaks it."""
        while True:
            rows = manifest_rows(self.folder, rank_manifest(owner))
            for row in reversed(rows):
                if row["source"] == name and row["status"] != "writing":
                    return row
            time.sleep(_WAIT_S)


def divide_photos(
    photos: Sequence[Sequence[Embeddings]], embedders: Sequence[FaceEmbedder], count: int
) -> list[int]:
    """Return which process cloaks each photo, so that all end soon.

    In their order, each goes to the process that can begin it first: once it has done its earlier
    photos, and the earlier photos of the same people are done. Where several can, the busiest of
    them gets it, so that the others stay free.

    Args:
        photos: Embeddings (1, d) by embedder of the faces to cloak, of each photo.
        embedders: The embedders.
        count: Number of processes.

    Returns:
        The number of a process, from 0, for each photo.
    """
    free, ends = [0.0] * count, list[float]()
    owners: list[int] = []
    seen: list[tuple[int, Embeddings]] = []
    for number, faces in enumerate(photos):
        ready = max((ends[n] for n in _photos_of_same(faces, seen, embedders)), default=0.0)
        starts = [max(time_free, ready) for time_free in free]
        owner = min(range(count), key=lambda n: (starts[n], -free[n], n))
        free[owner] = starts[owner] + len(faces) + _OVERHEAD
        ends.append(free[owner])
        owners.append(owner)
        seen += [(number, face) for face in faces]
    return owners


def _photos_of_same(
    faces: Sequence[Embeddings],
    seen: Sequence[tuple[int, Embeddings]],
    embedders: Sequence[FaceEmbedder],
) -> set[int]:
    """Return the photos among ``seen`` with a face that every embedder matches to one of
    ``faces``."""
    return {
        number
        for number, old in seen
        if any(is_same_person(face, old, embedders) for face in faces)
    }


__all__ = ["DividedCloak", "divide_photos"]
