"""Sparse (l_0) attacks, which change a few pixels without limit: by gradient and by random search.

A pixel is one position with all its channels. Changed pixels take 0 or 1 in each channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier, check_batch, frozen_eval, loss_and_gradient
from physadv.attacks._inputs import open_inputs
from physadv.attacks.attack_result import AttackResult
from physadv.attacks.score_based import Scores
from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.threat.criteria import success_criterion
from physadv.threat.losses import Objective, margin_loss


@open_inputs
def saliency_attack(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    pixels: int,
    targets: Tensor | None = None,
) -> AttackResult:
    """Attack by changing the most salient pixels, one a step (after JSMA, Papernot et al. 2016).

    The most salient pixel lowers the linearized margin most. Each pixel changes once, to 0 or 1 in
    each channel; a broken sample changes no further. Takes pixels + 1 forward passes a sample.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        pixels: Largest number of changed pixels, from 1 to h * w.
        targets: Target classes (b,) for a targeted attack.

    Returns:
        The changed images with success, margin and query counts.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: ``pixels`` is below 1 or more than there are.

    Example:
        >>> import torch
        >>> from physadv.attacks import saliency_attack
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
        >>> result = saliency_attack(net, images, labels, pixels=2)
        >>> int((result.images != images).any(1).flatten(1).sum(1).max()) <= 2
        True
    """
    check_batch(images, labels, targets)
    _check_pixels(images, pixels)
    x, goal = images.detach().clone(), Objective(margin_loss, labels, targets)
    criterion = success_criterion(labels, targets)
    free = torch.ones_like(x[:, 0], dtype=torch.bool)
    success, loss = torch.zeros_like(labels, dtype=torch.bool), torch.zeros(len(x)).to(x)
    queries = torch.zeros(len(x), dtype=torch.long)

    with frozen_eval(model):
        for step in range(pixels + 1):
            rows = (~success).nonzero()[:, 0]
            if not len(rows):
                break

            logits, value, slope = loss_and_gradient(model, x[rows], goal.pick(rows))
            broken = criterion.pick(rows)(logits)
            queries[rows.cpu()] += 1
            loss[rows], success[rows] = value.to(loss), broken
            if step < pixels:
                unbroken = (~broken).nonzero()[:, 0]
                rows, slope = rows[unbroken], slope[unbroken]
                x[rows], free[rows] = _change_pixel(x[rows], slope, free[rows])

    return AttackResult(images=x, success=success, loss=loss, queries=queries)


def _change_pixel(x: Tensor, slope: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x`` with its most salient free pixel changed, and the pixels that stay free."""
    corner = (slope < 0).to(x)
    gain = (slope * (corner - x)).sum(1).masked_fill(~free, torch.inf)
    pixels = free.shape[1] * free.shape[2]
    best = torch.nn.functional.one_hot(gain.flatten(1).argmin(1), pixels).view_as(free).bool()
    return torch.where(best[:, None], corner, x), free & ~best


@open_inputs
def sparse_search(
    model: Scores,
    images: Tensor,
    labels: Tensor,
    *,
    pixels: int,
    queries: int = 1000,
    targets: Tensor | None = None,
    seed: int = 0,
) -> AttackResult:
    """Attack by random search over changed pixels, from scores alone: Sparse-RS (Croce 2022).

    A proposal that lowers the margin is kept. The share of exchanged pixels falls from 0.3 to one
    pixel.

    Args:
        model: Model, its name or its file: images in [0, 1] to logits (b, classes).
        images: Clean images (b, c, h, w), floats in [0, 1]; a tensor or an array.
        labels: True classes (b,).
        pixels: Number of changed pixels, from 1 to h * w.
        queries: Largest number of forward passes a sample, one more for the clean image.
        targets: Target classes (b,) for a targeted attack.
        seed: Seed of every random choice.

    Returns:
        The best images with success, margin and query counts.

    Raises:
        ImageError: Images lie outside [0, 1].
        OptionError: ``pixels`` is below 1 or more than there are.

    Example:
        >>> import torch
        >>> from physadv.attacks import sparse_search
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
        >>> result = sparse_search(net, images, labels, pixels=2, queries=50)
        >>> int((result.images != images).any(1).flatten(1).sum(1).max()) <= 2
        True
    """
    check_batch(images, labels, targets)
    _check_pixels(images, pixels)
    images, source = images.detach(), generator(seed, "sparse search")
    b, channels, height, width = images.shape
    positions = torch.randperm(height * width, generator=source)[:pixels].repeat(b, 1)
    corners = torch.randint(0, 2, (1, channels, pixels), generator=source).repeat(b, 1, 1)
    best, used = images.clone(), torch.ones(b, dtype=torch.long)

    with frozen_eval(model), torch.no_grad():
        goal, criterion = (
            Objective(margin_loss, labels, targets),
            success_criterion(labels, targets),
        )
        logits = model(images)
        loss, success = goal(logits), criterion(logits)
        current_loss = torch.full_like(loss, torch.inf)
        for step in range(queries):
            rows = (~success).nonzero()[:, 0].cpu()
            if not len(rows):
                break

            share = 0.3 * (1 - step / queries)
            slots, new_positions, new_corners = _exchange(
                pixels, share, height * width, channels, source
            )
            trial_positions, trial_corners = positions[rows].clone(), corners[rows].clone()
            if step:
                trial_positions[:, slots] = new_positions
                trial_corners[:, :, slots] = new_corners
            trial = _with_pixels(images[rows], trial_positions, trial_corners)
            logits = model(trial)
            score, broken = goal.pick(rows)(logits), criterion.pick(rows)(logits)
            used[rows] += 1

            better = (broken | (score < current_loss[rows]) & score.isfinite()).cpu()
            improved = rows[better]
            positions[improved] = trial_positions[better]
            corners[improved] = trial_corners[better]
            current_loss[improved] = score[better]

            # The result may also stay the clean image: its margin counts as well.
            lower = broken | (score < loss[rows]) & score.isfinite()
            lower_rows = rows[lower.cpu()]
            best[lower_rows], loss[lower_rows] = trial[lower], score[lower]
            success[rows[broken.cpu()]] = True

    return AttackResult(images=best, success=success, loss=loss, queries=used)


def _exchange(
    pixels: int, share: float, size: int, channels: int, source: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw which of the changed pixels are replaced, and positions and corners of the new ones."""
    count = max(1, round(share * pixels))
    slots = torch.randperm(pixels, generator=source)[:count]
    positions = torch.randint(0, size, (count,), generator=source)
    return slots, positions, torch.randint(0, 2, (channels, count), generator=source)


def _with_pixels(images: Tensor, positions: Tensor, corners: Tensor) -> Tensor:
    """Return ``images`` with the pixels at ``positions`` (b, k) set to ``corners`` (b, c, k)."""
    index = positions[:, None].expand(-1, images.shape[1], -1).to(images.device)
    return images.flatten(2).scatter(2, index, corners.to(images)).view_as(images)


def _check_pixels(images: Tensor, pixels: int) -> None:
    available = images.shape[-2] * images.shape[-1]
    if not 1 <= pixels <= available:
        raise OptionError(f"{pixels} pixels", f"1 to {available}", "Use a few percent of the image")
