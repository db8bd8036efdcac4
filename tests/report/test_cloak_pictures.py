"""The page of cloaked photos: it shows these, and a bare face only where it was asked for."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tinyface import KnownFinder, drawn_photo, tiny_embedder

from physadv.core.errors import DataError
from physadv.core.run_folder import CONFIG
from physadv.privacy.batch import MANIFEST, plan_jobs, run_folder
from physadv.privacy.cloak_faces import MODES
from physadv.privacy.photo_cloaker import PhotoCloaker, cloaker_settings
from physadv.report import cloak_pictures
from physadv.report.run_report import write_before_after, write_run_report

FACE = KnownFinder()(np.zeros((120, 160, 3)))[0]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A run over three photos, in a/ and in a-cloaked/."""
    (tmp_path / "a").mkdir()
    for person in range(3):
        photo = drawn_photo(120, 160, FACE, person=person)
        Image.fromarray(photo).save(tmp_path / "a" / f"{person}.png")
    mode = replace(MODES["high"], steps=2, draws=1, every=2)
    cloaker = PhotoCloaker([KnownFinder()], [tiny_embedder()], mode)
    jobs, out = plan_jobs(tmp_path / "a", None)
    for done in run_folder(jobs, out, cloaker, settings=cloaker_settings(cloaker)):
        assert done.status == "cloaked"
    (out / CONFIG).write_text('command = "cloak"\nphotos = "a"\n', encoding="utf-8")
    return out


def shown(page: Path) -> list[np.ndarray]:
    """The pictures on a page."""
    uris = re.findall(r'src="data:image/png;base64,([^"]+)"', page.read_text(encoding="utf-8"))
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri in uris]


def pixels(folder: Path, number: int) -> np.ndarray:
    return np.asarray(Image.open(folder / f"{number}.png"))


def is_part_of(part: np.ndarray, whole: np.ndarray) -> bool:
    """Whether a picture is cut out of another, pixel for pixel."""
    height, width = part.shape[:2]
    return any(
        np.array_equal(part, whole[y : y + height, x : x + width])
        for y in range(whole.shape[0] - height + 1)
        for x in range(whole.shape[1] - width + 1)
    )


def test_a_page_to_pass_on_shows_no_bare_face(album: Path) -> None:
    """Of each photo the whole and the face at 100 %, both of the cloaked file."""
    pictures = shown(write_run_report(album))
    assert len(pictures) == 6
    for number in range(3):
        whole, face = pictures[2 * number : 2 * number + 2]
        assert whole.shape == (108, 144, 3)
        assert is_part_of(face, pixels(album, number))
        assert not is_part_of(face, pixels(album.parent / "a", number))


def test_bare_faces_are_shown_on_request_beside_the_folder(album: Path) -> None:
    """The page is no file of the folder that is passed on, and says what it shows."""
    write_run_report(album)
    inside = sorted(album.rglob("*"))
    page = write_before_after(album, album.parent / "a")
    assert page.parent == album.parent
    assert sorted(album.rglob("*")) == inside
    assert "shows bare faces" in page.read_text(encoding="utf-8")
    pictures = shown(page)
    assert len(pictures) == 9
    for number in range(3):
        _, cloaked, bare = pictures[3 * number : 3 * number + 3]
        assert cloaked.shape == bare.shape
        assert is_part_of(bare, pixels(album.parent / "a", number))


def test_only_what_the_run_wrote_and_read_is_shown(album: Path, tmp_path: Path) -> None:
    """Not the original in a cloaked photo's place, not an original that changed since, and
    nothing that the manifest finds elsewhere."""
    (album / "0.png").write_bytes((album.parent / "a" / "0.png").read_bytes())
    Image.fromarray(drawn_photo(120, 160, FACE, person=9)).save(album.parent / "a" / "1.png")
    assert len(shown(write_run_report(album))) == 4
    assert len(shown(write_before_after(album, album.parent / "a"))) == 2 + 3

    manifest = album / MANIFEST
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace('"output": "2.png"', '"output": "../a/2.png"'))
    assert len(shown(write_run_report(album))) == 2


def test_a_large_album_shows_its_first_photos(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so."""
    monkeypatch.setattr(cloak_pictures, "MOST_SHOWN", 2)
    monkeypatch.setattr("physadv.report.run_report.MOST_SHOWN", 2)
    page = write_run_report(album)
    assert len(shown(page)) == 4
    assert "The first 2 of 3" in page.read_text(encoding="utf-8")


def test_other_runs_have_no_bare_faces(album: Path) -> None:
    """The request is refused, not ignored."""
    config = album / CONFIG
    config.write_text(config.read_text().replace('"cloak"', '"train"'))
    with pytest.raises(DataError, match="no cloaked photos"):
        write_before_after(album, album.parent / "a")
    config.unlink()
    (album / "card.toml").write_text('name = "sticker"\n')
    with pytest.raises(DataError, match="no cloaked photos"):
        write_before_after(album, album.parent / "a")
