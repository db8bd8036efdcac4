"""Tracing of a network into a graph: every torch function that touches the images becomes a layer,
or an error that names it."""

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

# Functions that read no values: they are run and leave no layer.
_METADATA_NAMES = (
    "shape ndim dtype device layout requires_grad is_leaf is_cuda is_mps is_sparse is_quantized "
    "is_meta is_nested size dim ndimension numel nelement __len__ is_floating_point is_complex "
    "is_contiguous stride get_device element_size names"
)
_METADATA = frozenset(_METADATA_NAMES.split())
# Functions that return their input's values, in eval mode.
_IDENTITY_NAMES = (
    "clone contiguous detach float identity type_as to dropout dropout2d alpha_dropout"
)
_IDENTITIES = frozenset(_IDENTITY_NAMES.split())
# Linear functions without negative weights.
_NONNEGATIVE_NAMES = "avg_pool2d adaptive_avg_pool2d mean permute transpose getitem sum"
_NONNEGATIVE = frozenset(_NONNEGATIVE_NAMES.split())
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


_BATCH = 7
"""Batch size of the traced pass; no layer has this first size by accident."""
_POINTS = 64
"""Number of test images on which a graph is compared with its network."""
_CHUNK = 8
"""Batch size of the comparison; unlike _BATCH, so that dependence on the batch shows."""


def trace_graph(net: nn.Module, shape: Shape) -> LayerGraph:
    """Return the graph of a network in eval mode, not folded yet.

    Modes, gradients and random generators of the caller stay as they are.

    Args:
        net: Module that maps images in [0, 1] to logits (b, classes).
        shape: Shape (c, h, w) of an image.

    Raises:
        ModelError: Bounds cannot pass an operation (the first one is named), the output is no
            logits, or a branch depends on the values of the input.
    """
    images = torch.rand((_BATCH, *shape), generator=generator(0, "bounds", "trace"))
    images = images.to(next((p for p in net.parameters()), images))
    if images.dtype not in (torch.float32, torch.float64):
        raise ModelError(
            f"{type(net).__name__} computes in {images.dtype}",
            "its rounding exceeds the tolerance of a bound; float32 and float64 are supported",
            "Convert it with .float(), or use --method smoothing",
        )

    with _evaluated(net), torch.no_grad():
        recorder = _OperationRecorder(images)
        with recorder:
            output = net(images)
        graph = LayerGraph(tuple(recorder.nodes_up_to(output)))
        if len(graph.nodes[-1].shape) != 1:
            raise ModelError(
                f"output of shape {tuple(output.shape)}",
                "bounds need logits (b, classes)",
                "Wrap the model so that it returns these",
            )

    _check_graph(graph, net, _probes(shape, count=5), tolerance=1e-4)
    return graph


