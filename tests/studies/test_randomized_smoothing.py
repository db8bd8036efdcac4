"""The study of randomized smoothing: its formulas, and certified circles that hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from study_runs import quick_page, small_images

from physadv.core.animations import save_gif
from physadv.core.errors import DataError, OptionError
from physadv.core.random_streams import numpy_generator
from physadv.core.wording import format_percent
from physadv.studies.certificate_studies_config import SmoothingStudyConfig
from physadv.studies.page import StudyPage
from physadv.studies.plane_regions import classes_on_grid, grid_points, painted_regions
from physadv.studies.randomized_smoothing import CLASSES, STUDY, smoothed_shares
from physadv.studies.randomized_smoothing_page import PIXEL, PUBLISHED, published_shares
from physadv.studies.smoothing_bounds import (
    cohen_radius,
    largest_radius,
    lecuyer_radius,
    li_radius,
    radius_quantiles,
)
from physadv.studies.study import Workspace, study_rows
from physadv.studies.vote_animation import VoteFrame, draw_votes

PROBABILITIES = (0.51, 0.6, 0.75, 0.9, 0.99, 0.9999)


@pytest.mark.parametrize("p", PROBABILITIES)
def test_a_half_plane_attains_cohens_radius(p: float) -> None:
    """Where a line divides the classes, the top class has exactly one half at the radius."""
    line = stats.norm.ppf(p)  # distance of the line, in standard deviations
    assert stats.norm.cdf(line - cohen_radius(p)) == pytest.approx(0.5)


@pytest.mark.parametrize("p", PROBABILITIES)
def test_older_proofs_give_smaller_radii(p: float) -> None:
    """No valid radius exceeds the tight one; the papers' order is kept."""
    assert 0 < lecuyer_radius(p) < li_radius(p) < cohen_radius(p)


@pytest.mark.parametrize("p", [0.6, 0.9, 0.99])
def test_li_is_the_supremum_over_the_order(p: float) -> None:
    """The radius equals the best of a fine grid of orders of the paper's formula."""
    orders = 1 + np.exp(np.linspace(-6, 5, 20_000))
    mean = ((p ** (1 - orders) + (1 - p) ** (1 - orders)) / 2) ** (1 / (1 - orders))
    assert li_radius(p) == pytest.approx(np.sqrt((-2 / orders * np.log(2 * mean)).max()), rel=1e-4)


@pytest.mark.parametrize("radius", [cohen_radius, li_radius, lecuyer_radius])
def test_without_a_majority_nothing_is_certified(radius: object) -> None:
    """Up to one half there is no radius."""
    assert callable(radius)
    assert radius(0.5) == radius(0.2) == 0


def test_quantiles_of_the_radius_are_those_of_simulated_counts() -> None:
    """The middle 95 % of certified radii hold what binomial counts give."""
    p, n, alpha = 0.85, 200, 0.001
    counts = numpy_generator(0, "counts").binomial(n, p, 4000)
    radii = [cohen_radius(float(stats.beta.ppf(alpha, c, n - c + 1))) for c in counts]
    low, median, high = radius_quantiles(p, n, alpha)
    assert np.mean([low <= r <= high for r in radii]) == pytest.approx(0.95, abs=0.02)
    assert np.median(radii) == pytest.approx(median, abs=0.03)
    assert largest_radius(n, alpha) == pytest.approx(
        cohen_radius(float(stats.beta.ppf(alpha, n, 1)))
    )


def test_shares_under_noise_of_a_half_plane() -> None:
    """Left of a vertical line the share of its class is the normal distribution function."""
    labels = (grid_points(0, 1, 200)[:, 0] > 0.5).long().view(200, 200).numpy()
    shares = smoothed_shares(labels, 0.1, 1.0)
    assert shares.shape == (CLASSES, 200, 200)
    assert shares[0, 100, 80] == pytest.approx(stats.norm.cdf((0.5 - 80.5 / 200) / 0.1), abs=0.01)
    assert shares.sum(0) == pytest.approx(np.ones((200, 200)))


