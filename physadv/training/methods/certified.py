"""Certified training: methods whose loss bounds that of every image in the ball (polytope: up to
its estimates)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from physadv.certification.bounds.backward import backward_bounds
from physadv.certification.bounds.graph import LayerGraph, relaxed_nodes
from physadv.certification.bounds.ibp import interval_boxes
from physadv.certification.bounds.input_ball import NORMS, InputBall
from physadv.certification.bounds.layers import ScaleLayer
from physadv.certification.bounds.linear_forms import DenseForms
from physadv.certification.bounds.relaxations import Box
from physadv.certification.bounds.tracing import trace_graph
from physadv.certification.bounds.verify import margin_forms
from physadv.core.errors import OptionError
from physadv.training.methods._ibp_initialization import (
    balance_loss,
    initialize_for_ibp,
    set_batch_statistics,
    tightness_loss,
)
from physadv.training.methods._random_projections import sketched_lines
from physadv.training.methods.base import Metrics, TrainingMethod, TrainingPosition, require_option


@dataclass
class _Bounded(TrainingMethod):
    """Base of certified methods: a ball that grows from 0 to eps, and the traced network.

    The ball grows between two shares of the run, ``grow``. With ``stretch`` it grows to so many
    times eps: interval bounds at a small eps gain from it (Gowal et al. 2018 train at 0.2 for 0.1).
    Bounds are computed in single precision whatever the schedule's; batch normalization uses the
    clean batch.
    """

    eps: float
    norm: str = "linf"
    grow: tuple[float, float] = (0.05, 0.5)
    stretch: float = 1.0
    score: ClassVar[str] = "certified"
    _traced: tuple[nn.Module, tuple[int, ...], LayerGraph] | None = field(
        default=None, init=False, repr=False
    )

    def __post_init__(self) -> None:
        require_option("eps", self.eps, 0 <= self.eps < float("inf"), "Write it like 0.1 or 8/255")
        require_option(
            "stretch", self.stretch, 1 <= self.stretch <= 4, "Use a number from 1 to 4, such as 1.5"
        )
        if self.norm not in NORMS:
            raise OptionError(
                f"norm {self.norm}", f"bounds serve {' and '.join(NORMS)}", "Use linf"
            )
        if not 0 <= self.grow[0] <= self.grow[1] <= 1:
            raise OptionError(
                f"grow {self.grow}", "must be two ascending shares of the run", "Use (0.05, 0.5)"
            )

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        """Return the bound on the loss of ``net`` over balls about ``images`` with ``labels``;
        ``at`` decides the radius."""
        with torch.autocast(images.device.type, enabled=False):
            graph, logits = set_batch_statistics(
                self._graph(net, tuple(images.shape[1:])), images, at.processes
            )
            eps = self.eps * self.stretch * at.ramp(*self.grow)
            if eps == 0:
                return F.cross_entropy(logits, labels), {"eps": 0.0}

            forms = margin_forms(labels, graph.classes, images.dtype)
            loss, margins = self._bounded(graph, InputBall(images, eps, self.norm), forms, at)

            certified = float((margins.detach().amin(1) > 0).float().mean())
            return loss, {"eps": eps, "batch_certified": certified}

    def _bounded(
        self, graph: LayerGraph, ball: InputBall, forms: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and the margins (b, k) it was made of."""
        raise NotImplementedError

    def _graph(self, net: nn.Module, shape: tuple[int, ...]) -> LayerGraph:
        if self._traced is None or self._traced[0] is not net or self._traced[1] != shape:
            self._traced = (net, shape, trace_graph(net, shape))
        return self._traced[2]


@dataclass
class IbpTraining(_Bounded):
    """Interval bound propagation (Gowal et al. 2018) as in Shi et al. (2021).

    The robust cross-entropy of the interval margins, and ``regularize`` times two regularizers that
    fade out as eps grows. Initial weights are those of Shi et al., unless ``own_start`` is off.
    """

    synchronized: ClassVar[bool] = True
    regularize: float = 0.5
    own_start: bool = True

    def begin(self, net: nn.Module, generator: Generator) -> None:
        """Initialize ``net`` with draws of ``generator``."""
        if self.own_start:
            initialize_for_ibp(net, generator)

    def _bounded(
        self, graph: LayerGraph, ball: InputBall, forms: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Tensor]:
        boxes, before, margins = _intervals(graph, ball, forms)
        return self._with_regularizers(
            robust_cross_entropy(margins), graph, boxes, before, at
        ), margins

    def _with_regularizers(
        self,
        loss: Tensor,
        graph: LayerGraph,
        boxes: dict[int, Box],
        before: list[int],
        at: TrainingPosition,
    ) -> Tensor:
        fading = self.regularize * (1 - at.ramp(*self.grow))
        if fading == 0 or not before:
            return loss
        first = 1 if isinstance(graph.nodes[1].layer, ScaleLayer) else 0
        relu_inputs = [boxes[i] for i in before]
        return loss + fading * (
            tightness_loss(boxes[first], relu_inputs, at) + balance_loss(relu_inputs, at)
        )


@dataclass
class CrownIbpTraining(IbpTraining):
    """CROWN-IBP (Zhang et al. 2020): a backward bound over interval boxes, weighted from 1 down to
    0 as eps grows."""

    def _bounded(
        self, graph: LayerGraph, ball: InputBall, forms: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Tensor]:
        boxes, before, margins = _intervals(graph, ball, forms)

        weight = 1 - at.ramp(*self.grow)
        if weight > 0:
            layers = relaxed_nodes(graph)
            relaxed = {i: layers[i].relax(boxes[graph.nodes[i].inputs[0]]) for i in layers}
            margins = (
                weight * backward_bounds(graph, ball, _last(graph), DenseForms(forms), relaxed)
                + (1 - weight) * margins
            )

        return self._with_regularizers(
            robust_cross_entropy(margins), graph, boxes, before, at
        ), margins


@dataclass
class PolytopeTraining(_Bounded):
    """The dual of the convex outer polytope (Wong and Kolter 2018), with boxes from random
    projections (Wong et al. 2018)."""

    projections: int = 10
    divisible: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_option("projections", self.projections, self.projections >= 1, "Use 10")
        if self.norm != "linf":
            raise OptionError(f"norm {self.norm}", "Cauchy projections serve l_inf", "Use linf")

    def _bounded(
        self, graph: LayerGraph, ball: InputBall, forms: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Tensor]:
        relaxed = sketched_lines(graph, ball, self.projections, at.generator)
        margins = backward_bounds(graph, ball, _last(graph), DenseForms(forms), relaxed)
        return robust_cross_entropy(margins), margins


def robust_cross_entropy(margins: Tensor) -> Tensor:
    """Return the mean cross-entropy where every other class is as near as ``margins`` (b, classes -
    1) allow."""
    worst = F.pad(-margins, (1, 0))
    return F.cross_entropy(worst, torch.zeros(len(worst), dtype=torch.long, device=worst.device))


def _intervals(
    graph: LayerGraph, ball: InputBall, forms: Tensor
) -> tuple[dict[int, Box], list[int], Tensor]:
    """Return boxes, the nodes before the nonlinear layers in order, and the interval margins."""
    before = sorted({graph.nodes[i].inputs[0] for i in relaxed_nodes(graph)})
    boxes = interval_boxes(graph, ball, {0, 1, *before, *graph.last_nonlinear})
    margins = backward_bounds(graph, ball, _last(graph), DenseForms(forms), stops=boxes)
    return boxes, before, margins


def _last(graph: LayerGraph) -> int:
    return len(graph.nodes) - 1
