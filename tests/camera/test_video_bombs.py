"""Videos, animations and streams that lie about sizes, counts and times cost next to nothing."""

from __future__ import annotations

import io
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from physadv.camera.mjpeg import MjpegCapture
from physadv.camera.open_source import open_frame_source
from physadv.core.errors import CaptureError


def film(path: Path, container: str, codec: str, pixels: str = "yuv420p") -> bytes:
    """Ten frames of 64 x 48 px."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for n in range(10):
            picture = np.full((48, 64, 3), 20 * n, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        out.mux(stream.encode())
    return path.read_bytes()


def at(data: bytes, marker: bytes, offset: int, value: bytes) -> bytes:
    """Overwrite what lies ``offset`` bytes behind every ``marker``."""
    changed, found = bytearray(data), data.find(marker)
    assert found >= 0
    while found >= 0:
        changed[found + offset : found + offset + len(value)] = value
        found = data.find(marker, found + 1)
    return bytes(changed)


AVI_LIES: dict[str, Callable[[bytes], bytes]] = {
    "a size of 100000 x 100000": lambda d: at(d, b"strf", 12, struct.pack("<ii", 100_000, 100_000)),
    "a negative size": lambda d: at(d, b"strf", 12, struct.pack("<ii", -64, -48)),
    "frames of 65535 x 65535": lambda d: at(d, b"\xff\xc0", 5, b"\xff" * 4),
    "frames of 6000 x 6000": lambda d: at(d, b"\xff\xc0", 5, struct.pack(">HH", 6000, 6000)),
    "10^9 frames": lambda d: at(d, b"avih", 24, struct.pack("<I", 10**9)),
    "a length of 4*10^9": lambda d: at(d, b"strh", 40, struct.pack("<I", 4 * 10**9)),
    "a rate of 0 / 0": lambda d: at(d, b"strh", 28, struct.pack("<II", 0, 0)),
    "a rate of 4*10^9": lambda d: at(d, b"strh", 28, struct.pack("<II", 1, 4 * 10**9)),
    "half of a file": lambda d: d[: len(d) // 2],
    "a header alone": lambda d: d[:300],
}
MP4_LIES: dict[str, Callable[[bytes], bytes]] = {
    "a size of 65535 x 65535": lambda d: at(d, b"avc1", 28, b"\xff" * 4) if b"avc1" in d else d,
    "2^32 samples": lambda d: at(d, b"stsz", 12, struct.pack(">I", 2**32 - 1)),
    "10^9 samples of 2 GB": lambda d: at(d, b"stsz", 8, struct.pack(">II", 2**31, 10**9)),
    "10^9 times": lambda d: at(d, b"stts", 12, struct.pack(">II", 10**9, 1)),
    "136 years": lambda d: at(d, b"mvhd", 20, struct.pack(">II", 1, 2**32 - 1)),
    "a time scale of 0": lambda d: at(d, b"mdhd", 16, struct.pack(">II", 0, 2**32 - 1)),
    "an atom of 2^63 bytes": lambda d: at(d, b"moov", -4, struct.pack(">I", 1)),
}


def assert_cheap(path: Path) -> int:
    """Read a recording; return its frames, or 0 where it is refused in one line."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    try:
        count, line = len(list(open_frame_source(path))), ""
    except CaptureError as error:
        count, line = 0, str(error)
    assert "\n" not in line
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_maxrss - before.ru_maxrss < 300 << 10
    assert after.ru_utime - before.ru_utime < 5
    return count


@pytest.mark.parametrize("lie", AVI_LIES.values(), ids=AVI_LIES.keys())
def test_an_avi_that_lies(tmp_path: Path, lie: Callable[[bytes], bytes]) -> None:
    data = film(tmp_path / "a.avi", "avi", "mjpeg", "yuvj420p")
    (tmp_path / "a.avi").write_bytes(lie(data))
    assert assert_cheap(tmp_path / "a.avi") <= 10


