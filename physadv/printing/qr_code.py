"""QR code of a run, by which a photo of a print is traced to its origin."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import segno

QUIET = 4
"""Modules of white that a QR code needs on every side."""


def qr_modules(text: str) -> npt.NDArray[np.bool_]:
    """Return the QR code (n, n) of ``text`` without its quiet zone, at error correction level M (15
    % may be lost); True is black.

    Example:
        >>> qr_modules("physadv run 1").shape
        (21, 21)
    """
    code = segno.make_qr(text, error="m", boost_error=False)
    return np.array([[bool(v) for v in row] for row in code.matrix], np.bool_)
