"""Numbers and field names read as a person would write them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from physadv.core.wording import count_noun, field_label, format_fixed


@given(st.floats(-1e6, 1e6), st.integers(0, 4))
def test_a_zero_has_no_sign(value: float, digits: int) -> None:
    """A number that rounds to zero is written without a minus sign, any other as it is."""
    written = format_fixed(value, digits)
    assert float(written) == round(value, digits)
    assert not written.startswith("-") or float(written) != 0


@given(st.integers(0, 10**6))
def test_only_one_is_singular(n: int) -> None:
    """1 clip, and any other number of clips."""
    assert count_noun(n, "clip").endswith("s") == (n != 1)


def test_labels_are_words() -> None:
    """No underscore is left of a key; what is a label already stays."""
    keys = ["weights_sha256", "size_px", "eot_draws", "exposure_ev", "jpeg_quality", "victim"]
    labels = [field_label(key) for key in keys]
    assert labels == [
        "Weights sha256",
        "Size, px",
        "EOT draws",
        "Exposure, EV",
        "JPEG quality",
        "Model",
    ]
    assert field_label("Mean certified radius") == "Mean certified radius"
