"""Intervals: closed forms, invariances, and coverage in simulated clips."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from physadv.check.rates import block_rates
from physadv.check.stopping_rule import stopping_state
from physadv.core.random_streams import numpy_generator
from physadv.evaluation.metrics.intervals import (
    RateInterval,
    clustered_interval,
    difference_interval,
    paired_difference,
    sequential_interval,
    wilson_interval,
)

Interval = Callable[[Sequence[bool], Sequence[object]], RateInterval]
Hits = list[tuple[int, int]]
"""Hits and trials of each cluster."""
BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "coverage.py"))
REPEATS = 300
# Seen as the share of REPEATS, 95 % falls below this once in 6,000 times.
BOUND = 0.95 - 3.6 * (0.95 * 0.05 / REPEATS) ** 0.5


def of_hits(hits: Hits, interval: Interval = clustered_interval) -> RateInterval:
    outcomes = [i < h for h, n in hits for i in range(n)]
    return interval(outcomes, [k for k, (_, n) in enumerate(hits) for _ in range(n)])


def bootstrap(outcomes: Sequence[bool], clusters: Sequence[object]) -> RateInterval:
    """The percentile bootstrap over clusters of equal size, which the coverage test must catch."""
    index = np.asarray(clusters, int)
    hits = np.bincount(index, np.asarray(outcomes, float))[None]
    low, high = BENCHMARK["bootstrap_ends"](hits, np.bincount(index))
    return RateInterval(float(np.mean(outcomes)), float(low[0]), float(high[0]), len(index))


@pytest.mark.parametrize(("hits", "n"), [(0, 2), (1, 2), (8, 10), (10, 10), (55, 60), (390, 400)])
def test_clusters_of_one_trial_are_those_of_clopper_and_pearson(hits: int, n: int) -> None:
    """With independent trials the interval is the exact binomial one."""
    found = of_hits([(1, 1)] * hits + [(0, 1)] * (n - hits))
    exact = stats.binomtest(hits, n).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-6)
    assert (found.n, found.clusters) == (n, n)


def test_clusters_of_several_sizes_agree_with_dirichlet_draws() -> None:
    """The ends are the quantiles of the weighted mean with one further cluster of 0 or 1."""
    sizes, hits = np.array([60, 7, 1, 30, 12]), np.array([50, 7, 0, 21, 3])
    found = of_hits(list(zip(hits.tolist(), sizes.tolist(), strict=True)))
    draws = np.random.default_rng(1).exponential(size=(400_000, 6))
    further = (sizes**2).sum() / sizes.sum()
    total = draws[:, :5] @ sizes + further * draws[:, 5]
    low = np.quantile(draws[:, :5] @ hits / total, 0.025)
    high = np.quantile((draws[:, :5] @ hits + further * draws[:, 5]) / total, 0.975)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.003)


def test_one_cluster_has_no_interval() -> None:
    """However many frames one clip has, nothing is known about the next clip."""
    for interval in (clustered_interval, sequential_interval):
        found = of_hits([(990, 1000)], interval)
        assert found.too_few
        assert (found.low, found.high, found.clusters) == (0.0, 1.0, 1)
        assert str(found) == "99.0 % (too few clusters for an interval), n = 1000"
        assert interval([], []).too_few
    assert "clusters" not in wilson_interval(3, 4).as_dict()


CLUSTERS = st.lists(
    st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    min_size=2,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(CLUSTERS)
def test_interval_holds_its_rate_and_mirrors(hits: Hits) -> None:
    """The rate lies inside, misses mirror hits, order does not matter, and an interval that allows
    looking is at least as wide."""
    found, mirrored = of_hits(hits), of_hits([(n - h, n) for h, n in hits])
    assert 0 <= found.low <= found.rate <= found.high <= 1
    assert found.high - found.low < 1
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-6)
    assert of_hits(hits[::-1]).low == pytest.approx(found.low, abs=1e-6)
    looked = of_hits(hits, sequential_interval)
    assert looked.low <= found.low + 0.02
    assert looked.high >= found.high - 0.02


def test_a_difference_of_independent_shares_is_newcombes() -> None:
    """From Wilson's intervals it is method 10 of Newcombe (1998), whose table II has 56/70 less
    48/80 as 0.2000 [0.0524, 0.3339]."""
    found = difference_interval(wilson_interval(48, 80), wilson_interval(56, 70))
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.is_clear
    nothing = difference_interval(of_hits([(3, 4)]), wilson_interval(56, 70))
    assert nothing.too_few
    assert not nothing.is_clear


@settings(max_examples=30, deadline=None)
@given(CLUSTERS)
def test_a_paired_difference_from_never_is_the_share_itself(hits: Hits) -> None:
    """Against trials that all fail, the difference is the share; swapped, its sign changes; equal
    trials differ by 0, and one cluster tells nothing."""
    outcomes = [i < h for h, n in hits for i in range(n)]
    clusters = [k for k, (_, n) in enumerate(hits) for _ in range(n)]
    never = [False] * len(outcomes)
    found = paired_difference(never, outcomes, clusters)
    swapped = paired_difference(outcomes, never, clusters)
    assert found.value == pytest.approx(sum(outcomes) / len(outcomes))
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low), abs=1e-6)
    assert -1 <= found.low <= found.value <= found.high <= 1
    same = paired_difference(outcomes, outcomes, clusters)
    assert same.value == 0
    assert same.low < 0 < same.high
    assert paired_difference(never, outcomes, [0] * len(outcomes)).too_few


def test_many_clusters_are_those_of_the_normal_limit() -> None:
    """With many clusters the width is that of the mean of their rates."""
    rng = np.random.default_rng(2)
    hits = [(int(h), 20) for h in rng.binomial(20, rng.beta(8, 2, 2000))]
    rates = np.array([h / 20 for h, _ in hits])
    found = of_hits(hits)
    width = 2 * stats.norm.ppf(0.975) * rates.std() / 2000**0.5
    assert found.high - found.low == pytest.approx(width, rel=0.05)


def coverage(interval: Interval, k: int, m: int, p: float, icc: float) -> float:
    """Share of REPEATS samples of ``k`` clips of ``m`` frames, beta-binomial with mean ``p`` and
    correlation ``icc`` within clips, whose interval holds ``p``."""
    rng = numpy_generator(0, "coverage", str((k, m, p, icc)))
    spread = (1 - icc) / icc
    rates = rng.beta(p * spread, (1 - p) * spread, (REPEATS, k))
    held = 0
    for hits in rng.binomial(m, rates).tolist():
        found = of_hits([(h, m) for h in hits], interval)
        held += found.low <= p <= found.high
    return held / REPEATS


CELLS = [(2, 20, 0.8, 0.3), (5, 20, 0.8, 0.3), (10, 20, 0.95, 0.3), (20, 20, 0.95, 0.6)]


@pytest.mark.parametrize("cell", CELLS)
def test_intervals_cover_what_they_state(cell: tuple[int, int, float, float]) -> None:
    """In simulated clips 95 % intervals hold the rate at least that often, within the error of the
    simulation."""
    assert coverage(clustered_interval, *cell) >= BOUND


@pytest.mark.parametrize("cell", CELLS)
def test_the_coverage_test_catches_the_bootstrap(cell: tuple[int, int, float, float]) -> None:
    """The percentile bootstrap over clips fails the bound in each of these settings."""
    assert coverage(bootstrap, *cell) < BOUND


def test_the_benchmark_computes_the_packages_interval() -> None:
    """Gaffke's ends of the benchmark, for many samples at once, are those of the package, for clips
    of one size and of several."""
    rng = np.random.default_rng(3)
    for sizes in (np.full(6, 10), np.array([60, 1, 7, 20])):
        hits = rng.binomial(sizes, rng.beta(4, 1, (5, len(sizes))))
        low, high = BENCHMARK["gaffke_ends"](hits, sizes)
        found = [of_hits(list(zip(h.tolist(), sizes.tolist(), strict=True))) for h in hits]
        assert low == pytest.approx([f.low for f in found], abs=1e-4)
        assert high == pytest.approx([f.high for f in found], abs=1e-4)


def test_intervals_at_the_stop_cover_what_they_state() -> None:
    """A block that is filmed until its interval is narrow enough has an interval that holds the
    rate; the bootstrap, looked at in the same way, fails the bound."""
    row = BENCHMARK["simulate_stops"]("beta-binomial", 0.95, 0.3, 0.3, samples=REPEATS)
    assert row["stopped"]["betting"] == 1
    assert row["coverage"]["betting"] >= BOUND
    assert row["coverage"]["bootstrap"] < BOUND


def test_the_stopping_rule_stops_where_the_benchmark_does() -> None:
    """The rule of a check, clip after clip, needs the clips that the benchmark counts."""
    m, aim = 10, 0.3
    hits = BENCHMARK["draw_hits"](
        "beta-binomial", np.random.default_rng(4), 3, np.full(60, m), 0.95, 0.3
    )
    counted, _ = BENCHMARK["_stop_betting"](hits, m, 0.95, aim)
    for sample, clips in zip(hits, counted, strict=True):
        rows = [
            {"clip": k, "true": True, "success": i < h}
            for k, h in enumerate(sample)
            for i in range(m)
        ]
        stopped = next(
            k
            for k in range(1, 61)
            if stopping_state(block_rates("patch", rows[: m * k], sequential=True), aim).done
        )
        # The benchmark reads the width off a grid of 1 point.
        assert abs(stopped - clips) <= 2
