"""Choice of faces: by number of the preview, and a second look at what was found."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tinyface import drawn_photo, face_at, tiny_embedder

from physadv.core.errors import OptionError
from physadv.core.image_io import read_rgba
from physadv.models.faces import second_look
from physadv.models.faces.face_detection import DetectedFace, SlimFinder
from physadv.models.faces.second_look import search_faces
from physadv.privacy.cloak_faces import MODES
from physadv.privacy.face_choice import FaceChoice
from physadv.privacy.photo_cloaker import PhotoCloaker, cloaker_settings

SHARED = Path(os.environ.get("PHYSADV_SHARED", Path(__file__).resolve().parents[3] / "shared"))
SLIM = SHARED / "data/weights/facedet_slim_biubug6.pth"
FACES = [face_at(10, 10, 60), face_at(80, 10, 60), face_at(10, 90, 40)]


def chosen(only: list[str], skip: list[str], **kinds: list[DetectedFace]) -> list[int]:
    choice = FaceChoice.parse(only, skip, ["a.jpg"])
    return list(choice.apply("a.jpg", kinds.pop("certain", FACES), **kinds).cloaked)


@pytest.mark.parametrize(
    ("only", "skip", "left"),
    [
        ([], [], [1, 2, 3]),
        (["2"], [], [2]),
        (["a.jpg:1,3"], [], [1, 3]),
        (["1", "a.jpg:3"], [], [1, 3]),
        ([], ["2"], [1, 3]),
        ([], ["1,2,3"], []),
    ],
)
def test_only_and_skip_by_number(only: list[str], skip: list[str], left: list[int]) -> None:
    """--only names the faces to cloak, --skip those to leave."""
    assert chosen(only, skip) == left


def test_doubtful_faces_are_cloaked_where_named_and_small_ones_never() -> None:
    """Numbers run over certain, doubtful and small faces, in this order."""
    kinds = {"certain": FACES[:1], "doubtful": FACES[1:2], "small": FACES[2:]}
    assert chosen([], [], **kinds) == [1]
    assert chosen(["1,2"], [], **kinds) == [1, 2]
    with pytest.raises(OptionError, match="too small"):
        chosen(["3"], [], **kinds)
    faces = FaceChoice.parse([], [], ["a.jpg"]).apply("a.jpg", FACES[:1], FACES[1:2], FACES[2:])
    assert faces.reasons == {2: "doubtful", 3: "too small"}
    assert len(faces.notes()) == 2


@pytest.mark.parametrize(
    ("value", "photos", "said"),
    [
        ("x", ["a.jpg"], "names no faces"),
        ("a.jpg:", ["a.jpg"], "names no faces"),
        ("1", ["a.jpg", "b.jpg"], "is for one photo; there are 2"),
        ("c.jpg:1", ["a.jpg", "b.jpg"], "c.jpg is no photo of this run"),
    ],
)
def test_a_choice_that_names_nothing_is_refused(value: str, photos: list[str], said: str) -> None:
    """Before any face is sought."""
    for only, skip in (([value], []), ([], [value])):
        with pytest.raises(OptionError, match=said):
            FaceChoice.parse(only, skip, photos)


def test_a_face_to_cloak_and_to_leave_is_refused() -> None:
    """One of the two would be overruled in silence; other faces of the photo may be in either."""
    with pytest.raises(OptionError, match=r"face 2: is named by --only-faces and by --skip-faces"):
        FaceChoice.parse(["a.jpg:1,2"], ["a.jpg:2,3"], ["a.jpg"])
    assert FaceChoice.parse(["a.jpg:1"], ["a.jpg:2"], ["a.jpg"]).skip == {"a.jpg": {2}}


@pytest.mark.parametrize("number", ["0", "4"])
def test_a_number_that_no_face_has_is_refused(number: str) -> None:
    """A typing error must leave nobody bare in silence."""
    with pytest.raises(OptionError, match="It has 1 to 3"):
        chosen([], [number])


def test_a_skipped_face_stays_bit_for_bit_and_the_settings_say_so() -> None:
    """The other one is cloaked; the settings differ from those of a run without a choice."""
    faces = [face_at(10, 10, 50), face_at(90, 10, 50)]
    photo = drawn_photo(80, 160, faces[0])
    choice = FaceChoice.parse([], ["1"], ["a.png"])
    finder = [lambda rgb: faces]
    cloaker = PhotoCloaker(finder, [tiny_embedder()], MODES["low"], choice=choice)
    work = cloaker(photo, "a.png")
    assert [row["box"] for row in work.faces] == [list(faces[1].box(80, 160))]
    assert work.bare == (faces[0].box(80, 160),)
    assert "as chosen" in work.notes[0]
    x0, y0, x1, y1 = faces[0].box(80, 160)
    assert np.array_equal(work.rgb[y0:y1, x0:x1], photo[y0:y1, x0:x1])
    assert cloaker_settings(cloaker)["choice"] == {"skip": {"a.png": [1]}}


@pytest.mark.skipif(not SLIM.is_file(), reason="needs the slim detector of shared data")
def test_bokeh_is_doubtful_and_the_face_beside_it_is_not() -> None:
    """The slim network reports five faces in this portrait, four of them blurred lights."""
    photo = read_rgba(SHARED / "data/portraits/cgi-model-1.jpg")[..., :3]
    slim = SlimFinder(SLIM)
    assert len(slim(photo)) == 5
    search = search_faces(photo, [slim])
    assert (len(search.faces), len(search.doubtful)) == (1, 4)


def test_without_the_slim_network_every_face_counts() -> None:
    """Nobody can look again, so nothing is dropped."""
    photo = drawn_photo(160, 160, FACES[0])
    search = search_faces(photo, [lambda rgb: FACES[:2]])
    assert (len(search.faces), search.doubtful) == (2, [])


def test_a_turned_photo_maps_back() -> None:
    """A mark found in the photo turned to either side lies where it was in the photo."""
    photo = np.zeros((120, 200, 3), np.uint8)
    photo[40:44, 150:154] = 255
    for degrees in (-35.0, 35.0):
        turned, matrix = second_look._turned(photo, degrees)
        rows, columns = np.nonzero(turned[..., 0] > 128)
        expected = matrix[:, :2] @ [151.5, 41.5] + matrix[:, 2]
        assert np.allclose([columns.mean(), rows.mean()], expected, atol=0.5)
