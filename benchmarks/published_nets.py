"""Robust accuracy of nets whose authors published certificates and attacks, beside what they
published and beside our own certificates of the same images.

No attack may break more than a certificate allows, nor an image that is certified; and one that
breaks fewer than the published attack would be weak. Nets, each a file of its own:

- ``mnist-a-adv``, ``cifar-a-adv``, ``cifar-a-adv-4``, ``cifar-a-mix`` and ``cifar-a-mix-4``: the nets
  CNN-A of Dathathri et al. 2020 in ``models/sdp`` of Verified-Intelligence/alpha-beta-CROWN, on the
  200 images in its ``datasets/sdp`` (``--images X_sdp.npy --labels y_sdp.npy``; l_inf 0.3 and 2/255).
  Published of these images: the best verified accuracy of four verifiers, and what an attack left
  (Zhou et al. 2025, "Clip-and-Verify", table 4).
- ``wong-kolter-0.3``: ``models_scaled/mnist_small_0_3.pth`` of locuslab/convex_adversarial, first
  stage of the cascade (Wong et al. 2018, MNIST, l_inf 0.3; ``--data``: its test images).
- ``colt-0.1``: ``trained_models/onnx/mnist_0.1.onnx`` of eth-sri/colt (Balunovic & Vechev 2020,
  MNIST, l_inf 0.1; ``--data``).

Example: python benchmarks/published_nets.py mnist-a-adv mnist_cnn_a_adv.model --images X_sdp.npy
    --labels y_sdp.npy --methods crown alpha-crown --search 60
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from certify_bounds import mnist_test
from torch import Tensor, nn

import physadv
from physadv.certification.bounds.verify import prepare_graph, verify_bounds
from physadv.core.rows import append_rows
from physadv.defenses.load_model import load_model
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.models.architectures.wongkolter import mnist_network


@dataclass(frozen=True)
class PublishedNet:
    """What is known of a net.

    Attributes:
        eps: Radius in l_inf, images in [0, 1].
        mean: Mean of each channel that its file leaves out; none is taken where it is empty.
        deviation: Deviation of each channel, likewise.
        verified: Published verified accuracy in percent; None where it could not be read.
        attacked: Published accuracy under attack in percent, likewise.
    """

    eps: float
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    verified: float | None = None
    attacked: float | None = None


MEAN, DEVIATION = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)
NETS = {
    "mnist-a-adv": PublishedNet(0.3, verified=76.0, attacked=76.5),
    "cifar-a-adv": PublishedNet(2 / 255, MEAN, DEVIATION, 48.5, 50.0),
    "cifar-a-adv-4": PublishedNet(2 / 255, MEAN, DEVIATION, 48.5, 49.5),
    "cifar-a-mix": PublishedNet(2 / 255, MEAN, DEVIATION, 48.0, 53.0),
    "cifar-a-mix-4": PublishedNet(2 / 255, MEAN, DEVIATION, 56.5, 57.5),
    "wong-kolter-0.3": PublishedNet(0.3),
    "colt-0.1": PublishedNet(0.1, (0.1307,), (0.3081,)),
}


class Normalized(nn.Module):
    """A net behind the normalization of its pixels, which the published file leaves out."""

    def __init__(
        self, net: nn.Module, mean: tuple[float, ...], deviation: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (b, classes) of images in [0, 1]."""
        logits: Tensor = self.net((images - self.mean) / self.deviation)
        return logits


def cnn_a(channels: int, side: int) -> nn.Sequential:
    """The net CNN-A for images (channels, side, side)."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (side // 4) ** 2, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def load(name: str, weights: Path) -> nn.Module:
    """The net, images (b, c, h, w) in [0, 1] to logits."""
    if name == "colt-0.1":
        net = load_model(str(weights))
    else:
        state = torch.load(weights, weights_only=True, map_location="cpu")
        if name == "wong-kolter-0.3":
            net, state = mnist_network(), state["state_dict"][0]
        else:
            net = cnn_a(1, 28) if name.startswith("mnist") else cnn_a(3, 32)
        net.load_state_dict(state)
    known = NETS[name]
    return (Normalized(net, known.mean, known.deviation) if known.mean else net).eval()


def read_images(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Images (n, c, h, w) in [0, 1] and labels (n,) of the options' files."""
    if options.data:
        return mnist_test(options.data)
    images, labels = np.load(options.images), np.load(options.labels)
    return torch.tensor(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels).long()


@torch.no_grad()
def certified(
    net: nn.Module, images: Tensor, labels: Tensor, eps: float, method: str, limit: float = 60.0
) -> Tensor:
    """Which images (n,) are proved by ``method``, in balls cut to [0, 1]; a search takes up to
    ``limit`` seconds an image."""
    graph = prepare_graph(net, tuple(images.shape[1:]))
    return torch.cat(
        [
            verify_bounds(
                graph, x, y, eps=eps, method=method, limits=(0.0, 1.0), time_limit=limit, net=net
            ).certified
            for x, y in zip(images.split(50), labels.split(50), strict=True)
        ]
    )


def main() -> None:
    """Certify and attack the first ``-n`` images; append a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("net", choices=list(NETS))
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path, help="folder of the MNIST idx files")
    parser.add_argument("--images", type=Path, help="images (n, h, w, c) in [0, 1], .npy")
    parser.add_argument("--labels", type=Path, help="labels (n,), .npy")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--methods", nargs="+", default=["polytope", "crown"])
    parser.add_argument(
        "--search", type=float, help="seconds of branch and bound an image that is left open"
    )
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)

    known = NETS[options.net]
    net = load(options.net, options.weights)
    images, labels = read_images(options)
    with torch.no_grad():
        right = torch.cat([net(part).argmax(1) for part in images.split(500)]) == labels
    error = 1 - right.double().mean().item()
    row = {"net": options.net, "eps": known.eps, f"error of {len(images):,}": error}

    images, labels = images[: options.n], labels[: options.n]
    row["n"] = n = len(images)
    proved = {m: certified(net, images, labels, known.eps, m) for m in options.methods}
    begun = time.process_time()
    result = physadv.evaluate(net, (images, labels), ("linf", known.eps), batch_size=250)
    row["seconds"] = time.process_time() - begun
    stands = torch.tensor([bool(r["robust"]) for r in result.rows])

    if options.search:
        found = torch.stack(list(proved.values())).any(0)
        left = (stands & ~found).nonzero()[:, 0]
        begun = time.process_time()
        found[left] = certified(net, images[left], labels[left], known.eps, "bab", options.search)
        row |= {"searched": len(left), "seconds of search": time.process_time() - begun}
        proved["any, and bab"] = found
    row |= {
        "clean": str(result.clean_accuracy),
        "robust": str(result.robust_accuracy),
        "broken_by": dict(result.broken_by),
        **{m: str(wilson_interval(int(p.sum()), n)) for m, p in proved.items()},
        "broken though certified": sum(int((p & ~stands).sum()) for p in proved.values()),
        "published verified": known.verified,
        "published attacked": known.attacked,
    }
    append_rows(options.rows, [row])
    print(row)


if __name__ == "__main__":
    main()
