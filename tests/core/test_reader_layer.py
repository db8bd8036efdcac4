"""Foreign text, numbers, JSON, TOML and XML: within bounds, with one kind of error."""

from __future__ import annotations

import ast
import contextlib
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from physadv.core.csv_tables import read_csv
from physadv.core.errors import DataError, OptionError, PhysadvError
from physadv.core.parsing import (
    parse_json,
    parse_json_as,
    parse_number,
    parse_toml,
    parse_whole_number,
    parse_xml,
)
from physadv.core.rows import read_rows
from physadv.core.tables import read_table
from physadv.core.text import decode_text, read_file, read_text
from physadv.datasets.read import read_dataset

ROOT = Path(__file__).resolve().parents[2]
_PARSERS = {
    "json": {"load", "loads"},
    "tomllib": {"load", "loads"},
    "csv": {"reader", "DictReader"},
    "ElementTree": {"fromstring", "parse", "iterparse", "XML"},
    "yaml": {"load", "safe_load"},
}
_LAYER = {"parsing.py", "csv_tables.py", "text.py"}


def _foreign_parsers(source: str) -> list[str]:
    """Calls that parse or decode text without the layer; ``json.loads(json.dumps(x))`` is none."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = getattr(node.func.value, "id", getattr(node.func.value, "attr", ""))
        name = node.func.attr
        if name == "read_text" or name in _PARSERS.get(owner, ()):
            inner = node.args[0] if node.args else None
            own = isinstance(inner, ast.Call) and ast.unparse(inner.func) == "json.dumps"
            if not own:
                found.append(f"{node.lineno}: {ast.unparse(node)[:60]}")
    return found


def test_only_the_layer_parses_text() -> None:
    """No module outside core's readers opens text or parses JSON, TOML, CSV or XML by itself."""
    # The pid in a lock file, this repository's own page, a graph that is vetted member by member.
    # What draws in a process of its own, without the package.
    exempt = {"run_folder.py", "preset_table.py", "exported_archive.py", "svg_drawing.py"}
    exempt |= {"pdf_drawing.py"}
    found = {
        str(file.relative_to(ROOT)): calls
        for folder in ("physadv", "cli")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if file.name not in _LAYER | exempt
        if (calls := _foreign_parsers(file.read_text(encoding="utf-8")))
    }
    assert not found


def test_the_source_test_sees_a_parser() -> None:
    """Each kind of direct parsing is found, so that the test above can fail."""
    for line in ("json.loads(t)", "tomllib.load(f)", "csv.reader(f)", "p.read_text()"):
        assert _foreign_parsers(line)
    assert not _foreign_parsers("json.loads(json.dumps(settings))")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_text_is_read_in_the_encodings_programs_save(tmp_path: Path, encoding: str) -> None:
    """UTF-8, and what Excel, PowerShell and old programs write, give the same text."""
    file = tmp_path / "names.txt"
    file.write_bytes("Straße".encode(encoding))
    assert read_text(file, guess=True) == "Straße"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_rows_and_csv_take_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    """What Windows saves is read by every reader of text, not by that of CSV alone."""
    for name, text in (("a.toml", "x = 1"), ("a.json", '{"x": 1}')):
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert read_table(tmp_path / name) == {"x": 1}
    (tmp_path / "rows.jsonl").write_bytes('{"x": 1}\n'.encode(encoding))
    assert list(read_rows(tmp_path / "rows.jsonl")) == [{"x": 1}]
    (tmp_path / "a.csv").write_bytes("x\n1\n".encode(encoding))
    assert read_csv(tmp_path / "a.csv", {"x": ()}).rows[0].cells == {"x": "1"}


@pytest.mark.parametrize(
    "data", [b"\x81\xff", b"a\0b", b"\xff\xfea", b"\x00\x00\xfe\xff\xff\xff\xff\xff"]
)
def test_what_is_no_text_is_refused(data: bytes) -> None:
    """Other bytes end in one error of the tree."""
    with pytest.raises(OptionError):
        decode_text(data, "names.txt", guess=True, error=OptionError)


def test_only_regular_files_within_the_budget_are_read(tmp_path: Path) -> None:
    """Size is checked before reading; a pipe, which would never end, is not opened."""
    large = tmp_path / "large"
    with large.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(DataError, match="1024 GB: At most 256 MB are read"):
        read_file(large)
    os.mkfifo(tmp_path / "pipe")
    for place, limit in ((tmp_path / "pipe", "device or pipe"), (tmp_path, "is a folder")):
        with pytest.raises(DataError, match=limit):
            read_file(place)
    with pytest.raises(DataError, match="no such file"):
        read_file(tmp_path / "absent")
    with pytest.raises(DataError, match="cannot be read"):
        read_file("a\0b")


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1, "a": 2}', "the key 'a' twice"),
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "not finite"),
        ("1" * 5000, "5000 digits"),
        (str(1 << 65), "64 bits"),
        ('"\\ud800"', "surrogates"),
        ('"\\u0000"', "null character"),
        ("nope", "no valid JSON"),
        ("", "no valid JSON"),
    ],
)
def test_json_that_is_refused(text: str, limit: str) -> None:
    """Depth, duplicates, numbers and characters that hurt later are refused where they enter."""
    with pytest.raises(DataError, match=limit):
        parse_json(text, "a.json")


