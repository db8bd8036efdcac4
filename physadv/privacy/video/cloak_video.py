"""Cloaking of one video: faces followed, a change a person that stays steady on the face, and a new
file with the same sound.

A change is optimized on a frame every two seconds, beginning from the one before; between these
frames it goes over from one to the next. It is laid onto the face in each frame, so it moves with
the face and does not flicker.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import Colorspace

from physadv.camera.video_reader import VideoReader, open_container
from physadv.core.errors import CaptureError, ImageError, OptionError
from physadv.core.files import write_bytes
from physadv.core.image_io import Array
from physadv.core.random_streams import numpy_generator
from physadv.models.faces.face_detection import DetectedFace
from physadv.privacy.batch import CLOAKED_VIDEO
from physadv.privacy.cloak_faces import CloakMode, CloakSearch, FaceWindow
from physadv.privacy.embedding_loss import CloakGoal
from physadv.privacy.photo_cloaker import SMALLEST, PhotoCloaker
from physadv.privacy.video.face_tracks import FaceTrack, follow_faces, overlap
from physadv.privacy.video.moved_change import FaceChange
from physadv.privacy.visibility import patch_color_change

_SEEN_PX = 640
"""Longest side in px of the frames in which faces are sought."""
_KEY_S = 2.0
"""Longest time in s between two frames that a change is optimized on."""
_WARM_STEPS = 16
"""Steps of a change that begins from the one before."""
_MEASURED_EVERY = 10
"""Frames between two whose change is measured."""
_TICKS = 90_000
_QUALITY = {"crf": "16", "preset": "medium"}
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class CloakedVideo:
    """Result of cloaking one video.

    Attributes:
        frames: Frames of the video.
        tracks: A table a face: its frames, those that a change was optimized on, the largest
            color difference of patches of skin in the frames measured, and margins as photos have.
        bare: Frames, by face, of faces that were found and left as they are.
        notes: What the owner should know.
        seconds: Time it took.
    """

    frames: int
    tracks: Sequence[Mapping[str, Any]]
    bare: Sequence[int]
    notes: Sequence[str]
    seconds: float


@dataclass
class _Person:
    """A track, the changes made for it by the number of their frame, and what was measured."""

    track: FaceTrack
    keys: tuple[int, ...]
    changes: dict[int, FaceChange] = field(default_factory=dict)
    margins: dict[str, float] = field(default_factory=dict)
    patches: list[float] = field(default_factory=list)
    confirmed: bool = False

    def change_at(self, number: int) -> FaceChange:
        """The change in a frame: of the nearest key, or between the two around it."""
        known = sorted(self.changes)
        after = next((k for k in known if k >= number), known[-1])
        before = next((k for k in reversed(known) if k <= number), known[0])
        if before == after or not before < number < after:
            return self.changes[before if number >= before else after]
        share = (number - before) / (after - before)
        return self.changes[before].mixed(self.changes[after], share)


def cloak_video(
    source: str | Path,
    target: str | Path,
    cloaker: PhotoCloaker,
    *,
    progress: Progress = lambda done, total, activity: None,
) -> CloakedVideo:
    """Cloak every face of a video, into a new H.264 file with the same sound and frame times.

    The picture comes upright, as players show it. Place, time and device of the recording are left
    out. Nothing is written where no face is found.

    Args:
        source: MP4, M4V or MOV file.
        target: File to write, with the suffix of the source.
        cloaker: Finds and cloaks faces.
        progress: Called with frames done, frames in all and what is being done.

    Returns:
        What was done.

    Raises:
        OptionError: The suffix is no such container's, or ``target`` is the source.
        CaptureError: The video cannot be read.
        ImageError: No face was found.
    """
    started = time.perf_counter()
    file, out = Path(source), Path(target)
    suffix = file.suffix.lower()
    if suffix not in CLOAKED_VIDEO:
        raise OptionError(f"{file}", "MP4, M4V and MOV are cloaked", "Convert it to MP4 (H.264)")
    if out.resolve() == file.resolve():
        raise OptionError(f"{out}", "It is the original", "Name another file")

    found, times, size, warnings = _find(file, cloaker, progress)
    fps = (len(times) - 1) / times[-1] if len(times) > 1 and times[-1] > 0 else 25.0
    people = [
        _Person(t, _keys(t, fps)) for t in follow_faces(found, fps, size) if _is_large(t, size)
    ]
    _make_changes(file, people, cloaker, progress, len(times))
    cloaked = [p for p in people if p.confirmed]
    if not cloaked:
        raise ImageError(f"{file}", "no face was found", "Nothing is written, nothing protected")

    pictures = _cloaked_frames(file, cloaked, cloaker.mode, progress, len(times))
    data = _encoded(file, pictures, times, size, "mov" if suffix == ".mov" else "mp4")
    write_bytes(out, data)
    bare = [len(p.track.faces) for p in people if not p.confirmed]
    return CloakedVideo(
        frames=len(times),
        tracks=[_row(p) for p in cloaked],
        bare=bare,
        notes=tuple(warnings),
        seconds=time.perf_counter() - started,
    )


def _find(
    file: Path, cloaker: PhotoCloaker, progress: Progress
) -> tuple[list[list[DetectedFace]], list[float], tuple[int, int], list[str]]:
    """Faces and time of each frame, the frames' size, and the reader's warnings."""
    found, times, size = [], [], (0, 0)
    reader = VideoReader(file, file.name, 10.0)
    try:
        for frame in reader.frames(lambda number: True):
            size = (frame.image.shape[0], frame.image.shape[1])
            factor = min(1.0, _SEEN_PX / max(size))
            small = _reduced(frame.image, factor)
            found.append([f.moved(1 / factor, 0, 0) for f in cloaker.finders[0](small)])
            times.append(frame.time_s)
            progress(len(times), max(reader.expected, len(times)), "looking for faces")
    finally:
        reader.close()
    return found, times, size, list(reader.warnings)


def _reduced(image: Array, factor: float) -> Array:
    """A frame at ``factor`` of its size."""
    if factor >= 1:
        return image
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _is_large(track: FaceTrack, size: tuple[int, int]) -> bool:
    """Whether a face is large enough somewhere to be recognized."""
    boxes = [face.box(*size) for face in track.faces.values()]
    return max(min(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes) >= SMALLEST


def _keys(track: FaceTrack, fps: float) -> tuple[int, ...]:
    """Frames to optimize a change on, evenly over the track."""
    known = sorted(track.found)
    count = max(1, round((known[-1] - known[0] + 1) / (_KEY_S * fps)))
    wanted = known[0] + (np.arange(count) + 0.5) * (known[-1] - known[0]) / count
    return tuple(sorted({min(known, key=lambda k: abs(k - w)) for w in wanted.tolist()}))


def _make_changes(
    file: Path, people: Sequence[_Person], cloaker: PhotoCloaker, progress: Progress, total: int
) -> None:
    """Optimize each person's change on the frames chosen for it, unless no look there confirms that
    it is a face."""
    wanted = {key for person in people for key in person.keys}
    reader = VideoReader(file, file.name, 10.0)
    try:
        for number, image in _numbered(reader, wanted):
            confirmed = [f.box(*image.shape[:2]) for f in cloaker.faces(image).cloaked.values()]
            for who, person in enumerate(people):
                if number not in person.keys:
                    continue
                face = person.track.faces[number]
                box = face.box(*image.shape[:2])
                person.confirmed |= any(overlap(box, other) >= 0.3 for other in confirmed)
                _optimize(image, number, who, person, cloaker)
                progress(number + 1, total, "making the change")
    finally:
        reader.close()


def _optimize(image: Array, number: int, who: int, person: _Person, cloaker: PhotoCloaker) -> None:
    """Optimize a person's change on one frame."""
    mode = cloaker.mode
    window = FaceWindow.around(image, person.track.faces[number], cloaker.embedders[0].mean.device)
    if min(window.mask.shape[-2:]) < 2:
        return
    goal = CloakGoal.of(window.scene, window.face, cloaker.embedders, None, None)
    before = person.changes[max(person.changes)] if person.changes else None
    if before is not None:
        mode = replace(mode, steps=min(mode.steps, _WARM_STEPS))
    rng = numpy_generator(cloaker.seed, "cloak", "video", number, who)
    search = CloakSearch(window, cloaker.embedders, mode, goal, rng)
    search.run(None if before is None else before.shares(window))
    person.changes[number] = FaceChange.taken(window, *search.change)
    person.margins = search.margins


