"""Drawn stop-sign faces: many, each drawn anew, whole ones held out; mixed with the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from physadv.core.errors import DataError, OptionError
from physadv.core.random_streams import numpy_generator
from physadv.core.sign_artwork import SignFace, octagon_mm, sign_face, stop_sign_svg
from physadv.core.stop_signs import PLAIN
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.load import load_scene_sources
from physadv.eot.scenes.sign_faces import (
    DECOYS,
    HELD_OUT_FACES,
    TRAINING_FACES,
    UNREAD_FACES,
    FaceDesign,
)
from physadv.eot.scenes.sign_lettering import HAND, SCRIBBLE, TextLine, draw_lines, glyph
from physadv.eot.scenes.signs import DrawnScenes, PhotoSign, SceneSize
from physadv.patches.config import PatchConfig

DESIGNS = [
    *TRAINING_FACES,
    *(face for face in UNREAD_FACES if face.lines),
    *(face for face in HELD_OUT_FACES if isinstance(face, FaceDesign)),
]
CROP = SceneSize(48, whole_frame=False)


def octagon_mask(px: int, margin_px: float = 0.0) -> np.ndarray:
    """Pixels whose centers lie in the nominal octagon, ``margin_px`` beyond its edge included."""
    y, x = np.mgrid[:px, :px] + 0.5 - px / 2
    reach = np.maximum(np.maximum(abs(x), abs(y)), (abs(x) + abs(y)) / 2**0.5)
    return np.asarray(reach <= px / 2 + margin_px)


@given(st.sampled_from(DESIGNS), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_face_lies_in_its_octagon_and_fills_it(design: FaceDesign, seed: int) -> None:
    """Nothing is opaque more than a px beyond the nominal octagon, the middle is opaque, and the
    drawing is at least 0.95 of the nominal size."""
    alpha = design.draw(np.random.default_rng(seed), 96).rgba[..., 3]
    assert not alpha[~octagon_mask(96, margin_px=1.0)].any()
    assert (alpha[octagon_mask(96, margin_px=-0.06 * 96)] == 255).all()


@given(st.sampled_from([*DESIGNS, *UNREAD_FACES, *DECOYS]), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_same_stream_draws_the_same_face(design: FaceDesign, seed: int) -> None:
    """A face depends on its stream alone, and another stream draws another face."""
    first, again, other = (
        design.draw(np.random.default_rng(s), 64).rgba for s in (seed, seed, seed + 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@given(st.sampled_from(DESIGNS), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_size_in_px_decides_nothing_but_fineness(design: FaceDesign, seed: int) -> None:
    """Drawn at 256 px and reduced, a face is what it is at 64 px, but for the sharpest details."""
    fine, coarse = (design.draw(np.random.default_rng(seed), px).rgba for px in (256, 64))
    reduced = cv2.resize(fine, (64, 64), interpolation=cv2.INTER_AREA)
    inside = octagon_mask(64, margin_px=-3)
    assert np.abs(reduced.astype(int) - coarse)[inside].mean() < 14


@given(st.sampled_from(DESIGNS), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_the_letters_are_lighter_than_the_red_around_them(design: FaceDesign, seed: int) -> None:
    """Whatever wear and light, the lettering stands out, and the ground is red."""
    look = design.draw_look(np.random.default_rng(seed))
    letters = draw_lines(look.lines, 128)
    assert 0.02 < letters.mean() < 0.4
    rgb = design.draw(np.random.default_rng(seed), 128).rgba[..., :3].astype(float)
    ground = octagon_mask(128, margin_px=-14) & (letters < 0.01)
    assert rgb[letters > 0.99].mean() > rgb[ground].mean()
    assert rgb[ground][:, 0].mean() > rgb[ground][:, 1:].mean()


def test_every_letter_is_in_its_typeface() -> None:
    """No character of a design falls back to the empty box of a missing glyph."""
    for design in [*DESIGNS, *UNREAD_FACES, *DECOYS]:
        if design.typeface in (HAND, SCRIBBLE):
            continue
        missing = glyph(design.typeface, "\uffff").field
        for character in "".join(design.lines):
            letter = glyph(design.typeface, character).field
            assert letter.max() > 3
            assert letter.shape != missing.shape or not np.array_equal(letter, missing)


def test_a_line_of_letters_is_as_high_and_wide_as_asked() -> None:
    """Closed form: the capitals' box has the height of the line, and its width within a stem."""
    cover = draw_lines([TextLine("TOT", "overpass", height=0.3, width=0.6)], 400)
    ys, xs = np.nonzero(cover > 0.5)
    assert ys.max() - ys.min() + 1 == pytest.approx(0.3 * 400, abs=8)  # O overshoots
    assert (ys.max() + ys.min() + 1) / 2 == pytest.approx(200, abs=3)
    assert xs.max() - xs.min() + 1 == pytest.approx(0.6 * 400, abs=16)


