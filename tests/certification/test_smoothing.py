"""Randomized smoothing: closed forms on linear models, coverage by simulation, Cohen's published
table."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from torch import Tensor, nn

from physadv.certification.certify_images import certify_smoothing
from physadv.certification.smoothing.certify import (
    ABSTAIN,
    SmoothingCertificate,
    certified_accuracy,
    certify_image,
    certify_with_sampler,
    clopper_pearson_bound,
    predict_smoothed,
)
from physadv.certification.smoothing.fixed_radius import certify_at_radius, simulate_plan
from physadv.certification.smoothing.noise import (
    GaussianNoise,
    LaplaceNoise,
    SmoothingNoise,
    UniformNoise,
    noise_by_name,
)
from physadv.certification.smoothing.sampler import UNIT, NoiseSampler, SampleRequest
from physadv.certification.smoothing.sequential_plan import (
    SequentialPlan,
    make_sequential_plan,
    plan_prospects,
)
from physadv.certification.smoothing.settled_radius import certify_until_settled, settled_bound
from physadv.core.errors import ModelError, OptionError

PUBLISHED = {
    ("0.25", 0.25): 0.600,
    ("0.25", 0.5): 0.428,
    ("0.50", 0.25): 0.546,
    ("0.50", 0.5): 0.414,
}


class FirstPixel:
    """Class 1 where the first number exceeds 0.5: its distance to the boundary is known in every
    norm."""

    def __init__(self) -> None:
        self.largest = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.largest = max(self.largest, len(images))
        margin = images.flatten(1)[:, 0] - 0.5
        return torch.stack([-margin, margin], 1)


def image(first: float) -> Tensor:
    x = torch.zeros(1, 3, 2, 2)
    x[0, 0, 0, 0] = first
    return x


@pytest.mark.parametrize("noise", [GaussianNoise(0.3), LaplaceNoise(0.3), UniformNoise(0.8)])
@given(distance=st.floats(0.001, 0.7))
@settings(max_examples=30, deadline=None)
def test_radius_is_the_distance_on_a_linear_model(noise: SmoothingNoise, distance: float) -> None:
    """With the exact probability of a linear classifier the certified radius is its exact distance
    to the boundary."""
    exact = {
        "GaussianNoise": stats.norm(scale=0.3),
        "LaplaceNoise": stats.laplace(scale=0.3),
        "UniformNoise": stats.uniform(-0.8, 1.6),
    }[type(noise).__name__]
    norm = "l2" if isinstance(noise, GaussianNoise) else "l1"
    p = float(exact.cdf(distance))
    assert noise.radius(p, norm, 12) == pytest.approx(distance, rel=1e-6)
    assert noise.needed(distance, norm, 12) == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "spread"), [("gaussian", 1.0), ("laplace", 2**0.5), ("uniform", 3**-0.5)]
)
def test_noise_has_its_own_spread(name: str, spread: float) -> None:
    """Noise drawn has mean 0 and the standard deviation its name promises, and moves no global
    generator."""
    before = torch.random.get_rng_state()
    x = noise_by_name(name, 0.5).draw((200_000,), torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert abs(float(x.mean())) < 0.01
    assert float(x.std()) == pytest.approx(0.5 * spread, rel=0.02)


def test_linf_pays_the_root_of_the_dimension() -> None:
    """The l_inf radius from Gaussian noise is the l_2 radius over sqrt(d)."""
    noise = GaussianNoise(0.5)
    assert noise.radius(0.99, "linf", 3072) * 3072**0.5 == pytest.approx(
        noise.radius(0.99, "l2", 3072)
    )


def test_half_certifies_nothing() -> None:
    """No radius where the class probability is one half or less."""
    for p in (0.0, 0.3, 0.5):
        assert GaussianNoise(1.0).radius(p, "l2", 4) == 0
        assert LaplaceNoise(1.0).radius(p, "l1", 4) == 0
        assert UniformNoise(1.0).radius(p, "l1", 4) == 0
    assert GaussianNoise(1.0).radius(0.51, "l2", 4) > 0
    assert LaplaceNoise(1.0).radius(0.51, "l1", 4) > 0
    assert UniformNoise(1.0).radius(0.51, "l1", 4) > 0


@pytest.mark.parametrize(
    ("noise", "norm"),
    [(GaussianNoise(1), "l1"), (LaplaceNoise(1), "l2"), (UniformNoise(1), "linf")],
)
def test_a_norm_the_noise_does_not_serve_is_refused(noise: SmoothingNoise, norm: str) -> None:
    """Each noise certifies only its own norms."""
    with pytest.raises(OptionError):
        noise.radius(0.9, norm, 4)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.999])
def test_clopper_pearson_covers(p: float) -> None:
    """The lower bound exceeds the true probability in at most a share alpha of the draws, computed
    exactly."""
    n, alpha = 200, 0.05
    counts = np.arange(n + 1)
    above = np.array([clopper_pearson_bound(int(c), n, alpha) > p for c in counts])
    assert stats.binom.pmf(counts, n, p)[above].sum() <= alpha


def test_unanimity_gives_cohens_largest_radius() -> None:
    """100,000 votes of 100,000 at alpha 0.001 give 3.811 sigma, the largest radius of the
    method."""
    assert GaussianNoise(1.0).radius(
        clopper_pearson_bound(100_000, 100_000, 0.001), "l2", 1
    ) == pytest.approx(3.811, abs=5e-4)


@pytest.mark.parametrize("noise", [GaussianNoise(0.25), LaplaceNoise(0.2), UniformNoise(0.6)])
def test_certify_stays_within_the_true_distance(noise: SmoothingNoise) -> None:
    """A certificate on the linear model names the right class and a radius below, but near, the
    true distance."""
    norm = "l2" if isinstance(noise, GaussianNoise) else "l1"
    found = certify_image(
        FirstPixel(), image(0.8), noise, norm=norm, n=20_000, alpha=0.001, batch=4096
    )
    assert found.predicted == 1
    assert 0.8 * 0.3 < found.radius <= 0.3
    assert found.samples == 20_100


def test_on_the_boundary_it_abstains() -> None:
    """Where both classes are equally likely, certify and predict abstain."""
    found = certify_image(FirstPixel(), image(0.5), GaussianNoise(0.25), n=2000)
    assert (found.predicted, found.radius) == (ABSTAIN, 0.0)
    assert predict_smoothed(FirstPixel(), image(0.5), GaussianNoise(0.25), n=500) == ABSTAIN
    assert predict_smoothed(FirstPixel(), image(0.9), GaussianNoise(0.25), n=500) == 1


def test_memory_is_one_batch() -> None:
    """However many samples are requested, no batch is larger than the one allowed (in whole
    units)."""
    model = FirstPixel()
    certify_image(model, image(0.8), GaussianNoise(0.25), n=3000, batch=50)
    assert model.largest <= 50 + UNIT


def test_staged_memory_is_one_batch_however_many_images() -> None:
    """Images share batches in stages too, and no batch grows with their number."""
    model, noise = FirstPixel(), GaussianNoise(0.25)
    plan = make_sequential_plan(noise.needed(0.2, "l2", 12), n=2000)
    crowd = [image(0.4 + 0.03 * i) for i in range(20)]
    found = certify_at_radius(NoiseSampler(model, noise, batch=48), crowd, plan, radius=0.2)
    assert model.largest <= 48 + UNIT
    assert {c.predicted for c in found} > {1}


@given(batch=st.integers(1, 300), first=st.integers(0, 40), count=st.integers(1, 120))
@settings(max_examples=25, deadline=None)
def test_counts_do_not_depend_on_packing(batch: int, first: int, count: int) -> None:
    """The same samples give the same votes alone, in company, in pieces and at any batch size."""
    wanted = [
        SampleRequest(image(0.6), 3, "count", first, count),
        SampleRequest(image(0.45), 9, "count", 0, 77),
    ]
    packed = NoiseSampler(FirstPixel(), GaussianNoise(0.2), seed=5, batch=batch).count(wanted)
    alone = NoiseSampler(FirstPixel(), GaussianNoise(0.2), seed=5, batch=1000)
    half = count // 2
    pieces = [
        SampleRequest(image(0.6), 3, "count", first, half),
        SampleRequest(image(0.6), 3, "count", first + half, count - half),
    ]
    assert (
        packed[0].tolist()
        == alone.count(wanted[:1])[0].tolist()
        == sum(alone.count(pieces)).tolist()
    )
    assert packed[0].sum() == count
    assert packed[1].tolist() == alone.count(wanted[1:])[0].tolist()


def test_a_detector_is_refused() -> None:
    """A model that does not return logits ends in a plain error."""
    with pytest.raises(ModelError):
        predict_smoothed(lambda x: x, image(0.5), GaussianNoise(1.0), n=16)


@pytest.mark.parametrize(
    ("n0", "n", "alpha"), [(0, 10, 0.1), (1, 0, 0.1), (1, 1, 0.0), (1, 1, 1.0)]
)
def test_numbers_out_of_range_are_refused(n0: int, n: int, alpha: float) -> None:
    """Counts below one and an alpha outside (0, 1) are errors."""
    with pytest.raises(OptionError):
        certify_image(FirstPixel(), image(0.8), GaussianNoise(1.0), n0=n0, n=n, alpha=alpha)


@pytest.mark.parametrize("needed", [0.5, 0.84, 0.977, 0.9987])
@pytest.mark.parametrize("futility", [0.0, 0.01])
def test_staged_error_is_at_most_alpha(needed: float, futility: float) -> None:
    """Images just not good enough are certified in at most a share alpha of the runs (100,000
    simulated runs)."""
    plan = make_sequential_plan(needed, n=20_000, alpha=0.05, futility=futility)
    wrong, used = simulate_plan(plan, np.full(100_000, needed), np.random.default_rng(0))
    assert wrong.sum() <= stats.binom.isf(
        1e-4, 100_000, 0.05
    )  # the plan spends nearly all of alpha
    assert wrong.mean() > 0.005  # a rule that never certifies would pass the line above
    assert used.max() <= 20_000


def chance_by_hand(plan: SequentialPlan, p: float) -> float:
    """The chance of a certificate, one sample after the other: no tails cut, no barrier but the
    plan's own."""
    chances, certified = np.ones(1), 0.0
    for m in range(1, plan.looks[-1] + 1):
        chances = np.append(chances * (1 - p), 0) + np.append(0, chances * p)
        if m in plan.looks:
            look = plan.looks.index(m)
            certified += chances[plan.accept[look] :].sum()
            chances[plan.accept[look] :] = 0
            chances[: plan.reject[look] + 1] = 0
    assert not chances.any()
    return float(certified)


