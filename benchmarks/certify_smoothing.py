"""Staged smoothing beside Cohen's, on Cohen's own rows: certified accuracy and samples an image.

    python benchmarks/certify_smoothing.py <shared data>/smoothing-rows --out
    benchmarks/certify_smoothing.jsonl

From each published radius the count of votes behind it is recovered (the radii fit n = 100,000 and
alpha = 0.01 to their last digit; the largest, 3.912 sigma, is out of reach at 0.001). Votes / n is
then taken as the image's true probability; rows that abstained get 1/2. Both procedures run on
those, at both alphas.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from physadv.certification.smoothing.fixed_radius import simulate_plan
from physadv.certification.smoothing.noise import GaussianNoise
from physadv.certification.smoothing.sequential_plan import make_sequential_plan
from physadv.core.random_streams import numpy_generator
from physadv.core.rows import Row, append_rows

Floats = npt.NDArray[np.float64]
N, N0, ROWS_ALPHA = 100_000, 100, 0.01
RADII = {0.25: (0.25, 0.5, 0.75), 0.5: (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)}


def bounds(counts: npt.NDArray[np.int64], alpha: float) -> Floats:
    """Clopper-Pearson lower bounds of counts of N."""
    return np.asarray(stats.beta.ppf(alpha, np.maximum(counts, 1), N - counts + 1))


def probabilities(radii: Floats, sigma: float) -> tuple[Floats, float]:
    """votes / N behind each radius (1/2 for 0), and the largest error of the radii recomputed from
    them."""
    table = sigma * special.ndtri(np.clip(bounds(np.arange(N + 1), ROWS_ALPHA), 0.5, 1))
    votes = np.array([np.abs(table - r).argmin() if r > 0 else N // 2 for r in radii])
    return votes / N, float(np.abs(table[votes] - radii)[radii > 0].max())


def compare(
    p: Floats,
    right: npt.NDArray[np.bool_],
    sigma: float,
    radius: float,
    alpha: float,
    args: argparse.Namespace,
) -> Row:
    """One line: Cohen's procedure and the staged one simulated ``args.trials`` times on the same
    probabilities."""
    needed = GaussianNoise(sigma).needed(radius, "l2", 3072)
    rng = numpy_generator(args.seed, "rows", str(sigma), str(radius), str(alpha))
    many = np.repeat(p[None], args.trials, 0)
    cohen = ((bounds(rng.binomial(N, many), alpha) > needed) & right).mean(1)
    certified, used = simulate_plan(make_sequential_plan(needed, n=args.n, alpha=alpha), many, rng)
    staged = (certified & right).mean(1)
    samples = used.mean(1) + args.n0
    return {
        "sigma": sigma,
        "radius": radius,
        "alpha": alpha,
        "images": len(p),
        "trials": args.trials,
        "cohen": float(cohen.mean()),
        "staged": float(staged.mean()),
        "difference_low": float(np.quantile(staged - cohen, 0.025)),
        "difference_high": float(np.quantile(staged - cohen, 0.975)),
        "cohen_samples": N + N0,
        "staged_samples": float(samples.mean()),
        "fewer": float((N + N0) / samples.mean()),
    }


def main() -> None:
    """Print a table and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--n", type=int, default=120_000, help="most samples of the staged procedure"
    )
    parser.add_argument("--n0", type=int, default=32, help="samples that pick the class, staged")
    args = parser.parse_args()
    found: list[Row] = []
    for sigma, radii in RADII.items():
        rows = np.genfromtxt(
            args.folder / f"cohen2019_cifar10_resnet110_sigma_{sigma:.2f}.tsv", skip_header=1
        )
        right = rows[:, 4] == 1
        p, error = probabilities(rows[:, 3], sigma)
        print(f"sigma {sigma}: radii recomputed from recovered counts within {error:.4f}")
        for alpha in (0.01, 0.001):
            for radius in radii:
                row = {"published": float((right & (rows[:, 3] >= radius)).mean())}
                found.append(row | compare(p, right, sigma, radius, alpha, args))
    for r in found:
        print(
            f"sigma {r['sigma']:<4} alpha {r['alpha']:<5} radius {r['radius']:<4} published "
            f"{r['published']:.3f} "
            f"Cohen {r['cohen']:.4f} staged {r['staged']:.4f} samples {r['staged_samples']:7.0f} "
            f"x{r['fewer']:.1f} fewer"
        )
    if args.out:
        args.out.unlink(missing_ok=True)
        append_rows(args.out, found)


if __name__ == "__main__":
    main()
