"""Study of randomized smoothing: a majority vote under noise and the ball that it certifies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn

from physadv.certification.smoothing.certify import certificate_from_votes, certify_with_sampler
from physadv.certification.smoothing.noise import GaussianNoise
from physadv.certification.smoothing.sampler import NoiseSampler
from physadv.core.animations import save_gif
from physadv.core.csv_tables import read_csv
from physadv.core.errors import DataError
from physadv.core.image_io import list_files
from physadv.core.rows import Row
from physadv.models.architectures.cnn import build_network
from physadv.studies.certificate_studies_config import SmoothingStudyConfig
from physadv.studies.plane_regions import (
    classes_on_grid,
    fit_points,
    painted_regions,
    plane_network,
)
from physadv.studies.randomized_smoothing_page import (
    ALPHA,
    CLASSES,
    COHEN,
    LECUYER,
    LI,
    PIXEL,
    PLANE_SIGMA,
    smoothing_page,
)
from physadv.studies.small_classifiers import (
    StudyData,
    fit_classifier,
    predict,
    read_once,
)
from physadv.studies.smoothing_bounds import cohen_radius, lecuyer_radius, li_radius
from physadv.studies.study import Part, Study, Workspace
from physadv.studies.vote_animation import VoteFrame, draw_votes
from physadv.training.methods.base import StandardTraining
from physadv.training.methods.noise_augmentation import GaussianAugmentation

PIXELS, MARGIN = round(1 / PIXEL), 4.0
"""Pixels of the plane's pictures, and reach of the noise beyond them in standard deviations."""


def study_parts(config: SmoothingStudyConfig) -> list[Part]:
    """Return the parts of the study.

    Args:
        config: Its configuration.
    """
    parts = [
        Part("plane", "regions in the plane", partial(_plane_rows, config)),
        Part("animation", "animation of the votes", partial(_animation_rows, config)),
        Part("votes", "radius against the number of votes", partial(_vote_rows, config)),
        Part("formulas", "radii of three papers", _formula_rows),
    ]
    for sigma in (0.0, *config.sigmas):
        name = f"images-{sigma:g}"
        note = f"images, trained with noise {sigma:g}"
        parts.append(Part(name, note, partial(_image_rows, config, sigma)))
    if config.published_rows is not None:
        parts.append(Part("published", "published rows", partial(_published_rows, config)))
    return parts


def smoothed_shares(
    classes: npt.NDArray[np.int64], sigma: float, width: float
) -> npt.NDArray[np.float64]:
    """Return the share of the noise about each pixel that falls into each class.

    Args:
        classes: Class (h, h) of each pixel, in a square that holds the noise.
        sigma: Standard deviation of the Gaussian noise, in units of ``width``.
        width: Width of the square.

    Returns:
        The shares (number of classes, h, h).
    """
    pixels = sigma / width * len(classes)
    maps = [(classes == label).astype(float) for label in range(CLASSES)]
    blurred = [ndimage.gaussian_filter(m, pixels, mode="nearest") for m in maps]
    return np.asarray(np.stack(blurred), np.float64)


@dataclass(frozen=True)
class _Scene:
    """Base classifier in the plane, its regions, and those of the vote.

    Args:
        net: Base classifier.
        points: Training points (n, 2).
        labels: Their classes (n,).
        wrong: Number of them with a class that is not their own.
        wide: Regions of the base classifier in a square that holds the noise.
        shares: Share of each class under noise (classes, h, h) in the unit square.
        center: Point whose certificate is shown.
    """

    net: nn.Module
    points: Tensor
    labels: Tensor
    wrong: int
    wide: npt.NDArray[np.int64]
    shares: npt.NDArray[np.float64]
    center: tuple[float, float]

    @property
    def base(self) -> npt.NDArray[np.int64]:
        """Regions of the base classifier in the unit square."""
        border = (len(self.wide) - PIXELS) // 2
        return self.wide[border : border + PIXELS, border : border + PIXELS]

    @property
    def vote(self) -> npt.NDArray[np.int64]:
        """Regions of the vote in the unit square."""
        return np.asarray(self.shares.argmax(0), np.int64)

    def share_at(self, x: float, y: float) -> npt.NDArray[np.float64]:
        """Return the share of each class (classes,) under noise about a point."""
        column, row = int(x * PIXELS), int((1 - y) * PIXELS)
        return self.shares[:, row, column]


