"""Plane geometry of located signs."""

from __future__ import annotations

import pytest

from physadv.camera.localization.boxes import square_around


@pytest.mark.parametrize(("width", "height"), [(20, 120), (120, 20), (50, 50)])
def test_a_square_around_a_box_holds_its_longer_side(width: int, height: int) -> None:
    """The crop is as large as the longer side and its margin, whichever that is, about the same
    center."""
    x, y, side = square_around((40.0, 60.0, 40.0 + width, 60.0 + height), 0.25)
    longer = max(width, height)
    assert side == pytest.approx(1.5 * longer, abs=1)
    assert x + side / 2 == pytest.approx(40 + width / 2, abs=1)
    assert y + side / 2 == pytest.approx(60 + height / 2, abs=1)
