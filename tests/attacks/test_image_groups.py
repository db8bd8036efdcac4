"""Gradients of a few images at a time: the same numbers, taken where they come faster."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from physadv.attacks import _fused_model
from physadv.attacks._classifier_step import loss_and_gradient
from physadv.attacks._fused_model import FusedModel, fuse_model, gradient_model_for
from physadv.attacks._guarded_model import guarded
from physadv.attacks._image_groups import (
    fastest_group,
    group_sizes,
    split_name,
    timing_gradients,
)
from physadv.attacks.auto_pgd import apgd
from physadv.threat.losses import objective_by_name

pytestmark = pytest.mark.usefixtures("cache")


class Watched(nn.Module):
    """A small net that counts the images of its largest batch, and of all."""

    largest, total = 0, 0

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(144, 3)

    def forward(self, x: Tensor) -> Tensor:
        Watched.largest, Watched.total = max(Watched.largest, len(x)), Watched.total + len(x)
        logits: Tensor = self.head(self.body(x))
        return logits


def net_of() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Watched().eval()


def images_of(count: int) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def divided(net: nn.Module, images: Tensor, size: int) -> FusedModel:
    copy = fuse_model(guarded(net), images)
    assert isinstance(copy, FusedModel)
    copy.at_once = size
    return copy


@pytest.mark.parametrize("count", [1, 3, 4, 9, 16])
def test_groups_have_the_gradients_of_the_whole_batch(count: int) -> None:
    """For whole groups, an odd last one, and a batch smaller than a group; none is larger."""
    net, images = net_of(), images_of(count)
    goal = objective_by_name("margin", net(images).argmax(1))
    whole = loss_and_gradient(divided(net, images, 0), images, goal)
    copy = divided(net, images, 4)
    Watched.largest, Watched.total = 0, 0
    for one, other in zip(loss_and_gradient(copy, images, goal), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert Watched.largest == min(4, count)
    assert Watched.total == count


def test_an_attack_in_groups_has_the_same_result() -> None:
    """Success, images and queries are those of the whole batch."""
    net, images = net_of(), images_of(11)
    labels = net(images).argmax(1)
    results = [
        apgd(net, images, labels, eps=0.05, steps=20, speed=divided(net, images, size))
        for size in (0, 4)
    ]
    assert torch.equal(results[0].success, results[1].success)
    assert torch.equal(results[0].queries, results[1].queries)  # type: ignore[arg-type]
    torch.testing.assert_close(results[0].images, results[1].images, rtol=0, atol=1e-3)


def test_gradients_of_zero_are_noted_for_the_whole_batch() -> None:
    """What an attack says of useless gradients counts every image, not those of one group."""
    net, images = net_of(), images_of(10)
    guard = guarded(net)
    copy = fuse_model(guard, images)
    assert isinstance(copy, FusedModel)
    copy.at_once = 4
    loss_and_gradient(copy, images, objective_by_name("margin", net(images).argmax(1)))
    assert guard.observations.gradients is not None
    assert guard.observations.gradients.shape == (10,)


def test_the_fastest_size_is_kept_under_a_name_that_says_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A later run takes it without timing, once it agrees; a batch of another size is timed for
    itself."""
    asked: list[int] = []

    def timed(whole: object, grouped: object, images: Tensor) -> int:
        asked.append(len(images))
        return 4

    monkeypatch.setattr(_fused_model, "fastest_group", timed)
    for earlier in (False, True):
        guard = guarded(net_of())
        copy = gradient_model_for(guard, "auto", images_of(20))
        assert isinstance(copy, FusedModel)
        assert (copy.at_once, copy.exact.at_once) == (4, 4)
        assert split_name(str(guard.fastest))[1] == 4
        assert str(copy).endswith("4 images at a time")
        assert guard.chosen_earlier == earlier
        again = gradient_model_for(guard, "auto", images_of(3))
        assert isinstance(again, FusedModel)
        assert again.at_once == 4
    assert asked == [20]
    gradient_model_for(guarded(net_of()), "auto", images_of(70))
    assert asked == [20, 70]


def test_a_net_that_reads_its_whole_batch_is_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where groups give other numbers they are not taken, whatever the clock says."""

    class OfBatch(Watched):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x.mean(0) * (len(x) > 4))

    monkeypatch.setattr(_fused_model, "fastest_group", lambda *_: 4)
    guard = guarded(OfBatch().eval())
    copy = gradient_model_for(guard, "timed", images_of(20))
    assert getattr(copy, "at_once", 0) == 0
    assert "at a time" not in str(guard.fastest)


def test_groups_are_taken_where_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time of an image; not for a tenth or less, and not where a batch fails."""
    seconds = {64: 64.0, 4: 3.0, 16: 14.0}
    monkeypatch.setattr(
        "physadv.attacks._image_groups._seconds",
        lambda gradient, groups: sum(seconds[len(group)] for group in groups),
    )
    images = images_of(64)
    assert fastest_group(len, len, images) == 4
    seconds[4] = 3.8
    assert fastest_group(len, len, images) == 16
    seconds[16] = 15.0
    assert fastest_group(len, len, images) == 0
    monkeypatch.undo()

    def full(_: Tensor) -> None:
        raise MemoryError

    assert fastest_group(full, len, images) == 0


def test_groups_are_for_batches_of_a_cpu() -> None:
    """Small batches have none, nor have those of a GPU, which takes all at once."""
    assert [group_sizes(images_of(n)) for n in (8, 16, 64)] == [(), (4,), (4, 16)]
    assert group_sizes(torch.empty(64, 3, 8, 8, device="meta")) == ()
    assert timing_gradients(images_of(8)) == 0
    assert split_name("fold, 5 at a time") == ("fold, 5 at a time", 0)
