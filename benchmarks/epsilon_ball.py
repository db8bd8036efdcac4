"""PGD beside the floor and beside foolbox, torchattacks, ART and adv_lib: CPU time, robust accuracy
and final cross-entropy, on a ResNet or on nets of other kinds.

The floor is what no library can do without: as many forward and input-backward passes of the plain
float32 net with frozen parameters. All contenders run in turns in one process with one thread; each
repeat's CPU time is divided by the floor's of the same repeat, and the median over repeats is
reported. Peers run where they can be imported, say from a folder made by ``pip install --no-deps
--target DIR foolbox eagerpy torchattacks adversarial-robustness-toolbox adv-lib`` and named in
PYTHONPATH; none is a dependency. Raw rows are appended to ``--rows``; ``--table`` prints them again.

Nets with ``--weights``, by ``scripts/train_benchmark_net.py``, are attacked on images that they read
correctly. Those of ``--net`` without have random weights. They are attacked for what they predict,
within the median radius at which a linear model breaks eight other images, so that some stand and
some fall: it is the time that is compared, and how many fall to each at that.

Example: PYTHONPATH=DIR python benchmarks/epsilon_ball.py --weights robust_net.pt --data
../shared/data/cifar10-jpg.zip

Example: PYTHONPATH=DIR python benchmarks/epsilon_ball.py --net ViT --weights vit.pt -n 32 --repeats
3 --data ../shared/data/cifar10-jpg.zip

Example: PYTHONPATH=DIR python benchmarks/epsilon_ball.py --net ViT -n 24 --steps 20 --repeats 3
--data ../shared/data/cifar10-jpg.zip
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
from auto_speed import NETS
from auto_speed import floor as passes
from peers import stand_in_for_absent
from resnet import ResNet, load_cifar10
from torch import Tensor, nn

from physadv.attacks.auto_pgd import apgd
from physadv.attacks.gradient import pgd
from physadv.core.rows import append_rows, read_rows

EPS = 8 / 255
Attack = Callable[[nn.Module, Tensor, Tensor, int, float], Tensor]
KINDS: dict[str, Callable[[], nn.Module]] = {
    name: make for name, make in NETS.items() if name != "WRN-16-10"
}
"""Nets of ``--net``."""


def floor(net: nn.Module, x: Tensor, y: Tensor, steps: int, eps: float) -> Tensor:
    """``steps`` forward and input-backward passes with frozen parameters and nothing else."""
    return passes(net, x, y, steps)


def ours(attack: Callable[..., Any] = pgd, **options: Any) -> Attack:
    """This package's attack with ``options``."""
    return lambda net, x, y, steps, eps: attack(net, x, y, eps=eps, steps=steps, **options).images


def torchattacks_pgd(net: nn.Module, x: Tensor, y: Tensor, steps: int, eps: float) -> Tensor:
    """torchattacks."""
    import torchattacks

    attack = torchattacks.PGD(net, eps=eps, alpha=2.5 * eps / steps, steps=steps, random_start=True)
    return attack(x, y)


def foolbox_pgd(net: nn.Module, x: Tensor, y: Tensor, steps: int, eps: float) -> Tensor:
    """foolbox."""
    import foolbox

    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=2.5 * eps / steps, random_start=True)
    return attack(model, x, y, epsilons=eps)[1]


