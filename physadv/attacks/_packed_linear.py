"""Linear layers on CPUs by oneDNN, with weights laid out once for both directions.

torch's own call lays the weights out anew each time, or takes a slower product for the gradient.
The operators are those that torch.compile's frozen graphs use; without them nothing is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from physadv.attacks._layer_swaps import replace_layers

_ROWS, _PRODUCTS = 16, 1 << 20
"""Fewest rows, and multiplications, of a call for which it is worth it."""
_SIDE = 32
"""Fewest features in and out."""
_MOST_BYTES = 1 << 30
"""Most memory for the weights laid out, which take twice that of their own."""
_OPERATORS = ("_reorder_linear_weight", "_linear_pointwise")


class PackedLinear(nn.Linear):
    """A linear layer with frozen weights, whose products are oneDNN's where they are large.

    Args:
        linear: Layer that shares its weights; not changed.

    Attributes:
        fewest: Rows, and multiplications, of a call from which on it is done so; for fewer it is
            torch's own.
    """

    fewest = (_ROWS, _PRODUCTS)

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.original = [linear]  # in a list, so that it is no layer of this one
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        weight = linear.weight.detach()
        self._forward_weight = _packed(weight)
        self._backward_weight = _packed(weight.t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Return what the linear layer returns for ``x`` (..., features)."""
        rows = x.numel() // self.in_features
        few = rows < self.fewest[0] or rows * self.weight.numel() < self.fewest[1]
        if few or x.dtype != torch.float32:
            return F.linear(x, self.weight, self.bias)
        # In rows, for a view made within would not take a layer in place behind it.
        out: Tensor = _Product.apply(  # type: ignore[no-untyped-call]
            x.reshape(rows, -1), self._forward_weight, self._backward_weight, self.bias
        )
        return out.view(*x.shape[:-1], -1)


class _Product(torch.autograd.Function):
    """Outputs of the inputs, and the inputs' gradient of the outputs'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor, bias: Tensor | None) -> Tensor:
        ctx.back = back
        return _multiply(x, there, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _multiply(gradient, ctx.back, None), None, None, None


def use_packed_linear(module: nn.Module) -> int:
    """Replace the linear layers of ``module`` that gain by it, in place; return their number."""
    chosen = [m for m in module.modules() if isinstance(m, nn.Linear) and _fits(m)]
    size = sum(m.weight.numel() * m.weight.element_size() for m in chosen)
    known = all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
    if not known or 2 * size > _MOST_BYTES:
        return 0
    try:
        made = {m: PackedLinear(m) for m in chosen}
    except (RuntimeError, NotImplementedError, TypeError):  # operators of another build or version
        return 0
    replace_layers(module, made)
    return len(made)


def undo_packed_linear(module: nn.Module) -> None:
    """Put back, in place, the layers that :func:`use_packed_linear` has replaced."""
    packed = [m for m in module.modules() if isinstance(m, PackedLinear)]
    replace_layers(module, {layer: layer.original[0] for layer in packed})


@contextmanager
def any_number_of_rows(module: nn.Module) -> Iterator[None]:
    """Use the packed weights for however few rows within, so that a comparison meets them."""
    layers = [m for m in module.modules() if isinstance(m, PackedLinear)]
    for layer in layers:
        layer.fewest = (0, 0)
    try:
        yield
    finally:
        for layer in layers:
            layer.fewest = (_ROWS, _PRODUCTS)


def _fits(layer: nn.Linear) -> bool:
    """Whether a layer is a plain linear one of float32 on a CPU, wide enough to gain."""
    return (
        type(layer) is nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and min(layer.in_features, layer.out_features) >= _SIDE
    )


def _packed(weight: Tensor) -> Tensor:
    """A weight (out, in) as oneDNN likes it, in its own layout."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x`` (rows, in) by a packed weight."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out
