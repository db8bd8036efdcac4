"""Decoding of recorded videos as players show them: upright, with square pixels, deinterlaced, in
sRGB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import (
    ColorPrimaries,
    Colorspace,
    ColorTrc,
    Interpolation,
    VideoReformatter,
)
from PIL import Image

from physadv.core.errors import CaptureError, ImageError
from physadv.core.image_io import lay_on_white, srgb_pixels
from physadv.core.picture_files import (
    frame_count,
    load_picture,
    open_picture,
    pictures_in,
    read_picture_file,
)
from physadv.core.reading import (
    MAX_ANIMATION_PIXELS,
    MAX_FRAME_PIXELS,
    assert_pixels,
    foreign_errors,
)
from physadv.core.utf8_paths import utf8_path
from physadv.core.wording import count_noun

Pixels = npt.NDArray[np.uint8]
_HDR = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}
_WIDE = {int(ColorPrimaries.BT2020): "BT.2020", 11: "DCI-P3", 12: "Display P3"}
_MOST_STRETCH = 4.0
"""Pixel shapes beyond 4:1 are taken for a fault of the file."""
_UNNAMED = 2
"""Number of a color matrix that the file does not name."""
_HD_LINES = 720
"""Videos that do not name their color matrix use BT.709 from this height on, as players assume."""
_FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,mpegtsraw,m4v,h263,h264,hevc,mjpeg,mpjpeg,ivf,obu,"
    "av1,flv,live_flv,asf,ogg,mxf,rm,dv,nut,wtv,gxf,gif,apng,webp,webp_pipe,avif,amv"
)
"""Containers of recordings; not among them are lists that name other files, such as HLS."""
_PIXELS = {"max_pixels": str(MAX_FRAME_PIXELS)}
"""Option of ffmpeg that bounds frames, also where their size changes in the middle of a video."""
_CONVERT = "Check that it plays, or convert it to MP4 (H.264) or AVI (MJPG)"


@dataclass(frozen=True)
class DecodedFrame:
    """One frame of a recording.

    Attributes:
        number: Number of the frame in its recording, damaged ones counted.
        time_s: Time since the first frame in seconds.
        image: Picture (h, w, 3) uint8 RGB.
    """

    number: int
    time_s: float
    image: Pixels


class VideoReader:
    """The frames of a video file or address.

    Rotation, mirroring, pixel shape, interlacing, color matrix and HDR are taken from the file and
    undone, frame times are its own, and frames that the decoder marks as damaged are left out.

    Args:
        path: File or address.
        name: Name for messages.
        timeout_s: Longest wait for an address to open, or to send more, in seconds.

    Attributes:
        settings: Width, height, frame rate and codec; ``shown`` lists what was undone.
        warnings: Lines about what makes the pictures differ from what the camera saw; grows while
            frames are read.
        expected: Number of frames that the file announces; 0 where it does not.

    Raises:
        CaptureError: The file is no video, holds no picture track, or has a codec that cannot be
            decoded.
    """

    def __init__(self, path: Path | str, name: str, timeout_s: float) -> None:
        self.name, self.warnings = name, list[str]()
        self._container = open_container(path, name, timeout_s)
        stream = self._container.streams.best("video")
        if stream is None or stream.codec_context is None:
            self._container.close()
            limit = "holds no video" if stream is None else "has an unknown codec"
            raise CaptureError(name, limit, _CONVERT)
        self._stream: Any = stream
        self._stream.thread_type = "AUTO"
        # A frame with a fault in it is an error, not one patched up from its neighbors.
        self._stream.codec_context.options = {"err_detect": "explode"} | _PIXELS

        codec = stream.codec_context
        rate = stream.average_rate or stream.guessed_rate
        self.codec, self._fps = str(codec.codec.canonical_name), float(rate or 25.0)
        try:
            assert_pixels(
                max(codec.width, 1),  # 0 until a first frame is decoded, which ffmpeg judges
                max(codec.height, 1),
                name,
                most=MAX_FRAME_PIXELS,
                error=CaptureError,
            )
        except CaptureError:
            self._container.close()
            raise

        self._duration_s = self._measured_duration()
        self.expected = int(stream.frames) or round(self._duration_s * self._fps)
        self.settings: dict[str, Any] = {
            "width": codec.width,
            "height": codec.height,
            "fps": round(float(rate), 3) if rate else 0.0,
            "fourcc": codec.codec_tag if codec.codec_tag.isprintable() else "",
            "codec": self.codec,
        }
        self._deinterlacer: _Deinterlacer | None = None
        self._first_s: float | None = None
        self._last_s, self._last_sound, self._decoded, self._damaged = 0.0, -1, 0, 0
        self._fault, self._broken = "", False
        """Why a frame could not be decoded, and whether those after it refer to it: until the next
        key frame they do."""
        self._reformatter = VideoReformatter()

    def frames(self, selected: Callable[[int], bool]) -> Iterator[DecodedFrame]:
        """Decode the video to its end.

        Args:
            selected: Whether the frame of a number is wanted; others are decoded, not converted.

        Yields:
            The wanted frames in order.

        Raises:
            CaptureError: No frame can be decoded; the error tells the codec and the reason.
        """
        for frame in self._deinterlaced():
            number, self._decoded = self._decoded, self._decoded + 1
            time_s = self._time_of(frame, number)
            self._broken = (self._broken and not frame.key_frame) or frame.is_corrupt
            if self._broken:
                self._damaged += 1
                continue
            self._last_sound = number
            if selected(number):
                yield DecodedFrame(number, time_s, self._shown(frame))

        if self._decoded == self._damaged:
            reason = self._fault or ("every frame is damaged" if self._decoded else "it is empty")
            limit = f"none of its {self.codec} frames could be decoded ({reason})"
            raise CaptureError(self.name, limit, "Convert it to MP4 (H.264) or AVI (MJPG)")
        self._warn_of_loss()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _measured_duration(self) -> float:
        stream = self._stream
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return float(self._container.duration or 0) / av.time_base

    def _decode(self) -> Iterator[VideoFrame]:
        """Decode packet by packet, so that one broken packet does not end the video."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:  # a file cut off in the middle of a packet
                self._fault = self._fault or str(error.strerror)
                return
            if packet is None:
                return
            try:
                yield from packet.decode()
            except av.FFmpegError as error:
                self._fault = self._fault or str(error.strerror)
                self._decoded, self._damaged = self._decoded + 1, self._damaged + 1
                self._broken = True

    def _deinterlaced(self) -> Iterator[VideoFrame]:
        for frame in self._decode():
            if self._deinterlacer is None and frame.interlaced_frame:
                self._deinterlacer = _Deinterlacer(self._stream, frame)
                self._note("deinterlaced")
                self.warnings.append(
                    f"{self.name} is interlaced: deinterlaced (bwdif), so fine detail of what "
                    "moves is lost; film progressive where you can"
                )
            yield from [frame] if self._deinterlacer is None else self._deinterlacer.push(frame)

        if self._deinterlacer is not None:
            yield from self._deinterlacer.push(None)

    def _time_of(self, frame: VideoFrame, number: int) -> float:
        """Return the time since the first frame; a frame without one follows the frame rate."""
        if frame.pts is None:
            self._last_s = number / self._fps
            return self._last_s
        if self._first_s is None:
            self._first_s = float(frame.time)
        self._last_s = float(frame.time) - self._first_s
        return self._last_s

    def _shown(self, frame: VideoFrame) -> Pixels:
        """Return the frame as players show it."""
        picture = self._to_rgb(frame)
        matrix = _display_matrix(frame)
        if matrix is not None:
            turned = _apply_display_matrix(picture, matrix)
            if turned is None:
                self._warn_once(
                    f"{self.name} asks to be shown at an angle that is no multiple of 90 degrees; "
                    "shown as stored"
                )
            else:
                self._note("rotated or mirrored")
                picture = turned
        return np.ascontiguousarray(picture)

    def _to_rgb(self, frame: VideoFrame) -> Pixels:
        """Convert to 8-bit RGB with square pixels and BT.709 primaries."""
        options: dict[str, Any] = {}
        width, height = self._square_size(frame)
        if (width, height) != (frame.width, frame.height):
            options |= {"width": width, "height": height, "interpolation": Interpolation.BICUBIC}
            self._note(f"{frame.width}x{frame.height} shown as {width}x{height}")

        if int(frame.colorspace) == _UNNAMED and frame.height >= _HD_LINES:
            options["src_colorspace"] = Colorspace.ITU709

        transfer, primaries = _HDR.get(int(frame.color_trc)), _WIDE.get(int(frame.color_primaries))
        if transfer or primaries:
            options["dst_color_primaries"] = ColorPrimaries.BT709
        if transfer:
            options["dst_color_trc"] = ColorTrc.BT709
            self._note("tone mapped")
            self._warn_once(
                f"{self.name} is HDR ({transfer}, {primaries or 'unnamed primaries'}): tone mapped "
                "to sRGB, so its colors are approximate; film in SDR for colors that can be trusted"
            )
        elif primaries:
            self._note(f"{primaries} converted to sRGB")
        converted = self._reformatter.reformat(frame, format="rgb24", **options)
        return np.asarray(converted.to_ndarray(), np.uint8)

    def _square_size(self, frame: VideoFrame) -> tuple[int, int]:
        """Return the size with square pixels; the side that is too short is enlarged."""
        ratio = float(self._stream.sample_aspect_ratio or 1)
        if ratio <= 0 or not 1 / _MOST_STRETCH <= ratio <= _MOST_STRETCH:
            self._warn_once(f"{self.name} names pixels of shape {ratio:g}:1; taken as square")
            ratio = 1.0
        if ratio >= 1:
            return round(frame.width * ratio), frame.height
        return frame.width, round(frame.height / ratio)

    def _warn_of_loss(self) -> None:
        """Warn of damaged frames, and where the video ends before the time that its header
        announces."""
        damaged = self._damaged
        missing_s = self._duration_s - (self._last_s + 1 / self._fps)
        is_short = self._decoded < self.expected and missing_s > 1.5 / self._fps
        if is_short:  # the damaged frames at its end are part of what is missing
            damaged -= self._decoded - 1 - self._last_sound
        if damaged:
            self.warnings.append(
                f"{self.name}: {damaged} of {count_noun(self._decoded, 'frame')} damaged; left out"
            )
        if is_short:
            self.warnings.append(
                f"{self.name} ended after {self._last_sound + 1} of "
                f"{count_noun(self.expected, 'frame')}; what was read is kept"
            )

    def _note(self, line: str) -> None:
        shown = self.settings.setdefault("shown", [])
        if line not in shown:
            shown.append(line)

    def _warn_once(self, line: str) -> None:
        if line not in self.warnings:
            self.warnings.append(line)


