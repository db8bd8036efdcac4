"""docs/eot.md: its code runs, and its tables are those of the code and of the recorded rows."""

from __future__ import annotations

import json
import re
import runpy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from physadv.eot import STAGES, EotRanges

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "eot.md").read_text(encoding="utf-8")
ROWS = ROOT / "benchmarks" / "eot_kornia.jsonl"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_code_of_the_page_runs(block: str) -> None:
    """Each block stands alone; the factory in it gives a pipeline with kornia's stages in it."""
    names: dict[str, Any] = {}
    exec(compile(block, "docs/eot.md", "exec"), names)
    pipeline = names["smear"]() if "smear" in names else names["pipeline"]
    assert "Fog" in pipeline.names or "RandomMotionBlur" in pipeline.names


def test_every_stage_and_range_has_its_line() -> None:
    """The table of stages holds all of them in order, and each range once."""
    lines = re.findall(r"^\| `([A-Z]\w+)` \|.*?\|.*?\| (.*?) \|", PAGE, re.MULTILINE)
    assert [name for name, _ in lines] == [stage.__name__ for stage in STAGES]
    named = [name for _, ranges in lines for name in re.findall(r"`(\w+)`", ranges)]
    assert sorted(named) == sorted(field.name for field in fields(EotRanges))


def test_the_operations_are_the_recorded_ones() -> None:
    """The table of operations is made from the rows of the benchmark."""
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "eot_kornia.py"))
    assert benchmark["as_table"](rows) in PAGE


def test_an_own_operation_is_nearer_or_cheaper() -> None:
    """Where the default is ours, kornia's is farther off or costs over 1.5 times as much.

    Apart from what kornia's does not take: masks, empty boxes, crops.
    """
    excused = {"total variation, one patch", "IoU, 400 x 400 boxes", "pixel centers"}
    excused |= {"resize with antialias, 224 to 352 px"}  # one call with the reduction, torch's
    for row in map(json.loads, ROWS.read_text(encoding="utf-8").splitlines()):
        if row.get("taken") == "own" and row["effect"] not in excused:
            farther = row["kornia_error"] > 1.5 * row["own_error"]
            assert farther or row["ratio"] > 1.5, row["effect"]
