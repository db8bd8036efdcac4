"""Dual bound of the convex outer polytope (Wong and Kolter 2018), exact, without random
projections.

The paper's dual network is a backward pass whose lower and upper lines at every ReLU have the
chord's slope; the bounds inside the network are dual bounds too.
"""

from __future__ import annotations

from torch import Tensor

from physadv.certification.bounds.crown import tightened_margins
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.input_ball import InputBall


def polytope_margins(graph: LayerGraph, ball: InputBall, forms: Tensor) -> Tensor:
    """Return polytope lower bounds (b, k) of linear forms on the logits, never looser than the
    paper's.

    Args:
        graph: Folded graph of the network.
        ball: Inputs to bound over, b images.
        forms: Coefficients (b, k, classes) of the forms.
    """
    return tightened_margins(graph, ball, forms, parallel=True)
