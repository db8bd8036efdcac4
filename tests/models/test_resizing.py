"""Images reach a model's input as Pillow and torchvision bring them there, and are never stretched
unless the model says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.datasets import read_dataset
from physadv.datasets.summary import sizes_in_words
from physadv.evaluation.data import open_samples
from physadv.evaluation.samples import choose_samples
from physadv.models.cards import ModelCard
from physadv.models.edge_resizing import ResizedByEdges
from physadv.models.load import as_model
from physadv.models.resizing import InputResizing, standard_size

SIZES = [(100, 150), (150, 100), (97, 97), (63, 40), (301, 64), (20, 33)]


def picture(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return synthetic_background(0, "resizing", height * 1000 + width, height=height, width=width)


def batch(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def pillow(
    pixels: np.ndarray[Any, np.dtype[np.uint8]], side: int, short: int, how: Image.Resampling
) -> Tensor:
    """Resize(short), CenterCrop(side) as torchvision does them on a PIL image."""
    image = Image.fromarray(pixels)
    width, height = image.size
    size = (short, int(short * height / width))
    image = image.resize(size if width <= height else (int(short * width / height), short), how)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return batch(np.asarray(image.crop((left, top, left + side, top + side))))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    ("side", "short", "declared"), [(64, 73, None), (224, 256, None), (224, 232, 232)]
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_crop_is_that_of_pillow(
    height: int, width: int, side: int, short: int, declared: int | None, interpolation: Any
) -> None:
    """The short side at 256/224 of the input or as declared, the center cropped, as torchvision's
    transforms do: within 1.5 of 255 of Pillow, which rounds to 8 bits between its two passes."""
    pixels = picture(height, width)
    how = Image.Resampling[interpolation.upper()]
    expected = pillow(pixels, side, short, how)
    resizing = InputResizing((side, side), short_side=declared, interpolation=interpolation)
    found = resizing(batch(pixels))
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1.5 / 255


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    own=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    fit=st.sampled_from(["crop", "letterbox", "stretch"]),
)
def test_every_size_becomes_the_inputs(
    size: tuple[int, int], own: tuple[int, int], fit: Any
) -> None:
    """Any image fits any input, and boxes that span the input's image span the image."""
    resizing = InputResizing(size, fit)
    assert resizing(torch.rand(1, 1, *own)).shape[-2:] == size
    same = torch.rand(1, 1, *size)
    assert resizing(same) is same


