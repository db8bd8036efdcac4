"""Preview of a cloak: every face that is found is drawn, those left bare are listed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tinyface import drawn_photo, face_at, tiny_embedder

from physadv.core.errors import ImageError
from physadv.privacy.batch import CloakedPhoto, plan_jobs, run_folder
from physadv.privacy.cloak_faces import MODES
from physadv.privacy.photo_cloaker import PhotoCloaker
from physadv.privacy.preview import BARE, CLOAKED, draw_faces


def test_boxes_are_drawn_on_a_copy_at_a_size_to_look_at() -> None:
    """Edges of both kinds have their color where the boxes are, also where the photo shrinks; the
    photo itself stays as it was."""
    photo = np.zeros((2000, 3200, 3), np.uint8)
    picture = draw_faces(photo, {1: (400, 400, 1200, 1200)}, {2: (2000, 400, 2400, 800)})
    assert picture.shape == (1000, 1600, 3)
    assert not photo.any()
    assert tuple(picture[400, 200]) == CLOAKED
    assert tuple(picture[200, 1100]) == BARE
    assert tuple(picture[300, 1100]) == BARE  # the cross through its middle
    assert not picture[800:, 800:].any()


def test_faces_too_small_are_listed_where_they_are() -> None:
    """A face of 12 px beside a large one is left bare, counted, and its box stands in the
    result."""
    large, small = face_at(20, 20, 70), face_at(110, 110, 12)
    photo = drawn_photo(140, 140, large)
    cloaker = PhotoCloaker([lambda rgb: [large, small]], [], MODES["low"])
    faces = cloaker.faces(photo)
    assert (list(faces.cloaked), faces.reasons) == ([1], {2: "too small"})
    cloaker = PhotoCloaker([lambda rgb: [small]], [tiny_embedder()], MODES["low"])
    work = cloaker(photo, "a.png")
    assert not work.faces
    assert [box[:2] for box in work.bare] == [(110, 110)]
    assert "left as they are" in work.notes[0]


def test_the_manifest_lists_bare_faces(tmp_path: Path) -> None:
    """Each photo's row has the boxes of faces that were found and not cloaked."""
    root = tmp_path / "photos"
    root.mkdir()
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(root / "a.png")
    jobs, out = plan_jobs(root)

    def cloaker(rgb: np.ndarray, name: str) -> CloakedPhoto:
        return CloakedPhoto(rgb, [{"box": [0, 0, 4, 4]}], ("one left",), ((5, 6, 9, 10),))

    (outcome,) = run_folder(jobs, out, cloaker, settings={})
    assert outcome.row["bare"] == [[5, 6, 9, 10]]


@pytest.mark.parametrize(("name", "said"), [("IMG.DNG", "raw photo"), ("clip.mkv", "video")])
def test_a_raw_photo_or_a_video_alone_is_refused_by_name(
    name: str, said: str, tmp_path: Path
) -> None:
    """What no run cloaks is no photo either where it is named itself."""
    file = tmp_path / name
    file.write_bytes(b"II*\0")
    with pytest.raises(ImageError, match=said):
        plan_jobs(file)
