"""Lengths as people write them: 280x190 and 0,210, in millimeters."""

from __future__ import annotations

import math
import re

from physadv.core.errors import OptionError


def parse_size_mm(text: str, option: str, *, positive: bool = True) -> tuple[float, float]:
    """Two numbers in mm, written ``280x190`` or ``280,190``. Raises OptionError naming the option."""
    parts = re.split(r"\s*[x×,;]\s*", text.strip().lower().removesuffix("mm"))
    try:
        first, second = (float(part) for part in parts)
    except ValueError as error:
        raise OptionError(
            f"{option} {text!r}", "two numbers in mm are needed", f"write {option} 280x190"
        ) from error
    if not all(math.isfinite(v) for v in (first, second)) or (positive and min(first, second) <= 0):
        raise OptionError(
            f"{option} {text!r}", "both must be over 0 mm", "write for example 280x190"
        )
    return first, second
