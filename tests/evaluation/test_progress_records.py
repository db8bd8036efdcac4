"""Records of an evaluation that lack or twist what it goes on from are one error with the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from physadv.core.errors import DataError
from physadv.evaluation.progress_log import ProgressLog


@pytest.mark.parametrize(
    "row", ['{"index": 0}', '{"index": 0, "robust": 1}', '{"index": 0, "robust": null}']
)
def test_an_outcome_is_yes_or_no(tmp_path: Path, row: str) -> None:
    """Any other value counted as robust, or failed in the middle of the curve."""
    (tmp_path / "curve-0.1.jsonl").write_text(f'{{"index": 3, "robust": true}}\n{row}\n')
    with pytest.raises(DataError, match=r"curve-0\.1\.jsonl:2: robust is true or false"):
        ProgressLog(tmp_path, "curve-0.1", outcomes=("robust",))


def test_a_row_that_the_marks_promise_is_named(tmp_path: Path) -> None:
    """A batch is complete by its mark, but a row of it has gone."""
    (tmp_path / "rows.jsonl").write_text('{"index": 3, "stage": "apgd", "robust": true}\n')
    (tmp_path / "rows.marks.jsonl").write_text('{"batch": 0, "stage": "apgd"}\n')
    log = ProgressLog(tmp_path, outcomes=("robust",))
    assert log.row(3)["robust"]
    with pytest.raises(DataError, match=r"rows\.jsonl.*lacks the row of sample 2"):
        log.row(2)
