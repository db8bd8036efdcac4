"""What a run costs by its parts: batch, size of images, draws, number of images, processes; and a
cost model fitted to them.

CPU seconds of all processes, and the largest resident memory of one; every command runs in one
thread. Raw rows are appended to ``--rows``; ``--table`` prints them again, with the model.

Example: python benchmarks/scaling.py --data ../shared/data/cifar10-jpg.zip --weights
../shared/data/weights/wongkolter_cifar_small_8px.pth
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from physadv.attacks.gradient import pgd
from physadv.core.rows import append_rows, read_rows

BATCHES, SIDES, DRAWS, IMAGES = (1, 4, 16, 64, 256), (32, 64, 128), (4, 16, 64), (64, 512, 2048)
SENT = (10_000, 100_000, 1_000_000, 10_000_000)
"""Numbers in one sum over two processes."""
STEPS = 20
Row = dict[str, Any]

SUMS = """
import json, sys, time, torch
from torch import distributed
distributed.init_process_group("gloo")
for size in map(int, sys.argv[1:]):
    values, times = torch.ones(size), []
    for _ in range(8):
        distributed.barrier()
        begun = time.process_time()
        distributed.all_reduce(values)
        times.append(time.process_time() - begun)
    if distributed.get_rank() == 0:
        print(json.dumps({"numbers": size, "seconds": min(times[1:])}), flush=True)
distributed.barrier()
distributed.destroy_process_group()
"""


def network() -> nn.Module:
    """Four convolutions and a linear layer, for images of any side."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, width in ((3, 32), (32, 64), (64, 64), (64, 64)):
        layers += [nn.Conv2d(before, width, 3, 2 if before > 3 else 1, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


def pgd_rows() -> list[Row]:
    """Seconds of one step on one image, by the images at once and by their side."""
    net, rows = network(), []
    cases = [("batch", count, 32) for count in BATCHES] + [("size", 16, side) for side in SIDES]
    for curve, count, side in cases:
        images = torch.rand(count, 3, side, side)
        labels = net(images).argmax(1)
        least = float("inf")
        for _ in range(3):
            begun = time.process_time()
            pgd(
                net,
                images,
                labels,
                eps=1e-4,
                steps=STEPS,
                keep="loss",
                speed="plain",
                drop_broken=False,
            )
            least = min(least, time.process_time() - begun)
        value = count if curve == "batch" else side
        rows.append({"curve": curve, "value": value, "seconds": least / STEPS / count})
    return rows


def command(words: Sequence[str], how: str = "one") -> tuple[float, float]:
    """CPU seconds of a command of physadv and all its processes, and the largest memory in MB; in
    one process, in two of torchrun's, or in two "apart" that take a share each."""
    several = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "--"]
    start = [*several, "physadv"] if how == "torchrun" else ["-m", "physadv"]
    shares = [["--shard", "1/2"], ["--shard", "2/2"]] if how == "apart" else [[]]
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            subprocess.Popen(
                [sys.executable, *start, *words, *share, "--out", f"{folder}/{n}", "--quiet"],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
            )
            for n, share in enumerate(shares)
        ]
        ended = [os.wait4(job.pid, 0) for job in jobs]
    if any(status for _, status, _ in ended):
        raise SystemExit(f"{words}: ended with status {[status for _, status, _ in ended]}")
    seconds = sum(usage.ru_utime + usage.ru_stime for _, _, usage in ended)
    return seconds, max(usage.ru_maxrss for _, _, usage in ended) / 1024


def attacked(options: argparse.Namespace, images: int, steps: int, how: str = "one") -> Row:
    """CPU seconds and memory of PGD on the first images of the data."""
    model = ("--model", "wongkolter-cifar", "--weights", str(options.weights))
    words = ("attack", *model, "--data", str(options.data), "--limit", str(images))
    words = (*words, "--attack", "pgd", "--steps", str(steps), "--speed", "plain")
    words = (*words, "--threat", "linf:8/255", "--batch-size", "32", "--device", "cpu")
    seconds, memory = command((*words, "--threads", "1"), how)
    return {"images": images, "steps": steps, "seconds": seconds, "megabytes": memory}


def image_rows(options: argparse.Namespace) -> list[Row]:
    """Seconds and memory by the number of images."""
    return [
        {"curve": "images", "value": count, **attacked(options, count, STEPS)} for count in IMAGES
    ]


def process_rows(options: argparse.Namespace) -> list[Row]:
    """Seconds of a long attack and of hardly any, in one process, in two that torchrun starts, and
    in two that know nothing of each other: what these take more than one is the machine's."""
    rows = []
    for repeat in range(options.repeats):
        for how in ("one", "torchrun", "apart"):
            for images, steps in ((64, 1), (512, options.steps)):
                row = attacked(options, images, steps, how)
                rows.append({"curve": "processes", "value": 1 if how == "one" else 2, **row})
                rows[-1] |= {"how": how, "repeat": repeat}
    return rows


