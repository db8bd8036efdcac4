"""Every fault in the table of docs/trust.md has a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    [cell.strip() for cell in line.strip().strip("|").split(" | ")]
    for line in (ROOT / "docs" / "trust.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and "tests/" in line
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_every_fault_names_a_test_that_exists(row: list[str]) -> None:
    """Three cells: the fault, what happens, and a function of a test file."""
    assert len(row) == 3
    names = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[2])
    assert names
    for file, name in names:
        functions = {
            node.name
            for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)
        }
        assert name in functions, f"{file} has no {name}"
