"""A patch for a flat object that is no stop sign: posters, given as drawings, of which whole ones
are held out."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_model import MODEL, work_beside

from physadv.core.errors import DataError
from physadv.eot.scenes.load import load_scene_sources
from physadv.patches.bundle import read_bundle
from physadv.patches.config import PatchConfig
from physadv.patches.patch_run import PatchRun
from physadv.patches.reverify import verify_bundle
from physadv.printing.sheet import write_sheet

NAMES = ("concert", "market", "museum", "sale", "theater")


def write_posters(folder: Path) -> Path:
    """Five red posters of 2:3, each with a bar elsewhere."""
    folder.mkdir()
    for number, name in enumerate(NAMES):
        bar = f'<rect x="4" y="{5 + 10 * number}" width="32" height="4" fill="#fff"/>'
        red = f'<rect width="40" height="60" fill="#d0{number}01{number}"/>'
        body = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 60">{red}{bar}</svg>'
        (folder / f"{name}.svg").write_text(body)
    return folder


def test_whole_posters_are_held_out(tmp_path: Path) -> None:
    """No poster of the test is trained on, each is named, and no stop sign stands among them."""
    posters = write_posters(tmp_path / "posters")
    sources = load_scene_sources(posters, None, width_mm=400, seed=0, class_name="poster")
    trained = {face.name for face in sources.train.faces}  # type: ignore[attr-defined]
    assert sources.held_out_faces
    assert not trained & set(sources.held_out_faces)
    assert {face.name for face in sources.faces} == {Path(f"{name}.svg").stem for name in NAMES}
    assert not any("stop" in note for note in sources.notes)


def test_posters_that_the_model_does_not_know_are_refused(tmp_path: Path) -> None:
    """There is nothing to attack where no clean poster is recognized."""
    posters = write_posters(tmp_path / "posters")
    with pytest.raises(DataError, match="no sign in it is recognized"):
        load_scene_sources(
            *(posters, None),
            **{"width_mm": 400, "seed": 0, "class_name": "poster"},
            accept=lambda signs: [False] * len(signs),
        )


def test_a_patch_for_posters_from_beginning_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card names the object, the share of its area and each held-out poster; the bundle is
    measured again alike, and its sheet is printed."""
    work_beside("posters_model", MODEL.replace('"stop"', '"poster"'), tmp_path, monkeypatch)
    config = PatchConfig(
        model="posters_model:make",
        signs=(str(write_posters(tmp_path / "posters")),),
        true_class="poster",
        sign_width_mm=600,
        size_mm=(120, 100),
        center_mm=(0, 60),
        **{"steps": 3, "draws": 2, "test_draws": 24, "resolution": 8},
    )
    run = PatchRun(config, tmp_path / "out", force=True)
    for _ in run.steps(validate_every=2):
        pass
    bundle, measured = run.finish()

    placement = bundle.card.placement
    assert placement.sign == "poster"
    assert placement.area_share == pytest.approx(120 * 100 / (400 * 600), abs=0.002)
    told = {face["name"] for face in bundle.card.heldout["by_face"]}
    held_out = set(run.task.scene_sources.held_out_faces)
    assert told == held_out
    assert {row["group"] for row in measured.rows} <= held_out

    again = verify_bundle(read_bundle(bundle.folder), given={"model": config.model})
    assert again.measured.success == measured.success
    sheet = write_sheet(bundle, tmp_path / "sheet.pdf")
    assert (sheet.page_mm, sheet.turned) == ((210.0, 297.0), False)
