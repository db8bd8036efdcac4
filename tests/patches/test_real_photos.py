"""The journey on real photos: what the first milestone is judged by. Slow; figures live in
benchmarks/journey.

The drawings are left out: their clean control fails (foreign words), so nothing can be claimed of
them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from journey import JOURNEYS, run  # noqa: E402


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "journey", [j for j in JOURNEYS if j.name != "signs-drawings"], ids=lambda j: j.name
)
def test_the_sticker_beats_the_blank_on_held_out_photos(
    journey, shared_data: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    """On photos it was not fitted to, the sticker succeeds more often than a blank one, and the
    clean sign is read."""
    line = run(journey, shared_data, tmp_path / "out", tmp_path, threads=0)
    assert line["clean_recognised"]["rate"] >= 0.9
    assert line["success"]["rate"] > line["blank_success"]["rate"]
    blocks = line["twin_blocks"]
    assert blocks["clean"]["true_class_rate"] >= 0.9
    assert blocks["patch"]["attack_success_rate"] > blocks["blank"]["attack_success_rate"]
