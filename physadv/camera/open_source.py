"""Opening of frame sources: camera index, video, stream address, folder of photos, clips or a
twin."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from physadv.camera.frames import BLOCKS, CameraFrame, FrameSource, block_in, block_of
from physadv.camera.live import LiveSource
from physadv.camera.open_capture import OpenedCapture, Size, open_camera, open_url
from physadv.camera.recordings import ClipSource, PhotoSource, RecordedClip
from physadv.camera.video_reader import is_animated
from physadv.core.addresses import public_address
from physadv.core.errors import CaptureError
from physadv.core.image_io import IMAGE_SUFFIXES, list_files
from physadv.core.members import member_of
from physadv.core.reading import foreign_errors
from physadv.core.rows import read_rows
from physadv.core.tables import convert_value, read_table
from physadv.core.wording import count_noun

VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".3gpp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265"}
    | {".hevc", ".insv", ".ivf", ".lrv", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg"}
    | {".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".obu"}
    | {".ogv", ".qt", ".rm", ".rmvb", ".tod", ".ts", ".vob", ".webm", ".wmv", ".y4m"}
)
"""Suffixes of the files in a folder that are read as videos; a file named alone may have any."""
_SIDE_FILES = frozenset(
    {".csv", ".html", ".ini", ".json", ".jsonl", ".log", ".lrf", ".md", ".pdf", ".srt", ".sub"}
    | {".thm", ".toml", ".txt", ".wav", ".xml"}
)
"""Suffixes of files beside recordings that are no pictures."""
_SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp")
"""Protocols of cameras; ffmpeg knows others, which read and join files of this machine."""
LIVE_CLIP_S = 10.0
"""Default length of a live source's clips: long enough for a hand to have moved the sign."""
__all__ = [
    "BLOCKS",
    "VIDEO_SUFFIXES",
    "CameraFrame",
    "FrameSource",
    "block_of",
    "is_camera",
    "open_frame_source",
]


def open_frame_source(
    spec: str | Path,
    *,
    timeout_s: float = 20.0,
    camera_size: Size | None = (1280, 720),
    clip_seconds: float = 0.0,
    every: int = 1,
    max_frames: int | None = None,
    retry_s: float = 0.0,
    hold: bool = True,
) -> FrameSource:
    """Open a source of frames.

    Args:
        spec: Camera index ("0"), stream or video address, video, photo, or folder of photos, clips
            or a twin.
        timeout_s: Longest wait for a source in seconds.
        camera_size: Width and height to request from a camera.
        clip_seconds: Length into which recordings are cut; 0 leaves a recording whole and cuts live
            sources every ``LIVE_CLIP_S``.
        every: Take every n-th frame of a file.
        max_frames: Most frames per block of a twin, spread evenly over its clips.
        retry_s: Time for which a lost live source is tried again; 0 does not try.
        hold: Whether exposure, white balance and focus of a camera are locked.

    Returns:
        The source.

    Raises:
        CaptureError: The source does not open.

    Example:
        >>> import tempfile
        >>> from physadv.core.image_io import save_png
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_png(Path(folder) / "patch-1.png", np.zeros((8, 8, 3), np.uint8))
        ...     frames = list(open_frame_source(folder))
        >>> frames[0].block, frames[0].image.shape
        ('patch', (8, 8, 3))
    """
    text = str(spec).strip()
    if is_camera(text):
        index = int(text.removeprefix("/dev/video"))
        return _live(
            f"camera {index}",
            "camera",
            clip_seconds,
            timeout_s,
            retry_s,
            lambda: open_camera(index, size=camera_size, timeout_s=timeout_s, hold=hold),
        )

    if "://" in text:
        return _open_address(text, timeout_s, clip_seconds, every, retry_s)

    path = Path(text)
    try:
        path.stat()
    except (OSError, ValueError):  # such as a name longer than the system takes
        limit = "not a camera index, an address, a file or a folder"
        remedy = "Check the path, or give a camera index such as 0"
        raise CaptureError(text[:200], limit, remedy) from None
    if path.is_dir():
        return _open_folder(path, timeout_s, clip_seconds, every, max_frames)

    if path.suffix.lower() in IMAGE_SUFFIXES and not is_animated(path):
        return PhotoSource(path, [path])
    source = ClipSource(
        text, [RecordedClip(path, path.stem, block_of(path.name))], timeout_s, clip_seconds, every
    )
    _describe_as_twin(source, path.resolve().parent.parent)
    return source


def is_camera(spec: str | Path) -> bool:
    """Return whether ``spec`` is the index of a camera, and no file or folder.

    Example:
        >>> is_camera("0"), is_camera("/dev/video12"), is_camera("film.mp4")
        (True, True, False)
    """
    text = str(spec).strip()
    is_index = re.fullmatch(r"(?:/dev/video)?\d{1,3}", text) is not None
    return is_index and not Path(text).is_file() and not Path(text).is_dir()


def _live(
    name: str,
    kind: str,
    clip_seconds: float,
    timeout_s: float,
    retry_s: float,
    opening: Callable[[], OpenedCapture],
) -> LiveSource:
    return LiveSource(
        name,
        kind,
        opening(),
        clip_seconds=clip_seconds or LIVE_CLIP_S,
        stall_s=timeout_s,
        retry_s=retry_s,
        again=opening,
    )