@pytest.mark.parametrize("lie", MP4_LIES.values(), ids=MP4_LIES.keys())
def test_an_mp4_that_lies(tmp_path: Path, lie: Callable[[bytes], bytes]) -> None:
    data = film(tmp_path / "a.mp4", "mp4", "mpeg4")
    (tmp_path / "a.mp4").write_bytes(lie(data))
    assert assert_cheap(tmp_path / "a.mp4") <= 10


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{0}'\n",
        "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "<?xml version='1.0'?><MPD><BaseURL>{0}</BaseURL></MPD>",
        "[Playlist]\nFile1={0}\n",
    ],
    ids=["HLS", "concat", "SDP", "DASH", "playlist"],
)
@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "sdp"])
def test_a_list_of_other_files_is_no_video(tmp_path: Path, text: str, suffix: str) -> None:
    """A video of someone else must not open the files, or addresses, that it names."""
    film(tmp_path / "secret.avi", "avi", "mjpeg", "yuvj420p")
    (tmp_path / f"a.{suffix}").write_text(text.format(tmp_path / "secret.avi"))
    with pytest.raises(CaptureError):
        list(open_frame_source(tmp_path / f"a.{suffix}"))


def test_an_animation_of_a_billion_pixels_is_refused(tmp_path: Path) -> None:
    """750 kB of GIF would decode for hours."""
    frame = b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    head = b"GIF89a" + struct.pack("<HHBBB", 4000, 4000, 0x80, 0, 0) + bytes(6)
    (tmp_path / "a.gif").write_bytes(head + frame * 50_000 + b";")
    with pytest.raises(CaptureError, match="50,000 pictures of 4000x4000 px would take minutes"):
        list(open_frame_source(tmp_path / "a.gif"))


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), (9, 99, 9)).save(buffer, "JPEG")
    return buffer.getvalue()


def part(content: bytes, length: object = None) -> bytes:
    stated = len(content) if length is None else length
    head = f"--x\r\nContent-Type: image/jpeg\r\nContent-Length: {stated}\r\n\r\n"
    return head.encode() + content + b"\r\n"


@pytest.mark.parametrize(
    ("stream", "frames"),
    [
        (part(jpeg()) + part(b"", 4 * 10**9) + part(jpeg()), 1),
        (part(jpeg()) + part(b"", "9" * 4000), 1),
        (part(jpeg()) + part(b"", -5) + b"junk", 1),
        (part(at(jpeg(), b"\xff\xc0", 5, b"\xff" * 4)) + part(jpeg()), 1),
        (part(jpeg()) + part(b"junk") * 99 + part(jpeg()), 2),
        (part(jpeg()) + part(b"junk") * 500 + part(jpeg()), 1),
        (part(jpeg()) + b"--x\r\nA: b\r\n\r\n" + b"\n" * 3_000_000, 1),
        (part(jpeg()) + b"a: b\r\n" * 1000, 1),
        (part(jpeg()) + b"x" * 10_000_000, 1),
    ],
    ids=[
        "a frame of 4 GB",
        "4000 digits",
        "a negative length",
        "a JPEG of 65535 x 65535",
        "99 broken parts",
        "500 broken parts",
        "lines without end",
        "a header without end",
        "a line without end",
    ],
)
def test_a_stream_that_lies(stream: bytes, frames: int) -> None:
    """A part that announces too much ends the stream; broken ones are skipped for a while."""
    capture, count = MjpegCapture(io.BytesIO(stream)), 0
    while capture.read()[0]:
        count += 1
    assert count == frames


def test_a_video_whose_name_is_no_utf8(tmp_path: Path) -> None:
    """ffmpeg takes UTF-8 alone; the file is read all the same."""
    film(tmp_path / "a.avi", "avi", "mjpeg", "yuvj420p")
    name = os.fsencode(tmp_path) + b"/Stra\xdfe.avi"
    os.rename(os.fsencode(tmp_path / "a.avi"), name)  # noqa: PTH104 - a name of bytes
    assert assert_cheap(Path(os.fsdecode(name))) == 10
