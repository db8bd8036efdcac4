"""What is known of a folder's photos before any of them is cloaked: their faces, embedded.

Others match a photo by what the person's photos share. So each face of a folder moves away from all
of the person's photos in it, those that come later too, whatever their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from physadv.core.errors import JobEndedError, PhysadvError, is_out_of_memory
from physadv.core.rows import Row
from physadv.models.faces.face_detection import DetectedFace
from physadv.privacy.batch import PhotoJob
from physadv.privacy.face_choice import PhotoFaces
from physadv.privacy.photo_cloaker import PhotoCloaker, face_of, recorded_face
from physadv.privacy.photo_io.photo import read_photo

Embeddings = dict[str, Tensor]
"""Embeddings (1, d) of one face by the name of their recognizer."""


@dataclass(frozen=True)
class SurveyedPhoto:
    """What is known of a photo before any is cloaked.

    Attributes:
        shape: Its shape; empty where it cannot be read.
        faces: Its faces, where they were looked for.
        clean: Embeddings (1, d) by embedder of each face to be cloaked.
    """

    shape: tuple[int, ...] = ()
    faces: PhotoFaces | None = None
    clean: tuple[Embeddings, ...] = ()


def survey_photo(
    job: PhotoJob, cloaker: PhotoCloaker, finished: Mapping[str, Row]
) -> SurveyedPhoto:
    """Find and embed the faces of one photo as they will stand in its row of the manifest.

    Args:
        job: The photo.
        cloaker: Finds and embeds faces.
        finished: Rows of the photos that an earlier run finished, by name: their faces are not
            sought again.

    Returns:
        The faces; nothing where the photo cannot be read, for it will fail again.
    """
    row = finished.get(job.name)
    try:
        rgb = read_photo(job.source).rgb
        if row is not None:
            faces: list[DetectedFace] = [face_of(face) for face in row["faces"]]
            found = None
        else:
            found = cloaker.faces(rgb, job.name)
            faces = [recorded_face(face) for face in found.cloaked.values()]
        clean = cloaker.embedded(rgb, faces)
    except JobEndedError:
        raise
    except Exception as error:
        if not isinstance(error, PhysadvError | OSError) and not is_out_of_memory(error):
            raise
        return SurveyedPhoto()
    on_cpu = tuple({name: rows.cpu() for name, rows in face.items()} for face in clean)
    return SurveyedPhoto(rgb.shape, found, on_cpu)


def know_photos(
    cloaker: PhotoCloaker, jobs: Sequence[PhotoJob], photos: Sequence[SurveyedPhoto]
) -> None:
    """Give ``cloaker`` the faces of ``photos``, one for each of ``jobs``: they are not sought
    again, and each is known to the cloaks of the same person's others."""
    device = cloaker.embedders[0].mean.device
    for job, photo in zip(jobs, photos, strict=True):
        if photo.faces is not None:
            cloaker.found[job.name] = photo.faces
        for face in photo.clean:
            cloaker.memory.add_bare({name: rows.to(device) for name, rows in face.items()})


__all__ = ["Embeddings", "SurveyedPhoto", "know_photos", "survey_photo"]
