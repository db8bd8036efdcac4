"""ART's AdversarialPatchPyTorch, asked by eot_peers.py from an environment of its own: one overlay
a line of stdin.

The environment: torch, torchvision, adversarial-robustness-toolbox and what that needs. Where
torchvision's compiled part does not load (a wheel for CUDA on a machine without), the two operators
that its import asks for are declared here; the overlay uses none of them.
"""

import json
import sys
import time

import numpy as np
import torch

try:
    import torchvision
except RuntimeError:
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

import art
from art.attacks.evasion import AdversarialPatchPyTorch
from art.estimators.classification import PyTorchClassifier


def main(batch: int, size: int, texels: int) -> None:
    """Answer each line, a seed, with the CPU seconds of one overlay, forward and backward."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * size * size, 2))
    shape = (3, size, size)
    classifier = PyTorchClassifier(net, torch.nn.CrossEntropyLoss(), shape, 2, clip_values=(0, 1))
    attack = AdversarialPatchPyTorch(
        classifier,
        rotation_max=22.5,
        scale_min=0.2,
        scale_max=0.6,
        patch_shape=(3, texels, texels),
        batch_size=batch,
        verbose=False,
    )
    images = torch.full((batch, *shape), 0.5)
    print(json.dumps({"art": art.__version__, "torchvision": torchvision.__version__}), flush=True)
    for line in sys.stdin:
        np.random.seed(int(line))  # noqa: NPY002
        began = time.process_time()
        seen = attack._random_overlay(images, attack._patch)
        torch.autograd.grad(seen.sum(), attack._patch)
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
