"""The result of a run beside its page, as report.json: for other programs, and to make the page
again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physadv.core.errors import DataError
from physadv.core.files import write_json
from physadv.core.members import member_of
from physadv.core.tables import read_table
from physadv.datasets import DatasetSummary

JSON = "report.json"
_OF_THE_MACHINE = {"out", "report", "data_summary", "requirements"}
"""Parts of a printed result that are no part of the run's own."""


def facts_of_data(data: DatasetSummary | Mapping[str, str] | None) -> dict[str, str]:
    """Return what ``data`` were taken for, in words by heading; empty for None."""
    if data is None:
        return {}
    return data.facts() if isinstance(data, DatasetSummary) else dict(data)


def keep_result(
    folder: Path,
    kind: str,
    result: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
    data: DatasetSummary | Mapping[str, str] | None = None,
) -> Path:
    """Write report.json.

    Args:
        folder: Folder of the run.
        kind: Kind of the page: evaluation, detector, certification or verification.
        result: Rates and findings, as plain values.
        facts: Settings to print.
        data: What the data were taken for.

    Returns:
        Path of the file.
    """
    own = {key: value for key, value in result.items() if key not in _OF_THE_MACHINE}
    table = {"kind": kind, "result": own, "facts": dict(facts or {}), "data": facts_of_data(data)}
    return write_json(folder / JSON, table)


def read_result(folder: Path) -> dict[str, Any]:
    """Return the tables ``result``, ``facts`` and ``data``, and the ``kind``, of report.json.

    Raises:
        DataError: There is none, as of a run that has no result yet or that an older version made.
    """
    file = member_of(folder, JSON)
    if not file.is_file():
        raise DataError(
            f'"{folder}" has no {JSON}',
            "A run gets it with its result",
            "Repeat the command with the same --out: what is finished is kept",
        )
    return read_table(file, finite=False)
