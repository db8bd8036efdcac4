"""Recorded sources: videos read whole, frame by frame, and folders of photos.

Frames and photos that repeat an earlier one of their block exactly are no new evidence, and are
left out with a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physadv.camera.frames import BLOCKS, CameraFrame, FrameSource, RepeatedFrames, block_in
from physadv.camera.open_capture import open_in_time
from physadv.camera.video_reader import AnimationReader, DecodedFrame, VideoReader, open_recording
from physadv.core.errors import CaptureError, ImageError
from physadv.core.image_io import read_rgb
from physadv.core.picture_files import picture_count
from physadv.core.wording import count_noun


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
            with closing(self._open(self.clips[0])) as reader:
                self.settings = dict(reader.settings)
                expected = reader.expected
            self.total = -(-expected // self.every) if expected > 0 else None

    def __iter__(self) -> Iterator[CameraFrame]:
        any_frame = False
        repeats = RepeatedFrames()
        errors: list[CaptureError] = []
        for clip in self.clips:
            try:
                for frame in self._read(clip, repeats):
                    any_frame = True
                    yield frame
            except CaptureError as error:
                errors.append(error)
                self.warnings.append(f"left out: {error}")
        self.warnings += repeats.warnings()

        if not any_frame:
            if len(errors) == 1:
                raise errors[0]
            reason = f": {errors[0].value}: {errors[0].limit}" if errors else ""
            limit = f"none of {count_noun(len(self.clips), 'clip')} gave a frame{reason}"
            remedy = errors[0].remedy if errors else "Check that they play"
            raise CaptureError(self.name, limit, remedy)

    def _open(self, clip: RecordedClip) -> VideoReader | AnimationReader:
        # An address may hold a password.
        name = str(clip.path) if isinstance(clip.path, Path) else self.name
        return open_in_time(
            lambda: open_recording(clip.path, name, self.timeout_s), name, self.timeout_s + 2
        )

    def _read(self, clip: RecordedClip, repeats: RepeatedFrames) -> Iterator[CameraFrame]:
        last = max(clip.truth) if clip.truth else None
        number = -1
        with closing(self._open(clip)) as reader:
            for frame in reader.frames(lambda number: self._is_selected(clip, number)):
                number = frame.number

                # A twin's frames are numbered by its truth, and none is a stale copy.
                if clip.truth is None and repeats.is_repeat(frame.image, clip.block, clip.name):
                    continue
                yield self._frame(clip, frame)
                if number == last:
                    break
            self.settings |= {k: v for k, v in reader.settings.items() if k == "shown"}

        self.warnings += [line for line in reader.warnings if line not in self.warnings]
        if last is not None and number < last and not reader.warnings:
            self.warnings.append(
                f"{reader.name} ended before frame {last} of its truth; what was read is kept"
            )

    def _is_selected(self, clip: RecordedClip, number: int) -> bool:
        return number in clip.truth if clip.truth is not None else number % self.every == 0

    def _frame(self, clip: RecordedClip, frame: DecodedFrame) -> CameraFrame:
        cut = self.clip_seconds > 0
        stretch = f"@{int(frame.time_s // self.clip_seconds):03d}" if cut else ""
        truth = clip.truth.get(frame.number) if clip.truth is not None else None
        return CameraFrame(
            frame.image, frame.time_s, clip.name + stretch, clip.block, frame.number, truth
        )


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
        errors: list[ImageError] = []
        repeats = RepeatedFrames("photo")
        for number, path in enumerate(self.photos):
            try:
                image = read_rgb(path)
            except ImageError as error:
                errors.append(error)
                self.warnings.append(f"left out: {error}")
                continue

            block = block_in(path, self.root)
            if repeats.is_repeat(image, block, path.relative_to(self.root).as_posix()):
                continue
            if (pictures := picture_count(path)) > 1:
                self.warnings.append(f"{path}: the first of its {pictures} pictures is read")
            yield CameraFrame(image, float(number), self._clip(path), block, number)
        self.warnings += repeats.warnings()

        if len(errors) == len(self.photos):
            limit = (
                f"none of {count_noun(len(self.photos), 'photo')} could be read: {errors[0].limit}"
            )
            remedy = errors[0].remedy or "Replace them with JPEG or PNG files"
            raise CaptureError(self.name, limit, remedy)

    def _clip(self, path: Path) -> str:
        inner = path.relative_to(self.root)
        folder = inner.parent
        in_clip_folder = len(folder.parts) > 0 and folder.name.lower() not in BLOCKS
        return (folder if in_clip_folder else inner.with_suffix("")).as_posix()
