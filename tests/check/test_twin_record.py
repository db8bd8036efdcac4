"""Rates of the twin on a bundle's card: by camera, of whole films of that bundle alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from physadv.check.twin_record import record_twin, twin_record
from physadv.core.errors import OptionError
from physadv.patches.bundle import PatchBundle, PatchCard, read_bundle, write_bundle
from physadv.patches.card import card_lines
from physadv_cli.main import app

CAMERAS = ("phone", "webcam", "cctv")


@pytest.fixture
def bundle(tmp_path: Path) -> PatchBundle:
    """A writable copy of a ready-made bundle without rates of the twin."""
    ready = read_bundle("stop-sticker-signs-v1")
    card = replace(ready.card, twin=())
    return write_bundle(tmp_path / "sticker", card=card, patch=ready.patch, mask=ready.mask)


def film(bundle: PatchBundle, **changes: Any) -> dict[str, Any]:
    """What a check records of a film of 6 clips by three cameras."""
    named = [{"name": name} for name in CAMERAS]
    facts = {"run_id": bundle.card.patch.run_id, "seed": 5, "clips": 6, "frames": 2}
    return {**facts, "cameras": named, "without": [], "complete": True, **changes}


def checked(folder: Path, twin: dict[str, Any] | None, **changes: Any) -> Path:
    """A check in which the patch wins on the second camera alone, the blank nowhere."""
    folder.mkdir()
    source = {"simulation": twin is not None, "settings": {"twin": twin} if twin else {}}
    record = {
        "status": "complete",
        "goal": "untargeted",
        "victim": {"name": "signs", "task": "classify", "sha256": "ab"},
        "threshold": None,
        "left_out": {},
        "sources": [source],
        **changes,
    }
    (folder / "check.json").write_text(json.dumps(record))
    rows = [
        {
            "clip": f"{block}-{number:02d}",
            "block": block,
            "frame": frame,
            "true": not (won := block == "patch" and number % 3 == 1),
            "success": won,
        }
        for block in ("clean", "blank", "patch")
        for number in range(6)
        for frame in range(2)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_rates_are_those_of_each_camera(bundle: PatchBundle, tmp_path: Path) -> None:
    """Cameras take turns by clip; the trials are clips, and the card reads back as it was."""
    changed = record_twin(bundle, checked(tmp_path / "check", film(bundle)))
    (record,) = read_bundle(bundle.folder).card.twin
    assert changed.card.twin == (record,)
    rates = {one.camera: one for one in record.cameras}
    assert list(rates) == ["all", *CAMERAS]
    assert [rates[name].success.rate for name in CAMERAS] == [0.0, 1.0, 0.0]
    assert (rates["webcam"].success.n, rates["webcam"].success.clusters) == (4, 2)
    assert rates["all"].success.rate == pytest.approx(1 / 3)
    assert {one.clean_recognised.rate for one in record.cameras} == {1.0}
    assert (record.seed, record.clips, record.frames) == (5, 6, 2)
    lines = card_lines(PatchCard.from_toml(changed.card.to_toml()))
    assert [line.split()[0] for line in lines[-4:]] == ["all", *CAMERAS]


def test_another_film_takes_the_place_of_the_first(bundle: PatchBundle, tmp_path: Path) -> None:
    """A card has one film a model; the bundle stays the same bundle."""
    first = record_twin(bundle, checked(tmp_path / "a", film(bundle)))
    second = record_twin(first, checked(tmp_path / "b", film(bundle, seed=9)))
    assert [one.seed for one in second.card.twin] == [9]
    other = {"name": "fastestdet", "task": "detect"}
    third = record_twin(second, checked(tmp_path / "c", film(bundle), victim=other))
    assert [one.victim.name for one in third.card.twin] == ["signs", "fastestdet"]
    assert read_bundle(bundle.folder).card.patch == bundle.card.patch


@pytest.mark.parametrize(
    ("film_changes", "check_changes", "words"),
    [
        (None, {}, "no check of one film"),
        ({"run_id": "other"}, {}, "is of run other"),
        ({"complete": False}, {}, "did not end"),
        ({}, {"status": "running"}, "did not end"),
        ({}, {"left_out": {"too small": 3}}, "left frames out"),
        ({"without": ["noise"]}, {}, "leaves out noise"),
    ],
)
def test_what_is_no_whole_film_is_refused(
    bundle: PatchBundle,
    tmp_path: Path,
    film_changes: dict[str, Any] | None,
    check_changes: dict[str, Any],
    words: str,
) -> None:
    twin = None if film_changes is None else film(bundle, **film_changes)
    with pytest.raises(OptionError, match=words):
        twin_record(bundle, checked(tmp_path / "check", twin, **check_changes))


def test_check_records_on_the_card(bundle: PatchBundle, tmp_path: Path) -> None:
    """`check --record` writes what `patch show` prints, at once or for a finished check."""
    run = CliRunner()
    seen = tmp_path / "film"
    words = ["--clips", "2", "--frames", "1", "--frame-size", "320x180", "--distances", "1.2,1.5"]
    filmed = run.invoke(app, ["twin", str(bundle.folder), *words, "--out", str(seen)])
    assert filmed.exit_code == 0, filmed.output
    check = ["check", str(seen), "--bundle", str(bundle.folder), "--out", str(tmp_path / "check")]
    for extra in ([], ["--record"]):
        checked_once = run.invoke(app, [*check, *extra])
        assert checked_once.exit_code == 0, checked_once.output
        recorded = read_bundle(bundle.folder).card.twin
        assert len(recorded) == len(extra)
    assert sum(one.success.n for one in recorded[0].cameras if one.camera != "all") == 2
    shown = run.invoke(app, ["patch", "show", str(bundle.folder)])
    assert "twin, on signs" in shown.output
