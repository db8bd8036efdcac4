"""Formulas of a study's page: MathML for browsers, drawings for the printed booklet."""

from __future__ import annotations

from html import escape

from markupsafe import Markup

from physadv.core.visible_text import visible_text
from physadv.studies.page import Formula


def formula_mathml(formula: Formula) -> Markup:
    """Return ``formula`` as MathML, which browsers draw without a script or a font of ours.

    Args:
        formula: The formula; its words are read by screen readers.
    """
    from latex2mathml.converter import convert

    math = convert(formula.latex, display="block")
    words = escape(visible_text(formula.words), quote=True)
    return Markup(math.replace("<math ", f'<math aria-label="{words}" ', 1))


def formula_svg(formula: Formula, size: float = 18) -> str:
    """Return ``formula`` as the text of an SVG file, drawn with paths alone.

    Args:
        formula: The formula.
        size: Font size in px.
    """
    import ziamath

    return str(ziamath.Latex(formula.latex, size=size).svg())
