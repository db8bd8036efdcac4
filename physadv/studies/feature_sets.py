"""Training sets after Ilyas et al. (2019) that hold only some of the features of another set."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from physadv.training.data import ImageSubset
from physadv.training.methods._inner_maximization import (
    Objective,
    ascend_loss,
    class_cross_entropy,
)

Features = Callable[[Tensor], Tensor]
"""Function of images (b, c, h, w) in [0, 1] that returns features (b, k)."""
BATCH = 256
_ANYWHERE = 1e3
"""Radius in l_2 that no image of these sizes leaves."""


def mislabeled_set(
    net: nn.Module, part: ImageSubset, targets: Tensor, *, eps: float, steps: int
) -> ImageSubset:
    """Return images changed a little until a network sees ``targets``, and labeled with these.

    To a person most labels are wrong; what agrees with them is in the change alone.

    Args:
        net: Network whose features are put into the images, in eval mode.
        part: Images to change.
        targets: New labels (n,).
        eps: Largest change of an image in l_2.
        steps: Steps of PGD.

    Returns:
        The changed images, rounded to 8 bits, with the new labels.
    """

    def toward(labels: Tensor) -> Objective:
        loss = class_cross_entropy(net, labels)
        return lambda x: -loss(x)

    changed = []
    for rows in torch.split(torch.arange(len(part)), BATCH):
        images, _ = part.floats(rows)
        changed.append(
            ascend_loss(
                toward(targets[rows]),
                images,
                eps=eps,
                norm="l2",
                steps=steps,
                step_size=2.5 * eps / steps,
            )
        )
    return ImageSubset(_to_8bit(torch.cat(changed)), targets.clone(), part.groups)


def inverted_set(
    features: Features, part: ImageSubset, starts: Tensor, *, steps: int, path: float
) -> ImageSubset:
    """Return images that have the features of others, found by descent from unrelated images.

    Only what the features hold of an image comes along: of a robust network features that a small
    change cannot turn, of a standard one mostly those that it can.

    Args:
        features: Features to carry over.
        part: Images whose features are wanted, with their labels.
        starts: Number (n,) of the image of ``part`` from which each descent starts.
        steps: Steps of normalized gradient descent.
        path: Length of all steps together in l_2.

    Returns:
        The images found, rounded to 8 bits, with the labels of ``part``.
    """

    def toward(wanted: Tensor) -> Objective:
        return lambda x: -(features(x) - wanted).square().sum(1).add(1e-12).sqrt().sum()

    found = []
    for rows in torch.split(torch.arange(len(part)), BATCH):
        with torch.no_grad():
            wanted = features(part.floats(rows)[0])
        x, _ = part.floats(starts[rows])
        # Two thirds of the way in long steps, the rest in steps of half their length.
        size = path / (steps - steps // 2 / 2)
        for count, length in ((steps - steps // 2, size), (steps // 2, size / 2)):
            if count:
                x = ascend_loss(
                    toward(wanted),
                    x,
                    eps=_ANYWHERE,
                    norm="l2",
                    steps=count,
                    step_size=length,
                )
        found.append(x)
    return ImageSubset(_to_8bit(torch.cat(found)), part.labels, part.groups)


def _to_8bit(images: Tensor) -> Tensor:
    return images.clamp(0, 1).mul(255).round().byte()
