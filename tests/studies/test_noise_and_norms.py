"""The study of what noise pays for l_inf: formulas beside simulation, and no radius above them."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from study_runs import quick_page, rows_after_a_stop, small_images

from physadv.core.errors import OptionError
from physadv.core.random_streams import numpy_generator
from physadv.studies.certificate_studies_config import NormsConfig
from physadv.studies.linf_price import (
    NOISES,
    any_noise_bound,
    laplace_moments,
    linf_radius,
    needed_share,
)
from physadv.studies.noise_and_norms import STUDY, sigma_of
from physadv.studies.noise_and_norms_page import ALPHA, FIXED, GROWING, exponents
from physadv.studies.smoothing_bounds import largest_radius
from physadv.studies.study import study_rows


@pytest.mark.parametrize("noise", ["gaussian", "laplace", "uniform"])
@pytest.mark.parametrize("p", [0.8, 0.95])
def test_radii_need_the_p_that_they_are_for(noise: str, p: float) -> None:
    """Drawing the noise, the best test of the corner needs the formula's probability."""
    radius = linf_radius(noise, p, 100)
    share = needed_share(noise, radius, 100, 8000, numpy_generator(0, noise, str(p)))
    assert share == pytest.approx(p, abs=0.02)


def test_laplace_moments_are_those_of_draws() -> None:
    """Mean and variance of the evidence of one number agree with simulation."""
    x = numpy_generator(0, "laplace").laplace(0, 1 / sqrt(2), 200_000)
    for radius in (0.05, 0.7):
        evidence = np.abs(x - radius) - np.abs(x)
        mean, variance = laplace_moments(radius)
        assert evidence.mean() == pytest.approx(mean, abs=4 * evidence.std() / sqrt(len(x)))
        assert evidence.var() == pytest.approx(variance, rel=0.02)


def test_cube_noise_has_deviation_one() -> None:
    """Drawn in its polar form and scaled as the radius assumes, each number has variance 1."""
    dims, source = 6, numpy_generator(0, "cube")
    face = source.uniform(-1, 1, (100_000, dims))
    signs = source.choice([-1.0, 1.0], len(face))
    face[np.arange(len(face)), source.integers(dims, size=len(face))] = signs
    x = source.gamma(dims, 1, (len(face), 1)) * face
    # At p = 1 - 1 / (2 e) the radius is the scale itself.
    scale = linf_radius("cube", 1 - 1 / (2 * np.e), dims)
    assert (x * scale).std() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("p", [0.6, 0.9, 0.999])
def test_no_noise_exceeds_the_bound(p: float) -> None:
    """Every radius lies below the bound for all noise, and falls with the dimensions."""
    for noise in NOISES:
        radii = [linf_radius(noise, p, dims) for dims in (10, 100, 1000)]
        assert radii == sorted(radii, reverse=True)
        for radius, dims in zip(radii, (10, 100, 1000), strict=True):
            assert radius <= any_noise_bound(p, dims)


def test_the_bounds_classifier_breaks_at_a_corner() -> None:
    """For noise that is neither independent nor normal, comparing with half the corner errs no
    more often than the bound says, averaged over corners."""
    dims, p, source = 40, 0.9, numpy_generator(0, "bound")
    scales = source.choice([0.5, sqrt(1.75)], (20_000, 1))
    x = scales * source.choice([-1.0, 1.0], (20_000, dims))
    radius = any_noise_bound(p, dims)
    corners = radius * source.choice([-1.0, 1.0], (20_000, dims))
    inner, half = (x * corners).sum(1), dims * radius**2 / 2
    assert (inner >= half).mean() <= 1 - p  # the point itself
    assert (inner + 2 * half < half).mean() <= 1 - p  # the corner


def test_what_is_out_of_range_is_refused() -> None:
    """Unknown noise and impossible probabilities are errors."""
    for noise, p, dims in (("salt", 0.9, 4), ("gaussian", 0.5, 4), ("gaussian", 0.9, 0)):
        with pytest.raises(OptionError, match="one of gaussian"):
            linf_radius(noise, p, dims)
    with pytest.raises(OptionError):
        needed_share("cube", 0.1, 4, 10, numpy_generator(0))


def test_growing_noise_keeps_the_radius() -> None:
    """Noise that grows with the root of the pixels allows the same l_inf radius at every size."""
    assert sigma_of(FIXED, 8) == sigma_of(FIXED, 64)
    assert sigma_of(GROWING, 64) / 64 == pytest.approx(sigma_of(GROWING, 8) / 8)


def test_a_quick_run_stays_below_its_ceiling(tmp_path: Path) -> None:
    """No certified radius exceeds that of unanimous votes, and the page names the powers of d."""
    data = small_images(tmp_path / "bands.npz")
    config = NormsConfig(data=str(data), quick=True)
    page = quick_page(STUDY, config, tmp_path / "run")
    rows = study_rows(STUDY, config, tmp_path / "run")
    assert rows_after_a_stop(STUDY, config, tmp_path / "again", 3) == rows

    powers = exponents(rows["formulas"])
    assert powers["gaussian"] == pytest.approx(-0.5, abs=0.01)
    assert powers["laplace"] == pytest.approx(-0.5, abs=0.02)
    assert powers["uniform"] == pytest.approx(-1, abs=0.01)
    assert powers["cube"] == pytest.approx(-1, abs=0.01)
    for side in config.sides:
        for row in (*rows[f"{FIXED}-{side}"], *rows[f"{GROWING}-{side}"]):
            ceiling = row["sigma"] * largest_radius(config.votes, ALPHA) / sqrt(row["dims"])
            assert row["radius"] <= ceiling + 1e-9
    names = [figure.name for figure in page.figures]
    assert len(set(names)) == len(names)
    assert "-0.50" in page.answer
