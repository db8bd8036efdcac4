"""What the tests of the journey share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from own_model import MODEL


@pytest.fixture
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_models.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("my_models", None)
    return "my_models:make"
