"""The frame of the lecture's studies: rows, resuming, pages, figures and their files."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import unescape
from math import inf
from pathlib import Path
from typing import Annotated, ClassVar
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from physadv.core.config import ConfigField
from physadv.core.errors import DataError, OptionError
from physadv.core.rows import Row, append_rows, read_rows
from physadv.report.booklet import write_booklet
from physadv.report.figure_files import RunPictures, figure_csv, first_frame, write_figure
from physadv.report.figure_pdf import figure_drawing
from physadv.report.formulas import formula_mathml, formula_svg
from physadv.report.plots import chart_svg, matrix_svg, plane_svg, standalone_svg
from physadv.report.scales import format_tick, linear_ticks, log_ticks, scale_of
from physadv.report.study_report import study_chapter, study_summary, write_study_report
from physadv.studies.config import StudyConfig
from physadv.studies.page import (
    Axis,
    Chart,
    Comparison,
    Formula,
    Matrix,
    PageSections,
    Paper,
    Picture,
    Pictures,
    Plane,
    Point,
    Series,
    Shape,
    StudyPage,
    Table,
)
from physadv.studies.study import (
    Part,
    PartRows,
    Study,
    Workspace,
    claim_study,
    run_study,
    study_rows,
)


@dataclass(frozen=True, kw_only=True)
class CoinConfig(StudyConfig):
    """Configuration of a study that throws coins."""

    command: ClassVar[str] = "study-coins"
    throws: Annotated[int, ConfigField("Throws.", "Run", least=1)] = 50


@dataclass(frozen=True, kw_only=True)
class FileConfig(CoinConfig):
    """The same, with a file."""

    coin: Annotated[str | None, ConfigField("A coin.", "Data", path=True)] = None
    weights: Annotated[tuple[str, ...], ConfigField("NAME=FILE.", "Data", code=True)] = ()


def coin_parts(config: CoinConfig) -> list[Part]:
    """Two parts: throws of a coin, and a picture with a network."""

    def throw(workspace: Workspace) -> list[Row]:
        draws = torch.rand(config.throws, generator=workspace.generator("coin"))
        return [{"heads": bool(d < 0.5), "number": i} for i, d in enumerate(draws.tolist())]

    def draw(workspace: Workspace) -> list[Row]:
        def fit(net: nn.Module) -> None:
            for weight in net.parameters():
                nn.init.constant_(weight, 0.25)

        net = workspace.net("tiny", lambda: nn.Linear(3, 2), fit)
        file = workspace.save_picture("noise", np.zeros((8, 6, 3), np.uint8))
        return [{"file": file, "weight": float(next(net.parameters())[0, 0])}]

    return [Part("throws", "throwing", throw), Part("picture", "drawing", draw)]


def coin_page(config: CoinConfig, rows: PartRows) -> StudyPage:
    """A page with a figure of each kind."""
    share = sum(row["heads"] for row in rows["throws"]) / len(rows["throws"])
    file = rows["picture"][0]["file"]
    points = tuple(Point(x=10.0**i, y=0.1 * i, low=0.05 * i, high=0.15 * i) for i in range(1, 6))
    styles = ("line", "curve", "points", "bars", "band")
    chart = Chart(
        "share-of-heads",
        "Share of heads over throws.",
        Axis("throws", "log"),
        Axis("share of heads", percent=True, low=0),
        tuple(
            Series(f"{style} of a coin", points, style, source)
            for style, source in zip(
                styles, ("measured", "theory", "published", "measured", "measured"), strict=True
            )
        ),
        verticals=((1000.0, "a thousand"),),
    )
    matrix = Matrix(
        *("agreement", "Agreement of two coins.", ("first coin", "second"), ("heads", "tails")),
        ((0.5, None), (0.25, 1.0)),
        notes=(("n 50", ""), ("n 50", "n 2")),
    )
    plane = Plane(
        *("plane", "A square."),
        Axis("right", low=-1, high=1),
        Axis("up", low=-1, high=1),
        (
            Shape("square", "polygon", ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))),
            Shape("diagonal", "path", ((-1.0, -1.0), (1.0, 1.0)), "theory"),
            Shape("middle", "points", ((0.0, 0.0),), "published"),
        ),
        background=file,
        regions=(("black", "#000000"),),
    )
    pictures = Pictures("grid", "Two pictures.", ((Picture(file, "a <coin>", "50 %"),) * 2,), True)
    table = Table("counts", "Counts.", ("side", "n"), (("heads", "25"),), numeric=(1,))

    page = PageSections()
    page.add("Throws", ["Coins are fair.", Formula(r"p = \frac{1}{2}", "p is a half"), chart])
    page.add("Rest", [matrix, plane, pictures, table])
    return StudyPage(
        answer=f"Heads came up in {share:.0%} of {len(rows['throws'])} throws.",
        sections=tuple(page.sections),
        comparisons=(Comparison("share of heads", "Kerrich (1946)", "50.7 %", f"{share:.1%}"),),
        limits=("One coin.",),
        terms=(("heads", "the side with a head"),),
    )


COINS = Study(
    name="coins",
    title="Coins",
    question="Is a coin fair?",
    config=CoinConfig,
    papers=(Paper("Kerrich", 1946, "An experimental introduction to probability", "Copenhagen"),),
    parts=coin_parts,
    page=coin_page,
)


def test_a_study_is_of_the_files_that_it_began_with(tmp_path: Path) -> None:
    """A file named by a path, or behind a name, is another one where its contents are."""
    (tmp_path / "coin.txt").write_text("fair")
    (tmp_path / "weights").write_text("heavy")
    config = FileConfig(coin=str(tmp_path / "coin.txt"), weights=(f"net={tmp_path / 'weights'}",))
    for _ in range(2):
        claim_study(COINS, config, tmp_path)
    (tmp_path / "weights").write_text("light")
    with pytest.raises(OptionError, match="contents of the data"):
        claim_study(COINS, config, tmp_path)
    (tmp_path / "weights").write_text("heavy")
    claim_study(COINS, config, tmp_path)
    (tmp_path / "coin.txt").write_text("bent")
    with pytest.raises(OptionError, match="contents of the data"):
        claim_study(COINS, config, tmp_path)


def finished(folder: Path, config: CoinConfig | None = None) -> list[Row]:
    """Run to the end; the rows without their CPU seconds."""
    list(run_study(COINS, config or CoinConfig(), folder))
    return [
        {k: v for k, v in row.items() if k != "seconds"} for row in read_rows(folder / "rows.jsonl")
    ]


def test_a_study_stopped_anywhere_resumes_to_equal_rows(tmp_path: Path) -> None:
    """Stopped after a part, or killed within one, it ends with the rows of an undisturbed run."""
    whole = finished(tmp_path / "whole")
    steps = run_study(COINS, CoinConfig(), tmp_path / "stopped")
    next(steps), next(steps)
    steps.close()
    append_rows(tmp_path / "stopped/rows.jsonl", [{"part": "picture", "file": "half"}])
    assert finished(tmp_path / "stopped") == whole
    assert finished(tmp_path / "whole") == whole


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    """A folder holds one study; the error names what differs."""
    finished(tmp_path)
    with pytest.raises(OptionError, match="throws"):
        finished(tmp_path, CoinConfig(throws=3))


def test_an_unfinished_study_has_no_page(tmp_path: Path) -> None:
    """A page is made of all parts or not at all."""
    steps = run_study(COINS, CoinConfig(), tmp_path)
    next(steps), next(steps)
    steps.close()
    with pytest.raises(DataError, match="picture"):
        study_chapter(COINS, CoinConfig(), tmp_path)


def test_quick_and_full_exclude_each_other() -> None:
    """One scale a run; each has its own value."""
    with pytest.raises(OptionError):
        CoinConfig(quick=True, full=True)
    assert [
        CoinConfig(**kind).scaled(1, 2, 3) for kind in ({"quick": True}, {}, {"full": True})
    ] == [
        1,
        2,
        3,
    ]


def test_networks_and_draws_depend_on_the_seed_alone(tmp_path: Path) -> None:
    """Initial weights come from the study's seed, whatever the global generator holds, which is
    left as it was; a second call reads the weights that the first wrote."""
    state = torch.random.get_rng_state()
    first = Workspace(tmp_path / "a", "coins", 0).net("n", lambda: nn.Linear(2, 2), lambda n: None)
    torch.manual_seed(99)
    again = Workspace(tmp_path / "b", "coins", 0).net("n", lambda: nn.Linear(2, 2), lambda n: None)
    read = Workspace(tmp_path / "a", "coins", 5).net("n", lambda: nn.Linear(2, 2), lambda n: None)
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.weight, read.weight)
    torch.random.set_rng_state(state)


def test_the_page_shows_all_that_was_computed(tmp_path: Path) -> None:
    """Answer, claim, limits, terms, papers and figures stand on a page without a request."""
    finished(tmp_path)
    page = write_study_report(study_chapter(COINS, CoinConfig(), tmp_path)).read_text(
        encoding="utf-8"
    )
    answer = study_chapter(COINS, CoinConfig(), tmp_path).page.answer
    for words in (answer, "Kerrich", "One coin.", "the side with a head", "<math ", "Counts."):
        assert words in page
    assert "a &lt;coin&gt;" in page
    assert "<coin>" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_each_figure_has_its_files(tmp_path: Path) -> None:
    """SVG that stands alone, PNG with ink in it, CSV with the numbers."""
    finished(tmp_path)
    write_study_report(study_chapter(COINS, CoinConfig(), tmp_path))
    for name in ("share-of-heads", "agreement", "plane", "grid"):
        svg = (tmp_path / f"figures/{name}.svg").read_text(encoding="utf-8")
        ElementTree.fromstring(svg)
        assert "var(" not in svg
        with Image.open(tmp_path / f"figures/{name}.png") as picture:
            assert picture.width == 1440
            assert len(set(picture.convert("L").resize((60, 40)).tobytes())) > 3
    assert "heads,25" in (tmp_path / "figures/counts.csv").read_text(encoding="utf-8")
    assert "1000.0,0.3" in (tmp_path / "figures/share-of-heads.csv").read_text(encoding="utf-8")


def test_the_summary_is_plain_json(tmp_path: Path) -> None:
    """What --json prints survives JSON and holds the comparison."""
    finished(tmp_path)
    summary = study_summary(study_chapter(COINS, CoinConfig(), tmp_path))
    assert json.loads(json.dumps(summary)) == summary
    assert summary["comparisons"][0]["published"] == "50.7 %"


def test_rows_of_a_study_are_given_by_part(tmp_path: Path) -> None:
    """Marks and the parts' names are no values."""
    finished(tmp_path)
    rows = study_rows(COINS, CoinConfig(), tmp_path)
    assert set(rows) == {"throws", "picture"}
    assert set(rows["throws"][0]) == {"heads", "number"}


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(3, 9))
def test_linear_ticks_lie_within_and_are_few(low: float, width: float, most: int) -> None:
    """Ticks lie on the axis, rise, and are at most ``most``."""
    ticks = linear_ticks(low, low + width, most)
    assert len(ticks) <= most
    assert ticks == sorted(ticks)
    assert all(low - 1e-9 * abs(low) - 1e-9 <= t <= low + width * (1 + 1e-6) + 1e-6 for t in ticks)


