"""Cost of the gate behind every attack: CPU time with it over CPU time without it.

    OMP_NUM_THREADS=1 python benchmarks/attack_gate.py --out benchmarks/attack_gate.jsonl

FGSM and PGD-40 on a residual net with random weights, images 32 x 32 of the classes it predicts, no
sample dropped. Runs with and without the gate take turns in one process; each pair gives a ratio,
and the median over pairs is reported with all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from resnet import ResNet
from torch import Tensor, nn

from physadv.attacks.attack_result import AttackResult
from physadv.attacks.gradient import fgsm, pgd

EPS = 8 / 255
ATTACKS: dict[str, tuple[Callable[..., AttackResult], dict[str, object]]] = {
    "fgsm": (fgsm, {}),
    "pgd-40 plain": (pgd, {"steps": 40, "speed": "plain", "drop_broken": False}),
    "pgd-40 folded": (pgd, {"steps": 40, "drop_broken": False}),
    "pgd-40 folded, broken dropped": (pgd, {"steps": 40}),
}


def seconds(attack: Callable[..., AttackResult], net: nn.Module, x: Tensor, y: Tensor) -> float:
    """CPU time of one attack."""
    began = time.process_time()
    attack(net, x, y)
    return time.process_time() - began


def main() -> None:
    """Measure every attack and write a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="pairs of runs")
    parser.add_argument("--batch", type=int, default=32, help="images")
    parser.add_argument("--out", type=Path, help="file of rows to write")
    options = parser.parse_args()

    torch.manual_seed(0)
    net = ResNet().eval()
    images = torch.rand(options.batch, 3, 32, 32)
    with torch.no_grad():
        labels = net(images).argmax(1)

    rows = []
    for name, (attack, settings) in ATTACKS.items():
        bare = attack.__wrapped__  # type: ignore[attr-defined]

        def behind(*batch: object, attack=attack, settings=settings) -> AttackResult:
            return attack(*batch, eps=EPS, **settings)

        def alone(*batch: object, attack=bare, settings=settings) -> AttackResult:
            return attack(*batch, eps=EPS, **settings)

        behind(net, images, labels)
        pairs = [
            (seconds(behind, net, images, labels), seconds(alone, net, images, labels))
            for _ in range(options.repeats)
        ]
        ratios = [gate / none for gate, none in pairs]
        row = {
            "attack": name,
            "images": options.batch,
            "repeats": options.repeats,
            "cpu_s_with": round(statistics.median(gate for gate, _ in pairs), 4),
            "cpu_s_without": round(statistics.median(none for _, none in pairs), 4),
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
        }
        rows.append(row)
        print(json.dumps(row))
    if options.out:
        options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