@pytest.mark.parametrize(
    ("needed", "n", "alpha"), [(0.5, 300, 0.05), (0.84, 1000, 0.01), (0.977, 2000, 0.001)]
)
def test_the_error_of_a_plan_is_exact_and_never_above_alpha(
    needed: float, n: int, alpha: float
) -> None:
    """The chance at the needed probability, recomputed sample by sample, is that of the plan: at
    most alpha."""
    plan = make_sequential_plan(needed, n=n, alpha=alpha, futility=0.01)
    assert 0.5 * alpha < chance_by_hand(plan, needed) <= alpha
    for p in (needed - 0.1, needed, (1 + needed) / 2, 1.0):
        assert plan_prospects(plan, p)[0] == pytest.approx(chance_by_hand(plan, p), abs=1e-10)


@given(
    needed=st.floats(0.5, 0.9999),
    n=st.integers(1, 3000),
    alpha=st.floats(1e-6, 0.5),
    growth=st.floats(1.05, 4),
)
@settings(max_examples=30, deadline=None)
def test_any_plan_keeps_its_error_and_below_it_less(
    needed: float, n: int, alpha: float, growth: float
) -> None:
    """At or below the needed probability no plan certifies more often than alpha, and the chance
    rises with p."""
    plan = make_sequential_plan(needed, n=n, alpha=alpha, growth=growth)
    chances = [plan_prospects(plan, needed * share)[0] for share in (0.7, 0.95, 0.999, 1.0)]
    assert chances == sorted(chances)
    assert chances[-1] <= alpha
    assert plan.looks[-1] == n
    assert all(r < a for r, a in zip(plan.reject, plan.accept, strict=True))


