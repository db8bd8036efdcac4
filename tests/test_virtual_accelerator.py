"""On a device other than the CPU every tensor is made, or moved, there: the core paths run on a
virtual one that refuses mixed operations, and on one that refuses float64 too, as Apple's does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import virtual_accelerator

TESTS = Path(__file__).resolve().parent
ON_PURPOSE = "mixed on purpose"


@pytest.fixture(scope="module", params=["float64", "no float64"])
def outcomes(request: pytest.FixtureRequest) -> dict[str, str]:
    """What became of every path, in a process of its own: the device is registered for good."""
    switch = ["--no-double"] if request.param == "no float64" else []
    roots = os.pathsep.join(map(str, (TESTS.parent, TESTS.parent / "cli", TESTS)))
    run = subprocess.run(
        [sys.executable, virtual_accelerator.__file__, *switch],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": roots},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    table: dict[str, str] = json.loads(run.stdout.splitlines()[-1])
    return table


@pytest.mark.parametrize("name", [name for name in virtual_accelerator.PATHS if name != ON_PURPOSE])
def test_no_tensor_is_left_on_the_cpu(name: str, outcomes: dict[str, str]) -> None:
    """The path ends, and no operation met tensors of both devices, or numbers that it lacks, not
    even where the error was caught and something slower done."""
    assert outcomes[name] == ""


def test_the_device_notices(outcomes: dict[str, str]) -> None:
    """A mixed sum is noted, though its error is caught."""
    assert "aten.add" in outcomes[ON_PURPOSE]
