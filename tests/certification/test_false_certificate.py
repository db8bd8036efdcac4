"""The commands agree: what ``certify`` proves, ``evaluate`` does not break, on a net whose shortcut
is a view taken before the branch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import physadv

from physadv.core.rows import read_rows

MODEL = """
import torch
import torch.nn.functional as F
from torch import nn
from physadv import as_model

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.c = nn.Conv2d(3, 8, 3, 2, 1)
        self.c1 = nn.Conv2d(8, 8, 3, 2, 1)
        self.c2 = nn.Conv2d(8, 8, 3, 1, 1)
        self.l = nn.Linear(8 * 7 * 7, 10)
    def forward(self, x):
        h = self.c(x)
        shortcut = h[:, :, ::2, ::2]
        return self.l(F.relu(shortcut + self.c2(F.relu(self.c1(F.relu(h))))).flatten(1))

def make():
    names = [str(i) for i in range(10)]
    return as_model(Net().eval(), classes=names, mean=0.0, std=1.0, input_size=28)
"""


@pytest.fixture
def noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model and of 40 noise images that are labeled by its own verdicts."""
    (tmp_path / "view_net.py").write_text(MODEL)
    space: dict[str, object] = {}
    exec(MODEL, space)
    with torch.random.fork_rng(devices=[]):
        net = space["make"]()  # type: ignore[operator]
    pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 3), dtype=np.uint8)
    labels = net(torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255).argmax(1).numpy()
    names = np.array([str(i) for i in range(10)])
    np.savez(tmp_path / "noise.npz", images=pixels, labels=labels, classes=names)
    return tmp_path


def test_no_certified_image_is_broken_by_evaluate(noise: Path) -> None:
    """At l_inf 0.01 each method's certified images are among those that attacks leave robust, and
    most images are broken."""
    common = ("--model", "view_net:make", "--data", "noise.npz", "--limit", "20")
    attacked = physadv(noise, "evaluate", *common, "--threat", "linf:0.01", "--out", "ev", "--json")
    assert attacked.returncode == 0, attacked.stderr
    rows = list(read_rows(noise / "ev" / "rows.jsonl"))
    broken = {r["image"] for r in rows if r["robust"] is False}
    assert len(broken) >= 8

    done = physadv(
        noise,
        "certify",
        *common,
        "--method",
        "crown",
        "--threat",
        "linf:0.01",
        "--out",
        "proof",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    proven = {
        r["image"]
        for r in read_rows(noise / "proof" / "rows.jsonl")
        if r["predicted"] == r["label"] and r["radius"] >= 0.01
    }
    assert not proven & broken
    assert proven <= {r["image"] for r in rows}
    assert json.loads(done.stdout)["certified_accuracy"]["n"] == 20
