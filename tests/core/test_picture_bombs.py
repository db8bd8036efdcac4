"""Pictures that announce more than they may, or lie, are refused before they are decoded."""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commandline import environment
from PIL import Image

from physadv.core.errors import ImageError
from physadv.core.image_io import decode_rgba, read_reduced, read_rgba
from physadv.core.opencv_pictures import decode_bgr, decode_deep
from physadv.core.picture_files import pictures_in, read_picture_file, shown_size


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    width: int, height: int, *, depth: int = 8, kind: int = 2, extra: bytes = b"", rows: int = 1
) -> bytes:
    """A black PNG that holds ``rows`` of its rows."""
    channels = {0: 1, 2: 3, 6: 4}[kind]
    packer = zlib.compressobj(9)
    row = bytes(1 + (width * channels * depth + 7) // 8) if rows else b""
    pixels = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def saved(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 10, 10)).save(buffer, kind, **options)
    return buffer.getvalue()


def with_size(data: bytes, marker: bytes, after: int, size: bytes) -> bytes:
    """Overwrite the size that a format stores ``after`` bytes behind ``marker``."""
    at = data.index(marker) + after
    return data[:at] + size + data[at + len(size) :]


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    plain = [(256, 4, 1, 10), (257, 4, 1, 10), (258, 3, 1, 8), (259, 3, 1, 5), (262, 3, 1, 1)]
    own = {entry[0]: entry for entry in (*plain, (277, 3, 1, 1), *entries)}
    packed = b"".join(struct.pack("<HHII", *own[tag]) for tag in sorted(own))
    return b"II*\0" + struct.pack("<IH", 8, len(own)) + packed + bytes(204)


def bmp(side: int, compression: int) -> bytes:
    header = (40, side, side, 1, 8, compression, 0, 0, 0, 256, 0)
    head = b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + struct.pack("<IiiHHIIiiII", *header)
    return head + bytes(1024) + b"\0\0" * 100


def icon(inner: bytes) -> bytes:
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inner


FRAME = b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
FAR_FRAME = b"\x2c" + struct.pack("<4HB", 60_000, 60_000, 5000, 5000, 0) + b"\x02\x02\x4c\x01\x00"


def gif(*frames: bytes) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + bytes(6)
    return head + b"".join(frames) + b";"


def many_pages(count: int) -> bytes:
    """A TIFF of ``count`` pages of 78 bytes."""
    entries = ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8))
    page = struct.pack("<H", 6) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in entries)
    return b"II*\0" + b"".join(struct.pack("<I", 8 + 78 * n) + page for n in range(count)) + b"\0"


TEXT = zlib.compress(bytes(20 << 20), 9)
LARGE = struct.pack(">II", 10_000, 10_000)
SCANS = saved("JPEG", progressive=True)
SCAN = SCANS[SCANS.rindex(b"\xff\xda") : -2]

