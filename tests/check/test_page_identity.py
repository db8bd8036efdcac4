"""Frames of another patch's printed pages are refused; those of the bundle's are known as such."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pypdfium2
import pytest
import torch
from bundle_fixtures import demo_bundle
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from physadv.camera.frames import CameraFrame
from physadv.camera.localization.by_markers import by_fiducials
from physadv.camera.localization.location import SignLocation
from physadv.check.page_identity import PageIdentity, identity_in_words
from physadv.check.run_check import MARGIN
from physadv.core.errors import BundleError, CaptureError, OptionError
from physadv.patches.bundle import PatchBundle
from physadv.printing.aruco_markers import test_sign_layout
from physadv.printing.run_markers import RUN_IDS, run_code, run_marker_layout
from physadv.printing.sheet import write_sheet
from physadv_cli.main import app


def made(folder: Path, seed: int) -> PatchBundle:
    """A bundle whose patch, and with it its run, depends on ``seed``."""
    patch = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(seed))
    return demo_bundle(folder, patch)


def photos(bundle: PatchBundle, folder: Path, *, dpi: float = 90) -> list[np.ndarray]:
    """Its three test signs, printed and photographed from the front."""
    sheet = write_sheet(bundle, folder / "sheet.pdf", test_signs=True)
    with pypdfium2.PdfDocument(str(sheet.pdf)) as pdf:
        pages = [pdf[i].render(scale=dpi / 72).to_pil().convert("RGB") for i in range(len(pdf))]
    signs = [np.asarray(page) for page in pages[-3:]]
    for number, sign in enumerate(signs):
        framed = np.pad(sign, ((40, 40), (60, 60), (0, 0)), constant_values=180)
        Image.fromarray(framed).save(folder / f"{number}.png")
    (folder / "sheet.pdf").unlink()
    (folder / "sheet.svg").unlink(missing_ok=True)
    return signs


def test_the_markers_keep_out_of_what_a_classifier_sees() -> None:
    """They lie outside the margin of the crop, and beside the markers that locate the sign."""
    layout = run_marker_layout()
    above, below = layout[:2, :, 1], layout[2:, :, 1]
    assert above.max() <= -MARGIN + 1e-9
    assert below.min() >= 1 + MARGIN - 1e-9
    assert above.min() == pytest.approx(test_sign_layout()[..., 1].min())
    assert below.max() == pytest.approx(test_sign_layout()[..., 1].max())


@given(st.text(min_size=1), st.text(min_size=1))
def test_codes_are_four_free_markers(first: str, second: str) -> None:
    """A code has four different ids that no sheet or sign uses; equal runs have equal codes."""
    code = run_code(first)
    assert len(set(code)) == 4
    assert set(code) <= set(RUN_IDS)
    assert (code == run_code(second)) >= (first == second)


def test_every_page_tells_its_run(tmp_path: Path) -> None:
    """All four markers of the run are read from each printed page, at their places, also when
    seen from the side."""
    bundle = made(tmp_path / "a", 1)
    (tmp_path / "p").mkdir()
    expected = dict(enumerate(run_code(bundle.card.patch.run_id)))
    for page in photos(bundle, tmp_path / "p"):
        location = by_fiducials()(CameraFrame(page, 0.0, "clip", None, 0))
        assert location is not None
        assert location.run_markers == expected

        turned = Image.fromarray(page).transform(
            (page.shape[1], page.shape[0]),
            Image.Transform.QUAD,
            (0, -60, -20, page.shape[0] + 60, page.shape[1], page.shape[0], page.shape[1], 0),
            Image.Resampling.BICUBIC,
            fillcolor=(180, 180, 180),
        )
        location = by_fiducials()(CameraFrame(np.asarray(turned), 0.0, "clip", None, 0))
        assert location is not None
        assert location.run_markers == expected


def test_check_refuses_the_pages_of_another_patch(tmp_path: Path) -> None:
    """The same photos are accepted and recorded as verified with their own bundle, and refused
    with another, naming both codes."""
    own, other = made(tmp_path / "own", 1), made(tmp_path / "other", 2)
    (tmp_path / "photos").mkdir()
    photos(own, tmp_path / "photos")

    words = ["check", str(tmp_path / "photos"), "--locate", "fiducials", "--out"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "o"), "--bundle", str(own.folder)])
    assert done.exit_code == 0, done.exception
    record = json.loads((tmp_path / "o" / "check.json").read_text())
    assert record["pages"]["verified"] == 3
    assert record["bundle"]["run_id"] == own.card.patch.run_id
    assert "read in 3 of 3 frames" in (tmp_path / "o" / "report.html").read_text()

    refused = CliRunner().invoke(app, [*words, str(tmp_path / "x"), "--bundle", str(other.folder)])
    assert isinstance(refused.exception, CaptureError)
    said = str(refused.exception)
    assert said.startswith(
        f"the frames show another patch than that of run {other.card.patch.run_id}"
    )
    for bundle in (own, other):
        assert "-".join(map(str, run_code(bundle.card.patch.run_id))) in said


def test_a_twin_and_a_sheet_of_another_patch_are_refused(tmp_path: Path) -> None:
    """check refuses a twin of another run, and twin the sheet of one."""
    own, other = made(tmp_path / "own", 1), made(tmp_path / "other", 2)
    write_sheet(own, tmp_path / "sheet.pdf")
    film = ["twin", str(own.folder), "--clips", "1", "--frames", "1", "--sheet"]
    twin = str(tmp_path / "twin")
    done = CliRunner().invoke(app, [*film, str(tmp_path / "sheet.pdf"), "--out", twin])
    assert done.exit_code == 0, done.exception

    refused = CliRunner().invoke(app, ["check", twin, "--bundle", str(other.folder)])
    assert isinstance(refused.exception, OptionError)
    for bundle in (own, other):
        assert f"run {bundle.card.patch.run_id}" in str(refused.exception)

    for part in ("clips", "clips/patch-00.avi"):
        source = f"{twin}/{part}"
        words = ["check", source, "--box", "0,0,640,480", "--bundle"]
        refused = CliRunner().invoke(app, [*words, str(other.folder)])
        assert isinstance(refused.exception, OptionError)
        done = CliRunner().invoke(app, [*words, str(own.folder), "--out", f"{twin}-{part[-3:]}"])
        assert done.exit_code == 0, done.exception
        record = json.loads(Path(f"{twin}-{part[-3:]}", "report.json").read_text())
        assert record["simulation"]
        assert not any("not verified" in note for note in record["notes"])

    film[1] = str(other.folder)
    refused = CliRunner().invoke(app, [*film, str(tmp_path / "sheet.pdf"), "--out", f"{twin}-2"])
    assert isinstance(refused.exception, BundleError)
    assert "is the sheet of run" in str(refused.exception)


def test_pages_without_run_markers_are_said_to_be_unverified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test signs printed before run markers are measured, and the report says that nothing tells
    whose they are."""
    own = made(tmp_path / "own", 1)
    (tmp_path / "photos").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(
            "physadv.printing.webcam_test_signs.run_marker_layout", lambda: np.zeros((4, 4, 2)) - 9
        )
        photos(own, tmp_path / "photos")
    words = ["check", str(tmp_path / "photos"), "--locate", "fiducials"]
    done = CliRunner().invoke(
        app, [*words, "--bundle", str(own.folder), "--out", str(tmp_path / "o")]
    )
    assert done.exit_code == 0, done.exception
    assert "not verified" in (tmp_path / "o" / "report.html").read_text()
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert any("is not verified" in note for note in report["notes"])


