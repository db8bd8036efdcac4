"""Pairs of original and cloaked photos, their people and faces, for photos cloaked by any tool."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from physadv.core.errors import ImageError, PhysadvError
from physadv.core.image_io import IMAGE_SUFFIXES, Array, list_images
from physadv.models.faces.face_detection import DetectedFace, FaceFinder
from physadv.models.faces.second_look import search_faces
from physadv.privacy.batch import recorded_outputs
from physadv.privacy.photo_io.photo import read_photo

# What other tools add to a name: photo_cloaked.png, photo_high_cloaked.png, photo_attacked.png,
# photo.jpg.png
_ADDED = re.compile(r"(_(low|mid|high|min))?_(cloaked|attacked|protected)$|-cloaked$")
_Copies = dict[str, dict[str, Path]]
"""Cloaked files by their key, and by their relative name within it."""
CONTEXT = 0.6
"""How much of the face's side is kept around it: enough for a detector, little enough for flat
memory."""


@dataclass(frozen=True)
class PhotoPair:
    """One original and, where there is one, its cloaked copy; ``person`` names the largest face
    in it."""

    person: str
    original: Path
    cloaked: Path | None = None

    @property
    def name(self) -> str:
        """Name of the photo in the rows."""
        return (
            f"{self.person}/{self.original.name}"
            if self.original.parent.name == self.person
            else self.original.name
        )


@dataclass(frozen=True)
class PortraitPair:
    """The largest face of a photo with its surroundings, in its own pixels, and the same region
    of the cloaked photo."""

    pair: PhotoPair
    before: Array
    after: Array | None
    face: DetectedFace

    @property
    def side(self) -> float:
        """Width of the face's square in px."""
        quad = self.face.quad()
        return float(np.linalg.norm(quad[1] - quad[0]))

    def box(self) -> tuple[int, int, int, int]:
        """Return the face box (x0, y0, x1, y1) in these pixels."""
        return self.face.box(*self.before.shape[:2])


def match_files(
    originals: str | Path, cloaked: str | Path | None = None
) -> tuple[list[PhotoPair], list[Path]]:
    """Match the photos under ``originals`` with those under ``cloaked`` by relative name.

    Where ``originals`` has folders of photos, each is a person; else all photos are of one person,
    named as the folder.

    Returns:
        The pairs, and the cloaked files that belong to no original.

    Raises:
        ImageError: There is nothing to compare.
    """
    root = Path(originals)
    keys = {p: _key(p, root) for p in list_images(root)}
    folders = (
        {p.relative_to(root).parts[0] for p in keys if len(p.relative_to(root).parts) > 1}
        if root.is_dir()
        else set()
    )

    copies: _Copies = {}
    if cloaked is not None:
        cloaked_root = Path(cloaked)
        for copy in list_images(cloaked_root):
            if not copy.name.startswith("."):
                relative = copy.relative_to(cloaked_root) if cloaked_root.is_dir() else copy.name
                group = copies.setdefault(_key(copy, cloaked_root), {})
                group[str(relative).casefold()] = copy

    # dup.gif and dup.gif.png have one key: the manifest knows which is whose, else the whole name.
    recorded = _recorded(cloaked)
    exact = {path: _take(copies, path, root, key, recorded) for path, key in keys.items()}
    pairs = []
    for path, key in keys.items():
        parts = path.relative_to(root).parts if root.is_dir() else (path.name,)
        person = parts[0] if folders and len(parts) > 1 else root.resolve().name
        pairs.append(PhotoPair(person, path, exact[path] or _pop(copies, key)))

    if cloaked is not None and not any(p.cloaked for p in pairs):
        raise ImageError(
            f"{cloaked}",
            f"no file has the name of one in {originals}",
            "Name the folders that belong together",
        )
    return pairs, [copy for group in copies.values() for copy in group.values()]


def _recorded(cloaked: str | Path | None) -> dict[str, str]:
    """What each original became, as a manifest among the cloaked photos lists it."""
    if cloaked is None or not Path(cloaked).is_dir():
        return {}
    return recorded_outputs(cloaked)


def _take(
    copies: _Copies, path: Path, root: Path, key: str, recorded: Mapping[str, str]
) -> Path | None:
    """The copy that the manifest names, or that has the original's very name."""
    group = copies.get(key, {})
    name = str(path.relative_to(root) if root.is_dir() else path.name)
    return group.pop(recorded.get(name, name).casefold(), None)


def _pop(copies: _Copies, key: str) -> Path | None:
    group = copies.get(key, {})
    return group.pop(next(reversed(group))) if group else None


def _key(path: Path, root: Path) -> str:
    """The relative name without suffixes and without what tools add to it."""
    relative = path.relative_to(root) if root.is_dir() else Path(path.name)
    stem = relative.name
    while stem != (shorter := _shorter(stem)):
        stem = shorter
    return str(relative.with_name(stem)).casefold()


def _shorter(name: str) -> str:
    """``name`` without its suffix, if it is an image's, or else without what tools add."""
    if Path(name).suffix.lower() in IMAGE_SUFFIXES:
        return Path(name).stem
    return _ADDED.sub("", name)


def find_portraits(
    pairs: Sequence[PhotoPair], finders: Sequence[FaceFinder]
) -> Iterator[PortraitPair | tuple[PhotoPair, str]]:
    """Yield one portrait for each of ``pairs``, by ``finders``, or the pair and the reason why
    there is none.

    One photo is in memory at a time.
    """
    for pair in pairs:
        try:
            yield _portrait(pair, finders)
        except PhysadvError as error:
            yield pair, str(error)


def _portrait(pair: PhotoPair, finders: Sequence[FaceFinder]) -> PortraitPair:
    before = read_photo(pair.original).rgb
    shape = before.shape
    face = main_face(before, finders)
    if face is None:
        raise ImageError(f"{pair.original}", "no face found", "Leave it out")
    x0, y0, x1, y1 = face.box(*shape[:2], margin=CONTEXT)
    before = before[y0:y1, x0:x1].copy()  # the whole photo's memory goes before the next is read

    after = None if pair.cloaked is None else read_photo(pair.cloaked).rgb
    if after is not None and after.shape != shape:
        raise ImageError(
            f"{pair.cloaked}",
            f"{after.shape[:2]} is not the original's {shape[:2]}",
            "Leave the size as it is",
        )
    return PortraitPair(
        pair,
        before,
        None if after is None else after[y0:y1, x0:x1].copy(),
        face.moved(1.0, -x0, -y0),
    )


def main_face(rgb: Array, finders: Sequence[FaceFinder]) -> DetectedFace | None:
    """Return the largest face in ``rgb`` found by ``finders``, those near the border counting
    less; None without a face."""
    search = search_faces(rgb, finders)
    faces = search.faces or search.doubtful
    middle = np.array(rgb.shape[1::-1]) / 2

    def weight(face: DetectedFace) -> float:
        quad = face.quad()
        away = np.linalg.norm((quad.mean(0) - middle) / middle)
        return float(np.linalg.norm(quad[1] - quad[0]) * (1.5 - away))

    return max(faces, key=weight, default=None)
