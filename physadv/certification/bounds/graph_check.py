"""Comparison of a traced graph with its network, on many images."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import cast

import torch
from torch import Tensor, nn

from physadv.certification.bounds.graph import LayerGraph, Shape
from physadv.certification.bounds.input_ball import InputBall
from physadv.core.errors import ModelError
from physadv.core.random_streams import generator

_BATCH_SIZES = (8, 1, 5, 64)
"""Sizes of the batches that are compared, in turn: dependence on the batch shows."""
_FAR = (4.0, 30.0)
"""Scales of the images far outside [0, 1]: what clips or saturates shows."""


def check_graph(
    graph: LayerGraph, net: nn.Module, images: Tensor, *, tolerance: float | Tensor
) -> None:
    """Compare the logits of a graph with those of its network in eval mode.

    Args:
        graph: Graph of the network, folded or not, in the type of its own numbers.
        net: The network; it is left as it was.
        images: Images (b, c, h, w), which are brought to the network's device and type.
        tolerance: Largest difference allowed, as a share of the image's largest logit, or of a
            hundredth of the largest of all; or the differences (b,) themselves.

    Raises:
        ModelError: The logits differ by more, or the network keeps a state.
    """
    own = images.to(number_of(net, images))
    with evaluated(net), torch.no_grad():
        pieces = list(_pieces(own))
        modes = [i % 2 == 1 for i in range(len(pieces))]
        answers = [_logits_of(net, p, graded=g) for p, g in zip(pieces, modes, strict=True)]
        floor = 0.01 * max(_largest(logits) for logits in answers)
        done = 0
        for piece, graded, expected in zip(pieces, modes, answers, strict=True):
            if expected.ndim != 2 or len(expected) != len(piece):
                raise ModelError(
                    f"{type(net).__name__} returns logits of shape {tuple(expected.shape)} for a "
                    f"batch of {len(piece)}",
                    "bounds need one row an image whatever the batch",
                    "Remove the dependence, as a squeeze() without a dimension has it",
                )
            gaps = _gaps(graph, piece, expected)
            if isinstance(tolerance, Tensor):
                allowed = tolerance[done : done + len(piece)].to(gaps)
            else:
                allowed = tolerance * expected.abs().amax(1).clamp_min(floor)
            done += len(piece)
            if not bool((gaps <= allowed).all()):
                raise _difference(net, piece, expected, gaps, graded=graded)


def probe_images(shape: Shape, count: int) -> Tensor:
    """Return (count, *shape) images of many kinds: noise, corners of the cube, flat, dark, bright,
    mixed, and some far outside [0, 1]."""
    draw = generator(0, "bounds", "check")
    noise = torch.rand((count, *shape), generator=draw)
    level = torch.rand((count, *[1] * len(shape)), generator=draw)
    kinds = [noise, (noise > level).float(), noise * level, 1 - noise.square(), level + 0 * noise]
    kinds += [scale * (2 * noise - 1) for scale in _FAR]
    return torch.stack([kinds[i % len(kinds)][i] for i in range(count)])


def images_in_ball(ball: InputBall) -> Tensor:
    """Return (3 b, *shape) points of a ball: the centers, a corner of the box or a point of the
    sphere about each, and a point within."""
    draw = generator(0, "bounds", "ball")
    noise = torch.randn(ball.center.shape, generator=draw).to(ball.center)
    if ball.norm == "linf":
        step = noise.sign()
    else:
        size = noise.flatten(1).norm(dim=1).clamp_min(1e-12)
        step = noise / size.view(-1, *[1] * (noise.ndim - 1))
    limits = (-torch.inf, torch.inf) if ball.limits is None else ball.limits
    points = [ball.center + share * ball.eps * step for share in (0.0, 1.0, -0.5)]
    return torch.cat(points).clamp(*limits)


def copied_in_double(net: nn.Module, image: Tensor) -> nn.Module | None:
    """Return a copy of ``net`` in float64; None where it cannot be copied or fixes its own type.

    ``image`` (1, c, h, w) is passed through the copy to try it.
    """
    try:
        double = copy.deepcopy(net).double()
        with evaluated(double), torch.no_grad():
            logits = double(image.to(number_of(double, image.double())))
    except (RuntimeError, TypeError, AttributeError):
        return None
    return double if logits.dtype == torch.float64 else None


def number_of(net: nn.Module, default: Tensor) -> Tensor:
    """Return a parameter or buffer whose type and device are those of the network's computation;
    ``default`` where it has none."""
    own = (t for t in [*net.parameters(), *net.buffers()] if t.is_floating_point())
    return next(own, default)


@contextmanager
def evaluated(net: nn.Module) -> Iterator[None]:
    """Put a network in eval mode, and restore its modes and buffers on exit.

    Raises:
        ModelError: A buffer changed in between.
    """
    modes = [(m, m.training) for m in net.modules()]
    buffers = [(m, name, b) for m in net.modules() for name, b in m._buffers.items()]
    values = [None if b is None else b.clone() for _, _, b in buffers]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        changed = _restore_buffers(buffers, values)
    if changed:
        raise ModelError(
            f"{type(net).__name__} changes its buffer {changed[0]!r} while it runs",
            "a certificate holds for a fixed network",
            "Keep the state out of eval mode",
        )


def _restore_buffers(
    buffers: Sequence[tuple[nn.Module, str, Tensor | None]], values: Sequence[Tensor | None]
) -> list[str]:
    """Give buffers their former objects and values, and return the names of those that differed."""
    changed = []
    for (module, name, buffer), value in zip(buffers, values, strict=True):
        same = module._buffers.get(name) is buffer
        if not same:
            module._buffers[name] = buffer
        if buffer is not None and value is not None and not torch.equal(buffer, value):
            same = bool((buffer != buffer).any()) and torch.equal(  # NaN is never equal
                buffer.nan_to_num(), value.nan_to_num()
            )
            with torch.no_grad():
                buffer.copy_(value)
        if not same:
            changed.append(name)
    return changed


def _pieces(images: Tensor) -> Iterator[Tensor]:
    """Yield ``images`` in batches of several sizes."""
    start = 0
    for size in cycle(_BATCH_SIZES):
        if start >= len(images):
            return
        yield images[start : start + size]
        start += size


def _logits_of(net: nn.Module, piece: Tensor, *, graded: bool) -> Tensor:
    """Return the logits of ``net``; with ``graded`` as an attack computes them, with gradients."""
    if not graded:
        return cast(Tensor, net(piece.clone()))
    try:
        with torch.enable_grad():
            leaf = piece.clone().requires_grad_(True)
            return cast(Tensor, net(leaf.clone())).detach()
    except RuntimeError:  # a step in place that autograd does not allow
        return cast(Tensor, net(piece.clone()))


def _gaps(graph: LayerGraph, piece: Tensor, expected: Tensor) -> Tensor:
    """Return the largest differences (b,) of the graph's logits from ``expected`` (b, classes)."""
    try:
        logits = graph(piece.to(graph.dtype or piece.dtype)).to(expected.dtype)
        return (logits - expected).abs().amax(1)
    except RuntimeError:  # a layer that fits the traced batch alone
        return torch.full_like(expected[:, 0], torch.inf)


def _largest(logits: Tensor) -> float:
    return float(logits.abs().max()) if logits.numel() else 0.0


def _difference(
    net: nn.Module, piece: Tensor, expected: Tensor, gaps: Tensor, *, graded: bool
) -> ModelError:
    """Return the error that a graph is not its network, and whether the network is one function."""
    again = _logits_of(net, piece, graded=graded)
    if again.shape != expected.shape or not torch.equal(again, expected):
        return ModelError(
            f"{type(net).__name__} answers differently when asked twice",
            "a certificate holds for a fixed network; this one is random or keeps a state",
            "Use --method smoothing",
        )
    return ModelError(
        f"{type(net).__name__} differs from its own traced layers by {float(gaps.max()):.2g} in a "
        f"logit of up to {_largest(expected):.2g}",
        "something in it rounds, or depends on the batch, on values of the images, on a state or "
        "on gradients",
        "Use --method smoothing",
    )