def test_no_held_out_typeface_or_face_is_trained_on() -> None:
    """Held-out names never occur in training draws, nor do their typefaces; some of their words do
    not either; each name is one face."""
    training = {design.typeface for design in [*TRAINING_FACES, *UNREAD_FACES, *DECOYS]}
    held_out = [face for face in HELD_OUT_FACES if isinstance(face, FaceDesign)]
    assert not training & {face.typeface for face in held_out}
    assert len({face.typeface for face in held_out}) >= 4
    words = {line for design in (*TRAINING_FACES, *UNREAD_FACES) for line in design.lines}
    assert len({face.lines for face in held_out if not set(face.lines) & words}) >= 3
    names = [face.name for face in (*TRAINING_FACES, *HELD_OUT_FACES)]
    assert len(names) == len(set(names))

    sources = load_scene_sources(None, None, width_mm=457, seed=0)
    drawn = {
        part: set(source.sample(300, CROP, EotRanges(), numpy_generator(0, part)).groups)
        for part, source in (
            ("train", sources.train),
            ("validation", sources.validation),
            ("test", sources.test),
        )
    }
    assert drawn["train"] == {design.name for design in TRAINING_FACES}
    assert drawn["validation"] == drawn["train"]
    assert drawn["test"] == set(sources.held_out_faces) == {face.name for face in HELD_OUT_FACES}


def test_a_scene_draws_its_face_anew_and_shifts_no_other_draw() -> None:
    """Two scenes of one design differ in the face; poses and places are those of a fixed face."""
    ground = [np.full((80, 80, 3), 128, np.uint8)]
    varied = DrawnScenes([TRAINING_FACES[0]], ground, 457)
    fixed = DrawnScenes([sign_face(width_px=64)], ground, 457)
    batch = varied.sample(6, CROP, EotRanges(), numpy_generator(1, "scenes"))
    plain = fixed.sample(6, CROP, EotRanges(), numpy_generator(1, "scenes"))
    assert np.allclose(batch.homography, plain.homography)
    again = varied.sample(6, CROP, EotRanges(), numpy_generator(1, "scenes"))
    assert np.array_equal(batch.images, again.images)
    assert len({image.numpy().tobytes() for image in batch.images}) == 6


def test_a_patch_is_lit_between_full_and_as_the_signs_white() -> None:
    """On a face that is always the same the light is 1; on a design it lies between 1 and the
    white's, a worn one being darker, and differs from scene to scene."""
    ground = [np.full((80, 80, 3), 128, np.uint8)]
    fixed = DrawnScenes([sign_face(width_px=64)], ground, 457)
    assert bool((fixed.sample(8, CROP, EotRanges(), numpy_generator(2, "light")).gain == 1).all())
    varied = DrawnScenes(TRAINING_FACES, ground, 457)
    gain = varied.sample(200, CROP, EotRanges(), numpy_generator(2, "light")).gain
    assert 0.08 <= float(gain.min()) < 0.6
    assert float(gain.max()) <= 1.6
    assert 0.6 < float(gain.mean()) < 1
    assert len(set(gain[:, 0].tolist())) > 190


