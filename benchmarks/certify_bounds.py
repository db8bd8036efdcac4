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
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.ibp import ibp_margins
from physadv.certification.bounds.input_ball import InputBall
from physadv.certification.bounds.verify import margin_forms, prepare_graph, verify_bounds
from physadv.core.rows import Row, append_rows
from physadv.defenses.load_model import load_model
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.models.architectures.cnn import ARCHITECTURES, build_network
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


class _Block(nn.Module):
    """Residual block of two 3x3 convolutions with batch normalization."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the rectified sum of branch and shortcut."""
        total: Tensor = self.branch(x) + self.shortcut(x)
        return total.relu()


def _residual() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(_Block(16, 16, 1), _Block(16, 32, 2), _Block(32, 64, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


def _pooled(pool: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), pool(2)),
        *(nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU(), pool(2)),
        *(nn.Flatten(), nn.Linear(2048, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


class _PreActivationBlock(nn.Module):
    """Residual block whose batch normalization and ReLU come before each convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(nn.BatchNorm2d(inputs), nn.ReLU()),
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            *(nn.BatchNorm2d(outputs), nn.ReLU()),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of branch and shortcut."""
        total: Tensor = self.branch(x) + self.shortcut(x)
        return total


def _pre_activation() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1),
        *(_PreActivationBlock(16, 16, 1), _PreActivationBlock(16, 32, 2)),
        *(nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(32, 10),
    )


def _plain(
    shape: tuple[int, int, int],
    widths: tuple[int, ...],
    *,
    kernel: int = 3,
    stride: int = 2,
    groups: int = 1,
) -> nn.Module:
    """Convolutions with ReLU, then two linear layers."""
    layers: list[nn.Module] = []
    channels = shape[0]
    for width in widths:
        own = groups if channels % groups == 0 else 1
        layers += [
            nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=own),
            nn.ReLU(),
        ]
        channels = width
    body = nn.Sequential(*layers, nn.Flatten())
    size = body(torch.zeros(1, *shape)).shape[1]
    return nn.Sequential(*body, nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, 10))


def _lenet(pool: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, 1, 2), nn.ReLU(), pool(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), pool(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def _other_kinds() -> Iterator[tuple[str, nn.Module, tuple[int, int, int]]]:
    """Yield networks that no step of the bounds was made for."""
    gray, color, large = (1, 28, 28), (3, 32, 32), (3, 64, 64)
    yield "strided 8-16", _plain(gray, (8, 16)), gray
    yield "strided 64-64", _plain(color, (64, 64)), color
    yield "strided 16-32-64", _plain(large, (16, 32, 64)), large
    yield "unstrided 8-16", _plain(gray, (8, 16), stride=1), gray
    yield "unstrided 16-16-32", _plain(color, (16, 16, 32), stride=1), color
    yield "4 groups 16-32-64", _plain(color, (16, 32, 64), groups=4), color
    yield "1x1 16-16-16", _plain(color, (16, 16, 16), kernel=1, stride=1), color
    yield "pre-activation", _pre_activation(), color
    yield "lenet average", _lenet(nn.AvgPool2d), gray
    yield "lenet max", _lenet(nn.MaxPool2d), gray


def _cost_nets(data: Path) -> Iterator[tuple[str, nn.Module, tuple[int, int, int]]]:
    """Yield the networks whose cost is measured, with the shape of an image."""
    weights = data / "weights" / "wongkolter_mnist_eps01.pth"
    yield "wongkolter-mnist", load_model("wongkolter-mnist", weights=weights), (1, 28, 28)
    torch.manual_seed(0)
    for name in ARCHITECTURES[:4]:
        for channels, side in ((1, 28), (3, 32)):
            net = build_network(name, channels=channels, side=side, classes=10)
            yield name, net, (channels, side, side)
    yield "signnet", SignNet(), (3, 64, 64)
    yield "residual", _residual(), (3, 32, 32)
    yield "max-pooled", _pooled(nn.MaxPool2d), (3, 32, 32)
    yield "average-pooled", _pooled(nn.AvgPool2d), (3, 32, 32)
    yield from _other_kinds()


@torch.no_grad()
def costs(args: argparse.Namespace) -> list[Row]:
    """IBP with merged margins beside a forward pass of the module itself, on nets of each kind."""
    found = []
    for name, module, shape in _cost_nets(args.data):
        net = module.eval().requires_grad_(False)
        graph = prepare_graph(net, shape)
        x = torch.rand((args.batch, *shape), generator=torch.Generator().manual_seed(0))
        forms = margin_forms(torch.zeros(args.batch, dtype=torch.long), graph.classes)
        times = interleaved(
            {
                "forward": partial(net, x),
                "folded": partial(graph, x),
                "ibp": partial(_ibp, graph, x, forms),
            },
            args.runs,
        )
        row: Row = {
            "net": name,
            "input": "x".join(map(str, shape)),
            "batch": args.batch,
            "turns": len(times["ibp"]),
        }
        row |= {f"{key}_s": statistics.median(taken) for key, taken in times.items()}
        for below in ("forward", "folded"):
            ratios = [a / b for a, b in zip(times["ibp"], times[below], strict=True)]
            row[f"over_{below}"] = statistics.median(ratios)
            row[f"over_{below}_quartiles"] = statistics.quantiles(ratios, n=4)[::2]
        low, high = row["over_forward_quartiles"]
        print(
            f"{name:17} {row['input']:8} forward {row['forward_s'] * 1e3:6.2f} ms, "
            f"IBP {row['ibp_s'] * 1e3:6.2f} ms: "
            f"x{row['over_forward']:.2f} (quartiles {low:.2f} to {high:.2f}), "
            f"x{row['over_folded']:.2f} of the pass "
            f"with norms folded; {row['turns']} turns",
            flush=True,
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
    parser.add_argument("--runs", type=int, default=61)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = costs(args) if args.cost else certified_errors(args)
    if args.out:
        args.out.unlink(missing_ok=True)
        append_rows(args.out, found)


if __name__ == "__main__":
    main()
