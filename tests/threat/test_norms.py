"""Projections: inside after rounding, nearest point, pure, any memory format and dtype."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from physadv.core.errors import OptionError
from physadv.core.random_streams import generator
from physadv.threat import norms
from physadv.threat.constraints import LpBall
from physadv.threat.norms import NORMS, Norm, lp_distance, project_onto_ball, quantize_in_ball

EPS = {"linf": 8 / 255, "l2": 0.5, "l1": 6.0}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def clean_and_far(
    seed: int = 0, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (6, 3, 8, 8)
) -> tuple[Tensor, Tensor]:
    """Clean images with pixels on both ends of [0, 1], and points far outside the ball and the
    box."""
    source = generator(seed, "projection")
    x0 = (
        (torch.rand(shape, generator=source, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1).to(dtype)
    )
    return x0, (x0.double() + torch.randn(shape, generator=source, dtype=torch.float64) * 0.7).to(
        dtype
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_inside_after_rounding(norm: Norm, dtype: torch.dtype) -> None:
    """The float64 distance never exceeds eps and the image stays in [0, 1], in every dtype and at
    every size of eps."""
    for seed, factor in enumerate((1e-3, 0.1, 1.0, 3.0)):
        x0, far = clean_and_far(seed, dtype)
        eps = EPS[norm] * factor
        x = project_onto_ball(far, x0, eps, norm)
        assert x.dtype == dtype
        assert (lp_distance(x, x0, norm) <= eps).all()
        assert x.min() >= 0
        assert x.max() <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_inside_points_unchanged(norm: Norm) -> None:
    """A point that is already allowed comes back bit for bit: nothing is pushed out to the
    sphere."""
    x0, far = clean_and_far()
    inside = project_onto_ball(far, x0, EPS[norm] * 0.7, norm)
    assert torch.equal(project_onto_ball(inside, x0, EPS[norm], norm), inside)


@pytest.mark.parametrize("norm", NORMS)
def test_memory_format_does_not_matter(norm: Norm) -> None:
    """channels_last and expanded inputs give the values of contiguous ones, and channels_last stays
    channels_last."""
    x0, far = clean_and_far()
    plain = project_onto_ball(far, x0, EPS[norm], norm)
    last = project_onto_ball(
        far.to(memory_format=torch.channels_last),
        x0.to(memory_format=torch.channels_last),
        EPS[norm],
        norm,
    )
    assert torch.equal(plain, last)
    assert last.is_contiguous(memory_format=torch.channels_last)
    expanded = x0[:1].expand_as(x0)
    assert torch.equal(
        project_onto_ball(far, expanded, EPS[norm], norm),
        project_onto_ball(far, expanded.clone(), EPS[norm], norm),
    )


@pytest.mark.parametrize("norm", NORMS)
def test_pure(norm: Norm) -> None:
    """Neither argument is written to."""
    x0, far = clean_and_far()
    before = x0.clone(), far.clone()
    project_onto_ball(far, x0, EPS[norm], norm)
    assert torch.equal(x0, before[0])
    assert torch.equal(far, before[1])


@pytest.mark.parametrize("norm", NORMS)
def test_nearest_point(norm: Norm) -> None:
    """No allowed point found by a general solver is nearer than the projection."""
    x0, far = clean_and_far(3, torch.float64, (3, 1, 2, 3))
    eps = {"linf": 0.2, "l2": 0.4, "l1": 0.6}[norm]
    x = project_onto_ball(far, x0, eps, norm)
    for start, point, found in zip(
        x0.flatten(1).numpy(), far.flatten(1).numpy(), x.flatten(1).numpy(), strict=True
    ):
        best = solve(start, point, eps, norm)
        assert np.linalg.norm(found - point) <= np.linalg.norm(best - point) + 1e-6
        np.testing.assert_allclose(found, best, atol=2e-4)


def solve(x0: np.ndarray, u: np.ndarray, eps: float, norm: str) -> np.ndarray:
    """Nearest allowed point by sequential quadratic programming, the change split into two
    non-negative parts."""
    n = len(x0)
    change = lambda z: z[:n] - z[n:]  # noqa: E731
    limits = {
        "linf": lambda z: eps - (z[:n] + z[n:]).max(),
        "l2": lambda z: eps**2 - np.sum(change(z) ** 2),
        "l1": lambda z: eps - np.sum(z),
    }
    cap = eps if norm == "linf" else 1.0
    result = optimize.minimize(
        lambda z: np.sum((x0 + change(z) - u) ** 2),
        np.full(2 * n, 1e-3),
        bounds=[(0, min(1 - a, cap)) for a in x0] + [(0, min(a, cap)) for a in x0],
        constraints=[] if norm == "linf" else [{"type": "ineq", "fun": limits[norm]}],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return x0 + change(result.x)


@pytest.mark.parametrize("norm", NORMS)
def test_quantized_survives_png(norm: Norm) -> None:
    """A quantized image is on the 8-bit grid, in the ball in float64, and the same after uint8 and
    back."""
    x0 = clean_and_far()[0].mul(255).round().div(255)
    inside = project_onto_ball(clean_and_far()[1], x0, EPS[norm], norm)
    x = quantize_in_ball(inside, x0, EPS[norm], norm)
    assert torch.equal(x.mul(255).round().to(torch.uint8).float().div(255), x)
    assert (lp_distance(x, x0, norm) <= EPS[norm]).all()
    assert (lp_distance(x, inside, "linf") <= 1 / 255 + 1e-6).all()
    assert lp_distance(x, x0, norm).min() > 0.75 * EPS[norm]


def test_quantized_off_the_grid() -> None:
    """Clean images between grid points still get legal neighbors where the ball reaches one."""
    x0, far = clean_and_far()
    x = quantize_in_ball(project_onto_ball(far, x0, 8 / 255, "linf"), x0, 8 / 255, "linf")
    assert (lp_distance(x, x0, "linf") <= 8 / 255).all()


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts(norm: Norm) -> None:
    """Starts lie in the ball and fill it, differ between samples, and depend on their own generator
    only."""
    x0, _ = clean_and_far()
    ball = LpBall(norm, EPS[norm])
    seeds = [generator(0, i) for i in range(len(x0))]
    starts = ball.random_starts(x0, seeds)
    assert (ball.violation(starts, x0) == 0).all()
    assert lp_distance(starts, x0, norm).min() > 0.3 * EPS[norm]
    assert torch.equal(ball.random_starts(x0[4:5], [generator(0, 4)]), starts[4:5])


def test_unit_noise_is_even() -> None:
    """The radius r of a draw in n dimensions has P(r < t) = t^n for each ball."""
    for norm in NORMS:
        source = generator(0, norm)
        draws = torch.stack([norms.unit_noise(torch.Size([3]), norm, source) for _ in range(2000)])
        radii = lp_distance(draws, torch.zeros_like(draws), norm)
        assert abs(float((radii < 0.5).double().mean()) - 0.125) < 0.03


@pytest.mark.parametrize("norm", NORMS)
def test_zero_eps_and_empty_batch(norm: Norm) -> None:
    """eps 0 gives the clean image, and no images give no images."""
    x0, far = clean_and_far()
    assert torch.equal(project_onto_ball(far, x0, 0.0, norm), x0)
    assert project_onto_ball(far[:0], x0[:0], 1.0, norm).shape == (0, 3, 8, 8)


def test_unknown_norm() -> None:
    """A norm we do not know is an error that names the ones we do."""
    x0, far = clean_and_far()
    with pytest.raises(OptionError, match="linf, l2, l1"):
        project_onto_ball(far, x0, 0.1, "l7")  # type: ignore[arg-type]


def test_l0_projection_is_the_nearest_point_with_few_pixels() -> None:
    """No choice of pixels brings the clean image nearer to the point, by trying all of them."""
    x0, far = clean_and_far(3, torch.float64, (4, 2, 2, 3))
    for count in (0, 1, 2, 5):
        found = project_onto_ball(far, x0, count, "l0")
        assert (lp_distance(found, x0, "l0") <= count).all()
        best = torch.full((4,), torch.inf, dtype=torch.float64)
        for chosen in combinations(range(6), count):
            mask = torch.zeros(6, dtype=torch.bool)
            mask[list(chosen)] = True
            point = torch.where(mask.view(2, 3), far.clamp(0, 1), x0)
            best = best.minimum(lp_distance(point, far, "l2"))
        torch.testing.assert_close(lp_distance(found, far, "l2"), best)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_l0_balls_hold_what_is_put_in_them(dtype: torch.dtype) -> None:
    """Starts and steepest points change at most so many pixels; points inside come back as they
    are, of any dtype and memory format."""
    x0, far = clean_and_far(1, dtype)
    x0 = x0.to(memory_format=torch.channels_last)
    ball = LpBall("L0", 5)
    starts = ball.random_starts(x0, [generator(i, "l0") for i in range(len(x0))])
    assert starts.dtype == dtype
    assert (lp_distance(starts, x0, "l0") > 0).all()
    for inside in (starts, norms.steepest_point(far.to(dtype) - x0, x0, 5, "l0")):
        assert (lp_distance(inside, x0, "l0") <= 5).all()
        assert torch.equal(ball.project(inside, x0), inside)
    assert float(ball.violation(far.clamp(0, 1).to(dtype), x0).min()) > 0


def test_8_bit_images_stay_within_their_pixels() -> None:
    """On clean images of 8 bits, rounding changes no further pixel."""
    x0, far = clean_and_far(2)
    x0 = x0.mul(255).round().div(255)
    inside = project_onto_ball(far.to(x0), x0, 4, "l0")
    rounded = LpBall("l0", 4, 255).quantized(inside, x0)
    assert (lp_distance(rounded, x0, "l0") <= 4).all()
    assert torch.equal(rounded.mul(255).round().div(255), rounded)
