"""Coverage and width of intervals for rates over clips, simulated.

    python benchmarks/coverage.py run        # about 10 minutes of one thread
    python benchmarks/coverage.py table

``run`` draws k clips of m frames from three models of how clips differ, each of mean p and a
correlation within clips, and counts how often each 95 % interval holds p: Gaffke's, which
:func:`physadv.evaluation.metrics.intervals.clustered_interval` gives, and those that it was chosen
from. It then films clip after clip until an interval is narrow enough, and counts how often the
interval at the stop holds p, how often the interval of a difference holds it, of unlike clips and of
the same ones, and how often those of
an average precision and of extra boxes hold theirs. Writes one row a setting to benchmarks/coverage.jsonl, ``table`` their summary to benchmarks/coverage.md.

The ends of Gaffke's and of the betting interval are computed here for many samples at once; a test
compares them with those of the package.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from physadv.core.random_streams import numpy_generator
from physadv.core.rows import Row, append_rows, read_rows
from physadv.evaluation.metrics.detection import (
    average_precision,
    count_interval,
    jackknife_interval,
)

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Ends = tuple[Array, Array]

FOLDER = Path(__file__).resolve().parent
ROWS, TABLE = FOLDER / "coverage.jsonl", FOLDER / "coverage.md"
TAIL = 0.025
CLIPS, FRAMES = (2, 3, 5, 10, 20, 40, 60), (1, 5, 20, 60)
PARTS = ("fixed", "unequal", "difference", "paired", "stop", "detection")
# A setting with 1 - p mirrors that with p in all three models.
RATES, CORRELATIONS = (0.02, 0.1, 0.2, 0.5), (0.0, 0.1, 0.3, 0.6, 0.9)
MODELS = ("beta-binomial", "two points", "rare clips")
REPEATS, COMPARED, MEASURED, PAIRED = 4000, 1000, 100, 500
"""Samples a setting for Gaffke's interval, for the others, for its width, and for paired ones."""
_LOG_FREQUENCIES = np.arange(-16, 16, 0.3)


def draw_hits(
    model: str, rng: np.random.Generator, samples: int, sizes: Counts, p: float, icc: float
) -> Counts:
    """Draw hits (samples, k) of clips of ``sizes`` (k,) frames.

    ``model`` is "beta-binomial"; "two points", where a clip's rate is one of two; or "rare clips",
    where a share of ``icc`` of all hits, at most half, comes from a few clips of rate 1.
    """
    shape = (samples, len(sizes))
    if icc == 0:
        rates = np.full(shape, p)
    elif model == "beta-binomial":
        rates = rng.beta(p * (1 - icc) / icc, (1 - p) * (1 - icc) / icc, shape)
    elif model == "two points":
        rates = np.sqrt(icc) * (rng.random(shape) < p) + (1 - np.sqrt(icc)) * p
    else:
        share = p * min(icc, 0.5)
        rates = np.where(rng.random(shape) < share, 1.0, (p - share) / (1 - share))
    return rng.binomial(sizes, rates)


# Gaffke's interval, for samples of clips of equal size or of the same sizes.


def gaffke_probability(hits: Counts | Array, sizes: Counts, mean: Array, further: float) -> Array:
    """Return P(weighted mean <= ``mean`` (n,)) for hits (n, k), with a further clip of rate 0 or
    1."""
    weight = (sizes.astype(float) ** 2).sum() / sizes.sum()
    factors = np.concatenate([hits / sizes - mean[:, None], (further - mean)[:, None]], 1)
    factors *= np.append(sizes, weight) / sizes.max()
    angle, damping = np.zeros((2, len(hits), len(_LOG_FREQUENCIES)))
    for column in factors.T:
        scaled = column[:, None] * np.exp(_LOG_FREQUENCIES)
        angle += np.arctan(scaled)
        damping += np.log1p(scaled**2) / 2

    step = _LOG_FREQUENCIES[1] - _LOG_FREQUENCIES[0]
    found = 0.5 - (np.sin(angle) * np.exp(-damping)).sum(1) * step / np.pi
    total, spread = factors.sum(1), np.sqrt((factors**2).sum(1))
    return np.asarray(np.where(np.abs(total) > 7 * spread, total < 0, found), float)


