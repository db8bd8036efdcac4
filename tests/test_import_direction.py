"""Imports run one way, down the stations; the twin stands apart; nothing under physadv/ knows the
command line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = (
    "core",
    "datasets",
    "threat",
    "scene",
    "victims",
    "evaluation",
    "attacks",
    "training",
    "defences",
    "printing",
    "capture",
    "twin",
    "privacy",
    "report",
    "journey",
    "studies",
)
LEAVES = {"physadv.core.rows", "physadv.evaluation.metrics.intervals"}
"""Rows and intervals import core alone, so every station may use them."""
FILES = sorted((ROOT / "physadv").rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (
                f"{node.module}.{alias.name}" for alias in node.names if node.module == "physadv"
            )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    """A station imports only those that stand before it."""
    parts = path.relative_to(ROOT / "physadv").parts
    if len(parts) == 1:
        return
    here = parts[0]
    assert here in ORDER, f"{here} is no station: name it in ORDER"
    for module in imported(path):
        if module.startswith("physadv.") and module not in LEAVES:
            there = module.split(".")[1]
            assert there in ORDER[: ORDER.index(here) + 1], f"{path.name} imports {module}"


@pytest.mark.parametrize("path", [p for p in FILES if "twin" in p.parts], ids=lambda p: p.name)
def test_twin_imports_core_alone(path: Path) -> None:
    """The twin must be able to contradict the training transforms, so it shares no code with them."""
    for module in imported(path):
        assert not module.startswith("physadv.") or module.split(".")[1] in {"core", "twin"}, module
        assert module.split(".")[0] not in {"torch", "kornia"}, module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_library_knows_no_command_line(path: Path) -> None:
    """Neither typer nor rich nor click nor the commands under physadv/."""
    assert not {m.split(".")[0] for m in imported(path)} & {"typer", "rich", "click", "physadv_cli"}