class AnimationReader:
    """The pictures of an animated GIF, WebP, PNG or AVIF, laid on white.

    Args:
        path: The file.

    Attributes:
        settings: Width, height, frame rate and format.
        warnings: Empty; pictures are read whole.
        expected: Number of pictures.

    Raises:
        CaptureError: The file is no readable picture.
    """

    def __init__(self, path: Path) -> None:
        self.name, self.warnings = str(path), list[str]()
        with foreign_errors(str(path), CaptureError, "did not open", _CONVERT):
            try:
                self._data = data = read_picture_file(path)
                self._image = open_picture(data, str(path), most_pixels=MAX_FRAME_PIXELS)
                self.expected = frame_count(self._image, data, str(path))
            except ImageError as error:
                raise CaptureError(error.value, error.limit, error.remedy) from error
        if self.expected * self._image.width * self._image.height > MAX_ANIMATION_PIXELS:
            size = (
                f"{count_noun(self.expected, 'picture')} of "
                f"{self._image.width}x{self._image.height} px"
            )
            self._image.close()
            raise CaptureError(str(path), f"{size} would take minutes", "Use a shorter one")
        self.codec = str(self._image.format).lower()
        self.settings: dict[str, Any] = {
            "width": self._image.width,
            "height": self._image.height,
            "fps": round(1 / _duration_s(self._image), 3),
            "fourcc": "",
            "codec": self.codec,
        }

    def frames(self, selected: Callable[[int], bool]) -> Iterator[DecodedFrame]:
        """Decode the pictures.

        Args:
            selected: Whether the picture of a number is wanted.

        Yields:
            The wanted pictures in order.
        """
        time_s = 0.0
        for number in range(self.expected):
            try:
                with foreign_errors(self.name, ImageError, "damaged"):
                    self._image.seek(number)
                load_picture(self._image, self._data, self.name, most_pixels=MAX_FRAME_PIXELS)
                wanted = selected(number)
                image = lay_on_white(srgb_pixels(self._image, self.name)) if wanted else None
            except ImageError as error:
                self.warnings.append(f"{self.name}: {error.limit}; what was read is kept")
                return
            if image is not None:
                yield DecodedFrame(number, time_s, image)
            time_s += _duration_s(self._image)

    def close(self) -> None:
        """Close the file."""
        self._image.close()


