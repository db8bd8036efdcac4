"""The Pointwise attack beside foolbox's, salt-and-pepper noise and white-box sigma-zero: pixels
changed and queries, on the small MNIST net of minimum_norm.py.

PYTHONPATH=<peers> python benchmarks/pointwise.py --data mnist/ [--images 50] [--only NAMES]

Every distance is measured here, on images that the net itself misreads; queries are images that the
net was asked about, counted at the net. foolbox 3 has no Pointwise attack, foolbox 2.4.0 has: each
in a folder of its own, and the runs of the one that can be imported are made. Rows go to standard
output, with the pixels and the queries of each image.
"""

from __future__ import annotations

import argparse
import collections
import collections.abc
import json
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from minimum_norm import images_read_rightly, interval, small_net
from torch import Tensor, nn

from physadv import attacks
from physadv.attacks.decision_based import walked
from physadv.attacks.pointwise_decision import _ChangedPixels

Attack = Callable[["Counted", Tensor, Tensor], Tensor]
"""Adversarial images of clean ones (b, c, h, w) of classes (b,)."""


class Counted(nn.Module):
    """A net that counts the images it is asked about, and knows no gradient by them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.queries = net, 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, classes)."""
        self.queries += len(x)
        logits: Tensor = self.net(x)
        return logits


def ours(queries: int) -> Attack:
    """This package's attack, with the best image after all queries. The public function stops
    within the number of pixels that it is given, and returns the clean image beyond it."""

    def run(net: Counted, x: Tensor, y: Tensor) -> Tensor:
        size = x[0, 0].numel()
        walk = (_ChangedPixels, lambda found: found.give_back(1))
        return walked(*walk, net, x, y, size, "l0", queries, None, None, 0).images

    return run


def white_box(net: Counted, x: Tensor, y: Tensor) -> Tensor:
    """Sigma-zero, which has the gradients."""
    return attacks.sigma_zero(net, x, y, speed="plain").images


def foolbox_2() -> dict[str, Attack]:
    """The authors' own attack, one image at a time, to its end; the best by pixels is returned."""
    # Written for Python 3.7 and numpy 1: names that both have dropped since.
    for name in ("Iterable", "Mapping", "MutableMapping", "Sequence"):
        setattr(collections, name, getattr(collections.abc, name))
    foolbox = import_module("foolbox")

    def run(name: str, net: Counted, x: Tensor, y: Tensor) -> Tensor:
        model = foolbox.models.PyTorchModel(net, bounds=(0, 1), num_classes=10, device="cpu")
        attack: Any = getattr(foolbox.attacks, name)(model, distance=foolbox.distances.L0)
        found = attack(x.numpy(), y.numpy())
        return torch.from_numpy(np.nan_to_num(found))

    names = {
        "foolbox 2 pointwise": "PointwiseAttack",
        "foolbox 2 noise": "SaltAndPepperNoiseAttack",
    }
    return {
        words: lambda net, x, y, name=name: run(name, net, x, y)  # type: ignore[misc]
        for words, name in names.items()
    }


def foolbox_3() -> dict[str, Attack]:
    """Salt-and-pepper noise of foolbox 3, whose strength it searches."""
    foolbox = import_module("foolbox")

    def noise(net: Counted, x: Tensor, y: Tensor) -> Tensor:
        model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
        attack = foolbox.attacks.SaltAndPepperNoiseAttack()
        found: Tensor = attack(model, x, y, epsilons=None)[0]
        return found

    return {"foolbox 3 salt and pepper": noise}


def peers() -> dict[str, Attack]:
    """What can be imported."""
    if find_spec("foolbox") is None:
        return {}
    return foolbox_2() if find_spec("eagerpy") is None else foolbox_3()


def measure(name: str, attack: Attack, net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Attack each image alone, so that its queries are its own."""
    pixels, queries, begun = [], [], time.process_time()
    for image, label in zip(x.split(1), y.split(1), strict=True):
        counted = Counted(net).eval()
        torch.manual_seed(0)
        found = attack(counted, image, label).detach()
        with torch.no_grad():
            broken = bool(net(found).argmax(1) != label)
        pixels.append(int((found != image).any(1).sum()) if broken else -1)
        queries.append(counted.queries)
    done = torch.tensor([count for count in pixels if count >= 0], dtype=torch.float64)
    return {
        "attack": name,
        "n": len(x),
        "broken": len(done),
        "median": float(done.median()) if len(done) else None,
        "mean": round(float(done.mean()), 2) if len(done) else None,
        "interval": interval(done) if len(done) else None,
        "queries_median": float(np.median(queries)),
        "seconds": round(time.process_time() - begun, 1),
        "pixels": pixels,
        "queries": queries,
    }


def main() -> None:
    """Train, attack, print one line an attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--queries", type=int, nargs="+", default=[1000, 2000, 5000])
    parser.add_argument("--only", nargs="+", help="begins of names")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)

    net = small_net(options.data).eval().requires_grad_(False)
    x, y = images_read_rightly(net, options.data, options.images)
    runs = {f"physadv pointwise, {queries}": ours(queries) for queries in options.queries}
    runs |= {"physadv sigma-zero (white box)": white_box, **peers()}
    for name, attack in runs.items():
        if options.only is None or name.startswith(tuple(options.only)):
            print(json.dumps(measure(name, attack, net, x, y)), flush=True)


if __name__ == "__main__":
    main()
