"""One call from a model, data and a threat to a result, whatever form they have."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from physadv.attacks import pgd
from physadv.core.errors import DataError, ImageError, ModelError, OptionError
from physadv.core.random_streams import generator
from physadv.core.tensors import as_float_images
from physadv.evaluation.evaluate import curve_radii, evaluate, prepare_evaluation
from physadv.models.load import as_model

COUNT, SIZE = 24, 8


def tiny_net(seed: int = 0) -> nn.Sequential:
    """A small net with batch norm and dropout, in training mode, with a gradient left over."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Flatten()
        )
        return net.append(nn.Linear(8 * (SIZE - 2) ** 2, 4))


def eight_bit_images() -> Tensor:
    """(24, 3, 8, 8) uint8, the same in every run."""
    shape = (COUNT, 3, SIZE, SIZE)
    return torch.randint(0, 256, shape, generator=generator(0, "images"), dtype=torch.uint8)


@pytest.fixture
def net() -> nn.Sequential:
    return tiny_net()


@pytest.fixture
def labels(net: nn.Sequential) -> Tensor:
    """The classes that the net itself gives the images, with every fifth one wrong."""
    with torch.no_grad():
        own = copy.deepcopy(net).eval()(eight_bit_images() / 255).argmax(1)
    own[::5] = (own[::5] + 1) % 4
    return own


