"""Errors stay short, whatever a file holds where a word or a number is due."""

from __future__ import annotations

from physadv.core.errors import OptionError


def test_an_error_repeats_no_more_than_its_ends() -> None:
    """A list of 100,000 numbers in a card is named by its beginning and its end."""
    error = OptionError(f"yaw_deg = {[1] * 100_000}", "It must be [low, high]", "Correct it")
    assert len(str(error)) < 7000
    assert str(error).startswith("yaw_deg = [1, 1")
    assert str(error).endswith("It must be [low, high]. Correct it.")


def test_a_short_text_stays_whole() -> None:
    """Names of any file system fit."""
    assert "x" * 5000 in str(OptionError("x" * 5000))
