"""Checks that a model is one fixed function of each image, which every certificate supposes."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from physadv.certification.bounds.graph_check import evaluated
from physadv.core.errors import ModelError
from physadv.core.types import Model

_TOLERANCE = 1e-2
"""Largest difference between an image's logits alone and in a batch, as a share of the largest
logit: batches of other sizes round differently, in half precision above all."""


@torch.no_grad()
def check_fixed(model: Model, images: Tensor, *, may_be_random: bool) -> None:
    """Compare a model's logits of images with those of the same images again, and one by one.

    Args:
        model: Classifier in eval mode: images to logits (b, classes).
        images: A few images (b, c, h, w).
        may_be_random: Whether it may draw random numbers, as smoothing allows, whose votes are
            independent.

    Raises:
        ModelError: An answer depends on the other images of the batch, on a buffer that changes,
            or, unless it may, on chance; or there are fewer than two logits.

    Example:
        >>> import torch
        >>> from physadv.certification.fixed_network import check_fixed
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> check_fixed(net, torch.rand(2, 3, 2, 2), may_be_random=False)
    """
    kept = evaluated(model) if isinstance(model, nn.Module) else nullcontext()
    with kept, torch.random.fork_rng():
        together, again = _logits(model, images), _logits(model, images)
        is_random = not torch.equal(together, again)
        if is_random and not may_be_random:
            raise ModelError(
                f"{type(model).__name__} answers differently when asked twice",
                "this certificate holds for a fixed network; this one is random or keeps a state",
                "Use --method smoothing",
            )
        if is_random or len(images) < 2:
            return
        alone = torch.cat([_logits(model, image[None]) for image in images])

    scale = float(together.abs().max())
    if not float((alone - together).abs().max()) <= _TOLERANCE * scale:
        raise ModelError(
            f"{type(model).__name__} answers differently to an image alone and in a batch",
            "a certificate is about one image",
            "Remove what mixes the images of a batch, such as statistics over it",
        )


def _logits(model: Model, images: Tensor) -> Tensor:
    """Return the logits (b, classes) of ``images``; ModelError where there are fewer than two."""
    logits = model(images.clone())
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        raise ModelError(
            "this model's output", "a certificate needs logits (b, classes)", "Use a classifier"
        )
    if logits.shape[1] < 2:
        raise ModelError(
            "a single logit",
            "a certificate needs one a class, at least two",
            "Return torch.cat([-logit, logit], 1) for a classifier of two classes",
        )
    return logits
