"""Hashes of a model's plain attributes: the same in each process, and others for another model."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from physadv.core.plain_attributes import LAYERS, attribute_digests


class Rule(Enum):
    ONE = 1
    TWO = 2


class Odd(nn.Module):
    """A layer with attributes of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.BatchNorm2d(3)
        self.temperature = 2.0
        self.mean = (0.5, 0.4, 0.3)
        self.names = ["b", "a"]
        self.table = {"a": 1, "b": {"c": None}}
        self.kinds = {"x", "y", "z", "w"}
        self.offset = torch.arange(3.0)
        self.scale = np.float32(3)
        self.grid = np.arange(4).reshape(2, 2)
        self.rule = Rule.ONE
        self.form = torch.float16
        self.others = [nn.Linear(2, 2, bias=False)]
        with torch.no_grad():
            self.others[0].weight.fill_(0.5)
        # What differs by process or machine:
        self.device = "cuda:0"
        self.where = "/home/somebody/weights.pt"
        self.thing = object()
        self.function = torch.relu
        self.owner = weakref.ref(self.part)
        self.mixed = {"function": torch.relu}


LEFT_OUT = {"device", "where", "thing", "function", "owner", "mixed"}


def odd() -> Odd:
    return Odd()


def test_every_plain_attribute_counts_and_no_other() -> None:
    """The names that are hashed are those of plain values, of the layer and of those within."""
    own = set(vars(odd())) - set(vars(nn.Module())) - LEFT_OUT
    found = set(attribute_digests(odd()))
    assert own <= found
    assert not found & LEFT_OUT
    assert {"eps", "momentum", LAYERS} <= found


CHANGES: dict[str, Callable[[Any], object]] = {
    "temperature": lambda net: setattr(net, "temperature", 2.5),
    "mean": lambda net: setattr(net, "mean", (0.5, 0.3, 0.4)),
    "names": lambda net: net.names.reverse(),
    "table": lambda net: net.table["b"].update(c=1),
    "kinds": lambda net: net.kinds.discard("x"),
    "offset": lambda net: net.offset.add_(1),
    "scale": lambda net: setattr(net, "scale", np.float32(4)),
    "grid": lambda net: net.grid.__setitem__((0, 0), 7),
    "rule": lambda net: setattr(net, "rule", Rule.TWO),
    "form": lambda net: setattr(net, "form", torch.float32),
    "others": lambda net: net.others[0].weight.data.add_(1),
    "eps": lambda net: setattr(net.part, "eps", 0.01),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_value_changes_the_hash_of_that_name_alone(name: str) -> None:
    """Two models that differ in one plain attribute differ in its hash, and in no other."""
    net = odd()
    before = attribute_digests(net)
    CHANGES[name](net)
    after = attribute_digests(net)
    assert [key for key in before if before[key] != after[key]] == [name]


def test_another_class_of_a_layer_without_tensors_is_another_model() -> None:
    """A GELU in place of a ReLU has the same weights."""
    nets = [nn.Sequential(nn.Linear(2, 2), layer) for layer in (nn.ReLU(), nn.GELU())]
    assert attribute_digests(nets[0])[LAYERS] != attribute_digests(nets[1])[LAYERS]


def test_copies_pickles_modes_and_hooks_do_not_change_them() -> None:
    """What is not of the model itself leaves its hashes alone."""
    net = odd()
    del net.owner
    before = attribute_digests(net)
    assert attribute_digests(copy.deepcopy(net)) == before
    assert attribute_digests(pickle.loads(pickle.dumps(net))) == before
    net.eval().register_forward_hook(lambda *_: None)
    net.requires_grad_(False)
    assert attribute_digests(net) == before


def test_a_model_that_holds_itself_is_hashed() -> None:
    """A list with the model, or with one of its layers, is no endless way."""
    net = odd()
    net.names = [net, net.part, nn.Sequential(nn.Identity())]
    net.names[2].own = [net.names[2]]
    assert attribute_digests(net) == attribute_digests(net)


SCRIPT = """
import json
from test_plain_attributes import odd
from physadv.core.plain_attributes import attribute_digests
print(json.dumps(attribute_digests(odd())))
"""


def test_hashes_are_those_of_every_process() -> None:
    """Under other seeds of Python's hashes, which order sets, and other addresses."""
    here = attribute_digests(odd())
    for seed in ("1", "2"):
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        ran = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(ran.stdout) == here