@pytest.mark.parametrize("fit", ["crop", "letterbox"])
@pytest.mark.parametrize(("height", "width"), [(200, 400), (400, 200), (120, 120)])
def test_a_disk_stays_a_disk(fit: Any, height: int, width: int) -> None:
    """As high as it is wide in the input, whatever the aspect of the image, and its box is found on
    the image again."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    radius = 0.35 * min(height, width)
    disk = ((y - height / 2 + 0.5) ** 2 + (x - width / 2 + 0.5) ** 2 <= radius**2).float()
    resizing = InputResizing((64, 64), fit)
    inside = resizing(disk.expand(1, 3, -1, -1))[0, 0].sub(114 / 255).abs().gt(0.3)
    seen = inside & (resizing(disk.expand(1, 3, -1, -1))[0, 0] > 0.5)
    rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
    assert abs(len(rows) - len(columns)) <= 1
    box = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
    back = resizing.boxes_on_image(box, height, width)
    expected = torch.tensor([width / 2 - radius, height / 2 - radius] * 1)
    pixel = max(height, width) / 64
    assert (back[:2] - expected).abs().max() <= 1.5 * pixel
    assert (back[2:] - torch.tensor([width / 2 + radius, height / 2 + radius])).abs().max() <= (
        1.5 * pixel
    )


def test_a_letterbox_is_yolos() -> None:
    """A 100x200 image in 64x64: 32x64 px between two bands of 114/255, bilinear as OpenCV's."""
    cv2 = pytest.importorskip("cv2")
    pixels = picture(100, 200)
    found = InputResizing((64, 64), "letterbox", antialias=False)(batch(pixels))
    inner = cv2.resize(pixels, (64, 32), interpolation=cv2.INTER_LINEAR)
    expected = cv2.copyMakeBorder(inner, 16, 16, 0, 0, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    assert float((found - batch(expected)).abs().max()) <= 1.5 / 255


def test_gradients_pass() -> None:
    """Every pixel inside the crop has a gradient."""
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    InputResizing((56, 56))(images).sum().backward()
    assert images.grad is not None
    assert int((images.grad[0, 0] > 0).sum()) == 56 * 56


class Means(nn.Module):
    """Two logits: the mean of the input, and of its left half."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[-2:] == (28, 28)
        return torch.stack((images.mean((1, 2, 3)), images[..., :14].mean((1, 2, 3))), 1)


def test_a_model_of_ones_own_gets_crops_and_can_ask_for_more() -> None:
    """as_model(input_size=...) crops by the standard; what it declares is done instead."""
    images = batch(picture(60, 120))
    net = Means()

    def seen(**declared: Any) -> list[float]:
        logits = as_model(net, input_size=28, **declared)(images)
        assert isinstance(logits, Tensor)
        return [round(value, 5) for value in logits[0].tolist()]

    def expected(resizing: InputResizing) -> list[float]:
        return [round(value, 5) for value in net(resizing(images))[0].tolist()]

    size = (28, 28)
    assert seen() == expected(InputResizing(size, short_side=32))
    assert seen(resize="stretch") == expected(InputResizing(size, "stretch"))
    assert seen(resize="letterbox") == expected(InputResizing(size, "letterbox"))
    assert seen(short_side=28) == expected(InputResizing(size, short_side=28))
    given = {"interpolation": "bicubic", "antialias": False}
    assert seen(**given) == expected(InputResizing(size, interpolation="bicubic", antialias=False))
    assert len({tuple(seen(resize=r)) for r in ("crop", "stretch", "letterbox")}) == 3


@pytest.mark.parametrize(
    "declared",
    [
        {"resize": "squash"},
        {"short_side": 20},
        {"short_side": True},
        {"interpolation": "lanczos"},
        {"antialias": "yes"},
    ],
)
def test_what_cannot_be_done_is_refused(declared: dict[str, Any]) -> None:
    """A misspelled rule is an error when the model is made, not a default."""
    with pytest.raises(ModelError, match=next(iter(declared))):
        as_model(Means(), input_size=28, **declared)


def mixed_folder(folder: Path) -> Path:
    """Seventy pictures of one size, and a last, wide one beyond what a probe would see."""
    for i in range(70):
        file = folder / ("a" if i % 2 else "b") / f"{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(30, 30)).save(file)
    Image.fromarray(picture(30, 90)).save(folder / "b" / "999.png")
    return folder


def test_a_data_set_of_several_sizes_is_cropped_and_says_so(tmp_path: Path) -> None:
    """Every chosen image counts, not a first few; each is what Pillow's standard gives, and the
    summary states the rule."""
    data = read_dataset(mixed_folder(tmp_path), split="all")
    card = ModelCard("m", classes=("a", "b"), input_size=(28, 28))
    samples = choose_samples(data, card)
    wide = [i for i, name in enumerate(data.names) if name.endswith("999.png")]
    image = samples.images(wide)
    expected = pillow(picture(30, 90), 28, 32, Image.Resampling.BILINEAR)
    assert samples.size == (28, 28)
    assert float((image - expected).abs().max()) <= 2.5 / 255
    assert samples.summary.as_dict()["image_sizes"] == (
        "30x30 to 90x30 px, each short side resized to 32 px, center crop of 28x28 px"
    )


def test_images_of_one_size_keep_it_and_the_model_says_what_it_does() -> None:
    """Perturbations live on the images as they are; the summary states the model's resizing."""
    card = ModelCard("m", classes=("a",), input_size=(64, 64))
    samples = open_samples((torch.rand(2, 3, 32, 32), [0, 0]), card)
    assert samples.size == (32, 32)
    assert samples.summary.image_sizes == (
        "32x32 px, all short side resized to 73 px, center crop of 64x64 px"
    )


def test_a_stretch_may_end_in_a_crop() -> None:
    """Both sides become the stated one, and the center is cut out; boxes find their way back."""
    resizing = InputResizing((4, 4), "stretch", 6, "nearest")
    image = torch.arange(72.0).reshape(1, 1, 6, 12) / 72
    assert torch.equal(resizing(image), image[:, :, 1:5, 1::2][..., 1:5])
    assert resizing.in_words() == (
        "stretched to 6x6 px, center crop of 4x4 px, as the model declares, nearest"
    )
    boxes = resizing.boxes_on_image(torch.tensor([[0.0, 0, 4, 4]]), 6, 12)
    assert boxes.tolist() == [[2, 1, 10, 5]]


def test_sizes_in_words_name_a_stretch_only_where_the_aspect_changes() -> None:
    """Squares that become a square are resized; others are said to be stretched."""
    stretch = InputResizing((64, 64), "stretch")
    assert sizes_in_words([(64, 64)], stretch) == "64x64 px"
    assert sizes_in_words([(32, 32), (50, 50)], stretch).endswith("each resized to 64x64 px")
    assert "stretched" in sizes_in_words([(32, 32), (50, 60)], stretch)


def test_without_a_declared_size_images_are_not_enlarged_beyond_the_most_frequent() -> None:
    """The standard 224 px, or the short side of the most frequent size."""
    assert standard_size((375, 500)) == (224, 224)
    assert standard_size((32, 40)) == (32, 32)


@pytest.mark.parametrize(
    ("size", "short", "settings", "wanted"),
    [
        ((480, 640), 800, {"longest": 1333}, (800, 1066)),
        ((640, 480), 800, {"longest": 1333}, (1066, 800)),
        ((300, 900), 800, {"longest": 1333}, (444, 1333)),
        ((480, 640), 512, {"longest": 1333, "multiple": 16, "down": True}, (512, 672)),
        ((300, 400), 640, {"multiple": 32}, (640, 864)),
        ((20, 1000), 40, {"longest": 100}, (2, 100)),
    ],
)
def test_an_edge_is_brought_to_its_length(
    size: tuple[int, int], short: int, settings: dict[str, Any], wanted: tuple[int, int]
) -> None:
    """The sizes of DETR's, YOLOS' and TextNet's own processors, and gradients pass."""
    resized = ResizedByEdges(nn.Identity(), short, **settings)
    assert resized.size_of(*size) == wanted
    images = torch.rand(1, 1, *size, requires_grad=True)
    (gradient,) = torch.autograd.grad(resized(images).sum(), images)
    assert bool(gradient.abs().sum() > 0)


@pytest.mark.parametrize("fit", ["crop", "stretch", "letterbox"])
def test_an_input_that_is_no_square_has_two_sides_before_its_crop(fit: Any) -> None:
    """160x224 px of 177x248: a disk stays where it was, and its box is found again."""
    resizing = InputResizing((160, 224), fit, (177, 248))
    image = torch.zeros(1, 1, 300, 400)
    image[..., 140:161, 190:211] = 1
    inside = resizing(image)[0, 0] > 0.6
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    box = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
    back = resizing.boxes_on_image(box, 300, 400)
    assert (back - torch.tensor([190.0, 140, 211, 161])).abs().max() < 3
    assert "248x177" in resizing.in_words()


def test_a_crop_beyond_what_is_left_is_refused() -> None:
    """Sides before a crop that are shorter than it, or no two whole numbers."""
    for sides in ((159, 248), (177, 223), (1, 2, 3), (177.5, 248)):
        with pytest.raises(ModelError, match="short_side"):
            InputResizing((160, 224), "crop", sides)  # type: ignore[arg-type]
