"""Minimum-norm attacks side by side, ours and adv_lib's: success, mean distance with its interval,
seconds, on a small MNIST net.

PYTHONPATH=<peers> python benchmarks/minimum_norm.py --data mnist/ [--images 200]

Trains the net (4 epochs, 10,000 images, seed 0), then attacks test images that it reads rightly.
Interleaved: each attack on each of 4 groups of images in turn. One thread. Intervals of the mean
are 95 % of 1,000 bootstrap draws of the images, the same draws for each attack; "beside FAB" is the
mean of each image's difference from FAB in that norm, with such an interval. All distances are
measured here, on images that the net itself misreads. adv_lib runs where it can be imported, with
its own defaults.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from peers import stand_in_for_absent
from torch import Tensor, nn

from physadv import attacks
from physadv.core.image_io import to_tensor
from physadv.core.random_streams import generator
from physadv.datasets import read_dataset
from physadv.studies.gradient_masking.trained_nets import StudyNets
from physadv.threat.norms import lp_distance
from physadv.training.data import load_training_data
from physadv.training.methods.base import StandardTraining

Run = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Adversarial images of clean ones (b, c, h, w) of classes (b,)."""


def ours(attack: Callable[..., attacks.AttackResult], **options: object) -> Run:
    """This package's attack with ``options``."""
    return lambda net, x, y: attack(net, x, y, **options).images


RUNS: dict[str, tuple[str, Run]] = {
    "cw_l2, 5 searches of 100": ("l2", ours(attacks.cw_l2)),
    "cw_l2, 5 searches of 11": ("l2", ours(attacks.cw_l2, steps=11, searches=5)),
    "deepfool": ("l2", ours(attacks.deepfool, norm="l2")),
    "superdeepfool, 50 steps": ("l2", ours(attacks.superdeepfool)),
    "superdeepfool, 100 steps": ("l2", ours(attacks.superdeepfool, steps=100)),
    "fab, 100 steps, l2": ("l2", ours(attacks.fab, norm="l2", steps=100)),
    "ddn, 50 steps": ("l2", ours(attacks.ddn, steps=50)),
    "ddn, 100 steps": ("l2", ours(attacks.ddn)),
    "fmn, 100 steps, l2": ("l2", ours(attacks.fmn, norm="l2")),
    "alma, 200 steps, l2": ("l2", ours(attacks.alma)),
    "fab, 100 steps, linf": ("linf", ours(attacks.fab, norm="linf", steps=100)),
    "fmn, 100 steps, linf": ("linf", ours(attacks.fmn, norm="linf")),
    "fab, 100 steps, l1": ("l1", ours(attacks.fab, norm="l1", steps=100)),
    "fmn, 100 steps, l1": ("l1", ours(attacks.fmn, norm="l1")),
    "alma, 200 steps, l1": ("l1", ours(attacks.alma, norm="l1")),
}


def peer_runs() -> dict[str, tuple[str, Run]]:
    """Attacks of adv_lib, where it can be imported."""
    if find_spec("adv_lib") is None:
        return {}
    stand_in_for_absent()
    peers = import_module("adv_lib.attacks")
    fab = peers.fab
    return {
        "adv_lib ddn, 100 steps": ("l2", partial(peers.ddn, steps=100)),
        "adv_lib fmn, 100 steps, l2": ("l2", partial(peers.fmn, norm=2, steps=100)),
        "adv_lib alma, 200 steps, l2": ("l2", partial(peers.alma, distance="l2", num_steps=200)),
        "adv_lib fab, 100 steps, l2": ("l2", partial(fab, norm=2, n_iter=100)),
        "adv_lib fmn, 100 steps, linf": (
            "linf",
            partial(peers.fmn, norm=float("inf"), steps=100),
        ),
        "adv_lib fab, 100 steps, linf": ("linf", partial(fab, norm=float("inf"), n_iter=100)),
        "adv_lib fmn, 100 steps, l1": ("l1", partial(peers.fmn, norm=1, steps=100)),
        "adv_lib alma, 200 steps, l1": ("l1", partial(peers.alma, distance="l1", num_steps=200)),
    }


def interval(values: Tensor) -> list[float]:
    """95 % interval of the mean (bootstrap over images)."""
    draws = torch.randint(
        len(values), (1000, len(values)), generator=generator(0, "minimum-norm intervals")
    )
    ends = torch.tensor([0.025, 0.975], dtype=values.dtype)
    return [round(v, 4) for v in values[draws].mean(1).quantile(ends).tolist()]


def small_net(data: str) -> nn.Module:
    """A small convolutional net, trained on 10,000 images of MNIST for 4 epochs, seed 0."""
    training = load_training_data(Path(data), limit=10_000, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        nets = StudyNets(training, Path(folder), 4, 0.2, 0, lambda *_: None)
        return nets.net("plain", StandardTraining())


def images_read_rightly(net: nn.Module, data: str, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` test images of a drawn order that ``net`` reads rightly, and classes."""
    test = read_dataset(data, split="test")
    rows = torch.randperm(len(test), generator=generator(0, "minimum-norm")).tolist()
    pairs = [test[i] for i in rows[: 2 * count]]
    x = torch.stack([to_tensor(image)[:1] for image, _ in pairs])
    y = torch.tensor([label for _, label in pairs])
    right = (net(x).argmax(1) == y).nonzero()[:, 0][:count]
    return x[right], y[right]


def main() -> None:
    """Train, attack, print one line an attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)

    net = small_net(options.data)
    x, y = images_read_rightly(net, options.data, options.images)
    groups = torch.arange(len(x)).chunk(4)

    runs = {**RUNS, **peer_runs()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    seconds = dict.fromkeys(runs, 0.0)
    for group in groups:
        for name, (norm, run) in runs.items():
            begun = time.process_time()
            images = run(net, x[group], y[group]).detach()
            seconds[name] += time.process_time() - begun
            with torch.no_grad():
                broken = net(images).argmax(1) != y[group]
            distance = lp_distance(images, x[group], norm).double()
            taken[name] += distance.masked_fill(~broken, torch.inf).tolist()

    for name, (norm, _) in runs.items():
        values = torch.tensor(taken[name], dtype=torch.float64)
        beside = values - torch.tensor(taken[f"fab, 100 steps, {norm}"], dtype=torch.float64)
        done = values.isfinite()
        row = {
            "attack": name,
            "norm": norm,
            "n": len(values),
            "success": round(float(done.double().mean()), 3),
            "mean": round(float(values[done].mean()), 4),
            "interval": interval(values[done]),
            "median": round(float(values.median()), 4),
            "beside FAB": interval(beside[beside.isfinite()]),
            "seconds": round(seconds[name], 2),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