def _numbered(reader: VideoReader, wanted: set[int] | None) -> Iterator[tuple[int, Array]]:
    """Frames by their place among those that can be decoded; only ``wanted`` ones where given."""
    for place, frame in enumerate(reader.frames(lambda number: True)):
        if wanted is None or place in wanted:
            yield place, frame.image


def _cloaked_frames(
    file: Path, people: Sequence[_Person], mode: CloakMode, progress: Progress, total: int
) -> Iterator[Array]:
    """Every frame with the changes laid onto its faces."""
    reader = VideoReader(file, file.name, 10.0)
    try:
        for number, image in _numbered(reader, None):
            for person in people:
                face = person.track.faces.get(number)
                if face is None or not person.changes:
                    continue
                window = FaceWindow.around(image, face)
                if min(window.mask.shape[-2:]) < 2:
                    continue
                box = person.change_at(number).laid(window, mode)
                if number % _MEASURED_EVERY == 0:
                    pair = window.seen(window.original), window.seen(box)
                    person.patches.append(patch_color_change(*pair))
                window.paste(image, box)
            progress(number + 1, total, "writing")
            yield image
    finally:
        reader.close()


def _encoded(
    file: Path,
    pictures: Iterator[Array],
    times: Sequence[float],
    size: tuple[int, int],
    container: str,
) -> bytes:
    """The video as H.264 at its own frame times, with the sound of ``file`` as it is."""
    buffer = io.BytesIO()
    height, width = (side + side % 2 for side in size)
    source = open_container(file, file.name, 10.0)
    try:
        start_s = _start_s(source)
        sound = source.streams.audio[0] if source.streams.audio else None
        with av.open(buffer, "w", format=container) as out:
            stream: Any = out.add_stream("libx264", rate=_rate(times), options=_QUALITY)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.time_base = Fraction(1, _TICKS)
            for name in ("colorspace", "color_primaries", "color_trc", "color_range"):
                setattr(stream.codec_context, name, 1)  # BT.709, limited range
            copied = None if sound is None else out.add_stream_from_template(sound)
            packets = iter(()) if sound is None else _sound_packets(source, sound)
            waiting = next(packets, None)
            for picture, time_s in zip(pictures, times, strict=True):
                while waiting is not None and waiting.pts * waiting.time_base <= start_s + time_s:
                    waiting.stream = copied
                    out.mux(waiting)
                    waiting = next(packets, None)
                out.mux(stream.encode(_frame(picture, width, height, start_s + time_s)))
            out.mux(stream.encode())
            while waiting is not None:
                waiting.stream = copied
                out.mux(waiting)
                waiting = next(packets, None)
    finally:
        source.close()
    return buffer.getvalue()


