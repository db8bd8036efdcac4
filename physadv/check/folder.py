"""The folder of a check: what lies in it, and whether a check may begin or go on there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physadv.core.errors import DataError, OptionError
from physadv.core.tables import read_table

ROWS, SETTINGS, EXAMPLES = "rows.jsonl", "check.json", "examples"
_SAME = ("victim", "goal", "true_class", "target_class", "threshold", "iou", "margin", "asked_of")


def assert_fresh(folder: str | Path) -> None:
    """Raise OptionError where ``folder`` holds rows that no check can be added to: a whole one's,
    or nobody's."""
    root = Path(folder)
    if (root / ROWS).exists():
        earlier = _read(root)
        if earlier is None or earlier.get("status") == "complete":
            raise _taken(root, "already holds the rows of a check")


def earlier_record(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the same check, stopped or killed in ``folder`` before its end; None where
    nothing is there.

    A last row that was half written is cut off. Raises OptionError where another check's rows lie
    there.
    """
    assert_fresh(folder)
    if not (folder / ROWS).exists():
        return None
    earlier = _read(folder) or {}
    plain = json.loads(json.dumps(dict(settings), default=str))
    differs = [k for k in _SAME if earlier.get(k) != plain.get(k)]
    if (earlier.get("bundle") or {}).get("sha256") != (plain.get("bundle") or {}).get("sha256"):
        differs.append("bundle")
    if differs:
        raise _taken(
            folder,
            "already holds a check with another "
            f"{', '.join(differs).replace('asked_of', 'source')}",
        )
    _mend(folder / ROWS)
    return earlier


def _mend(rows: Path) -> None:
    """Cut off what a kill left of the last line, or the next row would be glued to it."""
    written = rows.read_bytes()
    whole = written.rfind(b"\n") + 1
    if whole < len(written):
        with rows.open("r+b") as stream:
            stream.truncate(whole)


def _read(folder: Path) -> dict[str, Any] | None:
    """The record of an earlier check; None where it cannot be read."""
    try:
        return read_table(folder / SETTINGS)
    except (OSError, DataError):
        return None


def _taken(folder: Path, limit: str) -> OptionError:
    remedy = f"name another folder with --out; `physadv report {folder}` shows what is there"
    return OptionError(f"{folder}", limit, remedy)
