"""The dual of the convex outer polytope (Wong and Kolter 2018), for evaluation: exact, without
random projections.

Its dual network is a backward pass whose lower and upper lines at every ReLU have the chord's
slope; the bounds inside the net are dual bounds too.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from physadv.certification.bounds.crown import tightened_margins
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.linear_forms import relu_lines


def polytope_margins(graph: LayerGraph, ball: InputBall, forms: Tensor) -> Tensor:
    """Lower bounds (b, k) of the forms (b, k, classes) on the logits. Never looser than the
    paper's, often equal."""
    return tightened_margins(graph, ball, forms, partial(relu_lines, parallel=True))
