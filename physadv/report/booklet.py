"""Booklet of several studies: one HTML page, and the same as PDF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from physadv.core.files import write_bytes, write_text
from physadv.report.booklet_pdf import booklet_pdf
from physadv.report.design import render_page
from physadv.report.plots import DARK_SERIES_COLORS, SERIES_COLORS
from physadv.report.study_report import StudyChapter, page_blocks

HTML, PDF = "booklet.html", "booklet.pdf"
TITLE = "Adversarial examples: the experiments of the field"


def write_booklet(
    chapters: Sequence[StudyChapter], left_out: Mapping[str, str], folder: str | Path
) -> tuple[Path, Path]:
    """Write booklet.html and booklet.pdf.

    Args:
        chapters: Complete studies in their order.
        left_out: Why each other study is missing, by its name.
        folder: Folder to write into.

    Returns:
        The page and the PDF.

    Raises:
        DataError: A picture of a study is missing.
        OSError: A file cannot be written.
    """
    page = write_text(Path(folder) / HTML, render_booklet(chapters, left_out))
    return page, write_bytes(Path(folder) / PDF, booklet_pdf(TITLE, chapters, left_out))


def render_booklet(chapters: Sequence[StudyChapter], left_out: Mapping[str, str]) -> str:
    """Render the booklet and return it as HTML.

    Args:
        chapters: Complete studies in their order.
        left_out: Why each other study is missing, by its name.
    """
    return render_page(
        "booklet.html.j2",
        title=TITLE,
        chapters=[(chapter, page_blocks(chapter)) for chapter in chapters],
        left_out=left_out,
        seconds=sum(chapter.seconds for chapter in chapters),
        light_series=SERIES_COLORS,
        dark_series=DARK_SERIES_COLORS,
    )