@given(st.floats(1e-9, 1e9), st.floats(1.01, 1e12))
def test_log_ticks_lie_within_and_are_few(low: float, times: float) -> None:
    """Ticks of a logarithmic axis lie on it; there are at most nine decades, or finer ones."""
    ticks = log_ticks(low, low * times)
    assert len(ticks) <= 12
    assert all(low * 0.998 <= t <= low * times * 1.002 for t in ticks)


@given(st.lists(st.floats(1e-5, 1e5), min_size=1, max_size=9), st.sampled_from(["linear", "log"]))
def test_every_value_lies_on_its_axis(values: list[float], kind: str) -> None:
    """Larger values lie further along, and all within the ends."""
    scale = scale_of(Axis("a", kind), values, 10.0, 100.0)
    places = [scale(v) for v in sorted(values)]
    assert places == sorted(places)
    assert all(10 <= p <= 100 for p in places)
    assert scale.low <= min(values) * (1 + 1e-9)
    assert scale.high >= max(values) * (1 - 1e-9)


@pytest.mark.parametrize(
    ("value", "percent", "words"),
    [(-0.0, False, "0"), (0.001, True, "0.1 %"), (2.5e6, False, "2.5M"), (1e-7, False, "1e-7")],
)
def test_ticks_in_words(value: float, percent: bool, words: str) -> None:
    """No minus zero, no long zeros."""
    assert format_tick(value, percent=percent) == words


