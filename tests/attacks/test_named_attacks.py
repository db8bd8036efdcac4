"""Every attack by its name: any model, any container, any spelling, nothing of the caller's
changed."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from physadv import attacks
from physadv.core.errors import OptionError

OPTIONS: dict[str, dict[str, Any]] = {
    "alma": {"steps": 20},
    "apgd": {"eps": 0.05, "steps": 5},
    "cw_l2": {"steps": 10},
    "ddn": {"steps": 10},
    "deepfool": {"steps": 10},
    "superdeepfool": {"steps": 10},
    "fab": {"steps": 10},
    "fgsm": {"eps": 0.05},
    "fmn": {"steps": 10},
    "geoda": {"eps": 1.0, "queries": 60},
    "gradient_ascent": {"eps": 0.5, "steps": 5},
    "hopskipjump": {"eps": 1.0, "queries": 60},
    "mi_fgsm": {"eps": 0.05, "steps": 5},
    "pgd": {"eps": 0.05, "steps": 5},
    "pointwise": {"pixels": 3, "queries": 60},
    "rays": {"eps": 0.2, "queries": 60},
    "saliency_attack": {"pixels": 3},
    "sigma_zero": {"steps": 20},
    "sparse_search": {"pixels": 3, "queries": 40},
    "square_attack": {"eps": 0.1, "queries": 40},
    "surfree": {"eps": 1.0, "queries": 60},
    "transfer_attack": {"attack": partial(attacks.fgsm, eps=0.05)},
    "universal_perturbation": {"eps": 0.05, "epochs": 2},
}


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(64, 3),
        )


def options_of(name: str, model: nn.Module) -> dict[str, Any]:
    further = {"surrogates": (model,)} if name == "transfer_attack" else {}
    return {**OPTIONS[name], **further}


def batch(model: nn.Module) -> tuple[Tensor, Tensor]:
    images = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return images, model.eval()(images).argmax(1)


def test_the_list_is_whole() -> None:
    """Each exported function with a model, images and labels has its options here."""
    named = {
        name
        for name in attacks.__all__
        if list(inspect.signature(getattr(attacks, name)).parameters)[:3]
        == ["model", "images", "labels"]
    }
    assert named == set(OPTIONS)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_tensors_and_arrays_give_the_same_and_nothing_changes(name: str) -> None:
    """Arrays and lists stand for tensors; modes, flags, gradients, buffers, inputs and the global
    generator are as they were."""
    model = net().train()
    images, labels = batch(model)
    model.train()
    attack, options = getattr(attacks, name), options_of(name, model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    kept, state = images.clone(), torch.random.get_rng_state()

    result = attack(model, images, labels, **options)
    again = attack(model, images.numpy(), labels.tolist(), **options)

    assert isinstance(result, attacks.AttackResult)
    assert torch.equal(result.images, again.images)
    assert result.images.shape == images.shape
    assert torch.equal(images, kept)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd", "mi_fgsm", "universal_perturbation"])
@pytest.mark.parametrize("norm", ["Linf", "l_inf", float("inf"), np.inf])
def test_norms_and_radii_have_many_spellings(name: str, norm: object) -> None:
    """Each spelling of l_inf and each of 8/255 is the same attack."""
    model = net().eval()
    images, labels = batch(model)
    options = {key: value for key, value in OPTIONS[name].items() if key != "eps"}
    attack = getattr(attacks, name)
    plain = attack(model, images, labels, eps=8 / 255, norm="linf", **options)
    spelled = attack(model, images, labels, eps="8/255", norm=norm, **options)
    assert torch.equal(plain.images, spelled.images)


def test_a_model_may_be_named() -> None:
    """A name of the registry is loaded; an unknown one is one of our errors."""
    images = np.full((1, 3, 64, 64), 0.5, np.float32)
    result = attacks.fgsm("signs", images, [0], eps=0.01)
    assert result.images.shape == (1, 3, 64, 64)
    with pytest.raises(OptionError):
        attacks.fgsm(net(), torch.rand(1, 3, 6, 6), [0], eps=0.1, norm="l7")
