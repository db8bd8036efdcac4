"""Parsing of norms, radii and threats: ``Linf``, ``8/255``, ``linf:8/255``. Imports no torch."""

from __future__ import annotations

import math
import re
from typing import Literal

from physadv.core.errors import OptionError

Norm = Literal["linf", "l2", "l1", "l0"]
NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
"""Norms that everything with a radius takes. Only what is made for few pixels takes ``"l0"``, whose
radius is a number of pixels."""
NormLike = str | float
"""A norm in any spelling: ``"linf"``, ``"Linf"``, ``"l_inf"``, ``"L2"``, ``2``, ``math.inf``."""

DEFAULT_RADII: dict[Norm, str] = {"linf": "8/255", "l2": "0.5", "l1": "12", "l0": "10"}
"""Radius of a norm that is given alone."""

_SPELLINGS: dict[str, Norm] = {
    **{name: name for name in NORMS},
    **dict.fromkeys(("inf", "linfty", "linfinity", "infty", "infinity"), NORMS[0]),
    **dict.fromkeys(("2", "2.0"), NORMS[1]),
    **dict.fromkeys(("1", "1.0"), NORMS[2]),
    **dict.fromkeys(("l0", "0", "0.0"), "l0"),
}
_NUMBER = r"\d+(?:\.\d*)?(?:e-?\d+)?|\.\d+(?:e-?\d+)?"
_RADIUS = re.compile(rf"\s*({_NUMBER})\s*(?:/\s*({_NUMBER})\s*)?", re.IGNORECASE)


def parse_norm(norm: NormLike, *, sparse: bool = False) -> Norm:
    """Return the norm meant by ``norm``, whatever its spelling.

    Case, underscores and hyphens do not matter; numbers are the order of the norm.

    Args:
        norm: The norm in any spelling.
        sparse: Whether l0, the number of changed pixels, is a norm as well.

    Returns:
        The norm's name.

    Raises:
        OptionError: ``norm`` is no spelling of linf, l2 or l1, or of l0 where that is allowed.

    Example:
        >>> import math
        >>> [parse_norm(norm) for norm in ("Linf", "l_2", 1, math.inf)]
        ['linf', 'l2', 'l1', 'linf']
    """
    spelling = re.sub(r"^l[_-]", "l", str(norm).strip().lower())
    known = (*NORMS, "l0") if sparse else NORMS
    if isinstance(norm, bool) or _SPELLINGS.get(spelling) not in known:
        raise OptionError(
            f"norm {norm!r}", f"one of {', '.join(known)} is needed", "Write for example linf"
        )
    return _SPELLINGS[spelling]


def parse_eps(eps: str | float, norm: NormLike = "linf") -> float:
    """Return the radius meant by ``eps``, in units of [0, 1] images.

    Args:
        eps: A number or text such as ``"8/255"``, ``"0.03"``, ``"2.0"``.
        norm: Norm of the radius. In l_inf a radius over 1 is refused, which is most often a number
            of 255ths without its ``/255``; in l_0 it is a whole number of pixels.

    Returns:
        The radius, 0 or more.

    Raises:
        OptionError: ``eps`` is no finite number >= 0, or more than an image can change.

    Example:
        >>> parse_eps("51/255"), parse_eps(0.5, "l2")
        (0.2, 0.5)
    """
    text = str(eps)
    if isinstance(eps, str):
        match = _RADIUS.fullmatch(text)
        divisor = float(match[2]) if match and match[2] else 1.0
        radius = float(match[1]) / divisor if match and divisor else math.nan
    else:
        radius = _as_number(eps)
    if not (math.isfinite(radius) and radius >= 0):
        raise OptionError(
            f"eps {text!r}",
            "a finite number or a fraction >= 0 is needed",
            "Write 8/255, 0.03 or 2.0",
        )
    name = parse_norm(norm, sparse=True)
    if name == "l0" and radius % 1:
        raise OptionError(
            f"eps {text!r}",
            "in l0 a whole number of pixels",
            f"Write {max(1, math.floor(radius + 0.5))}",
        )
    if name == "linf" and radius > 1:
        remedy = f"Did you mean {text.strip()}/255" if radius <= 255 else "Pixels are in [0, 1]"
        raise OptionError(f"eps {text!r}", "at most 1 in l_inf, as images are in [0, 1]", remedy)
    return radius


def _as_number(value: object) -> float:
    """Return ``value`` as a float, NaN where it is no single number."""
    if isinstance(value, bool):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def largest_radius(norm: NormLike, size: int, channels: int = 1) -> float:
    """Return the largest distance between two images of ``size`` numbers in [0, 1].

    In l_0 that is the number of pixels, of ``channels`` numbers each.

    Example:
        >>> largest_radius("l2", 3 * 32 * 32), largest_radius("l0", 3 * 32 * 32, 3)
        (55.42562584220407, 1024.0)
    """
    name = parse_norm(norm, sparse=True)
    return {"linf": 1.0, "l2": math.sqrt(size), "l1": float(size), "l0": size / channels}[name]


