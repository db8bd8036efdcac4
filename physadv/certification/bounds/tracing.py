"""Watching a forward pass: every torch function that touches the images becomes a layer, or an
error that names it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from physadv.certification.bounds.graph import Graph, Node, Shape
from physadv.certification.bounds.layers import (
    Add,
    Average,
    Conv,
    Input,
    Layer,
    Linear,
    Norm,
    Pair,
    Relu,
    Reshape,
    Scale,
)
from physadv.core.errors import ModelError
from physadv.core.random_streams import generator

_ABOUT_SHAPE = frozenset(
    (
        *(
            "shape",
            "ndim",
            "dtype",
            "device",
            "layout",
            "requires_grad",
            "is_leaf",
            "is_cuda",
            "is_mps",
            "is_sparse",
        ),
        *(
            "is_quantized",
            "is_meta",
            "is_nested",
            "size",
            "dim",
            "ndimension",
            "numel",
            "nelement",
            "__len__",
        ),
        *(
            "is_floating_point",
            "is_complex",
            "is_contiguous",
            "stride",
            "get_device",
            "element_size",
            "names",
        ),
    )
)
_SAME = frozenset(
    (
        "clone",
        "contiguous",
        "detach",
        "float",
        "identity",
        "type_as",
        "to",
        "dropout",
        "dropout2d",
        "alpha_dropout",
    )
)
_SYNONYMS = {
    "iadd": "add",
    "radd": "add",
    "isub": "sub",
    "imul": "mul",
    "rmul": "mul",
    "truediv": "div",
    "itruediv": "div",
    "true_divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "divide": "div",
    "view": "reshape",
    "unflatten": "reshape",
    "squeeze": "reshape",
    "unsqueeze": "reshape",
    "flatten": "reshape",
    "upsample": "interpolate",
    "negative": "neg",
}


_BATCH = 7  # no layer has this first size by accident


def trace(net: nn.Module, shape: Shape) -> Graph:
    """The graph of ``net`` in eval mode for inputs of ``shape`` (c, h, w), images in [0, 1].

    Modes, gradients and generators of the user stay as they are. Raises ModelError naming the
    first operation bounds cannot pass, and for a net that does not return logits (b, classes) or
    decides by the values of its input.
    """
    images = torch.rand((_BATCH, *shape), generator=generator(0, "bounds", "trace"))
    images = images.to(next((p for p in net.parameters()), images))
    with _evaluated(net), torch.no_grad():
        watcher = Watcher(images)
        with watcher:
            output = net(images)
        graph = Graph(tuple(watcher.nodes_up_to(output)))
        if len(graph.nodes[-1].shape) != 1:
            raise ModelError(
                f"output of shape {tuple(output.shape)}",
                "bounds need logits (b, classes)",
                "wrap it",
            )
        _check(
            graph,
            net,
            torch.cat([1 - images[:2], images[2:4].square(), torch.zeros_like(images[:1])]),
        )
    return graph


class Watcher(TorchFunctionMode):
    """Records the layers between ``images`` and whatever is computed from them."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.batch = len(images)
        self.nodes = [Node(Input(), (), tuple(images.shape[1:]))]
        self._numbers = {id(images): 0}
        self._alive: list[Any] = [images]  # ids stay unique only while their tensors live

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function; record it if it touches what is watched."""
        kwargs = kwargs or {}
        touched = [a for a in _tensors((args, kwargs)) if id(a) in self._numbers]
        if not touched:
            return func(*args, **kwargs)
        name = _name(func)
        if name in _ABOUT_SHAPE:
            return func(*args, **kwargs)
        numbers = {
            id(a): self._numbers[id(a)] for a in touched
        }  # before an in-place function renames them
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor):
            raise _unknown(name, "its outcome depends on the values of the images")
        self._record(name, func, args, kwargs, numbers, result)
        return result

    def nodes_up_to(self, output: Any) -> list[Node]:
        """The nodes that end in ``output``; those it does not depend on are left out."""
        if not isinstance(output, Tensor) or id(output) not in self._numbers:
            raise ModelError(
                "this victim",
                "its layers cannot be watched",
                "give it as a torch module, or use smoothing",
            )
        wanted, needed = self._numbers[id(output)], set[int]()
        pending = [wanted]
        while pending:
            number = pending.pop()
            if number not in needed:
                needed.add(number)
                pending.extend(self.nodes[number].inputs)
        order = sorted(needed | {0})
        places = {old: new for new, old in enumerate(order)}
        return [
            Node(
                self.nodes[i].layer,
                tuple(places[j] for j in self.nodes[i].inputs),
                self.nodes[i].shape,
            )
            for i in order
        ]

    def _record(
        self,
        name: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        numbers: dict[int, int],
        result: Tensor,
    ) -> None:
        if not args and "input" in kwargs:
            args, kwargs = (kwargs["input"],), {k: v for k, v in kwargs.items() if k != "input"}
        places = [i for i, a in enumerate(args[:2]) if isinstance(a, Tensor) and id(a) in numbers]
        elsewhere = set(numbers) - {id(args[i]) for i in places}
        if elsewhere or result.ndim < 1 or result.shape[0] != self.batch:
            raise _unknown(name, "it mixes the images in a way bounds do not follow")
        inputs = tuple(numbers[id(args[i])] for i in places)
        if len(inputs) == 2:
            number = self._sum(name, args, kwargs, inputs, result)
        else:
            (place,) = places
            layer = self._layer(name, func, args, kwargs, place, result)
            number = inputs[0] if layer is None else self._append(layer, inputs, result)
        self._numbers[id(result)] = number
        self._alive.append(result)

    def _append(self, layer: Layer, inputs: tuple[int, ...], result: Tensor) -> int:
        self.nodes.append(Node(layer, inputs, tuple(result.shape[1:])))
        return len(self.nodes) - 1

    def _sum(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: tuple[int, ...],
        result: Tensor,
    ) -> int:
        """x + y or x - y of two watched values of one shape."""
        if (
            name not in ("add", "sub", "rsub")
            or kwargs.get("alpha", 1) != 1
            or args[0].shape != args[1].shape
        ):
            raise _unknown(name, "of two values that both depend on the images")
        one = torch.ones((), dtype=result.dtype, device=result.device)
        minus = Scale(-one, 0 * one)
        first, second = inputs
        if name == "sub":
            second = self._append(minus, (second,), result)
        if name == "rsub":
            first = self._append(minus, (first,), result)
        return self._append(Add(), (first, second), result)

    def _layer(
        self,
        name: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        place: int,
        result: Tensor,
    ) -> Layer | None:
        """The layer of a function of one watched value; None where it changes nothing."""
        x = args[place]
        if name in _SAME:
            if name.endswith("dropout") or name == "dropout2d":
                _refuse_training(name, func, args, kwargs)
            return None
        if name == "relu":
            return Relu()
        if name in ("add", "sub", "rsub", "mul", "div", "neg"):
            if result.shape != x.shape:
                raise _unknown(name, "with a constant larger than the value")
            return _scale(name, args, kwargs, place, x)
        if name in ("conv2d", "linear", "batch_norm"):
            return _weighted(name, args, kwargs)
        if name == "reshape":
            return Reshape(tuple(result.shape[1:]))
        if name in (
            "avg_pool2d",
            "adaptive_avg_pool2d",
            "mean",
            "permute",
            "transpose",
            "getitem",
            "sum",
        ):
            return Average(lambda t: func(t, *args[1:], **kwargs))
        if (name == "pad" and _pads_with_zero(args, kwargs)) or (
            name == "interpolate" and _interpolates(args, kwargs)
        ):
            return Average(lambda t: func(t, *args[1:], **kwargs))
        raise _unknown(name, "bounds have no rule for it")


def _scale(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], place: int, x: Tensor
) -> Scale:
    """x + c, x - c, c - x, c x, x / c or -x with a constant that is the same for every image of a
    batch."""
    one = torch.ones((), dtype=x.dtype, device=x.device)
    zero = 0 * one
    if name == "neg":
        return Scale(-one, zero)
    other: Any = args[1 - place] if len(args) > 1 else kwargs["other"]
    c = other if isinstance(other, Tensor) else one * other
    wider = c.ndim > x.ndim or (c.ndim == x.ndim and c.shape[0] != 1)
    if (
        kwargs.get("alpha", 1) != 1
        or wider
        or (name == "div" and (place == 1 or kwargs.get("rounding_mode")))
    ):
        raise _unknown(name, "with these operands")
    if place == 1 and name in ("sub", "rsub"):
        name = {"sub": "rsub", "rsub": "sub"}[name]
    return {
        "add": lambda: Scale(one, c),
        "sub": lambda: Scale(one, -c),
        "rsub": lambda: Scale(-one, c),
        "mul": lambda: Scale(c, zero),
        "div": lambda: Scale(1 / c, zero),
    }[name]()


def _weighted(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layer:
    """Convolution, linear layer or batch normalization from its call."""
    if name == "linear":
        return Linear(*_bound(("weight", "bias"), (None, None), args, kwargs))
    if name == "batch_norm":
        stored = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        defaults = (None, None, None, None, False, 0.1, 1e-5)
        mean, var, weight, bias, training, _, eps = _bound(stored, defaults, args, kwargs)
        if training or mean is None:
            raise _unknown(name, "with statistics of the batch")
        return Norm(mean, var, weight, bias, eps)
    names = ("weight", "bias", "stride", "padding", "dilation", "groups")
    weight, bias, stride, padding, dilation, groups = _bound(
        names, (None, None, 1, 0, 1, 1), args, kwargs
    )
    stride, dilation = _pair(stride), _pair(dilation)
    return Conv(weight, bias, stride, _padding(padding, weight, dilation), dilation, groups)


def _bound(
    names: tuple[str, ...], defaults: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Any]:
    rest = args[1:]
    return [
        rest[i] if i < len(rest) else kwargs.get(name, default)
        for i, (name, default) in enumerate(zip(names, defaults, strict=True))
    ]


def _pair(value: Any) -> Pair:
    numbers = [value] if isinstance(value, int) else list(value)
    return (int(numbers[0]), int(numbers[-1]))


def _padding(value: Any, weight: Tensor, dilation: Pair) -> Pair:
    if value == "valid":
        return (0, 0)
    if value != "same":
        return _pair(value)
    sizes = [dilation[i] * (weight.shape[2 + i] - 1) for i in (0, 1)]
    if any(s % 2 for s in sizes):
        raise _unknown("conv2d", "with uneven padding")
    return (sizes[0] // 2, sizes[1] // 2)


def _option(
    function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The value of one argument of a call."""
    call = inspect.signature(function).bind(*args, **kwargs)
    call.apply_defaults()
    return call.arguments[name]


