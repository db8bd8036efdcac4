"""Report of a study: one page, and a file of each of its figures and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from physadv.core.files import write_json, write_text
from physadv.report.design import render_page
from physadv.report.figure_files import RunPictures, figure_markup, is_animated, write_figure
from physadv.report.formulas import formula_mathml
from physadv.report.plots import DARK_SERIES_COLORS, SERIES_COLORS
from physadv.studies.config import StudyConfig
from physadv.studies.page import (
    AboutStudy,
    Block,
    Formula,
    Picture,
    Pictures,
    StudyPage,
    Table,
    Text,
)
from physadv.studies.study import Study, study_rows, study_seconds

HTML, JSON, FIGURES = "report.html", "report.json", "figures"


@dataclass(frozen=True)
class StudyChapter:
    """What the page and the booklet show of one study.

    Args:
        study: The study.
        page: Its page.
        settings: Recorded settings.
        folder: Folder of the run.
        seconds: CPU seconds that it took; 0 where they are not recorded.
    """

    study: Study[Any] | AboutStudy
    page: StudyPage
    settings: Mapping[str, Any]
    folder: Path
    seconds: float

    @property
    def files(self) -> list[str]:
        """Stems of the files of its figures."""
        return [figure.name for figure in self.page.figures]


def study_chapter(study: Study[Any], config: StudyConfig, folder: str | Path) -> StudyChapter:
    """Compute what a complete run shows.

    Args:
        study: The study.
        config: Its configuration.
        folder: Folder of the run.

    Raises:
        DataError: The run is not complete.
    """
    rows = study_rows(study, config, Path(folder))
    page = study.page(config, rows)
    settings = {k: v for k, v in config.as_table().items() if k != "command"}
    return StudyChapter(study, page, settings, Path(folder), study_seconds(Path(folder)))


def write_study_report(chapter: StudyChapter) -> Path:
    """Write report.html, report.json and the files of the figures of a complete run.

    Args:
        chapter: What the run shows, from :func:`study_chapter`; its folder is written into.

    Returns:
        The page.

    Raises:
        DataError: A picture is missing.
        OSError: A file cannot be written.
    """
    root = chapter.folder
    for figure in chapter.page.figures:
        write_figure(figure, RunPictures(root), root / FIGURES)
    write_json(root / JSON, study_summary(chapter))
    return write_text(root / HTML, render_study(chapter))


def study_summary(chapter: StudyChapter) -> dict[str, Any]:
    """Return the result of ``chapter`` as plain values, as report.json and ``--json`` have it."""
    return {
        "study": chapter.study.name,
        "answer": chapter.page.answer,
        "comparisons": [
            {
                "claim": row.claim,
                "paper": row.paper,
                "published": row.published,
                "measured": row.measured,
                "reason": row.reason,
            }
            for row in chapter.page.comparisons
        ],
        "figures": chapter.files,
        "settings": dict(chapter.settings),
        "cpu_seconds": round(chapter.seconds, 1),
    }


def render_study(chapter: StudyChapter) -> str:
    """Render the page of ``chapter`` and return it as HTML."""
    return render_page(
        "study.html.j2",
        title=chapter.study.title,
        chapter=chapter,
        sections=page_blocks(chapter),
        light_series=SERIES_COLORS,
        dark_series=DARK_SERIES_COLORS,
    )


def page_blocks(chapter: StudyChapter) -> list[dict[str, Any]]:
    """Return the sections of ``chapter`` with their blocks as the template takes them."""
    pictures = RunPictures(chapter.folder)
    return [
        {
            "heading": section.heading,
            "blocks": [_block(block, pictures) for block in section.blocks],
        }
        for section in chapter.page.sections
    ]


def _block(block: Block, pictures: RunPictures) -> dict[str, Any]:
    if isinstance(block, Text):
        return {"kind": "text", "words": block.words}
    if isinstance(block, Formula):
        return {"kind": "formula", "math": formula_mathml(block)}
    if isinstance(block, Table):
        return {"kind": "table", "table": block}
    if is_animated(block) and isinstance(block, Pictures):
        shots = [_shot(picture, pictures) for row in block.rows for picture in row]
        return {"kind": "shots", "shots": shots, "caption": block.caption, "name": block.name}
    drawing = figure_markup(block, pictures) or Markup("")
    return {"kind": "figure", "drawing": drawing, "caption": block.caption, "name": block.name}


def _shot(picture: Picture, pictures: RunPictures) -> dict[str, str]:
    return {
        "uri": pictures.uri(picture.file),
        "label": picture.label,
        "detail": picture.detail,
    }
