"""Images of every depth, mode and kind show what viewers show, or are named."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from physadv.camera.open_source import open_frame_source
from physadv.core.errors import CaptureError, DataError, ImageError
from physadv.core.image_io import (
    IMAGE_SUFFIXES,
    lay_on_white,
    list_images,
    read_image,
    read_rgb,
    read_rgba,
)
from physadv.core.picture_files import picture_count, shown_size
from physadv.datasets import read_dataset
from physadv.eot.mask_shapes import make_mask
from physadv.eot.scenes.photos import read_photos

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def write_png(
    path: Path,
    rows: list[bytes],
    width: int,
    depth: int,
    kind: int,
    key: bytes,
    palette: bytes = b"",
) -> Path:
    """Write a PNG of any depth and color type with a tRNS chunk."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    colors = chunk(b"PLTE", palette) if palette else b""
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + colors
        + chunk(b"tRNS", key)
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize(
    ("depth", "kind", "row", "key", "palette"),
    [
        (1, 0, b"\x80", b"\0\0", b""),
        (2, 0, b"\x80", b"\0\0", b""),
        (2, 0, b"\xb0", b"\0\3", b""),
        (4, 0, b"\x5a", b"\0\x0a", b""),
        (8, 0, b"\x10\x20", b"\0\x20", b""),
        (16, 0, b"\x10\0\x10\x01", b"\x10\x01", b""),
        (8, 2, b"\1\2\3\4\5\6", b"\0\4\0\5\0\6", b""),
        (16, 2, b"\1\0\2\0\3\0\4\0\5\0\6\0", b"\4\0\5\0\6\0", b""),
        (8, 3, b"\0\1", b"\xff\0", b"\1\2\3\4\5\6"),
        (4, 3, b"\x01", b"\xff\0", b"\1\2\3\4\5\6"),
    ],
)
def test_the_transparent_color_of_a_png_at_any_depth(
    tmp_path: Path, depth: int, kind: int, row: bytes, key: bytes, palette: bytes
) -> None:
    """The left pixel is opaque and the right one, of the named color, is clear."""
    file = write_png(tmp_path / "x.png", [row], 2, depth, kind, key, palette)
    assert read_rgba(file)[0, :, 3].tolist() == [255, 0]
    assert read_rgb(file)[0, 1].tolist() == [255, 255, 255]
    assert read_image(file)[:, 0, 1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "PA"])
def test_alpha_of_any_mode_is_laid_on_white(tmp_path: Path, mode: str) -> None:
    """What lies beneath alpha 0 is never the picture."""
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = (90, 90, 90, 255)
    image = Image.fromarray(rgba)
    name = tmp_path / ("x.tif" if mode == "PA" else "x.png")
    if mode == "P":
        image.convert("P").save(name, transparency=int(image.convert("P").getpixel((0, 3))))
    elif mode == "PA":
        image.save(name)
    else:
        image.convert(mode).save(name)
    picture = read_rgb(name)
    assert np.abs(picture[0].astype(int) - 90).max() <= 3
    assert (picture[3] == 255).all()


def test_half_transparent_pixels_are_mixed() -> None:
    """A black pixel of alpha 102 of 255 is 60 % white."""
    assert lay_on_white(np.array([[[0, 0, 0, 102]]], np.uint8)).tolist() == [[[153, 153, 153]]]


def test_cmyk_and_orientation(tmp_path: Path) -> None:
    """A CMYK JPEG shows its colors, and a size is that of the picture as it is shown."""
    Image.new("RGB", (16, 8), (200, 30, 30)).convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    assert np.abs(read_rgb(tmp_path / "x.jpg")[0, 0].astype(int) - (200, 30, 30)).max() < 6

    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (16, 8)).save(buffer, "JPEG", exif=exif)
    assert shown_size(buffer.getvalue(), "x.jpg") == (8, 16)


def test_pixels_of_other_kinds_are_named(tmp_path: Path) -> None:
    """Floating point and 32-bit integers have no known range."""
    for name, pixels in (("f", np.zeros((4, 4), np.float32)), ("i", np.full((4, 4), 70000, "i4"))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.tif")
        with pytest.raises(ImageError, match=rf"{name}\.tif"):
            read_rgba(tmp_path / f"{name}.tif")


def test_transparent_images_of_a_data_set_are_on_white(tmp_path: Path) -> None:
    """A data set's images are composed as single images are."""
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(tmp_path / name / "0.png")
    assert (read_dataset(tmp_path).read(0) == 255).all()


def test_heic_is_read_or_named_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pillow-heif no command leaves a HEIC out silently."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for folder in "ab":
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((9, 9, 3), ord(folder), np.uint8)).save(tmp_path / folder / "1.png")
    (tmp_path / "a" / "IMG_1.HEIC").write_bytes(HEIC)

    assert "IMG_1.HEIC" in [file.name for file in list_images(tmp_path)]
    with pytest.raises(ImageError, match="HEIC needs the package pillow-heif"):
        read_rgba(tmp_path / "a" / "IMG_1.HEIC")
    source = open_frame_source(tmp_path)
    assert len(list(source)) == 2
    assert ["pillow-heif" in line for line in source.warnings] == [True]
    with pytest.raises(CaptureError, match="pillow-heif"):
        list(open_frame_source(tmp_path / "a" / "IMG_1.HEIC"))
    assert ["pillow-heif" in note for note in read_photos(tmp_path, 9)[1]] == [True]

    dataset = read_dataset(tmp_path)
    assert len(dataset) == 3
    with pytest.raises(DataError, match="pillow-heif"):
        [dataset.read(number) for number in range(3)]