class Pictures(Dataset[Any]):
    """A map-style data set of PIL images, as torchvision's are."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        array = self.images[index].permute(1, 2, 0).numpy()
        return Image.fromarray(array), int(self.labels[index])


def forms(images: Tensor, labels: Tensor, folder: Path) -> dict[str, Any]:
    """The same data in every form that is taken."""
    channels_last = images.permute(0, 2, 3, 1).numpy()
    file = folder / "set.npz"
    names = np.array([str(i) for i in range(4)])
    np.savez(file, images=channels_last, labels=labels.numpy(), classes=names)
    floats = images / 255
    return {
        "tensors": (floats, labels),
        "numpy floats": (floats.double().numpy(), labels.tolist()),
        "bytes, channels last": (channels_last, labels.numpy()),
        "loader": DataLoader(TensorDataset(floats, labels), batch_size=7),
        "dataset": TensorDataset(floats, labels),
        "pictures": Pictures(images, labels),
        "iterable": list(zip(floats, labels.tolist(), strict=True)),
        "mappings": [
            {"image": Image.fromarray(pixels), "label": label}
            for pixels, label in zip(channels_last, labels.tolist(), strict=True)
        ],
        "loader of mappings": DataLoader(
            [  # type: ignore[arg-type]
                {"pixel_values": pixels, "labels": label}
                for pixels, label in zip(floats, labels.tolist(), strict=True)
            ],
            batch_size=5,
        ),
        "with metadata": [
            (pixels, label, {"id": 3})
            for pixels, label in zip(floats, labels.tolist(), strict=True)
        ],
        "transparent pictures": [
            (Image.fromarray(pixels).convert("RGBA"), label)
            for pixels, label in zip(channels_last, labels.tolist(), strict=True)
        ],
        "file": file,
    }


@pytest.mark.parametrize(
    "item",
    [
        torch.rand(3, SIZE, SIZE),
        {"image": torch.rand(3, SIZE, SIZE), "caption": "a cat"},
        (torch.rand(3, SIZE, SIZE), "cat"),
        (torch.rand(3, SIZE, SIZE),),
        ("a.png", 0),
    ],
)
def test_items_of_another_form_are_one_error(net: nn.Sequential, item: Any) -> None:
    """No label, a name in its place, or a path in place of an image."""
    for data in ([item] * 3, iter([item] * 3)):
        with pytest.raises((DataError, ImageError, OptionError)):
            evaluate(net, data, attack="fgsm")


def test_every_form_of_data_gives_the_same_result(
    net: nn.Sequential, labels: Tensor, tmp_path: Path
) -> None:
    """Files, arrays, tensors, loaders and data sets of the same images agree sample by sample."""
    model = as_model(net, classes=[str(i) for i in range(4)])
    results = {
        name: evaluate(model, data, "linf:6/255", attack="pgd", steps=5)
        for name, data in forms(eight_bit_images(), labels, tmp_path).items()
    }
    first = results.pop("tensors")
    assert first.clean_accuracy.rate == pytest.approx(19 / 24)
    assert 0 < first.robust_accuracy.rate < first.clean_accuracy.rate
    keys = ("label", "correct", "robust", "broken_by")
    expected = [[row[key] for key in keys] for row in first.rows]
    for name, result in results.items():
        assert [[row[key] for key in keys] for row in result.rows] == expected, name


def test_a_limit_draws_the_same_images_from_tensors_and_files(
    net: nn.Sequential, labels: Tensor, tmp_path: Path
) -> None:
    """The choice follows from the seed alone."""
    model = as_model(net, classes=[str(i) for i in range(4)])
    data = forms(eight_bit_images(), labels, tmp_path)
    chosen = [
        prepare_evaluation(model, data[name], limit=6, seed=3).samples.indices
        for name in ("tensors", "dataset", "pictures", "file")
    ]
    assert len(chosen[0]) == 6
    assert chosen == [chosen[0]] * 4
    assert prepare_evaluation(model, data["tensors"], limit=6, seed=4).samples.indices != chosen[0]


def test_nothing_of_the_caller_changes(net: nn.Sequential, labels: Tensor) -> None:
    """Modes, flags, buffers, parameters, gradients, images and the global generator stay."""
    images = eight_bit_images() / 255
    net[0].weight.grad = torch.ones_like(net[0].weight)  # type: ignore[union-attr,operator,arg-type]
    net[5].bias.requires_grad_(False)  # type: ignore[union-attr,operator]
    state, pixels = copy.deepcopy(net.state_dict()), images.clone()
    flags = [p.requires_grad for p in net.parameters()]
    random_state = torch.get_rng_state()

    evaluate(net, (images, labels), "linf:4/255", limit=8)
    evaluate(net, DataLoader(TensorDataset(images, labels), shuffle=True), attack="fgsm", limit=8)

    assert net.training
    assert all(module.training for module in net)
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))  # type: ignore[union-attr,operator,arg-type]
    assert torch.equal(images, pixels)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_result_is_that_of_the_rows(net: nn.Sequential, labels: Tensor, tmp_path: Path) -> None:
    """Rates follow from the rows; the curve falls from clean to the largest radius; a second call
    with the same folder resumes to the same result without attacking."""
    data = (eight_bit_images() / 255, labels)
    first = evaluate(net, data, "linf:4/255", curve="auto", out=tmp_path / "run")
    assert first.complete
    assert first.robust_accuracy.rate == sum(row["robust"] for row in first.rows) / COUNT
    assert sum(first.broken_by.values()) == sum(
        row["correct"] and not row["robust"] for row in first.rows
    )
    rates = [rate.rate for _, rate in sorted(first.curve.items())]
    assert rates == sorted(rates, reverse=True)
    assert len(rates) == 5

    again = evaluate(net, data, "linf:4/255", curve="auto", out=tmp_path / "run")
    assert again.rows == first.rows
    assert again.forwards == first.forwards
    with pytest.raises(OptionError, match="threat"):
        evaluate(net, data, "linf:8/255", curve="auto", out=tmp_path / "run")


def test_an_own_attack_is_held_to_the_ball(net: nn.Sequential, labels: Tensor) -> None:
    """A function may return anything of the images' shape: what is judged lies within the radius,
    and cannot beat a brute-force search within it."""
    data = (eight_bit_images() / 255, labels)

    def wild(model: Any, images: Tensor, labels: Tensor) -> Tensor:
        return torch.rand(images.shape, generator=generator(1, "wild")) * 3 - 1

    result = evaluate(net, data, "linf:2/255", attack=wild)
    assert "wild" in result.broken_by
    assert max(row["distance"] for row in result.rows) <= 2 / 255
    assert evaluate(net, data, "linf:0", attack=wild).robust_accuracy == result.clean_accuracy

    plan = evaluate(net, data, "linf:2/255", attack=[wild, "pgd"])
    assert list(plan.broken_by) == ["wild", "pgd"]
    assert plan.robust_accuracy.rate <= result.robust_accuracy.rate
    with pytest.raises(OptionError, match="shape"):
        evaluate(net, data, attack=lambda model, images, labels: images[:1])


def test_targets_are_reached_or_not(net: nn.Sequential, labels: Tensor) -> None:
    """Towards class 2 only images of other classes are attacked."""
    data = (eight_bit_images() / 255, labels)
    result = evaluate(net, data, "linf:16/255", attack="pgd", target=2)
    assert len(result.rows) == int((labels != 2).sum())
    assert result.facts["targeted"]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ((torch.zeros(2, 3, 8, 8), torch.zeros(3, dtype=torch.long)), DataError),
        ((torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.long)), DataError),
        ((torch.full((2, 3, 8, 8), 2.0), [0, 1]), ImageError),
        ((torch.zeros(2, 8), [0, 1]), ImageError),
        ((torch.zeros(2, 3, 8, 8), [0, -1]), DataError),
        ((torch.zeros(2, 3, 8, 8), [0.5, 1.5]), OptionError),
        (7, DataError),
        ([], DataError),
    ],
)
def test_unusable_data_are_refused(net: nn.Sequential, data: Any, error: type[Exception]) -> None:
    """Wrong counts, no images, values out of range, wrong shapes, classes, types: one clear
    error."""
    with pytest.raises(error):
        evaluate(net, data)


def test_unusable_settings_are_refused(net: nn.Sequential, labels: Tensor) -> None:
    """An unknown model, attack, threat, speed or weights for a module."""
    data = (eight_bit_images() / 255, labels)
    with pytest.raises(ModelError, match="sings"):
        evaluate("sings", data)
    for settings in ({"attack": "pdg"}, {"attack": 3}, {"speed": "warp"}, {"weights": "w.pth"}):
        with pytest.raises(OptionError):
            evaluate(net, data, **settings)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="threat"):
        evaluate(net, data, "8/255")


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"batch_size": True},
        {"limit": 0},
        {"limit": -2},
        {"steps": 0},
        {"restarts": 0.5},
        {"eot_draws": -1},
        {"eot_draws": 1.5},
        {"seed": "one"},
        {"seed": 0.5},
        {"target": 4},
        {"surrogates": nn.Sequential(nn.Flatten(), nn.Linear(192, 5))},
        {"threat": None},
        {"threat": 8 / 255},
        {"threat": ("linf",)},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_one_error(
    net: nn.Sequential, labels: Tensor, settings: dict[str, Any]
) -> None:
    """Counts below 1, fractions, seeds and threats of another form, targets and surrogates of
    classes that the model does not have: none is taken for something else."""
    with pytest.raises(OptionError):
        evaluate(net, (eight_bit_images() / 255, labels), **{"attack": "pgd", **settings})


def test_a_device_that_is_not_here_is_one_error(net: nn.Sequential, labels: Tensor) -> None:
    """As of a model by name."""
    with pytest.raises(ModelError, match="device nowhere"):
        evaluate(net, (eight_bit_images() / 255, labels), device="nowhere")


@pytest.mark.parametrize("channels", [2, 10])
def test_a_tensor_of_narrow_images_keeps_its_axes(channels: int) -> None:
    """(b, 2, 8, 3) are two channels of 8x3 px, not three of 2x8; a list of such pairs alike."""
    images = torch.rand(6, channels, 4, 3, generator=generator(0, "narrow"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * 12, 3))
    with torch.no_grad():
        truth = model(images).argmax(1)
    for data in ((images, truth), TensorDataset(images, truth)):
        assert evaluate(model, data, attack="fgsm").clean_accuracy.rate == 1


def test_pictures_of_16_bits_are_read_as_such() -> None:
    """Pillow's own conversion makes white of every value over 255."""
    values = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    pixels = as_float_images(Image.fromarray(values))
    assert pixels.shape == (1, 1, 8, 8)
    assert (pixels[0, 0] - torch.from_numpy(values / 65535)).abs().max() <= 0.5 / 255
    with pytest.raises(ImageError, match="floating point"):
        as_float_images(Image.fromarray(values.astype(np.float32)))


