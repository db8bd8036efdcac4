"""VNNLIB: what is read and refused, and verdicts on networks whose truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from physadv.certification.verify_property import read_instances, verify_property
from physadv.certification.vnnlib import parse_vnnlib, read_vnnlib
from physadv.core.errors import DataError, ModelError, OptionError

HEAD = """; two inputs, two outputs
(declare-const X_0 Real) (declare-fun X_1 () Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
"""
BOX = "(assert (>= X_0 -1)) (assert (<= X_0 1.0)) (assert (and (>= X_1 0) (<= X_1 1e0)))\n"


def identity() -> nn.Module:
    """Two outputs that are the inputs, through a hidden layer of ReLUs."""
    net = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
        net[2].weight.copy_(torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]]))
    return net.requires_grad_(False)


def test_a_property_is_read_as_it_is_written() -> None:
    """Bounds, linear terms, and choices on inputs and outputs together."""
    found = parse_vnnlib(
        HEAD
        + BOX
        + "(assert (or (and (<= X_0 0) (>= Y_0 (+ Y_1 (* 2 Y_1) 0.5))) (and (>= Y_1 Y_0))))"
    )
    assert (found.inputs, found.outputs) == (2, 2)
    first, second = found.cases
    assert first.lower.tolist() == [-1, 0]
    assert first.upper.tolist() == [0, 1]
    assert first.clauses[0].rows.tolist() == [[-1, 3]]  # -Y_0 + 3 Y_1 + 0.5 <= 0
    assert first.clauses[0].shift.tolist() == [0.5]
    assert second.upper.tolist() == [1, 1]
    assert second.clauses[0].rows.tolist() == [[1, -1]]


def test_choices_of_one_box_share_it() -> None:
    """Nine ways to be wrong about one box are one case of nine clauses; empty boxes are none."""
    text = HEAD + BOX + "(assert (or (<= Y_0 -2) (<= Y_1 -2) (and (>= X_0 2) (<= Y_0 0))))"
    found = parse_vnnlib(text)
    assert [len(case.clauses) for case in found.cases] == [2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(assert (<= Y_0 0))", "no bounds"),
        (BOX, "no constraint on the outputs"),
        (BOX + "(assert (<= (+ X_0 X_1) 1)) (assert (<= Y_0 0))", "several inputs"),
        (BOX + "(assert (<= Y_0 X_0))", "several inputs, or of inputs and outputs"),
        (BOX + "(assert (<= (* Y_0 Y_1) 0))", "no linear term"),
        (BOX + "(assert (<= Y_7 0))", "not declared"),
        (BOX + "(assert (=> Y_0 0))", "no and, or"),
        (BOX + "(assert (<= Y_0 nan))", "finite"),
        (BOX + "(assert (<= Y_0 0)", "ends within"),
        (BOX + "(maximize Y_0)", "'maximize' is not known"),
        ("(assert " * 70, "nested deeper"),
        (BOX + "(assert (or (<= Y_0 0) (<= Y_1 0)))" * 14, "more than 10,000 cases"),
        ("(declare-const Z_0 Real)", "none of X_0"),
        ("(declare-const X_9 Real)", "X_0, X_1, ... and"),
        ("(declare-const X_0 Int)", "no real number"),
    ],
)
def test_what_is_not_read_is_refused_in_words(text: str, words: str) -> None:
    """One line each, whatever is wrong."""
    with pytest.raises(DataError, match=words) as refused:
        parse_vnnlib(HEAD + text)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("assertion", "verdict"),
    [
        ("(assert (>= Y_0 1.01))", "verified"),
        ("(assert (>= Y_0 0.99))", "falsified"),
        ("(assert (>= Y_0 0.5)) (assert (<= Y_0 0.4))", "verified"),
        ("(assert (>= Y_0 0.4)) (assert (<= Y_0 0.5))", "falsified"),
        ("(assert (or (<= Y_1 -0.1) (>= Y_1 1.1)))", "verified"),
        ("(assert (or (<= Y_1 -0.1) (and (>= Y_1 0.9) (<= Y_0 -0.9))))", "falsified"),
    ],
)
def test_verdicts_are_true(assertion: str, verdict: str) -> None:
    """On the identity the truth can be read off; counterexamples lie in the box."""
    found = verify_property(identity(), parse_vnnlib(HEAD + BOX + assertion), (2,), time_limit=30)
    assert found.verdict == verdict
    assert (found.counterexample is not None) == (verdict == "falsified")
    if found.counterexample is not None:
        assert found.outputs is not None
        assert torch.allclose(found.outputs, found.counterexample, atol=1e-6)
        assert -1 <= float(found.counterexample[0]) <= 1
        assert 0 <= float(found.counterexample[1]) <= 1


def test_a_property_of_another_network_is_refused(tmp_path: Path) -> None:
    """By its numbers of inputs and outputs; and files that are absent."""
    file = tmp_path / "p.vnnlib"
    file.write_text(HEAD + BOX + "(assert (<= Y_0 -2))")
    assert read_vnnlib(file).inputs == 2
    with pytest.raises(DataError, match="2 inputs and 2 outputs"):
        verify_property(nn.Linear(2, 3), file, (2,))
    with pytest.raises(DataError):
        verify_property(nn.Linear(2, 2), tmp_path / "none.vnnlib", (2,))
    with pytest.raises(ModelError):
        verify_property(nn.Softmax(1), file, (2,))


def test_lists_of_instances_stay_in_their_folder(tmp_path: Path) -> None:
    """A folder's list, a list, one property; no path leads out."""
    table = tmp_path / "my_instances.csv"
    table.write_text("a.onnx,p.vnnlib,12\n\nsub/b.onnx, q.vnnlib\n")
    found = read_instances(tmp_path)
    assert [(i.model.name, i.property.name, i.time_limit) for i in found] == [
        ("a.onnx", "p.vnnlib", 12.0),
        ("b.onnx", "q.vnnlib", None),
    ]
    assert [i.model.name for i in read_instances(table, "x/b.onnx")] == ["b.onnx"]
    assert read_instances("p.vnnlib", "n.onnx")[0].model == Path("n.onnx")
    with pytest.raises(OptionError):
        read_instances("p.vnnlib")
    with pytest.raises(OptionError):
        read_instances(table, "c.onnx")
    for bad in ("../a.onnx,p.vnnlib,1", "/a.onnx,p.vnnlib,1", "a.onnx", "a.onnx,p.vnnlib,soon"):
        table.write_text(bad)
        with pytest.raises(DataError):
            read_instances(table)