def test_heic_by_another_name_is_still_heic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phones and messengers rename; the content decides."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "x.jpg").write_bytes(HEIC)
    with pytest.raises(ImageError, match="pillow-heif"):
        read_rgba(tmp_path / "x.jpg")


def test_heic_with_its_package(tmp_path: Path) -> None:
    """With pillow-heif a HEIC is an image like any other."""
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "x.heic")
    picture = read_rgb(tmp_path / "x.heic")
    assert picture.shape == (48, 64, 3)
    assert np.abs(picture.astype(int) - (200, 30, 30)).max() < 12


def test_what_is_no_image_is_named_without_the_readers_objects(tmp_path: Path) -> None:
    """The error names the file and nothing of the library that tried to read it."""
    (tmp_path / "a.jpg").write_bytes(bytes(range(200)))
    with pytest.raises(ImageError) as caught:
        read_rgb(tmp_path / "a.jpg")
    assert str(caught.value).endswith("a.jpg: not a readable image. Replace or remove the file.")


def test_litter_is_no_image(tmp_path: Path) -> None:
    """Hidden files, previews of network drives and archivers' copies are not listed."""
    for name in (".hidden/1.png", "__MACOSX/._1.png", "@eaDir/1.png", "day/1.png", "._2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)] == ["day/1.png"]
    assert {".heic", ".avif", ".jp2", ".jfif", ".webp", ".tiff"} <= IMAGE_SUFFIXES


def test_pictures_are_counted(tmp_path: Path) -> None:
    """An animation or a scan of pages says how many pictures it holds; junk counts as one."""
    frames = [Image.new("L", (4, 4), 50 * n) for n in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "b.png").write_bytes(b"junk")
    assert (picture_count(tmp_path / "a.gif"), picture_count(tmp_path / "b.png")) == (3, 1)


def test_a_mask_is_whatever_is_not_white(tmp_path: Path) -> None:
    """Any color on an opaque white is the sticker: bright yellow and pale blue as well as black."""
    picture = np.full((100, 100, 3), 255, np.uint8)
    for column, color in enumerate([(0, 0, 0), (255, 255, 0), (220, 235, 255), (255, 120, 120)]):
        picture[10:90, 10 + 20 * column : 30 + 20 * column] = color
    Image.fromarray(picture).save(tmp_path / "m.png")
    assert float(make_mask(str(tmp_path / "m.png"), 100, 100).mean()) == pytest.approx(
        0.64, abs=0.01
    )


def test_a_mask_with_a_transparent_color(tmp_path: Path) -> None:
    """16-bit gray whose background is named as transparent marks the rest."""
    rows = [b"\0\0" * 5 + b"\x80\0" * 5] * 5 + [b"\0\0" * 10] * 5
    file = write_png(tmp_path / "m.png", rows, 10, 16, 0, b"\0\0")
    assert float(make_mask(str(file), 100, 100).mean()) == pytest.approx(0.25, abs=0.01)


def test_a_white_mask_on_black_is_refused(tmp_path: Path) -> None:
    """The other convention would cut out the surroundings."""
    from physadv.core.errors import GeometryError

    picture = np.zeros((40, 40), np.uint8)
    picture[10:30, 10:30] = 255
    Image.fromarray(picture).save(tmp_path / "m.png")
    with pytest.raises(GeometryError, match="white on black"):
        make_mask(str(tmp_path / "m.png"), 40, 40)


def test_the_short_way_to_rgb_shows_what_the_long_one_does(tmp_path: Path) -> None:
    """Pictures with and without gray, transparency, a key, a turn, a profile: read to RGB at once,
    and laid on white from RGBA."""
    source = np.random.default_rng(0)
    rgba = Image.fromarray(source.integers(0, 256, (9, 7, 4), dtype=np.uint8))
    rgb, turned = rgba.convert("RGB"), Image.Exif()
    turned[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    kinds: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "rgb.png": (rgb, {}),
        "rgb.jpg": (rgb, {}),
        "gray.jpg": (rgb.convert("L"), {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "turned.jpg": (rgb, {"exif": turned}),
        "profile.png": (rgb, {"icc_profile": profile}),
        "key.png": (rgb, {"transparency": rgb.getpixel((3, 3))}),
        "alpha.png": (rgba, {}),
        "palette.png": (rgb.quantize(4), {"transparency": 1}),
        "one.png": (rgb.convert("1"), {}),
    }
    for name, (image, options) in kinds.items():
        image.save(tmp_path / name, **options)
        found = read_rgb(tmp_path / name)
        assert np.array_equal(found, lay_on_white(read_rgba(tmp_path / name))), name
        assert found.flags.writeable
        assert found.shape == ((7, 9, 3) if name == "turned.jpg" else (9, 7, 3))
