"""RobustBench's protocol: which images in which order, how they are resized, and at what radius."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cifar_records import write_cifar
from PIL import Image
from torch import Tensor, nn

from physadv.core.errors import DataError, OptionError
from physadv.core.image_io import save_png
from physadv.evaluation.benchmark import PREPROCESSINGS, benchmark


class Pooled(nn.Module):
    """A linear net on the means of 16 tiles."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))
        return logits


def quick(model: nn.Module, *args: Any, **settings: Any) -> Any:
    return benchmark(model, *args, attack="fgsm", **settings)


def test_cifar_is_taken_from_the_front_at_the_leaderboards_radius(tmp_path: Path) -> None:
    """The first images of the file in its order, 8/255 in l_inf and 0.5 in l_2."""
    labels = [3, 8, 8, 0, 6, 1]
    write_cifar(tmp_path / "cifar-10-batches-bin", "test_batch.bin", labels)
    result = quick(Pooled(), "cifar10", "Linf", images=4, data_dir=tmp_path)
    assert [row["label"] for row in result.rows] == labels[:4]
    assert result.facts["protocol"] == "the first 4 of 6 images"
    assert result.facts["threat"] == "linf:8/255"
    assert quick(Pooled(), "cifar10", "L2", data_dir=tmp_path).facts["threat"] == "l2:0.5"
    given = quick(Pooled(), "CIFAR-10", "linf:2/255", data_dir=tmp_path)
    assert given.facts["threat"] == "linf:2/255"


def test_class_folders_that_lost_the_order_are_drawn_from(tmp_path: Path) -> None:
    """The first images would be of one class: they are drawn, always the same, and it says so."""
    for name in ("airplane", "automobile", "bird", "cat", "deer"):
        for i in range(4):
            save_png(tmp_path / "test" / name / f"{i:04}.png", np.full((32, 32, 3), i, np.uint8))
    for name in ("dog", "frog", "horse", "ship", "truck"):
        save_png(tmp_path / "test" / name / "0000.png", np.zeros((32, 32, 3), np.uint8))
    first, again = (quick(Pooled(), tmp_path, "Linf", images=8) for _ in range(2))
    assert first.rows == again.rows
    assert len({row["label"] for row in first.rows}) > 2
    assert "drawn at random" in first.facts["protocol"]
    assert first.facts["threat"] == "linf:8/255"


def test_imagenet_is_robustbenchs_list_in_its_order(tmp_path: Path) -> None:
    """Images are found by their numbers, wherever they lie; one that misses is named."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    for folder, number in (("n02823750", 20685), ("n09468604", 15253), ("n01440764", 1)):
        save_png(tmp_path / "val" / folder / f"ILSVRC2012_val_{number:08}.png", pixels)
    result = quick(Pooled(1000), "imagenet", "Linf", images=2, data_dir=tmp_path)
    assert ["15253" in result.rows[0]["image"], "20685" in result.rows[1]["image"]] == [True, True]
    assert [row["label"] for row in result.rows] == [979, 441]
    assert result.facts["threat"] == "linf:4/255"
    assert result.facts["image_size"] == "3x224x224"
    with pytest.raises(DataError, match="ILSVRC2012_val_00039611"):
        quick(Pooled(1000), "imagenet", "Linf", images=3, data_dir=tmp_path)


@pytest.mark.parametrize("name", ["Res256Crop224", "BicubicRes256Crop224", "Res224"])
@pytest.mark.parametrize("size", [(375, 500), (301, 257), (500, 333)])
def test_preprocessings_are_torchvisions(name: str, size: tuple[int, int]) -> None:
    """Pillow's resize and crop, as torchvision calls them, give the same pixels to within two
    steps of 255."""
    draws = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, size[0] // 8, size[1] // 8, generator=draws)
    image = nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    pixels = image.mul(255).round()
    mine = PREPROCESSINGS[name](pixels / 255)[0].clamp(0, 1)

    picture = Image.fromarray(pixels[0].byte().permute(1, 2, 0).numpy())
    how = Image.Resampling.BICUBIC if name.startswith("Bic") else Image.Resampling.BILINEAR
    if name == "Res224":
        theirs = picture.resize((224, 224), how)
    else:
        short = min(size)
        height, width = (int(256 * side / short) for side in size)
        top, left = round((height - 224) / 2), round((width - 224) / 2)
        theirs = picture.resize((width, height), how).crop((left, top, left + 224, top + 224))
    expected = torch.from_numpy(np.array(theirs)).permute(2, 0, 1) / 255
    assert (mine - expected).abs().max() < 2.01 / 255


def test_what_was_spent_on_unbroken_samples_is_told() -> None:
    """Passes of the samples that stood are counted alone: the clean one, and each step and verdict
    of the attack."""
    images = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    net = Pooled(3)
    labels = net(images).argmax(1)
    result = benchmark(net, (images, labels), "linf:0.0001", attack="pgd", steps=5, speed="plain")
    assert result.robust_accuracy.rate == 1
    spent = result.spent_on_unbroken
    assert spent["samples"] == 6
    assert spent["least"] == spent["most"] == 1 + 6 + 1
    assert sum(row["forwards"] for row in result.rows) == result.forwards
    assert "6 samples after 8 forward passes each" in str(result)


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    """A data set that is not there, a norm without a leaderboard, corruptions, no images."""
    net = Pooled(3)
    pair = (torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="nothing is downloaded"):
        benchmark(net, "cifar10", data_dir=tmp_path)
    with pytest.raises(OptionError, match="without a radius"):
        benchmark(net, pair, "Linf")
    with pytest.raises(OptionError, match="corruptions"):
        benchmark(net, pair, "corruptions")
    with pytest.raises(OptionError, match="Res256Crop224"):
        benchmark(net, pair, "linf:0.1", preprocessing="Crop1")
    with pytest.raises(OptionError, match="at least 1"):
        benchmark(net, pair, "linf:0.1", images=0)
