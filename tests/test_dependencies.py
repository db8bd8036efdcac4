"""Every dependency is known: its license, what it is for, its lowest version, and to the doctor."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest

from physadv_cli.commands.doctor_command import ESSENTIAL

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from oldest_versions import oldest_versions  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAMES = [re.match(r"[\w.-]+", requirement)[0] for requirement in PROJECT["dependencies"]]  # type: ignore[index]
LICENSES = dict(
    re.findall(r"^\| `([\w.-]+)` \| (\w+) \| \w", (ROOT / "docs/dependencies.md").read_text(), re.M)
)


def test_the_table_lists_the_dependencies() -> None:
    """The page has a line for each dependency, in the order of pyproject.toml."""
    assert list(LICENSES) == NAMES


def test_the_doctor_examines_every_dependency() -> None:
    """What `pip install physadv` brings is imported by `physadv doctor`."""
    assert set(ESSENTIAL) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_license_is_that_of_the_package(name: str) -> None:
    """The license's family is named by the installed package, where it names any."""
    about = metadata(name)
    classifiers = [c for c in about.get_all("Classifier") or [] if c.startswith("License")]
    stated = " ".join(
        [about.get("License-Expression") or "", about.get("License") or "", *classifiers]
    )
    if not stated.strip():
        pytest.skip(f"{name} states no license in its metadata")
    family = {"LGPL": "LGPL", "MPL": "MPL|Mozilla"}.get(LICENSES[name], LICENSES[name])
    assert re.search(family, stated)


def test_every_dependency_names_its_lowest_version() -> None:
    """The constraints of `make test-oldest` cover every dependency."""
    pinned = oldest_versions(PROJECT["dependencies"])
    assert [line.partition("==")[0] for line in pinned] == NAMES
    with pytest.raises(ValueError, match="no lowest version"):
        oldest_versions(["torch"])
