"""Minimum-norm attacks ranked by AttackBench's protocol, beside those of adv_lib, on one net.

    PYTHONPATH=DIR python benchmarks/attackbench_ranking.py --weights wongkolter_mnist_eps01.pth \
        --data mnist/ -n 60
    PYTHONPATH=DIR python benchmarks/attackbench_ranking.py --model small-mnist --data mnist/ -n 60

AttackBench (Cina et al. 2025; `attackbenchlib`) counts each forward and each backward pass of a
sample, stops answering after 2,000, and keeps the nearest adversarial image that an attack showed
to the model. An attack's local optimality compares the area under its curve of robust accuracy over
distance with that of the nearest image of all attacks here: 1 is the best of all on every image, 0
none broken. Peers run where they can be imported, say from a folder made by ``pip install --no-deps
--target DIR attackbenchlib adv-lib tqdm`` and named in PYTHONPATH. The library's model that counts and
its optimality are used as they are; its own start, which asks for torchvision and wandb, is not.
``small-mnist`` is a plain net that the script trains (4 epochs of 10,000 images, as
benchmarks/minimum_norm.py does). Options were chosen on images from number 1,000 of the drawn order
on (``--first 1000``); tables come from the first ones. Intervals are of 1,000 bootstrap draws of the
images. Raw rows are appended to ``--rows``; ``--table`` prints them again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from peers import stand_in_for_absent
from torch import Tensor, nn

from physadv import attacks, load_model
from physadv.core.image_io import to_tensor
from physadv.core.random_streams import generator
from physadv.core.rows import append_rows, read_rows
from physadv.datasets import read_dataset
from physadv.studies.gradient_masking.trained_nets import StudyNets
from physadv.training.data import load_training_data
from physadv.training.methods.base import StandardTraining

BUDGET = 2000
"""Forward and backward passes of a sample, as the library has it."""
Attack = Callable[[nn.Module, Tensor, Tensor], Any]


def own_attacks() -> dict[str, dict[str, Attack]]:
    """Our attacks by norm, at their default length and as long as the budget allows."""
    lengths: dict[str, dict[str, Any]] = {"": {}, ", long": {"steps": 990}}
    found: dict[str, dict[str, Attack]] = {"linf": {}, "l2": {}, "l1": {}, "l0": {}}
    for words, more in lengths.items():
        for norm in ("linf", "l2", "l1"):
            found[norm][f"fmn{words}"] = partial(attacks.fmn, norm=norm, speed="plain", **more)
        for name in ("ddn", "superdeepfool"):
            attack = getattr(attacks, name)
            found["l2"][f"{name}{words}"] = partial(attack, speed="plain", **more)
        found["l0"][f"sigma_zero{words}"] = partial(attacks.sigma_zero, speed="plain", **more)
    for norm in ("linf", "l2", "l1"):
        found[norm]["fab"] = partial(attacks.fab, norm=norm, speed="plain")
    for norm in ("l2", "l1"):
        found[norm]["alma"] = partial(attacks.alma, norm=norm, speed="plain")
        found[norm]["alma, long"] = partial(attacks.alma, norm=norm, speed="plain", steps=990)
    found["l2"]["cw_l2"] = partial(attacks.cw_l2, speed="plain")
    return {norm: {f"physadv {k}": v for k, v in runs.items()} for norm, runs in found.items()}


def peer_attacks() -> dict[str, dict[str, Attack]]:
    """Attacks of adv_lib by norm, with its own defaults."""
    stand_in_for_absent()
    peers = import_module("adv_lib.attacks")
    found: dict[str, dict[str, Attack]] = {
        "linf": {
            "fmn": partial(peers.fmn, norm=float("inf"), steps=1000),
            "fab": partial(peers.fab, norm=float("inf")),
            "pdpgd": partial(peers.pdpgd, norm=float("inf"), num_steps=990),
        },
        "l2": {
            "ddn": partial(peers.ddn, steps=100),
            "ddn, long": partial(peers.ddn, steps=990),
            "fmn": partial(peers.fmn, norm=2, steps=990),
            "alma": partial(peers.alma, distance="l2", num_steps=990),
            "sdf": peers.sdf,
            "fab": partial(peers.fab, norm=2),
        },
        "l1": {
            "fmn": partial(peers.fmn, norm=1, steps=990),
            "alma": partial(peers.alma, distance="l1", num_steps=990),
            "fab": partial(peers.fab, norm=1),
        },
        "l0": {
            "sigma_zero": partial(peers.sigma_zero, num_steps=990),
            "fmn": partial(peers.fmn, norm=0, steps=990),
        },
    }
    return {norm: {f"adv_lib {k}": v for k, v in runs.items()} for norm, runs in found.items()}


def open_library() -> tuple[Any, Any]:
    """Return the library's model that counts and its functions of distances."""
    folder = find_library()
    for name in ("attackbench", "attackbench.models", "attackbench.metrics"):
        package = ModuleType(name)
        package.__path__ = [str(Path(folder, *name.split(".")[1:]))]
        sys.modules[name] = package
    wrapper = import_module("attackbench.models.benchmodel_wrapper")
    return wrapper.BenchModel, import_module("attackbench.metrics.distances")


