"""Settings with which a foreign model is read: what the network receives, and what it returns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import physadv
from physadv.core.errors import ModelError, OptionError
from physadv.core.image_io import save_png
from physadv.core.model_settings import ModelSettings
from physadv.models.outputs import read_logits, two_logits


class Received(nn.Module):
    """Keeps what it is given, and returns two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, 2)."""
        self.last = x
        flat = x.flatten(1)
        return torch.stack([flat.mean(1), -flat.mean(1)], 1)


class OneValue(nn.Module):
    """Returns one value an image, (b, 1): the mean of its red, minus a half, times ``gain``."""

    def __init__(self, gain: float = 8.0, *, sigmoid: bool = False) -> None:
        super().__init__()
        self.gain, self.sigmoid = gain, sigmoid

    def forward(self, x: Tensor) -> Tensor:
        """Logit or probability (b, 1) of the second class."""
        value = self.gain * (x[:, 0].mean((1, 2)) - 0.5)[:, None]
        return value.sigmoid() if self.sigmoid else value


def test_the_network_receives_what_it_was_trained_with() -> None:
    """Channels are reversed, then scaled, then normalized in the network's own order, then laid
    out."""
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    model = physadv.as_model(
        Received(), mean=[10, 20, 30], std=[2, 3, 4], bgr=True, scale=255, layout="nhwc"
    )
    model(images)
    expected = torch.empty(2, 4, 5, 3)
    for own, ours in enumerate((2, 1, 0)):
        expected[..., own] = (images[:, ours] * 255 - (10, 20, 30)[own]) / (2, 3, 4)[own]
    assert torch.allclose(model.net.net.last, expected, atol=1e-5)


@given(st.floats(-30, 30))
def test_one_logit_is_two_classes(z: float) -> None:
    """The softmax of the two is (1 - sigmoid, sigmoid)."""
    value = torch.tensor([[z]], dtype=torch.float64)
    assert torch.allclose(
        two_logits(value, 1, is_probability=False).softmax(1),
        torch.cat([1 - value.sigmoid(), value.sigmoid()], 1),
    )


@given(st.floats(0, 1))
def test_one_probability_is_two_classes(p: float) -> None:
    """Likewise for a probability, at 0 and 1 too, where logits stay finite."""
    logits = two_logits(torch.tensor([p], dtype=torch.float64), 1, is_probability=True)
    assert logits.isfinite().all()
    assert torch.allclose(logits.softmax(1)[0, 1], torch.tensor(p, dtype=torch.float64), atol=1e-9)


VALUE = torch.tensor([[2.0], [-1.0]])


@pytest.mark.parametrize(
    "output",
    [
        VALUE,
        VALUE[:, 0],
        VALUE[..., None, None],
        {"out": VALUE},
        (VALUE, torch.zeros(2, 8)),
        (torch.zeros(2, 8), VALUE[:, 0]),
        {"logits": VALUE, "loss": torch.zeros(())},
    ],
)
def test_one_value_is_found_among_others(output: object) -> None:
    """Alone, by any name, or beside features."""
    assert torch.equal(two_logits(output, 2, is_probability=False)[:, 1], VALUE[:, 0] / 2)


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 1, 3), (2, 1, 1, 3), (2, 3, 1)])
def test_logits_may_have_sides_of_one(shape: tuple[int, ...]) -> None:
    """As fully convolutional nets return them; a map of classes is refused."""
    logits = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(read_logits(logits.reshape(shape), 2), logits)
    with pytest.raises(ModelError, match="logits"):
        read_logits(logits[..., None, None].expand(2, 3, 4, 4), 2)


def test_the_best_classes_are_no_logits() -> None:
    """What topk gives, scores beside their classes, is no row of all classes."""
    with pytest.raises(ModelError, match="all classes"):
        read_logits(torch.rand(2, 5).topk(2), 2)


def test_a_gray_model_takes_images_in_color() -> None:
    """They become gray as Pillow's do, with gradients; gray images stay as they are."""
    model = physadv.as_model(Received(), channels=1)
    images = torch.rand(2, 3, 4, 5, requires_grad=True)
    model(images).sum().backward()
    pillow = [Image.fromarray(i) for i in images.mul(255).byte().permute(0, 2, 3, 1).numpy()]
    wanted = torch.stack([torch.tensor(list(p.convert("L").tobytes())) for p in pillow]) / 255
    assert (model.net.net.last.flatten(1) - wanted).abs().max() < 2 / 255
    assert model.net.net.last.shape == (2, 1, 4, 5)
    gray = torch.rand(2, 1, 4, 5)
    model(gray)
    assert torch.equal(model.net.net.last, gray)