def chart_of(points: Sequence[Point], scale: str = "linear") -> Chart:
    """A chart of one series."""
    return Chart("c", "c", Axis("x", scale), Axis("y"), (Series("s", tuple(points)),))


@pytest.mark.parametrize(
    "points",
    [[], [Point(1, 1)], [Point(1, 1), Point(1, 1)], [Point(0, 0), Point(1, inf)]],
    ids=["none", "one", "equal", "infinite"],
)
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_odd_series_are_drawn_without_an_error(points: list[Point], scale: str) -> None:
    """No value, one, equal ones, and one that is not finite give a drawing with finite numbers."""
    svg = standalone_svg(chart_svg(chart_of(points, scale)))
    ElementTree.fromstring(svg)
    assert "nan" not in svg
    assert "inf" not in svg


def test_points_say_their_values() -> None:
    """Each mark names series, value and interval, which the page's script reads out."""
    svg = str(chart_svg(chart_of([Point(2, 0.5, 0.4, 0.6)])))
    assert svg.count("<title>") == 1
    assert "95 % interval 0.4 to 0.6" in svg


def test_a_formula_shares_the_color_of_what_it_describes() -> None:
    """A series that is like another has its color, and the next one the next color."""
    points = (Point(1, 1), Point(2, 3))
    series = (
        Series("seen", points),
        Series("formula", points, "curve", "theory", like="seen"),
        Series("other", points),
    )
    drawn = str(chart_svg(Chart("c", "a caption", Axis("x"), Axis("y"), series)))
    colors = [number for number in range(8) if f"--series-{number}," in drawn]
    assert colors == [0, 1]


