"""A victim of the tests' own, which reads a stop sign where there is much red, and how a module
comes beside one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

MODEL = """
import torch
from physadv.models.load import as_model

class RedOrNot(torch.nn.Module):
    def forward(self, x):
        red = (x[:, 0] - x[:, 1:].mean(1)).mean((1, 2))
        return torch.stack([60 * red, 60 * (0.12 - 0 * red)], 1)

def make():
    return as_model(RedOrNot(), classes=["stop", "other"], input_size=32)
"""


def work_beside(name: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to ``folder``, where a module ``name`` of this ``source`` can be imported anew."""
    (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    sys.modules.pop(name, None)
