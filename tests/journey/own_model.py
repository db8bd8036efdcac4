"""A victim of the tests' own: it reads a stop sign where there is much red."""

MODEL = """
import torch
from physadv.victims.registry import as_victim

class RedOrNot(torch.nn.Module):
    def forward(self, x):
        red = (x[:, 0] - x[:, 1:].mean(1)).mean((1, 2))
        return torch.stack([60 * red, 60 * (0.12 - 0 * red)], 1)

def make():
    return as_victim(RedOrNot(), classes=["stop", "other"], input_size=32)
"""
