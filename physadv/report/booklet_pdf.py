"""Booklet of several studies as PDF, set with reportlab from the same contents as the page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from physadv.core.visible_text import visible_text
from physadv.report.figure_files import (
    RunPictures,
    figure_font,
    figure_markup,
    first_frame,
    is_animated,
)
from physadv.report.figure_pdf import figure_drawing
from physadv.report.formulas import formula_svg
from physadv.report.plots import standalone_svg
from physadv.report.study_report import StudyChapter
from physadv.studies.page import Block, Comparison, Formula, Pictures, Table, Text

FONT = "physadv-text"
_MM = 72 / 25.4
_MARGIN = 20 * _MM
_WIDTH = 210 * _MM - 2 * _MARGIN
_TALLEST = 200 * _MM
_FIGURE_WIDTH = 125 * _MM
_STILL_WIDTH = 75 * _MM
_FORMULA_SCALE = 0.72


def booklet_pdf(title: str, chapters: Sequence[StudyChapter], left_out: Mapping[str, str]) -> bytes:
    """Return the PDF of a booklet: A4, contents with links, a chapter a study.

    Args:
        title: Title of the booklet.
        chapters: Complete studies in their order.
        left_out: Why each other study is missing, by its name.

    Raises:
        DataError: A picture of a study is missing.
    """
    from reportlab.platypus import SimpleDocTemplate

    styles = _styles()
    story = _contents(title, chapters, left_out, styles)
    for number, chapter in enumerate(chapters, 1):
        story += _chapter(number, chapter, styles)

    stream = io.BytesIO()
    margins = dict.fromkeys(("leftMargin", "rightMargin", "topMargin", "bottomMargin"), _MARGIN)
    document = SimpleDocTemplate(
        stream, pagesize=(210 * _MM, 297 * _MM), title=title, author="physadv", **margins
    )
    document.build(story, onFirstPage=_page_number, onLaterPages=_page_number)
    return stream.getvalue()


def _styles() -> dict[str, Any]:
    """Paragraph styles by name, in a font that has Greek letters and mathematical signs."""
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    pdfmetrics.registerFont(TTFont(FONT, figure_font()))

    def style(name: str, size: float, **more: Any) -> ParagraphStyle:
        return ParagraphStyle(name, fontName=FONT, fontSize=size, leading=size * 1.4, **more)

    muted = {"textColor": "#5b6875"}
    return {
        "title": style("title", 20, spaceAfter=10),
        "heading": style(
            "heading", 11.5, spaceBefore=10, spaceAfter=4, textColor="#0b5c8a", keepWithNext=1
        ),
        "text": style("text", 9, spaceAfter=5),
        "answer": style(
            "answer", 10, spaceBefore=6, spaceAfter=8, backColor="#f4f6f8", borderPadding=6
        ),
        "caption": style("caption", 7.5, spaceAfter=8, **muted),
        "cell": style("cell", 7.5),
        "muted": style("muted", 8, spaceAfter=6, **muted),
    }


def _words(text: str) -> str:
    plain = visible_text(text).replace("`", "")  # commands need no marks here
    whole = plain.replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0")  # in one line
    return escape(whole, quote=False)


def _contents(
    title: str,
    chapters: Sequence[StudyChapter],
    left_out: Mapping[str, str],
    styles: Mapping[str, Any],
) -> list[Any]:
    from reportlab.platypus import Paragraph, Spacer

    story: list[Any] = [Paragraph(_words(title), styles["title"])]
    story.append(
        Paragraph(
            "Each chapter shows what was published beside what this run measured. Made by physadv.",
            styles["muted"],
        )
    )
    story.append(Spacer(1, 8))
    for number, chapter in enumerate(chapters, 1):
        link = f'<link href="#{chapter.study.name}">{number}. {_words(chapter.study.title)}</link>'
        story.append(Paragraph(link, styles["text"]))
        story.append(Paragraph(_words(chapter.page.answer), styles["caption"]))
    if left_out:
        reasons = "; ".join(f"{name} ({why})" for name, why in left_out.items())
        story.append(Paragraph(_words(f"Left out: {reasons}."), styles["muted"]))
    return story


def _chapter(number: int, chapter: StudyChapter, styles: Mapping[str, Any]) -> list[Any]:
    from reportlab.platypus import KeepTogether, PageBreak, Paragraph

    pictures = RunPictures(chapter.folder)
    anchor = f'<a name="{chapter.study.name}"/>{number}. {_words(chapter.study.title)}'
    question = chapter.study.question
    if chapter.settings.get("quick"):
        question += " (quick run: too small for its figures to mean anything)"
    story: list[Any] = [
        PageBreak(),
        Paragraph(anchor, styles["title"]),
        Paragraph(_words(question), styles["muted"]),
        Paragraph(_words(chapter.page.answer), styles["answer"]),
    ]
    for section in chapter.page.sections:
        heading = [Paragraph(_words(section.heading), styles["heading"])]
        for block in section.blocks:
            set_block = [*heading, *_block(block, pictures, styles)]
            # A table is split where it must be; its heading stays with it by its style.
            story += set_block if isinstance(block, Table) else [KeepTogether(set_block)]
            heading = []
    story += _comparisons(chapter.page.comparisons, styles)
    story += _list("What this run does not show", chapter.page.limits, styles)
    story += _list("Terms", [f"{term}: {words}" for term, words in chapter.page.terms], styles)
    papers = [f"{p.authors} ({p.year}). {p.title}. {p.where}." for p in chapter.study.papers]
    return story + _list("Papers", papers, styles)


def _block(block: Block, pictures: RunPictures, styles: Mapping[str, Any]) -> list[Any]:
    from reportlab.platypus import Paragraph, Spacer

    if isinstance(block, Text):
        return [Paragraph(_words(block.words), styles["text"])]
    if isinstance(block, Formula):
        return [_formula(block), Spacer(1, 6)]
    caption = Paragraph(_words(block.caption), styles["caption"])
    if isinstance(block, Table):
        return [_table(block.columns, block.rows, styles), caption]
    if is_animated(block) and isinstance(block, Pictures):
        stills = [first_frame(pictures.content(p.file)) for row in block.rows for p in row]
        return [*(_image(png, _STILL_WIDTH) for png in stills), caption]
    drawing = figure_markup(block, pictures)
    if drawing is None:
        return []
    figure = figure_drawing(standalone_svg(drawing), _FIGURE_WIDTH, _TALLEST)
    return [figure, caption]


def _image(png: bytes, width: float) -> Any:
    """The picture ``width`` points wide, or less where it would be taller than a page."""
    from reportlab.lib.utils import ImageReader
    from reportlab.platypus import Image

    across, down = ImageReader(io.BytesIO(png)).getSize()
    height = width * down / across
    if height > _TALLEST:
        width, height = width * _TALLEST / height, _TALLEST
    return Image(io.BytesIO(png), width, height, hAlign="LEFT")


def _formula(formula: Formula) -> Any:
    """The formula in its own size, narrower where it would be wider than the text."""
    svg = formula_svg(formula, 18)
    own_width = float(svg.split('width="', 1)[1].split('"', 1)[0])
    return figure_drawing(svg, min(own_width * _FORMULA_SCALE, _WIDTH))


def _comparisons(rows: Sequence[Comparison], styles: Mapping[str, Any]) -> list[Any]:
    from reportlab.platypus import Paragraph

    if not rows:
        return []
    cells = [(r.claim, f"{r.published}, {r.paper}", r.measured, r.reason or "–") for r in rows]
    heads = ("What is measured", "Published", "This run", "Why they differ")
    heading = Paragraph("Beside the published figures", styles["heading"])
    return [heading, _table(heads, cells, styles)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], styles: Mapping[str, Any]) -> Any:
    from reportlab.platypus import Paragraph
    from reportlab.platypus import Table as Grid

    cells = [[Paragraph(_words(cell), styles["cell"]) for cell in row] for row in (columns, *rows)]
    lengths = [
        max(6, min(40, max(map(len, column))), 1 + max(len(w) for c in column for w in c.split()))
        for column in zip(columns, *rows, strict=True)
    ]
    widths = [_WIDTH * length / sum(lengths) for length in lengths]
    grid = Grid(cells, colWidths=widths, repeatRows=1, hAlign="LEFT", spaceAfter=6)
    grid.setStyle(
        [
            ("LINEBELOW", (0, 0), (-1, -1), 0.4, "#d5dce3"),
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ]
    )
    return grid


def _list(heading: str, lines: Sequence[str], styles: Mapping[str, Any]) -> list[Any]:
    from reportlab.platypus import Paragraph

    if not lines:
        return []
    return [
        Paragraph(heading, styles["heading"]),
        *(Paragraph(f"• {_words(line)}", styles["text"]) for line in lines),
    ]


def _page_number(canvas: Any, document: Any) -> None:
    canvas.setFont(FONT, 8)
    canvas.setFillGray(0.4)
    canvas.drawRightString(210 * _MM - _MARGIN, 12 * _MM, str(document.page))
