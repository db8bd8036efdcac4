"""Score-based black box: the Square attack, and gradients estimated from scores alone.

All samples of a batch see the same sequence of proposals, so a sample's result does not depend on
its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from physadv.attacks._classifier_step import check_batch, frozen_eval
from physadv.attacks._inputs import open_inputs
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.threat.losses import Objective, margin_loss
from physadv.threat.norms import linf_bounds, project_l2

Scores = Callable[[Tensor], Tensor]
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@open_inputs
def square_attack(
    model: Scores,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: str = "linf",
    queries: int = 5000,
    share: float = 0.8,
    targets: Tensor | None = None,
    seed: int = 0,
) -> AttackResult:
    """Attack by random search over square windows, from scores alone (Andriushchenko et al. 2020).

    Windows are kept where they lower the margin. Samples that are broken are not queried again.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        eps: Radius of the ball, at least 0, in units of [0, 1].
        norm: "linf" or "l2".
        queries: Largest number of forward passes a sample, one more for the clean image.
        share: Share of the pixels that the first windows cover, in (0, 1].
        targets: Target classes (b,) for a targeted attack.
        seed: Seed of every random choice.

    Returns:
        The best images with success, margin and query counts.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: The norm is l1, or another option is out of range.

    Example:
        >>> import torch
        >>> from physadv.attacks import square_attack
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
        >>> result = square_attack(net, images, labels, eps=0.1, queries=50)
        >>> bool((result.queries <= 51).all())
        True
    """
    if norm not in ("linf", "l2"):
        raise OptionError(
            f"norm {norm}", "the Square attack knows linf and l2", "choose one of these"
        )
    if eps < 0 or queries < 1:
        raise OptionError(
            f"eps {eps}, queries {queries}", "eps >= 0 and queries >= 1", "check both"
        )
    check_batch(images, labels, targets)
    images = images.detach()
    with frozen_eval(model), torch.no_grad():
        propose = (_linf_proposals if norm == "linf" else _l2_proposals)(
            images, eps, queries, share, seed
        )
        return _search(model, images, Objective(margin_loss, labels, targets), propose, queries)


Proposal = Callable[[Tensor, Tensor], Tensor]
"""From the images and the best points so far (both of the samples still searched) to the next
points to try."""


def _search(
    model: Scores, images: Tensor, wanted: Objective, proposals: Iterator[Proposal], queries: int
) -> AttackResult:
    """Keep each proposal that lowers the margin; only samples not yet won are asked about."""
    best, used = images.clone(), torch.ones(len(images), dtype=torch.long)
    loss = wanted(model(images))
    alive = (loss >= 0).nonzero()[:, 0]
    clean, now, wanted_now = images[alive], images[alive], wanted.pick(alive)
    loss_now = torch.full_like(loss[alive], torch.inf)
    for propose, _ in zip(proposals, range(queries), strict=False):
        if not len(alive):
            break
        trial = propose(clean, now)
        score = wanted_now(model(trial))
        better = score < loss_now
        now = torch.where(better.view(-1, 1, 1, 1), trial, now)
        loss_now = torch.where(better, score, loss_now)
        used[alive.to(used.device)] += 1
        is_adversarial = loss_now < 0
        if is_adversarial.any():
            best[alive[is_adversarial]], loss[alive[is_adversarial]] = (
                now[is_adversarial],
                loss_now[is_adversarial],
            )
            keep = ~is_adversarial
            alive, clean, now, loss_now = alive[keep], clean[keep], now[keep], loss_now[keep]
            wanted_now = wanted.pick(alive)
    lower = loss_now < loss[alive]
    best[alive[lower]], loss[alive[lower]] = now[lower], loss_now[lower]
    return AttackResult(images=best, success=loss < 0, loss=loss, queries=used)


def _side(step: int, queries: int, share: float, height: int, width: int) -> int:
    """The window's side at a step: the covered share halves on the paper's schedule, stretched to
    ``queries``."""
    scaled = step * 10_000 // queries
    halved = sum(scaled > mark for mark in _HALVINGS)
    side = round((share / 2**halved * height * width) ** 0.5)
    return int(max(1, min(side, min(height, width) - 1)))


def _sign(shape: tuple[int, ...], source: torch.Generator, like: Tensor) -> Tensor:
    return (torch.randint(0, 2, shape, generator=source) * 2 - 1).to(like)


def _at(limit: int, source: torch.Generator) -> int:
    return int(torch.randint(0, limit + 1, (), generator=source))


def _linf_proposals(
    images: Tensor, eps: float, queries: int, share: float, seed: int
) -> Iterator[Proposal]:
    """Vertical stripes of +-eps first, then square windows of +-eps, one sign a channel."""
    source = generator(seed, "square", "linf")
    _, channels, height, width = images.shape
    stripes = _sign((1, channels, 1, width), source, images) > 0

    def edge(clean: Tensor, up: Tensor) -> Tensor:
        low, high = linf_bounds(clean, eps)
        return torch.where(up, high, low)

    yield lambda clean, _: edge(clean, stripes)
    for step in range(1, queries):
        side = _side(step, queries, share, height, width)
        top, left = _at(height - side, source), _at(width - side, source)
        area = (slice(None), slice(None), slice(top, top + side), slice(left, left + side))
        up = _sign((1, channels, 1, 1), source, images) > 0

        def window(
            clean: Tensor, now: Tensor, area: tuple[slice, ...] = area, up: Tensor = up
        ) -> Tensor:
            trial = now.clone()
            trial[area] = edge(clean[area], up)
            return trial

        yield window


def _bump(side: int, like: Tensor) -> Tensor:
    """Concentric rectangles of falling weight, (side, side), unit norm: the paper's shape for one
    half of a window."""
    plane = like.new_zeros(side, side)
    rows = max(1, side // 2)
    for ring in range(rows):
        plane[ring : side - ring, ring : side - ring] += 1.0 / (rows - ring) ** 2
    return _unit(plane)


def _unit(plane: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(plane)
    return plane / length.clamp_min(1e-12)


def _dipole(side: int, source: torch.Generator, like: Tensor) -> Tensor:
    """Two bumps of opposite sign side by side, (side, side), unit norm, lying or standing at
    random."""
    half = max(1, side // 2)
    plane = like.new_zeros(side, side)
    first, second = _bump(side, like), _bump(side, like)
    plane[:half] += nn.functional.interpolate(first[None, None], (half, side), mode="area")[0, 0]
    if side > half:
        plane[half:] -= nn.functional.interpolate(
            second[None, None], (side - half, side), mode="area"
        )[0, 0]
    plane = _unit(plane)
    return plane.T if _at(1, source) else plane


def _within(clean: Tensor, delta: Tensor, eps: float) -> Tensor:
    """``clean`` plus ``delta`` scaled onto the l_2 sphere, then clipped to [0, 1], which only
    shortens it."""
    length = torch.linalg.vector_norm(delta.flatten(1), dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    # the factor keeps float32 rounding from ending a hair outside; shorter floats round too
    # coarsely for that
    point = (clean + delta * (eps * (1 - 1e-6) / length)).clamp(0, 1)
    return point if torch.finfo(point.dtype).bits >= 32 else project_l2(point, clean, eps)


def _l2_proposals(
    images: Tensor, eps: float, queries: int, share: float, seed: int
) -> Iterator[Proposal]:
    """A grid of dipoles first; then one window takes the norm of another window, as the paper moves
    mass about."""
    source = generator(seed, "square", "l2")
    _, channels, height, width = images.shape
    start = images.new_zeros(1, channels, height, width)
    tile = max(1, min(height, width) // 5)
    for top in range(0, height - tile + 1, tile):
        for left in range(0, width - tile + 1, tile):
            sign = _sign((1, channels, 1, 1), source, images)
            start[:, :, top : top + tile, left : left + tile] += (
                _dipole(tile, source, images) * sign
            )
    yield lambda clean, _: _within(clean, start.expand_as(clean), eps)
    for step in range(1, queries):
        side = max(3, _side(step, queries, share, height, width))
        side = min(side + (side % 2 == 0), height - 1, width - 1)
        to = (_at(height - side, source), _at(width - side, source))
        frm = (_at(height - side, source), _at(width - side, source))
        shape = _dipole(side, source, images) * _sign((1, channels, 1, 1), source, images)

        def moved(
            clean: Tensor,
            now: Tensor,
            to: tuple[int, int] = to,
            frm: tuple[int, int] = frm,
            side: int = side,
            shape: Tensor = shape,
        ) -> Tensor:
            return _within(clean, _move(now - clean, to, frm, side, shape, eps), eps)

        yield moved


def _move(
    delta: Tensor, to: tuple[int, int], frm: tuple[int, int], side: int, shape: Tensor, eps: float
) -> Tensor:
    """Empty one window and give its norm, and whatever eps leaves unused, to the other, in the
    given shape."""
    there = (slice(None), slice(None), slice(to[0], to[0] + side), slice(to[1], to[1] + side))
    away = (slice(None), slice(None), slice(frm[0], frm[0] + side), slice(frm[1], frm[1] + side))
    both = torch.zeros_like(delta[:1, :1])
    both[there], both[away] = 1, 1
    spare = (eps**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp_min(0)
    budget = spare / delta.shape[1] + (delta * both).square().sum((2, 3), keepdim=True)
    old = delta[there]
    mixed = shape + old / old.square().sum((2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    mixed = mixed * (
        budget.sqrt() / mixed.square().sum((2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    )
    delta = delta.clone()
    delta[away] = 0
    delta[there] = mixed
    return delta


class EstimatedGradient(nn.Module):
    """Wraps a model so that its gradient is estimated from its scores alone.

    Any gradient attack becomes a black-box attack on it. Queried images stay in [0, 1]; ``queries``
    counts them, forward passes included.

    Args:
        model: Model under attack: images in [0, 1] to logits (b, classes).
        method: "nes" averages antithetic Gaussian differences (Ilyas et al. 2018, after Wierstra et
            al. 2014); "finite" takes central differences along every coordinate, 2 c h w queries.
        pairs: Pairs of differences a gradient for "nes", at least 1.
        sigma: Length of a difference, in units of [0, 1].
        seed: Seed of the directions.
        batch: Largest number of images a forward pass.

    Raises:
        OptionError: The method is unknown.

    Example:
        >>> import torch
        >>> from physadv.attacks import pgd
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> box = EstimatedGradient(net, pairs=10)
        >>> images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
        >>> pgd(box, images, labels, eps=0.1, steps=3, speed="plain").images.shape
        torch.Size([2, 3, 4, 4])
    """

    def __init__(
        self,
        model: Scores,
        *,
        method: str = "nes",
        pairs: int = 50,
        sigma: float = 0.001,
        seed: int = 0,
        batch: int = 256,
    ) -> None:
        super().__init__()
        if method not in ("nes", "finite"):
            raise OptionError(f"method {method}", "nes and finite are known", "choose one of these")
        self.model, self.method, self.pairs, self.sigma = model, method, pairs, sigma
        self.seed, self.batch, self.queries, self._calls = seed, batch, 0, 0

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (b, classes) of ``images`` by the model itself; only their gradient is
        estimated."""
        logits: Tensor = _Estimate.apply(images, self)  # type: ignore[no-untyped-call]
        return logits

    def ask(self, images: Tensor) -> Tensor:
        """Return the scores of ``images`` clipped to [0, 1], batch by batch and without
        gradient."""
        self.queries += len(images)
        with torch.no_grad():
            return torch.cat(
                [self.model(part) for part in torch.split(images.clamp(0, 1), self.batch)]
            )

    def directions(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the directions (1, c, h, w) of differences, the same for all samples of
        ``images``."""
        shape = images.shape[1:]
        if self.method == "finite":
            for index in range(shape.numel()):
                unit = torch.zeros(shape.numel(), dtype=images.dtype)
                unit[index] = 1
                yield unit.view(1, *shape).to(images.device)
            return
        source = generator(self.seed, "nes", self._calls)
        self._calls += 1
        for _ in range(self.pairs):
            yield torch.randn((1, *shape), generator=source).to(images)

    def pull_back(self, images: Tensor, weights: Tensor) -> Tensor:
        """Return an estimate of the logits' Jacobian, transposed, times ``weights``.

        Args:
            images: Images (b, c, h, w) at which the gradient is estimated.
            weights: Gradient (b, classes) with respect to the logits.

        Returns:
            The gradient with respect to the images, of their shape.
        """
        total, count = torch.zeros_like(images), 0
        for direction in self.directions(images):
            step = self.sigma * direction
            both = self.ask(torch.cat([images + step, images - step]))
            plus, minus = both.chunk(2)
            slope = ((plus - minus) * weights).sum(1) / (2 * self.sigma)
            total += slope.view(-1, 1, 1, 1) * direction
            count += 1
        return total if self.method == "finite" else total / max(1, count)


class _Estimate(torch.autograd.Function):
    """Hands the estimate to autograd in place of the victim's own gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, images: Tensor, source: EstimatedGradient) -> Tensor:
        ctx.images, ctx.source = images.detach(), source  # type: ignore[attr-defined]
        return source.ask(images.detach())

    @staticmethod
    def backward(ctx: FunctionCtx, *weights: Tensor) -> tuple[Tensor, None]:
        source: EstimatedGradient = ctx.source  # type: ignore[attr-defined]
        return source.pull_back(ctx.images, weights[0]), None  # type: ignore[attr-defined]