def _open_address(
    url: str, timeout_s: float, clip_seconds: float, every: int, retry_s: float
) -> FrameSource:
    """Open a recorded video behind an address like a file, and anything else as a live source."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise CaptureError(public_address(url), f"no address ({error})", "Correct it") from error
    if parts.scheme.lower() not in _SCHEMES:
        limit = f"an address begins with {', '.join(_SCHEMES)}"
        raise CaptureError(public_address(url), limit, "Correct it; name a file by its path")
    if Path(parts.path).suffix.lower() in VIDEO_SUFFIXES - {".mjpg", ".mjpeg"}:
        clip = RecordedClip(url, Path(parts.path).stem, block_of(Path(parts.path).name))
        return ClipSource(public_address(url), [clip], timeout_s, clip_seconds, every)

    name = public_address(url)
    return _live(
        name,
        "stream",
        clip_seconds,
        timeout_s,
        retry_s,
        lambda: open_url(url, name, timeout_s=timeout_s),
    )


def _open_folder(
    folder: Path, timeout_s: float, clip_seconds: float, every: int, max_frames: int | None
) -> FrameSource:
    if member_of(folder, "truth.jsonl", error=CaptureError).is_file():
        return _open_twin(folder, timeout_s, max_frames)

    files = list_files(folder)
    videos = [p for p in files if p.suffix.lower() in VIDEO_SUFFIXES]
    photos = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    animations = [p for p in photos if is_animated(p)]
    if videos or len(animations) == len(photos):
        videos = sorted([*videos, *animations])
        photos = [p for p in photos if p not in animations]

    source: FrameSource
    if videos:
        clips = [
            RecordedClip(p, _clip_name(p, folder, videos), block_in(p, folder)) for p in videos
        ]
        source = ClipSource(str(folder), clips, timeout_s, clip_seconds, every)
        _describe_as_twin(source, folder.resolve().parent)
        if photos:
            source.warnings.append(
                f"not read: {count_noun(len(photos), 'photo')} beside the videos in {folder}"
            )
    elif photos:
        source = PhotoSource(folder, photos)
    else:
        limit = "holds neither videos nor photos"
        kinds = ", ".join(sorted({p.suffix or p.name for p in files})[:5])
        raise CaptureError(
            str(folder),
            f"{limit}; its files are {kinds}" if kinds else limit,
            "Name a folder with videos (.mp4, .mov, .avi ...) or photos (.jpg, .png ...)",
        )

    known = VIDEO_SUFFIXES | IMAGE_SUFFIXES | _SIDE_FILES
    if unread := [p.name for p in files if p.suffix.lower() not in known]:
        source.warnings.append(
            f"of no kind that is read: {count_noun(len(unread), 'file')} in {folder}, "
            f"{', '.join(unread[:3])}"
        )
    return source


def _clip_name(path: Path, folder: Path, videos: list[Path]) -> str:
    """Return the name of a clip, with its suffix where a.mp4 lies beside a.mov."""
    inner = path.relative_to(folder)
    namesakes = [p for p in videos if p.with_suffix("") == path.with_suffix("")]
    return inner.as_posix() if len(namesakes) > 1 else inner.with_suffix("").as_posix()


@dataclass(frozen=True)
class _TruthRow:
    """Keys of a twin's row that say which frame it is of."""

    clip: str
    block: str
    file: str
    frame: int


def _open_twin(folder: Path, timeout_s: float, max_frames: int | None) -> FrameSource:
    _record_of_twin(folder)  # a folder with a link in its place is refused before a video is opened
    rows = list(read_rows(folder / "truth.jsonl"))
    if not rows:
        raise CaptureError(f"{folder / 'truth.jsonl'}", "holds no row", "Run `physadv twin` again")

    remedy = "Run `physadv twin` again"
    with foreign_errors(str(folder / "truth.jsonl"), CaptureError, "no record of a twin", remedy):
        chosen_rows = _spread(rows, max_frames)
        by_clip: dict[tuple[str, str, str], dict[int, Mapping[str, Any]]] = defaultdict(dict)
        for row in chosen_rows:
            known: _TruthRow = convert_value(
                row, _TruthRow, name=str(folder / "truth.jsonl"), error=CaptureError, remedy=remedy
            )
            by_clip[(known.clip, known.block, known.file)][known.frame] = row
        clips = [
            RecordedClip(member_of(folder, file, error=CaptureError), name, block, truth)
            for (name, block, file), truth in by_clip.items()
        ]
    source = ClipSource(str(folder), clips, timeout_s)
    source.kind, source.total, source.simulation = "twin", len(chosen_rows), True
    _describe_as_twin(source, folder)
    return source


def _describe_as_twin(source: FrameSource, folder: Path) -> None:
    """Add to ``source`` what the twin in ``folder`` records of itself, if there is one."""
    file = _record_of_twin(folder)
    if file.is_file():
        described = read_table(file, error=CaptureError, remedy="Run `physadv twin` again")
        source.settings = {**source.settings, "twin": described}
        source.simulation = bool(described.get("simulation", True))


def _record_of_twin(folder: Path) -> Path:
    """Where a twin in ``folder`` describes itself; raises CaptureError for a link."""
    return member_of(folder, "twin.json", error=CaptureError)


def _spread(rows: list[dict[str, Any]], most: int | None) -> list[dict[str, Any]]:
    """Return at most ``most`` rows per block, evenly spaced, so that fewer frames still come from
    all clips."""
    if most is None:
        return rows

    blocks: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        blocks[row["block"]].append(row)

    return [
        of_block[position]
        for of_block in blocks.values()
        for position in np.unique(
            np.linspace(0, len(of_block) - 1, min(most, len(of_block))).round().astype(int)
        )
    ]
