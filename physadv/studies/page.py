"""Contents of a study's page as plain data: text, formulas, figures, tables, published figures.

A study computes a :class:`StudyPage` from its rows. :mod:`physadv.report.study_report` draws it as
HTML, as files of its figures, and as a chapter of the booklet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Pair = tuple[float, float]
UNCHECKED = "(Quoted from memory, not checked against the paper.)"
"""What follows a published figure whose source was not at hand."""


@dataclass(frozen=True)
class Paper:
    """A publication that a study reproduces.

    Args:
        authors: Names as cited, such as "Szegedy et al.".
        year: Year of the first version.
        title: Title.
        where: Venue or arXiv number, such as "arXiv:1312.6199".
    """

    authors: str
    year: int
    title: str
    where: str

    @property
    def cited(self) -> str:
        """Authors and year, as text cites them."""
        return f"{self.authors} ({self.year})"


@dataclass(frozen=True)
class AboutStudy:
    """What the page of a study says of it, where it has rows of its own kind and no parts.

    Args:
        name: Name of the command.
        title: Title of its page.
        question: The question that it answers, in one sentence.
        papers: Publications that it reproduces.
    """

    name: str
    title: str
    question: str
    papers: tuple[Paper, ...]


@dataclass(frozen=True)
class Text:
    """A paragraph in plain words.

    Args:
        words: One paragraph; shown as it is, without markup.
    """

    words: str


@dataclass(frozen=True)
class Formula:
    r"""A formula on a line of its own.

    Args:
        latex: Source in LaTeX, without dollar signs.
        words: The formula in words, for screen readers.

    Example:
        >>> Formula(r"x' = x + \epsilon \, \mathrm{sign}(\nabla_x L)", "FGSM's step").latex[:2]
        "x'"
    """

    latex: str
    words: str


@dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    Args:
        label: Quantity with its unit in brackets.
        scale: "linear" or "log"; a logarithmic axis takes positive values only.
        low: First value; None for the data's.
        high: Last value; None for the data's.
        percent: Whether values are shares, written in percent.
        ticks: Where to write values; empty to choose them.
    """

    label: str
    scale: Literal["linear", "log"] = "linear"
    low: float | None = None
    high: float | None = None
    percent: bool = False
    ticks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Point:
    """A point of a series.

    Args:
        x: Position along the horizontal axis.
        y: Position along the vertical axis.
        low: Lower end of the interval of ``y``; None where there is none.
        high: Upper end of the interval of ``y``.
        hint: Text shown under the pointer and read by screen readers; made of the values where
            empty.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    hint: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one thing in a chart.

    Args:
        label: Name in the legend.
        points: Its points, in the order in which a line joins them.
        style: "line" joins and marks the points, "curve" joins them without marks, "points" marks
            them, "bars" draws upright bars, "band" fills between ``low`` and ``high``.
        source: "measured" in this run; "theory" for a formula, drawn dashed; "published" for
            figures of a paper, drawn hollow.
        like: Label of an earlier series whose color it shares, such as the measurements that a
            formula describes; empty for a color of its own.
    """

    label: str
    points: tuple[Point, ...]
    style: Literal["line", "curve", "points", "bars", "band"] = "line"
    source: Literal["measured", "theory", "published"] = "measured"
    like: str = ""


