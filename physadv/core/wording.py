"""Numbers and names of fields as people read them."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

_UNITS = {
    "px": "px",
    "mm": "mm",
    "m": "m",
    "deg": "degrees",
    "ev": "EV",
    "s": "s",
    "db": "dB",
    "fps": "frames/s",
}
_LABELS = {
    "lr": "Learning rate",
    "victim": "Model",
    "eps": "Epsilon",
    "physadv": "Version of physadv",
    "eight_bit": "Only 8-bit images",
    "targeted": "Targeted attacks",
    "speed": "Speed-up",
    "surrogates": "Surrogate models",
    "frame_share": "Share of the frame's height",
    "frame_aspect": "Aspect ratio of the frame",
    "frame_place": "Place of the sign in the frame",
    "post_probability": "Share of the signs on a post",
    "margin": "Margin around the sign",
    "n0": "Noisy images to choose the class (n0)",
    "n": "Noisy images to certify it (n)",
    "train": "Training images",
    "hardest": "Strength of poses and effects",
    "judge_stop": "Photos with stop signs, to judge",
    "judge_boxes": "Boxes of these signs",
    "judge_other": "Photos without stop signs, to judge",
    "part": "Half of the test images",
    "baselines": "Baselines of noise and blur",
}
_SPELLED = {"jpeg": "JPEG", "eot": "EOT", "pgd": "PGD", "cpu": "CPU", "vnnlib": "VNNLIB"}


def count_noun(n: int, noun: str) -> str:
    """Return the number ``n`` with ``noun`` in singular or plural.

    Example:
        >>> count_noun(1, "frame"), count_noun(2, "box"), count_noun(1200, "query")
        ('1 frame', '2 boxes', '1,200 queries')
        >>> count_noun(0, "other person"), count_noun(3, "way")
        ('0 other people', '3 ways')
        >>> count_noun(2, "epoch"), count_noun(2, "batch"), count_noun(2, "mesh")
        ('2 epochs', '2 batches', '2 meshes')
    """
    return f"{n:,} {noun if n == 1 else _plural(noun)}"


def _plural(noun: str) -> str:
    if noun.endswith("person"):
        return f"{noun.removesuffix('person')}people"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    hisses = noun.endswith(("s", "x", "ch", "sh")) and not noun.endswith("epoch")
    return noun + ("es" if hisses else "s")


def format_fixed(value: float, digits: int = 0) -> str:
    """Return ``value`` with ``digits`` decimals, and no minus sign before a zero.

    Example:
        >>> format_fixed(-0.04, 1), format_fixed(-12.5)
        ('0.0', '-12')
    """
    return f"{value:z.{digits}f}"


def format_range(values: Iterable[float], unit: str, digits: int = 1) -> str:
    """Return the least and the largest of ``values`` in words, one where they read alike; "" for
    none.

    Args:
        values: Numbers, in any order.
        unit: What follows each of them, with its space.
        digits: Digits after the point.

    Example:
        >>> format_range([2.0, 0.81], " m"), format_range([3.02, 3.04], " m")
        ('0.8 to 2.0 m', '3.0 m')
    """
    known = list(values)
    if not known:
        return ""
    low, high = format_fixed(min(known), digits), format_fixed(max(known), digits)
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def format_percent(share: float | None, digits: int = 1) -> str:
    """Format ``share`` in percent with ``digits`` decimals; what is not a number is a dash.

    Example:
        >>> format_percent(0.934)
        '93.4 %'
    """
    return "–" if share is None or not isfinite(share) else f"{100 * share:.{digits}f} %"


def format_ends(low: float, high: float, digits: int = 0) -> str:
    """Format the ends of an interval of shares in percent.

    Example:
        >>> format_ends(0.753, 0.9)
        '[75 %, 90 %]'
    """
    return f"[{format_percent(low, digits)}, {format_percent(high, digits)}]"


def field_label(key: str) -> str:
    """Return the name of a field of a record, ``key``, as a table shows it.

    Example:
        >>> field_label("weights_sha256"), field_label("yaw_deg"), field_label("Images")
        ('Weights sha256', 'Yaw, degrees', 'Images')
    """
    if key in _LABELS:
        return _LABELS[key]

    words = key.split("_")
    unit = _UNITS.get(words[-1], "") if len(words) > 1 else ""
    named = " ".join(_SPELLED.get(word, word) for word in (words[:-1] if unit else words))
    return f"{named[:1].upper()}{named[1:]}{f', {unit}' if unit else ''}"
