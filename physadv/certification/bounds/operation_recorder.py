"""Recording of one pass of a network: every torch function that touches the images becomes a layer
node, or an error that names it.

Two observers watch the pass. :class:`OperationRecorder` sees calls of torch functions and knows
their names and arguments; it records the layers. A ``MemoryWatch`` (memory_watch.py) sees every
kernel that runs underneath, also in scripted code and custom functions, and knows which memory
holds something computed from the images; it refuses what the recorder could not see.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from physadv.certification.bounds.activations import (
    GeluLayer,
    SigmoidLayer,
    SiluLayer,
    SoftplusLayer,
    TanhLayer,
)
from physadv.certification.bounds.graph import LayerGraph, LayerNode
from physadv.certification.bounds.index_maps import (
    adaptive_groups,
    chosen_channels,
    chosen_places,
    numbered,
    pooled_groups,
    reduced_groups,
)
from physadv.certification.bounds.input_ball import flattened
from physadv.certification.bounds.layers import (
    AddLayer,
    BatchNormLayer,
    ChannelsLayer,
    ConcatLayer,
    ConvLayer,
    GatherLayer,
    InputLayer,
    Layer,
    LinearLayer,
    MaxLayer,
    NonnegativeMap,
    Pair,
    ReluLayer,
    ReshapeLayer,
    ScaleLayer,
)
from physadv.certification.bounds.memory_watch import MemoryWatch, memory_of, tensors_in
from physadv.certification.bounds.operation_names import (
    METADATA,
    operation_name,
    operation_words,
)
from physadv.core.errors import ModelError
from physadv.models.failures import failure_of

# Functions that return their input's values, in eval mode.
_IDENTITY_NAMES = (
    "clone contiguous detach float double identity type_as to dropout dropout1d dropout2d "
    "dropout3d alpha_dropout feature_alpha_dropout"
)
_IDENTITIES = frozenset(_IDENTITY_NAMES.split())
# Linear functions without negative weights.
_NONNEGATIVE_NAMES = (
    "avg_pool2d adaptive_avg_pool2d mean sum permute transpose swapaxes movedim getitem select "
    "narrow expand"
)
_NONNEGATIVE = frozenset(_NONNEGATIVE_NAMES.split())
# Functions that choose numbers of an image, with or without repeats, and change none.
_CHOICE_NAMES = (
    "flip fliplr flipud rot90 roll index_select gather take_along_dim repeat tile "
    "repeat_interleave pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
    "diagonal unfold mT"
)
_CHOICES = frozenset(_CHOICE_NAMES.split())
# Functions made of ReLUs, which every method then treats as such.
_CLIPS = frozenset(["clamp", "clip", "clamp_min", "clamp_max", "hardtanh", "relu6"])
_PIECEWISE = frozenset([*_CLIPS, "leaky_relu", "prelu", "abs"])
_MAXIMA = frozenset(["max_pool2d", "adaptive_max_pool2d", "amax"])
_CONCATENATIONS = frozenset(["cat", "concat", "concatenate", "stack"])
# Functions that return a tuple of pieces of their input.
_PIECES = frozenset(["chunk", "split", "tensor_split", "unbind"])


def record_layers(net: nn.Module, images: Tensor) -> LayerGraph:
    """Run a network once on images and return the graph of what it did.

    Args:
        net: Module in eval mode that maps images to logits (b, classes).
        images: Images (b, c, h, w); b is a size that no layer has by accident.

    Returns:
        The graph as it was recorded, not folded.

    Raises:
        ModelError: An operation cannot be bounded (the first one is named), or the network cannot
            process these images.
    """
    recorder = OperationRecorder(images)
    try:
        with ExitStack() as stack:
            for name, module in net.named_modules():
                if name and not isinstance(module, torch.jit.ScriptModule):
                    for handle in recorder.follow(name, module):
                        stack.callback(handle.remove)
            stack.enter_context(recorder)
            stack.enter_context(recorder.watch)
            output = net(images)
    except Exception as error:
        # Scripted and compiled code, and wrappers of a model, make other errors of the refusal.
        if isinstance(error, ModelError) and recorder.refusal in (None, error):
            raise
        raise (recorder.refusal or failure_of(net, images, error)) from error
    if recorder.refusal is not None:  # swallowed by the network itself
        raise recorder.refusal
    return LayerGraph(tuple(recorder.nodes_up_to(output)))


@dataclass(frozen=True)
class _Call:
    """One call of a torch function.

    Attributes:
        name: Name of the operation.
        func: The function.
        args: Its arguments by position.
        kwargs: Its arguments by name.
    """

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def with_input_first(self) -> _Call:
        """Return the same call with the argument called ``input`` by position."""
        rest = {key: value for key, value in self.kwargs.items() if key != "input"}
        return replace(self, args=(self.kwargs["input"],), kwargs=rest)

    def of(self, value: Tensor) -> Any:
        """Return what the function gives for ``value`` in place of its first argument."""
        return self.func(value, *self.args[1:], **self.kwargs)


class OperationRecorder(TorchFunctionMode):
    """Records the layers between ``images`` and whatever is computed from them.

    Args:
        images: Images (b, c, h, w) that a network is about to process.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.like = images
        self.batch = len(images)
        self.nodes = [LayerNode(InputLayer(), (), tuple(images.shape[1:]))]
        self.refusal: ModelError | None = None
        self.watch = MemoryWatch(images, self.unknown)
        self._numbers = {id(images): 0}
        self._alive: list[Any] = [images]  # ids stay unique only while their tensors live
        self._stale: set[int] = set()
        self._path: list[str] = []

    def follow(self, name: str, module: nn.Module) -> list[Any]:
        """Note while ``module`` runs that errors are in it; return the handles of its hooks."""

        def enter(*_: Any) -> None:
            self._path.append(name)

        def leave(*_: Any) -> None:
            self._path.pop()

        return [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave, always_call=True),
        ]

    def unknown(self, name: str, why: str) -> ModelError:
        """Return the error that operation ``name`` cannot be bounded for the reason ``why``, with
        the layer it is in."""
        called, remedy = operation_words(name)
        where = f" in layer {self._path[-1]!r}" if self._path else ""
        self.refusal = ModelError(f"{called}{where}", f"cannot be bounded: {why}", remedy)
        return self.refusal

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run ``func``, and record it if it touches a traced value."""
        kwargs = kwargs or {}
        tensors = tensors_in((args, kwargs))
        touched = [a for a in tensors if id(a) in self._numbers]
        name = operation_name(func)
        if not touched or name in METADATA:
            return func(*args, **kwargs)

        self._refuse_stale(name, touched)
        others = [a for a in tensors if id(a) not in self._numbers]
        if any(self.watch.holds_images(a) for a in others):
            raise self.unknown(name, "one of its inputs was filled with values of the images")
        if "out" in kwargs:
            raise self.unknown(name, "it writes its result into a given tensor (out=)")

        # Numbers are read before the call: an in-place function records its input anew.
        numbers = {id(a): self._numbers[id(a)] for a in touched}
        self.watch.begin(name, others)
        try:
            result = func(*args, **kwargs)
            call = _Call(name, func, args, kwargs)
            if isinstance(result, Tensor):
                self._check_kind(name, result)
                self._record(call, numbers, result)
            else:
                self._record_pieces(call, numbers, result)
        finally:
            changed = self.watch.end()

        if changed:
            self._forget_views(name, changed, result)
        return result

    def nodes_up_to(self, output: Any) -> list[LayerNode]:
        """Return the nodes that end in ``output``, without those it does not depend on.

        Raises:
            ModelError: The output is no tensor computed by recorded layers.
        """
        if not isinstance(output, Tensor):
            raise ModelError(
                f"this model returns a {type(output).__name__}",
                "bounds need logits (b, classes)",
                "Wrap the model so that it returns these",
            )
        if id(output) not in self._numbers:
            raise ModelError(
                "this model",
                "its layers cannot be traced, as in a scripted or compiled module",
                "Give it as a torch module, or use --method smoothing",
            )
        self._refuse_stale("output", [output])

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

    def _refuse_stale(self, name: str, tensors: Sequence[Tensor]) -> None:
        if any(id(a) in self._stale for a in tensors):
            raise self.unknown(name, "the value was changed in place through another view of it")

    def _check_kind(self, name: str, result: Tensor) -> None:
        """Refuse results of another type, device or layout than the images."""
        like = self.like
        if result.dtype != like.dtype:
            raise self.unknown(name, f"it turns {like.dtype} into {result.dtype}")
        if result.device != like.device or result.layout != like.layout:
            raise self.unknown(name, "it moves the values to another device or layout")

    def _record_pieces(self, call: _Call, numbers: dict[int, int], result: Any) -> None:
        """Record each tensor of a tuple of pieces, as chunk and unbind return it."""
        name, args = call.name, call.args
        if name == "setitem":
            raise self.unknown(name, "bounds have no rule for it")
        if isinstance(result, tuple | list) and name not in _PIECES:
            raise self.unknown(name, "bounds have no rule for it")
        if name not in _PIECES or not args or id(args[0]) not in numbers:
            raise self.unknown(name, "its outcome depends on the values of the images")

        self._alive.append(result)
        for place, piece in enumerate(result):
            self._check_kind(name, piece)
            if piece.ndim < 1 or piece.shape[0] != self.batch:
                raise self.unknown(name, "it mixes the images in a way bounds do not follow")
            cut = _view(_one_piece(call, place), args[0], piece)
            self._number(piece, self._append(cut, (numbers[id(args[0])],), piece))

    def _record(self, call: _Call, numbers: dict[int, int], result: Tensor) -> None:
        """Record a function that returned one tensor."""
        if not call.args and "input" in call.kwargs:
            call = call.with_input_first()
        name, args = call.name, call.args
        if name in _CONCATENATIONS:
            self._number(result, self._concatenation(call, numbers, result))
            return
        operands = [i for i, a in enumerate(args[:2]) if isinstance(a, Tensor) and id(a) in numbers]
        elsewhere = set(numbers) - {id(args[i]) for i in operands}
        if name in _IDENTITIES and operands[:1] == [0]:
            operands = [0]  # the other one gives its type alone, as in type_as
        if elsewhere or result.ndim < 1 or result.shape[0] != self.batch:
            raise self.unknown(name, "it mixes the images in a way bounds do not follow")

        inputs = tuple(numbers[id(args[i])] for i in operands)
        if len(inputs) == 2 and name in ("maximum", "minimum", "max", "min"):
            number = self._larger(call, inputs, result)
        elif len(inputs) == 2:
            number = self._sum(call, inputs, result)
        elif name in _PIECEWISE and operands == [0]:
            number = self._piecewise(call, inputs[0], result)
        else:
            (position,) = operands
            layer = self._layer(call, position, result)
            number = inputs[0] if layer is None else self._append(layer, inputs, result)
        self._number(result, number)

    def _number(self, value: Tensor, number: int) -> None:
        self._numbers[id(value)] = number
        self._stale.discard(id(value))
        self._alive.append(value)

    def _forget_views(self, name: str, changed: set[int], result: Any) -> None:
        """Mark other views of memory that was written to as stale: they no longer hold what was
        recorded."""
        if not isinstance(result, Tensor) or changed != {memory_of(result)}:
            raise self.unknown(name, "it writes to other memory than its result's")
        views = (t for t in self._alive if isinstance(t, Tensor) and memory_of(t) in changed)
        self._stale.update(id(t) for t in views if t is not result)

    def _append(self, layer: Layer, inputs: tuple[int, ...], result: Tensor) -> int:
        self.nodes.append(LayerNode(layer, inputs, tuple(result.shape[1:])))
        return len(self.nodes) - 1

    def _sum(self, call: _Call, inputs: tuple[int, ...], result: Tensor) -> int:
        """Record x + y or x - y of two traced values of one shape, and return the number of the
        sum."""
        name, args = call.name, call.args
        if name not in ("add", "sub", "rsub"):
            raise self.unknown(name, "it is taken of two values that both depend on the images")
        if call.kwargs.get("alpha", 1) != 1 or args[0].shape != args[1].shape or len(args) > 2:
            raise self.unknown(name, "its two values differ in shape or are weighted")

        one = torch.ones((), dtype=result.dtype, device=result.device)
        minus = ScaleLayer(-one, 0 * one)
        first, second = inputs
        if name == "sub":
            second = self._append(minus, (second,), result)
        if name == "rsub":
            first = self._append(minus, (first,), result)
        return self._append(AddLayer(), (first, second), result)

    def _concatenation(self, call: _Call, numbers: dict[int, int], result: Tensor) -> int:
        """Record the concatenation or stack of traced values, and return its number."""
        name = call.name
        values, dim = _bound_whole(call, ("tensors", "dim"), (None, 0))
        dim = dim % result.ndim
        if not isinstance(values, tuple | list) or any(id(v) not in numbers for v in values):
            raise self.unknown(name, "one of its values does not depend on the images")
        if dim == 0 or result.shape[0] != self.batch:
            raise self.unknown(name, "it mixes the images in a way bounds do not follow")

        inputs = [numbers[id(value)] for value in values]
        if name == "stack":
            single = result.narrow(dim, 0, 1)
            shape = ReshapeLayer(tuple(single.shape[1:]))
            inputs = [self._append(shape, (i,), single) for i in inputs]
        return self._append(ConcatLayer(dim - 1), tuple(inputs), result)

    def _larger(self, call: _Call, inputs: tuple[int, ...], result: Tensor) -> int:
        """Record the elementwise maximum or minimum of two traced values of one shape, and return
        its number."""
        args = call.args
        if len(args) != 2 or call.kwargs or args[0].shape != args[1].shape:
            raise self.unknown(call.name, "its two values differ in shape")

        # The minimum is minus the maximum of minus both.
        sign = -1.0 if call.name.startswith("min") else 1.0
        flat = flattened(result)
        pieces = []
        for number in inputs:
            signed = self._affine(number, sign, 0.0, result)
            pieces.append(self._append(ReshapeLayer(tuple(flat.shape[1:])), (signed,), flat))
        both = self._append(ConcatLayer(0), tuple(pieces), torch.cat([flat, flat], 1))
        places = torch.arange(flat.shape[1], device=result.device)
        index = torch.stack([places, places + flat.shape[1]], 1)
        largest = self._append(MaxLayer(index, tuple(result.shape[1:])), (both,), result)
        return self._affine(largest, sign, 0.0, result)

    def _affine(self, number: int, factor: Any, shift: Any, result: Tensor) -> int:
        """Record ``factor`` x + ``shift`` of node ``number`` where it changes anything, and return
        the number of what holds it."""
        one = torch.ones((), dtype=result.dtype, device=result.device)
        if not isinstance(factor, Tensor) and factor == 1 and shift == 0:
            return number
        return self._append(ScaleLayer(factor * one, shift * one), (number,), result)

    def _piecewise(self, call: _Call, source: int, result: Tensor) -> int:
        """Record a function made of ReLUs, and return its number."""
        name = call.name
        if name in _CLIPS:
            return self._clip(call, source, result)
        if name == "abs":
            negative = self._affine(source, -1.0, 0.0, result)
            both = [self._append(ReluLayer(), (i,), result) for i in (source, negative)]
            return self._append(AddLayer(), tuple(both), result)

        # slope x + (1 - slope) relu(x)
        if name == "leaky_relu":
            (slope,) = _bound(call, ("negative_slope",), (0.01,))
        else:
            (weight,) = _bound(call, ("weight",), (None,))
            shape = (1, -1, *[1] * (result.ndim - 2)) if weight.numel() > 1 else ()
            slope = weight.to(result).reshape(shape)
        positive = self._append(ReluLayer(), (source,), result)
        inputs = (
            self._affine(source, slope, 0.0, result),
            self._affine(positive, 1 - slope, 0.0, result),
        )
        return self._append(AddLayer(), inputs, result)

    def _clip(self, call: _Call, source: int, result: Tensor) -> int:
        """Record a function that clips, as two ReLUs in a row: least + relu(x - least), then
        most - relu(most - x)."""
        name = call.name
        least: Any
        most: Any
        if name == "relu6":
            least, most = 0.0, 6.0
        elif name == "hardtanh":
            least, most = _bound(call, ("min_val", "max_val"), (-1.0, 1.0))
        elif name in ("clamp_min", "clamp_max"):
            (end,) = _bound(call, (name.partition("_")[2],), (None,))
            least, most = (end, None) if name == "clamp_min" else (None, end)
        else:
            least, most = _bound(call, ("min", "max"), (None, None))
        if any(isinstance(end, Tensor) and end.numel() > 1 for end in (least, most)):
            raise self.unknown(name, "its limits are not the same everywhere")

        number = source
        if least is not None and least != -torch.inf:
            number = self._affine(number, 1.0, -least, result)
            number = self._append(ReluLayer(), (number,), result)
            number = self._affine(number, 1.0, least, result)
        if most is not None and most != torch.inf:
            number = self._affine(number, -1.0, most, result)
            number = self._append(ReluLayer(), (number,), result)
            number = self._affine(number, -1.0, most, result)
        return number

    def _groups(self, call: _Call, x: Tensor, result: Tensor) -> Tensor:
        """Return (n, k) the places that each of the maxima of ``x`` in ``result`` is taken of."""
        name = call.name
        if name == "amax":
            (dims,) = _bound(call, ("dim",), ((),))
            dims = [dims] if isinstance(dims, int) else list(dims)
            if not dims or any(dim % x.ndim == 0 for dim in dims):
                raise self.unknown(name, "it mixes the images in a way bounds do not follow")
            return reduced_groups(x, tuple(dim % x.ndim for dim in dims))

        if x.ndim != 4:
            raise self.unknown(name, "it is not of images (b, c, h, w)")
        out = (result.shape[2], result.shape[3])
        if name == "adaptive_max_pool2d":
            return adaptive_groups(x, out)
        names = ("kernel_size", "stride", "padding", "dilation")
        kernel, stride, padding, dilation = _bound(call, names, (None, None, 0, 1))
        stride = kernel if stride is None or stride == [] else stride
        return pooled_groups(x, out, *(map(_pair, (kernel, stride, padding, dilation))))

    def _smooth(self, call: _Call) -> Layer | None:
        """Return the layer of a smooth activation; None where the call is none that is known."""
        name = call.name
        if name == "gelu" and _bound(call, ("approximate",), ("none",)) == ["none"]:
            return GeluLayer()
        if name == "softplus":
            beta, threshold = _bound(call, ("beta", "threshold"), (1.0, 20.0))
            usual = beta > 0 and threshold >= 10
            return SoftplusLayer(float(beta), float(threshold)) if usual else None
        return {"tanh": TanhLayer(), "sigmoid": SigmoidLayer(), "silu": SiluLayer()}.get(name)

    def _layer(self, call: _Call, position: int, result: Tensor) -> Layer | None:
        """Return the layer of a function of one traced value; None where it changes nothing."""
        name, args, kwargs = call.name, call.args, call.kwargs
        x = args[position]
        if position == 0 and name in _IDENTITIES:
            if "dropout" in name and kwargs.get("training", args[2] if len(args) > 2 else True):
                raise self.unknown(name, "it is in training mode")
            if not torch.equal(result, x):
                raise self.unknown(name, "it changes the values")
            return None

        if name == "relu" and position == 0:
            return ReluLayer()
        smooth = self._smooth(call) if position == 0 else None
        if smooth is not None:
            return smooth
        if position == 0 and name in _MAXIMA:
            return MaxLayer(self._groups(call, x, result), tuple(result.shape[1:]))
        if position == 0 and name == "pad" and _option(F.pad, "mode", call) != "constant":
            index = call.of(numbered(x)).flatten().long()
            return GatherLayer(index.to(x.device), tuple(result.shape[1:]))
        if name in ("add", "sub", "rsub", "mul", "div", "neg"):
            if result.shape != x.shape:
                raise self.unknown(name, "its constant is larger than the value")
            return self._scale(call, position, x)
        if position == 0 and name in ("conv2d", "linear", "batch_norm"):
            return self._weighted(call)
        if position == 0 and name == "reshape":
            return ReshapeLayer(tuple(result.shape[1:]))
        if position == 0 and name in _CHOICES:
            return self._choice(call, x, result)
        if position == 0 and (
            (name in _NONNEGATIVE and not _divides_by_negative(call))
            or (name == "pad" and _pads_with_zero(call))
            or (name == "interpolate" and _interpolates(call))
        ):
            if _works_in_place(call.func):
                raise self.unknown(name, "it works in place")
            return _view(call.of, x, result)

        raise self.unknown(name, "bounds have no rule for it, or none with these arguments")

    def _choice(self, call: _Call, x: Tensor, result: Tensor) -> Layer:
        """Return the layer of a function that chooses numbers of each image by their places."""
        places = chosen_places(x, call.of)
        if places is None:
            raise self.unknown(call.name, "it mixes the images in a way bounds do not follow")
        channels = chosen_channels(places, tuple(x.shape[1:]), tuple(result.shape[1:]))
        if channels is not None:
            return ChannelsLayer(channels)
        return GatherLayer(places, tuple(result.shape[1:]))

    def _scale(self, call: _Call, position: int, x: Tensor) -> ScaleLayer:
        """Return the layer of x + c, x - c, c - x, c x, x / c or -x with a constant c.

        The constant must be the same for every image of a batch.
        """
        name, args, kwargs = call.name, call.args, call.kwargs
        one = torch.ones((), dtype=x.dtype, device=x.device)
        zero = 0 * one
        if name == "neg":
            return ScaleLayer(-one, zero)

        other: Any = args[1 - position] if len(args) > 1 else kwargs["other"]
        c = other.to(x) if isinstance(other, Tensor) else one * other
        wider = c.ndim > x.ndim or (c.ndim == x.ndim and c.shape[0] != 1)
        inverse = name == "div" and (position == 1 or kwargs.get("rounding_mode"))
        if kwargs.get("alpha", 1) != 1 or len(args) > 2 or wider or inverse:
            raise self.unknown(name, "bounds have no rule for these operands")

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

    def _weighted(self, call: _Call) -> Layer:
        """Return the layer of a convolution, linear layer or batch normalization from its call."""
        name = call.name
        if name == "linear":
            return LinearLayer(*_bound(call, ("weight", "bias"), (None, None)))

        if name == "batch_norm":
            stored = ("running_mean", "running_var", "weight", "bias", "training")
            names = (*stored, "momentum", "eps")
            defaults = (None, None, None, None, False, 0.1, 1e-5)
            mean, var, weight, bias, training, _, eps = _bound(call, names, defaults)
            if training or mean is None:
                raise self.unknown(name, "it uses statistics of the batch")
            return BatchNormLayer(mean, var, weight, bias, eps)

        weight, bias, stride, padding, dilation, groups = _bound(
            call,
            ("weight", "bias", "stride", "padding", "dilation", "groups"),
            (None, None, 1, 0, 1, 1),
        )
        stride, dilation = _pair(stride), _pair(dilation)
        around = _padding(padding, weight, dilation)
        if around is None:
            raise self.unknown(name, "its padding is uneven")
        return ConvLayer(weight, bias, stride, around, dilation, groups)


def _bound(call: _Call, names: tuple[str, ...], defaults: tuple[Any, ...]) -> list[Any]:
    """Return the arguments of a call behind its first, by their names."""
    rest = call.args[1:]
    return [
        rest[i] if i < len(rest) else call.kwargs.get(name, default)
        for i, (name, default) in enumerate(zip(names, defaults, strict=True))
    ]


def _bound_whole(call: _Call, names: tuple[str, ...], defaults: tuple[Any, ...]) -> list[Any]:
    """Return the arguments of a call, its first among them, by their names."""
    given = dict(zip(names, call.args, strict=False)) | call.kwargs
    return [given.get(name, default) for name, default in zip(names, defaults, strict=True)]


def _pair(value: Any) -> Pair:
    numbers = [value] if isinstance(value, int) else list(value)
    return (int(numbers[0]), int(numbers[-1]))


def _padding(value: Any, weight: Tensor, dilation: Pair) -> Pair | None:
    """Return rows and columns of padding on each side; None where the two sides differ."""
    if value == "valid":
        return (0, 0)
    if value != "same":
        return _pair(value)
    sizes = [dilation[i] * (weight.shape[2 + i] - 1) for i in (0, 1)]
    return None if any(s % 2 for s in sizes) else (sizes[0] // 2, sizes[1] // 2)


def _option(function: Callable[..., Any], name: str, call: _Call) -> Any:
    """Return the value of one argument of a call of ``function``."""
    bound = inspect.signature(function).bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    return bound.arguments[name]


def _pads_with_zero(call: _Call) -> bool:
    return _option(F.pad, "mode", call) == "constant" and not _option(F.pad, "value", call)


def _interpolates(call: _Call) -> bool:
    """Return whether an interpolation has no negative weights, as bicubic has."""
    return _option(F.interpolate, "mode", call) in ("nearest", "nearest-exact", "bilinear", "area")


def _view(function: Callable[[Tensor], Tensor], x: Tensor, result: Tensor) -> Layer:
    """Return the layer of a linear map without negative weights: where it chooses channels of a
    feature map, the one that keeps windows."""
    if x.ndim == result.ndim == 4 and x.shape[2:] == result.shape[2:]:
        places = chosen_places(x, function)
        shapes = tuple(x.shape[1:]), tuple(result.shape[1:])
        channels = None if places is None else chosen_channels(places, *shapes)
        if channels is not None:
            return ChannelsLayer(channels)
    return NonnegativeMap(function)


def _one_piece(call: _Call, place: int) -> Callable[[Tensor], Tensor]:
    """Return the function from a value to the piece at ``place`` of the tuple that the call
    returns."""

    def piece(value: Tensor) -> Tensor:
        result: Tensor = call.of(value)[place]
        return result

    return piece


def _works_in_place(func: Callable[..., Any]) -> bool:
    """Return whether a function is the in-place form of another, such as transpose_."""
    name = getattr(func, "__name__", "")
    return name.endswith("_") and not name.endswith("__")


def _divides_by_negative(call: _Call) -> bool:
    """Return whether a pooling has a divisor of its own that makes its weights negative."""
    divisor = call.kwargs.get("divisor_override", call.args[6] if len(call.args) > 6 else None)
    return call.name == "avg_pool2d" and divisor is not None and divisor <= 0
