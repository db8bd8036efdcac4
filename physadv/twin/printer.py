"""A virtual colour printer: ink coverage, dot gain, ink spread, and colours mixed as overprinted dots on paper."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from physadv.core.seeds import numpy_generator
from physadv.twin.colour import F32, U8, smooth_noise

# Linear reflectance of paper and of one, two and three inks over each other (index 4c + 2m + y), as office inks on
# matt paper look under daylight. Overprints are far from products of single inks: that is what makes it cross-channel.
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
class Printer:
    """One printer with its paper.

    ``primaries`` (8, 3) linear reflectances, ``gain`` of a half-tone dot at 50 %, ``spread_mm`` standard deviation of
    the ink's spread, ``mottle`` relative unevenness.
    """

    primaries: F32
    gain: float
    spread_mm: float
    mottle: float

    @property
    def paper(self) -> F32:
        """(3,) linear reflectance of blank paper."""
        return np.asarray(self.primaries[0], np.float32)


def any_printer(seed: int) -> Printer:
    """A printer drawn around an ordinary office machine; the same seed gives the same one."""
    rng = numpy_generator(seed, "twin", "printer")
    jitter = np.exp(rng.normal(0, 0.12, (8, 3))).astype(np.float32)
    jitter[0] = 1 + rng.uniform(-0.015, 0.015, 3)
    primaries = np.clip(_PRIMARIES * jitter, 0.015, 0.95)
    return Printer(primaries, rng.uniform(0.03, 0.1), rng.uniform(0.06, 0.18), rng.uniform(0.004, 0.015))


def print_picture(rgb: U8, printer: Printer, px_per_mm: float, seed: int) -> F32:
    """(h, w, 3) uint8 sRGB sent to the printer -> (h, w, 3) linear reflectance of the print.

    Coverage is one minus the encoded value, with dot gain; colours mix by Demichel's weights in Yule and Nielsen's
    square-root space (Neugebauer 1937; Yule and Nielsen 1951, n = 2).
    """
    ink = 1 - rgb.astype(np.float32) / 255
    ink += np.float32(4 * printer.gain) * ink * (1 - ink)
    sigma = printer.spread_mm * px_per_mm
    if sigma > 0.3:
        ink = np.asarray(cv2.GaussianBlur(ink, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)
    roots = np.sqrt(printer.primaries)
    cyan, magenta, yellow = (ink[..., i : i + 1] for i in range(3))
    pairs = [roots[i] + yellow * (roots[i + 1] - roots[i]) for i in (0, 2, 4, 6)]
    low = pairs[0] + magenta * (pairs[1] - pairs[0])
    high = pairs[2] + magenta * (pairs[3] - pairs[2])
    mixed = low + cyan * (high - low)
    rng = numpy_generator(seed, "twin", "mottle")
    uneven = smooth_noise(rng, *rgb.shape[:2], cells=12, octaves=4) * 2 - 1
    return np.asarray(mixed * mixed * (1 + printer.mottle * uneven[..., None]), np.float32)
