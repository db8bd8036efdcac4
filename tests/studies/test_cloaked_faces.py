"""The study of cloaked faces: matches, planes, and a run end to end with small recognizers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tinyface import KnownFinder, drawn_photo, face_at, tiny_embedder

from physadv.core.errors import DataError
from physadv.core.image_io import save_png
from physadv.core.random_streams import generator
from physadv.studies import cloaked_faces
from physadv.studies.attack_studies_config import PrivacyConfig
from physadv.studies.cloaked_faces import STUDY, match_rate, people_of, principal_plane
from physadv.studies.study import run_study, study_rows


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Two people of three photos, and one of a single photo."""
    face = face_at(24, 24, 48)
    for person, count in (("ada", 3), ("ben", 3), ("cy", 1)):
        for shot in range(count):
            photo = drawn_photo(96, 96, face, person=ord(person[0]), shot=shot)
            save_png(tmp_path / "people" / person / f"{shot}.png", photo)
    return tmp_path / "people"


def test_people_need_photos_to_compare_with(people: Path) -> None:
    """A person with too few photos is left out; a folder without any person is refused."""
    assert list(people_of(str(people), least=3)) == ["ada", "ben"]
    with pytest.raises(DataError):
        people_of(str(people / "cy"), least=2)


def test_matches_are_counted_by_person() -> None:
    """Margins above zero match; the rows of other budgets, ways and recognizers do not count."""

    def probe(margins: list[float], **other: object) -> dict[str, object]:
        row = {"kind": "probe", "recognizer": "a", "variant": "cloaked", "budget": 12}
        return row | {"channel": "png", "margins": margins} | other

    people = [
        [probe([0.5, -0.5]), probe([1.0], channel="jpeg75"), {"kind": "change", "budget": 12}],
        [probe([0.1, 0.2]), probe([1.0], recognizer="b")],
    ]
    rate = match_rate(people, "a", "cloaked", 12)
    assert (rate.rate, rate.n, rate.clusters) == (0.75, 4, 2)


def test_the_principal_plane_keeps_what_lies_in_a_plane() -> None:
    """Points of a plane in many dimensions keep their distances, and all of their variance."""
    flat = torch.randn((9, 2), generator=generator(0, "flat"))
    basis, _ = torch.linalg.qr(torch.randn((30, 2), generator=generator(0, "basis")))
    places, share = principal_plane(flat @ basis.T + 5)
    assert share == pytest.approx(1, abs=1e-5)
    assert torch.allclose(torch.cdist(places, places), torch.cdist(flat, flat), atol=1e-4)


def test_a_quick_run_fills_its_page(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloak keeps to its budget, is judged by both recognizers, and the page names them."""
    recognizers = [tiny_embedder(0, "maker"), tiny_embedder(1, "judge")]
    monkeypatch.setattr(cloaked_faces, "load_embedders", lambda names, weights: recognizers)
    monkeypatch.setattr(cloaked_faces, "default_finders", lambda weights: [KnownFinder()])
    config = PrivacyConfig(people=str(people), quick=True)
    folder = tmp_path / "run"
    *_, last = run_study(STUDY, config, folder)
    rows = study_rows(STUDY, config, folder)
    page = STUDY.page(config, rows)
    assert last.done == 2
    assert "judge, which the cloak never saw" in page.answer
    shown = [row for own in rows.values() for row in own if row["kind"] == "pictures"]
    assert shown
    assert all(row["linf"] <= 12 for row in shown)
    assert all((folder / file).is_file() for row in shown for file in row["files"].values())
