"""The notebooks of examples/ run from the first cell to the last, and show results inline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cell fails, results are shown as HTML, and the file is kept without outputs."""
    if file.stem == "cloak":
        pytest.importorskip("dlib")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'cli'}")
    notebook: Any = nbformat.read(file, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    nbclient.NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": file.parent}}
    ).execute()
    shown = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert any("text/html" in out.get("data", {}) for out in shown)
    if file.stem == "cloak":
        assert shown[-1]["data"]["text/plain"] == "True"


def test_there_are_three() -> None:
    """A sticker, robustness and a cloak."""
    assert [file.stem for file in NOTEBOOKS] == ["cloak", "robustness", "sticker"]
