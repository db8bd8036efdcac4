"""Certified or not: the least margin of the true class over all images in a ball."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from physadv.certification.bounds.crown import crown_ibp_margins, crown_margins
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.ibp import ibp_margins
from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.polytope import polytope_margins
from physadv.certification.bounds.tracing import folded_graph
from physadv.core.errors import OptionError

Method = Callable[[LayerGraph, InputBall, Tensor], Tensor]
METHODS: dict[str, Method] = {
    "ibp": ibp_margins,
    "crown-ibp": crown_ibp_margins,
    "crown": crown_margins,
    "polytope": polytope_margins,
}


@dataclass(frozen=True)
class BoundedMargins:
    """``margins`` (b,): lower bounds on the logit of the label minus the best other one, over the
    whole ball.

    ``predicted`` (b,) are the classes of the images themselves. Certified is what has a positive
    margin.
    """

    predicted: Tensor
    margins: Tensor

    @property
    def certified(self) -> Tensor:
        """(b,) bool: no image of the ball is classified as anything but the label."""
        return self.margins > 0


def margin_forms(labels: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(b, classes - 1, classes): the label's logit minus each other. Raises OptionError for a label
    out of range."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise OptionError(
            f"label {int(labels.max())}",
            f"the victim has {classes} classes",
            "check victim and data",
        )
    eye = torch.eye(classes, dtype=dtype, device=labels.device)
    every = eye[labels][:, None] - eye
    others = torch.arange(classes - 1, device=labels.device).expand(len(labels), -1)
    others = others + (others >= labels[:, None])
    return every.gather(1, others[..., None].expand(-1, -1, classes))


def prepare_graph(
    net: nn.Module, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> LayerGraph:
    """Return the folded graph of ``net`` for images of ``shape`` (c, h, w), for many batches.

    ``dtype`` is the type of its numbers; None keeps the net's own. Raises ModelError where bounds
    cannot pass an operation, or where the graph differs from the net on any of 64 test images.
    """
    return folded_graph(net, shape, dtype)


@torch.no_grad()
def verify_bounds(
    graph: LayerGraph,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    method: str = "crown",
    norm: str = "linf",
    limits: tuple[float, float] | None = (0.0, 1.0),
) -> BoundedMargins:
    """Bound the margins of ``images`` (b, c, h, w) in [0, 1] over balls of ``eps`` in ``norm``.

    ``method`` is one of METHODS. Bounds are computed in floating point: each is exact up to its
    rounding. Raises OptionError for an unknown method or norm.
    """
    if method not in METHODS:
        raise OptionError(f"method {method!r}", f"one of {', '.join(METHODS)}", "use crown-ibp")
    forms = margin_forms(labels, graph.classes, images.dtype)
    margins = METHODS[method](graph, InputBall(images, eps, norm, limits), forms)
    return BoundedMargins(graph(images).argmax(1), margins.min(1).values)
