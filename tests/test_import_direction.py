"""Imports run one way, down the rooms; the twin stands apart; the library knows no command line."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ORDER = (
    *("core", "datasets", "threat", "models", "eot", "attacks", "certification", "defenses"),
    *("evaluation", "training", "patches", "printing", "camera", "calibration", "check"),
    *("twin", "privacy", "studies", "report"),
)
FILES = sorted((ROOT / "physadv").rglob("*.py"))
OWN_BY_STRING = re.compile(rf"^physadv\.({'|'.join(ORDER)})(\.\w+)+$")
FRONT = {"__init__.py", "__main__.py", "demo.py"}
"""Doors of the house, above all rooms: they may open every one."""


def room(path: Path) -> str:
    """The room a file belongs to, or its own name where it stands above the rooms."""
    return path.relative_to(ROOT / "physadv").parts[0]


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "physadv":
                yield from (f"physadv.{alias.name}" for alias in node.names)


def test_every_room_has_its_place() -> None:
    """Each folder under physadv/ is named in ORDER, and each name is a folder."""
    rooms = {room(path) for path in FILES} - FRONT
    assert rooms == set(ORDER)


def test_imports_run_one_way() -> None:
    """A room imports only rooms that stand before it in ORDER."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in FILES
        if room(path) not in FRONT
        for module in imported(path)
        if module.startswith("physadv.")
        and module.split(".")[1] not in ORDER[: ORDER.index(room(path)) + 1]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_twin_imports_core_alone() -> None:
    """The twin must be able to contradict the EOT transforms, so it shares no code with them."""
    wrong = [
        f"{path.name} imports {module}"
        for path in FILES
        if room(path) == "twin"
        for module in imported(path)
        if module.split(".")[0] in {"torch", "kornia"}
        or (module.startswith("physadv.") and module.split(".")[1] not in {"core", "twin"})
    ]
    assert not wrong, "\n".join(wrong)


def test_the_library_knows_no_command_line() -> None:
    """Neither typer nor rich nor click nor the commands; ``python -m physadv`` is the one door."""
    banned = {"typer", "rich", "click", "physadv_cli"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in FILES
        if path.name != "__main__.py"
        for module in imported(path)
        if module.split(".")[0] in banned
    ]
    assert not wrong, "\n".join(wrong)


def test_no_room_is_imported_by_a_string() -> None:
    """A module's name in a string would let an import run past the other tests."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} names {node.value!r}"
        for path in FILES
        if room(path) not in FRONT
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and OWN_BY_STRING.match(node.value)
    ]
    assert not wrong, "\n".join(wrong)


def test_benchmarks_and_scripts_import_what_exists() -> None:
    """Nothing runs them in the tests, so that a renamed function would be missed there."""
    missing = []
    for path in sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "scripts").glob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("physadv"):
                module = importlib.import_module(str(node.module))
                missing += [
                    f"{path.name}: {node.module}.{alias.name}"
                    for alias in node.names
                    if not hasattr(module, alias.name)
                    and importlib.util.find_spec(f"{node.module}.{alias.name}") is None
                ]
    assert not missing
