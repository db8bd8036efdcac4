"""Mark in a cloaked photo's metadata that names the recognizers the cloak was made with.

A check reads it, so that a photo that was copied alone still tells which recognizers are no
independent judges of it. It holds names and the beginnings of hashes of weights, nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

MARK_TAG = 0x000B
"""EXIF's ProcessingSoftware, which JPEG, PNG, WebP, TIFF and HEIC carry."""
_DIGITS = 16
_MARK = re.compile(r"physadv cloak, made with ([\w.:, -]+)")
_MADE_WITH = re.compile(r"([\w.-]+):([\w.-]+)")


def mark_of(embedders: Iterable[Mapping[str, str]], before: Any = None) -> str:
    """Write the mark of a cloak.

    Args:
        embedders: Name and sha256 of each embedder that the cloak was made with.
        before: What stands at the mark's place in the original: an earlier mark's recognizers stay
            listed, for their cloak is still in the picture.

    Returns:
        The mark, or "" where there is nothing to name.

    Example:
        >>> mark_of([{"name": "dlib", "sha256": "55533b28a95800a551ba"}])
        'physadv cloak, made with dlib:55533b28a95800a5'
    """
    named = dict.fromkeys((_plain(e["name"]), _plain(e["sha256"])[:_DIGITS]) for e in embedders)
    named |= dict.fromkeys(read_mark(before) or ())
    text = ", ".join(f"{name}:{digest or '-'}" for name, digest in named)
    return f"physadv cloak, made with {text}" if text else ""


def read_mark(value: Any) -> tuple[tuple[str, str], ...] | None:
    """Return the recognizers that a mark names; None where ``value`` is no mark.

    Example:
        >>> read_mark("physadv cloak, made with dlib:55533b28a95800a5")
        (('dlib', '55533b28a95800a5'),)
    """
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    found = _MARK.search(text) if isinstance(text, str) else None
    if found is None:
        return None
    return tuple((name, digest) for name, digest in _MADE_WITH.findall(found[1]))


def _plain(text: str) -> str:
    """``text`` in characters that an ASCII field and the mark's own grammar hold."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)