def test_simulated_plans_do_what_the_recursion_says() -> None:
    """Chance and mean number of samples agree with 50,000 simulated images."""
    plan = make_sequential_plan(0.977, n=20_000, alpha=0.01)
    for p in (0.97, 0.981, 0.99):
        certified, used = simulate_plan(plan, np.full(50_000, p), np.random.default_rng(3))
        chance, samples = plan_prospects(plan, p)
        assert certified.mean() == pytest.approx(chance, abs=0.01)
        assert used.mean() == pytest.approx(samples, rel=0.02)


def test_no_look_certifies_what_clopper_pearson_would_not() -> None:
    """The fewest votes that certify at any look pass the one-look bound at the whole of alpha."""
    plan = make_sequential_plan(0.9, n=5000, alpha=0.01)
    certifying = [(m, a) for m, a in zip(plan.looks, plan.accept, strict=True) if a <= m]
    assert len(certifying) > 5
    assert all(clopper_pearson_bound(accept, m, 0.01) > 0.9 for m, accept in certifying)


def test_staged_saves_samples_where_it_is_hardest() -> None:
    """At three sigma, images far from the radius on either side cost a few percent of 100,000
    samples on average."""
    plan = make_sequential_plan(GaussianNoise(1.0).needed(3.0, "l2", 1))
    assert plan_prospects(plan, 0.5)[1] < 100
    assert plan_prospects(plan, 1.0) == (pytest.approx(1.0), pytest.approx(8000, rel=0.2))


