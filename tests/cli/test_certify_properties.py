"""`physadv certify --vnnlib`: verdicts, rows and report; resume after a kill; refusals."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commandline import environment, physadv

from physadv.core.rows import read_rows

onnx = pytest.importorskip("onnx")

HARD_INPUTS, WIDTH = 20, 48
QUICK = {"p-true": -0.5, "p-false": 0.5, "q-true": -0.1}
"""By property, the value that the output must not fall to; the output is from 0 to 1."""


def write_net(path: Path, matrices: list[Any], *, end: str = "Identity") -> None:
    """Write a dense network of ReLUs without biases, and ``end`` after its last matrix."""
    nodes, constants, last = [], [], "x"
    for number, matrix in enumerate(matrices):
        constants.append(onnx.numpy_helper.from_array(matrix.astype(np.float32), f"w{number}"))
        nodes.append(onnx.helper.make_node("MatMul", [last, f"w{number}"], [f"a{number}"]))
        last = f"a{number}"
        if number < len(matrices) - 1:
            nodes.append(onnx.helper.make_node("Relu", [last], [f"r{number}"]))
            last = f"r{number}"
    nodes.append(onnx.helper.make_node(end, [last], ["y"]))
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [onnx.helper.make_tensor_value_info("x", kind, (1, len(matrices[0])))],
        [onnx.helper.make_tensor_value_info("y", kind, None)],
        constants,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    model.ir_version = 9
    path.write_bytes(model.SerializeToString())


def write_property(path: Path, inputs: int, low: int, least: float) -> None:
    """Write that the first output must not be at most ``least`` for inputs from ``low`` to 1."""
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)]
    lines += ["(declare-const Y_0 Real)"]
    lines += [f"(assert (>= X_{i} {low})) (assert (<= X_{i} 1))" for i in range(inputs)]
    path.write_text("\n".join([*lines, f"(assert (<= Y_0 {least}))"]))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A list of three properties of an easy network, one that no search settles, and one of a
    network that cannot be bounded."""
    write_net(tmp_path / "easy.onnx", [np.eye(2), np.array([[0.5], [0.5]])])
    draw = np.random.default_rng(0)
    sizes = [HARD_INPUTS, WIDTH, WIDTH, WIDTH, 1]
    hard = [draw.standard_normal(pair) / 3 for pair in pairwise(sizes)]
    write_net(tmp_path / "hard.onnx", hard)
    write_net(tmp_path / "odd.onnx", [np.eye(2), np.ones((2, 1))], end="Softmax")

    lines = [f"easy.onnx,{name}.vnnlib,60" for name in QUICK]
    for name, least in QUICK.items():
        write_property(tmp_path / f"{name}.vnnlib", 2, 0, least)
    write_property(tmp_path / "hard.vnnlib", HARD_INPUTS, -1, lowest_found(hard) * 1.02)
    lines += ["hard.onnx,hard.vnnlib,3", "odd.onnx,p-true.vnnlib,60", "easy.onnx,none.vnnlib,60"]
    (tmp_path / "instances.csv").write_text("\n".join(lines))
    return tmp_path


def lowest_found(matrices: list[Any]) -> float:
    """The lowest output that gradient steps find; the least may be lower, its bound is by far."""
    weights = [torch.tensor(matrix, dtype=torch.float32) for matrix in matrices]
    start = torch.Generator().manual_seed(1)
    point = torch.rand((256, HARD_INPUTS), generator=start) * 2 - 1
    lowest = 0.0
    for step in range(150):
        value = point.requires_grad_(True)
        for matrix in weights[:-1]:
            value = (value @ matrix).relu()
        output = value @ weights[-1]
        lowest = min(lowest, float(output.min()))
        (slope,) = torch.autograd.grad(output.sum(), point)
        point = (point.detach() - 0.5 * (1 - step / 150) * slope.sign()).clamp(-1, 1)
    return lowest


VERDICTS = ["verified", "falsified", "verified", "timeout", "refused", "refused"]


def test_a_killed_run_goes_on_to_the_same_verdicts(place: Path) -> None:
    """SIGKILL during the fourth property, the same command again: rows of the first three stay as
    they are, the others follow; the report is whole; another time limit is another run."""
    words = ["certify", "--vnnlib", str(place), "--out", "run"]
    command = [sys.executable, "-m", "physadv_cli.main", *words]
    rows = place / "run" / "rows.jsonl"
    with subprocess.Popen(
        command, cwd=place, env=environment(), stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.time() + 120
        while process.poll() is None and time.time() < deadline:
            if rows.is_file() and rows.read_text().count("\n") >= 3:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = list(read_rows(rows))
    assert [row["verdict"] for row in before] == VERDICTS[: len(before)]
    assert 3 <= len(before) < 6

    done = physadv(place, *words, "--json")
    assert done.returncode == 1, done.stderr
    result, after = json.loads(done.stdout), list(read_rows(rows))
    assert after[: len(before)] == before
    assert [row["verdict"] for row in after] == VERDICTS
    assert result["counts"] == {"verified": 2, "falsified": 1, "timeout": 1, "refused": 2}
    assert result["complete"]
    assert result["networks"] == 3

    broken = after[1]
    assert broken["outputs"][0] <= 0.5
    assert sum(broken["counterexample"]) / 2 == pytest.approx(broken["outputs"][0], abs=1e-6)
    assert after[3]["limit"] == 3
    assert 3 <= after[3]["seconds"] < 20
    assert "softmax" in after[4]["reason"]
    assert "none.vnnlib" in after[5]["reason"]

    page = (place / "run" / "report.html").read_text()
    assert "2 verified, 1 falsified" in page
    assert page.count("<svg") == 1
    assert not re.search(r"(src|href)=\"http", page)
    refused = physadv(place, *words, "--time-limit", "2")
    assert refused.returncode == 1
    assert "another configuration" in refused.stderr
    (place / "p-true.vnnlib").write_text((place / "p-false.vnnlib").read_text())
    refused = physadv(place, *words)
    assert refused.returncode == 1
    assert "files_sha256" in refused.stderr


def test_a_single_property_is_verified_or_refused_in_one_line(place: Path) -> None:
    """Exit code 0 where it holds; what cannot be bounded is an error."""
    one = ("certify", "--vnnlib", "p-true.vnnlib", "--model")
    done = physadv(place, *one, "easy.onnx", "--out", "one", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["verified"] == 1
    assert "Verification of easy.onnx" in (place / "one" / "report.html").read_text()
    done = physadv(place, *one, "odd.onnx", "--out", "two")
    assert done.returncode == 1
    assert "softmax" in done.stderr.strip().splitlines()[-1]
    assert not (place / "two").exists()
