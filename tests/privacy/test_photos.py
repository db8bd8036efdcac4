"""Photo I/O: orientation x format x depth, profiles, transparency; private metadata is removed."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from physadv.core.errors import ImageError
from physadv.privacy.photo_io.photo import encode_photo, output_name, read_photo, save_photo

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP", "gif": "GIF"}
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth picture whose corners all differ, so that any turn shows."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 / width, y * 255 / height, (x + y) * 1.2 % 255], -1).astype(np.uint8)


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels as a camera held that way stores them: the inverse of what the tag asks for."""
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(turns[orientation](upright))


def exif(orientation: int = 1, *, private: bool = False) -> bytes:
    table = Image.Exif()
    table[0x0112] = orientation
    table[0x010F], table[0x0110] = "Maker", "Model X"
    table.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    if private:
        table[0x013B] = "Jane Artist"
        table.get_ifd(0x8769).update(
            {0xA431: "BODY-SERIAL-77", 0xA435: "LENS-SERIAL-88", 0x927C: b"MAKERNOTE-99"}
        )
        table.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)})
    return table.tobytes()


def written(folder: Path, suffix: str, pixels: np.ndarray, **options: object) -> Path:
    path = folder / f"photo.{suffix}"
    extra = (
        {"quality": 98, "subsampling": 0}
        if suffix == "jpg"
        else {"lossless": True}
        if suffix == "webp"
        else {}
    )
    Image.fromarray(pixels).save(path, format=FORMATS[suffix], **{**extra, **options})
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    """Read upright, written upright with no turn asked for, and a change lands where it was
    made."""
    upright = picture()
    path = written(tmp_path, suffix, stored(upright, orientation), exif=exif(orientation))
    photo = read_photo(path)
    tolerance = 12 if suffix == "jpg" else 0
    assert np.abs(photo.rgb.astype(int) - upright).max() <= tolerance
    changed = photo.rgb.copy()
    changed[5:15, 30:45] = changed[5:15, 30:45] // 2
    out = save_photo(tmp_path / "out" / output_name(path, photo.suffix), photo, changed)
    with Image.open(out) as again:
        assert again.getexif().get(0x0112, 1) == 1
        assert again.format == FORMATS[suffix]
        assert (
            np.abs(np.asarray(again.convert("RGB")).astype(int) - changed).mean() <= tolerance / 4
        )


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "bmp"])
def test_lossless_formats_keep_untouched_pixels_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    """Outside of the change every pixel is the original's, and inside it is the one asked for."""
    path = written(tmp_path, suffix, picture())
    photo = read_photo(path)
    changed = photo.rgb.copy()
    changed[3:9, 4:11] ^= 1
    out = save_photo(tmp_path / "out" / path.name, photo, changed)
    assert photo.lossless
    assert np.array_equal(np.asarray(Image.open(out).convert("RGB")), changed)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_profile_is_kept(tmp_path: Path, suffix: str) -> None:
    """The ICC profile goes back byte for byte, and the pixels are not converted by it."""
    photo = read_photo(written(tmp_path, suffix, picture(), icc_profile=ICC))
    out = Image.open(io.BytesIO(encode_photo(photo, photo.rgb)))
    assert out.info["icc_profile"] == ICC


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_place_and_serials_go_and_the_rest_stays(tmp_path: Path, suffix: str) -> None:
    """GPS, serial numbers, maker notes and names are gone by default; the date and the model are
    not."""
    path = written(tmp_path, suffix, picture(), exif=exif(6, private=True))
    photo = read_photo(path)
    data = encode_photo(photo, photo.rgb)
    table = Image.open(io.BytesIO(data)).getexif()
    assert not table.get_ifd(0x8825)
    assert table[0x0110] == "Model X"
    assert table.get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09"
    for secret in (b"SERIAL-77", b"SERIAL-88", b"MAKERNOTE-99", b"Jane"):
        assert secret in path.read_bytes()
        assert secret not in data


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_keep_metadata_keeps_it(tmp_path: Path, suffix: str) -> None:
    """On demand place and serial numbers stay; the orientation is still spent."""
    photo = read_photo(written(tmp_path, suffix, picture(), exif=exif(6, private=True)))
    table = Image.open(io.BytesIO(encode_photo(photo, photo.rgb, keep_metadata=True))).getexif()
    assert table.get_ifd(0x8825)[2] == (52.0, 31.0, 12.0)
    assert table.get_ifd(0x8769)[0xA431] == "BODY-SERIAL-77"
    assert table.get(0x0112, 1) == 1


