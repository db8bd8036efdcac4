"""One photo from Python: files and arrays, nothing written unless asked, originals untouched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tinyface import KnownFinder, drawn_photo, face_at, tiny_embedder

from physadv.core.errors import ImageError, OptionError
from physadv.privacy.cloak_faces import MODES
from physadv.privacy.cloak_photo import cloak_photo

QUICK = replace(MODES["mid"], steps=8, draws=2, every=4)
KNOWN = {"finders": [KnownFinder()], "embedders": [tiny_embedder()]}
PHOTO = drawn_photo(120, 120, face_at(30, 30, 60))


def test_an_array_and_its_file_are_cloaked_alike(tmp_path: Path) -> None:
    """Same pixels, same name, same seed: same cloak; the original and the array stay as they
    were."""
    file = tmp_path / "photo"
    Image.fromarray(PHOTO).save(file.with_suffix(".png"))
    file.with_suffix(".png").rename(file)
    bytes_before, pixels_before = file.read_bytes(), PHOTO.copy()
    by_array = cloak_photo(PHOTO, mode=QUICK, **KNOWN)
    by_file = cloak_photo(file, mode=QUICK, **KNOWN)
    assert np.array_equal(by_array.pixels, by_file.pixels)
    assert not np.array_equal(by_array.pixels, PHOTO)
    assert len(by_array.faces) == 1
    assert by_array.path is None
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == bytes_before
    assert np.array_equal(PHOTO, pixels_before)


def test_out_is_written_once_and_never_over_the_original(tmp_path: Path) -> None:
    """The file holds the returned pixels; naming the original is an error before any work."""
    source = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(source)
    result = cloak_photo(source, mode=QUICK, out=tmp_path / "new" / "cloaked.png", **KNOWN)
    assert result.path is not None
    assert np.array_equal(np.asarray(Image.open(result.path)), result.pixels)
    with pytest.raises(ImageError, match="original"):
        cloak_photo(source, mode=QUICK, out=source, **KNOWN)


def test_without_a_face_nothing_is_changed_or_written(tmp_path: Path) -> None:
    """And no embedder is needed to say so."""
    result = cloak_photo(PHOTO, finders=[lambda pixels: []], out=tmp_path / "a.png")
    assert np.array_equal(result.pixels, PHOTO)
    assert result.faces == ()
    assert "no face" in result.notes[-1]
    assert not (tmp_path / "a.png").exists()


def test_what_is_no_photo_is_refused() -> None:
    """Grayscale, floats and unknown modes name what is needed."""
    for wrong in (PHOTO[..., 0], PHOTO / 255, PHOTO[:0]):
        with pytest.raises(ImageError, match="uint8"):
            cloak_photo(wrong, **KNOWN)
    with pytest.raises(OptionError, match="low, mid, high"):
        cloak_photo(PHOTO, mode="max", **KNOWN)