def folded_graph(net: nn.Module, shape: Shape, dtype: torch.dtype | None = None) -> LayerGraph:
    """Trace a network, fold the graph, and compare the result with the network itself.

    Args:
        net: Module that maps images to logits (b, classes); it is not changed.
        shape: Shape (c, h, w) of an image, values in [0, 1].
        dtype: Type of the graph's numbers; None keeps the network's own.

    Returns:
        The graph that bounds are computed on. It has been compared with the network on 64 images,
        after its last transformation: once folded in float64 beside a float64 copy of the network
        (where the network runs in float64), and once as it is returned.

    Raises:
        ModelError: Bounds cannot pass an operation, or the graph differs from the network.

    Example:
        >>> import torch
        >>> from physadv.certification.bounds.tracing import folded_graph
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2),
        ...                           torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8, 5))
        >>> [type(node.layer).__name__ for node in folded_graph(net, (3, 4, 4)).nodes]
        ['InputLayer', 'ConvLayer', 'ReluLayer', 'ReshapeLayer', 'LinearLayer']
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
    """Raise ModelError unless ``graph`` returns the logits of ``net`` in eval mode on ``images``.

    ``images`` (b, c, h, w) are brought to the network's device and type and passed in small
    batches; ``tolerance`` is the largest difference allowed, relative to one plus the largest
    logit.
    """
    own = images.to(next((p for p in net.parameters()), images))
    scalar = next((t for n in graph.nodes for t in _numbers_of(n.layer)), own)

    with _evaluated(net), torch.no_grad():
        for piece in torch.split(own, _CHUNK):
            expected = net(piece)
            try:
                logits = graph(piece.to(scalar.dtype)).to(expected.dtype)
                gap = float((logits - expected).abs().max())
            except RuntimeError:  # a layer that fits the traced batch alone
                gap = float("inf")
            if not gap <= tolerance * (1 + float(expected.abs().max())):
                raise ModelError(
                    f"{type(net).__name__}",
                    f"its traced layers differ from it by {gap:.2g}",
                    "Use --method smoothing",
                )


def _probes(shape: Shape, *, count: int) -> Tensor:
    """Return (count, *shape) images of many kinds: noise, corners of the cube, flat, dark, bright,
    mixed."""
    draw = generator(0, "bounds", "check")
    noise = torch.rand((count, *shape), generator=draw)
    level = torch.rand((count, *[1] * len(shape)), generator=draw)
    kinds = (noise, (noise > level).float(), noise * level, 1 - noise.square(), level + 0 * noise)
    return torch.stack([kinds[i % len(kinds)][i] for i in range(count)])


def _in_double(net: nn.Module, image: Tensor) -> nn.Module | None:
    """Return a copy of ``net`` in float64; None where it cannot be copied or fixes its own type."""
    try:
        double = copy.deepcopy(net).double()
        with _evaluated(double), torch.no_grad():
            logits = double(image.to(next((p for p in double.parameters()), image.double())))
    except (RuntimeError, TypeError, AttributeError):
        return None
    return double if logits.dtype == torch.float64 else None


def _numbers_of(layer: Layer) -> list[Tensor]:
    """Return the floating point tensors of a layer."""
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
        """Run ``func``, and record it if it touches a traced value."""
        kwargs = kwargs or {}
        touched = [a for a in _tensors((args, kwargs)) if id(a) in self._numbers]
        if not touched:
            return func(*args, **kwargs)

        name = _name(func)
        if name in _METADATA:
            return func(*args, **kwargs)
        if any(id(a) in self._stale for a in touched):
            raise _unknown(name, "its input was changed in place through another view of it")

        # Numbers are read before the call: an in-place function records its input anew.
        numbers = {id(a): self._numbers[id(a)] for a in touched}
        versions = [a._version for a in touched]

        result = func(*args, **kwargs)
        if not isinstance(result, Tensor):
            raise _unknown(name, "its outcome depends on the values of the images")

        self._record(name, func, args, kwargs, numbers, result)
        if any(a._version != version for a, version in zip(touched, versions, strict=True)):
            self._forget_views(result)
        return result

    def nodes_up_to(self, output: Any) -> list[LayerNode]:
        """Return the nodes that end in ``output``, without those it does not depend on."""
        if not isinstance(output, Tensor) or id(output) not in self._numbers:
            raise ModelError(
                "this model",
                "its layers cannot be traced",
                "Give it as a torch module, or use --method smoothing",
            )
        needed, pending = set[int](), [self._numbers[id(output)]]
        while pending:
            number = pending.pop()
            if number not in needed:
                needed.add(number)
                pending.extend(self.nodes[number].inputs)

        order = sorted(needed | {0})
        renumbered = {old: new for new, old in enumerate(order)}
        return [
            LayerNode(
                self.nodes[i].layer,
                tuple(renumbered[j] for j in self.nodes[i].inputs),
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
        operands = [i for i, a in enumerate(args[:2]) if isinstance(a, Tensor) and id(a) in numbers]
        elsewhere = set(numbers) - {id(args[i]) for i in operands}
        if elsewhere or result.ndim < 1 or result.shape[0] != self.batch:
            raise _unknown(name, "it mixes the images in a way bounds do not follow")

        inputs = tuple(numbers[id(args[i])] for i in operands)
        if len(inputs) == 2:
            number = self._sum(name, args, kwargs, inputs, result)
        else:
            (position,) = operands
            layer = self._layer(name, func, args, kwargs, position, result)
            number = inputs[0] if layer is None else self._append(layer, inputs, result)

        self._numbers[id(result)] = number
        self._alive.append(result)

    def _forget_views(self, changed: Tensor) -> None:
        """Mark other views of an in-place result's memory as stale: they no longer hold what was
        recorded."""
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
        """Record x + y or x - y of two traced values of one shape, and return the number of the
        sum."""
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
        position: int,
        result: Tensor,
    ) -> Layer | None:
        """Return the layer of a function of one traced value; None where it changes nothing."""
        x = args[position]
        if name in _IDENTITIES:
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
            return _scale(name, args, kwargs, position, x)
        if name in ("conv2d", "linear", "batch_norm"):
            return _weighted(name, args, kwargs)
        if name == "reshape":
            return ReshapeLayer(tuple(result.shape[1:]))
        if (
            name in _NONNEGATIVE
            or (name == "pad" and _pads_with_zero(args, kwargs))
            or (name == "interpolate" and _interpolates(args, kwargs))
        ):
            return NonnegativeMap(lambda t: func(t, *args[1:], **kwargs))

        raise _unknown(name, "bounds have no rule for it")


def _scale(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], position: int, x: Tensor
) -> ScaleLayer:
    """Return the layer of x + c, x - c, c - x, c x, x / c or -x with a constant c.

    The constant must be the same for every image of a batch.
    """
    one = torch.ones((), dtype=x.dtype, device=x.device)
    zero = 0 * one
    if name == "neg":
        return ScaleLayer(-one, zero)

    other: Any = args[1 - position] if len(args) > 1 else kwargs["other"]
    c = other if isinstance(other, Tensor) else one * other
    wider = c.ndim > x.ndim or (c.ndim == x.ndim and c.shape[0] != 1)
    if (
        kwargs.get("alpha", 1) != 1
        or wider
        or (name == "div" and (position == 1 or kwargs.get("rounding_mode")))
    ):
        raise _unknown(name, "with these operands")

    # With the constant first, x - c and c - x trade places.
    if position == 1 and name in ("sub", "rsub"):
        name = {"sub": "rsub", "rsub": "sub"}[name]
    return {
        "add": lambda: ScaleLayer(one, c),
        "sub": lambda: ScaleLayer(one, -c),
        "rsub": lambda: ScaleLayer(-one, c),
        "mul": lambda: ScaleLayer(c, zero),
        "div": lambda: ScaleLayer(1 / c, zero),
    }[name]()


def _weighted(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layer:
    """Return the layer of a convolution, linear layer or batch normalization from its call."""
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
    """Return the value of one argument of a call."""
    call = inspect.signature(function).bind(*args, **kwargs)
    call.apply_defaults()
    return call.arguments[name]


def _pads_with_zero(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return _option(F.pad, "mode", args, kwargs) == "constant" and not _option(
        F.pad, "value", args, kwargs
    )


def _interpolates(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether an interpolation has no negative weights, as bicubic has."""
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
    """Return the plain name of a function.

    That is relu for F.relu, torch.relu_ and Tensor.relu, add for Tensor.__add__, shape for its
    getter.
    """
    full: str = resolve_name(func) or getattr(func, "__name__", str(func))
    last = full.removesuffix(".__get__").split(".")[-1]
    if last in _METADATA:
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
    return ModelError(f"operation {name!r}", f"cannot be bounded: {why}", "Use --method smoothing")


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