def test_pictures_begin_at_the_top() -> None:
    """The first row of a grid has the largest y, and each pixel the color of its class."""
    labels = classes_on_grid(lambda points: torch.stack([-points[:, 1], points[:, 1]], 1), -1, 1, 8)
    assert labels[0].tolist() == [1] * 8
    assert labels[-1].tolist() == [0] * 8
    picture = painted_regions(labels, ("#000000", "#ffffff"))
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture[-1, 0].tolist() == [0, 0, 0]


def test_a_frame_shows_counts_below_the_plane() -> None:
    """Noisy points outside the plane leave the band of counts alone."""
    regions = np.full((100, 100, 3), 255, np.uint8)
    noisy = np.array([[0.5, 0.5], [0.5, -0.4]], np.float32)
    frames = [
        draw_votes(
            regions, 0, 1, (0.5, 0.5), noisy, np.array([0, 0]), VoteFrame(votes, (votes, 0, 0), 0.1)
        )
        for votes in (1, 2)
    ]
    assert frames[0].shape[1:] == (100, 3)
    assert (frames[0][:100] == frames[1][:100]).all()


def test_a_gif_plays_so_often_and_rests(tmp_path: Path) -> None:
    """Frames and repetitions are as asked for; frames without times are refused."""
    frames = [np.full((8, 8, 3), level, np.uint8) for level in (0, 90, 200)]
    file = save_gif(tmp_path / "a.gif", frames, milliseconds=(100, 100, 500), plays=3)
    with Image.open(file) as opened:
        assert (opened.n_frames, opened.info["loop"]) == (3, 2)
    with pytest.raises(OptionError, match="one time a frame"):
        save_gif(tmp_path / "b.gif", frames, milliseconds=(100,))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmoothingStudyConfig, Path, StudyPage]:
    """A quick run on bands."""
    root = tmp_path_factory.mktemp("smoothing")
    config = SmoothingStudyConfig(data=str(small_images(root / "bands.npz")), quick=True)
    return config, root / "run", quick_page(STUDY, config, root / "run")


def test_no_certified_circle_reaches_another_class(
    run: tuple[SmoothingStudyConfig, Path, StudyPage],
) -> None:
    """In the plane every certified circle lies within its region of the vote."""
    config, folder, _ = run
    rows = study_rows(STUDY, config, folder)["plane"]
    assert all(row["radius"] <= row["nearest"] + PIXEL for row in rows)
    assert any(row["radius"] > 0 for row in rows[1:])


def test_the_page_has_its_figures_and_their_files(
    run: tuple[SmoothingStudyConfig, Path, StudyPage],
) -> None:
    """Figures have names of their own, and every picture was written."""
    _, folder, page = run
    names = [figure.name for figure in page.figures]
    assert len(set(names)) == len(names)
    for file in ("base-regions.png", "vote-regions.png", "votes.gif"):
        assert (folder / "pictures" / file).is_file()
    assert "none of 30 certified circles" in page.answer


def test_a_folder_without_logs_is_refused(tmp_path: Path) -> None:
    """Published rows are read from tsv files alone."""
    data = small_images(tmp_path / "bands.npz")
    (tmp_path / "logs").mkdir()
    config = SmoothingStudyConfig(data=str(data), quick=True, published_rows=str(tmp_path / "logs"))
    parts = {part.name: part for part in STUDY.parts(config)}
    with pytest.raises(DataError, match="no certification logs"):
        list(parts["published"].run(Workspace(tmp_path, "smoothing", 0)))


def test_published_rows_give_the_published_table(shared_data: Path) -> None:
    """Recomputed from the authors' rows, each figure rounds to the one they print."""
    folder = shared_data / "smoothing-rows"
    config = SmoothingStudyConfig(data=".", published_rows=str(folder))
    parts = {part.name: part for part in STUDY.parts(config)}
    rows = list(parts["published"].run(Workspace(folder, "smoothing", 0)))
    shares = published_shares(rows)
    for key, figure in PUBLISHED.items():
        assert format_percent(shares[key].rate, 0) == figure
