"""Configurations: plain data, checked when made, the same from Python, TOML and tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest

from physadv.core.config import Config, ConfigField
from physadv.core.errors import DataError, OptionError
from physadv.core.tables import parse_table, read_table


@dataclass(frozen=True, kw_only=True)
class ToyConfig(Config):
    """A configuration with one field of each kind."""

    command: ClassVar[str] = "toy"

    data: Annotated[str, ConfigField("Data.", path=True)]
    steps: Annotated[int, ConfigField("Steps.", least=1, most=9)] = 4
    rate: Annotated[float, ConfigField("Rate.")] = 0.5
    size_mm: Annotated[tuple[float, float], ConfigField("Size.", flag="--size")] = (19.0, 15.0)
    models: Annotated[tuple[str, ...], ConfigField("Models.")] = ()
    exact: Annotated[bool, ConfigField("Exact.")] = False


def test_a_recorded_configuration_reads_back_as_itself(tmp_path: Path) -> None:
    """What a run records is the configuration, paths and tuples among it."""
    import tomli_w

    config = ToyConfig(data=Path("a") / "b", steps=3, models=["x", "y"], exact=True)  # type: ignore[arg-type]
    file = tmp_path / "config.toml"
    file.write_text(tomli_w.dumps(config.as_table()))
    assert ToyConfig.from_toml(file) == config
    assert config.data == str(Path("a") / "b")
    assert config.models == ("x", "y")


def test_whole_numbers_become_floats_where_floats_are_meant() -> None:
    """190 and 190.0 are one value, so that a checkpoint's key does not depend on the spelling."""
    config = ToyConfig.from_table({"data": "d", "rate": 1, "size_mm": [19, 15]})
    assert repr(config.rate) == "1.0"
    assert repr(config.size_mm) == "(19.0, 15.0)"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stesp": 3}, ["'stesp'", "Did you mean 'steps'"]),
        ({"steps": "3"}, ["steps = '3'", "a whole number is needed"]),
        ({"steps": True}, ["steps = True", "a whole number"]),
        ({"steps": 0}, ["--steps 0", "at least 1"]),
        ({"steps": 10}, ["--steps 10", "at most 9"]),
        ({"size_mm": [1]}, ["size_mm", "a list of 2 is needed"]),
        ({"size_mm": [1, "x"]}, ["size_mm[1] = 'x'", "a number is needed"]),
        ({"models": "x"}, ["models = 'x'", "a list is needed"]),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, object], words: list[str]) -> None:
    """The error names the key, the value, what is needed, and the nearest known key."""
    with pytest.raises(OptionError) as caught:
        ToyConfig.from_table({"data": "d", **change})
    for word in words:
        assert word in str(caught.value)


def test_a_missing_key_and_another_activity_are_named(tmp_path: Path) -> None:
    """A file without a required key, or of another command, is refused with what to do."""
    with pytest.raises(OptionError, match="data: is missing"):
        ToyConfig.from_table({"steps": 3})
    file = tmp_path / "config.toml"
    file.write_text('command = "cloak-check"\n')
    with pytest.raises(OptionError, match="physadv cloak check --config"):
        ToyConfig.read_toml(file)


def test_a_file_may_hold_some_of_the_fields(tmp_path: Path) -> None:
    """read_toml checks what is there and leaves the rest to the command line."""
    file = tmp_path / "some.toml"
    file.write_text("steps = 3\nsize_mm = [1, 2]\n")
    assert ToyConfig.read_toml(file) == {"steps": 3, "size_mm": (1.0, 2.0)}


@dataclass
class Inner:
    """A table in a table."""

    width: float


@dataclass
class Outer:
    """A table."""

    name: str
    inner: Inner


def test_tables_in_tables_name_the_whole_key() -> None:
    """An unknown, missing or wrong key deep in a file is named from its top."""
    assert parse_table({"name": "n", "inner": {"width": 2}}, Outer) == Outer("n", Inner(2.0))
    for inner, words in (
        ({"width": 1, "wdth": 2}, "unknown key 'inner.wdth'"),
        ({}, "inner.width: is missing"),
        ({"width": "x"}, "inner.width = 'x'"),
    ):
        with pytest.raises(DataError, match=words):
            parse_table({"name": "n", "inner": inner}, Outer)


@dataclass
class Choice:
    """A field with listed values."""

    order: Literal["rgb", "bgr"]


def test_a_wrong_choice_names_the_allowed_ones() -> None:
    """The error lists what the field may be."""
    with pytest.raises(DataError, match="order = 'rbg': 'rgb' or 'bgr' is needed"):
        parse_table({"order": "rbg"}, Choice)


@pytest.mark.parametrize(("name", "text"), [("a.toml", "= 1"), ("a.json", "{"), ("b.json", "[1]")])
def test_a_file_that_is_no_table_is_one_error(tmp_path: Path, name: str, text: str) -> None:
    """Broken TOML, broken JSON and a list are errors of the class that was asked for."""
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=name):
        read_table(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "absent.toml")