def test_json_of_too_many_values_is_refused_before_it_is_parsed() -> None:
    """Each value takes some 60 bytes, so that 48 MB of text would take gigabytes."""
    with pytest.raises(DataError, match="more values"):
        parse_json("[" + "[]," * 10_000_000 + "[]]", "a.json")


def test_names_that_are_not_utf8_survive_json() -> None:
    """Rows record such a file name with the halves of surrogate pairs that Python uses."""
    assert parse_json('"\\udcdf"', "rows.jsonl") == "\udcdf"


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("a = nan", "not finite"),
        ("a = -inf", "not finite"),
        ("a = " + "1" * 5000, "no valid TOML"),
        ("a = 0x" + "f" * 40, "64 bits"),
        ('a = "\\u0000"', "null character"),
        (".".join("a" * 100_000) + " = 1", "more than 200 parts"),
        ("[" + ".".join("a" * 100_000) + "]", "more than 200 parts"),
        ("a = 1\na = 2", "no valid TOML"),
        ("#" * (5 << 20), "characters"),
    ],
)
def test_toml_that_is_refused(text: str, limit: str) -> None:
    """As JSON; keys of very many parts take their parser the square of their number."""
    with pytest.raises(DataError, match=limit):
        parse_toml(text, "a.toml")


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (b"<a>" * 200, "nested too deeply"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type"),
        (b'<?xml version="1.0" encoding="big5"?><a/>', "multi-byte"),
        (b'<?xml version="1.0" encoding="none"?><a/>', "encoding"),
        (b"<a", "no valid XML"),
        (b"", "no valid XML"),
    ],
)
def test_xml_that_is_refused(data: bytes, limit: str) -> None:
    """Neither entities nor depth reach what reads boxes."""
    with pytest.raises(DataError, match=limit):
        parse_xml(data, "a.xml")


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "1_0", "", "0x1", "1e10", "--1"])
def test_numbers_are_finite_and_sane(text: str) -> None:
    """What float() would take, or would make infinite, is refused with its place."""
    with pytest.raises(DataError, match=r"'a\.csv:2': x0 is"):
        parse_number(text, "x0", "a.csv:2")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["1" * 300_000 + "x", "1." + "1" * 300_000 + "e", " " * 300_000])
def test_long_texts_are_no_numbers_at_once(text: str) -> None:
    """A pattern that tries each place to part the digits would take hours."""
    with pytest.raises(DataError, match=r"x0 is"):
        parse_number(text, "x0", "a.csv:2")


@pytest.mark.parametrize("text", ["3000000000", "-1", "1.0", "1e3", "", "9" * 5000])
def test_whole_numbers_are_sane(text: str) -> None:
    """A label of 3 * 10^9 would ask for as many classes."""
    with pytest.raises(DataError, match="from 0 to 1000000000"):
        parse_whole_number(text, "label", "a.csv:2")


def test_typed_tables_hold_finite_numbers(tmp_path: Path) -> None:
    """A large file is parsed to its type alone; NaN in it is named."""
    with pytest.raises(DataError, match="Infinity is no number of JSON"):
        parse_json_as('{"a": [Infinity]}', dict[str, list[float]], "a.json")
    with pytest.raises(DataError, match="no valid JSON"):
        parse_json_as("[" * 100_000, msgspec.Raw, "a.json")
    with pytest.raises(DataError, match="it is no COCO file"):
        parse_json_as("[]", dict[str, int], "a.json", what="COCO file")


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_parsers_raise_their_own_error_alone(text: str) -> None:
    """Whatever the text, it is a value or the error that was asked for; another one fails."""
    for parse in (
        lambda: parse_json(text, "a"),
        lambda: parse_toml(text, "a"),
        lambda: parse_xml(text.encode("utf-8", "replace"), "a"),
        lambda: parse_number(text, "x", "a"),
        lambda: parse_whole_number(text, "x", "a"),
    ):
        with contextlib.suppress(PhysadvError):
            parse()


@pytest.mark.parametrize("label", [3_000_000_000, 1_000_001])
def test_a_label_asks_for_no_more_classes_than_there_may_be(tmp_path: Path, label: int) -> None:
    """Arrays without names of their classes get as many as the highest label says."""
    images, labels = np.zeros((2, 4, 4, 3), np.uint8), np.array([0, label])
    np.savez(tmp_path / "d.npz", images=images, labels=labels)
    with pytest.raises(DataError, match="from 0 to 1000000 at most"):
        read_dataset(tmp_path / "d.npz")


def test_a_file_takes_no_more_memory_than_it_has(tmp_path: Path) -> None:
    """A budget of terabytes is not allocated for a file of a few bytes."""
    (tmp_path / "a").write_bytes(b"abc")
    assert read_file(tmp_path / "a", most_bytes=1 << 60) == b"abc"