def test_staged_finds_what_is_clear_and_gives_up_early() -> None:
    """A clear image is certified and a hopeless one abandoned with few samples; both name the
    radius truly."""
    noise, radius = GaussianNoise(0.25), 0.25
    plan = make_sequential_plan(noise.needed(radius, "l2", 12), n=10_000)
    sampler = NoiseSampler(FirstPixel(), noise, seed=2, batch=128)
    clear, wrong, close = certify_at_radius(
        sampler, [image(1.3), image(0.52), image(0.1)], plan, radius=radius
    )
    assert (clear.predicted, clear.radius) == (1, radius)
    assert (wrong.predicted, wrong.radius) == (ABSTAIN, 0.0)
    assert close.predicted in (0, ABSTAIN)
    assert clear.samples < 500
    assert wrong.samples < 500


def test_staged_does_not_depend_on_company() -> None:
    """An image's certificate is the same alone and among others."""
    noise = GaussianNoise(0.25)
    plan = make_sequential_plan(noise.needed(0.2, "l2", 12), n=4000)
    crowd = [image(0.6 + 0.05 * i) for i in range(6)]
    together = certify_at_radius(
        NoiseSampler(FirstPixel(), noise, batch=64), crowd, plan, radius=0.2
    )
    alone = certify_at_radius(
        NoiseSampler(FirstPixel(), noise, batch=500), crowd[3:4], plan, radius=0.2, indices=[3]
    )
    assert alone[0] == together[3]


def test_a_plan_for_another_radius_is_refused() -> None:
    """A certificate never has a radius that its plan does not reach, in whichever norm."""
    noise = GaussianNoise(0.25)
    plan = make_sequential_plan(noise.needed(0.2, "l2", 12), n=4000)
    sampler = NoiseSampler(FirstPixel(), noise)
    with pytest.raises(OptionError):
        certify_at_radius(sampler, [image(0.9)], plan, radius=0.21)
    with pytest.raises(OptionError):
        certify_at_radius(sampler, [image(0.9)], plan, radius=0.2, norm="linf")
    (found,) = certify_at_radius(sampler, [image(1.4)], plan, radius=0.2 / 12**0.5, norm="linf")
    assert found.radius == 0.2 / 12**0.5


def test_a_net_left_in_training_mode_is_certified_in_eval_mode() -> None:
    """Batch normalization must not mix the noisy images of a batch; afterwards the net is as it
    was."""
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.BatchNorm1d(12), torch.nn.Linear(12, 2)
    ).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = [
        certify_image(net, image(0.8), GaussianNoise(0.25), n=400, n0=16, batch=b)
        for b in (16, 160)
    ]
    assert found[0] == found[1]
    assert net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("first", "second", "named"), [(30, 12, True), (28, 14, False), (1, 0, False)]
)
def test_predict_is_cohens_two_sided_test(first: int, second: int, named: bool) -> None:
    """The class is named where a two-sided binomial test of the top two counts at one half rejects
    at alpha 0.01."""
    tail = sum(comb(first + second, k) for k in range(first, first + second + 1)) / 2 ** (
        first + second
    )
    assert (2 * tail <= 0.01) is named

    class Counted:
        """Answers class 2 ``first`` times, class 0 ``second`` times, then class 1 once."""

        def __init__(self) -> None:
            self.asked = 0

        def __call__(self, images: Tensor) -> Tensor:
            turns = torch.arange(self.asked, self.asked + len(images))
            self.asked += len(images)
            answers = torch.where(turns < first, 2, torch.where(turns < first + second, 0, 1))
            return torch.nn.functional.one_hot(answers, 3).float()

    found = predict_smoothed(
        Counted(), image(0.5), GaussianNoise(1.0), n=first + second, alpha=0.01
    )
    assert found == (2 if named else ABSTAIN)