class _Deinterlacer:
    """ffmpeg's bwdif, one picture out for each one in.

    Args:
        stream: The stream of the frames.
        first: Its first frame.
    """

    def __init__(self, stream: Any, first: VideoFrame) -> None:
        self._graph = Graph()
        source = self._graph.add_buffer(
            width=first.width,
            height=first.height,
            format=first.format,
            time_base=stream.time_base,
        )
        bwdif = self._graph.add("bwdif", "mode=send_frame:deint=interlaced")
        self._graph.link_nodes(source, bwdif, self._graph.add("buffersink")).configure()

    def push(self, frame: VideoFrame | None) -> Iterator[VideoFrame]:
        """Yield the pictures that are ready after ``frame``; None flushes the last one."""
        self._graph.vpush(frame)
        while True:
            try:
                yield self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return


def open_recording(path: Path | str, name: str, timeout_s: float) -> VideoReader | AnimationReader:
    """Open a video, or an animated picture, for reading from its start.

    Args:
        path: File or address.
        name: Name for messages.
        timeout_s: Longest wait for an address in seconds.

    Returns:
        Its reader.

    Raises:
        CaptureError: It cannot be read as a video; the error tells why.
    """
    if isinstance(path, Path) and is_animated(path):
        return AnimationReader(path)
    return VideoReader(path, name, timeout_s)