def _scene(config: SmoothingStudyConfig, workspace: Workspace) -> _Scene:
    """Return the scene, made once: points of three classes, some of them mislabeled, which the base
    classifier learns as far as it can."""
    return workspace.once("scene", lambda: _new_scene(config, workspace))


def _new_scene(config: SmoothingStudyConfig, workspace: Workspace) -> _Scene:
    source = workspace.generator("points")
    points = torch.rand((140, 2), generator=source)
    angle = torch.atan2(points[:, 1] - 0.5, points[:, 0] - 0.5)
    bent = angle + 4 * (points - 0.5).norm(dim=1)
    labels = ((bent / (2 * torch.pi) % 1) * CLASSES).long().clamp(0, CLASSES - 1)
    wrong = torch.rand(len(points), generator=source) < 1 / 7
    labels = torch.where(wrong, (labels + 1) % CLASSES, labels)

    net = workspace.net(
        "plane",
        lambda: plane_network((96, 96), CLASSES),
        lambda fresh: fit_points(
            fresh,
            points,
            labels,
            steps=config.scaled(300, 1500, 1500),
            seed=workspace.seed_of("plane-fit"),
        ),
    )
    border = round(MARGIN * PLANE_SIGMA * PIXELS)
    reach = border / PIXELS
    wide = classes_on_grid(net, -reach, 1 + reach, PIXELS + 2 * border)
    shares = smoothed_shares(wide, PLANE_SIGMA, 1 + 2 * reach)
    inner = shares[:, border : border + PIXELS, border : border + PIXELS]
    return _Scene(net, points, labels, int(wrong.sum()), wide, inner, _clear_point(inner))


