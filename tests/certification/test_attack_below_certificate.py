"""Attack <= certificate everywhere: what is certified is never broken, by any certified method
there is here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from physadv.attacks._classifier_step import Classifier
from physadv.attacks.gradient import pgd
from physadv.attacks.obfuscated import expectation_model
from physadv.certification.bounds.verify import METHODS, prepare_graph, verify_bounds
from physadv.certification.patch.masking import DerandomizedSmoothing, PatchCleanser
from physadv.certification.patch.patchguard import RobustMasking
from physadv.certification.smoothing.certify import ABSTAIN, certify_image, predict_smoothed
from physadv.certification.smoothing.noise import (
    GaussianNoise,
    LaplaceNoise,
    SmoothingNoise,
    UniformNoise,
)
from physadv.defenses.registry import CertifiedDefense
from physadv.training.loop import seed_all

SIDE, CLASSES = 8, 3


def waves(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three classes that a small net learns in a moment: bright on the left, on the right, or
    nowhere."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    x = 0.5 + 0.08 * torch.randn(n, 1, SIDE, SIDE, generator=draw)
    x[labels == 0, :, :, : SIDE // 2] += 0.25
    x[labels == 1, :, :, SIDE // 2 :] += 0.25
    return x.clamp(0, 1), labels


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, 1, 1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 16),
        nn.ReLU(),
        nn.Linear(16, CLASSES),
    )


class Residual(nn.Module):
    """A net with a shortcut, a norm and a global pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, 1, 1), nn.Conv2d(6, 6, 3, 1, 1)
        self.norm, self.last = nn.BatchNorm2d(6), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        y = (self.norm(self.second(y)) + y).relu()
        logits: Tensor = self.last(nn.functional.adaptive_avg_pool2d(y, 2).flatten(1))
        return logits


def trained(
    build: Callable[[], nn.Module],
    see: Callable[[Tensor, torch.Generator], Tensor],
    steps: int = 60,
) -> nn.Module:
    """A net trained on ``see`` of the waves."""
    net = seed_all(build, 2)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    draw = torch.Generator().manual_seed(0)
    x, y = waves(180, 0)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(see(x, draw)), y).backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("build", [plain, Residual])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bounds(build: Callable[[], nn.Module], norm: str) -> None:
    """At every radius and for every method: PGD breaks no certified image, and does break others at
    larger radii."""
    net = trained(build, lambda x, draw: x)
    x, y = waves(30, 5)
    graph = prepare_graph(net, (1, SIDE, SIDE))
    certified, broken = 0, 0
    for eps in (0.005, 0.02, 0.06, 0.15):
        radius = eps if norm == "linf" else 5 * eps
        hit = pgd(net, x, y, eps=radius, norm=norm, steps=20, restarts=2).success
        broken += int(hit.sum())
        for method in METHODS:
            sure = verify_bounds(graph, x, y, eps=radius, norm=norm, method=method).certified
            assert not (hit & sure).any(), (method, radius)
            certified += int(sure.sum())
    assert certified > 0
    assert broken > 0