def _pads_with_zero(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return _option(F.pad, "mode", args, kwargs) == "constant" and not _option(
        F.pad, "value", args, kwargs
    )


def _interpolates(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """By weights that are never negative, as bicubic's are."""
    return _option(F.interpolate, "mode", args, kwargs) in (
        "nearest",
        "nearest-exact",
        "bilinear",
        "area",
    )


def _refuse_training(
    name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    training = kwargs.get("training", args[2] if len(args) > 2 else True)
    if training:
        raise _unknown(name, "in training mode")


def _name(func: Callable[..., Any]) -> str:
    """The plain name: relu of F.relu, torch.relu_, Tensor.relu; add of Tensor.__add__; shape of its
    getter."""
    full: str = resolve_name(func) or getattr(func, "__name__", str(func))
    parts = full.removesuffix(".__get__").split(".")
    last = parts[-1]
    if last in _ABOUT_SHAPE:
        return last
    plain = last.strip("_")
    return _SYNONYMS.get(plain, plain)


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    return [t for v in values for t in _tensors(v)] if isinstance(values, list | tuple) else []


def _unknown(name: str, why: str) -> ModelError:
    return ModelError(f"operation {name!r}", f"cannot be bounded: {why}", "use --method smoothing")


@contextmanager
def _evaluated(net: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in net.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


_POINTS = 64
"""Images on which a folded graph is compared with its net."""


def check_folded(graph: Graph, net: nn.Module, shape: Shape) -> None:
    """Compare ``graph`` in float64 with a float64 copy of ``net`` on images of ``shape`` (c, h, w).

    The images are random ones, corners of [0, 1], and noise far outside it. A cast to half
    precision or a quantizer that the graph leaves out differs by more than the tolerance, which
    is 1e-5 of the largest logit; one in single precision does not.

    Raises:
        ModelError: The net is not the function whose bounds the graph would give.
    """
    stream = generator(0, "bounds", "folded graph")
    drawn = torch.rand((_POINTS, *shape), generator=stream, dtype=torch.float64)
    points = torch.cat([drawn, drawn.round(), 4 * drawn - 2])
    try:
        double = copy.deepcopy(net).double()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ModelError(
            f"{type(net).__name__} cannot be copied in float64",
            f"its bounds cannot be checked ({error})",
            "Use --method smoothing",
        ) from error

    points = points.to(next((p.device for p in net.parameters()), points.device))
    with _evaluated(double), torch.no_grad():
        expected = double(points).double()
        bounded = graph.folded(torch.float64)(points)
    tolerance = 1e-5 * (1 + float(expected.abs().max()))
    gap = float((bounded - expected).abs().max())
    if not gap <= tolerance:
        raise ModelError(
            f"{type(net).__name__} differs from its graph of bounds by {gap:.2g}",
            f"at most {tolerance:.2g} is rounding, so the bounds would not be the model's",
            "Remove casts to half precision and quantizers, or use --method smoothing",
        )


def _check(graph: Graph, net: nn.Module, images: Tensor) -> None:
    """The graph must be the net on other images than the one watched."""
    seen, wanted = graph(images), net(images)
    if not torch.allclose(seen, wanted, rtol=1e-3, atol=1e-4 * (1 + float(wanted.abs().max()))):
        gap = float((seen - wanted).abs().max())
        raise ModelError(
            f"{type(net).__name__}",
            f"its layers as watched differ from it by {gap:.2g}",
            "use --method smoothing",
        )
