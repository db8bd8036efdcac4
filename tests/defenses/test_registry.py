"""Defenses by name: one way for every command, cards that say so, certificates that are found
again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from physadv.attacks.gradient import pgd
from physadv.core.errors import ModelError, OptionError
from physadv.core.types import Detections
from physadv.defenses.load_model import load_model
from physadv.defenses.registry import DEFENSES, certified_defense, defend_model
from physadv.models.cards import LoadedModel
from physadv.models.load import as_model


class Boxes(torch.nn.Module):
    def forward(self, x: Tensor) -> Detections:
        return Detections(
            torch.zeros(len(x), 2, 4), x.mean((1, 2, 3)).view(-1, 1, 1).expand(-1, 2, 1)
        )


@pytest.fixture(scope="module")
def signs() -> LoadedModel:
    return load_model("signs")


def images(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def test_a_plus_puts_a_defense_before_any_model(signs: LoadedModel) -> None:
    """The name carries the defense and its settings; card and classes stay the model's, its
    accuracy does not."""
    found = load_model("signs+jpeg:quality30")
    assert found.card.name == "signs+jpeg:quality30"
    assert found.card.classes == signs.card.classes
    assert found.card.accuracy == "not measured behind this defense"
    assert not torch.equal(found(images()), signs(images()))
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())


def test_defenses_stack() -> None:
    """The last one named transforms the image first."""
    both = load_model("signs+jpeg+median:size5")
    median, jpeg = load_model("signs+median:size5").net, load_model("signs+jpeg")
    assert torch.equal(both(images()), jpeg(median.clean(images())))


@pytest.mark.parametrize("name", list(DEFENSES))
def test_every_defense_answers_and_passes_gradients(signs: LoadedModel, name: str) -> None:
    """Logits of the model's classes for images of any size, and a slope that attacks can climb."""
    found = defend_model(signs, name)
    x = images(1).requires_grad_(True)
    logits = found(x)
    assert logits.shape == (1, 44)
    (slope,) = torch.autograd.grad(logits.double().log_softmax(1)[0, 14], x)
    assert slope.isfinite().all()
    assert slope.abs().sum() > 0


def test_plain_front_ends_have_no_stand_in(signs: LoadedModel) -> None:
    """With the word "plain" JPEG has the gradient it has by itself: none. An attack then breaks
    nothing it did not."""
    x = images(3)
    labels = defend_model(signs, "jpeg")(x).argmax(1)
    masked = pgd(
        defend_model(signs, "jpeg:plain"),
        x,
        labels,
        eps=4 / 255,
        steps=5,
        random_start=False,
        speed="plain",
    )
    assert torch.equal(masked.images, x)
    assert pgd(
        defend_model(signs, "jpeg"), x, labels, eps=4 / 255, steps=5, speed="plain"
    ).success.any()


def test_the_certifying_ones_are_found(signs: LoadedModel) -> None:
    """Those with a proof say for which patch and at which size."""
    for name, patch in (
        ("patchcleanser:patch18,wide24", (18, 24)),
        ("derandomized:patch9", (9, 9)),
        ("patchguard:band,patch7", (7, 7)),
    ):
        found = certified_defense(defend_model(signs, name))
        assert found is not None
        defense, resizing = found
        assert defense.patch == patch
        assert resizing.size == (64, 64)
    assert certified_defense(defend_model(signs, "jpeg")) is None


def test_a_detector_takes_front_ends_only() -> None:
    """Certified defenses need logits; input transforms pass detections through."""
    detector = as_model(Boxes(), task="detect", name="boxes")
    assert isinstance(defend_model(detector, "median")(images()), Detections)
    with pytest.raises(ModelError):
        defend_model(detector, "patchcleanser")


@pytest.mark.parametrize(
    "name",
    [
        "signs+magic",
        "signs+jpeg:quality",
        "signs+jpeg:size3",
        "signs+median:size4",
        "signs+jpeg:50",
    ],
)
def test_unknown_names_and_settings_are_refused(name: str) -> None:
    """One error that lists what is known."""
    with pytest.raises(OptionError):
        load_model(name)


def test_an_unknown_model_behind_a_defense_is_refused() -> None:
    """The model's own error comes first."""
    with pytest.raises(ModelError):
        load_model("nosuch+jpeg")


def test_the_former_spelling_of_a_defense_still_works() -> None:
    """Cards and rows of earlier versions name ``derandomised``; it is the same defense."""
    images = torch.rand(2, 3, 64, 64)
    former, current = (
        load_model(f"signs+{name}:size20,stride8") for name in ("derandomised", "derandomized")
    )
    assert torch.equal(former(images), current(images))
    assert former.card.name == "signs+derandomised:size20,stride8"
