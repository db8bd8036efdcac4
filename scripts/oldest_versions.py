"""Print the lowest version of each dependency that pyproject.toml allows, as constraints for pip.

    python scripts/oldest_versions.py > constraints.txt

torch is left out: its wheels are chosen by the Makefile.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def oldest_versions(requirements: list[str]) -> list[str]:
    """Return "name==version" for each of ``requirements`` of the form "name>=version".

    Raises:
        ValueError: A requirement has another form, so that its lowest version is unknown.
    """
    pinned = []
    for requirement in requirements:
        match = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement)
        if match is None:
            raise ValueError(f"{requirement!r} names no lowest version")
        pinned.append(f"{match[1]}=={match[2]}")
    return pinned


if __name__ == "__main__":
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    print(*(p for p in oldest_versions(project["dependencies"]) if p[:7] != "torch=="), sep="\n")
