"""Fit of a color profile to photos of the color chart, with its measured error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from physadv.calibration.chart_reader import ChartView, average_views, divide_light, read_chart
from physadv.calibration.photo_limits import PaperLevels, photo_findings
from physadv.camera.frames import CameraFrame, FrameSource
from physadv.camera.recordings import PhotoSource
from physadv.core.color import de00_of_srgb, linear_to_srgb
from physadv.core.errors import CalibrationError, OptionError
from physadv.core.findings import Finding
from physadv.core.wording import count_noun
from physadv.eot.color_map import DEGREES, color_terms
from physadv.eot.profiles import LARGE_ERROR as LARGE_ERROR
from physadv.eot.profiles import CameraProfile, ColorProfile

F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

RIDGES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
MIN_PATCHES = 60
MAX_PAIR = 6.0
"""Color difference (CIEDE2000) between a color's two cells above which both count as spoiled."""
TRUE_TO_STATED = (0.5, 1.2)
"""Ratio of the true mean error on colors off the chart to the leave-one-out mean: over 95 % of
foreign printers, cameras and photos lie in this range (``benchmarks/calibration.py --foreign``).
Many of the chart's colors lie on the faces of the cube, where leaving one out costs most."""


@dataclass(frozen=True)
class ChartMeasurement:
    """Colors sent to the printer and seen by the camera, sRGB-encoded, with bare paper at 1.

    Attributes:
        sent: Colors (n, 3) of the chart.
        seen: Colors (n, 3) in the photos.
        valid: Channels (n, 3) that were not clipped.
        pair: Color difference (n,) between a color's two cells, CIEDE2000.
        chart_set: Number of the set.
        photos: Number of photos.
        rejected: Colors left out, by reason.
        unevenness: Ratio of the brightest to the darkest light.
        edge_mm: Width of the markers' edges on the chart.
        paper: Levels of bare paper, 0 to 255, in the darkest photo.
    """

    sent: F64
    seen: F64
    valid: Mask
    pair: F64
    chart_set: int
    photos: int
    rejected: dict[str, int]
    unevenness: float
    edge_mm: float
    paper: PaperLevels = (255.0, 255.0, 255.0)


@dataclass(frozen=True)
class ProfileFit:
    """One fitted map.

    Attributes:
        name: Form of the map.
        ridge: Weight of the ridge penalty.
        coefficients: Coefficients (k, 3).
        residuals: Leave-one-out residuals (n, 3).
        de00: Leave-one-out color differences (n,), CIEDE2000.
    """

    name: str
    ridge: float
    coefficients: F64
    residuals: F64
    de00: F64


def read_views(
    source: FrameSource, camera: CameraProfile | None = None, *, most: int | None = None
) -> Iterator[tuple[CameraFrame, ChartView | CalibrationError]]:
    """Read the chart in every frame of a source.

    Args:
        source: Source of frames.
        camera: Profile whose lens distortion is removed first.
        most: Usable frames after which the source is left; live sources also end after ten times as
            many frames of any kind.

    Yields:
        Each frame with its cells, or with the error that tells why it cannot be used.
    """
    usable = 0
    for count, frame in enumerate(source, 1):
        name = picture_name(source, frame)
        try:
            view = read_chart(frame.image, name, camera)
            divide_light(view)
            usable += 1
            yield frame, view
        except CalibrationError as error:
            yield frame, error

        if most is not None and (usable >= most or (source.live and count >= 10 * most)):
            return


def picture_name(source: FrameSource, frame: CameraFrame) -> str:
    """Return the name of a ``frame`` of ``source`` for messages."""
    if isinstance(source, PhotoSource):
        return source.photos[frame.index].name
    return f"{source.name} frame {frame.index}"


