"""Live Photos: a photo and a MOV of the same name beside it, both of which show the face."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from physadv.core.errors import PhysadvError
from physadv.core.image_io import IMAGE_SUFFIXES, list_files
from physadv.privacy.photo_cloaker import PhotoCloaker
from physadv.privacy.video.cloak_video import Progress, cloak_video

_VIDEO = ".mov"


@dataclass(frozen=True)
class LiveVideo:
    """The video of a Live Photo.

    Attributes:
        name: The video, relative to the folder of the photos.
        photo: The photo that it belongs to, likewise.
        status: "found"; or what became of it.
        reason: Why it failed; "" where it did not.
    """

    name: str
    photo: str
    status: Literal["found", "cloaked", "already there", "failed"] = "found"
    reason: str = ""


def live_videos(source: str | Path) -> list[LiveVideo]:
    """Return the videos of the Live Photos under ``source``: a folder of photos, or one photo.

    Example:
        >>> live_videos("no-such-folder")
        []
    """
    root = Path(source)
    folder = root if root.is_dir() else root.parent
    files = list_files(folder) if folder.is_dir() else []
    photos = {
        _key(file): file
        for file in files
        if file.suffix.lower() in IMAGE_SUFFIXES and (root.is_dir() or file == root)
    }
    return [
        LiveVideo(str(file.relative_to(folder)), str(photos[_key(file)].relative_to(folder)))
        for file in files
        if file.suffix.lower() == _VIDEO and _key(file) in photos
    ]


def _key(file: Path) -> tuple[Path, str]:
    """What both files of a pair have in common."""
    return file.parent, file.stem.lower()


def cloak_live_videos(
    source: str | Path,
    folder: Path,
    cloaker: PhotoCloaker,
    *,
    overwrite: bool = False,
    progress: Callable[[str], Progress],
) -> Iterator[LiveVideo]:
    """Cloak the videos of the Live Photos under ``source`` beside their cloaked photos.

    One that cannot be cloaked is reported with its reason, and the others follow. One that stands
    in ``folder`` already is left, as a file appears there only whole.

    Args:
        source: Folder of photos, or one photo.
        folder: Folder of the cloaked photos.
        cloaker: Finds and cloaks faces.
        overwrite: Whether videos that stand in ``folder`` are made anew.
        progress: Makes the progress of the video of that name.

    Yields:
        Each video with what became of it.
    """
    root = Path(source) if Path(source).is_dir() else Path(source).parent
    for video in live_videos(source):
        target = folder / video.name
        if target.exists() and not overwrite:
            yield LiveVideo(video.name, video.photo, "already there")
            continue
        try:
            cloak_video(root / video.name, target, cloaker, progress=progress(video.name))
        except (PhysadvError, OSError) as error:
            yield LiveVideo(video.name, video.photo, "failed", str(error))
        else:
            yield LiveVideo(video.name, video.photo, "cloaked")
