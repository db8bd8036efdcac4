"""Values as people write them: 8/255, 0.03, linf:8/255."""

from __future__ import annotations

import math
import re

from physadv.core.errors import OptionError

NORMS = ("linf", "l2", "l1")
_NUMBER = r"\d+(?:\.\d*)?(?:e-?\d+)?|\.\d+(?:e-?\d+)?"
_EPS = re.compile(rf"\s*({_NUMBER})\s*(?:/\s*({_NUMBER})\s*)?", re.IGNORECASE)


def parse_eps(text: str, norm: str = "linf") -> float:
    """A radius in units of [0, 1] images: ``8/255``, ``0.03``, ``2.0``. Raises OptionError for
    anything else.

    In l_inf a radius over 1 is refused: it is most often a count of 255ths without its ``/255``.
    """
    match = _EPS.fullmatch(text)
    below = float(match[2]) if match and match[2] else 1.0
    if match is None or below == 0:
        raise OptionError(
            f"eps {text!r}", "a number or a fraction >= 0 is needed", "write 8/255, 0.03 or 2.0"
        )
    eps = float(match[1]) / below
    if not math.isfinite(eps):
        raise OptionError(f"eps {text!r}", "a finite number is needed", "write 8/255, 0.03 or 2.0")
    if norm == "linf" and eps > 1:
        remedy = f"did you mean {text.strip()}/255?" if eps <= 255 else "pixels are in [0, 1]"
        raise OptionError(
            f"eps {text!r}", "at most 1 in l_inf, as images are in [0, 1]", remedy.rstrip("?")
        )
    return eps


def parse_norm(text: str) -> str:
    """``linf``, ``l2`` or ``l1``, however it is spelt (``Linf``, ``l_inf``, ``inf``). Raises
    OptionError."""
    name = text.strip().lower().replace("_", "").replace("-", "")
    name = {"inf": "linf", "linfinity": "linf", "2": "l2", "1": "l1"}.get(name, name)
    if name not in NORMS:
        raise OptionError(
            f"norm {text!r}", f"one of {', '.join(NORMS)} is needed", "for example linf"
        )
    return name


def parse_threat(text: str) -> tuple[str, float]:
    """``linf:8/255`` as (norm, eps). Raises OptionError."""
    head, colon, tail = text.partition(":")
    if not colon:
        raise OptionError(
            f"threat {text!r}", "a norm, a colon and a radius are needed", "write linf:8/255"
        )
    norm = parse_norm(head)
    return norm, parse_eps(tail, norm)