def measure_chart(views: Sequence[ChartView]) -> ChartMeasurement:
    """Average the ``views``, divide out the light, pair the copies of each color, and leave out
    clipped and spoiled ones.

    Raises:
        CalibrationError: The views show different sets, the light is uneven, or too few colors are
            left.
    """
    if not views:
        raise CalibrationError(
            "no usable photo", "at least one is needed", "Photograph the chart again"
        )

    unevenness = max(divide_light(v)[1] for v in views)
    view = average_views(views)
    chart = view.chart

    seen = linear_to_srgb(np.maximum(view.light, 0))[chart.places]  # (n, 2, 3)
    valid: Mask = np.logical_not(view.clipped[chart.places].any(axis=1))
    pair = de00_of_srgb(seen[:, 0], seen[:, 1])
    spoiled: Mask = pair > MAX_PAIR
    clipped: Mask = np.logical_not(valid.any(axis=1))

    usable: Mask = ~(spoiled | clipped)
    if usable.sum() < MIN_PATCHES:
        limit = (
            f"only {int(usable.sum())} of {count_noun(len(usable), 'color')} usable, "
            f"{MIN_PATCHES} are needed"
        )
        remedy = "Lower the exposure, avoid reflections, and print the chart anew"
        raise CalibrationError(
            "the chart", f"{limit} ({clipped.sum()} clipped, {spoiled.sum()} uneven)", remedy
        )

    rejected = {"clipped": int(clipped.sum()), "spoiled": int((spoiled & ~clipped).sum())}
    return ChartMeasurement(
        chart.colors[usable] / 255,
        seen[usable].mean(1),
        valid[usable],
        pair[usable],
        chart.number,
        len(views),
        rejected,
        unevenness,
        view.edge_mm,
        view.paper,
    )


def fit_map(measured: ChartMeasurement, name: str, ridge: float) -> ProfileFit:
    """Fit one map by ridge regression, channel by channel, over the colors not clipped in it.

    Leave-one-out predictions follow in closed form from the hat matrix; both copies of a color are
    left out together.

    Args:
        measured: Colors sent and seen.
        name: Form of the map.
        ridge: Weight of the ridge penalty.

    Returns:
        The fit.
    """
    design = color_terms(measured.sent, name)
    penalty = ridge * len(design) * np.diag([0.0] + [1.0] * (design.shape[1] - 1))
    coefficients = np.zeros((design.shape[1], 3))
    left_out = np.zeros_like(measured.seen)

    for channel in range(3):
        use = measured.valid[:, channel]
        inverse = np.linalg.inv(design[use].T @ design[use] + penalty)
        coefficients[:, channel] = inverse @ design[use].T @ measured.seen[use, channel]

        fitted = design @ coefficients[:, channel]
        leverage = np.where(use, ((design @ inverse) * design).sum(1), 0.0)
        left_out[:, channel] = measured.seen[:, channel] - (measured.seen[:, channel] - fitted) / (
            1 - leverage
        )

    residuals = np.where(measured.valid, measured.seen - left_out, 0.0)
    return ProfileFit(
        name, ridge, coefficients, residuals, de00_of_srgb(left_out.clip(0, None), measured.seen)
    )


def _per_channel_de00(measured: ChartMeasurement) -> F64:
    """Return the leave-one-out color differences (n,) of a cubic per channel, as in REAP (Hingun et
    al. 2023)."""
    left_out = np.zeros_like(measured.seen)

    for channel in range(3):
        use = measured.valid[:, channel]
        design = measured.sent[:, channel, None] ** np.arange(4)

        inverse = np.linalg.inv(design[use].T @ design[use])
        fitted = design @ inverse @ design[use].T @ measured.seen[use, channel]
        leverage = np.where(use, ((design @ inverse) * design).sum(1), 0.0)
        left_out[:, channel] = measured.seen[:, channel] - (measured.seen[:, channel] - fitted) / (
            1 - leverage
        )
    return de00_of_srgb(left_out.clip(0, None), measured.seen)


def best_fits(measured: ChartMeasurement) -> dict[str, ProfileFit]:
    """Fit each form of map to ``measured`` at the ridge with the least leave-one-out color
    difference."""
    return {
        name: min(
            (fit_map(measured, name, ridge) for ridge in RIDGES), key=lambda f: float(f.de00.mean())
        )
        for name in DEGREES
    }


