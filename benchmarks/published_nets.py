"""Robust accuracy of nets whose authors published certificates, beside what they published and beside
our own certificates of the same images.

No attack may break more than a certificate allows, nor an image that is certified; and one that
breaks far less than the authors' own attack would be weak. Nets, each a file of its own:

- ``wong-kolter-0.3``: ``models_scaled/mnist_small_0_3.pth`` of locuslab/convex_adversarial, first
  stage of the cascade (Wong et al. 2018, MNIST, l_inf 0.3).
- ``colt-0.1``: ``trained_models/onnx/mnist_0.1.onnx`` of eth-sri/colt (Balunovic & Vechev 2020,
  MNIST, l_inf 0.1).

Example: python benchmarks/published_nets.py wong-kolter-0.3 mnist_small_0_3.pth --data mnist/
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from certify_bounds import mnist_test
from torch import Tensor, nn

import physadv
from physadv.certification.bounds.verify import prepare_graph, verify_bounds
from physadv.core.rows import append_rows
from physadv.defenses.load_model import load_model
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.models.architectures.wongkolter import mnist_network

RADII = {"wong-kolter-0.3": 0.3, "colt-0.1": 0.1}


class Normalized(nn.Module):
    """A net behind the normalization of its pixels, which the published file leaves out."""

    def __init__(self, net: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.net, self.mean, self.std = net, mean, std

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (b, classes) of images in [0, 1]."""
        logits: Tensor = self.net((images - self.mean) / self.std)
        return logits


def load(name: str, weights: Path) -> nn.Module:
    """The net, images (b, 1, 28, 28) in [0, 1] to logits."""
    if name == "colt-0.1":
        return Normalized(load_model(str(weights)), 0.1307, 0.3081).eval()
    net = mnist_network()
    net.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu")["state_dict"][0])
    return net.eval()


@torch.no_grad()
def certified(net: nn.Module, images: Tensor, labels: Tensor, eps: float, method: str) -> Tensor:
    """Which images (n,) are proved by ``method``, in balls cut to [0, 1]."""
    graph = prepare_graph(net, (1, 28, 28))
    return torch.cat(
        [
            verify_bounds(graph, x, y, eps=eps, method=method, limits=(0.0, 1.0)).certified
            for x, y in zip(images.split(50), labels.split(50), strict=True)
        ]
    )


def main() -> None:
    """Certify and attack the first ``-n`` test images; append a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("net", choices=list(RADII))
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the MNIST idx files")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--methods", nargs="+", default=["polytope", "crown"])
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)

    net, eps = load(options.net, options.weights), RADII[options.net]
    images, labels = mnist_test(options.data)
    with torch.no_grad():
        right = torch.cat([net(part).argmax(1) for part in images.split(500)]) == labels
    row = {
        "net": options.net,
        "eps": eps,
        "n": options.n,
        "error of 10,000": 1 - right.double().mean().item(),
    }

    images, labels = images[: options.n], labels[: options.n]
    proved = {m: certified(net, images, labels, eps, m) for m in options.methods}
    begun = time.process_time()
    result = physadv.evaluate(net, (images, labels), ("linf", eps), batch_size=250)
    stands = torch.tensor([bool(r["robust"]) for r in result.rows])
    row |= {
        "clean": str(result.clean_accuracy),
        "robust": str(result.robust_accuracy),
        "broken_by": dict(result.broken_by),
        "seconds": time.process_time() - begun,
        **{m: str(wilson_interval(int(p.sum()), options.n)) for m, p in proved.items()},
        "broken though certified": sum(int((p & ~stands).sum()) for p in proved.values()),
    }
    append_rows(options.rows, [row])
    print(row)


if __name__ == "__main__":
    main()
