"""What a user's network raised, in one line."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.types import Model

_ERROR_LINE = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception): ")


def failure_of(model: Model, images: Tensor, error: BaseException) -> ModelError:
    """Build the error that says why ``model`` failed on ``images``.

    Args:
        model: A network, or a function of images.
        images: What it was given, (b, c, h, w).
        error: What it raised.

    Returns:
        The error to raise: it names the number format of weights or images that are not float32
        where that is the reason, and otherwise the reason in the model's own words.
    """
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    weights = {p.dtype for p in parameters if p.is_floating_point()}
    kinds, about_types = weights - {torch.float32}, "type" in str(error)
    if weights == {torch.float32} and images.dtype != torch.float32 and about_types:
        return ModelError(
            f"images of {str(images.dtype).removeprefix('torch.')}",
            "the model has float32 weights",
            "Convert the images: images.float()",
        )
    if kinds and (images.dtype == torch.float32 or about_types):
        names = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        return ModelError(
            f"the model has {names} weights",
            "float32 is needed, which attacks and gradients are computed in",
            "Call .float() on it, or save it anew in float32",
        )
    gray = images.ndim == 4 and images.shape[1] == 3 and "to have 1 channels" in str(error)
    return ModelError(
        f"the model fails on images {tuple(images.shape)}",
        f"{type(error).__name__}: {reason_in(str(error))}",
        "Wrap it by physadv.as_model(net, channels=1), as it takes gray images"
        if gray
        else "Set input_size, or wrap it so that it takes (b, 3, h, w) in [0, 1]",
    )


def reason_in(text: str) -> str:
    """Return the line of ``text``, an error's message, that says most: the last that names an
    error, as TorchScript puts it after its traceback, or the first."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    return (named[-1] if named else "".join(lines[:1]))[:160]
