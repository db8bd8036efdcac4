"""What the README promises holds."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from commandline import physadv

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN_MODELS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def test_a_model_of_ones_own_takes_ten_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example of docs/models.md has at most ten lines, and loads as a model."""
    from physadv.defenses.load_model import load_model

    code = re.search(r"```python\n# my_models.py\n(.*?)```", OWN_MODELS, re.DOTALL)
    assert code is not None
    lines = [line for line in code[1].splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 10
    (tmp_path / "readme_models.py").write_text(code[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    model = load_model("readme_models:make")
    assert model(torch.rand(2, 3, 50, 40)).shape == (2, 2)


def extras_of(line: str) -> list[str]:
    """The extras that a line of the table names in its first cell."""
    return re.findall(r"`(\w+)`", line.split("|")[1])


def test_the_readme_is_one_screen_and_names_each_extra() -> None:
    """At most 80 lines; the table of extras has those of pyproject.toml, but for developers'."""
    assert len(README.splitlines()) <= 80
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"]) - {"dev", "benchmarks"}
    table = README.split("brings |")[1].split("\n\n")[0]
    assert extras == {name for line in table.splitlines()[2:] for name in extras_of(line)}


def test_links_and_pictures_exist() -> None:
    """Every relative link of the README points at a file of the project."""
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_every_command_has_an_example(tmp_path: Path) -> None:
    """Each command's help shows an example, and the top-level help needs no torch."""
    listing = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "physadv_cli.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "| torch" not in listing.stderr
    commands = re.findall(r"^│ (\w+)\s{2,}", listing.stdout, re.MULTILINE)
    assert {"demo", "patch", "print", "twin", "check"} <= set(commands)
    for command in commands:
        done = physadv(tmp_path, command, "--help")
        assert done.returncode == 0
        text = done.stdout
        assert "Example" in text or "COMMAND [ARGS]" in text, command