def gaffke_holds(hits: Counts, sizes: Counts, p: float) -> npt.NDArray[np.bool_]:
    """Return for each sample of hits (n, k) whether its interval holds ``p``."""
    # Samples with the same hits in another order have the same interval.
    if len(set(sizes.tolist())) == 1:
        hits = np.sort(hits, axis=1)
    unique, index = np.unique(hits, axis=0, return_inverse=True)
    mean = np.full(len(unique), p)
    low = gaffke_probability(unique, sizes, mean, 0.0) >= TAIL - 1e-6
    high = gaffke_probability(unique, sizes, mean, 1.0) <= 1 - TAIL + 1e-6
    return (low & high)[index.ravel()]


def gaffke_ends(hits: Counts | Array, sizes: Counts) -> Ends:
    """Return the ends of Gaffke's interval for hits (n, k), by bisection."""

    def lower(chosen: Counts | Array) -> Array:
        low, high = np.zeros(len(chosen)), chosen.sum(1) / sizes.sum()
        for _ in range(20):
            middle = (low + high) / 2
            below = gaffke_probability(chosen, sizes, middle, 0.0) < TAIL
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return low

    return lower(hits), 1 - lower(sizes - hits)


# The methods it is compared with.


def bootstrap_ends(hits: Counts, sizes: Counts, draws: int = 1000) -> Ends:
    """The percentile bootstrap over clips, widened to Wilson's where all clips are alike: the
    method until version 0.1."""
    k = len(sizes)
    picks = np.random.default_rng(2).multinomial(k, np.full(k, 1 / k), draws)
    low, high = np.quantile((hits @ picks.T) / (picks @ sizes), [TAIL, 1 - TAIL], axis=1)
    alike = np.ptp(hits / sizes, axis=1) == 0
    narrow, wide = wilson_ends(hits.sum(1) / sizes.sum(), np.full(len(hits), float(k)))
    return np.where(alike, np.minimum(low, narrow), low), np.where(
        alike, np.maximum(high, wide), high
    )


def wilson_ends(rate: Array, n: Array) -> Ends:
    """Wilson's interval for rates of ``n`` effective trials."""
    z = stats.norm.ppf(1 - TAIL)
    center = (rate + z**2 / n / 2) / (1 + z**2 / n)
    reach = z * np.sqrt(rate * (1 - rate) / n + z**2 / n**2 / 4) / (1 + z**2 / n)
    return center - reach, center + reach


def effective_size(hits: Counts, sizes: Counts) -> Array:
    """Return n of equal variance, by the variance between clips and with the quantile of t instead
    of the normal one (Korn and Graubard 1998)."""
    k, n = len(sizes), sizes.sum()
    rate = hits.sum(1) / n
    variance = k / (k - 1) * ((sizes / n * (hits / sizes - rate[:, None])) ** 2).sum(1)
    fixed = (variance == 0) | (rate == 0) | (rate == 1)
    found = np.where(fixed, k, rate * (1 - rate) / np.where(fixed, 1, variance))
    shrunk = found * (stats.norm.ppf(TAIL) / stats.t.ppf(TAIL, k - 1)) ** 2
    return np.asarray(np.minimum(shrunk, n), float)


def wilson_t_ends(hits: Counts, sizes: Counts) -> Ends:
    """Wilson's interval at the effective size."""
    return wilson_ends(hits.sum(1) / sizes.sum(), effective_size(hits, sizes))


def clopper_pearson_ends(hits: Counts, sizes: Counts) -> Ends:
    """Clopper and Pearson's interval at the effective size (Korn and Graubard 1998)."""
    n = effective_size(hits, sizes)
    successes = hits.sum(1) / sizes.sum() * n
    low = stats.beta.ppf(TAIL, np.maximum(successes, 1e-9), n - successes + 1)
    high = stats.beta.ppf(1 - TAIL, successes + 1, np.maximum(n - successes, 1e-9))
    return np.where(successes > 1e-9, low, 0), np.where(n - successes > 1e-9, high, 1)


def beta_binomial_ends(hits: Counts, sizes: Counts) -> Ends:
    """The rates not rejected by the likelihood ratio of a beta-binomial model; clips of one
    size."""
    m = int(sizes[0])
    table, means = _beta_binomial_table(m)
    counts = np.stack([(hits == h).sum(1) for h in range(m + 1)], 1)
    profile = (counts @ table.reshape(m + 1, -1)).reshape(len(hits), *table.shape[1:]).max(2)
    kept = profile >= profile.max(1, keepdims=True) - stats.chi2.ppf(1 - 2 * TAIL, 1) / 2
    last = len(means) - 1 - kept[:, ::-1].argmax(1)
    return means[kept.argmax(1)], means[last]