def test_embedded_thumbnail_never_survives(tmp_path: Path) -> None:
    """The EXIF thumbnail shows the face as it was: it goes, with or without the metadata."""
    buffer = io.BytesIO()
    Image.fromarray(picture(24, 32)).save(buffer, "JPEG")
    thumbnail = buffer.getvalue()
    base = exif()
    tiff = bytearray(base.removeprefix(b"Exif\0\0"))
    order = "little" if tiff[:2] == b"II" else "big"
    first = int.from_bytes(tiff[4:8], order)
    count = int.from_bytes(tiff[first : first + 2], order)
    link, start = first + 2 + 12 * count, len(tiff)

    def entry(tag: int, value: int) -> bytes:
        return (
            tag.to_bytes(2, order)
            + (4).to_bytes(2, order)
            + (1).to_bytes(4, order)
            + value.to_bytes(4, order)
        )

    tiff[link : link + 4] = start.to_bytes(4, order)
    tiff += (
        (2).to_bytes(2, order)
        + entry(0x0201, start + 30)
        + entry(0x0202, len(thumbnail))
        + bytes(4)
        + thumbnail
    )
    path = written(tmp_path, "jpg", picture(), exif=b"Exif\0\0" + bytes(tiff))
    assert thumbnail in path.read_bytes()
    photo = read_photo(path)
    for keep in (False, True):
        assert thumbnail[:200] not in encode_photo(photo, photo.rgb, keep_metadata=keep)


def test_xmp_with_a_picture_is_dropped_even_when_metadata_is_kept(tmp_path: Path) -> None:
    """XMP goes by default; on demand it stays unless it carries a thumbnail of its own."""
    for text, kept in (
        (b"<x:xmpmeta>place</x:xmpmeta>", True),
        (b"<xmpGImg:image>abcd</xmpGImg:image><a>xmp:Thumbnails</a>", False),
    ):
        photo = read_photo(written(tmp_path, "jpg", picture(), xmp=text))
        assert text not in encode_photo(photo, photo.rgb)
        assert (text in encode_photo(photo, photo.rgb, keep_metadata=True)) is kept


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_transparency_is_kept_exactly(tmp_path: Path, suffix: str) -> None:
    """RGBA: the alpha channel and the color under it come back as they were."""
    alpha = np.linspace(0, 255, 40 * 56).reshape(40, 56, 1).astype(np.uint8)
    rgba = np.concatenate([picture(), alpha], 2)
    photo = read_photo(
        written(tmp_path, suffix, rgba, **({"exact": True} if suffix == "webp" else {}))
    )
    again = np.asarray(Image.open(io.BytesIO(encode_photo(photo, photo.rgb))))
    assert np.array_equal(again, rgba)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp"])
def test_gray_stays_gray(tmp_path: Path, suffix: str) -> None:
    """One channel in, one channel out (WebP knows no gray: three equal ones)."""
    gray = picture()[..., 1]
    photo = read_photo(written(tmp_path, suffix, gray))
    out = Image.open(io.BytesIO(encode_photo(photo, photo.rgb)))
    assert out.mode == ("RGB" if suffix == "webp" else "L")
    assert np.abs(np.asarray(out.convert("RGB")).astype(int) - gray[..., None]).max() <= (
        4 if suffix == "jpg" else 0
    )


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("suffix", "orientation"), [("png", 1), ("png", 6), ("tif", 1)])
def test_sixteen_bits_are_kept(
    tmp_path: Path, channels: int, suffix: str, orientation: int
) -> None:
    """16-bit values outside of the change come back exactly, inside they move by whole 8-bit
    steps."""
    rng = np.random.default_rng(channels)
    upright = rng.integers(2000, 60000, (40, 56, channels)).astype(np.uint16)
    pixels = stored(upright, orientation)
    bgr = pixels[..., [2, 1, 0, *range(3, channels)]] if channels >= 3 else pixels[..., 0]
    path = tmp_path / f"deep.{suffix}"
    cv2.imwrite(str(path), np.ascontiguousarray(bgr))
    if orientation != 1:
        data = path.read_bytes()
        from physadv.privacy.photo_io.sixteen_bit import _chunk

        path.write_bytes(
            data[:33] + _chunk(b"eXIf", exif(orientation).removeprefix(b"Exif\0\0")) + data[33:]
        )
    photo = read_photo(path)
    assert photo.rgb.shape == (40, 56, 3)
    changed = photo.rgb.copy()
    changed[10:20, 10:20] += 3
    out = save_photo(tmp_path / "out" / output_name(path, photo.suffix), photo, changed)
    again = cv2.imread(str(out), cv2.IMREAD_UNCHANGED)
    again = again[..., None] if again.ndim == 2 else again[..., [2, 1, 0, *range(3, channels)]]
    want = upright.astype(int)
    want[10:20, 10:20, : min(channels, 3)] += 3 * 257
    assert again.dtype == np.uint16
    assert np.array_equal(again, want)
    assert out.suffix == ".png"


