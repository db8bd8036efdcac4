"""Recorded sources: videos read whole, frame by frame, and folders of photos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from physadv.camera.frames import BLOCKS, CameraFrame, FrameSource, block_in
from physadv.camera.open_capture import open_file, quiet_opencv, read_settings
from physadv.core.errors import CaptureError, ImageError
from physadv.core.image_io import read_image, to_uint8


@dataclass(frozen=True)
class RecordedClip:
    """One recording.

    Attributes:
        path: File or address.
        name: Name of the clip.
        block: "clean", "blank" or "patch", where known.
        truth: The twin's rows by frame number.
    """

    path: Path | str
    name: str
    block: str | None
    truth: Mapping[int, Mapping[str, Any]] | None = None


class ClipSource(FrameSource):
    """Recorded videos, one after the other, with every frame (or every n-th) in order.

    Args:
        name: Name of the source.
        clips: The recordings.
        timeout_s: Time limit for opening a file, in seconds.
        clip_seconds: Length into which recordings are cut; 0 leaves them whole.
        every: Take every n-th frame.
    """

    def __init__(
        self,
        name: str,
        clips: Sequence[RecordedClip],
        timeout_s: float,
        clip_seconds: float = 0.0,
        every: int = 1,
    ) -> None:
        super().__init__(name)
        self.kind = "clips" if len(clips) > 1 else "video"
        self.clips, self.timeout_s, self.clip_seconds, self.every = (
            list(clips),
            timeout_s,
            clip_seconds,
            max(1, every),
        )

        # A single file fails now, not after the other blocks have been filmed.
        if len(self.clips) == 1:
            capture = open_file(str(self.clips[0].path), timeout_s=timeout_s, name=name)
            self.settings = read_settings(capture)
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            self.total = -(-count // self.every) if count > 0 else None
            capture.release()

    def __iter__(self) -> Iterator[CameraFrame]:
        any_frame = False
        for clip in self.clips:
            try:
                for frame in self._read(clip):
                    any_frame = True
                    yield frame
            except CaptureError as error:
                self.warnings.append(f"left out: {error}")

        if not any_frame:
            limit = f"none of {len(self.clips)} clips gave a frame"
            raise CaptureError(
                self.name, limit, "Check that they play, or record them again as MP4 or AVI"
            )

    def _read(self, clip: RecordedClip) -> Iterator[CameraFrame]:
        capture = open_file(str(clip.path), timeout_s=self.timeout_s)
        expected = max(clip.truth) + 1 if clip.truth else int(capture.get(cv2.CAP_PROP_FRAME_COUNT))

        number = 0
        try:
            while clip.truth is None or number < expected:
                with quiet_opencv():
                    if not capture.grab():
                        break
                    selected = (
                        number in clip.truth if clip.truth is not None else number % self.every == 0
                    )
                    ok, bgr = capture.retrieve() if selected else (True, None)
                if not ok:
                    break
                if bgr is not None:
                    yield self._frame(
                        clip, number, float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000, bgr
                    )
                number += 1
        finally:
            capture.release()

        if number < expected:
            # An address may hold a password.
            name = clip.path if isinstance(clip.path, Path) else self.name
            self.warnings.append(
                f"{name} ended after {number} of {expected} frames; what was read is kept"
            )

    def _frame(
        self, clip: RecordedClip, number: int, time_s: float, bgr: npt.NDArray[np.uint8]
    ) -> CameraFrame:
        stretch = f"@{int(time_s // self.clip_seconds):03d}" if self.clip_seconds > 0 else ""
        rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
        truth = clip.truth.get(number) if clip.truth is not None else None
        return CameraFrame(rgb, time_s, clip.name + stretch, clip.block, number, truth)


class PhotoSource(FrameSource):
    """Photos, sorted by name. A photo is a clip of its own; photos in one subfolder (other than a
    block's) are one clip.

    Args:
        root: Folder of the photos, or the one photo.
        photos: The photos.
    """

    kind = "photos"

    def __init__(self, root: Path, photos: Sequence[Path]) -> None:
        super().__init__(str(root))
        self.root, self.photos, self.total = (
            (root if root.is_dir() else root.parent),
            list(photos),
            len(photos),
        )

    def __iter__(self) -> Iterator[CameraFrame]:
        count = 0
        for number, path in enumerate(self.photos):
            try:
                image = to_uint8(read_image(path))
            except ImageError as error:
                self.warnings.append(f"left out: {error}")
                continue
            count += 1
            yield CameraFrame(
                image, float(number), self._clip(path), block_in(path, self.root), number
            )

        if not count:
            limit = f"none of {len(self.photos)} photos could be read"
            raise CaptureError(self.name, limit, "Replace them with JPEG or PNG files")

    def _clip(self, path: Path) -> str:
        inner = path.relative_to(self.root)
        folder = inner.parent
        in_clip_folder = len(folder.parts) > 0 and folder.name.lower() not in BLOCKS
        return (folder if in_clip_folder else inner.with_suffix("")).as_posix()