def find_library() -> Path:
    """Return the library's folder on the path."""
    for place in sys.path:
        folder = Path(place) / "attackbench"
        if (folder / "models" / "benchmodel_wrapper.py").is_file():
            return folder
    raise SystemExit("attackbenchlib is not on the path: see the head of this file")


def judge(
    net: nn.Module, images: Tensor, labels: Tensor, norm: str, attack: Attack
) -> dict[str, Any]:
    """Run one attack under the budget; its distances, passes and seconds."""
    bench_model, _ = open_library()
    module = import_module("attackbench.adv_lib_sub")
    model = bench_model(net, num_max_propagations=BUDGET).eval()
    model.start_tracking(images, labels, False, module._default_metrics[norm], norm)
    begun = time.process_time()
    torch.manual_seed(0)
    attack(model, images, labels)
    seconds = time.process_time() - begun
    model.end_tracking()
    net._backward_hooks.clear()
    return {
        "distances": [float(d) for d in model.min_dist[norm]],
        "forwards": int(model.num_forwards.sum()) // len(images),
        "backwards": int(model.num_backwards.sum()) // len(images),
        "cpu_s": round(seconds, 2),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the ranking of each model and norm as a Markdown table."""
    lines = ["| model | norm | attack | optimality | median distance | forward + backward | n |"]
    lines.append("|---|---|---|---|---|---|---|")
    for model in dict.fromkeys(row["model"] for row in rows):
        for norm in ("linf", "l2", "l1", "l0"):
            own = [row for row in rows if (row["model"], row["norm"]) == (model, norm)]
            lines += ranking(own) if own else []
    return "\n".join(lines)


def ranking(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table's lines of one model and norm, best first."""
    _, metrics = open_library()
    distances = torch.tensor([row["distances"] for row in rows])
    draws = torch.randint(
        distances.shape[1], (1000, distances.shape[1]), generator=generator(0, "bootstrap")
    )

    def score(picked: Tensor, attack: int) -> float:
        best = picked.amin(0).tolist()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(metrics.eval_optimality(picked[attack].tolist(), best, 1.0))

    lines = {}
    for i, row in enumerate(rows):
        whole = score(distances, i)
        drawn = torch.tensor([score(distances[:, draw], i) for draw in draws])
        low, high = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
        cells = [row["model"], row["norm"], row["attack"]]
        cells += [f"{whole:.3f} [{low:.3f}, {high:.3f}]", f"{distances[i].median():.3g}"]
        cells += [f"{row['forwards']} + {row['backwards']}", str(distances.shape[1])]
        lines["| " + " | ".join(cells) + " |"] = whole
    return sorted(lines, key=lambda line: -lines[line])


def small_net(data: Path) -> nn.Module:
    """Train the plain net of benchmarks/minimum_norm.py."""
    training = load_training_data(data, limit=10_000, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        nets = StudyNets(training, Path(folder), 4, 0.2, 0, lambda *_: None)
        return nets.net("plain", StandardTraining())


def main() -> None:
    """Attack, append a row an attack, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="wongkolter-mnist")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("-n", type=int, default=60)
    parser.add_argument("--first", type=int, default=0, help="number of the first image")
    parser.add_argument("--norms", nargs="+", default=["linf", "l2", "l1", "l0"])
    parser.add_argument("--short", action="store_true", help="leave out our long runs")
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--table", action="store_true", help="print the table of --rows and stop")
    args = parser.parse_args()
    if args.table:
        print(table(list(read_rows(args.rows))))
        return

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if args.model == "small-mnist":
        net = small_net(args.data)
    else:
        net = load_model(args.model, weights=args.weights).eval()
    test = read_dataset(args.data, split="test")
    order = torch.randperm(len(test), generator=generator(0, "attackbench")).tolist()
    channels = 1 if "mnist" in args.model else 3
    pairs = [test[i] for i in order[args.first : args.first + 5 * args.n]]
    images = torch.stack([to_tensor(picture)[:channels] for picture, _ in pairs])
    labels = torch.tensor([int(label) for _, label in pairs])
    with torch.no_grad():
        right = (net(images).argmax(1) == labels).nonzero()[: args.n, 0]
    images, labels = images[right].contiguous(), labels[right]

    runs = {norm: {**own_attacks()[norm], **peer_attacks()[norm]} for norm in args.norms}
    for norm, those in runs.items():
        for name, attack in those.items():
            if args.short and name.startswith("physadv") and name.endswith("long"):
                continue
            row = judge(net, images, labels, norm, attack)
            row = {"model": args.model, "norm": norm, "attack": name, **row}
            append_rows(args.rows, [row])
            print(norm, name, row["forwards"], row["backwards"], row["cpu_s"], flush=True)
    print(table(list(read_rows(args.rows))))


if __name__ == "__main__":
    main()