def test_a_matrix_and_a_plane_have_csv() -> None:
    """Their numbers can be read by another program."""
    matrix = Matrix("m", "m", ("a",), ("b", "c"), ((0.5, None),))
    assert figure_csv(matrix) == ",b,c\na,0.5,\n"
    plane = Plane("p", "p", Axis("x", low=0, high=1), Axis("y", low=0, high=1))
    shape = Shape("s", "points", ((0.25, 0.5),))
    assert "s,measured,0.25,0.5" in figure_csv(replace(plane, shapes=(shape,)))
    ElementTree.fromstring(standalone_svg(matrix_svg(matrix)))
    ElementTree.fromstring(standalone_svg(plane_svg(plane, str)))


@pytest.mark.parametrize("draw", [lambda f: str(formula_mathml(f)), formula_svg])
def test_formulas_are_drawn_for_page_and_print(draw: Callable[[Formula], str]) -> None:
    """MathML and SVG are whole; MathML carries the words."""
    formula = Formula(r"\max_{\|\delta\|_\infty \le \epsilon} L(x + \delta)", 'the "largest" loss')
    drawn = draw(formula)
    ElementTree.fromstring(drawn)
    assert drawn.startswith("<svg") or "&quot;largest&quot;" in drawn


def test_a_formula_in_print_stays_on_its_place() -> None:
    """Its ink lies within its own drawing, not on the lines around it."""
    latex = r"R_n = \sigma \, \Phi^{-1}(\alpha^{1/n}), \quad \sqrt{\frac{a}{b}}"
    drawing = figure_drawing(formula_svg(Formula(latex, "radius")), 300.0)
    left, low, right, high = drawing.getBounds()
    assert left >= 0
    assert low >= 0
    assert right <= drawing.width
    assert high <= drawing.height
    assert high - low > 0.6 * drawing.height