def draw_rows(_: argparse.Namespace) -> list[Row]:
    """Seconds of a step of a sticker, by the draws of a step."""
    rows = []
    for draws in DRAWS:
        words = ("patch", "--model", "signs", "--draws", str(draws), "--resolution", "16")
        words = (*words, "--force", "--test-draws", "4", "--threads", "1", "--device", "cpu")
        few, many = (command((*words, "--steps", str(steps)))[0] for steps in (2, 22))
        rows.append({"curve": "draws", "value": draws, "seconds": (many - few) / 20})
    return rows


def sum_rows(_: argparse.Namespace) -> list[Row]:
    """Seconds of a sum over two processes, by how many numbers it has."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "sums.py")
        program.write_text(SUMS, encoding="utf-8")
        start = ["-m", "torch.distributed.run", "--nproc-per-node", "2", str(program)]
        done = subprocess.run(
            [sys.executable, *start, *map(str, SENT)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [{"curve": "sums", "value": row["numbers"], "seconds": row["seconds"]} for row in found]


CURVES: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "images": image_rows,
    "processes": process_rows,
    "draws": draw_rows,
    "sums": sum_rows,
    "pgd": lambda _: pgd_rows(),
}
"""In this order: a process that is started counts the memory of this one as its own, which "pgd"
makes large."""


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Intercept and slope of the least squares of relative errors."""
    a = torch.tensor([[1.0, x] for x, _ in points], dtype=torch.float64)
    b = torch.tensor([y for _, y in points], dtype=torch.float64)
    fit = torch.linalg.lstsq(a / b[:, None], torch.ones_like(b)[:, None]).solution[:, 0]
    return float(fit[0]), float(fit[1])


def table(rows: list[Row]) -> str:
    """The curves, and what the model made of them says of more processes."""
    lines = ["| curve | value | seconds | MB |", "|---|---|---|---|"]
    for row in rows:
        memory = f"{row['megabytes']:.0f}" if "megabytes" in row else ""
        steps = f" ({row['images']} images, {row['steps']} steps)" if "steps" in row else ""
        lines.append(
            f"| {row['curve']} | {row['value']}{steps} | {row['seconds']:.4g} | {memory} |"
        )
    long = [r for r in rows if r["curve"] == "processes" and "how" in r]
    if long:
        lines += ["", *_model(long)]
    for curve in ("draws", "sums"):
        points = [(r["value"], r["seconds"]) for r in rows if r["curve"] == curve]
        if points:
            fixed, slope = line(points)
            lines.append(f"{curve}: {fixed:.3g} s + {slope:.3g} s each")
    return "\n".join(lines)


def _model(rows: list[Row]) -> list[str]:
    """Start and work of one process and of two; and the efficiency by wall that follows, of a run
    of so many seconds of work, where each process has a core."""
    most = max(r["steps"] for r in rows)

    def least(how: str, steps: int) -> float:
        found = [r for r in rows if r["steps"] == steps]
        return min(r["seconds"] for r in found if r.get("how", "torchrun") == how)

    start, both = least("one", 1), least("torchrun", 1)
    work, divided = least("one", most) - start, least("torchrun", most) - both
    apart = least("apart", most) - least("apart", 1)
    agent = max(0.0, both - 2 * start)
    lines = [
        f"start {start:.1f} s of one process, {both:.1f} of two with torchrun's own {agent:.1f}; "
        f"work {work:.1f} and {divided:.1f} s: efficiency of the work {work / divided:.2f}, "
        f"of two processes apart {work / apart:.2f}, of all {(start + work) / (both + divided):.2f}"
    ]
    for seconds in (60, 600, 6000):
        for processes in (2, 8, 64):
            wall = agent + start + seconds * divided / work / processes
            share = (start + seconds) / (processes * wall)
            lines.append(
                f"{seconds} s of work, {processes} processes: {wall:.0f} s, efficiency {share:.2f}"
            )
    return lines


def main() -> None:
    """Measure, append the rows, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="CIFAR-10, as the package reads it")
    parser.add_argument("--weights", type=Path, help="those of wongkolter-cifar")
    parser.add_argument("--steps", type=int, default=1500, help="steps of the long attack")
    parser.add_argument("--repeats", type=int, default=2, help="times it runs in each way")
    parser.add_argument("--only", nargs="+", choices=list(CURVES), default=list(CURVES))
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--table", action="store_true", help="print the table of --rows and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in [] if options.table else [n for n in CURVES if n in options.only]:
        run = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        append_rows(options.rows, [{**row, **run} for row in CURVES[name](options)])
    print(table(list(read_rows(options.rows))))


if __name__ == "__main__":
    main()
