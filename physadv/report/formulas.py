"""Formulas of a study's page: MathML for browsers, drawings for the printed booklet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from markupsafe import Markup

from physadv.core.visible_text import visible_text
from physadv.studies.page import Formula

_BETWEEN = r", \quad "
_BRACKETS = ((r"\{", r"\}"), (r"\\begin\b", r"\\end\b"), (r"\\left\b", r"\\right\b"))
"""What opens and closes around a part that stays in one piece."""


def formula_mathml(formula: Formula) -> Markup:
    """Return ``formula`` as MathML, which browsers draw without a script or a font of ours.

    Args:
        formula: The formula; its words are read by screen readers.
    """
    from latex2mathml.converter import convert

    words = escape(visible_text(formula.words), quote=True)
    clauses = [convert(clause, display="block") for clause in _clauses(formula.latex)]
    labels = [f'aria-label="{words}"', *['aria-hidden="true"'] * (len(clauses) - 1)]
    drawn = (
        math.replace("<math ", f"<math {label} ", 1)
        for math, label in zip(clauses, labels, strict=True)
    )
    return Markup(f'<div class="formula">{"".join(drawn)}</div>')


def _clauses(latex: str) -> list[str]:
    """A formula in its clauses, which a narrow screen shows below each other."""
    clauses: list[str] = []
    current = ""
    for piece in latex.split(_BETWEEN):
        current += piece
        if all(len(re.findall(a, current)) == len(re.findall(b, current)) for a, b in _BRACKETS):
            clauses.append(current)
            current = ""
        else:
            current += _BETWEEN
    return [clause + "," for clause in clauses[:-1]] + clauses[-1:] if not current else [latex]


def formula_svg(formula: Formula, size: float = 18) -> str:
    """Return ``formula`` as the text of an SVG file, drawn with paths alone.

    Args:
        formula: The formula.
        size: Font size in px.
    """
    import ziamath

    with _paths_alone(ziamath.config):
        return str(ziamath.Latex(formula.latex, size=size).svg())


@contextmanager
def _paths_alone(config: Any) -> Iterator[None]:
    """Draw each character as a path where it stands: what makes PDF of SVG places the characters
    of ``symbol`` and ``use``, ziamath's default, wrongly."""
    kept, config.svg2 = config.svg2, False
    try:
        yield
    finally:
        config.svg2 = kept
