"""PGD-40 beside the floor and beside foolbox, torchattacks and ART: CPU time, robust accuracy and
final cross-entropy.

The floor is what no library can do without: as many forward and input-backward passes of the plain
float32 net with frozen parameters. All contenders run in turns in one process with one thread; each
repeat's CPU time is divided by the floor's of the same repeat, and the median over repeats is
reported. Peers run where they can be imported, say from a folder made by ``pip install --no-deps
--target DIR foolbox eagerpy torchattacks adversarial-robustness-toolbox`` and named in PYTHONPATH;
none is a dependency. Raw rows are appended to ``--rows``; ``--table`` prints them again.

Example: PYTHONPATH=DIR python benchmarks/epsilon_ball.py --weights robust_net.pt --data
../shared/data/cifar10-jpg.zip
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from resnet import ResNet, load_cifar10
from torch import Tensor, nn

from physadv.attacks.auto_pgd import apgd
from physadv.attacks.gradient import pgd
from physadv.core.rows import append_rows, read_rows

EPS = 8 / 255
Attack = Callable[[nn.Module, Tensor, Tensor, int], Tensor]


def floor(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """``steps`` forward and input-backward passes with frozen parameters and nothing else."""
    net.requires_grad_(False)
    for _ in range(steps):
        point = x.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(net(point), y, reduction="sum"), point)
    return x


def ours(attack: Callable[..., Any] = pgd, **options: Any) -> Attack:
    """This package's attack with ``options``."""
    return lambda net, x, y, steps: attack(net, x, y, eps=EPS, steps=steps, **options).images


def torchattacks_pgd(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """torchattacks."""
    import torchattacks

    attack = torchattacks.PGD(net, eps=EPS, alpha=2.5 * EPS / steps, steps=steps, random_start=True)
    return attack(x, y)


def foolbox_pgd(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """foolbox."""
    import foolbox

    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=2.5 * EPS / steps, random_start=True)
    return attack(model, x, y, epsilons=EPS)[1]


def art_pgd(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Adversarial Robustness Toolbox, its PyTorch implementation."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    model = PyTorchClassifier(
        net, nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0, 1), device_type="cpu"
    )
    attack = ProjectedGradientDescentPyTorch(
        model,
        norm="inf",
        eps=EPS,
        eps_step=2.5 * EPS / steps,
        max_iter=steps,
        num_random_init=1,
        batch_size=len(x),
        verbose=False,
    )
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


CONTENDERS: dict[str, Attack] = {
    "floor": floor,
    "physadv plain, highest loss": ours(speed="plain", keep="loss"),
    "physadv folded, highest loss": ours(keep="loss"),
    "physadv folded": ours(),
    "physadv bf16, highest loss": ours(speed="bf16", keep="loss"),
    "physadv bf16": ours(speed="bf16"),
    "physadv apgd folded, highest loss": ours(apgd, keep="loss"),
    "foolbox": foolbox_pgd,
    "torchattacks": torchattacks_pgd,
    "ART": art_pgd,
}


def measure(name: str, net: nn.Module, x: Tensor, y: Tensor, steps: int) -> dict[str, Any]:
    """One run on the net as users have it, in eval mode with free parameters: CPU seconds, and what
    the net says."""
    net.eval().requires_grad_(True)
    began = time.process_time()
    images = CONTENDERS[name](net, x, y, steps)
    seconds = time.process_time() - began
    net.eval().zero_grad()
    with torch.no_grad():
        logits = net(images)
    return {
        "attack": name,
        "seconds": seconds,
        "n": len(x),
        "steps": steps,
        "robust_accuracy": float((logits.argmax(1) == y).double().mean()),
        "cross_entropy": float(F.cross_entropy(logits, y)),
        "distance": float((images.double() - x.double()).abs().max()),
    }


def usable(names: list[str], net: nn.Module, x: Tensor, y: Tensor) -> list[str]:
    """The contenders that run here at all; says which do not, and why. Also warms everything up."""
    found = []
    for name in names:
        try:
            measure(name, net, x[:2], y[:2], 2)
            found.append(name)
        except ImportError as error:
            print(f"left out: {name} ({error})")
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Median ratio to the floor of the same repeat, with the smallest and largest."""
    floors = {(r["run"], r["repeat"]): r["seconds"] for r in rows if r["attack"] == "floor"}
    lines = [
        "| attack | CPU time over the floor (median; range) | robust accuracy | cross-entropy | n "
        "|",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(r["attack"] for r in rows):
        mine = [r for r in rows if r["attack"] == name]
        ratios = [r["seconds"] / floors[r["run"], r["repeat"]] for r in mine]
        spread = f"{statistics.median(ratios):.2f}; {min(ratios):.2f}-{max(ratios):.2f}"
        last = mine[-1]
        lines.append(
            f"| {name} | {spread} | {last['robust_accuracy']:.3f} | {last['cross_entropy']:.4f} | "
            f"{last['n']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, append the rows, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="state of resnet.ResNet, from scripts/train_benchmark_net.py; random without",
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--table", action="store_true", help="print the table of --rows and stop")
    options = parser.parse_args()
    if options.table:
        print(table(list(read_rows(options.rows))))
        return
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = ResNet().eval()
    if options.weights:
        net.load_state_dict(torch.load(options.weights, weights_only=True))
    x, y = load_cifar10(options.data, "test", 4 * options.n)
    with torch.no_grad():
        right = (net(x).argmax(1) == y).nonzero()[: options.n, 0]
    x, y = x[right], y[right]
    names = usable(list(dict.fromkeys(["floor", *options.only])), net, x, y)
    run = {
        "run": int(time.time()),
        "torch": torch.__version__,
        "cpu": platform.processor() or platform.machine(),
    }
    rows = []
    for repeat in range(options.repeats):
        for name in names:
            rows.append({**run, "repeat": repeat, **measure(name, net, x, y, options.steps)})
            append_rows(options.rows, rows[-1:])
    print(table(rows))


if __name__ == "__main__":
    main()
