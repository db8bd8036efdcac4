"""Reading of what classifiers return: tensors, tuples, mappings and objects with logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from physadv.core.errors import ModelError
from physadv.core.wording import count_noun

_TINY = 1e-12


def read_logits(output: Any, count: int) -> Tensor:
    """Return the logits in what a classifier returned for ``count`` images.

    Args:
        output: A tensor, also with sides of 1 beside its classes; an object or a mapping with
            ``logits``, as transformers return; or a tuple, list or mapping with exactly one tensor
            that can be logits.
        count: Number of images the model was given.

    Returns:
        Logits (count, classes) of 2 classes or more.

    Raises:
        ModelError: No member or more than one can be logits, there are not ``count`` rows, or the
            model has one output.

    Example:
        >>> logits, features = torch.zeros(4, 3), torch.zeros(4, 8, 2, 2)
        >>> read_logits((features, {"unused": 0}, logits), 4).shape
        torch.Size([4, 3])
    """
    logits = _without_ones(_opened(output, count))
    if logits.ndim == 1 and count == 1 and len(logits) > 1:
        return logits[None]  # of a model that squeezes its output
    if logits.shape in ((count,), (count, 1)):
        raise ModelError(
            f"output of shape {tuple(logits.shape)}",
            "at least 2 classes are needed, and the model returns one number an image",
            'Let a binary model return two logits: [-z, z], or state outputs = "logit"',
        )
    if logits.ndim != 2 or len(logits) != count:
        raise ModelError(
            f"output of shape {tuple(logits.shape)} for {count_noun(count, 'image')}",
            "logits (images, classes) are needed",
            "Wrap the model so that it returns one row of logits an image",
        )
    if logits.is_complex() or logits.dtype == torch.bool:
        raise ModelError(f"output of {logits.dtype}", "real numbers are needed", "Return logits")
    return logits


def two_logits(output: Any, count: int, *, is_probability: bool) -> Tensor:
    """Return the logits of two classes for a model that returns one value an image.

    Args:
        output: What the model returned: one value for each of ``count`` images, for the second
            class, in any of the forms that :func:`read_logits` opens.
        count: Number of images the model was given.
        is_probability: Whether the value is a probability; else it is a logit.

    Returns:
        Logits (count, 2), whose softmax is (1 - p, p).

    Raises:
        ModelError: There is not one value an image, or a probability lies outside of [0, 1].

    Example:
        >>> two_logits(torch.tensor([[2.0]]), 1, is_probability=False).tolist()
        [[-1.0, 1.0]]
    """
    values = _named_logits(output)
    if not isinstance(values, Tensor) and isinstance(values, Mapping | Sequence):
        members = list(values.values()) if isinstance(values, Mapping) else list(values)
        able = [m for m in members if isinstance(m, Tensor) and m.is_floating_point()]
        able = [m for m in able if m.ndim and len(m) == m.numel() == count]
        values = able[0] if len(able) == 1 else values
    if not isinstance(values, Tensor) or values.numel() != count:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ModelError(
            f"output of shape {shape} for {count_noun(count, 'image')}",
            "One value an image is needed",
            'State outputs = "logits" or "probabilities" for a value a class',
        )
    if not values.is_floating_point():
        raise ModelError(
            f"output of {values.dtype}",
            "A logit or a probability is needed, no number of a class",
            "Let the model return what it decides by",
        )
    values = values.reshape(count)
    if not is_probability:
        return torch.stack([-values / 2, values / 2], 1)
    if bool(((values < 0) | (values > 1)).any()):
        raise ModelError(
            "output outside of [0, 1]", "A probability is needed", 'State outputs = "logit"'
        )
    inside = values.clamp(_TINY, 1 - torch.finfo(values.dtype).eps / 2)
    return torch.stack([torch.log1p(-inside), inside.log()], 1)


def _opened(output: Any, count: int) -> Tensor:
    """Return the tensor that stands for the logits in ``output``."""
    output = _named_logits(output)
    if isinstance(output, Tensor):
        return output

    members = list(output.values()) if isinstance(output, Mapping) else output
    if not isinstance(members, Sequence) or isinstance(members, str):
        raise ModelError(
            f"output of type {type(output).__name__}",
            "a tensor of logits is needed, or an object that holds it as `logits`",
            "Wrap the model so that it returns one",
        )
    _refuse_ranking(members)
    able = [m for m in members if isinstance(m, Tensor) and m.ndim == 2 and m.shape[0] == count]
    able = [m for m in able if m.shape[1] > 1 and m.is_floating_point()]
    if len(able) != 1:
        shapes = [tuple(m.shape) if isinstance(m, Tensor) else type(m).__name__ for m in members]
        raise ModelError(
            f"output {type(output).__name__} of {', '.join(map(str, shapes))}",
            f"one tensor ({count}, classes) is needed, and {len(able)} of its parts could be it",
            "Wrap the model so that it returns the logits alone",
        )
    return able[0]


def _named_logits(output: Any) -> Any:
    """The entry or attribute ``logits`` of an output, or the output itself."""
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    return getattr(output, "logits", output)


def _without_ones(logits: Tensor) -> Tensor:
    """(b, c, 1, 1), (b, 1, c) and the like as (b, c); other shapes as they are."""
    sides = [side for side in logits.shape[1:] if side != 1]
    if logits.ndim < 3 or len(sides) != 1:
        return logits
    return logits.reshape(len(logits), sides[0])


def _refuse_ranking(members: Sequence[Any]) -> None:
    """Raise ModelError for the scores of the best classes beside their numbers, as topk gives
    them."""
    tensors = [m for m in members if isinstance(m, Tensor) and m.ndim == 2]
    if len(tensors) != 2 or tensors[0].shape != tensors[1].shape:
        return
    if sorted(t.is_floating_point() for t in tensors) == [False, True]:
        raise ModelError(
            f"output of {count_noun(tensors[0].shape[1], 'score')} with their classes",
            "Scores of all classes are needed, in their order",
            "Let the model return what it ranks",
        )


def log_probabilities(model: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    """Return the log-probabilities of a model that returns probabilities.

    Where the output is that of a softmax, sigmoid or exp, the logarithm is taken of the function
    itself: log-probabilities and their gradients stay exact where probabilities round to 0 and 1.

    Args:
        model: Images (b, ...) to probabilities (b, classes).
        images: Images (b, ...).

    Returns:
        Log-probabilities (b, classes), finite where a probability is 0.

    Raises:
        ModelError: The output is no (b, classes).

    Example:
        >>> log_probabilities(lambda x: x.softmax(1), torch.tensor([[1000.0, 0.0]])).tolist()
        [[0.0, -1000.0]]
    """
    with _ActivationRecorder() as recorder:
        probabilities = read_logits(model(images), len(images))
    exact = recorder.log_of(probabilities)
    return probabilities.clamp_min(_TINY).log() if exact is None else exact


def ends_in_activation(model: Callable[[Tensor], Any], images: Tensor) -> tuple[Tensor, bool]:
    """Run ``model`` on ``images`` and tell whether a softmax, sigmoid or exp made the output.

    Returns:
        The output (b, classes), and whether its logarithm can be taken exactly.

    Raises:
        ModelError: The output is no (b, classes).
    """
    with _ActivationRecorder() as recorder:
        output = read_logits(model(images), len(images))
    return output, recorder.log_of(output) is not None


class _ActivationRecorder(TorchFunctionMode):
    """Notes the inputs of softmax, sigmoid and exp while a model runs."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Tensor, Callable[[], Tensor]]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        output = func(*args, **options)
        logarithm = _LOGARITHMS.get(getattr(func, "__name__", ""))
        if logarithm is not None and isinstance(output, Tensor) and output.ndim == 2:
            source = args[0] if args else options.get("input")
            dim = args[1] if len(args) > 1 else options.get("dim")
            if isinstance(source, Tensor) and dim in (None, 1, -1):
                self._calls.append((output, lambda: logarithm(source)))
        return output

    def log_of(self, output: Tensor) -> Tensor | None:
        """Return the logarithm of ``output``, None where no recorded call returned it."""
        return next((log() for made, log in self._calls if made is output), None)


_LOGARITHMS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda z: F.log_softmax(z, 1),
    "special_softmax": lambda z: F.log_softmax(z, 1),
    "sigmoid": F.logsigmoid,
    "special_expit": F.logsigmoid,
    "exp": lambda z: z,
}
"""Functions that make probabilities, with their logarithms."""
