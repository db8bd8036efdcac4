"""Score-based black-box attacks: the Square attack, and gradients estimated from scores alone.

All samples of a batch get the same sequence of proposals, so that a sample's result does not depend
on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from physadv.attacks._classifier_step import check_batch, frozen_eval
from physadv.attacks._inputs import open_inputs
from physadv.attacks._tried_ahead import LookAhead, Proposal, try_ahead
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.models.outputs import read_logits
from physadv.threat.criteria import Criterion, success_criterion
from physadv.threat.losses import Objective, dlr_loss, margin_loss
from physadv.threat.norms import Norm, linf_bounds, parse_norm, project_onto_ball

Scores = Callable[[Tensor], Tensor]
"""Images (b, c, h, w) in [0, 1] to scores (b, classes); no gradient is needed."""
Descent = Callable[[Tensor, Tensor], AttackResult]
"""From the numbers (k,) of samples in the batch and points (k, c, h, w) to the result of an attack
that starts at these points; its loss is the margin."""
# Steps out of 10000 after which the covered share is halved (Andriushchenko et al. 2020).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_USEFUL = 0.9
"""Share of Square's margin below which a descent from its point shows that gradients lead on."""


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
    give_up: Mapping[int, tuple[Tensor, float]] | None = None,
    descend: Descent | None = None,
    descended: Mapping[int, float] | None = None,
    ahead: int = 0,
    seed: int = 0,
) -> AttackResult:
    """Attack by random search over square windows, from scores alone (Andriushchenko et al. 2020).

    Windows are kept where they lower the margin. Samples that are broken are not queried again. In
    l_1 windows carry length as in l_2 (Croce & Hein 2021).

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        eps: Radius of the ball, at least 0, in units of [0, 1].
        norm: "linf", "l2" or "l1".
        queries: Largest number of forward passes a sample, one more for the clean image.
        share: Share of the pixels that the first windows cover, in (0, 1].
        targets: Target classes (b,) for a targeted attack.
        give_up: By a number of queries, the scale-free margin (b,) (DLR) that a sample must have
            come down to, and the share of it that must have gone since the number before; others
            are not queried any more. One query more a number.
        descend: Attack by gradients from the best points of samples, run at the numbers of
            ``give_up`` on the samples that go on, and on those left at the end. A sample that it
            breaks is done, for one query more; the search of the others goes on as without it.
        descended: By a number of ``give_up``, the scale-free margin that ``descend`` must have
            come down to; others are not queried any more, unless it brought them no nearer, so
            that it tells nothing. One query more a number.
        ahead: Number of images that a batch may have of proposals tried ahead, which saves time
            where few samples are left. The model is shown more images then than the result's
            queries, which count as one by one; 0 tries one by one.
        seed: Seed of every random choice.

    Returns:
        The best images with success, margin and query counts.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: An option is out of range.

    Example:
        >>> import torch
        >>> from physadv.attacks import square_attack
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
        >>> result = square_attack(net, images, labels, eps=0.1, queries=50)
        >>> bool((result.queries <= 51).all())
        True
    """
    kind = parse_norm(norm)
    if eps < 0 or queries < 1:
        raise OptionError(
            f"eps {eps}, queries {queries}", "eps >= 0 and queries >= 1 are needed", "Raise them"
        )
    check_batch(images, labels, targets)

    images = images.detach()
    with frozen_eval(model), torch.no_grad():
        goal = Objective(margin_loss, labels, targets)
        criterion = success_criterion(labels, targets)
        if kind == "linf":
            steps = _linf_proposals(images, eps, queries, share, seed)
        else:
            steps = _dipole_proposals(images, eps, kind, queries, share, seed)
        return _search(
            model,
            images,
            goal,
            criterion,
            steps,
            queries,
            give_up or {},
            descend,
            descended or {},
            LookAhead(min(ahead, len(images))),
        )


