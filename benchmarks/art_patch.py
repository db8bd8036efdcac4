"""ART's AdversarialPatchPyTorch against `signs`, run by strength.py in an environment of its own.

    python benchmarks/art_patch.py SCENES.npz PATCH.npy --rate 0.1 --passes 22000 --seed 0

SCENES.npz holds clean pictures, ``images`` (n, 3, 64, 64) in [0, 1]; the ``side`` of the square patch
in px; and ``centers`` (64, 64), true where the patch's center may lie. PATCH.npy becomes the patch
(3, side, side) in [0, 1]. The environment needs ART and what physadv needs; torchvision's compiled
part may be missing, see art_overlay.py.
"""

from __future__ import annotations

import argparse

import art_overlay  # declares what torchvision lacks here, before ART asks for it
import numpy as np
import torch
from art.attacks.evasion import AdversarialPatchPyTorch
from art.estimators.classification import PyTorchClassifier

from physadv.defenses.load_model import load_model

STOP = 14
ROTATION_DEG = 12.0
"""Largest rotation, as wide as the roll of physadv's `default` draws."""
BATCH = 32


def main() -> None:
    """Optimize the patch and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes")
    parser.add_argument("patch")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--passes", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    np.random.seed(options.seed)  # noqa: NPY002 - ART draws from the global generator
    torch.manual_seed(options.seed)

    with np.load(options.scenes) as scenes:
        images, side, centers = scenes["images"], int(scenes["side"]), scenes["centers"]
    model = load_model("signs")
    classes = len(model.card.classes)
    classifier = PyTorchClassifier(
        model, torch.nn.CrossEntropyLoss(), images.shape[1:], classes, clip_values=(0, 1)
    )
    scale = side / images.shape[-1]
    attack = AdversarialPatchPyTorch(
        classifier,
        rotation_max=ROTATION_DEG,
        scale_min=scale * 0.999,  # ART wants less than scale_max
        scale_max=scale,
        learning_rate=options.rate,
        max_iter=max(1, round(options.passes / len(images))),
        batch_size=BATCH,
        patch_shape=(3, images.shape[-1], images.shape[-1]),
        patch_type="square",
        optimizer="Adam",
        targeted=False,
        verbose=False,
    )
    labels = np.full(len(images), STOP)
    masks = np.broadcast_to(centers, (len(images), *centers.shape)).copy()
    patch, _ = attack.generate(images, np.eye(classes, dtype=np.float32)[labels], mask=masks)
    np.save(options.patch, patch.astype(np.float32))


if __name__ == "__main__":
    assert art_overlay
    main()