@pytest.mark.parametrize(
    ("weights", "given", "words"),
    [
        (torch.float32, torch.float64, "images of float64"),
        (torch.float16, torch.float16, "float16 weights"),
        (torch.float64, torch.float32, "float64 weights"),
    ],
)
def test_number_formats_that_do_not_agree_are_told(
    weights: torch.dtype, given: torch.dtype, words: str
) -> None:
    """The remedy is a conversion, not another size."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).to(weights)
    data = (torch.full((2, 3, 4, 4), 0.5, dtype=given), [0, 1])
    with pytest.raises(ModelError, match=words):
        evaluate(model, data, attack="fgsm")


def test_radii_of_a_curve() -> None:
    """Neither 0 nor eps itself, nothing that an image cannot hold, in order."""
    assert curve_radii("none", "linf", 0.1) == ()
    assert curve_radii("2/255,1/255", "linf", 2 / 255) == (1 / 255,)
    assert curve_radii("auto", "Linf", 0.8) == (0.2, 0.4)
    assert curve_radii("auto", "linf", 0.1) == (0.025, 0.05, 0.15)
    assert curve_radii("auto", "linf", 8 / 255) == (2 / 255, 4 / 255, 12 / 255)
    assert curve_radii([3, 0, 1], 2, 1.0) == (3.0,)


def test_two_attacks_of_one_name_are_two_stages() -> None:
    """Functions that share a name both count: what the second breaks is broken."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    images = torch.rand(24, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = model(images).argmax(1)
    weak, strong = partial(pgd, eps=1e-4), partial(pgd, eps=0.2)
    both = evaluate(model, (images, labels), "linf:0.2", attack=[weak, strong])
    alone = evaluate(model, (images, labels), "linf:0.2", attack=strong)
    assert both.robust_accuracy == alone.robust_accuracy
    assert set(both.broken_by) == {"pgd", "pgd#2"}