class Noisy(nn.Module):
    """The model under fresh noise from the global generator: what an attack on a smoothed
    classifier climbs."""

    def __init__(self, net: Classifier, noise: SmoothingNoise) -> None:
        super().__init__()
        self.net, self.noise = net, noise

    def forward(self, x: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        return self.net(x + self.noise.draw(tuple(x.shape), draw))


@pytest.mark.parametrize(
    ("noise", "norm"),
    [
        (GaussianNoise(0.25), "l2"),
        (GaussianNoise(0.25), "linf"),
        (LaplaceNoise(0.2), "l1"),
        (UniformNoise(0.4), "l1"),
    ],
)
def test_smoothing(noise: SmoothingNoise, norm: str) -> None:
    """At an image's own certified radius the attack in expectation never moves the smoothed verdict
    elsewhere."""
    net = trained(plain, lambda x, draw: x + noise.draw(tuple(x.shape), draw))
    x, y = waves(6, 5)
    moved, sure = 0, 0
    for i in range(len(x)):
        found = certify_image(
            net, x[i : i + 1], noise, norm=norm, n=2000, alpha=0.001, index=i, batch=1024
        )
        for scale in (0.999, 8.0):
            radius = max(found.radius, 0.01) * scale
            hit = pgd(
                expectation_model(Noisy(net, noise), draws=8),
                x[i : i + 1],
                y[i : i + 1],
                norm=norm,
                eps=min(radius, 1.0) if norm == "linf" else radius,
                steps=15,
                random_start=False,
                speed="plain",
                drop_broken=False,
                keep="loss",
            )
            after = predict_smoothed(net, hit.images, noise, n=1000, index=i, batch=1024)
            if scale < 1 and found.predicted != ABSTAIN:
                assert after in (found.predicted, ABSTAIN)
                sure += 1
            moved += after not in (found.predicted, ABSTAIN) and scale > 1
    assert sure >= 3
    assert moved >= 1  # the attack is one: beyond the radius it succeeds


def masked(x: Tensor, draw: torch.Generator) -> Tensor:
    """A 4 x 4 square grayed."""
    seen = x.clone()
    top, left = (int(torch.randint(0, SIDE - 3, (), generator=draw)) for _ in range(2))
    seen[..., top : top + 4, left : left + 4] = 0.5
    return seen


def patch_defenses() -> list[tuple[str, nn.Module]]:
    cleanser = PatchCleanser(trained(plain, masked), patch=2, masks=3)
    bands = DerandomizedSmoothing(Bright(), size=2, patch=1, fill=0.0)
    blocks = DerandomizedSmoothing(Bright(), size=3, kind="block", stride=2, patch=1, fill=0.0)
    guard = RobustMasking(
        DerandomizedSmoothing(Bright(), size=2, kind="block", stride=2, patch=2, fill=0.0)
    )
    return [("cleanser", cleanser), ("bands", bands), ("blocks", blocks), ("guard", guard)]


class Bright(nn.Module):
    """Bright, dark or in between, by the pixels that are not black: a verdict from any part of an
    image."""

    def forward(self, x: Tensor) -> Tensor:
        seen = (x > 0).to(x)
        bright = x.sum((1, 2, 3)) / seen.sum((1, 2, 3)).clamp_min(1)
        return 30 * torch.stack([bright - 0.6, 0.4 - bright, torch.zeros_like(bright)], 1)


@pytest.mark.parametrize("number", range(4))
def test_patch_certificates(number: int) -> None:
    """Signed steps within any window of the certified size, through the defense, never change a
    certified verdict."""
    name, defense = patch_defenses()[number]
    assert isinstance(defense, CertifiedDefense)
    x, _ = waves(12, 5)
    if name != "cleanser":
        x = (x + 0.25).clamp(0, 1)
    verdicts = defense(x).argmax(1)
    sure = defense.certify(x, verdicts)
    changed = {
        size: _ever_changed(defense, x, verdicts, size) for size in (defense.patch[0], SIDE - 1)
    }
    assert not (changed[defense.patch[0]] & sure).any()
    assert sure.any()
    assert changed[SIDE - 1].any()  # the attack is one: with a large patch it succeeds


def _ever_changed(defense: nn.Module, x: Tensor, verdicts: Tensor, size: int) -> Tensor:
    """(b,) bool: random content and six signed steps changed the verdict at one of the places of a
    square."""
    draw = torch.Generator().manual_seed(1)
    places = [(top, left) for top in range(SIDE - size + 1) for left in range(SIDE - size + 1)]
    area = torch.zeros(len(places), *x.shape[1:])
    for k, (top, left) in enumerate(places):
        area[k, :, top : top + size, left : left + size] = 1
    area = area.repeat(len(x), 1, 1, 1)
    whole, wanted = (t.repeat_interleave(len(places), 0) for t in (x, verdicts))
    moved = torch.where(area > 0, torch.rand(whole.shape, generator=draw), whole)
    changed = torch.zeros(len(moved), dtype=torch.bool)
    for _ in range(7):
        moved = moved.detach().requires_grad_(True)
        logits = defense(moved)
        changed |= logits.argmax(1) != wanted
        (slope,) = torch.autograd.grad(logits.gather(1, wanted[:, None]).sum(), moved)
        moved = (moved.detach() - 0.2 * slope.sign() * area).clamp(0, 1)
    return changed.view(len(x), -1).any(1)
