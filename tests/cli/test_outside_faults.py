"""A fault outside the program is one line and exit code 1."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commandline import physadv

from physadv_cli import main as entry


def test_a_folder_below_a_file_is_one_line(tmp_path: Path) -> None:
    """--out below a file: no traceback."""
    (tmp_path / "file").write_text("x")
    done = physadv(
        tmp_path, "patch", "--steps", "1", "--draws", "1", "--test-draws", "1", "--out", "file/run"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("physadv: ")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "rows.jsonl"), "rows.jsonl: No space left"),
        (PermissionError(13, "Permission denied", "out"), "out: Permission denied"),
        (MemoryError(), "Memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "Memory ran out"),
    ],
)
def test_disk_and_memory_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    words: str,
) -> None:
    """Each ends with 1 and one line that names what it was."""

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(entry, "app", fail)
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith("physadv: ")
    assert words in line


def test_other_runtime_errors_stay_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the program itself keeps its traceback."""

    def fail(**_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(entry, "app", fail)
    monkeypatch.setattr(sys, "argv", ["physadv"])
    with pytest.raises(RuntimeError, match="a bug"):
        entry.main()
