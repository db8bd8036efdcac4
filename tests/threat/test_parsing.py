"""Norms, radii and threats as people write them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from physadv.core.errors import OptionError
from physadv.threat.constraints import LpBall
from physadv.threat.parsing import (
    format_eps,
    parse_eps,
    parse_norm,
    parse_threat,
    round_radius,
)


@pytest.mark.parametrize(
    "spelling", ["linf", "Linf", "L_inf", "l-inf", "inf", "Infinity", math.inf, np.inf]
)
def test_every_spelling_of_linf_is_linf(spelling: str | float) -> None:
    """Case, separators and type do not matter, here and in a ball."""
    assert parse_norm(spelling) == "linf"
    assert LpBall(spelling, 0.1).norm == "linf"  # type: ignore[arg-type]


@pytest.mark.parametrize(("spelling", "norm"), [("L2", "l2"), (2, "l2"), (2.0, "l2"), (1, "l1")])
def test_orders_are_norms(spelling: str | float, norm: str) -> None:
    """A number is the order of the norm."""
    assert parse_norm(spelling) == norm


@pytest.mark.parametrize("spelling", ["l0", "l3", "", "two", -1, math.nan, None, True])
def test_other_norms_are_refused(spelling: str) -> None:
    """What is no norm of ours is an OptionError that names those there are."""
    with pytest.raises(OptionError, match="linf, l2, l1"):
        parse_norm(spelling)


@pytest.mark.parametrize(
    ("threat", "norm", "eps"),
    [
        ("linf:8/255", "linf", 8 / 255),
        ("L2:0.5", "l2", 0.5),
        ("inf: 4 / 255", "linf", 4 / 255),
        (("L1", 12), "l1", 12.0),
        ((math.inf, "8/255"), "linf", 8 / 255),
        ((2, 1e-7), "l2", 1e-7),
        ("L0:10", "l0", 10.0),
        ((0, 3), "l0", 3.0),
    ],
)
def test_threats_are_read(threat: str, norm: str, eps: float) -> None:
    """Text and pairs give a norm and a radius."""
    assert parse_threat(threat, sparse=True) == (norm, pytest.approx(eps))


@pytest.mark.parametrize(
    "threat",
    ["linf", "linf:", "linf:8", "linf:-1", "l2:nan", "l2:1/0", "l9:0.1", "l2:1e999", "l0:5"],
)
def test_unusable_threats_are_refused(threat: str) -> None:
    """No colon, no radius, a count of 255ths, a negative or infinite radius, an unknown norm."""
    with pytest.raises(OptionError):
        parse_threat(threat)


@pytest.mark.parametrize("threat", ["l0:8/255", "l0:2.5", "l0:-1", "l0:"])
def test_a_share_of_a_pixel_is_no_radius_in_l0(threat: str) -> None:
    """In l_0 a radius is a whole number of pixels."""
    with pytest.raises(OptionError):
        parse_threat(threat, sparse=True)


def test_a_number_is_a_radius() -> None:
    """Floats pass through unchanged, tiny ones too."""
    assert parse_eps(8 / 255) == 8 / 255
    assert parse_eps(1e-9, "l2") == 1e-9


@pytest.mark.parametrize(("eps", "nearest"), [("2.5", 3), ("8/255", 1), ("7.2", 7)])
def test_a_share_of_a_pixel_names_the_nearest_number(eps: str, nearest: int) -> None:
    """The message suggests the whole number beside the radius, and at least one pixel."""
    with pytest.raises(OptionError, match=f"Write {nearest}\\."):
        parse_eps(eps, "l0")


def test_small_radii_keep_quarters_of_255ths() -> None:
    """A quarter of 1/255 reads so and is read back; 0.05, which is 12.75/255, stays as it is."""
    assert [format_eps(k / 1020) for k in (1, 2, 6)] == ["0.25/255", "0.5/255", "1.5/255"]
    assert parse_eps("0.25/255") == 1 / 1020
    assert [format_eps(eps) for eps in (0.05, 0.5, 0.01)] == ["0.05", "0.5", "0.01"]


@pytest.mark.parametrize("text", ["0.15", "0.2", "0.4", "0.1234", "8/255", "0.5/255", "1", "2.5"])
def test_a_radius_is_told_as_it_was_asked_for(text: str) -> None:
    """No digit is lost, and what was written as a decimal stays one."""
    radius = parse_eps(text, "l2")

    assert format_eps(radius, 6) == text
    assert round_radius(radius) == radius


def test_a_computed_radius_has_no_digits_of_rounding() -> None:
    """1.5 times a radius is the number that a person would write; a number that needs all its
    digits keeps them."""
    assert round_radius(1.5 * 0.1) == 0.15
    assert round_radius(1.5 * 8 / 255) == 12 / 255
    assert round_radius(0.1 + 0.2) == 0.3
    assert [round_radius(radius) for radius in (0.0, 1 / 3, 0.123456789)] == [0, 1 / 3, 0.123456789]
