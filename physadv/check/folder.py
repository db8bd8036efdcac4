"""Files of a check's folder, and whether a check may start or continue there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physadv.core.errors import DataError, OptionError
from physadv.core.files import contents_digest
from physadv.core.rows import mend_last_row
from physadv.core.tables import read_table

ROWS, SETTINGS, EXAMPLES = "rows.jsonl", "check.json", "examples"
_SAME = ("victim", "goal", "true_class", "target_class", "threshold", "iou", "margin", "asked_of")
_HASHED = {"contents": "contents of the source", "victim_state": "weights of the model"}
"""Entries that are hashes, which records of earlier versions lack."""


def assert_fresh(folder: str | Path) -> None:
    """Refuse a folder whose rows no check may be appended to.

    A folder without rows, or with those of an interrupted check, is accepted.

    Args:
        folder: Folder of the check.

    Raises:
        OptionError: ``folder`` holds the rows of a finished check, or rows without a readable
            record.
    """
    root = Path(folder)
    if (root / ROWS).exists():
        earlier = _read(root)
        if earlier is None or earlier.get("status") == "complete":
            raise _taken(root, "already holds the rows of a check")


def refuse_changed_sources(folder: str | Path) -> None:
    """Refuse to tell the result of a finished check again where its films or photos were replaced.

    Args:
        folder: Folder of the check.

    Raises:
        OptionError: They were; files that are no longer there do not matter.
    """
    record = _read(Path(folder)) or {}
    asked, recorded = record.get("asked_of"), record.get("contents")
    if not (recorded and isinstance(asked, list)):
        return
    names = [str(each[0]) for each in asked if isinstance(each, list) and each]
    if contents_digest(names) not in ("", recorded):
        raise OptionError(
            f'"{folder}" holds a check of other contents of {", ".join(names)[:300]}',
            "A result is that of the films and photos that were measured",
            "Put them back, name another --out, or add --overwrite",
        )


def is_finished(folder: str | Path) -> bool:
    """Return whether ``folder`` holds a check that ran to its end."""
    root = Path(folder)
    record = _read(root) if (root / ROWS).exists() else None
    return record is not None and record.get("status") == "complete"


def earlier_record(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record of the interrupted check in ``folder`` that has the same settings.

    A last row that was written in part is cut off.

    Args:
        folder: Folder of the check.
        settings: Settings of the check about to run.

    Returns:
        The record, or None where the folder holds no rows.

    Raises:
        OptionError: The folder holds rows of another check, or of a finished one.
    """
    assert_fresh(folder)
    if not (folder / ROWS).exists():
        return None
    earlier = _read(folder) or {}

    # The record passed through JSON, where tuples are lists and paths are text.
    plain = json.loads(json.dumps(dict(settings), default=str))
    differs = [k for k in _SAME if earlier.get(k) != plain.get(k)]
    hashes = ((earlier.get(key), plain.get(key), words) for key, words in _HASHED.items())
    differs += [words for old, new, words in hashes if old and new and old != new]
    if (earlier.get("bundle") or {}).get("sha256") != (plain.get("bundle") or {}).get("sha256"):
        differs.append("bundle")

    if differs:
        raise _taken(
            folder,
            "already holds a check with another "
            f"{', '.join(differs).replace('asked_of', 'source')}",
        )

    mend_last_row(folder / ROWS)
    return earlier


def _read(folder: Path) -> dict[str, Any] | None:
    """The record of an earlier check; None where it cannot be read."""
    try:
        return read_table(folder / SETTINGS, finite=False)
    except (OSError, DataError):
        return None


def _taken(folder: Path, limit: str) -> OptionError:
    remedy = f"Name another folder with --out; `physadv report {folder}` shows what is there"
    return OptionError(f"{folder}", limit, remedy)
