"""Masked training: the shares it is set to, rectangles of the sizes given, and certificates that
it earns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from physadv.certification.patch.masking import DerandomizedSmoothing, PatchCleanser
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.training.loop import TrainingSchedule, seed_all, train_model
from physadv.training.methods.base import TrainingPosition
from physadv.training.methods.by_name import method_by_name
from physadv.training.methods.occlusion import OcclusionTraining, cover_rectangles

SIDE = 16


class Plain(nn.Module):
    """Keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x.mean((2, 3))


def test_rectangles_have_the_sizes_asked_for_and_lie_anywhere() -> None:
    """Both sides within the range, wholly inside, and every pixel is met by some; squares are
    square."""
    shown = cover_rectangles(2000, 20, 40, (0.2, 0.5), generator(0, "r"))[:, 0]
    tall, wide = shown.any(2).sum(1), shown.any(1).sum(1)
    assert int(tall.min()) == 4
    assert int(tall.max()) == 10
    assert int(wide.min()) == 8
    assert int(wide.max()) == 20
    assert torch.equal(shown.sum((1, 2)), tall * wide)
    assert shown.any(0).all()
    square = cover_rectangles(200, 20, 20, (0.1, 0.5), generator(0, "s"), square=True)[:, 0]
    assert torch.equal(square.any(2).sum(1), square.any(1).sum(1))


def test_the_shares_are_those_asked_for() -> None:
    """Whole, reduced to a band or square, and behind two rectangles; what is shown is the image's
    own."""
    images = torch.rand(3000, 3, SIDE, SIDE, generator=generator(0, "i")) * 0.4
    defense = OcclusionTraining(
        plain=0.3, kept=0.5, covers=(0.25, 0.25), windows=(0.25, 0.25), bands=0.5
    )
    seen = defense.hide(images, generator(0, "h"))
    hidden = (seen == 0.5).all(1)
    assert torch.equal(torch.where(hidden[:, None], images, seen), images)
    area = hidden.sum((1, 2))
    band, square, two = SIDE * 12, SIDE**2 - 16, (area > 0) & (area <= 32)
    shares = [float(m.float().mean()) for m in (area == 0, area == band, area == square, two)]
    assert shares == pytest.approx([0.3, 0.25, 0.25, 0.2], abs=0.03)
    assert sum(shares) == pytest.approx(1)


def test_draws_and_settings_reach_the_loss() -> None:
    """Each image is shown in so many ways; plain alone is the plain loss; the defense is known by
    name."""
    net, images = Plain(), torch.rand(4, 3, SIDE, SIDE, generator=generator(0, "i"))
    labels = torch.arange(4) % 3
    loss, _ = OcclusionTraining(plain=1.0, kept=0.0, draws=3).loss(
        net, images, labels, TrainingPosition(0, 1, generator(0, "d"))
    )
    assert net.seen.shape[0] == 12
    assert float(loss) == pytest.approx(
        float(nn.functional.cross_entropy(images.mean((2, 3)), labels))
    )
    made = method_by_name("masked", {"plain": 0.1, "kept": 0.3, "eps": 0.1, "norm": "linf"})
    assert isinstance(made, OcclusionTraining)
    assert (made.plain, made.kept) == (0.1, 0.3)


@pytest.mark.parametrize(
    "settings",
    [
        {"plain": 1.2},
        {"plain": 0.6, "kept": 0.5},
        {"kept": -0.1},
        {"covers": (0.5, 0.2)},
        {"covers": (0.0, 0.2)},
        {"windows": (0.2, 1.1)},
        {"bands": 2.0},
        {"fill": -1.0},
        {"draws": 0},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    """Shares beyond one whole, sides that are none, and no draws."""
    with pytest.raises(OptionError):
        method_by_name("masked", settings)


def striped(count: int, *path: str) -> tuple[Tensor, Tensor]:
    """Two classes that differ by a spot in the middle, bright or dark, and by faint stripes all
    over,
    across or down."""
    draw = generator(0, *path)
    labels = torch.randint(0, 2, (count,), generator=draw)
    stripes = 0.1 * (torch.arange(SIDE) % 4 < 2).float() - 0.05
    images = 0.4 + 0.2 * torch.rand(count, 1, SIDE, SIDE, generator=draw)
    for image, label in zip(images, labels, strict=True):
        image += stripes[:, None] if label else stripes[None, :]
        image[..., 6:10, 6:10] = float(label)
    return images, labels


class Small(nn.Sequential):
    """A few convolutions and a map that keeps places apart."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 2),
        )


def trained(defense: OcclusionTraining | None) -> nn.Module:
    net = seed_all(Small, 0)
    schedule = TrainingSchedule(4, 60, lr=5e-3, precision="fp32", average=0.9)
    *_, last = train_model(
        net, lambda n: striped(64, "train", str(n)), schedule, defense=defense, seed=0
    )
    return last.average


def test_training_earns_certificates() -> None:
    """Double masking and votes on windows certify nearly all of the toy after it, and much less
    after plain training; the same seed gives the same weights.
    """
    defense = OcclusionTraining(covers=(0.3, 0.45), windows=(0.3, 0.4))
    masked, plain = trained(defense), trained(None)
    again = trained(defense)
    assert all(
        torch.equal(a, b)
        for a, b in zip(masked.state_dict().values(), again.state_dict().values(), strict=True)
    )
    images, labels = striped(60, "held")
    shares = {}
    for name, net in (("masked", masked), ("plain", plain)):
        cleanser = PatchCleanser(net, patch=3, masks=3).certify(images, labels).float().mean()
        votes = (
            DerandomizedSmoothing(net, size=6, kind="block", stride=2, patch=2)
            .certify(images, labels)
            .float()
            .mean()
        )
        shares[name] = float(cleanser), float(votes)
    assert min(shares["masked"]) > 0.9
    assert min(shares["plain"]) < min(shares["masked"]) - 0.3