BOMBS = {
    "a PNG of 3.6 gigapixels": (png(60_000, 60_000, depth=1, kind=0), "over 120000000 px"),
    "a PNG of 2^62 pixels": (
        with_size(png(10, 10), b"IHDR", 4, struct.pack(">II", 2**31 - 1, 2**31 - 1)),
        "not a readable image|over",
    ),
    "a PNG of no width": (png(0, 10, rows=0), "not a readable image"),
    "22 kB that unpack to gigabytes": (png(14_000, 8500, depth=1, kind=0), "to 476 MB: a bomb"),
    "a text of 20 MB": (png(9, 9, extra=chunk(b"zTXt", b"a\0\0" + TEXT)), "Decompressed data"),
    "an international text": (
        png(9, 9, extra=chunk(b"iTXt", b"a\0\1\0\0\0" + TEXT)),
        "Decompressed data",
    ),
    "a profile of 20 MB": (png(9, 9, extra=chunk(b"iCCP", b"a\0\0" + TEXT)), "Decompressed data"),
    "a JPEG of 65535 x 65535": (
        with_size(saved("JPEG"), b"\xff\xc0", 5, b"\xff\xff\xff\xff"),
        "over 205000000 px",
    ),
    "a JPEG of 200 megapixels in a few bytes": (
        with_size(saved("JPEG"), b"\xff\xc0", 5, struct.pack(">HH", 12240, 16320)),
        "would unpack to 799 MB: a bomb",
    ),
    "a progressive JPEG of 200 megapixels": (
        with_size(
            saved("JPEG", progressive=True), b"\xff\xc2", 5, struct.pack(">HH", 12240, 16320)
        ),
        "over 120000000 px",
    ),
    "a JPEG of 3000 scans": (
        with_size(SCANS[:-2] + SCAN * 3000, b"\xff\xc2", 5, struct.pack(">HH", 4000, 4000)),
        "scans of 4000x4000 px would take minutes",
    ),
    "a GIF's canvas": (with_size(gif(FRAME), b"GIF89a", 6, b"\xff\xff\xff\xff"), "over 120000000"),
    "a GIF's frame beyond its canvas": (gif(FRAME, FAR_FRAME), "65000x65000 is over"),
    "a TIFF's tile": (
        tiff((322, 4, 1, 100_000), (323, 4, 1, 100_000), (324, 4, 1, 8), (325, 4, 1, 100)),
        "100000x100000 is over",
    ),
    "a TIFF's size": (
        tiff((256, 4, 1, 100_000), (257, 4, 1, 100_000), (273, 4, 1, 8), (279, 4, 1, 100)),
        "over 120000000 px",
    ),
    "a TIFF's strip": (
        tiff((273, 4, 1, 8), (278, 4, 1, 2**31), (279, 4, 1, 2**31)),
        "not a readable image",
    ),
    "a TIFF's number of strips": (
        tiff((273, 4, 2**31, 8), (278, 4, 1, 10), (279, 4, 2**30, 100)),
        "not a readable image",
    ),
    "a BMP's size": (bmp(100_000, 0), "over 120000000 px"),
    "a BMP of run lengths": (bmp(8000, 1), "8000x8000 px in run lengths would take minutes"),
    "a picture in an icon": (icon(png(20_000, 20_000, depth=1, kind=0)), "over 120000000 px"),
    "a PPM's size": (b"P6 100000 100000 255\n" + bytes(99), "over 120000000 px"),
    "a PPM's digits": (b"P6 " + b"9" * 100_000 + b" 1 255\n", "Token too long"),
    "a TGA's size": (
        struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 65535, 65535, 24, 0) + bytes(99),
        "over 120000000 px",
    ),
    "a PSD's size": (
        b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 30_000, 30_000, 8, 3) + bytes(114),
        "over 120000000 px|not a readable",
    ),
    "a WebP's canvas": (
        b"RIFF\x1e\0\0\0WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + b"\xff" * 6,
        "over 120000000 px|not a readable",
    ),
    "a JPEG 2000's size": (with_size(saved("JPEG2000"), b"ihdr", 4, LARGE), "not a readable|bomb"),
    "an AVIF's size": (
        with_size(saved("AVIF"), b"ispe", 8, struct.pack(">II", 60_000, 60_000)),
        "not a readable image",
    ),
    "a PostScript program": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n/loop{}loop\n",
        "not a readable image",
    ),
    "nothing": (b"", "empty file"),
    "a signature": (b"\x89PNG\r\n\x1a\n", "not a readable image"),
    "a PNG of fewer rows": (png(500, 500), "it ends before its 500 rows do"),
    "a PNG cut off": (png(500, 500, rows=500)[:-30], "not a readable image"),
}


