"""What the tests of the journey share."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_model import MODEL, work_beside


@pytest.fixture
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    work_beside("my_models", MODEL, tmp_path, monkeypatch)
    return "my_models:make"
