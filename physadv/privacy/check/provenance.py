"""Recognizers that a cloak is known to be made with, from its settings and from marks in photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from physadv.core.errors import ImageError, PhysadvError
from physadv.core.files import sha256_of
from physadv.core.picture_files import open_picture, read_picture_file
from physadv.core.reading import foreign_errors
from physadv.models.faces.embedders import EmbedderCard
from physadv.privacy.batch import MANIFEST, SETTINGS, recorded_embedders, written_digests
from physadv.privacy.photo_io.cloak_mark import MARK_TAG, read_mark

Role = Literal["held-out", "surrogate", "unknown", "untested", "weak", "suspect", "copy"]
"""A recognizer's part in a cloak. "unknown": some photo does not tell. The others are said to have
no part; "untested": but there are too few photos of different people to test it; "weak": but it
matches too few of the uncloaked pairs; "suspect": and yet it is as blind as only a surrogate is;
"copy": and it is another recognizer's net once more, or one made from it."""


@dataclass(frozen=True)
class Provenance:
    """What is known of the recognizers that cloaked photos were made with.

    Attributes:
        surrogates: Name and sha256 (or its beginning) of each recognizer that made one of them.
        unknown: Number of photos that neither a run's settings nor a mark accounts for.

    Example:
        >>> Provenance((("dlib", "55533b28a95800a5"),)).unknown
        0
    """

    surrogates: tuple[tuple[str, str], ...] = ()
    unknown: int = 0

    def role_of(self, card: EmbedderCard) -> Role:
        """Return the part of the recognizer with ``card``.

        One of the name of a surrogate counts as that surrogate, for the same net in another file
        has another hash.
        """
        for name, digest in self.surrogates:
            same_file = bool(digest and card.sha256) and (
                card.sha256.startswith(digest) or digest.startswith(card.sha256)
            )
            if same_file or (name and name == card.name):
                return "surrogate"
        return "unknown" if self.unknown or not card.sha256 else "held-out"


def provenance_of(cloaked: str | Path, photos: Sequence[Path]) -> Provenance:
    """Read what is known of the recognizers that ``photos`` were made with.

    A photo is accounted for by its mark, or by the manifest beside it, which lists its very bytes.

    Args:
        cloaked: Folder or file of the cloaked photos; settings and manifest lie there.
        photos: The cloaked photos.

    Returns:
        The recognizers, and the number of photos that nothing is known of.

    Raises:
        DataError: A settings file or a manifest there is not one of a cloak.
    """
    folder = Path(cloaked) if Path(cloaked).is_dir() else Path(cloaked).parent
    settings = folder / SETTINGS
    listed, written = list[tuple[str, str]](), frozenset[str]()
    if settings.is_file():
        listed = [(each["name"], each["sha256"]) for each in recorded_embedders(settings)]
        written = written_digests(folder) if (folder / MANIFEST).is_file() else frozenset()

    unknown = 0
    known = dict.fromkeys(listed)
    for photo in photos:
        mark = mark_in(photo)
        if mark is not None:
            known |= dict.fromkeys(mark)
        elif sha256_of(photo) not in written:
            unknown += 1
    return Provenance(tuple(known), unknown)


def mark_in(photo: Path) -> tuple[tuple[str, str], ...] | None:
    """Return the recognizers that the mark in the file ``photo`` names; None where it has none."""
    try:
        data = read_picture_file(photo)
        with (
            open_picture(data, f"{photo}") as opened,
            foreign_errors(f"{photo}", ImageError, "damaged metadata"),
        ):
            return read_mark(opened.getexif().get(MARK_TAG))
    except PhysadvError:
        return None  # a photo that cannot be read is left out of the check, with its reason