@pytest.mark.parametrize(("data", "said"), BOMBS.values(), ids=BOMBS.keys())
def test_a_picture_is_judged_by_its_header(data: bytes, said: str) -> None:
    """One error that names the file, whatever the format; no pixel is decoded."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    readers: list[Callable[[bytes, str], object]] = [decode_rgba]
    if "over" in said or "bomb" in said:
        readers += [decode_bgr, decode_deep]  # they judge sizes before formats
    for read in readers:
        with pytest.raises(ImageError, match=said) as caught:
            read(data, "bomb")
        assert str(caught.value).startswith("bomb: ")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300 << 10


def test_pages_and_frames_are_counted_without_decoding_them() -> None:
    """Half a million frames of 15 bytes, and pages of 78, are counted or refused at once."""
    assert pictures_in(gif(*[FRAME] * 50_000), "a.gif") == 50_000
    with pytest.raises(ImageError, match="pictures, over 100000"):
        pictures_in(gif(*[FRAME] * 500_000), "a.gif")
    with pytest.raises(ImageError, match="over 5000 pages"):
        pictures_in(many_pages(60_000), "a.tif")
    assert pictures_in(gif(FRAME)[:-4], "a.gif") == 1


def test_a_chunk_of_gigabytes_is_not_handed_to_opencv() -> None:
    """OpenCV takes the memory that a chunk of a PNG announces, here 4 GB, before it reads on."""
    data = png(20, 20, depth=16, kind=6, rows=20)
    at = data.index(b"IDAT") - 4
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="it is cut off"):
        decode_deep(data[:at] + b"\xff\x7f\0\0" + data[at + 4 :], "a.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10
    with pytest.raises(ImageError, match="PNG is not read here"):
        decode_bgr(data, "a.png")


@pytest.mark.parametrize("depth", [8, 16])
def test_opencv_gets_the_still_picture_of_a_png(depth: int) -> None:
    """Frames of an animation, whose chunks have crashed OpenCV, and text are left out; a chunk
    whose sum is wrong is refused."""
    data = png(20, 20, depth=depth, kind=6, rows=20)
    whole = decode_deep(data, "a.png")
    at = data.index(b"IDAT") - 4
    frames = _chunk(b"acTL", struct.pack(">II", 2, 0)) + _chunk(b"fcTL", bytes(26))
    frames += _chunk(b"tEXt", b"a\0b")
    animated = data[:at] + frames + data[at:]
    animated = animated.replace(b"\0\0\0\0IEND", _chunk(b"fdAT", bytes(40)) + b"\0\0\0\0IEND")
    assert whole is not None
    assert np.array_equal(decode_deep(animated, "a.png"), whole)
    with pytest.raises(ImageError, match="not a readable image"):
        decode_deep(animated.replace(b"a\0b", b"a\0c"), "a.png")


def _chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def test_damaged_exif_data_leave_a_picture_as_stored() -> None:
    """An orientation that cannot be read is none; viewers show such a photo too."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\0\0\0\0" * 50
    data = saved("JPEG", exif=exif)
    assert decode_rgba(data, "a.jpg").shape == (64, 64, 4)
    assert shown_size(data, "a.jpg") == (64, 64)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """A pipe would block forever, and a device never ends."""
    os.mkfifo(tmp_path / "pipe.png")
    for name in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(ImageError, match="is a device or pipe"):
            read_picture_file(name)
    with pytest.raises(ImageError, match="is a folder"):
        read_picture_file(tmp_path)
    (tmp_path / "large.png").write_bytes(b"")
    os.truncate(tmp_path / "large.png", 1 << 40)  # sparse: no block of it exists
    with pytest.raises(ImageError, match=r"has 1024 GB: At most 512 MB are read"):
        read_rgba(tmp_path / "large.png")


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        png(8100, 8200, rows=8200),
        png(8100, 8200, kind=6, rows=8200),
        png(5700, 5800, depth=16, kind=6, rows=5800),
        with_size(SCANS, b"\xff\xc2", 5, struct.pack(">HH", 8200, 8100)),
    ],
    ids=["RGB", "RGBA", "16 bits", "progressive JPEG"],
)
def test_the_largest_small_file_takes_less_than_two_gigabytes(tmp_path: Path, data: bytes) -> None:
    """What is just allowed is read as a tensor of floats within the budget."""
    (tmp_path / "a.png").write_bytes(data)
    program = (
        "import resource; from physadv.core.image_io import read_image; read_image('a.png'); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=True)
    assert int(done.stdout) * 1024 < 2e9


@pytest.fixture(scope="module")
def phone_photo() -> bytes:
    """A JPEG of 200 megapixels, sideways, as a phone makes it: half red, half blue."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (16320, 12240), (200, 10, 10))
    picture.paste((10, 10, 200), (8160, 0, 16320, 12240))
    picture.save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue() + bytes(8_000_000)  # a picture of two colors packs like a bomb


@pytest.mark.slow
@pytest.mark.parametrize(
    "read",
    [
        "from physadv.core.image_io import read_rgb; a = read_rgb('a.jpg'); side = 16320",
        "from physadv.core.image_io import read_image; side = 8160;"
        "a = read_image('a.jpg').permute(1, 2, 0).mul(255)",
        "from physadv.privacy.photo_io.photo import read_photo; a = read_photo('a.jpg').rgb;"
        "side = 16320",
        "from physadv.eot.scenes.photos import read_photos; from pathlib import Path; side = 960;"
        "a = read_photos(Path('a.jpg'), 720)[0][0].image",
    ],
    ids=["read_rgb", "read_image", "read_photo", "read_photos"],
)
def test_a_photo_of_200_megapixels_takes_less_than_two_gigabytes(
    tmp_path: Path, phone_photo: bytes, read: str
) -> None:
    """Phones make them. It stands upright, at full size or reduced, within the budget."""
    (tmp_path / "a.jpg").write_bytes(phone_photo)
    program = (
        "import resource, physadv.eot.scenes.photos, physadv.privacy.photo_io.photo\n"
        "most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"before = most(); {read}\n"
        "assert a.shape[0] == side and a.shape[1] == side * 3 // 4, a.shape\n"
        "assert abs(int(a[5, 5, 0]) - 200) < 4 and abs(int(a[-5, 5, 2]) - 200) < 4\n"
        "print(most() - before)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=True)
    assert int(done.stdout) * 1024 < 2e9


def test_a_reduced_jpeg_keeps_its_shorter_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The factor is the largest of 2, 4 and 8 that does; the size of the file is told beside it."""
    monkeypatch.setattr("physadv.core.image_io._AMPLE_PX", 100)
    for width, height, expected in ((199, 900, 199), (200, 900, 100), (850, 1700, 107)):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (width, height), (9, 90, 200)).save(tmp_path / "a.jpg", exif=exif)
        pixels, size = read_reduced(tmp_path / "a.jpg")
        assert size == (height, width)  # shown sideways
        assert pixels.shape[0] == expected
    Image.new("RGB", (900, 900)).save(tmp_path / "a.png")
    assert read_reduced(tmp_path / "a.png")[0].shape == (900, 900, 4)


def test_bands_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that is converted in pieces, turned and with transparency, is the same."""
    pixels = np.random.default_rng(0).integers(0, 256, (31, 17, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    monkeypatch.setattr("physadv.core.image_io._BAND_PIXELS", 40)
    assert np.array_equal(decode_rgba(buffer.getvalue(), "a.png"), np.rot90(pixels, -1))