def check_radius(eps: float, norm: NormLike, size: int, channels: int = 1) -> None:
    """Refuse a radius that no image of ``size`` numbers in [0, 1] can reach.

    Args:
        eps: The radius.
        norm: Its norm.
        size: Numbers an image.
        channels: Numbers a pixel, which is what l_0 counts.

    Raises:
        OptionError: ``eps`` is larger than the distance between a black and a white image.

    Example:
        >>> check_radius(8.0, "l2", 12)
        Traceback (most recent call last):
        physadv.core.errors.OptionError: eps 8: at most 3.46 in l2, as images are in [0, 1]. \
Did you mean 8/255?
    """
    largest, name = largest_radius(norm, size, channels), parse_norm(norm, sparse=True)
    if eps <= largest * (1 + 1e-9):
        return
    if name == "l0":
        raise OptionError(
            f"eps {eps:g}", f"at most {largest:g} in l0, all pixels", "Use a smaller one"
        )
    raise OptionError(
        f"eps {eps:g}",
        f"at most {largest:.3g} in {name}, as images are in [0, 1]",
        f"Did you mean {eps:g}/255?" if eps <= 255 else "Use a smaller one",
    )


def parse_threat(
    threat: str | tuple[NormLike, str | float], *, sparse: bool = False
) -> tuple[Norm, float]:
    """Return the norm and the radius of ``threat``, text such as ``"linf:8/255"`` or a pair.

    Args:
        threat: The text or the pair.
        sparse: Whether ``"l0:10"``, ten pixels, is a threat as well.

    Returns:
        Norm and radius.

    Raises:
        OptionError: ``threat`` is no pair and has no colon, or its norm or radius cannot be read.

    Example:
        >>> parse_threat("L2:0.5"), parse_threat(("inf", "51/255"))
        (('l2', 0.5), ('linf', 0.2))
    """
    if isinstance(threat, str):
        head, colon, tail = threat.partition(":")
        if not colon:
            raise OptionError(
                f"threat {threat!r}", "a norm, a colon and a radius are needed", "Write linf:8/255"
            )
        threat = (head, tail)
    if not isinstance(threat, tuple | list) or len(threat) != 2:
        raise OptionError(
            f"threat {threat!r}", "a norm and a radius are needed", "Write 'linf:8/255'"
        )
    norm = parse_norm(threat[0], sparse=sparse)
    return norm, parse_eps(threat[1], norm)


def join_threat(threat: str | None, norm: str | None, eps: str | None) -> str | None:
    """Return ``threat`` with its norm or radius replaced by ``norm`` and ``eps`` where given.

    A norm without a radius takes its default radius (:data:`DEFAULT_RADII`), unless the threat has
    that norm already.

    Raises:
        OptionError: The norm is unknown.

    Example:
        >>> join_threat("linf:8/255", "l2", None)
        'l2:0.5'
    """
    if norm is None and eps is None:
        return threat
    own_norm, _, own_eps = (threat or "linf:").partition(":")
    name = parse_norm(norm or own_norm, sparse=True)
    is_own = bool(own_eps) and parse_norm(own_norm, sparse=True) == name
    radius = eps or (own_eps if is_own else "")
    return f"{name}:{radius or DEFAULT_RADII[name]}"


def round_radius(radius: float) -> float:
    """Return the number that a computed radius is but for rounding: of 12 digits at most, or a
    multiple of 1/1020.

    Args:
        radius: The radius, such as 1.5 times another.

    Returns:
        That number; ``radius`` itself where it is neither.

    Example:
        >>> 1.5 * 0.1, round_radius(1.5 * 0.1), round_radius(1 / 3)
        (0.15000000000000002, 0.15, 0.3333333333333333)
    """
    quarters = round(1020 * radius)
    for near in (float(f"{radius:.12g}"), quarters / 4 / 255):
        if math.isclose(near, radius, rel_tol=1e-15):
            return near
    return radius


def format_eps(eps: float, digits: int = 3) -> str:
    """Format ``eps`` as a multiple of 1/255, or of a quarter of that where it is small; else as a
    short number.

    Args:
        eps: The radius.
        digits: Digits of a radius that is no such multiple; 6 for one that somebody asked for.

    Example:
        >>> format_eps(8 / 255), format_eps(0.5 / 255), format_eps(0.2)
        ('8/255', '0.5/255', '0.2')
        >>> format_eps(0.1234), format_eps(0.1234, 6)
        ('0.123', '0.1234')
    """
    # 0.2 is 51/255 too, which nobody writes.
    if float(f"{eps:.1g}") == eps < 1000:
        return f"{eps:.1g}" if eps < 1 else f"{eps:g}"
    steps = eps * 255
    if eps and abs(steps - round(steps)) < 1e-6 and round(steps) < 255:
        return f"{round(steps)}/255"
    # Quarters of small steps have no short decimals; 0.05, which is 12.75/255, has.
    if 0 < steps < 12 and abs(4 * steps - round(4 * steps)) < 1e-6:
        return f"{round(4 * steps) / 4:g}/255"
    return f"{eps:.0f}" if eps >= 1000 else f"{eps:.{digits}g}"