@dataclass(frozen=True)
class Chart:
    """Series over two axes.

    Args:
        name: Stem of the figure's files: lower-case words with dashes, unique within the study.
        caption: What is drawn, and what to see in it.
        x: Horizontal axis.
        y: Vertical axis.
        series: At most eight.
        verticals: Positions and labels of vertical lines, such as the eps of the training.
    """

    name: str
    caption: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    verticals: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Matrix:
    """A table of numbers whose cells are shaded by their value.

    Args:
        name: Stem of the figure's files.
        caption: What is drawn.
        rows: Name of each row.
        columns: Name of each column.
        values: Values by row; None where nothing was measured.
        row_label: What the rows are.
        column_label: What the columns are.
        percent: Whether values are shares, written in percent.
        low: Value of the lightest shade.
        high: Value of the darkest shade.
        notes: Second line of each cell, such as its n; empty for none.
    """

    name: str
    caption: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    row_label: str = ""
    column_label: str = ""
    percent: bool = True
    low: float = 0.0
    high: float = 1.0
    notes: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Picture:
    """A picture that the run wrote.

    Args:
        file: Name of a PNG or GIF file relative to the run folder.
        label: Short name above or below it.
        detail: Second line, such as the class and its probability.
    """

    file: str
    label: str
    detail: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures in a grid.

    Args:
        name: Stem of the figure's files.
        caption: What is shown.
        rows: Pictures by row.
        pixelated: Whether small pictures are enlarged with hard pixels instead of smoothly.
    """

    name: str
    caption: str
    rows: tuple[tuple[Picture, ...], ...]
    pixelated: bool = False


@dataclass(frozen=True)
class Shape:
    """Something drawn over a plane.

    Args:
        label: Name in the legend.
        kind: "polygon" closes its points, "path" does not, "points" marks each of them.
        points: Corners in the units of the plane's axes.
        source: As in :class:`Series`: "theory" is dashed, "published" hollow.
        color: Number of its color, that of its series in the page's charts; None: of its place.
    """

    label: str
    kind: Literal["polygon", "path", "points"]
    points: tuple[Pair, ...]
    source: Literal["measured", "theory", "published"] = "measured"
    color: int | None = None


@dataclass(frozen=True)
class Plane:
    """A plane with shapes over an optional background picture; both axes have one scale.

    Args:
        name: Stem of the figure's files.
        caption: What is drawn.
        x: Horizontal axis, with ``low`` and ``high``.
        y: Vertical axis, with ``low`` and ``high``.
        shapes: Shapes, at most eight.
        background: PNG file relative to the run folder that fills the plane, its first row at
            ``y.high``; empty for none.
        regions: Names of the background's areas with their colors as #rrggbb, for the legend.
        equal: Whether a unit is as long on both axes.
    """

    name: str
    caption: str
    x: Axis
    y: Axis
    shapes: tuple[Shape, ...] = ()
    background: str = ""
    regions: tuple[tuple[str, str], ...] = ()
    equal: bool = True


def cell_ends(low: float, high: float) -> str:
    """Return the ends of an interval of shares for a cell whose value is in percent.

    Args:
        low: Lower end, in [0, 1].
        high: Upper end, in [0, 1].

    Example:
        >>> cell_ends(0.753, 0.9)
        '[75, 90]'
    """
    return f"[{100 * low:.0f}, {100 * high:.0f}]"


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        name: Stem of the table's files.
        caption: What it holds.
        columns: Headings.
        rows: Cells by row; numbers already in words, with their unit and interval.
        numeric: Numbers of the columns that are aligned right.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A published figure beside that of this run.

    Args:
        claim: What is measured.
        paper: Where it was published, as cited.
        published: The published figure, with its setting.
        measured: The figure of this run, with interval and n.
        reason: Why they differ, or what differs in the setting; empty where nothing does.
    """

    claim: str
    paper: str
    published: str
    measured: str
    reason: str = ""


Figure = Chart | Matrix | Pictures | Plane | Table
Block = Text | Formula | Figure


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Args:
        heading: Heading.
        blocks: Paragraphs, formulas and figures in their order.
    """

    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class StudyPage:
    """A study's page.

    Args:
        answer: The result in one sentence, with its main figures.
        sections: Parts of the page; the first figure is the study's emblem.
        comparisons: Published figures beside those of this run.
        limits: What the run does not show, a sentence each.
        terms: Words that a reader with linear algebra does not know, each with its meaning.
    """

    answer: str
    sections: tuple[Section, ...]
    comparisons: tuple[Comparison, ...] = ()
    limits: tuple[str, ...] = ()
    terms: tuple[tuple[str, str], ...] = ()

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Figures and tables of all sections, in order."""
        blocks = [block for section in self.sections for block in section.blocks]
        return tuple(block for block in blocks if not isinstance(block, Text | Formula))


@dataclass
class PageSections:
    """Collects the sections of a page while its rows are read.

    Args:
        sections: Sections added so far.
    """

    sections: list[Section] = field(default_factory=list)

    def add(self, heading: str, blocks: Sequence[Block | str]) -> None:
        """Add a section.

        Args:
            heading: Heading.
            blocks: Paragraphs, formulas and figures; a plain text is a paragraph.
        """
        made = tuple(Text(block) if isinstance(block, str) else block for block in blocks)
        self.sections.append(Section(heading, made))