def _search(
    model: Scores,
    images: Tensor,
    goal: Objective,
    criterion: Criterion,
    proposals: Iterator[Proposal],
    queries: int,
    give_up: Mapping[int, tuple[Tensor, float]],
    descend: Descent | None,
    descended: Mapping[int, float],
    look_ahead: LookAhead,
) -> AttackResult:
    """Keep each proposal that lowers the margin; query only samples not yet broken or given up."""
    best = images.clone()
    used = torch.ones(len(images), dtype=torch.long, device=images.device)
    logits = model(images)
    loss, success = goal(logits), criterion(logits)
    rows, number = (~success).nonzero()[:, 0], 0
    clean, points = images[rows], images[rows]
    row_goal, row_criterion = goal.pick(rows), criterion.pick(rows)
    point_loss = torch.full_like(loss[rows], torch.inf)
    before = torch.full_like(loss, torch.inf)

    stops = sorted({n for n in give_up if n < queries} | {queries})
    while len(rows) and number < queries:
        stop = next(n for n in stops if n > number)
        tried = list(islice(proposals, look_ahead.count(len(rows), stop - number)))
        number += len(tried)
        if len(tried) == 1:
            trial = tried[0](clean, points)
            logits = model(trial)
            score, broken = row_goal(logits), row_criterion(logits)
            used[rows] += 1

            better = broken | (score < point_loss) & score.isfinite()
            if better.any():
                points = torch.where(better.view(-1, 1, 1, 1), trial, points)
                point_loss = torch.where(better, score, point_loss)
            if look_ahead.images:
                look_ahead.note(float(better.float().mean()), 1)
        else:
            after = try_ahead(model, tried, clean, points, point_loss, row_goal, row_criterion)
            points, point_loss, broken = after.images, after.loss, after.broken
            used[rows] += after.asked
            look_ahead.note(after.kept / (len(rows) * len(tried)), len(tried))

        ends = broken
        if number in give_up:
            used[rows] += 1
            near, (limit, gone) = dlr_loss(model(points), goal.labels[rows]), give_up[number]
            idle = near > (1 - gone) * before[rows]
            ends = broken | idle | (near > limit.to(near)[rows])
            before[rows] = near.to(before)
        if descend is not None and (number in give_up or number == queries) and not ends.all():
            stay = (~ends).nonzero()[:, 0]
            found = descend(rows[stay], points[stay])
            if found.queries is not None:
                used[rows[stay]] += found.queries.to(used)
            if number in descended:
                used[rows[stay]] += 1
                reached = dlr_loss(model(found.images), goal.labels[rows[stay]])
                useful = reached < _USEFUL * before[rows[stay]].to(reached)
                far = useful & (reached > descended[number])
                ends = ends.index_fill(0, stay[far], True)
            won = stay[found.success]
            if len(won):  # not every model takes an empty batch
                points[won] = found.images[found.success]
                point_loss[won] = row_goal.pick(won)(model(points[won]))
                used[rows[won]] += 1
            broken = broken.index_fill(0, won, True)
            ends = ends | broken
        if ends.any():
            taken = broken | (point_loss < loss[rows])
            best[rows[taken]], loss[rows[taken]] = points[taken], point_loss[taken]
            success[rows[broken]] = True
            rows, clean = rows[~ends], clean[~ends]
            points, point_loss = points[~ends], point_loss[~ends]
            row_goal, row_criterion = goal.pick(rows), criterion.pick(rows)

    lower = point_loss < loss[rows]
    best[rows[lower]], loss[rows[lower]] = points[lower], point_loss[lower]
    return AttackResult(images=best, success=success, loss=loss, queries=used)


def _side(step: int, queries: int, share: float, height: int, width: int) -> int:
    """Return the side of a step's window in px.

    The covered share is halved on the schedule of the paper, stretched to ``queries``.
    """
    scaled = step * 10_000 // queries
    halved = sum(scaled > halving for halving in _HALVINGS)
    side = round((share / 2**halved * height * width) ** 0.5)
    return int(max(1, min(side, min(height, width) - 1)))


def _sign(shape: tuple[int, ...], source: torch.Generator, like: Tensor) -> Tensor:
    return (torch.randint(0, 2, shape, generator=source) * 2 - 1).to(like)


def _offset(limit: int, source: torch.Generator) -> int:
    """Draw an integer from 0 to ``limit``, both included."""
    return int(torch.randint(0, limit + 1, (), generator=source))


