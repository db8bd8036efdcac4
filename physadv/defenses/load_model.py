"""Load a model with the defenses named in front of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from physadv.defenses.registry import defend_model
from physadv.models.cards import LoadedModel
from physadv.models.load import load_undefended_model, names_a_model


def load_model(
    name_or_path: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a model by name, file or ``module:factory``, each optionally followed by ``+defense``.

    Args:
        name_or_path: A built-in name (``"signs"``), a model file, or ``module:factory``; each
            ``+defense`` puts a defense in front of it, as in ``"signs+jpeg"``.
        weights: A state dict for models that do not carry their own weights.
        device: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
        settings: How a model of your own is read, under the names that
            :func:`~physadv.models.load.as_model` gives them; they overrule ``<file>.toml``.

    Returns:
        The model in eval mode with frozen parameters on ``device``; ``.card`` describes it.

    Raises:
        ModelError: The name is unknown, the file is missing, damaged or holds more than weights, or
            the weights do not fit.
        OptionError: The defense or one of its settings is unknown.

    Example:
        >>> import torch
        >>> from physadv.defenses.load_model import load_model
        >>> model = load_model("signs+median:size5")
        >>> model.card.name, model(torch.rand(1, 3, 64, 64)).shape
        ('signs+median:size5', torch.Size([1, 44]))
    """
    text = str(name_or_path)
    base, plus, defense = text.rpartition("+")
    if names_a_model(text) or not (plus and base):
        return load_undefended_model(text, weights=weights, device=device, settings=settings)

    model = load_model(base, weights=weights, device=device, settings=settings)
    return defend_model(model, defense).eval().requires_grad_(False).to(model.home)
