"""SignNet: any size in, logits out, differentiable, small."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch

from physadv.core.errors import ModelError
from physadv.core.files import sha256_of
from physadv.core.image_io import to_tensor
from physadv.core.sign_artwork import sign_face
from physadv.defenses.load_model import load_model
from physadv.models.architectures.signnet import BACKGROUND, NAMES, STOP, SignNet, count_parameters
from physadv.models.zoo import EMBEDDED

WEIGHTS = Path(__file__).resolve().parents[2] / "physadv" / "models" / "weights"


@pytest.fixture(scope="module")
def net() -> SignNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SignNet().eval()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (64, 64), (37, 91), (300, 200)])
def test_any_size(net: SignNet, size: tuple[int, int]) -> None:
    """Images of any size of at least one pixel give 44 finite logits."""
    with torch.no_grad():
        logits = net(torch.full((2, 3, *size), 0.5))
    assert logits.shape == (2, 44)
    assert torch.isfinite(logits).all()


def test_small_enough() -> None:
    """At most a million parameters."""
    assert count_parameters(SignNet()) < 1_000_000


def test_shrinking_is_antialiased(net: SignNet) -> None:
    """A one-pixel checkerboard shrinks to gray, not to a moire."""
    y, x = torch.meshgrid(torch.arange(320), torch.arange(320), indexing="ij")
    board = ((x + y) % 2).float().expand(1, 3, 320, 320)
    assert net.normalize(board).abs().max() < 0.1


def test_normalize_maps_the_range(net: SignNet) -> None:
    """[0, 1] becomes [-1, 1]; an image of 64 px is not resampled."""
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(net.normalize(image), image * 2 - 1)


def test_gradient_reaches_the_image(net: SignNet) -> None:
    """The gradient by finite difference is the gradient by autograd, through the resizing."""
    twin = SignNet().double().eval()
    twin.load_state_dict(net.state_dict())
    image = torch.rand(
        1, 3, 80, 72, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    image.requires_grad_(True)
    (gradient,) = torch.autograd.grad(twin(image)[0, STOP], image)
    direction = torch.randn(
        image.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    step = 1e-8  # small enough that next to no ReLU changes sides between the two
    with torch.no_grad():
        ahead, back = (
            twin(image + step * direction)[0, STOP],
            twin(image - step * direction)[0, STOP],
        )
    assert float((ahead - back) / (2 * step)) == pytest.approx(
        float((gradient * direction).sum()), rel=1e-4
    )


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 0, 5)])
def test_wrong_shapes_are_refused(net: SignNet, shape: tuple[int, ...]) -> None:
    """Gray, unbatched or empty images raise ModelError naming the shape."""
    with pytest.raises(ModelError, match="is needed"):
        net(torch.zeros(shape))


def test_names() -> None:
    """44 names, none twice, stop and background where everybody expects them."""
    assert len(set(NAMES)) == 44
    assert NAMES[STOP] == "stop"
    assert NAMES[BACKGROUND] == "background"


NAMED = pytest.mark.parametrize("name", EMBEDDED)


@NAMED
def test_card_belongs_to_the_weights(name: str) -> None:
    """The card's name, sha256 and classes are those of the file beside it, which stays under 4
    MB."""
    card = tomllib.loads((WEIGHTS / f"{name}.toml").read_text())
    assert card["name"] == name
    assert card["sha256"] == sha256_of(WEIGHTS / f"{name}.safetensors")
    assert tuple(card["classes"]) == NAMES
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size < 4_000_000


@NAMED
def test_embedded_model_knows_the_drawn_sign(name: str) -> None:
    """The stop face drawn by code is stop on any plain background, near or far, and the background
    alone is not."""
    model = load_model(name)
    face = to_tensor(sign_face("stop", 256).rgba)
    for gray in (0.1, 0.5, 0.9):
        scene = torch.full((3, 320, 320), gray)
        empty = scene[None].clone()
        scene[:, 32:288, 32:288] = face[:3] * face[3:] + scene[:, 32:288, 32:288] * (1 - face[3:])
        far = torch.nn.functional.interpolate(
            scene[None], size=(32, 32), mode="bilinear", antialias=True
        )
        assert int(model(scene[None]).argmax()) == STOP
        assert int(model(far).argmax()) == STOP
        assert int(model(empty).argmax()) == BACKGROUND
