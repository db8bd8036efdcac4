"""Limits of a chart photo's exposure, color cast and chroma: refused, or doubted, beyond them.

A camera's tone curve and white balance act before the profile can divide out the light. In a photo
darker than the camera's usual ones the same print has other colors relative to paper, and the
error of the fit does not show it: it is measured in that photo. At the limits of doubt the error at
a usual exposure is two to three times the stated one on average over simulated cameras, at those of
refusal four times (``benchmarks/calibration.py --limits``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from physadv.calibration.color_chart import ColorChart
from physadv.core.color import linear_to_srgb, srgb_to_linear
from physadv.core.errors import CalibrationError
from physadv.core.findings import Finding
from physadv.core.wording import count_noun, format_percent

F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
PaperLevels = tuple[float, float, float]

CLIPPED = 251
"""Level from which a pixel counts as over-exposed in every photo."""
_SAME, _SAME_SHARE = 0.5, 0.55
"""White cells are clipped where the means of this share of them lie within ``_SAME`` levels of the
brightest in two channels: paper and light are less even, and JPEG rounds one channel alone."""
MAX_CLIPPED_WHITES = 0.1
DARK, DIM = 150, 200
"""Levels of bare paper's brightest channel under which a photo is refused, and doubted."""
MAX_CAST, HIGH_CAST = 1.8, 1.25
"""Ratios of bare paper's brightest to its darkest channel, in linear light, over which a photo is
refused, and doubted."""
MIN_CORRELATION = 0.6


def paper_levels(whites: F64) -> PaperLevels:
    """Return the median level, 0 to 255, of the ``whites`` (n, 3) in linear light."""
    red, green, blue = 255 * linear_to_srgb(np.median(whites, 0))
    return float(red), float(green), float(blue)


def clip_level(whites: npt.NDArray[np.uint8]) -> int:
    """Return the level from which a photo is over-exposed.

    Cameras that send video levels clip at 235, others wherever their tone curve ends; there all
    cells of bare paper become equal.

    Args:
        whites: Pixels (cells, points, 3) of the white cells.

    Returns:
        ``CLIPPED``, or the lower level that white cells share.

    Example:
        >>> light = np.random.default_rng(0).normal(235, 3, (70, 1, 3)) + np.zeros((70, 196, 3))
        >>> clip_level(light.clip(0, 255).astype(np.uint8))
        251
        >>> clip_level((light + 10).clip(0, 235).astype(np.uint8))
        234
    """
    means = np.sort(whites, axis=1)[:, whites.shape[1] // 8 : -(whites.shape[1] // 8)].mean(1)
    tops = np.percentile(means, 95, axis=0)
    equal = (np.abs(means - tops) <= _SAME).mean(0) > _SAME_SHARE
    return min(CLIPPED, round(float(tops.min())) - 1) if equal.sum() >= 2 else CLIPPED


def color_cast(paper: Sequence[float]) -> float:
    """Return the ratio of the brightest to the darkest channel of ``paper`` (levels 0 to 255), in
    linear light.

    Example:
        >>> color_cast((200, 200, 200)), round(color_cast((230, 200, 180)), 2)
        (1.0, 1.73)
    """
    light = np.maximum(srgb_to_linear(np.asarray(paper) / 255), 1e-4)
    return float(light.max() / light.min())


def check_exposure(paper: Sequence[float], clipped: Mask, ceiling: int, name: str) -> None:
    """Refuse an over- or under-exposed photo.

    Args:
        paper: Levels of bare paper, 0 to 255.
        clipped: Over-exposed channels (n, 3) of the white cells.
        ceiling: Level from which they count as that, 0 to 255.
        name: Name of the photo.

    Raises:
        CalibrationError: Bare paper is clipped, or its brightest channel is under ``DARK``.
    """
    over = int(clipped.any(1).sum())
    if over > MAX_CLIPPED_WHITES * len(clipped):
        limit = (
            f"over-exposed: {over} of {count_noun(len(clipped), 'white cell')} clipped ({ceiling} "
            f"of 255 or more), at most {format_percent(MAX_CLIPPED_WHITES, 0)} may be"
        )
        raise CalibrationError(name, limit, "Lower the exposure by about one stop, or the light")

    level = max(paper)
    if level < DARK:
        limit = f"under-exposed: bare paper is {level:.0f} of 255, at least {DARK} is needed"
        raise CalibrationError(
            name, limit, f"Raise the exposure or the light until paper is over {DIM}"
        )


def check_cast(paper: Sequence[float], name: str) -> None:
    """Refuse the photo ``name`` where bare ``paper`` (levels 0 to 255) has too strong a color cast.

    Raises:
        CalibrationError: The ratio of its channels is over ``MAX_CAST``.
    """
    cast = color_cast(paper)
    if cast > MAX_CAST:
        levels = ", ".join(f"{level:.0f}" for level in paper)
        limit = (
            f"bare paper is colored: red, green, blue {levels} of 255, a ratio of {cast:.1f} in "
            f"linear light, at most {MAX_CAST:g} can be used"
        )
        raise CalibrationError(
            name, limit, "Set the white balance to the light, and print on white paper"
        )


def check_colors(chart: ColorChart, light: F64, name: str) -> None:
    """Compare the cells with the chart in chroma, not only in lightness: a gray print or a wrong
    page fails.

    Args:
        chart: Colors that were printed.
        light: Cells (cells, 3) of the photo in linear light.
        name: Name of the photo.

    Raises:
        CalibrationError: The colors do not follow the chart.
    """
    sent = np.repeat(chart.colors / 255, 2, 0)
    measured = linear_to_srgb(light[chart.places.ravel()])
    chroma = [(v[:, 0] - v[:, 1], v[:, 2] - v[:, 1]) for v in (sent, measured)]
    correlations = [
        float(np.corrcoef(a, b)[0, 1]) if b.std() > 0.02 else 0.0
        for a, b in zip(*chroma, strict=True)
    ]

    if min(correlations) < MIN_CORRELATION:
        correlation = f"{min(correlations):.2f}, at least {MIN_CORRELATION:g} is needed"
        limit = f"its colors do not follow the chart (correlation {correlation})"
        raise CalibrationError(
            name, limit, "Print and photograph it in color, with nothing lying on it"
        )


def photo_findings(paper: Sequence[float]) -> list[Finding]:
    """Return doubts about a profile from a photo with these levels of bare ``paper``, 0 to 255.

    Example:
        >>> photo_findings((220, 215, 210))
        []
        >>> [finding.name for finding in photo_findings((160, 158, 150))]
        ['dim-photo']
    """
    findings = []
    level, cast = max(paper), color_cast(paper)
    if level < DIM:
        findings.append(
            Finding(
                "dim-photo",
                f"bare paper is {level:.0f} of 255, under {DIM}: the stated error holds at this "
                "exposure; at the camera's usual one it was two to three times as large on "
                "average over simulated cameras, and ten times with a strong tone curve",
                f"Photograph the chart so that paper is {DIM} to {CLIPPED - 6}",
            )
        )

    if cast > HIGH_CAST:
        findings.append(
            Finding(
                "color-cast",
                f"bare paper's channels differ by a ratio of {cast:.2f} in linear light, over "
                f"{HIGH_CAST:g}: the stated error holds at this white balance; at a neutral one "
                "it was two to three times as large on average over simulated cameras",
                "Set the white balance to the light, unless the paper itself is tinted",
            )
        )
    return findings
