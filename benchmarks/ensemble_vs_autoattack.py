"""The ensemble beside AutoAttack (the package pyautoattack) on the same images: robust accuracy and
CPU time.

Both attack the same samples in one process, in turns; times are CPU times of the process. Raw rows
are appended to ``--rows``, with the outcome of every sample. AutoAttack runs only where it can be
imported, say from a folder made by ``pip install --no-deps --target PEERS pyautoattack`` and named
in PYTHONPATH; it is no dependency.

Example: PYTHONPATH=PEERS python benchmarks/ensemble_vs_autoattack.py --data
    ../shared/data/cifar10-jpg.zip \
    --victim wongkolter-cifar --weights ../shared/data/weights/wongkolter_cifar_small_8px.pth
    --threat linf:8/255 -n 200
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from physadv.core.files import sha256_of
from physadv.core.rows import append_rows
from physadv.datasets import read_dataset
from physadv.defenses.load_model import load_model
from physadv.evaluation.ensemble import attack_ensemble
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.evaluation.samples import choose_samples
from physadv.models.load import LoadedModel, as_model
from physadv.threat.parsing import parse_threat

sys.path.insert(0, str(Path(__file__).parent))


def ours(
    model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float
) -> tuple[Tensor, dict[str, int]]:
    """Robust flags (n,) by the ensemble in batches of 100, and what each stage broke."""
    whole, by = [], {}
    for start in range(0, len(x), 100):
        found = attack_ensemble(
            model, x[start : start + 100], y[start : start + 100], eps=eps, norm=norm
        )
        whole.append(~found.success)
        for name in found.broken_by:
            by[name or "whole"] = by.get(name or "whole", 0) + 1
    return torch.cat(whole), by


def theirs(
    model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float
) -> tuple[Tensor, dict[str, int]]:
    """The same by AutoAttack, version standard; the verdict is the victim's on the images it
    returns."""
    from pyautoattack import AutoAttack  # type: ignore[import-not-found]

    attack = AutoAttack(
        model, norm=norm.capitalize(), eps=eps, version="standard", device="cpu", seed=0
    )
    images, _ = attack.run_standard_evaluation(x, y, batch_size=100)
    with torch.no_grad():
        return model(images).argmax(1) == y, {}


def load(name: str, weights: Path | None) -> LoadedModel:
    """A victim by name; ``resnet`` is this folder's ResNet with ``weights`` of
    scripts/train_benchmark_net.py."""
    if name != "resnet":
        return load_model(name, weights=weights)
    from resnet import ResNet  # type: ignore[import-not-found]

    net = ResNet()
    net.load_state_dict(torch.load(weights, weights_only=True))
    return as_model(net, name="resnet")


def main() -> None:
    """Run, print a table, append the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", "--victim", required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threat", default="linf:8/255")
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", choices=["ours", "theirs"])
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    norm, eps = parse_threat(args.threat)
    model = load(args.model, args.weights)
    samples = choose_samples(read_dataset(args.data, split="test"), model.card, limit=args.n)
    x, y = samples.images(range(len(samples))), samples.targets(range(len(samples)))
    sides: dict[str, Callable[..., tuple[Tensor, dict[str, int]]]] = {"ours": ours}
    if importlib.util.find_spec("pyautoattack"):
        sides["theirs"] = theirs
    for repeat in range(args.repeats):
        for side in sides if args.only is None else [args.only]:
            begun, wall = time.process_time(), time.time()
            flags, by = sides[side](model, x, y, norm, eps)
            row: dict[str, Any] = {
                "side": side,
                "repeat": repeat,
                "victim": args.model,
                "threat": args.threat,
                "n": len(samples),
                "weights": sha256_of(args.weights) if args.weights else "",
                "robust": int(flags.sum()),
                "cpu_seconds": time.process_time() - begun,
                "wall_seconds": time.time() - wall,
                "broken_by": by,
                "flags": "".join("01"[int(f)] for f in flags),
                "torch": torch.__version__,
                "threads": 1,
                "machine": platform.processor() or platform.machine(),
            }
            append_rows(args.rows, [row])
            rate = wilson_interval(int(flags.sum()), len(samples))
            print(
                f"{side:7} robust {rate}  {row['cpu_seconds']:.1f} s CPU  {json.dumps(by)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