def at(*markers: int) -> SignLocation:
    """A sign located by its markers, with these run markers."""
    return SignLocation(None, "fiducials", "patch", run_markers=dict(enumerate(markers)))


def test_what_follows_a_foreign_page_in_its_clip_is_refused() -> None:
    """After another patch's page, frames whose markers cannot be read are refused until the
    bundle's own are read; other clips are not concerned."""
    own, other = run_code("own"), run_code("other")
    pages = PageIdentity.of_run("own")
    assert pages.refusal(at(), "a") is None
    assert "another patch" in str(pages.refusal(at(*other), "a"))
    assert "another patch" in str(pages.refusal(at(), "a"))
    assert "another patch" in str(pages.refusal(at(other[0]), "a"))
    assert pages.refusal(at(), "b") is None
    assert pages.refusal(at(*own), "a") is None
    assert pages.refusal(at(), "a") is None
    assert (pages.verified, pages.unread, pages.foreign.total()) == (1, 3, 3)


@pytest.mark.parametrize("kept", [{}, {"run_id": ""}])
def test_a_simulation_that_recorded_no_run_is_not_verified(kept: dict[str, str]) -> None:
    """Nor is a check whose control was filmed elsewhere, beside a twin that did."""
    twin = {"settings": {"twin": kept}}
    assert identity_in_words({"sources": [twin]})[0] is False
    known = {"settings": {"twin": {"run_id": "e3b4fc9f4078"}}}
    assert identity_in_words({"sources": [known]})[0] is True
    assert identity_in_words({"sources": [known, {"settings": {}}]})[0] is False
