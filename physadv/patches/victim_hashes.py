"""Hashes by which a card knows the models that its patch was made on, whatever they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from physadv.evaluation.subject import is_same_model, model_digest
from physadv.models.cards import LoadedModel

HASHES = "weight_hashes"
"""Entry of a card's settings: the hash of each victim's weights."""
_USUAL_SIZE = (224, 224)


def weight_hashes(models: Sequence[object]) -> tuple[str, ...]:
    """Return the hash of the weights of each model: of its file, or else of its tensors and plain
    attributes, since a factory has no file; of a function without tensors, nothing."""
    return tuple(map(weight_hash, models))


def weight_hash(model: object) -> str:
    """Return the hash of the weights of one model, as :func:`weight_hashes` does."""
    if isinstance(model, LoadedModel) and model.card.sha256:
        return model.card.sha256[:16]
    if not isinstance(model, nn.Module):
        return ""
    height, width = getattr(getattr(model, "card", None), "input_size", None) or _USUAL_SIZE
    return model_digest(model, torch.full((1, 3, height, width), 0.5))


def recorded_hashes(settings: Mapping[str, Any]) -> list[str]:
    """Return the hashes of a card's ``settings``, the first victim's first; none on earlier
    cards."""
    recorded = settings.get(HASHES)
    return list(map(str, recorded)) if isinstance(recorded, list) else []


def is_other_weights(settings: Mapping[str, Any], weights: Sequence[str]) -> bool:
    """Return whether a card's ``settings`` name hashes, and not those of ``weights``."""
    recorded = recorded_hashes(settings)
    if HASHES not in settings:
        return False
    pairs = zip(recorded, weights, strict=False)
    return len(recorded) != len(weights) or not all(is_same_model(*pair) for pair in pairs)


def is_same_weights(one: str, other: str) -> bool:
    """Return whether two comparable hashes are of the same weights, whatever the attributes, which
    other versions of torch may add some to."""
    return one.partition("-")[0] == other.partition("-")[0]


def are_comparable(one: str, other: str) -> bool:
    """Return whether two hashes are both of files, or both of tensors and attributes.

    Example:
        >>> are_comparable("12", "12-34"), are_comparable("12", "56")
        (False, True)
    """
    return bool(one and other) and ("-" in one) == ("-" in other)