def test_an_own_attack_that_returns_no_images_is_refused() -> None:
    """NaN would count as a break; None and another shape are named."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    images, labels = torch.rand(4, 3, 4, 4), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        labels = model(images).argmax(1)
    for answer, error in (
        (lambda m, x, y: x * float("nan"), ImageError),
        (lambda m, x, y: None, OptionError),
        (lambda m, x, y: x[:1], OptionError),
    ):
        with pytest.raises(error):
            evaluate(model, (images, labels), "linf:0.1", attack=answer)  # type: ignore[arg-type]


def test_labels_that_the_model_lacks_are_one_of_our_errors() -> None:
    """A module without class names has as many classes as logits."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    with pytest.raises(DataError, match="3 classes"):
        evaluate(model, (torch.rand(2, 3, 4, 4), torch.tensor([0, 5])), "linf:0.1")


def test_a_run_belongs_to_the_code_of_its_own_attack(tmp_path: Path) -> None:
    """The same folder with another function of the same name is refused; the same one resumes."""

    def first(model: Any, images: Tensor, labels: Tensor) -> Tensor:
        return images

    def second(model: Any, images: Tensor, labels: Tensor) -> Tensor:
        return (images + 0.1).clamp(0, 1)

    second.__name__ = "first"
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    with torch.no_grad():
        model[1].weight.fill_(0.01)
        model[1].bias.copy_(torch.tensor([0.1, 0.0, 0.0]))
    data = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(1)), [0, 0, 0, 0]
    evaluate(model, data, "linf:0.1", attack=first, out=tmp_path / "run")
    evaluate(model, data, "linf:0.1", attack=first, out=tmp_path / "run")
    with pytest.raises(OptionError):
        evaluate(model, data, "linf:0.1", attack=second, out=tmp_path / "run")


def test_a_run_belongs_to_the_weights_and_the_images_that_it_is_of(tmp_path: Path) -> None:
    """A module trained on, other images and other labels of the same shapes are another run; the
    same ones go on, with and without the hashes that older versions did not record."""
    net, images = tiny_net(), eight_bit_images() / 255
    with torch.no_grad():
        truth = copy.deepcopy(net).eval()(images).argmax(1)
    evaluated = partial(evaluate, attack="fgsm", out=tmp_path)
    first = evaluated(net, (images, truth))
    assert evaluated(copy.deepcopy(net), (images.clone(), truth.tolist())).rows == first.rows
    for model, data, words in (
        (tiny_net(1), (images, truth), "model_state"),
        (net, (1 - images, truth), 'other contents of "#0"'),
        (net, (images, truth.flip(0)), 'another label of "#'),
    ):
        with pytest.raises(OptionError, match=words):
            evaluated(model, data)
    record = tmp_path / "evaluation.json"
    table = json.loads(record.read_text())
    del table["model_state"], table["image_digest"]
    record.write_text(json.dumps(table))
    assert evaluated(net, (images, truth)).rows == first.rows


class Tempered(nn.Module):
    """A network with a plain temperature, a counter of its calls and a cache."""

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.net, self.temperature = tiny_net(), temperature
        self.calls, self.last_shape, self.history = 0, None, []

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        self.calls += 1
        self.last_shape = tuple(images.shape)
        self.history.append(len(images))
        return self.net(images) / self.temperature


def test_a_run_belongs_to_the_plain_attributes_of_its_model(tmp_path: Path) -> None:
    """Another temperature of the same weights is another run, and is named; counters and caches
    that calls change are not compared, whether the model was called before or not."""
    images = eight_bit_images() / 255
    data = (images, Tempered()(images).argmax(1))
    evaluated = partial(evaluate, data=data, attack="fgsm", out=tmp_path)
    first = evaluated(Tempered())
    called = Tempered()
    called.eval()(images)
    assert evaluated(called).rows == evaluated(Tempered()).rows == first.rows
    with pytest.raises(OptionError, match="the model's attribute temperature"):
        evaluated(Tempered(3.0))
    other = Tempered()
    other.net[2] = nn.GELU()
    with pytest.raises(OptionError, match="the model's attribute classes of layers"):
        evaluated(other)

    record = tmp_path / "evaluation.json"
    table = json.loads(record.read_text())
    del table["model_attributes"]
    record.write_text(json.dumps(table))
    assert evaluated(Tempered()).rows == first.rows


def test_a_run_belongs_to_its_surrogates(tmp_path: Path) -> None:
    """Gradients of another surrogate of the same class are another run."""
    net, images = tiny_net(), eight_bit_images() / 255
    data = (images, copy.deepcopy(net).eval()(images).argmax(1))
    evaluated = partial(evaluate, net, data, attack="fgsm", out=tmp_path)
    evaluated(surrogates=[tiny_net(1)])
    evaluated(surrogates=[tiny_net(1)])
    with pytest.raises(OptionError, match="surrogate_states"):
        evaluated(surrogates=[tiny_net(2)])
