"""Images, files, seeds, errors and sign faces."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from physadv.core.errors import ImageError, OptionError, PhysadvError
from physadv.core.files import atomic_path, sha256_of, write_json
from physadv.core.image_io import (
    list_images,
    png_bytes,
    read_image,
    read_rgba,
    save_png,
    stack,
    to_tensor,
    to_uint8,
)
from physadv.core.random_streams import derive, generator, numpy_generator
from physadv.core.sign_artwork import octagon_mm, sign_face
from physadv.core.synthetic_backgrounds import synthetic_background


def gradient() -> np.ndarray:
    y, x = np.mgrid[0:20, 0:30]
    return np.stack([x * 8, y * 12, np.full_like(x, 40)], -1).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_upright(tmp_path: Path, orientation: int) -> None:
    """A photo stored turned or mirrored, with its tag, reads as the upright picture."""
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    upright = Image.fromarray(gradient())
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    assert (read_rgba(tmp_path / "x.png")[..., :3] == gradient()).all()


def test_png_round_trip_is_exact(tmp_path: Path) -> None:
    """What is saved as 8-bit PNG reads back the same, alpha too."""
    rgba = np.dstack([gradient(), gradient()[..., 0]])
    save_png(tmp_path / "x.png", rgba)
    assert (read_rgba(tmp_path / "x.png") == rgba).all()
    assert (to_uint8(to_tensor(rgba)) == rgba).all()
    assert Image.open(io.BytesIO(png_bytes(to_tensor(gradient())))).size == (30, 20)


def test_sixteen_bit_gray_keeps_its_brightness(tmp_path: Path) -> None:
    """A 16-bit grayscale image is scaled, not clipped."""
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.abs(read_rgba(tmp_path / "deep.png")[..., 0].astype(float) - deep / 257).max() <= 1


def test_icc_profile_is_honored(tmp_path: Path) -> None:
    """A picture tagged with its profile is converted to sRGB; an sRGB tag changes nothing."""
    tagged = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(gradient()).save(tmp_path / "s.png", icc_profile=tagged)
    assert np.abs(read_rgba(tmp_path / "s.png")[..., :3].astype(int) - gradient()).max() <= 1


def test_transparency_is_laid_on_gray(tmp_path: Path) -> None:
    """read_image composes alpha over the background asked for."""
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(tmp_path / "clear.png")
    assert float(read_image(tmp_path / "clear.png", background=0.5).mean()) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "bad svg"])
def test_unreadable_images_name_the_file(tmp_path: Path, kind: str) -> None:
    """Whatever cannot be read raises ImageError with the file's name."""
    path = tmp_path / ("x.svg" if kind == "bad svg" else "x.jpg")
    if kind in {"empty", "text", "bad svg"}:
        path.write_text("" if kind == "empty" else "not an image")
    elif kind == "truncated":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ImageError, match=r"x\.(jpg|svg)|SVG"):
        read_rgba(path)


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    """An absent and an empty folder each name the remedy; images are found in subfolders,
    sorted."""
    with pytest.raises(ImageError, match="no such"):
        list_images(tmp_path / "absent")
    with pytest.raises(ImageError, match="holds no image"):
        list_images(tmp_path)
    (tmp_path / "b").mkdir()
    for name in ("b/2.png", "1.jpg"):
        Image.fromarray(gradient()).save(tmp_path / name)
    assert [p.name for p in list_images(tmp_path)] == ["1.jpg", "2.png"]
    with pytest.raises(ImageError, match="one size"):
        stack([torch.zeros(3, 2, 2), torch.zeros(3, 3, 2)])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """An exception while writing keeps what was there and leaves no litter."""
    target = write_json(tmp_path / "x.json", {"a": 1})
    before = sha256_of(target)

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert sha256_of(target) == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@given(
    st.integers(0, 2**40), st.lists(st.text("abc/", min_size=1, max_size=4), min_size=1, max_size=3)
)
def test_streams_are_named(seed: int, path: list[str]) -> None:
    """The same seed and names give the same stream; another name another one."""
    assert derive(seed, *path) == derive(seed, *path)
    assert derive(seed, *path) != derive(seed, *path, "more")
    assert torch.equal(
        torch.rand(2, generator=generator(seed, *path)),
        torch.rand(2, generator=generator(seed, *path)),
    )
    assert numpy_generator(seed, *path).random() == numpy_generator(seed, *path).random()


def test_errors_read_as_value_limit_remedy() -> None:
    """One line: value, limit, remedy; all under one base."""
    error = OptionError("eps 300", "at most 1", "write 300/255")
    assert str(error) == "eps 300: at most 1. Write 300/255."
    assert isinstance(error, PhysadvError)


def test_the_stop_sign_is_a_regular_octagon() -> None:
    """All eight sides are equal, and its alpha covers 82.84 % of the square; red field, white
    letters."""
    corners = np.array(octagon_mm(100))
    sides = np.linalg.norm(np.roll(corners, -1, 0) - corners, axis=1)
    assert np.ptp(sides) < 1e-9
    face = sign_face(width_px=256)
    assert float((face.rgba[..., 3] > 127).mean()) == pytest.approx(0.8284, abs=0.005)
    assert face.height_mm == pytest.approx(762)
    red, green, _ = face.rgba[60, 128, :3].tolist()
    assert red > 150 > 60 > green
    with pytest.raises(OptionError, match="yield"):
        sign_face("yield")


def test_backgrounds_made_by_code_repeat() -> None:
    """The same names give the same picture, others another."""
    assert (
        synthetic_background(1, "a", height=40, width=60)
        == synthetic_background(1, "a", height=40, width=60)
    ).all()
    assert (
        synthetic_background(1, "a", height=40, width=60)
        != synthetic_background(1, "b", height=40, width=60)
    ).any()


def test_pil_images_are_taken_as_tensors() -> None:
    """One or several of a size, RGB or gray, as floats in [0, 1]; other sizes are one line."""
    from physadv.core.tensors import as_float_images

    red = Image.new("RGB", (6, 4), (255, 0, 51))
    assert as_float_images(red).shape == (1, 3, 4, 6)
    assert as_float_images([red, red])[1, :, 0, 0].tolist() == pytest.approx([1, 0, 0.2])
    assert as_float_images([red.convert("L")]).shape == (1, 1, 4, 6)
    with pytest.raises(ImageError, match="2 sizes"):
        as_float_images([red, red.resize((5, 5))])