@lru_cache
def _beta_binomial_table(m: int) -> tuple[Array, Array]:
    """Return log-likelihoods (m + 1, means, correlations) of hits, and the means."""
    means = np.concatenate([[1e-4, 5e-4, 1e-3, 2e-3, 5e-3], np.arange(0.01, 0.5, 0.01)])
    means = np.concatenate([means, [0.5], 1 - means[::-1]])
    correlations = np.array([1e-4, 0.01, 0.03, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 0.9, 0.97, 0.999])
    mean, icc = means[:, None], correlations[None]
    a, b = mean * (1 - icc) / icc, (1 - mean) * (1 - icc) / icc
    h = np.arange(m + 1)[:, None, None]
    # The binomial coefficient is the same for all models.
    return special.betaln(h + a, m - h + b) - special.betaln(a, b), means


NAMES = {
    "gaffke": "Gaffke",
    "bootstrap": "bootstrap",
    "wilson": "Wilson at effective n, t",
    "clopper-pearson": "Clopper-Pearson at effective n, t",
    "beta-binomial": "beta-binomial likelihood",
}
METHODS: dict[str, Callable[[Counts, Counts], Ends]] = {
    "bootstrap": bootstrap_ends,
    "wilson": wilson_t_ends,
    "clopper-pearson": clopper_pearson_ends,
    "beta-binomial": beta_binomial_ends,
}


# Simulations.


def simulate_equal_clips(model: str) -> Iterator[Row]:
    """Yield a row a setting with clips of one size: coverage and mean width by method."""
    for k, m, p, icc in itertools.product(CLIPS, FRAMES, RATES, CORRELATIONS):
        if icc == 0 and model != MODELS[0]:
            continue
        rng = numpy_generator(0, "coverage", model, k, m, str(p), str(icc))
        sizes = np.full(k, m)
        hits = draw_hits(model, rng, REPEATS, sizes, p, icc)
        setting = {"part": "fixed", "model": model, "k": k, "m": m, "p": p, "icc": icc}

        covered = {"gaffke": float(gaffke_holds(hits, sizes, p).mean())}
        low, high = gaffke_ends(hits[:MEASURED], sizes)
        widths = {"gaffke": float((high - low).mean())}
        for name, method in METHODS.items():
            low, high = method(hits[:COMPARED], sizes)
            covered[name] = float(((low <= p + 1e-9) & (p <= high + 1e-9)).mean())
            widths[name] = float((high - low).mean())
        yield setting | {
            "coverage": {name: round(value, 4) for name, value in covered.items()},
            "width": {name: round(value, 3) for name, value in widths.items()},
        }