def test_sixteen_bit_png_keeps_its_profile(tmp_path: Path) -> None:
    """The profile, resolution and EXIF are put back around the 16-bit pixels."""
    from physadv.privacy.photo_io.metadata import PhotoMetadata
    from physadv.privacy.photo_io.sixteen_bit import _chunk, encode_16bit

    full = np.full((8, 8, 3), 30000, np.uint16)
    eight = np.full((8, 8, 3), 117, np.uint8)
    said = PhotoMetadata(ICC, (300.0, 300.0), {0x0110: "Model X"}, {}, {}, None, None)
    with Image.open(io.BytesIO(encode_16bit(full, eight, eight, said))) as out:
        out.load()
        assert out.info["icc_profile"] == ICC
        assert out.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert out.getexif()[0x0110] == "Model X"
    assert _chunk(b"IEND", b"") == bytes.fromhex("0000000049454e44ae426082")


def test_palette_picture_is_read_in_color(tmp_path: Path) -> None:
    """A palette PNG with a transparent color comes out as full color with transparency."""
    image = Image.fromarray(picture()).quantize(64)
    image.info["transparency"] = 3
    path = tmp_path / "p.png"
    image.save(path, transparency=3)
    photo = read_photo(path)
    assert photo.alpha is not None
    assert {0, 255} == set(np.unique(photo.alpha))


def test_gif_gives_its_first_frame_and_says_so(tmp_path: Path) -> None:
    """An animation is cut to its first frame, written as PNG, and the notes say both."""
    frames = [Image.fromarray(np.roll(picture(), 9 * k, 1)) for k in range(3)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    photo = read_photo(path)
    assert "first of 3" in photo.notes[0]
    assert any("PNG" in note for note in photo.notes)
    assert output_name(path, photo.suffix) == "a.gif.png"
    assert np.abs(photo.rgb.astype(int) - picture()).mean() < 10


@pytest.mark.parametrize(
    ("mode", "said"), [("CMYK", "CMYK"), ("F", "floating"), ("LAB", "Lab"), ("I", "32-bit")]
)
def test_what_is_not_handled_is_refused_by_name(tmp_path: Path, mode: str, said: str) -> None:
    """Color spaces that would be guessed at are refused, each by its name."""
    path = tmp_path / "x.tif"
    if mode == "LAB":
        profile = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        )
        found = ImageCms.applyTransform(Image.fromarray(picture()), profile)
        assert found is not None
        found.save(path)
    else:
        Image.fromarray(picture()).convert("L" if mode in "FI" else "RGB").convert(mode).save(path)
    with pytest.raises(ImageError, match=said):
        read_photo(path)


def test_cmyk_jpeg_is_refused_by_name(tmp_path: Path) -> None:
    """A print shop's JPEG is not turned into wrong colors in silence."""
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match="CMYK"):
        read_photo(tmp_path / "x.jpg")


@pytest.mark.parametrize("data", [b"", b"no image at all", b"\xff\xd8\xff\xe0broken"])
def test_damaged_files_are_named(tmp_path: Path, data: bytes) -> None:
    """Empty, foreign and truncated files raise one error that names the file."""
    path = tmp_path / "broken.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        read_photo(path)


def test_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    """Half a photo is not cloaked as if it were whole."""
    path = written(tmp_path, "jpg", picture(400, 400))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ImageError, match="truncated"):
        read_photo(path)