def _clear_point(shares: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return a point near the middle of the square whose most frequent class has about nine
    tenths."""
    top = shares.max(0)
    row, column = np.indices(top.shape)
    away = np.hypot(row - len(top) / 2, column - len(top) / 2) / len(top)
    cost = 4 * np.abs(top - 0.9) + away
    y, x = np.unravel_index(int(cost.argmin()), cost.shape)
    return (float(x) + 0.5) / PIXELS, 1 - (float(y) + 0.5) / PIXELS


def _plane_rows(config: SmoothingStudyConfig, workspace: Workspace) -> Iterator[Row]:
    scene = _scene(config, workspace)
    workspace.save_picture("base-regions", painted_regions(scene.base))
    workspace.save_picture("vote-regions", painted_regions(scene.vote))

    noise = PLANE_SIGMA * torch.randn((120, 2), generator=workspace.generator("dots"))
    dots = torch.tensor(scene.center) + noise
    with torch.no_grad():
        classes = scene.net(dots).argmax(1)
    share = float(scene.share_at(*scene.center).max())
    yield {
        "center": list(scene.center),
        "class": int(scene.share_at(*scene.center).argmax()),
        "share": share,
        "radius": PLANE_SIGMA * cohen_radius(share),
        "nearest": _distance_to_other(scene.vote, scene.center),
        "changed": float((scene.base != scene.vote).mean()),
        "pieces_base": _pieces(scene.base),
        "pieces_vote": _pieces(scene.vote),
        "points": len(scene.points),
        "learned": int((scene.net(scene.points).argmax(1) == scene.labels).sum()),
        "wrong": scene.wrong,
        "dots": [
            [round(float(x), 4), round(float(y), 4), int(label)]
            for (x, y), label in zip(dots, classes, strict=True)
        ],
    }
    yield from _certified_points(config, scene, workspace)


def _certified_points(
    config: SmoothingStudyConfig, scene: _Scene, workspace: Workspace
) -> Iterator[Row]:
    """Certified radius of points of the square beside the distance to the nearest other class."""
    count = config.scaled(30, 400, 2000)
    for x, y in torch.rand((count, 2), generator=workspace.generator("certified")).tolist():
        share = float(scene.share_at(x, y).max())
        yield {
            "x": x,
            "y": y,
            "radius": PLANE_SIGMA * cohen_radius(share),
            "nearest": _distance_to_other(scene.vote, (x, y)),
        }


def _distance_to_other(classes: npt.NDArray[np.int64], point: tuple[float, float]) -> float:
    """Return the distance from a point to the center of the nearest pixel of another class."""
    centers = (np.arange(len(classes)) + 0.5) / len(classes)
    own = classes[int((1 - point[1]) * len(classes)), int(point[0] * len(classes))]
    squares = (centers[None] - point[0]) ** 2 + (1 - centers[:, None] - point[1]) ** 2
    others = squares[classes != own]
    return float(np.sqrt(others.min())) if others.size else float("inf")


def _pieces(classes: npt.NDArray[np.int64]) -> int:
    """Return the number of connected regions."""
    return sum(int(ndimage.label(classes == label)[1]) for label in range(CLASSES))


def _animation_rows(config: SmoothingStudyConfig, workspace: Workspace) -> Iterator[Row]:
    """Draw the animation; one row a frame."""
    scene = _scene(config, workspace)
    steps = config.scaled((1, 10, 100), (0, 1, 2, 4, 7, 12, 20, 35, 60, 100, 170, 300, 500), ())
    steps = steps or (0, 1, 2, 4, 7, 12, 20, 35, 60, 100, 170, 300, 500, 1000, 2000, 5000)
    noise = PLANE_SIGMA * torch.randn((steps[-1], 2), generator=workspace.generator("votes"))
    noisy = torch.tensor(scene.center) + noise
    with torch.no_grad():
        classes = scene.net(noisy).argmax(1).numpy()
    top = int(scene.share_at(*scene.center).argmax())
    regions = painted_regions(scene.base)

    frames = []
    for votes in steps:
        counts = np.bincount(classes[:votes], minlength=CLASSES)
        radius = 0.0
        if votes:
            noise_kind = GaussianNoise(PLANE_SIGMA)
            radius = certificate_from_votes(
                top, int(counts[top]), 0, votes, ALPHA, noise_kind, "l2", 2
            ).radius
        frame = VoteFrame(votes, tuple(int(c) for c in counts), radius)
        frames.append(draw_votes(regions, 0.0, 1.0, scene.center, noisy.numpy(), classes, frame))
        yield {"votes": votes, "counts": list(frame.counts), "radius": radius}
    times = [900] * (len(frames) - 1) + [4000]
    save_gif(workspace.folder / "pictures" / "votes.gif", frames, milliseconds=times)
    workspace.save_picture("votes-last", frames[-1])


def _vote_rows(config: SmoothingStudyConfig, workspace: Workspace) -> Iterator[Row]:
    """Certify one point again and again with few and with many votes."""
    scene = _scene(config, workspace)
    share = float(scene.share_at(*scene.center).max())
    runs = config.scaled(3, 40, 200)
    for votes in config.scaled((100,), (30, 100, 300, 1000, 3000), (30, 100, 1000, 10_000)):
        radii = []
        for run in range(runs):
            sampler = NoiseSampler(
                scene.net,
                GaussianNoise(PLANE_SIGMA),
                seed=workspace.seed_of("repeat", votes, run),
                batch=4096,
            )
            point = torch.tensor([scene.center])
            found = certify_with_sampler(sampler, point, n0=100, n=votes, alpha=ALPHA)
            radii.append(found.radius / PLANE_SIGMA)
        yield {
            "votes": votes,
            "share": share,
            "runs": runs,
            "mean": float(np.mean(radii)),
            "low": float(np.quantile(radii, 0.025)),
            "high": float(np.quantile(radii, 0.975)),
            "above": sum(r > cohen_radius(share) for r in radii),
        }


def _formula_rows(workspace: Workspace) -> Iterator[Row]:
    """Radii of three papers against the probability of the top class."""
    for p in (
        0.5,
        0.55,
        0.6,
        0.65,
        0.7,
        0.75,
        0.8,
        0.85,
        0.9,
        0.93,
        0.96,
        0.98,
        0.99,
        0.995,
        0.999,
    ):
        yield {
            "p": p,
            "cohen": cohen_radius(p),
            "li": li_radius(p),
            "lecuyer": lecuyer_radius(p),
        }


def _data(config: SmoothingStudyConfig, workspace: Workspace) -> StudyData:
    return read_once(
        workspace,
        config.data,
        train=config.scaled(400, 10_000, 60_000),
        test=config.test_images,
        seed=config.seed,
    )


def _image_rows(config: SmoothingStudyConfig, sigma: float, workspace: Workspace) -> Iterator[Row]:
    """Certify test images with a network trained under noise; for ``sigma`` 0 with one trained
    without, under the middle noise."""
    data = _data(config, workspace)
    method = GaussianAugmentation(sigma) if sigma else StandardTraining()
    net = workspace.net(
        f"noise-{sigma:g}",
        lambda: build_network(
            "small-cnn",
            channels=data.channels,
            side=data.image_size,
            classes=len(data.classes),
        ),
        lambda fresh: fit_classifier(
            fresh,
            data.train,
            method=method,
            epochs=config.scaled(1, 5, 30),
            seed=workspace.seed_of("train", f"{sigma:g}"),
        ),
    )

    images, labels = data.test.floats(slice(None))
    clean = predict(net, images)
    noise = GaussianNoise(sigma or config.sigmas[len(config.sigmas) // 2])
    sampler = NoiseSampler(net, noise, seed=workspace.seed_of("certify", f"{sigma:g}"), batch=512)
    for index, label in enumerate(labels.tolist()):
        workspace.tell(f"image {index + 1} of {len(labels)}")
        found = certify_with_sampler(
            sampler, images[index : index + 1], n0=100, n=config.votes, alpha=ALPHA, index=index
        )
        yield {
            "sigma": noise.scale,
            "trained": sigma,
            "label": label,
            "clean": int(clean[index]),
            "predicted": found.predicted,
            "radius": found.radius,
        }


def _published_rows(config: SmoothingStudyConfig, workspace: Workspace) -> Iterator[Row]:
    """Read the published logs; one row an image."""
    folder = Path(config.published_rows or ".")
    files = [file for file in list_files(folder) if file.suffix == ".tsv" or not file.suffix]
    if not files:
        raise DataError(f"{folder}", "holds no certification logs (.tsv)", "Name another folder")
    columns = {"label": (), "predict": (), "radius": (), "correct": ()}
    for file in files:
        sigma = file.name.rpartition("_")[2].removesuffix(".tsv")
        for row in read_csv(file, columns).rows:
            try:
                radius, correct = float(row.cells["radius"]), int(row.cells["correct"])
            except ValueError as error:
                raise DataError(row.where, "holds no numbers", "Name another folder") from error
            yield {"sigma": sigma, "radius": radius, "correct": correct}


STUDY = Study(
    name="smoothing",
    title="Randomized smoothing",
    question="How can a classifier that breaks anywhere become one with a proof about every ball?",
    config=SmoothingStudyConfig,
    papers=(LECUYER, LI, COHEN),
    parts=study_parts,
    page=smoothing_page,
)
