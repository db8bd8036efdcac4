"""Certification by bounds: the least margin of the true class over all images in a ball."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from physadv.certification.bounds.alpha_crown import alpha_crown_margins
from physadv.certification.bounds.branch_and_bound import (
    FALSIFIED,
    VERIFIED,
    Clause,
    verify_clauses,
)
from physadv.certification.bounds.crown import crown_ibp_margins, crown_margins
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.ibp import ibp_margins
from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.polytope import polytope_margins
from physadv.certification.bounds.rounding import rounding_of_margins, rounding_unit
from physadv.certification.bounds.tracing import folded_graph
from physadv.core.errors import OptionError

Method = Callable[[LayerGraph, InputBall, Tensor], Tensor]
METHODS: dict[str, Method] = {
    "ibp": ibp_margins,
    "crown-ibp": crown_ibp_margins,
    "crown": crown_margins,
    "polytope": polytope_margins,
    "alpha-crown": alpha_crown_margins,
}
BRANCH_AND_BOUND = "bab"
"""Name of the method that searches, and so may take a time limit and find counterexamples."""
TIME_LIMIT = 60.0
"""Seconds an image that a search may take."""
_CLOSE = 100.0
"""Bounds below this multiple of the network's rounding are computed in float64."""


@dataclass(frozen=True)
class BoundedMargins:
    """Lower bounds on the margins of a batch over its balls.

    Attributes:
        predicted: Classes (b,) of the images themselves.
        margins: Lower bounds (b,) on the logit of the label minus the best other one, over the
            whole ball. Positive ones have been lowered by the network's rounding; what is still
            positive is certified.
        verdicts: Outcome of each image's search, "verified", "falsified" or "timeout"; empty where
            the method does not search.
        counterexamples: Images (c, h, w) of the ball that the network itself classifies as
            something else, by place in the batch; an image that is wrong itself is its own.
    """

    predicted: Tensor
    margins: Tensor
    verdicts: tuple[str, ...] = ()
    counterexamples: dict[int, Tensor] = field(default_factory=dict)

    @property
    def certified(self) -> Tensor:
        """Whether no image of the ball is classified as anything but the label, (b,) bool."""
        return self.margins > 0