def test_original_is_never_overwritten(tmp_path: Path) -> None:
    """Not even on request, not even by another name for the same file."""
    path = written(tmp_path, "png", picture())
    before = path.read_bytes()
    (tmp_path / "alias.png").symlink_to(path)
    for target in (path, tmp_path / "alias.png"):
        with pytest.raises(ImageError, match="original"):
            save_photo(target, read_photo(path), picture() // 2)
    assert path.read_bytes() == before


def test_jpeg_keeps_its_subsampling_and_nearly_its_pixels(tmp_path: Path) -> None:
    """JPEG is lossy by nature: unchanged pixels move by a few steps at most, and full chroma stays
    full."""
    for subsampling in (0, 2):
        photo = read_photo(written(tmp_path, "jpg", picture(), subsampling=subsampling))
        assert photo.options["subsampling"] == subsampling
        again = read_photo(save_photo(tmp_path / f"o{subsampling}.jpg", photo, photo.rgb))
        assert np.abs(again.rgb.astype(int) - photo.rgb).mean() < 2


def test_heic_round_trip_or_a_clear_word(tmp_path: Path) -> None:
    """With pillow-heif a HEIC comes back as HEIC; without it the error says what is missing."""
    path = tmp_path / "x.heic"
    try:
        import pillow_heif
    except ImportError:
        path.write_bytes(b"\0\0\0\x18ftypheic")
        with pytest.raises(ImageError, match="pillow-heif"):
            read_photo(path)
        return
    pillow_heif.register_heif_opener()
    Image.fromarray(picture()).save(path, format="HEIF", quality=95)
    photo = read_photo(path)
    assert np.abs(photo.rgb.astype(int) - picture()).mean() < 6
    out = save_photo(tmp_path / "out.heic", photo, photo.rgb)
    assert np.abs(read_photo(out).rgb.astype(int) - photo.rgb).mean() < 6


@pytest.mark.parametrize(("format_name", "width"), [("WEBP", 16400), ("JPEG", 65600)])
def test_a_size_that_a_format_cannot_hold_is_named(
    format_name: str, width: int, tmp_path: Path
) -> None:
    """WebP ends at 16383 px and JPEG at 65535: the format and the size are said."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    long = np.zeros((2, width, 3), np.uint8)
    wide = replace(photo, rgb=long, options={"format": format_name})
    with pytest.raises(ImageError, match=rf"{width}x2 px: {format_name} takes none"):
        encode_photo(wide, long)


@pytest.mark.parametrize("tag", [0x02BC, 0x8649, 0x83BB, 0xC634, 0x927C])
def test_blocks_that_may_show_the_bare_face_never_survive(tmp_path: Path, tag: int) -> None:
    """XMP, Photoshop's, IPTC's and DNG's blocks of a TIFF, and a maker note with a preview, go even
    where metadata are kept: they may hold a thumbnail of the face as it was."""
    buffer = io.BytesIO()
    Image.fromarray(picture(24, 32)).save(buffer, "JPEG")
    table = Image.Exif()
    table[0x0110] = "Model X"
    block = b"8BIM\x04\x0c" + buffer.getvalue()
    if tag == 0x927C:
        table.get_ifd(0x8769)[tag] = block
    else:
        table[tag] = block
    path = written(tmp_path, "jpg" if tag == 0x927C else "tif", picture(), exif=table)
    assert block[:200] in path.read_bytes()
    photo = read_photo(path)
    for keep in (False, True):
        data = encode_photo(photo, photo.rgb, keep_metadata=keep)
        assert block[6:200] not in data
        assert Image.open(io.BytesIO(data)).getexif()[0x0110] == "Model X"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_dates_go_on_demand(tmp_path: Path, suffix: str) -> None:
    """With or without the other metadata, no date is left; the model of the camera is."""
    photo = read_photo(written(tmp_path, suffix, picture(), exif=exif(6, private=True)))
    for keep in (False, True):
        data = encode_photo(photo, photo.rgb, keep_metadata=keep, strip_dates=True)
        assert b"2024:05:06" not in data
        assert Image.open(io.BytesIO(data)).getexif()[0x0110] == "Model X"


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        (".avif", "a.avif.png"),
        (".jfif", "a.jfif"),
        (".jpe", "a.jpe"),
        (".jp2", "a.jp2.png"),
        (".mpo", "a.mpo.jpg"),
    ],
)
def test_rarer_formats_are_read_and_named(tmp_path: Path, suffix: str, name: str) -> None:
    """JPEGs by other names keep them; what is not written back is named after what it becomes."""
    path = tmp_path / f"a{suffix}"
    Image.fromarray(picture()).save(path)
    photo = read_photo(path)
    assert output_name(path, photo.suffix) == name
    out = tmp_path / "out" / name
    save_photo(out, photo, photo.rgb)
    assert read_photo(out).rgb.shape == photo.rgb.shape
