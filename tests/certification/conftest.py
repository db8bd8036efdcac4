"""Settings of all tests of certificates."""

from __future__ import annotations

import pytest

from physadv.certification.bounds import alpha_crown


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of alpha-CROWN: bounds must hold after any number."""
    monkeypatch.setattr(alpha_crown, "STEPS", 3)
