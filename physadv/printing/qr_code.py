"""A QR code as modules, so that a photo of a print can be traced to the run it came from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import segno

QUIET = 4
"""Modules of white that a QR code needs on every side."""


def qr_modules(text: str) -> npt.NDArray[np.bool_]:
    """The QR code (n, n) of ``text`` without its quiet zone, error correction M (15 % may be lost);
    True is black."""
    code = segno.make_qr(text, error="m", boost_error=False)
    return np.array([[bool(v) for v in row] for row in code.matrix], np.bool_)