def _start_s(source: Any) -> float:
    """Time of the first frame in s, as the sound counts it."""
    stream = source.streams.video[0]
    return float((stream.start_time or 0) * stream.time_base)


def _sound_packets(source: Any, sound: Any) -> Iterator[Any]:
    """The packets of the sound; the last one, which says that there are no more, is left out."""
    try:
        for packet in source.demux(sound):
            if packet.dts is not None and packet.pts is not None:
                yield packet
    except av.FFmpegError as error:
        raise CaptureError(
            str(source.name),
            f"its sound ended early ({error.strerror})",
            "Copy or convert it again",
        ) from error


def _frame(picture: Array, width: int, height: int, time_s: float) -> av.VideoFrame:
    """A picture for the encoder; H.264 has even sides, so an odd one gets its border twice."""
    rows, columns = height - picture.shape[0], width - picture.shape[1]
    if rows or columns:
        picture = np.pad(picture, ((0, rows), (0, columns), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
    frame.pts, frame.time_base = round(time_s * _TICKS), Fraction(1, _TICKS)
    return frame


def _rate(times: Sequence[float]) -> Fraction:
    """Mean frames a second."""
    if len(times) < 2 or times[-1] <= 0:
        return Fraction(25)
    return Fraction((len(times) - 1) / times[-1]).limit_denominator(1001)


def _row(person: _Person) -> dict[str, Any]:
    """A person's track as a table."""
    return {
        "frames": [min(person.track.faces), max(person.track.faces)],
        "found": len(person.track.found),
        "optimized_on": sorted(person.changes),
        "patches_max": round(max(person.patches), 3) if person.patches else None,
        "margins": {name: round(value, 4) for name, value in person.margins.items()},
    }