def margin_forms(labels: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the forms (b, classes - 1, classes) that subtract each other logit from the label's.

    Args:
        labels: True classes (b,), int64.
        classes: Number of classes.
        dtype: Type of the coefficients.

    Raises:
        OptionError: A label is out of range.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise OptionError(
            f"label {int(labels.min() if int(labels.min()) < 0 else labels.max())}",
            f"the model has {classes} classes",
            "Check that model and data belong together",
        )
    eye = torch.eye(classes, dtype=dtype, device=labels.device)
    differences = eye[labels][:, None] - eye

    # The label's own row, which is zero, is left out.
    others = torch.arange(classes - 1, device=labels.device).expand(len(labels), -1)
    others = others + (others >= labels[:, None])
    return differences.gather(1, others[..., None].expand(-1, -1, classes))


def prepare_graph(
    net: nn.Module,
    shape: tuple[int, ...],
    dtype: torch.dtype | None = None,
    *,
    ball: InputBall | None = None,
) -> LayerGraph:
    """Return the folded graph of a network, to be used for many batches.

    Args:
        net: Module that maps images to logits (b, classes); it is not changed.
        shape: Shape (c, h, w) of an image.
        dtype: Type of the graph's numbers; None keeps the network's own.
        ball: Inputs that will be bounded over; the graph is compared with the network on them too.

    Raises:
        ModelError: Bounds cannot pass an operation, or the graph differs from the network on any of
            78 test images or of the points of ``ball``.

    Example:
        >>> import torch
        >>> from physadv.certification.bounds.verify import prepare_graph
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> prepare_graph(net, (3, 2, 2)).classes
        3
    """
    return folded_graph(net, shape, dtype, ball=ball)


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
    time_limit: float = TIME_LIMIT,
    net: nn.Module | None = None,
) -> BoundedMargins:
    """Bound the margins of images over balls; a positive margin is a certificate.

    Bounds are of the network in exact arithmetic. A positive one is lowered by an estimate of what
    rounding changes (:mod:`physadv.certification.bounds.rounding`), and computed in float64 first
    where it is close to that.

    Args:
        graph: Graph of the network, from :func:`prepare_graph`.
        images: Images (b, c, h, w) in [0, 1].
        labels: True classes (b,), int64.
        eps: Radius of the balls, at least 0, in units of [0, 1].
        method: "ibp", "crown-ibp", "crown", "polytope" or "alpha-crown", from cheapest to tightest;
            or "bab", branch and bound, which searches for a proof or a counterexample.
        norm: "linf" or "l2".
        limits: Smallest and largest value of a pixel; None does not clip the balls.
        time_limit: Seconds an image after which a search gives up.
        net: The network itself, by which counterexamples are checked; None takes the graph as it
            was traced.

    Returns:
        The predictions and the margin bounds, and what a search found.

    Raises:
        OptionError: The method or norm is unknown, or a label is out of range.

    Example:
        >>> import torch
        >>> from physadv.certification.bounds.verify import prepare_graph, verify_bounds
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.rand(4, 3, 2, 2)
        >>> labels = net(images).argmax(1)
        >>> bounds = verify_bounds(prepare_graph(net, (3, 2, 2)), images, labels, eps=0.0)
        >>> bool((bounds.margins > 0).all())
        True
    """
    if method == BRANCH_AND_BOUND:
        with _full_precision(images.device.type):
            ball = InputBall(images, eps, norm, limits)
            return _searched(graph, ball, labels, time_limit, net or graph.traced or graph)
    if method not in METHODS:
        known = ", ".join([*METHODS, BRANCH_AND_BOUND])
        raise OptionError(f"method {method!r}", f"is none of {known}", "Use crown-ibp")

    def margins_of(graph: LayerGraph, images: Tensor, labels: Tensor) -> Tensor:
        forms = margin_forms(labels, graph.classes, images.dtype)
        return METHODS[method](graph, InputBall(images, eps, norm, limits), forms).min(1).values

    unit = rounding_unit(images)  # the network's own, not that of the bounds
    with _full_precision(images.device.type):
        margins = margins_of(graph, images, labels)
        chosen = (margins > 0).nonzero()[:, 0]
        if len(chosen):
            rounding = rounding_of_margins(graph.traced or graph, images[chosen], unit=unit)
            close = chosen[margins[chosen] <= _CLOSE * rounding]
            if len(close) and images.dtype != torch.float64 and images.device.type != "mps":
                double = margins_of(
                    graph.cast(torch.float64), images[close].double(), labels[close]
                )
                margins[close] = torch.minimum(margins[close], double.to(margins.dtype))
            margins[chosen] -= rounding
        return BoundedMargins(graph(images).argmax(1), margins)


def _searched(
    graph: LayerGraph,
    ball: InputBall,
    labels: Tensor,
    time_limit: float,
    net: Callable[[Tensor], Tensor],
) -> BoundedMargins:
    """Return the outcome of branch and bound, image by image."""
    predicted = graph(ball.center).argmax(1)
    forms = margin_forms(labels, graph.classes, torch.float64)
    margins, verdicts = torch.empty(len(labels), dtype=ball.center.dtype), []
    counterexamples: dict[int, Tensor] = {}
    for i, label in enumerate(labels.tolist()):
        one = ball.select(i)

        def breaks(point: Tensor, clause: int, label: int = label) -> bool:
            return int(net(point.to(ball.center)).argmax(1)) != label

        result = verify_clauses(
            graph,
            one,
            [Clause(row[None], torch.zeros(1).to(row)) for row in forms[i]],
            check=breaks,
            rounding=float(rounding_of_margins(graph.traced or graph, one.center)),
            time_limit=0.0 if breaks(one.center, 0) else time_limit,
        )
        verdict, found = result.verdict, result.counterexample
        if verdict != VERIFIED and breaks(one.center, 0):
            verdict, found = FALSIFIED, one.center[0]
        if found is not None:
            counterexamples[i] = found
        margins[i] = result.bound
        verdicts.append(verdict)
    return BoundedMargins(predicted, margins.to(ball.center), tuple(verdicts), counterexamples)


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """Compute bounds without mixed precision and, on a GPU, without shortened products."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device, enabled=False))
        if device == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(allow_tf32=False))
        yield