class _Bounds:
    """Highest and lowest images of a ball, computed again only for other clean images."""

    def __init__(self, eps: float) -> None:
        self.eps = eps
        self._clean: Tensor | None = None
        self._bounds: tuple[Tensor, Tensor]

    def of(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        if clean is not self._clean:
            low, high = linf_bounds(clean, self.eps)
            self._clean, self._bounds = clean, (high, low)
        return self._bounds


def _linf_proposals(
    images: Tensor, eps: float, queries: int, share: float, seed: int
) -> Iterator[Proposal]:
    """Yield vertical stripes of +-eps first, then square windows of +-eps, one sign a channel."""
    source = generator(seed, "square", "linf")
    _, channels, height, width = images.shape
    stripes = _sign((1, channels, 1, width), source, images) > 0

    bounds = _Bounds(eps)
    yield lambda clean, _: torch.where(stripes, *bounds.of(clean))

    for step in range(1, queries):
        side = _side(step, queries, share, height, width)
        top, left = _offset(height - side, source), _offset(width - side, source)
        area = (slice(None), slice(None), slice(top, top + side), slice(left, left + side))
        up = _sign((1, channels, 1, 1), source, images) > 0

        def window(
            clean: Tensor, points: Tensor, area: tuple[slice, ...] = area, up: Tensor = up
        ) -> Tensor:
            trial, (high, low) = points.clone(), bounds.of(clean)
            trial[area] = torch.where(up, high[area], low[area])
            return trial

        yield window


def _bump(side: int, like: Tensor) -> Tensor:
    """Return concentric squares of falling weight (side, side) of unit norm.

    This is the shape of one half of a window in the paper.
    """
    plane = like.new_zeros(side, side)
    rows = max(1, side // 2)
    for ring in range(rows):
        plane[ring : side - ring, ring : side - ring] += 1.0 / (rows - ring) ** 2
    return _unit(plane)


def _unit(plane: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(plane)
    return plane / length.clamp_min(1e-12)


def _dipole(side: int, source: torch.Generator, like: Tensor) -> Tensor:
    """Draw two bumps of opposite sign (side, side), unit norm, side by side in either direction."""
    half = max(1, side // 2)
    plane = like.new_zeros(side, side)
    first, second = _bump(side, like), _bump(side, like)
    plane[:half] += nn.functional.interpolate(first[None, None], (half, side), mode="area")[0, 0]
    if side > half:
        plane[half:] -= nn.functional.interpolate(
            second[None, None], (side - half, side), mode="area"
        )[0, 0]

    plane = _unit(plane)
    return plane.T if _offset(1, source) else plane


def _within(clean: Tensor, delta: Tensor, eps: float, norm: Norm) -> Tensor:
    """Add ``delta`` scaled onto the sphere, then clip to [0, 1], which only shortens it."""
    order = _POWERS[norm]
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), ord=order, dim=1).clamp_min(1e-12)

    # The factor keeps float32 rounding from ending just outside; shorter floats need a projection.
    # In l_1 the errors of all elements add up, so that a projection is always due.
    point: Tensor = (clean + delta * (eps * (1 - 1e-6) / length).view(-1, 1, 1, 1)).clamp(0, 1)
    if norm == "l2" and torch.finfo(point.dtype).bits >= 32:
        return point
    return project_onto_ball(point, clean, eps, norm)


_POWERS: dict[Norm, int] = {"l2": 2, "l1": 1}


def _dipole_proposals(
    images: Tensor, eps: float, norm: Norm, queries: int, share: float, seed: int
) -> Iterator[Proposal]:
    """Yield a grid of dipoles first, then moves of norm from one window to another."""
    source = generator(seed, "square", norm)
    _, channels, height, width = images.shape
    start = images.new_zeros(1, channels, height, width)
    tile = max(1, min(height, width) // 5)
    for top in range(0, height - tile + 1, tile):
        for left in range(0, width - tile + 1, tile):
            sign = _sign((1, channels, 1, 1), source, images)
            start[:, :, top : top + tile, left : left + tile] += (
                _dipole(tile, source, images) * sign
            )
    yield lambda clean, _: _within(clean, start.expand_as(clean), eps, norm)

    for step in range(1, queries):
        side = max(3, _side(step, queries, share, height, width))
        side = min(side + (side % 2 == 0), height - 1, width - 1)
        to = (_offset(height - side, source), _offset(width - side, source))
        origin = (_offset(height - side, source), _offset(width - side, source))
        shape = _dipole(side, source, images) * _sign((1, channels, 1, 1), source, images)

        def moved(
            clean: Tensor,
            points: Tensor,
            to: tuple[int, int] = to,
            origin: tuple[int, int] = origin,
            side: int = side,
            shape: Tensor = shape,
        ) -> Tensor:
            delta = _move(points - clean, to, origin, side, shape, eps, _POWERS[norm])
            return _within(clean, delta, eps, norm)

        yield moved


def _move(
    delta: Tensor,
    to: tuple[int, int],
    origin: tuple[int, int],
    side: int,
    shape: Tensor,
    eps: float,
    power: int,
) -> Tensor:
    """Empty the window at ``origin`` and give its norm to the window at ``to``, in ``shape``.

    The window also receives the norm that ``delta`` leaves unused of ``eps``. ``power`` is the
    order of the norm, 2 or 1.
    """
    filled, emptied = _window(to, side), _window(origin, side)
    both = torch.zeros_like(delta[:1, :1])
    both[filled], both[emptied] = 1, 1
    spare = (eps**power - delta.abs().pow(power).sum((1, 2, 3), keepdim=True)).clamp_min(0)
    within = (delta * both).abs().pow(power).sum((2, 3), keepdim=True)
    budget = spare / delta.shape[1] + within

    # The new content is the shape plus the old content, each of unit norm, scaled to the budget.
    old = delta[filled]
    mixed = shape / _channel_norms(shape, power) + old / _channel_norms(old, power)
    mixed = mixed * (budget.pow(1 / power) / _channel_norms(mixed, power))

    delta = delta.clone()
    delta[emptied] = 0
    delta[filled] = mixed
    return delta


def _window(corner: tuple[int, int], side: int) -> tuple[slice, ...]:
    top, left = corner
    return slice(None), slice(None), slice(top, top + side), slice(left, left + side)


def _channel_norms(windows: Tensor, power: int) -> Tensor:
    """Return the norm (b, c, 1, 1) of order ``power`` of each channel."""
    sums = windows.abs().pow(power).sum((2, 3), keepdim=True)
    lengths: Tensor = sums.pow(1 / power).clamp_min(1e-12)
    return lengths


class EstimatedGradient(nn.Module):
    """A model whose gradient is estimated from its scores alone.

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
            raise OptionError(
                f"method {method!r}", "nes or finite is needed", "Choose one of these"
            )

        self.model, self.method, self.pairs, self.sigma = model, method, pairs, sigma
        self.seed, self.batch, self.queries, self._calls = seed, batch, 0, 0

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's own logits for ``images``; only their gradient is estimated."""
        logits: Tensor = _Estimate.apply(images, self)  # type: ignore[no-untyped-call]
        return logits

    def query(self, images: Tensor) -> Tensor:
        """Return the scores of ``images`` clipped to [0, 1], without gradient, batch by batch."""
        self.queries += len(images)
        with torch.no_grad():
            batches = torch.split(images.clamp(0, 1), self.batch)
            return torch.cat([read_logits(self.model(batch), len(batch)) for batch in batches])

    def _directions(self, images: Tensor) -> Iterator[Tensor]:
        """Yield directions (1, c, h, w) of differences, the same for every sample of the batch."""
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
        for direction in self._directions(images):
            step = self.sigma * direction
            plus, minus = self.query(torch.cat([images + step, images - step])).chunk(2)
            slope = ((plus - minus) * weights).sum(1) / (2 * self.sigma)
            total += slope.view(-1, 1, 1, 1) * direction
            count += 1
        return total if self.method == "finite" else total / max(1, count)


class _Estimate(torch.autograd.Function):
    """Passes the estimate to autograd in place of the model's own gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, images: Tensor, source: EstimatedGradient) -> Tensor:
        ctx.images, ctx.source = images.detach(), source  # type: ignore[attr-defined]
        return source.query(images.detach())

    @staticmethod
    def backward(ctx: FunctionCtx, *weights: Tensor) -> tuple[Tensor, None]:
        source: EstimatedGradient = ctx.source  # type: ignore[attr-defined]
        return source.pull_back(ctx.images, weights[0]), None  # type: ignore[attr-defined]