def art_pgd(net: nn.Module, x: Tensor, y: Tensor, steps: int, eps: float) -> Tensor:
    """Adversarial Robustness Toolbox, its PyTorch implementation."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    model = PyTorchClassifier(
        net, nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0, 1), device_type="cpu"
    )
    attack = ProjectedGradientDescentPyTorch(
        model,
        norm="inf",
        eps=eps,
        eps_step=2.5 * eps / steps,
        max_iter=steps,
        num_random_init=1,
        batch_size=len(x),
        verbose=False,
    )
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def adv_lib_pgd(net: nn.Module, x: Tensor, y: Tensor, steps: int, eps: float) -> Tensor:
    """adv_lib."""
    stand_in_for_absent()
    from adv_lib.attacks import pgd_linf

    return pgd_linf(net, x, y, eps, steps=steps, relative_step_size=2.5 / steps)


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
    "adv_lib": adv_lib_pgd,
}


def measure(
    name: str, net: nn.Module, x: Tensor, y: Tensor, steps: int, eps: float
) -> dict[str, Any]:
    """One run on the net as users have it, in eval mode with free parameters: CPU seconds, and what
    the net says."""
    net.eval().requires_grad_(True)
    began = time.process_time()
    images = CONTENDERS[name](net, x, y, steps, eps)
    seconds = time.process_time() - began
    net.eval().zero_grad()
    with torch.no_grad():
        logits = net(images)
    return {
        "attack": name,
        "seconds": seconds,
        "n": len(x),
        "steps": steps,
        "eps": eps,
        "robust_accuracy": float((logits.argmax(1) == y).double().mean()),
        "cross_entropy": float(F.cross_entropy(logits, y)),
        "distance": float((images.double() - x.double()).abs().max()),
    }


def usable(names: list[str], net: nn.Module, x: Tensor, y: Tensor) -> list[str]:
    """The contenders that run here at all; says which do not, and why. Also warms everything up."""
    found = []
    for name in names:
        try:
            measure(name, net, x[:2], y[:2], 2, EPS)
            found.append(name)
        except ImportError as error:
            print(f"left out: {name} ({error})")
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Median ratio to the floor of the same repeat, with the smallest and largest, by net."""
    floors = {(r["run"], r["repeat"]): r["seconds"] for r in rows if r["attack"] == "floor"}
    lines = [
        "| net | attack | CPU time over the floor (median; range) | robust accuracy | "
        "cross-entropy | steps | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for net, name in dict.fromkeys((r.get("net", "ResNet, trained"), r["attack"]) for r in rows):
        mine = [
            r
            for r in rows
            if r["attack"] == name
            and r.get("net", "ResNet, trained") == net
            and (r["run"], r["repeat"]) in floors
        ]
        ratios = [r["seconds"] / floors[r["run"], r["repeat"]] for r in mine]
        spread = f"{statistics.median(ratios):.2f}; {min(ratios):.2f}-{max(ratios):.2f}"
        last = mine[-1]
        lines.append(
            f"| {net} | {name} | {spread} | {last['robust_accuracy']:.3f} | "
            f"{last['cross_entropy']:.4f} | {last['steps']} | {last['n']} |"
        )
    return "\n".join(lines)


def trained_net(options: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor, float]:
    """A trained net, images that it reads correctly, their classes, and the radius."""
    net = (KINDS[options.net] if options.net else ResNet)().eval()
    if options.weights:
        net.load_state_dict(torch.load(options.weights, weights_only=True))
    x, y = load_cifar10(options.data, "test", max(options.pool, 4 * options.n))
    with torch.no_grad():
        right = torch.cat([net(part).argmax(1) for part in x.split(64)]) == y
    print(f"clean accuracy {float(right.float().mean()):.3f}, n = {len(y)}")
    chosen = right.nonzero()[: options.n, 0]
    return net, x[chosen], y[chosen], options.eps


def random_net(options: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor, float]:
    """A net of random weights, images, what it predicts for them, and the radius."""
    net = KINDS[options.net]().eval()
    x, _ = load_cifar10(options.data, "test", 2 * options.n)
    others = x[options.n :][:8]
    point = others.clone().requires_grad_()
    best = net(point).topk(2).values
    margin = best[:, 0] - best[:, 1]
    (slope,) = torch.autograd.grad(margin.sum(), point)
    radii = margin.detach() / slope.flatten(1).abs().sum(1)  # where a linear model breaks
    with torch.no_grad():
        return net, x[: options.n], net(x[: options.n]).argmax(1), float(radii.median())


def main() -> None:
    """Measure, append the rows, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="state from scripts/train_benchmark_net.py; random without",
    )
    parser.add_argument("--net", choices=list(KINDS), help="in place of resnet.ResNet")
    parser.add_argument("--eps", type=float, default=EPS, help="radius for --weights")
    parser.add_argument("--data", type=Path)
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("--pool", type=int, default=512, help="images to find those among")
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
    is_random = options.net and not options.weights
    net, x, y, eps = random_net(options) if is_random else trained_net(options)
    names = usable(list(dict.fromkeys(["floor", *options.only])), net, x, y)
    run = {
        "run": int(time.time()),
        "net": options.net if is_random else f"{options.net or 'ResNet'}, trained",
        "torch": torch.__version__,
        "cpu": platform.processor() or platform.machine(),
    }
    rows = []
    for repeat in range(options.repeats):
        for name in names:
            rows.append({**run, "repeat": repeat, **measure(name, net, x, y, options.steps, eps)})
            append_rows(options.rows, rows[-1:])
    print(table(rows))


if __name__ == "__main__":
    main()
