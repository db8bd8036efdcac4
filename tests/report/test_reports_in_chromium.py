"""Reports in a real browser: tables that sort, values by pointer and keyboard, no script but ours,
nothing serious for axe-core, and a whole page without scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import axe_faults, chromium, sideways_px, watched_page
from forked import Faults, shared_server
from small_commands import SMALL_COMMANDS, write_inputs
from test_check_report import ROWS, SETTINGS
from test_evaluate_report import FACTS, result

from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.report.check_report import render_check_report
from physadv.report.evaluate_report import render_evaluate_report
from physadv.report.study_report import StudyChapter, render_study
from physadv.studies.page import Section, StudyPage, Table
from physadv.studies.registry import study_named

CURVE = [
    {"eps": e, **wilson_interval(9 - k, 12).as_dict()}
    for k, e in enumerate((0.0, 4 / 255, 8 / 255))
]
BROKEN = {"pgd": 3, "apgd": 12, "square": 1}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., tuple[Any, list[str]]]]:
    """open(html, ...): the page in a tab of its own, and its faults."""
    tabs = []

    def open_page(html: str, **context: Any) -> tuple[Any, list[str]]:
        file = tmp_path / "report.html"
        file.write_text(html, encoding="utf-8")
        page, faults = watched_page(browser, **context)
        tabs.append(page)
        page.goto(file.as_uri())
        return page, faults

    yield open_page
    for tab in tabs:
        tab.close()


def evaluation() -> str:
    return render_evaluate_report(
        result(curve=CURVE, broken_by=BROKEN), {**FACTS, "attacks": "ensemble"}, []
    )


def checked() -> str:
    """The report of a check with both controls, over distances and angles."""
    return render_check_report(ROWS, SETTINGS, [], rows_path="rows.jsonl")


RUNS = (
    *("attack", "evaluate", "certify", "certify by smoothing", "train", "train signs"),
    *("study masked", "study photographed", "study samples", "patch", "patch transfer"),
    *("twin", "check", "cloak", "cloak check"),
)
PAGES = {"evaluate": evaluation, "check": checked}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_report_is_without_serious_faults(
    opened: Any, name: str, width: int, scheme: str
) -> None:
    """For axe-core, the console and the network; nothing but wide tables scrolls sideways."""
    page, faults = opened(
        PAGES[name](), viewport={"width": width, "height": 844}, color_scheme=scheme
    )
    assert axe_faults(page) == []
    assert faults == []
    assert sideways_px(page) <= 0


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_page_of_a_run_is_without_serious_faults(
    browser: Any, tmp_path: Path, name: str
) -> None:
    """The page of every kind of run, as small as it can be."""
    command, out = SMALL_COMMANDS[name], tmp_path / "out"
    write_inputs(tmp_path, name)
    faults = Faults(code=command.code_for(out))
    assert shared_server().run(tmp_path, *command.line(out), faults=faults).code == 0
    if not (out / "report.html").is_file():
        assert shared_server().run(tmp_path, "report", "out").code == 0
    for width, scheme in ((390, "dark"), (1280, "light")):
        viewport = {"width": width, "height": 844}
        page, said = watched_page(browser, viewport=viewport, color_scheme=scheme)
        page.goto((out / "report.html").as_uri())
        assert axe_faults(page) == []
        assert said == []
        assert sideways_px(page) <= 0
        page.close()


def test_a_table_sorts_by_pointer_and_keyboard(opened: Any) -> None:
    """Up, down, and as it was; by numbers; aria-sort says which."""
    page, _ = opened(evaluation())
    table = page.locator("table", has_text="Images broken")
    names = table.locator("tbody tr td:first-child")
    assert names.all_inner_texts() == ["none", "pgd", "apgd", "square"]
    head = table.locator("th", has_text="Images broken")
    head.get_by_role("button").click()
    assert names.all_inner_texts() == ["none", "square", "pgd", "apgd"]
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").press("Enter")
    assert names.all_inner_texts() == ["apgd", "pgd", "square", "none"]
    head.get_by_role("button").press("Enter")
    assert names.all_inner_texts() == ["none", "pgd", "apgd", "square"]
    assert head.get_attribute("aria-sort") is None


def test_a_chart_says_its_values_to_keyboard_and_pointer(opened: Any) -> None:
    """One stop of the tab key a chart; arrows go through the marks; Escape ends."""
    page, faults = opened(evaluation())
    chart = page.locator("svg[role=img]")
    chart.focus()
    chart.press("ArrowRight")
    hint = page.locator("#hint.on")
    assert hint.inner_text().startswith("epsilon 0: 75.0 %")
    chart.press("End")
    assert hint.inner_text().startswith("epsilon 8/255: 58.3 %")
    chart.press("Escape")
    assert hint.count() == 0
    chart.locator("circle").nth(1).hover()
    assert hint.inner_text().startswith("epsilon 4/255: 66.7 %")
    assert faults == []


def test_a_report_reads_without_scripts_and_in_print(opened: Any) -> None:
    """Tables, charts and their values are there; on paper nothing asks to be clicked."""
    page, _ = opened(evaluation(), java_script_enabled=False)
    assert page.locator("details.values li").count() == 3
    assert page.locator("svg title").count() == 3
    assert page.get_by_text("Images broken").is_visible()

    folded = "<details><summary>Settings</summary><p id='folded'>seed 0</p></details>"
    page, _ = opened(evaluation().replace("<footer>", f"{folded}<footer>"))
    assert not page.locator("#folded").is_visible()
    page.emulate_media(media="print")
    assert not page.locator("details.values").is_visible()
    if page.evaluate("CSS.supports('selector(::details-content)')"):
        assert page.locator("#folded").bounding_box()["height"] > 0
    arrow = "getComputedStyle(document.querySelector('button.sort'), '::after').display"
    assert page.evaluate(arrow) == "none"


def test_a_phone_shows_every_row_and_column(opened: Any, tmp_path: Path) -> None:
    """A wide table of a study stands row under row, with the heads beside their cells; one that
    can be sorted loses no row."""
    table = Table("six", "Six columns.", tuple("abcdef"), (tuple("123456"),) * 4)
    page = StudyPage("It is so.", (Section("Figures", (table,)),))
    html = render_study(StudyChapter(study_named("samples"), page, {}, tmp_path, 0.0))
    page, _ = opened(html)
    rows = page.locator("table.stacked tr").all()
    assert [row.is_visible() for row in rows] == [False, True, True, True, True]
    cell = page.locator("table.stacked td").nth(5)
    assert cell.evaluate("td => getComputedStyle(td, '::before').content") == '"f: "'
    box = cell.bounding_box()
    assert box["x"] + box["width"] <= 390


def test_tables_lose_no_column_in_print(opened: Any) -> None:
    """A sheet of A4 with 14 mm of margin is 688 px wide; nothing of a table is cut off."""
    for make in PAGES.values():
        page, _ = opened(make(), viewport={"width": 688, "height": 900})
        page.emulate_media(media="print")
        widths = "[...document.querySelectorAll('table')].map(t => t.scrollWidth)"
        assert max(page.evaluate(widths)) <= 688
        assert page.evaluate("getComputedStyle(document.querySelector('.wide')).overflowX") == (
            "visible"
        )


def test_no_script_but_the_reports_own_runs(opened: Any) -> None:
    """What stood in a page against all escaping would still do nothing."""
    html = evaluation().replace("</main>", "<script>document.title = 'taken'</script></main>")
    image = "<img src=x onerror=\"document.title = 'taken too'\">"
    page, faults = opened(html.replace("<footer", f"{image}<footer"))
    assert page.title().startswith("Robust accuracy")
    assert page.locator("button.sort").count()
    assert any("Content Security Policy" in fault for fault in faults)
