"""Time of a gradient of a batch, all images at once and a few at a time, for five small nets.

The plain net and its folded copy with channels last take forward and input-backward passes of the
same images in turns, one thread, float32. Times are CPU times of the thread; told are the seconds
an image, and the median and the range over the rounds of the time beside all at once and beside
the floor, which is the plain net, all at once. "chosen" is what ``speed="timed"`` takes of float32
copies. Weights are random. Raw rows are appended to ``--rows``.

Example: python benchmarks/image_groups.py --side 32 --images 64 128
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from auto_speed import NETS
from torch import Tensor

from physadv.attacks import _fused_model
from physadv.attacks._fused_model import FusedModel, fuse_model, gradient_model_for
from physadv.attacks._guarded_model import guarded
from physadv.attacks._image_groups import slices_of
from physadv.core.rows import append_rows

Net = torch.nn.Module


def seconds(net: Net, x: Tensor, y: Tensor, size: int) -> float:
    """Seconds of CPU time of the gradients of ``x``, ``size`` images at a time."""
    begun = time.thread_time()
    for part in slices_of(len(x), size):
        point = x[part].detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(net(point), y[part], reduction="sum"), point)
    return time.thread_time() - begun


def summary(ratios: list[float]) -> list[float]:
    """Median, least and largest."""
    return [round(f(ratios), 3) for f in (statistics.median, min, max)]


def measure(name: str, side: int, count: int, sizes: list[int], rounds: int) -> dict[str, object]:
    """Time one net at one image size and batch size."""
    torch.manual_seed(0)
    net = NETS[name]().eval().requires_grad_(False)
    guard = guarded(net)
    x = torch.rand(count, 3, side, side)
    with torch.no_grad():
        y = torch.cat([net(x[part]).argmax(1) for part in slices_of(count, 4)])

    copy = fuse_model(guard, x[:2])
    assert isinstance(copy, FusedModel)
    last = x.contiguous(memory_format=torch.channels_last)
    runs: dict[str, tuple[Net, Tensor, int]] = {"plain, all": (net, x, count)}
    for size in (*(s for s in sizes if s < count), count):
        runs[f"fold, {'all' if size == count else size}"] = (copy.module, last, size)

    taken: dict[str, list[float]] = {run: [] for run in runs}
    for number in range(rounds + 1):
        for run, (model, images, size) in runs.items():
            spent = seconds(model, images, y, size)
            if number:  # the first round warms up
                taken[run].append(spent)

    chosen = gradient_model_for(guard, "timed", x)
    beside = {
        f"beside {base}": {
            run: summary([a / b for a, b in zip(taken[run], taken[base], strict=True)])
            for run in runs
        }
        for base in ("plain, all", "fold, all")
    }
    return {
        "net": name,
        "side": side,
        "images": count,
        "rounds": rounds,
        "ms_an_image": {
            run: round(1000 * statistics.median(times) / count, 3) for run, times in taken.items()
        },
        **beside,
        "chosen": guard.fastest,
        "words": str(chosen) if isinstance(chosen, FusedModel) else "the model itself",
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure, print and append the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--images", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for variant in ("bf16", "bf16, contiguous"):  # float32 alone is compared here
        del _fused_model._VARIANTS[variant]
    for name in options.nets or [name for name in NETS if not name.startswith("WRN-")]:
        for count in options.images:
            row = measure(name, options.side, count, options.sizes, options.rounds)
            append_rows(options.rows, [row])
            print(row, flush=True)


if __name__ == "__main__":
    main()
