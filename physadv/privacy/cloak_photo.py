"""Cloak one photo from Python: a file or an array in, cloaked pixels out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from physadv.core.errors import ImageError
from physadv.core.files import write_bytes
from physadv.core.image_io import Array, save_png
from physadv.core.notebook_html import result_html
from physadv.core.torch_threads import calm_threads
from physadv.core.wording import count_noun
from physadv.models.faces.embedders import FaceEmbedder, load_surrogates
from physadv.models.faces.face_detection import FaceFinder, default_finders
from physadv.privacy.cloak_faces import CloakMode, mode_named
from physadv.privacy.photo_cloaker import PhotoCloaker
from physadv.privacy.photo_io.photo import LoadedPhoto, encode_photo, read_photo


@dataclass(frozen=True)
class CloakResult:
    """A cloaked photo.

    Attributes:
        pixels: The photo (h, w, 3) uint8; outside the face boxes it is the original.
        faces: One table a cloaked face: box, largest change and DSSIM among others. Empty where no
            face was found, and then nothing was changed.
        notes: What the owner should know, such as faces too small to be recognized.
        path: The file written, if any.

    Example:
        >>> import numpy as np
        >>> result = cloak_photo(np.zeros((9, 9, 3), np.uint8), finders=[lambda pixels: []])
        >>> result.pixels.shape, result.notes
        ((9, 9, 3), ('no face was found',))
    """

    pixels: Array
    faces: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    path: Path | None = field(default=None)

    def _repr_html_(self) -> str:
        """The result in a notebook, with the photo."""
        heading = f"{count_noun(len(self.faces), 'face')} cloaked"
        facts = {
            f"Face {number}": f"largest change {face['linf']} of 255, DSSIM {face['dssim']:.4f}"
            for number, face in enumerate(self.faces, 1)
        }
        return result_html(heading, facts, notes=self.notes, pictures=[("cloaked", self.pixels)])


def cloak_photo(
    photo: str | Path | npt.NDArray[np.uint8],
    *,
    mode: str | CloakMode = "mid",
    embedders: Sequence[str | FaceEmbedder] | None = None,
    weights: Mapping[str, str | Path] | None = None,
    finders: Sequence[FaceFinder] | None = None,
    album: str | Path | None = None,
    out: str | Path | None = None,
    keep_metadata: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> CloakResult:
    """Cloak every face of one photo, so that face recognition no longer matches it.

    Nothing is written unless ``out`` is given, and the original is never touched. How well a cloak
    protects is measured by ``physadv cloak check``. Photos of one person that are to be published
    together are better cloaked in one run of ``physadv cloak``, which keeps them from matching each
    other.

    Args:
        photo: File of the photo, or its pixels (h, w, 3) uint8 RGB.
        mode: "low", "mid" or "high": how visible the cloak may be; or own limits.
        embedders: Face embedders to optimize against, or their names; None for all whose weights
            are at hand but one, which stays out to judge.
        weights: Weights files by the name of their embedder.
        finders: Face detectors; None for those at hand.
        album: Folder with more photos of the same people, which stay as they are; moving away from
            all of a person's protects better than from one.
        out: File to write the cloaked photo to: in the format of the photo's own file, without
            location and serial numbers; PNG for an array.
        keep_metadata: Whether location, serial numbers and captions are kept in ``out``.
        seed: Seed of the random streams.
        device: Device of the embedders that are loaded by name.

    Returns:
        The cloaked pixels, a table a face, and notes.

    Raises:
        ImageError: The photo cannot be read, is no (h, w, 3) uint8, or ``out`` is the original.
        OptionError: The mode is unknown, or the album has no face.
        ModelError: No embedder or no face detector is at hand.

    Example:
        >>> import numpy as np
        >>> result = cloak_photo("portrait.jpg", mode="mid", out="cloaked.jpg")  # doctest: +SKIP
        >>> wall = np.full((40, 60, 3), 90, np.uint8)
        >>> cloak_photo(wall, finders=[lambda pixels: []]).faces
        ()
    """
    limits = mode_named(mode) if isinstance(mode, str) else mode
    loaded = None if isinstance(photo, np.ndarray) else read_photo(photo)
    pixels = _checked_pixels(photo) if loaded is None else loaded.rgb
    target = None if out is None else _target(out, photo)

    # Faces first: a photo without any needs no embedder.
    detectors = default_finders() if finders is None else finders
    cloaker = PhotoCloaker(detectors, [], limits, seed=seed)
    found = cloaker.faces(pixels)
    faces = list(found.cloaked.values())
    notes = (*(loaded.notes if loaded is not None else ()), *found.notes())
    if not faces:
        return CloakResult(pixels.copy(), (), (*notes, "no face was found"))

    cloaker.embedders = load_surrogates(embedders or (), weights, device=device)[0]
    if album is not None:
        cloaker.learn_album(album)
    name = "photo" if loaded is None else loaded.path.name
    with calm_threads():
        done = cloaker.cloak(pixels, name, faces)
    if target is not None:
        made_with = [{"name": e.card.name, "sha256": e.card.sha256} for e in cloaker.embedders]
        _write(target, loaded, done.rgb, keep_metadata, made_with)
    return CloakResult(done.rgb, tuple(done.faces), (*notes, *done.notes), target)


def _checked_pixels(photo: Any) -> Array:
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or not photo.size:
        raise ImageError(
            f"Photo of shape {photo.shape} and type {photo.dtype}",
            "(h, w, 3) uint8 RGB is needed",
            "Convert it, or give the file",
        )
    return np.ascontiguousarray(photo)


def _target(out: str | Path, photo: Any) -> Path:
    target = Path(out)
    if not isinstance(photo, np.ndarray) and target.resolve() == Path(photo).resolve():
        raise ImageError(f'"{target}"', "It is the original", "Name another file")
    return target


def _write(
    target: Path,
    loaded: LoadedPhoto | None,
    rgb: Array,
    keep_metadata: bool,
    made_with: Sequence[Mapping[str, str]],
) -> None:
    """The photo in its own format, with the mark of its cloak, or an array as PNG."""
    if loaded is None:
        save_png(target, rgb)
    else:
        write_bytes(
            target, encode_photo(loaded, rgb, keep_metadata=keep_metadata, made_with=made_with)
        )
