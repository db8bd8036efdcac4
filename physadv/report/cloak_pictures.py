"""Pictures of a run of cloaked photos: the photos, small, and their largest face at 100 %.

They are of the cloaked files alone. The bare face is shown on request only, beside the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from physadv.core.errors import PhysadvError
from physadv.core.files import sha256_of
from physadv.core.image_io import Array
from physadv.core.members import member_of
from physadv.core.rows import Row
from physadv.core.wording import count_noun, format_fixed
from physadv.privacy.photo_io.photo import read_photo
from physadv.report.design import picture_uri

MOST_SHOWN = 12
"""Most photos on a page, which would grow by a third of a megabyte a photo."""
_PHOTO_PX, _FACE_PX = 144, 300


@dataclass(frozen=True)
class CloakedPicture:
    """One photo on the page.

    Attributes:
        name: Its name among the originals.
        words: What was changed, in figures.
        photo: The whole cloaked photo, small, as a data URI.
        face: Its largest face at 100 %, cloaked, as a data URI.
        bare: The same part of the original; "" where it is not shown.
        side: Width and height in px of the part at 100 %.
    """

    name: str
    words: str
    photo: str
    face: str
    bare: str
    side: tuple[int, int]


def cloaked_pictures(
    folder: Path, rows: Iterable[Row], originals: Path | None = None
) -> Iterator[CloakedPicture]:
    """Yield the first photos of a run, as long as they are what it wrote.

    Args:
        folder: Folder of the run.
        rows: The last row of each photo, as the manifest has them.
        originals: Folder of the originals, to show their faces too; None shows no bare face.

    Yields:
        At most :data:`MOST_SHOWN` photos. One that was replaced since, or cannot be read, is left
        out.
    """
    shown = 0
    for row in rows:
        if row["status"] != "cloaked" or not row["faces"] or shown == MOST_SHOWN:
            continue
        cloaked = _pixels(folder, row["output"], row["output_sha256"])
        if cloaked is None:
            continue
        face = max(row["faces"], key=lambda each: _area(each["box"]))
        part = _part(face["box"], *cloaked.shape[:2])
        bare = None
        if originals is not None:
            bare = _pixels(originals, row["source"], row["source_sha256"])
        if bare is not None and bare.shape != cloaked.shape:
            bare = None
        shown += 1
        yield CloakedPicture(
            row["source"],
            _words(row["faces"], face),
            picture_uri(_small(cloaked)),
            picture_uri(cloaked[part]),
            "" if bare is None else picture_uri(bare[part]),
            (part[1].stop - part[1].start, part[0].stop - part[0].start),
        )


def _pixels(folder: Path, name: str, digest: str) -> Array | None:
    """The pixels of a file, if its bytes are those that the manifest lists."""
    try:
        file = member_of(folder, name)
        if not file.is_file() or sha256_of(file) != digest:
            return None
        return read_photo(file).rgb
    except PhysadvError:
        return None


def _area(box: Any) -> int:
    x0, y0, x1, y1 = map(int, box)
    return (x1 - x0) * (y1 - y0)


def _part(box: Any, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of at most 300 px about the middle of a face ``box``, inside the photo."""
    x0, y0, x1, y1 = map(int, box)
    part = []
    for low, high, side in ((y0, y1, height), (x0, x1, width)):
        length = min(_FACE_PX, side, max(high - low, 1))
        start = min(max((low + high - length) // 2, 0), side - length)
        part.append(slice(start, start + length))
    return part[0], part[1]


def _small(rgb: Array) -> Array:
    scale = min(1.0, _PHOTO_PX / max(rgb.shape[:2]))
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _words(faces: list[Mapping[str, Any]], face: Mapping[str, Any]) -> str:
    """How many faces a photo has, and how far the shown one changed."""
    figures = [
        f"{name} {format_fixed(float(face[key]), digits)}"
        for key, name, digits in (
            ("dssim", "DSSIM", 3),
            ("ms_ssim", "MS-SSIM", 3),
            ("color", "mean CIEDE2000", 1),
        )
        if face.get(key) is not None
    ]
    mode = [str(face["mode"])] if face.get("mode") else []
    return ", ".join([count_noun(len(faces), "face"), *mode, *figures])
