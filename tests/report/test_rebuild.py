"""``physadv report`` makes the page of any run again, and exports its charts and tables."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from forked import Faults, shared_server
from small_commands import SMALL_COMMANDS, write_inputs

from physadv.core.errors import DataError, OptionError
from physadv.report.page_export import export_tables, page_tables, parse_forms
from physadv.report.rebuild import rebuild_report
from physadv.report.run_list import list_runs

WITH_PAGE = ("evaluate", "certify", "study masked", "cloak check", "patch")
WITHOUT = ("train", "twin", "cloak", "patch transfer")


def run(folder: Path, name: str) -> Path:
    """A run of the small command ``name``."""
    command, out = SMALL_COMMANDS[name], folder / "out"
    write_inputs(folder, name)
    faults = Faults(code=command.code_for(out))
    done = shared_server().run(folder, *command.line(out), faults=faults)
    assert done.code == 0, done.stderr
    return out


@pytest.mark.parametrize("name", WITH_PAGE)
def test_the_page_of_a_run_is_made_again(name: str, tmp_path: Path) -> None:
    """It is the very page that the run wrote, apart from its time."""
    page = run(tmp_path, name) / "report.html"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    assert rebuild_report(page.parent) == page
    time = re.compile(r"physadv, [\d :-]+ UTC")
    assert time.sub("", page.read_text(encoding="utf-8")) == time.sub("", before)
    assert str(tmp_path) not in before


@pytest.mark.parametrize("name", WITHOUT)
def test_runs_without_a_page_get_one(name: str, tmp_path: Path) -> None:
    """It says what came out, shows a table, names no path of the machine, and is not green: none
    of these runs tells that something is safe."""
    out = run(tmp_path, name)
    done = shared_server().run(tmp_path, "report", "out", "--tables", "csv,latex,markdown")
    assert done.code == 0, done.stderr
    text = (out / "report.html").read_text(encoding="utf-8")
    assert 'class="big"' in text
    assert re.search(r'class="verdict (plain|doubt)"', text)
    assert "<td" in text
    assert str(tmp_path) not in text
    if name == "twin":
        assert "160 x 120 px" in text
    assert {file.suffix for file in (out / "tables").iterdir()} == {".csv", ".tex", ".md"}

    listed = list_runs(tmp_path)
    assert [run.folder for run in listed] == [out]
    assert re.search(r"\d", listed[0].result), "a list of runs has the result too"


@pytest.mark.parametrize("name", ["evaluate", "certify", "train"])
def test_pages_name_no_folder_of_the_machine(name: str, tmp_path: Path) -> None:
    """Data named by its whole path are on the page by their own name: pages are passed on."""
    command, out = SMALL_COMMANDS[name], tmp_path / "out"
    write_inputs(tmp_path, name)
    line = list(command.line(out))
    data = line[line.index("--data") + 1]
    line[line.index("--data") + 1] = str(tmp_path / data)
    done = shared_server().run(tmp_path, *line, faults=Faults(code=command.code_for(out)))
    assert done.code == 0, done.stderr
    page = out / "report.html"
    if not page.is_file():
        assert shared_server().run(tmp_path, "report", "out").code == 0
    text = page.read_text(encoding="utf-8")
    assert data in text
    assert str(tmp_path) not in text


def test_charts_and_tables_are_exported(tmp_path: Path) -> None:
    """Each chart in three forms, each table in three; a table's cells are those of the page."""
    out = run(tmp_path, "evaluate")
    words = ("report", "out", "--figures", "svg,pdf,png", "--tables", "csv,latex,markdown")
    assert shared_server().run(tmp_path, *words).code == 0
    chart = out / "figures" / "robust-accuracy-over-epsilon"
    heads = {".svg": b"<svg", ".pdf": b"%PDF", ".png": b"\x89PNG"}
    for suffix, head in heads.items():
        assert chart.with_suffix(suffix).read_bytes().startswith(head)
    with (out / "tables" / "results-by-attack.csv").open(encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["Attack", "Images broken", "Remaining accuracy", "95 % interval"]
    assert rows[1][:2] == ["none", "0"]


def test_what_latex_would_obey_is_escaped(tmp_path: Path) -> None:
    """A cell is text in each form; two tables below one heading have names of their own."""
    page = "<h2>A &amp; b</h2>" + "<table><tr><th>x</th></tr><tr><td>50 %|$_</td></tr></table>" * 2
    assert [table.name for table in page_tables(page)] == ["a-b", "a-b-2"]
    export_tables(page, tmp_path, ["latex", "markdown"])
    assert r"50 \%|\$\_ \\" in (tmp_path / "a-b.tex").read_text(encoding="utf-8")
    assert r"| 50 %\|$_ |" in (tmp_path / "a-b-2.md").read_text(encoding="utf-8")


def test_numbers_stand_right_and_settings_have_no_heading(tmp_path: Path) -> None:
    """A column of numbers, with units or intervals, is set to the right, words to the left; a list
    of settings has no line below its first row."""
    head = "<h2>Rates</h2><table><tr><th>Name</th><th>Rate</th><th>Verdict</th></tr>"
    cells = "<tr><td>a</td><td>97.5 % [87, 99]</td><td>good</td></tr>"
    facts = '<h2>Settings</h2><table class="facts"><tr><th>Seed</th><td>0</td></tr></table>'
    export_tables(head + cells + "</table>" + facts, tmp_path, ["latex", "markdown"])
    rates = (tmp_path / "rates.tex").read_text(encoding="utf-8").splitlines()
    assert rates[0] == r"\begin{tabular}{lrl}"
    assert [line == r"\hline" for line in rates] == [False, True, False, True, False, True, False]
    settings = (tmp_path / "settings.tex").read_text(encoding="utf-8").splitlines()
    assert settings[1:-1] == [r"\hline", r"Seed & 0 \\", r"\hline"]
    listed = (tmp_path / "settings.md").read_text(encoding="utf-8")
    assert listed == "|  |  |\n|---|---|\n| Seed | 0 |\n"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    """One line for an empty folder, a run of an older version, and a form that is not known."""
    with pytest.raises(DataError, match="holds no run"):
        rebuild_report(tmp_path)
    (tmp_path / "config.toml").write_text('command = "evaluate"\n')
    with pytest.raises(DataError, match=r"no report\.json"):
        rebuild_report(tmp_path)
    with pytest.raises(OptionError, match="svg, pdf, png"):
        parse_forms("svg,eps", ("svg", "pdf", "png"), "--figures")