def test_a_booklet_holds_every_chapter_as_page_and_pdf(tmp_path: Path) -> None:
    """Contents, figures, claims and what was left out stand in both; the PDF's text can be read."""
    finished(tmp_path / "coins")
    write_study_report(study_chapter(COINS, CoinConfig(), tmp_path / "coins"))
    chapter = study_chapter(COINS, CoinConfig(), tmp_path / "coins")
    page, document = write_booklet([chapter], {"dice": "needs --mnist"}, tmp_path)
    html = page.read_text(encoding="utf-8")
    assert 'href="#coins"' in html
    assert "dice (needs --mnist)" in html
    assert chapter.page.answer in html

    drawn = pdfium_text(document)
    for words in ("Coins", "Kerrich", "50.7 %", "dice (needs --mnist)", "One coin."):
        assert words in drawn
    labels = re.findall(r"<text[^>]*>([^<]+)</text>", html)
    assert labels
    assert not [label for label in labels if unescape(label) not in drawn]  # lines, not pixels


def pdfium_text(document: Path) -> str:
    """The text of all pages, in one line."""
    import pypdfium2

    opened = pypdfium2.PdfDocument(document)
    pages = [page.get_textpage().get_text_range() for page in opened]
    opened.close()
    return " ".join(" ".join(pages).split())


def test_an_animation_is_shown_on_the_page_and_by_its_first_frame_in_print(tmp_path: Path) -> None:
    """A GIF stays a GIF in HTML, and is exported as it is."""
    frames = [Image.new("L", (20, 10), gray) for gray in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    figure = Pictures("votes", "Votes.", ((Picture("a.gif", "votes"),),))
    files = write_figure(figure, RunPictures(tmp_path), tmp_path / "figures")
    assert [file.name for file in files] == ["a.gif"]
    with Image.open(io.BytesIO(first_frame(files[0].read_bytes()))) as still:
        assert still.convert("L").getpixel((5, 5)) in range(8, 13)


def test_a_grid_without_pictures_is_still_a_figure(tmp_path: Path) -> None:
    """A run in which nothing succeeded has no picture to show, and files all the same."""
    written = write_figure(Pictures("none", "None.", ()), RunPictures(tmp_path), tmp_path)
    assert {file.suffix for file in written} == {".svg", ".png"}


def test_clauses_of_a_formula_can_stand_below_each_other() -> None:
    """Each is a formula of its own, the first with the words of all; brackets stay in one piece."""
    several = str(formula_mathml(Formula(r"a = 1, \quad b = \frac{1}{n}", "a and b")))
    assert several.count("<math ") == 2
    assert several.count('aria-label="a and b"') == 1
    whole = r"x = \begin{cases} a, \quad & p \\ b, & q \end{cases}"
    assert str(formula_mathml(Formula(whole, "x"))).count("<math ") == 1


def test_words_of_a_vertical_stay_within_the_chart() -> None:
    """A line at the right edge has its words to its left, one further in to its right."""
    points = tuple(Point(x, x) for x in (0.0, 1.0))
    series = (Series("line", points, "line", "measured"),)
    marks = ((0.5, "middle"), (1.0, "at the edge"))
    chart = Chart("edge", "Two lines.", Axis("x", high=1), Axis("y"), series, verticals=marks)
    drawn = str(chart_svg(chart))
    anchors = [re.search(rf"<text[^>]*>{words}", drawn) for _, words in marks]
    assert ['text-anchor="end"' in a[0] for a in anchors if a] == [False, True]