def test_gradients_pass_through_both() -> None:
    """gradcheck in float64."""
    value = torch.tensor([0.3, 0.8], dtype=torch.float64, requires_grad=True)
    for is_probability in (False, True):

        def logits(v: Tensor, kind: bool = is_probability) -> Tensor:
            return two_logits(v, 2, is_probability=kind)

        assert torch.autograd.gradcheck(logits, value)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_head_of_one_value_is_attacked(sigmoid: bool) -> None:
    """PGD turns every image that lies within reach, and the verdicts are the head's own."""
    outputs = "probability" if sigmoid else "logit"
    head = OneValue(sigmoid=sigmoid)
    model = physadv.as_model(head, classes=["no", "yes"], outputs=outputs)
    images = torch.full((2, 3, 4, 4), 0.55)
    labels = torch.ones(2).long()
    assert (model(images).argmax(1) == labels).all()
    result = physadv.attacks.pgd(model, images, labels, eps=0.1)
    assert result.success.all()
    limit = 0.5 if sigmoid else 0.0
    assert (head(result.images) < limit).all()


def test_a_wrong_kind_of_output_is_named() -> None:
    """A logit given as a probability, a row a class where one value was stated, an unknown word."""
    model = physadv.as_model(OneValue(), outputs="probability")
    with pytest.raises(ModelError, match="probability is needed"):
        model(torch.ones(1, 3, 4, 4))
    with pytest.raises(ModelError, match="One value an image"):
        physadv.as_model(Received(), outputs="logit")(torch.ones(2, 3, 4, 4))
    with pytest.raises(ModelError, match="One of logits"):
        physadv.as_model(OneValue(), outputs="odds")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="positive"):
        physadv.as_model(OneValue(), scale=0.0)


def test_options_overrule_the_file(tmp_path: Path) -> None:
    """What is typed wins over <file>.toml; the rest of the file stays."""
    file = tmp_path / "net.ts"
    torch.jit.script(OneValue()).save(str(file))
    (tmp_path / "net.ts.toml").write_text('outputs = "logit"\nclasses = ["a", "b"]\nbgr = false\n')
    blue = torch.zeros(1, 3, 4, 4)
    blue[:, 2] = 1
    assert physadv.load_model(file)(blue).argmax(1) == 0
    model = physadv.load_model(file, settings={"bgr": True, "classes": ["x", "y"]})
    assert model(blue).argmax(1) == 1
    assert model.card.classes == ("x", "y")


def test_a_model_known_by_name_takes_no_settings() -> None:
    """Its own are right: others would measure another model."""
    with pytest.raises(ModelError, match="has its own"):
        physadv.load_model("signs", settings={"mean": [0.5]})


def test_a_file_of_classes_is_read(tmp_path: Path) -> None:
    """One name a line, or names with commas."""
    (tmp_path / "names.txt").write_text("stop\nyield\n")
    assert ModelSettings(classes=str(tmp_path / "names.txt")).model_settings == {
        "classes": ["stop", "yield"]
    }
    assert ModelSettings(classes="a, b").model_settings == {"classes": ["a", "b"]}


@pytest.mark.parametrize(
    "setting",
    [
        {"mean": "0.5,0.4"},
        {"std": "nan"},
        {"input_size": "0"},
        {"input_size": "big"},
        {"layout": "chwn"},
        {"outputs": "odds"},
        {"scale": 0.0},
        {"classes": " , "},
    ],
    ids=str,
)
def test_settings_that_cannot_be_read_are_one_error(setting: dict[str, str]) -> None:
    """Before anything is loaded."""
    with pytest.raises(OptionError):
        ModelSettings(**setting).model_settings  # noqa: B018 - the property raises


def test_the_program_takes_them(tmp_path: Path) -> None:
    """A head of one value, blue first, evaluated by its file and three options."""
    torch.jit.script(OneValue()).save(str(tmp_path / "net.ts"))
    for name, level in (("dark", 0.3), ("light", 0.7)):
        for i in range(3):
            image = torch.full((3, 8, 8), 0.5)
            image[2] = level
            save_png(tmp_path / "data" / name / f"{i}.png", image)
    words = [sys.executable, "-m", "physadv", "attack", "--model", str(tmp_path / "net.ts")]
    words += ["--outputs", "logit", "--classes", "dark,light", "--bgr", "--attack", "pgd"]
    words += ["--data", str(tmp_path / "data"), "--split", "all", "--threat", "linf:0.3"]
    words += ["--out", str(tmp_path / "run"), "--json", "--trust"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["clean_accuracy"]["rate"] == 1
    assert result["robust_accuracy"]["rate"] == 0
    assert 'outputs = "logit"' in (tmp_path / "run/config.toml").read_text()
