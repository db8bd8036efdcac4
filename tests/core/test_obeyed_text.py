"""Names of others in files that other programs open: XML, Markdown, spreadsheets, archives."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physadv.core.visible_text import (
    portable_name,
    spreadsheet_cell,
    visible_line,
)
from physadv.evaluation.metrics.requirements import Requirement, RequirementOutcome
from physadv.patches.transfer import TransferCell, transfer_table
from physadv.report.gate_files import junit_xml
from physadv.report.page_export import export_tables

FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(1)", '=HYPERLINK("x")')


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_any_name_makes_a_document_of_xml(name: str) -> None:
    """Control characters, halves of characters and what is none: JUnit's readers take the file."""
    outcome = RequirementOutcome(Requirement.parse("robust >= 0.5", ["robust"]), True, name)
    ElementTree.fromstring(junit_xml("evaluate", name, [outcome]).encode())


@pytest.mark.parametrize("name", ["a\ufffeb", "a\uffffb", "a\x00\x1b", "a\ud800", "<&\"'>"])
def test_what_xml_takes_in_no_text_is_written_out(name: str) -> None:
    """U+FFFE and U+FFFF made requirements.xml a file that no reader takes."""
    outcome = RequirementOutcome(Requirement.parse("robust >= 0.5", ["robust"]), False, name)
    suite = ElementTree.fromstring(junit_xml("evaluate", name, [outcome]).encode())
    assert suite[0][0].get("classname") == visible_line(name)


@pytest.mark.parametrize("cell", FORMULAS)
def test_no_cell_is_a_formula(cell: str) -> None:
    """A spreadsheet would run it, or send what stands beside it."""
    assert spreadsheet_cell(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["-0.5", "+3 %", "-0.5 points [-1.2, 0.1]", "stop", "", 3, -1.5])
def test_numbers_and_words_stay_as_they_are(cell: object) -> None:
    """Negative changes, shares with their interval, and plain names."""
    assert spreadsheet_cell(cell) == cell


def test_exported_tables_obey_nobody(tmp_path: Path) -> None:
    """Tables of a page as CSV and Markdown: no formula, no picture of an address, no HTML."""
    page = (
        "<h2>T</h2><table><tr><th>name</th></tr><tr><td>=1+1</td></tr>"
        "<tr><td>![x](http://tracker/a.png)</td></tr><tr><td>&lt;img src=//t&gt;</td></tr></table>"
    )
    as_csv, as_markdown = export_tables(page, tmp_path, ("csv", "markdown"))
    assert "'=1+1" in as_csv.read_text()
    assert "](" not in as_markdown.read_text()
    assert "<img" not in as_markdown.read_text()


def test_a_table_of_transfers_obeys_nobody() -> None:
    """Names of bundles and models come from their cards."""
    table = transfer_table([TransferCell("![](http://t)", "<b>", "a|b", "vanish", None)])
    assert "](" not in table
    assert "<b>" not in table
    assert "a\\|b" in table


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_any_name_becomes_one_that_systems_take(name: str) -> None:
    """Without folders, drives, devices, control characters; it stays so when done again."""
    portable = portable_name(name)
    assert portable.strip(" .")
    assert not set(portable) & set('<>:"/\\|?*\n\t\0')
    assert portable_name(portable) == portable
