"""The certified error of the published MNIST net (Wong and Kolter 2018), and what each bound costs
beside a pass.

    python benchmarks/certify_bounds.py <shared data> --methods polytope crown --out
    benchmarks/certify_bounds.jsonl python benchmarks/certify_bounds.py <shared data> --cost --out
    benchmarks/certify_bounds_cost.jsonl

Published for these weights: error 1.80 %, certified error at l_inf 0.1 of 5.8 % (balls not cut to
[0, 1]). Times are CPU time of one thread, the passes taking turns; ratios are medians over the
turns.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.ibp import ibp_margins
from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.verify import margin_forms, prepare_graph, verify_bounds
from physadv.core.rows import Row, append_rows
from physadv.defenses.load_model import load_model
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.models.architectures.signnet import SignNet


def mnist_test(folder: Path) -> tuple[Tensor, Tensor]:
    """The 10,000 test images (n, 1, 28, 28) in [0, 1] and their labels."""
    pixels = np.frombuffer(
        gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
    )
    labels = np.frombuffer(
        gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
    )
    return torch.tensor(pixels).view(-1, 1, 28, 28).float() / 255, torch.tensor(labels).long()


def certified_errors(args: argparse.Namespace) -> list[Row]:
    """For each method the certified error of the first ``--limit`` images, balls whole and cut to
    [0, 1]."""
    images, labels = (t[: args.limit] for t in mnist_test(args.data / "mnist"))
    net = load_model(
        "wongkolter-mnist", weights=args.data / "weights" / "wongkolter_mnist_eps01.pth"
    )
    graph = prepare_graph(net, (1, 28, 28))
    found = []
    for method in args.methods:
        for name, limits in (("whole", None), ("[0, 1]", (0.0, 1.0))):
            start, good, right = time.process_time(), 0, 0
            for x, y in zip(images.split(50), labels.split(50), strict=True):
                bounded = verify_bounds(graph, x, y, eps=args.eps, method=method, limits=limits)
                good += int(bounded.certified.sum())
                right += int((bounded.predicted == y).sum())
            n = len(labels)
            error = wilson_interval(n - good, n)
            row: Row = {
                "method": method,
                "eps": args.eps,
                "ball": name,
                "n": n,
                "error": 1 - right / n,
                "certified_error": error.rate,
                "low": error.low,
                "high": error.high,
                "cpu_s": time.process_time() - start,
            }
            print(
                f"{method:9} eps {args.eps} ball {name:6} certified error {error} "
                f"({row['cpu_s']:.0f} s CPU)"
            )
            found.append(row)
    return found


def interleaved(actions: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """CPU time of every call, the actions taking turns, so that what disturbs one disturbs all."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(runs + 3):
        for name, action in actions.items():
            start = time.process_time()
            action()
            if turn >= 3:
                times[name].append(time.process_time() - start)
    return times


@torch.no_grad()
def costs(args: argparse.Namespace) -> list[Row]:
    """IBP with merged margins beside a forward pass of the module itself, on a plain and a residual
    net."""
    mnist = load_model(
        "wongkolter-mnist", weights=args.data / "weights" / "wongkolter_mnist_eps01.pth"
    )
    found = []
    for name, net, shape in (
        ("wongkolter-mnist", mnist, (1, 28, 28)),
        ("signnet", SignNet().eval(), (3, 64, 64)),
    ):
        graph = prepare_graph(net, shape)
        x = torch.rand((64, *shape), generator=torch.Generator().manual_seed(0))
        forms = margin_forms(torch.zeros(64, dtype=torch.long), graph.classes)
        times = interleaved(
            {
                "forward": partial(net, x),
                "folded": partial(graph, x),
                "ibp": partial(_ibp, graph, x, forms),
            },
            args.runs * (10 if name == "wongkolter-mnist" else 1),  # milliseconds need more turns
        )
        row: Row = {"net": name, "batch": 64, "turns": 0}
        row["turns"] = len(times["ibp"])
        row |= {f"{key}_s": statistics.median(taken) for key, taken in times.items()}
        for below in ("forward", "folded"):
            ratios = [a / b for a, b in zip(times["ibp"], times[below], strict=True)]
            row[f"over_{below}"] = statistics.median(ratios)
            row[f"over_{below}_quartiles"] = statistics.quantiles(ratios, n=4)[::2]
        low, high = row["over_forward_quartiles"]
        print(
            f"{name:17} forward {row['forward_s'] * 1e3:.2f} ms, IBP {row['ibp_s'] * 1e3:.2f} ms: "
            f"x{row['over_forward']:.2f} (quartiles {low:.2f} to {high:.2f}), "
            f"x{row['over_folded']:.2f} of the pass "
            f"with norms folded; {row['turns']} turns"
        )
        found.append(row)
    return found


def _ibp(graph: LayerGraph, images: Tensor, forms: Tensor) -> Tensor:
    return ibp_margins(graph, InputBall(images, 0.1), forms)


def main() -> None:
    """Print the figures and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--methods", nargs="+", default=["polytope", "crown"])
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = costs(args) if args.cost else certified_errors(args)
    if args.out:
        args.out.unlink(missing_ok=True)
        append_rows(args.out, found)


if __name__ == "__main__":
    main()
