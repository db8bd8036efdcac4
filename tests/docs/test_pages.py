"""What the pages show can be run: command lines are taken whole, Python is executed."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from commandline import assert_taken_whole
from forked import Faults, shared_server
from small_commands import SMALL_COMMANDS
from test_docs import CASES

from physadv_cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    )
]
START = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "line"), CASES)
def test_a_command_of_a_page_is_taken_whole(
    page: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options, values and the configuration made of them are accepted, up to the work itself;
    files of the page's own need not be here."""
    assert_taken_whole(line, monkeypatch)


@pytest.mark.parametrize("block", BLOCKS)
def test_what_python_of_a_page_imports_is_there(block: str) -> None:
    """Each block parses, and each name that it takes from physadv exists."""
    if ">>>" in block:
        block = "\n".join(
            line[4:] for line in block.splitlines() if line.startswith((">>> ", "... "))
        )
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("physadv"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


def test_the_first_attack_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The code of the start page prints what its comment says."""
    (block,) = re.findall(r"```python\n(.*?)```", START, re.DOTALL)
    exec(compile(block, "docs/start.md", "exec"), {})
    assert capsys.readouterr().out.strip() == block.rsplit("# ", 1)[1].strip()


def test_the_first_sticker_runs(tmp_path: Path) -> None:
    """The four commands of the start page, with few steps, leave what it says to open."""
    small = {
        "patch": ["--steps", "2", "--draws", "4", "--test-draws", "4", "--force"],
        "print": [],
        "twin": ["--clips", "1", "--frames", "2", "--frame-size", "320x240"],
        "check": [],
    }
    (block,) = re.findall(r"## First sticker\n\n```sh\n(.*?)```", START, re.DOTALL)
    for line in block.strip().splitlines():
        words = shlex.split(line)[1:]
        faults = Faults(code=SMALL_COMMANDS["patch"].code)
        done = shared_server().run(tmp_path, *words, *small[words[0]], faults=faults)
        assert done.code == 0, done.stderr
    for name in re.findall(r"\| `(\w+/[\w.]+)` \|", START):
        assert (tmp_path / name).is_file(), name


def test_every_command_has_its_place_on_a_page() -> None:
    """No command is left out of the pages; `make demo` runs the demo."""
    root: Any = typer.main.get_command(app)
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert not {name for name in root.commands if f"physadv {name}" not in text} - {"demo"}


def test_the_picture_shows_every_room() -> None:
    """The drawing of the architecture names each folder below physadv/."""
    drawing = (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8")
    for package in (ROOT / "physadv").glob("*/__init__.py"):
        assert re.search(rf">{package.parent.name}[<:]", drawing), package.parent.name


def test_the_glossary_has_25_words() -> None:
    """As its first line says."""
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^\| (?!Word|---)", page, re.MULTILINE)) == 25