def photo(path: Path, number: int) -> None:
    """A street with the plain sign in it."""
    street = np.full((240, 320, 3), 150, np.uint8)
    face = cv2.resize(sign_face().rgba, (90, 90), interpolation=cv2.INTER_AREA)
    x = 20 + 12 * number
    part = street[60:150, x : x + 90]
    share = face[..., 3:] / 255
    part[:] = (face[..., :3] * share + part * (1 - share)).astype(np.uint8)
    Image.fromarray(street).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of eight photos, and one of three drawings."""
    photos, drawings = tmp_path / "street", tmp_path / "artwork"
    photos.mkdir()
    drawings.mkdir()
    for number in range(8):
        photo(photos / f"{number}.png", number)
    for number in range(3):
        (drawings / f"mine{number}.svg").write_text(stop_sign_svg(), encoding="utf-8")
    return photos, drawings


def test_several_folders_mix_with_the_drawn_faces(folders: tuple[Path, Path]) -> None:
    """Photos, the user's drawings and drawn faces take equal shares of each part, and no photo or
    drawing is both trained on and tested."""
    sources = load_scene_sources(list(map(str, folders)), None, width_mm=457, seed=0)
    train, test = (
        source.sample(90, CROP, EotRanges(), numpy_generator(0, "mixed")).groups
        for source in (sources.train, sources.test)
    )
    for groups in (train, test):
        assert sum(group.startswith("street/") for group in groups) == 30
        assert sum(group.startswith("artwork/") for group in groups) == 30
    assert not set(train) & set(test)
    assert sources.kind == "photos"
    assert any(name.startswith("artwork/") for name in sources.held_out_faces)
    assert not any(name.startswith("street/") for name in sources.held_out_faces)


def test_the_plain_face_is_as_before(folders: tuple[Path, Path]) -> None:
    """Without varied faces, drawings beside photos are left out and the test is of photos alone."""
    sources = load_scene_sources(list(map(str, folders)), None, width_mm=457, seed=0, faces=PLAIN)
    groups = sources.test.sample(20, CROP, EotRanges(), numpy_generator(0, "plain")).groups
    assert all(group.startswith("street/") for group in groups)
    assert sources.held_out_faces == ()
    assert any("left out beside photos" in note for note in sources.notes)
    alone = load_scene_sources(None, None, width_mm=457, seed=0, faces=PLAIN)
    assert [face.name for face in alone.faces] == ["stop"]


def test_other_signs_do_without_drawn_stop_signs(folders: tuple[Path, Path]) -> None:
    """A folder of another class is not mixed with stop signs."""
    sources = load_scene_sources(str(folders[1]), None, width_mm=457, seed=0, class_name="yield")
    groups = sources.train.sample(20, CROP, EotRanges(), numpy_generator(0, "yield")).groups
    assert all(group.startswith("mine") for group in groups)


def test_a_box_file_counts_where_it_names_photos(folders: tuple[Path, Path]) -> None:
    """Given for several folders, it may name the photos of some, but has to name one."""
    photos, drawings = folders
    boxes = photos.parent / "boxes.csv"
    rows = [f"{n}.png,{20 + 12 * n},60,{110 + 12 * n},150," for n in range(8)]
    boxes.write_text("\n".join(["file,x0,y0,x1,y1,note", *rows]), encoding="utf-8")
    sources = load_scene_sources(
        [str(drawings), str(photos)], None, width_mm=457, seed=0, boxes=boxes
    )
    assert sum(map(len, sources.signs)) == 8
    boxes.write_text("file,x0,y0,x1,y1,note\nother.png,1,1,9,9,\n", encoding="utf-8")
    with pytest.raises(DataError):
        load_scene_sources([str(drawings), str(photos)], None, width_mm=457, seed=0, boxes=boxes)


def test_drawings_that_the_model_does_not_read_are_left_out(folders: tuple[Path, Path]) -> None:
    """They count as photos do: noted, and refused where nothing of the user's is left."""

    def accept(signs: Sequence[PhotoSign | SignFace]) -> list[bool]:
        return [isinstance(sign, PhotoSign) or sign.name.endswith("mine1") for sign in signs]

    sources = load_scene_sources(list(map(str, folders)), None, width_mm=457, seed=0, accept=accept)
    assert any(note.startswith("2 drawings left out") for note in sources.notes)
    groups = sources.test.sample(30, CROP, EotRanges(), numpy_generator(0, "read")).groups
    assert {group for group in groups if group.startswith("artwork")} == {"artwork/mine1"}

    def refuse(signs: Sequence[PhotoSign | SignFace]) -> list[bool]:
        return [False] * len(signs)

    with pytest.raises(DataError, match="recognized by the model"):
        load_scene_sources(str(folders[1]), None, width_mm=457, seed=0, accept=refuse)


def test_a_single_drawing_is_used_in_every_part(folders: tuple[Path, Path]) -> None:
    """One file cannot be split, and the notes say what it is judged on."""
    sources = load_scene_sources(str(folders[1] / "mine0.svg"), None, width_mm=457, seed=0)
    groups = sources.test.sample(10, CROP, EotRanges(), numpy_generator(0, "one")).groups
    assert groups.count("mine0") == 5
    assert any(note.startswith("one drawing only") for note in sources.notes)


def test_earlier_cards_had_the_plain_face(tmp_path: Path) -> None:
    """A card without the key was made with the plain face; a new configuration has varied ones."""
    assert PatchConfig.from_card_table({"victim": "signs", "signs": "photos"}).faces == PLAIN
    assert PatchConfig.from_card_table({"signs": "photos"}).signs == ("photos",)
    config = PatchConfig(signs=["a", Path("b")])
    assert (config.faces, config.signs) == ("varied", ("a", "b"))
    table = {k: v for k, v in config.as_card_table().items() if v is not None}
    assert PatchConfig.from_card_table(table).signs == ("a", "b")
    (tmp_path / "config.toml").write_text('signs = "photos"\n', encoding="utf-8")
    assert PatchConfig.from_toml(tmp_path / "config.toml").signs == ("photos",)
    with pytest.raises(OptionError, match="varied or plain"):
        PatchConfig(faces="many")


def test_the_octagon_of_the_tests_is_the_standards() -> None:
    """The mask that faces are judged by is the polygon of the standard."""
    mask = np.zeros((200, 200), np.uint8)
    corners = (np.array(octagon_mm(200.0)) - 0.5).round().astype(np.int32)
    cv2.fillPoly(mask, [corners], 1)
    assert (mask.astype(bool) ^ octagon_mask(200)).mean() < 0.01
    assert isinstance(HELD_OUT_FACES[0], SignFace)
