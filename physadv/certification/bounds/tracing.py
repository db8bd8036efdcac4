"""Watching a forward pass: every torch function that touches the images becomes a layer, or an
error that names it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from physadv.certification.bounds.graph import LayerGraph, LayerNode, Shape
from physadv.certification.bounds.layers import (
    AddLayer,
    BatchNormLayer,
    ConvLayer,
    InputLayer,
    Layer,
    LinearLayer,
    NonnegativeMap,
    Pair,
    ReluLayer,
    ReshapeLayer,
    ScaleLayer,
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
_POINTS = 64
_CHUNK = 8  # not the size watched: what depends on the batch differs


def trace_graph(net: nn.Module, shape: Shape) -> LayerGraph:
    """The graph of ``net`` in eval mode for inputs of ``shape`` (c, h, w), images in [0, 1].

    Modes, gradients and generators of the user stay as they are. Raises ModelError naming the
    first operation bounds cannot pass, and for a net that does not return logits (b, classes) or
    decides by the values of its input.
    """
    images = torch.rand((_BATCH, *shape), generator=generator(0, "bounds", "trace"))
    images = images.to(next((p for p in net.parameters()), images))
    if images.dtype not in (torch.float32, torch.float64):
        raise ModelError(
            f"{type(net).__name__} computes in {images.dtype}",
            "its rounding is larger than a bound may be off; float32 and float64 are bounded",
            "convert it with .float(), or use --method smoothing",
        )
    with _evaluated(net), torch.no_grad():
        watcher = _OperationRecorder(images)
        with watcher:
            output = net(images)
        graph = LayerGraph(tuple(watcher.nodes_up_to(output)))
        if len(graph.nodes[-1].shape) != 1:
            raise ModelError(
                f"output of shape {tuple(output.shape)}",
                "bounds need logits (b, classes)",
                "wrap it",
            )
    _check_graph(graph, net, _probes(shape, count=5), tolerance=1e-4)
    return graph


def folded_graph(net: nn.Module, shape: Shape, dtype: torch.dtype | None = None) -> LayerGraph:
    """Trace ``net`` for inputs of ``shape``, fold it, and hold the result to the net itself.

    Args:
        net: a module that returns logits (b, classes); it stays as it is.
        shape: (c, h, w) of an image, values in [0, 1].
        dtype: type of the graph's numbers; None keeps the net's own.

    Returns:
        The graph that bounds are computed on. It has been compared with the net on 64 images,
        after its last transformation: once folded in float64 beside a float64 copy of the net
        (where the net runs in float64), and once as it is returned.

    Raises:
        ModelError: bounds cannot pass an operation, or the graph is not the net.
    """
    graph = trace_graph(net, shape)
    folded = graph.folded(dtype)
    probes = _probes(shape, count=_POINTS)

    _check_graph(folded, net, probes, tolerance=1e-4)
    double = _in_double(net, probes[:1])
    if double is not None:
        _check_graph(graph.folded(torch.float64), double, probes.double(), tolerance=1e-7)
    return folded


def _check_graph(graph: LayerGraph, net: nn.Module, images: Tensor, *, tolerance: float) -> None:
    """Raise ModelError unless ``graph`` gives the logits of ``net`` in eval mode on ``images``.

    ``images`` (b, c, h, w) are brought to the net's device and type and passed in small batches;
    ``tolerance`` is the largest difference allowed, over one plus the largest logit.
    """
    own = images.to(next((p for p in net.parameters()), images))
    scalar = next((t for n in graph.nodes for t in _numbers_of(n.layer)), own)
    with _evaluated(net), torch.no_grad():
        for piece in torch.split(own, _CHUNK):
            expected = net(piece)
            try:
                logits = graph(piece.to(scalar.dtype)).to(expected.dtype)
                gap = float((logits - expected).abs().max())
            except RuntimeError:  # a layer that fits the watched batch alone
                gap = float("inf")
            if not gap <= tolerance * (1 + float(expected.abs().max())):
                raise ModelError(
                    f"{type(net).__name__}",
                    f"its layers as watched differ from it by {gap:.2g}",
                    "use --method smoothing",
                )


def _probes(shape: Shape, *, count: int) -> Tensor:
    """(count, *shape) images of many kinds: noise, corners of the cube, flat, dark, bright, mixed."""
    draw = generator(0, "bounds", "check")
    noise = torch.rand((count, *shape), generator=draw)
    level = torch.rand((count, *[1] * len(shape)), generator=draw)
    kinds = (noise, (noise > level).float(), noise * level, 1 - noise.square(), level + 0 * noise)
    return torch.stack([kinds[i % len(kinds)][i] for i in range(count)])


def _in_double(net: nn.Module, image: Tensor) -> nn.Module | None:
    """A copy of ``net`` in float64; None for one that cannot be copied or fixes its own type."""
    try:
        double = copy.deepcopy(net).double()
        with _evaluated(double), torch.no_grad():
            logits = double(image.to(next((p for p in double.parameters()), image.double())))
    except (RuntimeError, TypeError, AttributeError):
        return None
    return double if logits.dtype == torch.float64 else None


def _numbers_of(layer: Layer) -> list[Tensor]:
    """The floating point tensors of a layer."""
    values = [getattr(layer, f.name) for f in fields(layer)]
    return [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]


class _OperationRecorder(TorchFunctionMode):
    """Records the layers between ``images`` and whatever is computed from them."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.batch = len(images)
        self.nodes = [LayerNode(InputLayer(), (), tuple(images.shape[1:]))]
        self._numbers = {id(images): 0}
        self._alive: list[Tensor] = [images]  # ids stay unique only while their tensors live
        self._stale: set[int] = set()

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
        if any(id(a) in self._stale for a in touched):
            raise _unknown(name, "its input was changed in place through another view of it")
        numbers = {
            id(a): self._numbers[id(a)] for a in touched
        }  # before an in-place function renames them
        versions = [a._version for a in touched]
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor):
            raise _unknown(name, "its outcome depends on the values of the images")
        self._record(name, func, args, kwargs, numbers, result)
        if any(a._version != version for a, version in zip(touched, versions, strict=True)):
            self._forget_views(result)
        return result

    def nodes_up_to(self, output: Any) -> list[LayerNode]:
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
            LayerNode(
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

    def _forget_views(self, changed: Tensor) -> None:
        """After an in-place operation other views of its memory no longer hold what was recorded."""
        memory = changed.untyped_storage().data_ptr()
        views = (t for t in self._alive if t.untyped_storage().data_ptr() == memory)
        self._stale.update(id(t) for t in views if t is not changed)

    def _append(self, layer: Layer, inputs: tuple[int, ...], result: Tensor) -> int:
        self.nodes.append(LayerNode(layer, inputs, tuple(result.shape[1:])))
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
        minus = ScaleLayer(-one, 0 * one)
        first, second = inputs
        if name == "sub":
            second = self._append(minus, (second,), result)
        if name == "rsub":
            first = self._append(minus, (first,), result)
        return self._append(AddLayer(), (first, second), result)

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
            if result.dtype != x.dtype or result.device != x.device or not torch.equal(result, x):
                raise _unknown(
                    name, f"it turns {x.dtype} into {result.dtype} and rounds the values"
                )
            return None
        if name == "relu":
            return ReluLayer()
        if name in ("add", "sub", "rsub", "mul", "div", "neg"):
            if result.shape != x.shape:
                raise _unknown(name, "with a constant larger than the value")
            return _scale(name, args, kwargs, place, x)
        if name in ("conv2d", "linear", "batch_norm"):
            return _weighted(name, args, kwargs)
        if name == "reshape":
            return ReshapeLayer(tuple(result.shape[1:]))
        if name in (
            "avg_pool2d",
            "adaptive_avg_pool2d",
            "mean",
            "permute",
            "transpose",
            "getitem",
            "sum",
        ):
            return NonnegativeMap(lambda t: func(t, *args[1:], **kwargs))
        if (name == "pad" and _pads_with_zero(args, kwargs)) or (
            name == "interpolate" and _interpolates(args, kwargs)
        ):
            return NonnegativeMap(lambda t: func(t, *args[1:], **kwargs))
        raise _unknown(name, "bounds have no rule for it")


def _scale(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], place: int, x: Tensor
) -> ScaleLayer:
    """x + c, x - c, c - x, c x, x / c or -x with a constant that is the same for every image of a
    batch."""
    one = torch.ones((), dtype=x.dtype, device=x.device)
    zero = 0 * one
    if name == "neg":
        return ScaleLayer(-one, zero)
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
        "add": lambda: ScaleLayer(one, c),
        "sub": lambda: ScaleLayer(one, -c),
        "rsub": lambda: ScaleLayer(-one, c),
        "mul": lambda: ScaleLayer(c, zero),
        "div": lambda: ScaleLayer(1 / c, zero),
    }[name]()


def _weighted(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layer:
    """Convolution, linear layer or batch normalization from its call."""
    if name == "linear":
        return LinearLayer(*_bound(("weight", "bias"), (None, None), args, kwargs))
    if name == "batch_norm":
        stored = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        defaults = (None, None, None, None, False, 0.1, 1e-5)
        mean, var, weight, bias, training, _, eps = _bound(stored, defaults, args, kwargs)
        if training or mean is None:
            raise _unknown(name, "with statistics of the batch")
        return BatchNormLayer(mean, var, weight, bias, eps)
    names = ("weight", "bias", "stride", "padding", "dilation", "groups")
    weight, bias, stride, padding, dilation, groups = _bound(
        names, (None, None, 1, 0, 1, 1), args, kwargs
    )
    stride, dilation = _pair(stride), _pair(dilation)
    return ConvLayer(weight, bias, stride, _padding(padding, weight, dilation), dilation, groups)


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
