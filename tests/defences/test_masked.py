"""The gallery: what hides a gradient changes no verdict, and the adaptive attack sees through it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from physadv.core.errors import OptionError
from physadv.defences import hiding
from physadv.defences.masked import Masked, gallery, textbook_pgd, unmask
from physadv.training.loop import seeded

EPS, SIDE, CLASSES = 0.06, 12, 3
NAMES = (
    "one-hot output", "saturated softmax", "thermometer code", "very deep purifier", "Fourier sparsification",
    "random resizing", "matrix completion", "generative classifier", "k winners take all",
)  # fmt: skip
BLINDING = ("one-hot output", "saturated softmax", "thermometer code", "matrix completion")
"""Those whose gradient is exactly zero for the textbook attack."""


def data(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three kinds of slow waves in noise."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    line = torch.arange(SIDE) / SIDE * 6.28
    waves = torch.stack(
        [line.sin().expand(SIDE, SIDE), line.cos()[:, None].expand(SIDE, SIDE), torch.zeros(SIDE, SIDE)]
    )
    x = 0.5 + 0.08 * waves[labels][:, None] + 0.03 * torch.randn(n, 3, SIDE, SIDE, generator=draw)
    return x.clamp(0, 1), labels


@pytest.fixture(scope="module")
def victim() -> nn.Module:
    """A small net trained for a moment on the waves."""
    layers = nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(288, CLASSES)
    net = seeded(lambda: nn.Sequential(*layers), 1)
    x, y = data(240, 0)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def shown(victim: nn.Module) -> dict[str, Masked]:
    return {m.name: m for m in gallery(victim, *data(240, 0), classes=CLASSES)}


def test_the_gallery_is_complete(shown: dict[str, Masked]) -> None:
    """Every defence is there once, with its paper and its remedy."""
    assert set(shown) == set(NAMES)
    assert all(m.paper and m.hides and m.remedy for m in shown.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_adaptive_attack_sees_through_it(shown: dict[str, Masked], name: str) -> None:
    """Clean accuracy is high; the adaptive attack leaves almost nothing, whatever the textbook attack leaves."""
    found = unmask(shown[name], *data(24, 5), eps=EPS)
    assert found.clean.rate >= 0.6  # k winners without training cost accuracy; the others do not
    assert found.adaptive.rate <= 0.15
    assert found.adaptive.rate <= found.plain.rate
    if name in BLINDING:
        assert found.plain.rate == found.clean.rate


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("random resizing", "matrix completion")])
def test_the_counterpart_has_the_same_verdicts(shown: dict[str, Masked], name: str) -> None:
    """What the adaptive attack climbs is the same classifier, on clean and on noisy images."""
    x, _ = data(30, 7)
    noisy = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    for images in (x, noisy):
        assert torch.equal(shown[name].defended(images).argmax(1), shown[name].adaptive(images).argmax(1))


def test_the_undefended_victim_falls_to_the_textbook_attack(victim: nn.Module) -> None:
    """At this eps there was never robustness to begin with."""
    x, y = data(24, 5)
    assert (victim(textbook_pgd(victim, x, y, eps=EPS, steps=20)).argmax(1) != y).float().mean() > 0.85


def test_the_global_generator_stays(shown: dict[str, Masked]) -> None:
    """Random defences are attacked and judged without moving the caller's generator, and repeat."""
    before = torch.random.get_rng_state()
    first = unmask(shown["random resizing"], *data(6, 5), eps=EPS, steps=3)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    assert unmask(shown["random resizing"], *data(6, 5), eps=EPS, steps=3) == first


def test_parts_do_what_they_say() -> None:
    """Codes have as many levels as asked for; sparsity and winners leave the share they name; stairs end on steps."""
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert set((hiding.thermometer(x, 4) * 4).unique().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    stairs = hiding.staircase(x, 4, 200) * 4
    assert (stairs - stairs.round()).abs().median() < 1e-3
    sparse = torch.fft.rfft2(hiding.sparse_fourier(0.5 + 0.1 * (x - 0.5), 0.1))
    assert (sparse.abs() > 1e-3).float().mean() < 0.12
    assert (hiding.KWinners(0.25, adaptive=False)(x) != 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    torch.manual_seed(0)
    assert hiding.random_resize(x).shape == hiding.completed(x).shape == x.shape


def test_bad_settings_are_refused() -> None:
    """A share of nothing, a net without ReLU and a class without images are errors."""
    with pytest.raises(OptionError):
        hiding.KWinners(0.0, adaptive=False)
    with pytest.raises(OptionError):
        hiding.with_winners(nn.Linear(2, 2), 0.2, adaptive=False)
    with pytest.raises(OptionError):
        hiding.Gaussians(torch.rand(4, 3, 2, 2), torch.zeros(4, dtype=torch.long), classes=2)