def is_animated(path: Path) -> bool:
    """Return whether the file at ``path`` is a picture of several frames that play in time."""
    if path.suffix.lower() not in ANIMATED_SUFFIXES:
        return False
    try:
        return pictures_in(read_picture_file(path), str(path)) > 1
    except ImageError:
        return False


ANIMATED_SUFFIXES = frozenset({".gif", ".webp", ".png", ".apng", ".avif"})
"""Suffixes of picture formats that can hold an animation."""


def open_container(path: Path | str, name: str, timeout_s: float) -> Any:
    """Open a recording to read its packets; a local file cannot make ffmpeg open others.

    Args:
        path: File or address.
        name: Name for messages.
        timeout_s: Longest wait for an address in seconds.

    Returns:
        PyAV's container, to be closed.

    Raises:
        CaptureError: It does not open.
    """
    # A local file must not make ffmpeg open others, or addresses, that it names.
    options = dict(_PIXELS)
    if isinstance(path, Path):
        options |= {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    if isinstance(path, Path) and path.is_file() and path.stat().st_size == 0:
        raise CaptureError(name, "did not open (empty file)", "Copy or record it again")
    with foreign_errors(name, CaptureError, "did not open", _CONVERT):
        if isinstance(path, str):
            return av.open(path, options=options, timeout=timeout_s)
        with utf8_path(path) as name_of_utf8:
            return av.open(str(name_of_utf8), options=options, timeout=timeout_s)


def _duration_s(picture: Image.Image) -> float:
    """Return how long a picture of an animation is shown; players take 0.1 s for 0."""
    return float(picture.info.get("duration") or 100) / 1000


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int] | None:
    """Return (a, b, c, d) of the matrix that turns stored pixels into shown ones, or None.

    A stored pixel (x, y) is shown at (a x + c y, b x + d y), up to scale and translation.
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    values = np.frombuffer(bytes(data), np.int32)
    a, b, _, c, d = (int(v) for v in values[:5])
    return None if (b, c) == (0, 0) and a > 0 and d > 0 else (a, b, c, d)


def _apply_display_matrix(picture: Pixels, matrix: tuple[int, int, int, int]) -> Pixels | None:
    """Turn and mirror a picture by multiples of 90 degrees; None for any other angle."""
    a, b, c, d = matrix
    if (b, c) == (0, 0) and a and d:
        return picture[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]
    if (a, d) == (0, 0) and b and c:
        return picture.transpose(1, 0, 2)[:: 1 if b > 0 else -1, :: 1 if c > 0 else -1]
    return None
