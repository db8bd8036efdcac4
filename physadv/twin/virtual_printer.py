"""Virtual color printer: ink coverage, dot gain, ink spread, and colors mixed as overprinted dots
on paper."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

from physadv.core.errors import OptionError
from physadv.core.random_streams import numpy_generator
from physadv.twin.linear_light import F32, U8, light_to_srgb, smooth_noise, srgb_to_light, to_linear

# Linear reflectance of paper and of one, two and three inks over each other (index 4c + 2m + y),
# for office inks on matt paper in daylight. Overprints differ from products of single inks, which
# couples the channels.
_PRIMARIES: F32 = np.array(
    [
        [0.920, 0.920, 0.905],  # paper
        [0.885, 0.760, 0.045],  # yellow
        [0.600, 0.030, 0.170],  # magenta
        [0.560, 0.045, 0.035],  # magenta + yellow
        [0.030, 0.300, 0.560],  # cyan
        [0.030, 0.250, 0.070],  # cyan + yellow
        [0.050, 0.045, 0.220],  # cyan + magenta
        [0.030, 0.028, 0.027],  # all three
    ],
    np.float32,
)


@dataclass(frozen=True)
class VirtualPrinter:
    """One printer with its paper.

    Attributes:
        primaries: Linear reflectances (8, 3) of paper, inks and overprints.
        gain: Dot gain of a half-tone dot at 50 %.
        spread_mm: Standard deviation of the ink's spread.
        mottle: Relative unevenness of solid areas.
        name: Name of the printer.
        managed: Whether a driver with a profile sends the nearest printable colors.
    """

    primaries: F32
    gain: float
    spread_mm: float
    mottle: float
    name: str = "office machine"
    managed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for twin.json."""
        values = {
            "gain": self.gain,
            "spread_mm": self.spread_mm,
            "primaries": self.primaries.tolist(),
        }
        return {"name": self.name, **values, "mottle": self.mottle}

    @property
    def paper(self) -> F32:
        """Linear reflectance (3,) of blank paper."""
        return np.asarray(self.primaries[0], np.float32)


def random_printer(seed: int) -> VirtualPrinter:
    """Draw a printer around an ordinary office machine; equal ``seed``, equal printer."""
    rng = numpy_generator(seed, "twin", "printer")
    jitter = np.exp(rng.normal(0, 0.12, (8, 3))).astype(np.float32)
    jitter[0] = 1 + rng.uniform(-0.015, 0.015, 3)
    primaries = np.clip(_PRIMARIES * jitter, 0.015, 0.95)
    return VirtualPrinter(
        primaries, rng.uniform(0.03, 0.1), rng.uniform(0.06, 0.18), rng.uniform(0.004, 0.015)
    )


@dataclass(frozen=True)
class _Kind:
    """A kind of machine: ink density (1 as above), paper (3,), dot gain, spread in mm, mottle."""

    density: float
    paper: tuple[float, float, float]
    gain: float
    spread_mm: float
    mottle: float


_KINDS = {
    "office-laser": _Kind(1.0, (0.92, 0.92, 0.905), 0.07, 0.07, 0.012),
    "office-inkjet": _Kind(0.85, (0.91, 0.91, 0.90), 0.10, 0.18, 0.010),
    "photo-inkjet": _Kind(1.35, (0.93, 0.93, 0.93), 0.03, 0.05, 0.003),
    "vinyl-latex": _Kind(1.15, (0.88, 0.89, 0.90), 0.05, 0.10, 0.006),
    "poster-offset": _Kind(1.1, (0.86, 0.86, 0.83), 0.09, 0.06, 0.005),
    "newsprint": _Kind(0.55, (0.62, 0.59, 0.52), 0.16, 0.20, 0.020),
}
PRINTERS = ("drawn", *_KINDS, "ideal")
"""Printers by name: ``drawn`` differs from seed to seed, ``ideal`` reproduces a screen's colors."""


def printer_named(name: str, seed: int) -> VirtualPrinter | None:
    """Return the printer called ``name``, one machine of its kind for each ``seed``; None for
    "ideal".

    Raises:
        OptionError: The name is unknown.

    Example:
        >>> printer_named("office-laser", seed=0).managed, printer_named("ideal", seed=0)
        (True, None)
    """
    if name == "drawn":
        return random_printer(seed)
    if name == "ideal":
        return None
    if name not in _KINDS:
        raise OptionError(
            f"printer {name!r}", f"one of {', '.join(PRINTERS)}", "Choose one of these"
        )

    kind = _KINDS[name]
    ink = (_PRIMARIES / _PRIMARIES[0]) ** kind.density
    jitter = np.exp(numpy_generator(seed, "twin", "printer", name).normal(0, 0.03, (8, 3)))
    primaries = np.clip(ink * np.array(kind.paper) * jitter, 0.015, 0.95).astype(np.float32)
    return VirtualPrinter(primaries, kind.gain, kind.spread_mm, kind.mottle, name, managed=True)


