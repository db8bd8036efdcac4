"""Every orientation, in every format, by every mode: from file to cloaked file, through the real
cloak."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tinyface import KnownFinder, drawn_photo, face_at, tiny_embedder

from physadv.privacy.batch import plan_jobs, run_folder
from physadv.privacy.cloak_faces import MODES
from physadv.privacy.photo_cloaker import PhotoCloaker, cloaker_settings
from physadv.privacy.photo_io.photo import read_photo

HEIGHT, WIDTH = 90, 120
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright photo is stored under each EXIF orientation."""


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", TURNS)
def test_cloak_is_upright_and_in_its_box(
    tmp_path: Path, mode: str, suffix: str, orientation: int
) -> None:
    """The output is upright without an orientation mark; only the face box changed, within the
    mode's limits."""
    finder = KnownFinder()
    upright = drawn_photo(HEIGHT, WIDTH, face_at(37, 22, 45))
    stored = (
        Image.fromarray(upright)
        if TURNS[orientation] is None
        else Image.fromarray(upright).transpose(TURNS[orientation])
    )  # type: ignore[arg-type]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "in").mkdir()
    exact = {
        "webp": {"lossless": True, "exact": True},
        "jpg": {"quality": 98, "subsampling": 0},
    }.get(suffix, {})
    stored.save(tmp_path / "in" / f"a.{suffix}", exif=exif, **exact)  # type: ignore[arg-type]

    chosen = replace(MODES[mode], steps=2, draws=1, every=2)
    cloaker = PhotoCloaker([finder], [tiny_embedder()], chosen)
    jobs, out = plan_jobs(tmp_path / "in", tmp_path / "out")
    (done,) = run_folder(jobs, out, cloaker, settings=cloaker_settings(cloaker))
    assert done.status == "cloaked"
    written = Image.open(out / f"a.{suffix}")
    assert written.size == (WIDTH, HEIGHT)
    assert written.getexif().get(0x0112, 1) == 1

    before, after = (
        read_photo(folder / f"a.{suffix}").rgb.astype(int) for folder in (tmp_path / "in", out)
    )
    changed = np.abs(after - before).max(2)
    x0, y0, x1, y1 = done.row["faces"][0]["box"]
    inside = changed[y0:y1, x0:x1].max()
    changed[y0:y1, x0:x1] = 0
    assert inside > 0
    assert done.row["faces"][0]["linf"] <= chosen.linf
    assert done.row["faces"][0]["dssim"] <= chosen.dssim
    if suffix == "jpg":  # compressed once more, so a little of everything moves
        assert np.median(changed) <= 6
    else:
        assert inside <= chosen.linf
        assert changed.max() == 0