def unequal_sizes(k: int) -> dict[str, Counts]:
    """Return sizes of ``k`` clips that differ much, by name."""
    return {
        "1 to 60": np.round(np.geomspace(1, 60, k)).astype(np.int64),
        "one large": np.array([60, *[1] * (k - 1)]),
        "one small": np.array([1, *[60] * (k - 1)]),
        "half large": np.array([60] * (k // 2) + [6] * (k - k // 2)),
    }


def simulate_unequal_clips(model: str) -> Iterator[Row]:
    """Yield a row a setting with clips of several sizes: coverage of Gaffke's interval."""
    for k, p, icc in itertools.product((2, 5, 10, 20, 60), RATES, (0.1, 0.3, 0.6, 0.9)):
        for name, sizes in unequal_sizes(k).items():
            rng = numpy_generator(0, "coverage", model, name, k, str(p), str(icc))
            hits = draw_hits(model, rng, COMPARED, sizes, p, icc)
            covered = {"gaffke": float(gaffke_holds(hits, sizes, p).mean())}
            setting = {"part": "unequal", "model": model, "k": k, "m": name, "p": p, "icc": icc}
            yield setting | {"coverage": covered}


def simulate_stops(
    model: str, p: float, icc: float, aim: float, *, m: int = 10, samples: int = 1000
) -> Row:
    """Film clip after clip until the interval is ``aim`` wide, from the tenth on; return how often
    the interval at the stop holds ``p``, and the clips it took, for betting and for two intervals
    that do not allow looking, on the first 200 and 400
    samples."""
    most = 400
    rng = numpy_generator(0, "stops", model, str(p), str(icc), str(aim))
    hits = draw_hits(model, rng, samples, np.full(most, m), p, icc)
    row: Row = {"part": "stop", "model": model, "m": m, "p": p, "icc": icc, "aim": aim}
    row |= {"coverage": {}, "clips": {}, "stopped": {}}
    stops: dict[str, tuple[Counts, npt.NDArray[np.bool_]]] = {
        "betting": _stop_betting(hits, m, p, aim),
        "gaffke": _stop_fixed(hits[:200], gaffke_ends, m, p, aim),
        "bootstrap": _stop_fixed(hits[:400], partial(bootstrap_ends, draws=500), m, p, aim),
    }
    for name, (clips, held) in stops.items():
        ended = clips > 0
        row["stopped"][name] = round(float(ended.mean()), 4)
        row["coverage"][name] = round(float(held[ended].mean()), 4) if ended.any() else None
        row["clips"][name] = round(float(clips[ended].mean()), 1) if ended.any() else None
    return row


def _stop_betting(
    hits: Counts, m: int, p: float, aim: float
) -> tuple[Counts, npt.NDArray[np.bool_]]:
    """Return the clips at the stop, 0 for none, and whether the interval then holds ``p``."""
    nodes, weights = np.polynomial.legendre.leggauss(24)
    stakes, weights = (nodes + 1) / 2, weights / 2
    # The width is read off a grid of means, the coverage at p itself.
    means = np.append(np.arange(0.005, 1, 0.01), p)
    live, limit = np.arange(len(hits)), -np.log(TAIL)
    clips, held = np.zeros(len(hits), np.int64), np.zeros(len(hits), bool)
    logs = np.zeros((2, len(hits), len(means), len(stakes)))

    for k in range(hits.shape[1]):
        for side in (0, 1):
            values = np.arange(m + 1) / m
            shares, against = (values, means) if side == 0 else (1 - values, 1 - means)
            gains = (shares[:, None] - against) / against
            table = np.log1p(np.maximum(gains[..., None] * stakes, -1 + 1e-15))
            logs[side, : len(live)] += table[hits[live, k]]
        if k < 9:
            continue
        top = logs[:, : len(live)].max(-1, keepdims=True)
        capital = top[..., 0] + np.log(np.exp(logs[:, : len(live)] - top) @ weights)
        kept = (capital <= limit).all(0)
        done = kept[:, :-1].sum(1) * 0.01 <= aim
        clips[live[done]], held[live[done]] = k + 1, kept[done, -1]
        logs[:, : (~done).sum()] = logs[:, : len(live)][:, ~done]
        live = live[~done]
        if len(live) == 0:
            break
    return clips, held


def _stop_fixed(
    hits: Counts, ends: Callable[[Counts, Counts], Ends], m: int, p: float, aim: float
) -> tuple[Counts, npt.NDArray[np.bool_]]:
    """The same for an interval of a fixed number of clips."""
    live = np.arange(len(hits))
    clips, held = np.zeros(len(hits), np.int64), np.zeros(len(hits), bool)
    for k in range(10, hits.shape[1] + 1):
        low, high = ends(hits[live, :k], np.full(k, m))
        done = high - low <= aim
        clips[live[done]], held[live[done]] = k, ((low <= p) & (p <= high))[done]
        live = live[~done]
        if len(live) == 0:
            break
    return clips, held


def simulate_differences(model: str) -> Iterator[Row]:
    """Yield a row a setting: coverage of the interval of a difference of two rates of clips of 10
    frames, from those of each rate (Newcombe 1998; Zou and Donner 2008)."""
    for k, p, icc in itertools.product((2, 5, 10, 30), ((0.98, 0.9), (0.8, 0.4)), (0.1, 0.3, 0.9)):
        rng = numpy_generator(0, "differences", model, k, str(p), str(icc))
        sizes = np.full(k, 10)
        hits = [draw_hits(model, rng, COMPARED, sizes, rate, icc) for rate in p]
        rates = [h.sum(1) / sizes.sum() for h in hits]
        (low_a, high_a), (low_b, high_b) = (gaffke_ends(h, sizes) for h in hits)
        change = rates[1] - rates[0]
        low = change - np.hypot(rates[1] - low_b, high_a - rates[0])
        high = change + np.hypot(high_b - rates[1], rates[0] - low_a)
        held = (low <= p[1] - p[0]) & (p[1] - p[0] <= high)
        setting = {"part": "difference", "model": model, "k": k, "m": 10, "p": p, "icc": icc}
        yield setting | {"coverage": {"mover": float(held.mean())}}


def simulate_paired(model: str) -> Iterator[Row]:
    """Yield a row a setting: coverage of the interval of a paired difference of two rates, of the
    same k clips of 10 frames, and its mean width beside that of unpaired rates.

    The control has one chance a frame, the patch keeps its hits and adds others: by chances of its
    own ("beside"), or in the clips where the control is met ("alike"), as blur does.
    """
    for k, p, icc in itertools.product((5, 10, 30), ((0.02, 0.9), (0.4, 0.8)), (0.1, 0.6)):
        for kind in ("beside", "alike"):
            rng = numpy_generator(0, "paired", model, k, str(p), str(icc), kind)
            sizes = np.full(k, 10)
            control = draw_hits(model, rng, PAIRED, sizes, p[0], icc)
            added = (p[1] - p[0]) / (1 - p[0])
            if kind == "beside":
                extra = draw_hits(model, rng, PAIRED, sizes, added, icc)
                gained = rng.hypergeometric(extra, 10 - extra, 10 - control)
            else:
                gained = rng.binomial(10 - control, added)
            patch = control + gained
            # Frame by frame: half of (patch - control + 1) lies in [0, 1].
            low, high = (2 * end - 1 for end in gaffke_ends((patch - control + 10) / 2, sizes))
            ends = [gaffke_ends(hits, sizes) for hits in (control, patch)]
            rates = [hits.sum(1) / sizes.sum() for hits in (control, patch)]
            wide = np.hypot(rates[1] - ends[1][0], ends[0][1] - rates[0]) + np.hypot(
                ends[1][1] - rates[1], rates[0] - ends[0][0]
            )
            truth = p[1] - p[0]
            held = (low - 1e-9 <= truth) & (truth <= high + 1e-9)
            setting = {"part": "paired", "model": model, "kind": kind}
            yield setting | {
                "k": k,
                "m": 10,
                "p": p,
                "icc": icc,
                "coverage": {"gaffke": float(held.mean())},
                "width": {"paired": float((high - low).mean()), "unpaired": float(wide.mean())},
            }


def draw_scenes(rng: np.random.Generator, spread: float, draws: int = 8) -> list[Row]:
    """Draw the scenes of one photo with one object: it is seen with a probability of the photo's
    own, and boxes beside it are as frequent as the photo has it."""
    seen, beside = special.expit(1 + rng.normal(0, spread)), rng.gamma(0.5, 0.6)
    scenes: list[Row] = []
    for _ in range(draws):
        hit, extra = bool(rng.random() < seen), int(rng.poisson(beside))
        scores = [*([float(rng.beta(5, 2))] if hit else []), *rng.beta(2, 3, extra).tolist()]
        scenes.append({"scores": scores, "hits": [hit] * hit + [False] * extra, "extra": extra})
    return scenes


def simulate_detection(spread: float, samples: int = 200) -> Iterator[Row]:
    """Yield a row a number of photos: coverage of the intervals of average precision and of extra
    boxes a picture."""
    rng = numpy_generator(0, "detection", str(spread))
    population = [draw_scenes(rng, spread) for _ in range(4000)]
    truth = _precision([scene for photo in population for scene in photo])

    for k in (3, 5, 10, 20, 40):
        held = np.zeros(2)
        for chosen in rng.integers(0, len(population), (samples, k)):
            scenes = [scene for i in chosen for scene in population[i]]
            photos = [str(number // 8) for number in range(len(scenes))]
            ap = jackknife_interval(
                partial(_precision_of, scenes),
                photos,
                n=len(scenes),
            )
            extra = count_interval([scene["extra"] for scene in scenes], photos)
            for number, (found, value) in enumerate(((ap, truth), (extra, 0.3))):
                held[number] += float(found.low or 0) <= value <= float(found.high or 0)
        covered = dict(zip(("ap", "extra boxes"), (held / samples).tolist(), strict=True))
        yield {"part": "detection", "k": k, "spread": spread, "coverage": covered}


def _precision_of(scenes: Sequence[Row], chosen: Sequence[int]) -> float:
    return _precision([scenes[number] for number in chosen])


def _precision(scenes: Sequence[Row]) -> float:
    scores = [score for scene in scenes for score in scene["scores"]]
    hits = [hit for scene in scenes for hit in scene["hits"]]
    return average_precision(scores, hits, len(scenes))


# Table.


def summary(rows: Sequence[Row]) -> str:
    """Return the tables of coverage.md."""
    fixed = [row for row in rows if row["part"] == "fixed"]
    names = list(fixed[0]["coverage"])
    lines = [
        "| interval | least coverage | at (model; k, m, p, icc) | settings below 94 % | median "
        "coverage | mean width at k 5; 20; 60 |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        covered = [row["coverage"][name] for row in fixed]
        worst = min(fixed, key=lambda row: row["coverage"][name])
        width = "; ".join(
            f"{np.mean([row['width'][name] for row in fixed if row['k'] == k]):.3f}"
            for k in (5, 20, 60)
        )
        where = f"{worst['model']}; {worst['k']}, {worst['m']}, {worst['p']:g}, {worst['icc']:g}"
        below = sum(value < 0.94 for value in covered)
        lines.append(
            f"| {NAMES[name]} | {min(covered):.1%} | {where} | {below} of {len(fixed)} "
            f"| {np.median(covered):.1%} | {width} |"
        )

    lines += [
        "",
        "| part | settings | least coverage | below 94 % |",
        "|---|---|---|---|",
    ]
    for part, name in (
        ("fixed", "gaffke"),
        ("unequal", "gaffke"),
        ("difference", "mover"),
        ("paired", "gaffke"),
    ):
        for model in MODELS:
            values = [
                row["coverage"][name]
                for row in rows
                if row["part"] == part and row["model"] == model
            ]
            if not values:
                continue
            below = sum(value < 0.94 for value in values)
            lines.append(f"| {part}, {model} | {len(values)} | {min(values):.1%} | {below} |")

    paired = [row for row in rows if row["part"] == "paired"]
    if paired:
        lines += [
            "",
            "| paired difference of | clips | least coverage | mean width | mean width, unpaired |",
            "|---|---|---|---|---|",
        ]
    for p, k in sorted({(tuple(row["p"]), row["k"]) for row in paired}):
        own = [row for row in paired if (tuple(row["p"]), row["k"]) == (p, k)]
        width, apart = (np.mean([r["width"][n] for r in own]) for n in ("paired", "unpaired"))
        least = min(row["coverage"]["gaffke"] for row in own)
        lines.append(f"| {p[0]:g} and {p[1]:g} | {k} | {least:.1%} | {width:.3f} | {apart:.3f} |")

    lines += [
        "",
        "| p | icc | aim | betting: coverage at the stop, clips | Gaffke: coverage, clips "
        "| bootstrap: coverage, clips |",
        "|---|---|---|---|---|---|",
    ]
    for row in (row for row in rows if row["part"] == "stop"):
        cells = [
            f"{row['coverage'][name]:.1%}, {row['clips'][name]:.0f}"
            if row["coverage"][name] is not None
            else "not within 400 clips"
            for name in ("betting", "gaffke", "bootstrap")
        ]
        setting = f"| {row['p']:g} | {row['icc']:g} | {row['aim']:g} | "
        lines.append(setting + " | ".join(cells) + " |")

    lines += ["", "| photos | spread | average precision | extra boxes |", "|---|---|---|---|"]
    for row in (row for row in rows if row["part"] == "detection"):
        ap, extra = row["coverage"].values()
        lines.append(f"| {row['k']} | {row['spread']:g} | {ap:.1%} | {extra:.1%} |")
    return "\n".join(lines)


def main() -> None:
    """Simulate, or write the table of the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--parts", nargs="+", default=list(PARTS))
    options = parser.parse_args()

    if options.command == "run":
        kept = [] if not ROWS.exists() else list(read_rows(ROWS))
        rows = [row for row in kept if row["part"] not in options.parts]
        for model in MODELS:
            for part, simulate in (
                ("fixed", simulate_equal_clips),
                ("unequal", simulate_unequal_clips),
                ("difference", simulate_differences),
                ("paired", simulate_paired),
            ):
                if part in options.parts:
                    rows += simulate(model)
        if "stop" in options.parts:
            rows += [
                simulate_stops(MODELS[0], p, icc, aim)
                for p, icc, aim in itertools.product((0.5, 0.8, 0.95), (0.1, 0.3, 0.6), (0.2, 0.3))
            ]
        if "detection" in options.parts:
            rows += [row for spread in (1.0, 2.5) for row in simulate_detection(spread)]
        ROWS.unlink(missing_ok=True)
        append_rows(ROWS, rows)

    start = TABLE.read_text(encoding="utf-8").split("| interval |")[0] if TABLE.exists() else ""
    TABLE.write_text(start + summary(list(read_rows(ROWS))) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