def test_the_laplace_radius_is_the_better_of_the_papers_two() -> None:
    """With the runner-up at 1 - p, -b log(2 (1 - p)) is never below b / 2 log(p / (1 - p)) (Teng et
    al. 2020)."""
    for p in (0.51, 0.7, 0.9, 0.9999):
        assert LaplaceNoise(0.4).radius(p, "l1", 4) >= 0.2 * np.log(p / (1 - p))


def test_a_radius_out_of_reach_is_refused() -> None:
    """Uniform noise cannot certify a radius of its half width, and the plan is refused."""
    with pytest.raises(OptionError):
        make_sequential_plan(UniformNoise(0.5).needed(0.5, "l1", 12))


@pytest.mark.parametrize(("sigma", "radius"), list(PUBLISHED))
def test_cohens_rows_give_cohens_table(shared_data: Path, sigma: str, radius: float) -> None:
    """Certified accuracy recomputed from the published rows is the published one."""
    file = shared_data / "smoothing-rows" / f"cohen2019_cifar10_resnet110_sigma_{sigma}.tsv"
    rows = np.genfromtxt(file, skip_header=1)
    found = [SmoothingCertificate(int(r[2]), float(r[3]), 0.0, 0) for r in rows]
    assert certified_accuracy([int(r[1]) for r in rows], found, radius) == pytest.approx(
        PUBLISHED[sigma, radius]
    )


class Centered(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)).flatten(1)[:, :3]


def test_votes_that_depend_on_each_other_are_refused() -> None:
    """A noisy image's class must not depend on the others of its batch, and one logit is no
    vote."""
    pixels = torch.rand(2, 1, 4, 4)
    with pytest.raises(ModelError, match="alone and in a batch"):
        certify_smoothing(Centered(), pixels, sigma=0.1, n0=5, n=50)
    single = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    with pytest.raises(ModelError, match="at least two"):
        certify_smoothing(single, pixels, sigma=0.1, n0=5, n=50)


def test_a_settled_radius_keeps_the_coverage() -> None:
    """Simulated on known probabilities the bound is above the truth in at most alpha of the cases,
    and few samples are drawn."""
    draw, alpha, runs = np.random.default_rng(0), 0.05, 2000
    for p in (0.52, 0.6, 0.8, 0.95, 0.999, 0.9999):
        wrong, samples = 0, 0
        for _ in range(runs):
            found = settled_bound(
                lambda first, count, p=p: int(draw.binomial(count, p)),
                lambda q: float(special.ndtri(q)),
                n=16_000,
                alpha=alpha,
                decline=0.1,
            )
            wrong += found.p_low > p
            samples += found.samples
        # The count of wrong bounds is binomial; three deviations above its mean are allowed.
        assert wrong <= alpha * runs + 3 * (alpha * runs) ** 0.5
        assert samples / runs < (16_000 if p in (0.52, 0.9999) else 12_000)


def test_a_settled_radius_is_near_that_of_all_samples() -> None:
    """The mean radius loses no more than the share that was allowed, and a tenth of it for the
    looks; a hopeless image stops at once."""
    draw = np.random.default_rng(1)
    for p in (0.7, 0.9, 0.99):
        radii, full = [], []
        for _ in range(60):
            votes = draw.random(100_000) < p
            found = settled_bound(
                lambda first, count, votes=votes: int(votes[first : first + count].sum()),
                lambda q: float(special.ndtri(q)),
                decline=0.1,
            )
            radii.append(special.ndtri(found.p_low))
            full.append(special.ndtri(clopper_pearson_bound(int(votes.sum()), 100_000, 0.001)))
        assert np.mean(radii) >= 0.89 * np.mean(full)
    hopeless = settled_bound(lambda first, count: count // 4, lambda q: q - 0.5)
    assert hopeless.samples < 1000
    assert hopeless.p_low < 0.5


def test_stopping_early_counts_the_same_votes() -> None:
    """With the noise of the full certificate, stopped early, the radius is smaller and near."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.ones(2, 12) * torch.tensor([[1.0], [-1.0]]))
        net[1].bias.copy_(torch.tensor([-12.0, 12.0]) * 0.4)
    sampler = NoiseSampler(net, GaussianNoise(0.25))
    image = torch.full((1, 3, 2, 2), 0.5)
    full = certify_with_sampler(sampler, image, n=20_000)
    early = certify_until_settled(sampler, image, n=20_000, decline=0.2)
    assert early.predicted == full.predicted == 0
    assert early.samples < full.samples
    assert 0.75 * full.radius <= early.radius <= full.radius + 0.01
    with pytest.raises(OptionError):
        certify_until_settled(sampler, image, decline=1.0)