IDEAL_WHITE = 0.92
"""Reflectance of an ideal print's paper."""


def ideal_print(rgb: U8) -> F32:
    """Return the reflectance of a print that keeps all colors of ``rgb`` (h, w, 3) uint8 sRGB, on
    white paper."""
    return to_linear(rgb) * np.float32(IDEAL_WHITE)


def print_picture(rgb: U8, printer: VirtualPrinter, px_per_mm: float, seed: int) -> F32:
    """Print a picture.

    Coverage is one minus the encoded value, with dot gain; colors mix by the weights of Demichel
    (1924) in the square-root space of Yule and Nielsen (1951, n = 2), after Neugebauer (1937).

    Args:
        rgb: Picture (h, w, 3) uint8 sRGB.
        printer: Printer.
        px_per_mm: Resolution of the picture on paper.
        seed: Seed of the mottle.

    Returns:
        Linear reflectance (h, w, 3) of the print.

    Example:
        >>> white = np.full((8, 8, 3), 255, np.uint8)
        >>> reflectance = print_picture(white, random_printer(0), px_per_mm=4.0, seed=0)
        >>> reflectance.shape, bool(reflectance.min() > 0.8)
        ((8, 8, 3), True)
    """
    ink = _driven_ink(rgb, printer) if printer.managed else 1 - rgb.astype(np.float32) / 255
    ink = np.asarray(ink + np.float32(4 * printer.gain) * ink * (1 - ink), np.float32)

    sigma = printer.spread_mm * px_per_mm
    if sigma > 0.3:
        ink = np.asarray(
            cv2.GaussianBlur(ink, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32
        )

    light = _mix_inks(ink, printer)
    rng = numpy_generator(seed, "twin", "mottle")
    uneven = smooth_noise(rng, *rgb.shape[:2], cells=12, octaves=4) * 2 - 1
    return np.asarray(light * (1 + printer.mottle * uneven[..., None]), np.float32)


def _mix_inks(ink: F32, printer: VirtualPrinter) -> F32:
    """Return the linear reflectance (..., 3) of a coverage (..., 3) by cyan, magenta and yellow."""
    roots = np.sqrt(printer.primaries)
    cyan, magenta, yellow = (ink[..., i : i + 1] for i in range(3))
    pairs = [roots[i] + yellow * (roots[i + 1] - roots[i]) for i in (0, 2, 4, 6)]

    low = pairs[0] + magenta * (pairs[1] - pairs[0])
    high = pairs[2] + magenta * (pairs[3] - pairs[2])
    mixed = low + cyan * (high - low)
    return np.asarray(mixed * mixed, np.float32)


def _driven_ink(rgb: U8, printer: VirtualPrinter) -> F32:
    """Return the coverage (h, w, 3) before dot gain that a driver's profile, a table, assigns to
    ``rgb``."""
    positions = rgb.reshape(-1, 3).T.astype(np.float32) * np.float32((_NODES - 1) / 255)
    table = _driver_table(printer.primaries.tobytes(), printer.gain)
    planes = [map_coordinates(table[..., i], positions, order=1, mode="nearest") for i in range(3)]
    return np.asarray(np.stack(planes, -1).reshape(rgb.shape), np.float32)


_NODES = 17


@lru_cache(maxsize=8)
def _driver_table(primaries: bytes, gain: float) -> F32:
    """Return the coverage (17, 17, 17, 3) whose print is nearest in encoded value to each color,
    black and white matched.

    Computed by damped Gauss-Newton steps within [0, 1]; colors out of gamut end on its edge.
    """
    printer = VirtualPrinter(np.frombuffer(primaries, np.float32).reshape(8, 3), gain, 0.0, 0.0)
    axis = np.linspace(0, 1, _NODES, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)

    darkest, paper = printer.primaries[7], printer.primaries[0]
    target = light_to_srgb(darkest + (paper - darkest) * srgb_to_light(grid))
    ink = 1 - grid

    def printed(cover: F32) -> F32:
        inked = np.asarray(cover + np.float32(4 * gain) * cover * (1 - cover), np.float32)
        return np.asarray(light_to_srgb(_mix_inks(inked, printer)), np.float32)

    for _ in range(30):
        present = printed(ink)
        slopes = [
            (printed(ink + h) - present) / np.float32(0.01)
            for h in np.float32(0.01) * np.eye(3, dtype=np.float32)
        ]

        jacobian = np.stack(slopes, -1)
        across = np.swapaxes(jacobian, 1, 2)
        normal = across @ jacobian + np.float32(0.01) * np.eye(3, dtype=np.float32)
        ink = np.clip(
            ink + np.linalg.solve(normal, across @ (target - present)[..., None])[..., 0], 0, 1
        ).astype(np.float32)
    return np.asarray(ink.reshape(_NODES, _NODES, _NODES, 3), np.float32)
