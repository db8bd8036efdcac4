"""HTML of results in notebooks: a heading, a table of figures, remarks and small pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from itertools import islice
from typing import Any

from torch import Tensor

from physadv.core.image_io import Array, png_bytes
from physadv.core.visible_text import visible_text

_PICTURE = "width:96px;height:96px;object-fit:contain;image-rendering:pixelated"
MOST_PICTURES = 8
"""Pictures that a result shows; more would make a notebook large."""


def result_html(
    heading: str,
    facts: Mapping[str, Any],
    *,
    notes: Iterable[object] = (),
    pictures: Iterable[tuple[str, Array | Tensor]] = (),
) -> str:
    """Return a result as an HTML fragment, for ``_repr_html_``; all texts are escaped.

    Args:
        heading: The result in one sentence.
        facts: Figures by name.
        notes: What should be known of them.
        pictures: Captions and pictures: arrays (h, w, 3) uint8 or tensors (c, h, w) in [0, 1].

    Example:
        >>> "<b>2 &lt; 3</b>" in result_html("2 < 3", {})
        True
    """
    rows = "".join(
        f"<tr><td style='text-align:left'>{_text(name)}</td>"
        f"<td style='text-align:left'>{_text(value)}</td></tr>"
        for name, value in facts.items()
    )
    remarks = "".join(f"<li>{_text(note)}</li>" for note in notes)
    shown = "".join(
        "<figure style='display:inline-block;margin:4px;font-size:small'>"
        f"<img alt='{_text(words)}' style='{_PICTURE}' src='{_uri(pixels)}'>"
        f"<figcaption>{_text(words)}</figcaption></figure>"
        for words, pixels in islice(pictures, MOST_PICTURES)
    )
    table = f"<table>{rows}</table>" if rows else ""
    listed = f"<ul>{remarks}</ul>" if remarks else ""
    return f"<div><b>{_text(heading)}</b>{table}{listed}{shown}</div>"


def _text(value: object) -> str:
    return escape(visible_text(str(value)))


def _uri(pixels: Array | Tensor) -> str:
    return "data:image/png;base64," + base64.b64encode(png_bytes(pixels)).decode()
