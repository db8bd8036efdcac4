"""Live Photos: a photo and a MOV of the same name beside it, both of which show the face."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from physadv.core.errors import PhysadvError
from physadv.core.image_io import IMAGE_SUFFIXES, list_files
from physadv.privacy.batch import Source, photo_folder
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


def live_videos(source: Source) -> list[LiveVideo]:
    """Return the videos of the Live Photos under ``source``: a folder of photos, or some photos.

    Example:
        >>> live_videos("no-such-folder")
        []
    """
    folder = photo_folder(source)
    if isinstance(source, str | Path) and Path(source) == folder:
        files = list_files(folder) if folder.is_dir() else []
        photos = files
    else:
        named = [source] if isinstance(source, str | Path) else source
        photos = [_in_folder(Path(each), folder) for each in named]
        around = dict.fromkeys(photo.parent for photo in photos if photo.parent.is_dir())
        files = [file for parent in around for file in sorted(parent.iterdir()) if file.is_file()]
    pairs = {_key(file): file for file in photos if file.suffix.lower() in IMAGE_SUFFIXES}
    return [
        LiveVideo(str(file.relative_to(folder)), str(pairs[_key(file)].relative_to(folder)))
        for file in files
        if file.suffix.lower() == _VIDEO and _key(file) in pairs
    ]


def _in_folder(file: Path, folder: Path) -> Path:
    """``file`` by its way from ``folder``, the folder of several or its own."""
    if file.parent == folder:
        return file
    return file.parent.resolve() / file.name


def _key(file: Path) -> tuple[Path, str]:
    """What both files of a pair have in common."""
    return file.parent, file.stem.lower()


def cloak_live_videos(
    source: Source,
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
        source: Folder of photos, or some photos.
        folder: Folder of the cloaked photos.
        cloaker: Finds and cloaks faces.
        overwrite: Whether videos that stand in ``folder`` are made anew.
        progress: Makes the progress of the video of that name.

    Yields:
        Each video with what became of it.
    """
    root = photo_folder(source)
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
