"""Layers of a copied model put in the place of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def replace_layers(root: nn.Module, by: Mapping[Any, nn.Module]) -> None:
    """Put ``by[layer]`` in place of each layer below ``root`` that has one, in place; not within
    what stands for it, which may hold it."""
    for parent in list(root.modules()):
        for name, child in list(parent._modules.items()):
            if child in by and by[child] is not parent:
                setattr(parent, name, by[child])