def fit_profile(
    measured: ChartMeasurement,
    *,
    map_name: str = "auto",
    printer: str = "",
    paper: str = "",
    camera: str = "",
    **about: Any,
) -> ColorProfile:
    """Fit all forms of map and build a profile of the best one.

    Args:
        measured: Colors sent and seen.
        map_name: Form of the map; "auto" takes the least leave-one-out color difference.
        printer: Name of the printer, for the profile.
        paper: Name of the paper, for the profile.
        camera: Name of the camera, for the profile.
        about: Further facts for the profile.

    Returns:
        The profile.

    Raises:
        OptionError: There is no such form of map.

    Example:
        >>> sent = np.random.default_rng(0).uniform(0, 1, (80, 3))
        >>> seen = 0.1 + 0.8 * sent
        >>> valid, pair = np.ones((80, 3), bool), np.zeros(80)
        >>> measured = ChartMeasurement(sent, seen, valid, pair, 1, 1, {}, 1.0, 1.0)
        >>> profile = fit_profile(measured, printer="demo")
        >>> profile.n_patches, profile.de00["mean"] < 0.1
        (80, True)
    """
    if map_name not in ("auto", *DEGREES):
        raise OptionError(
            f"map {map_name!r}", f"one of auto, {', '.join(DEGREES)}", "Leave --map out"
        )

    fits = best_fits(measured)
    chosen = (
        min(fits.values(), key=lambda f: float(f.de00.mean()))
        if map_name == "auto"
        else fits[map_name]
    )

    maps = {name: _profile_summary(fit.de00) for name, fit in fits.items()}
    maps["per channel (not used)"] = _profile_summary(_per_channel_de00(measured))
    facts = {
        "chart_set": measured.chart_set,
        "photos": measured.photos,
        "rejected": measured.rejected,
        "repeat_de00": _profile_summary(measured.pair),
        "ridge": chosen.ridge,
        "light_ratio": round(measured.unevenness, 3),
        "edge_mm": round(measured.edge_mm, 2),
        "paper_level": [round(level) for level in measured.paper],
        "expected_de00": expected_de00(float(chosen.de00.mean())),
        "doubts": [finding.as_dict() for finding in _findings(measured, chosen)],
    }

    return ColorProfile(
        map=chosen.name,
        coefficients=chosen.coefficients,
        sent=measured.sent,
        seen=measured.seen,
        covariance=chosen.residuals.T @ chosen.residuals / len(chosen.residuals),
        de00=_profile_summary(chosen.de00),
        maps=maps,
        n_patches=len(measured.sent),
        created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        printer=printer,
        paper=paper,
        camera=camera,
        about={**facts, **about},
    )


def _findings(measured: ChartMeasurement, fit: ProfileFit) -> list[Finding]:
    """Return the doubts about a profile."""
    findings = photo_findings(measured.paper)
    mean = float(fit.de00.mean())
    if mean > LARGE_ERROR:
        findings.append(
            Finding(
                "large-error",
                f"leave-one-out dE00 {mean:.1f} is over {LARGE_ERROR:g}, the most on faultless "
                "photos of foreign printers",
                "Look for reflections, wet ink or a smudge, and print in sRGB without effects",
            )
        )
    return findings


def expected_de00(leave_one_out: float) -> dict[str, float]:
    """Return the mean error to expect on colors that are not on the chart.

    The range holds for 95 % of printers and cameras that are not the twin's, at the exposure and
    white balance of a photo without doubts.

    Args:
        leave_one_out: Mean of the leave-one-out color differences, CIEDE2000.

    Returns:
        The range as ``low`` and ``high``.

    Example:
        >>> expected_de00(0.0)
        {'low': 0.0, 'high': 0.0}
    """
    low, high = (round(leave_one_out * ratio, 2) for ratio in TRUE_TO_STATED)
    return {"low": low, "high": high}


def _profile_summary(differences: F64) -> dict[str, float]:
    """Return mean, 95th percentile and number of color differences."""
    mean, p95 = float(differences.mean()), float(np.percentile(differences, 95))
    return {"mean": round(mean, 3), "p95": round(p95, 3), "n": len(differences)}


def predict_colors(profile: ColorProfile, sent: F64) -> F64:
    """Map the sRGB colors ``sent`` (n, 3) to encoded camera colors (n, 3) by the map of ``profile``
    that training uses."""
    image = torch.from_numpy(np.asarray(sent, np.float32)).T[None, :, None]
    return np.asarray(profile.color_map().encoded(image)[0, :, 0].T.numpy(), np.float64)


def check_profile(profile: ColorProfile, measured: ChartMeasurement) -> ColorProfile:
    """Add to a profile its color difference on colors that it was not fitted to, as ``held_out``.

    Args:
        profile: The profile.
        measured: Colors of another set.

    Returns:
        The extended profile.

    Raises:
        CalibrationError: The set is the one the map was fitted to.
    """
    if profile.about.get("chart_set") == measured.chart_set:
        limit = f"set {measured.chart_set} is the set the map is fitted to"
        raise CalibrationError(
            "the chart to check on", limit, "Print another with `calibrate chart --set 2`"
        )

    differences = de00_of_srgb(predict_colors(profile, measured.sent), measured.seen)
    held_out = {**_profile_summary(differences), "chart_set": measured.chart_set}
    return replace(profile, about={**profile.about, "held_out": held_out})
