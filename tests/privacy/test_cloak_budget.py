"""Visibility chosen directly: a budget between, below and above the modes, and modes of single
faces."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from tinyface import drawn_photo, face_at, tiny_embedder

from physadv.core.errors import OptionError
from physadv.privacy.cloak_faces import MODES, CloakMode, cloak_faces, mode_of_budget, read_mode
from physadv.privacy.config import CloakConfig
from physadv.privacy.face_choice import FaceChoice
from physadv.privacy.photo_cloaker import PhotoCloaker, cloaker_settings


def limits_of(mode: CloakMode) -> np.ndarray:
    """All that sets how visible a mode is, light upwards and downwards."""
    *places, brighter = astuple(mode.limits)
    return np.array(
        [mode.patches, mode.dssim, mode.linf, *places, *(brighter * k for k in places[:3])]
    )


def test_a_budget_of_a_mode_is_that_mode() -> None:
    """One scale: low, mid and high are points on it."""
    for mode in MODES.values():
        assert mode_of_budget(mode.patches) is mode


def test_every_limit_grows_with_the_budget() -> None:
    """Also between, below and above the modes; the patches' limit is the budget itself."""
    budgets = [0.5, 1, 1.2, 1.5, 1.8, 2, 2.4, 3, 3.2, 4, 5]
    rows = np.array([limits_of(mode_of_budget(b)) for b in budgets])
    assert rows[:, 0] == pytest.approx(budgets)
    assert (np.diff(rows, axis=0) > 0).all()


def test_half_of_the_least_mode_has_half_of_its_limits() -> None:
    """Below ``low`` everything shrinks in proportion, to nothing."""
    half = limits_of(mode_of_budget(MODES["low"].patches / 2))
    assert half == pytest.approx(limits_of(MODES["low"]) / 2)


@pytest.mark.parametrize("budget", [0.4, 5.1, -1.0, 8.0])
def test_a_budget_out_of_range_is_refused(budget: float) -> None:
    """By the configuration and by the library alike, with what is allowed."""
    with pytest.raises(OptionError, match=r"0\.5 to 5"):
        mode_of_budget(budget)
    with pytest.raises(OptionError, match=r"0\.5 to 5"):
        CloakConfig(photos="x", budget=budget)


def test_a_budget_and_another_mode_are_refused() -> None:
    """They would contradict each other."""
    with pytest.raises(OptionError, match="Give one"):
        CloakConfig(photos="x", mode="low", budget=2.0)


def test_a_word_names_a_mode_or_a_budget() -> None:
    """As ``--face-mode`` takes them."""
    assert read_mode("high") is MODES["high"]
    assert read_mode("2.1").patches == 2.1
    with pytest.raises(OptionError, match="low, mid, high"):
        read_mode("strong")


def test_faces_of_one_photo_have_modes_of_their_own() -> None:
    """The face named is cloaked by its own limits, all others by the run's; the rows tell."""
    photo, embedder = drawn_photo(90, 170, face_at(5, 10, 60)), tiny_embedder()
    faces = [face_at(5, 10, 60), face_at(95, 10, 60)]
    choice = FaceChoice.parse([], [], ["a.jpg"], ["2=0.5"])
    cloaker = PhotoCloaker([lambda rgb: faces], [embedder], MODES["high"], choice=choice)
    found = choice.apply("a.jpg", faces)
    modes = [choice.modes["a.jpg"].get(number, cloaker.mode) for number in found.cloaked]
    rows = cloaker.cloak(photo, "a.jpg", faces, modes).faces
    assert [row["mode"] for row in rows] == ["high", "budget 0.5"]
    assert rows[0]["dssim"] > rows[1]["dssim"]
    assert rows[1]["patches"] <= 0.5
    assert 0.9 < rows[0]["ms_ssim"] < rows[1]["ms_ssim"] <= 1


def test_one_mode_a_face_is_needed() -> None:
    """Two faces and one mode in a list are an error, not a face left out."""
    with pytest.raises(ValueError, match="shorter"):
        cloak_faces(
            drawn_photo(90, 170, face_at(5, 10, 60)),
            [face_at(5, 10, 60), face_at(95, 10, 60)],
            [tiny_embedder()],
            [MODES["low"]],
        )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("2", "names no mode"),
        ("=high", "names no faces"),
        ("2=strong", "low, mid, high"),
        ("2=9", r"0\.5 to 5"),
        ("c.jpg:2=high", "no photo of this run"),
    ],
)
def test_a_face_mode_that_says_nothing_is_refused(value: str, said: str) -> None:
    """Before any face is sought."""
    with pytest.raises(OptionError, match=said):
        FaceChoice.parse([], [], ["a.jpg"], [value])


def test_a_face_mode_for_a_number_that_no_face_has_is_refused() -> None:
    """A typing error must not leave a face at the run's mode in silence."""
    choice = FaceChoice.parse([], [], ["a.jpg"], ["a.jpg:2=high"])
    with pytest.raises(OptionError, match="face 2"):
        choice.apply("a.jpg", [face_at(5, 10, 60)])


def test_modes_of_faces_are_settings() -> None:
    """A run with other modes is another run: its photos are not taken for done."""
    tables = [
        cloaker_settings(
            PhotoCloaker([], [], MODES["low"], choice=FaceChoice.parse([], [], ["a"], modes))
        )
        for modes in ([], ["1=high"], ["1=3"])
    ]
    assert tables[0] != tables[1] != tables[2]
