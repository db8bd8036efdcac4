"""The user's own printer and camera in the training: what the profile says is what is printed, and
the card replays."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from commandline import physadv

from physadv.calibration.chart_reader import read_chart
from physadv.calibration.color_chart import color_chart
from physadv.calibration.color_fit import ChartMeasurement, fit_profile
from physadv.camera.lens import lens_for
from physadv.core.errors import BundleError, CalibrationError
from physadv.eot.pipeline import Pipeline
from physadv.eot.profiles import (
    CameraProfile,
    read_camera_profile,
    read_color_profile,
    write_profile,
)
from physadv.eot.ranges import NOTHING, EotRanges
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.transforms.lens_distortion import LensDistortion, undistorted_grid
from physadv.eot.transforms.photometry import srgb_to_linear
from physadv.eot.transforms.printer import draw_printer, printed_light
from physadv.patches.bundle import read_bundle
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import render_scenes
from physadv.patches.patch_run import PatchRun
from physadv.patches.reverify import verify_bundle
from physadv.patches.task import PatchTask, sample_scenes


def write_linear_profile(
    path: Path, gains: tuple[float, float, float] = (0.9, 0.5, 0.7), spread: float = 0.0
) -> Path:
    """A printer that shows ``gains`` times what it is sent, paper apart, with residuals of
    ``spread``."""
    sent = color_chart(1).colors / 255
    seen = sent * gains + np.random.default_rng(0).normal(0, 1, sent.shape) * spread
    measured = ChartMeasurement(
        sent, seen, np.ones(sent.shape, bool), np.zeros(len(sent)), 1, 1, {}, 1.0, 0.5
    )
    return write_profile(path, fit_profile(measured, map_name="3x4", printer="test"))


@pytest.fixture
def settings(own_model: str) -> PatchConfig:
    return PatchConfig(model=own_model, steps=4, draws=4, test_draws=40, resolution=16, lr=0.1)


def test_printed_light_is_what_the_profile_says(tmp_path: Path) -> None:
    """Without spread, each channel's light is the paper's times the measured share, and the drawn
    inks have no part."""
    colors = read_color_profile(write_linear_profile(tmp_path / "p.json")).color_map()
    patch = torch.rand(1, 3, 8, 9) * 0.9 + 0.05
    paper, black, mixing = torch.tensor([0.8, 0.9, 0.7]), torch.full((3,), 0.5), torch.eye(3)
    printed = printed_light(
        patch, black, paper, mixing, draw_printer(colors, torch.Generator().manual_seed(0))
    )
    said = (
        srgb_to_linear(patch * torch.tensor([0.9, 0.5, 0.7])[None, :, None, None])
        * paper[None, :, None, None]
    )
    torch.testing.assert_close(printed, said, atol=2e-3, rtol=0)


def test_spread_of_the_draws_is_that_of_the_residuals(tmp_path: Path) -> None:
    """Over many draws the error at the chart's colors has the covariance of the leave-one-out
    residuals."""
    profile = read_color_profile(write_linear_profile(tmp_path / "p.json", spread=0.02))
    colors, generator = profile.color_map(), torch.Generator().manual_seed(1)
    sent = torch.from_numpy(profile.sent).float()
    linear = torch.cat([torch.ones(len(sent), 1), sent], 1)
    errors = torch.cat([linear @ colors.draw_error(generator).T for _ in range(800)])
    covariance = (errors.T @ errors / len(errors)).numpy()
    assert np.sqrt(np.diag(covariance)) == pytest.approx(
        np.sqrt(np.diag(profile.covariance)), rel=0.1
    )
    assert np.sqrt(np.diag(covariance)) == pytest.approx([0.02] * 3, rel=0.25)


def test_the_measured_printer_has_true_gradients(tmp_path: Path) -> None:
    """gradcheck in float64, for colors inside the hull and for those the hull clamps."""
    colors = read_color_profile(write_linear_profile(tmp_path / "p.json", spread=0.01)).color_map()
    measured = draw_printer(colors, torch.Generator().manual_seed(2))
    assert measured is not None
    patch = (
        torch.rand(1, 3, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        * 0.9
        + 0.05
    )
    assert torch.autograd.gradcheck(measured.light, (patch.requires_grad_(),), atol=1e-4)


def test_training_sees_the_profile(settings: PatchConfig, tmp_path: Path) -> None:
    """A printer that makes everything dark gives darker pictures of a white patch, in the same
    scenes."""
    dark = write_linear_profile(tmp_path / "dark.json", (0.2, 0.2, 0.2))
    plain = PatchTask.from_config(settings)
    task = PatchTask.from_config(replace(settings, profile=str(dark)))
    white = torch.ones(1, 3, *task.mask.shape[-2:])
    scenes = sample_scenes(task, task.scene_sources.train, 6, "x")
    assert torch.equal(
        scenes.images, sample_scenes(plain, plain.scene_sources.train, 6, "x").images
    )
    before, after = (render_scenes(t, white, scenes, ("x", 0))[0] for t in (plain, task))
    assert float(after.mean()) < float(before.mean()) - 0.02


def test_a_doubtful_profile_is_told_where_it_is_used(settings: PatchConfig, tmp_path: Path) -> None:
    """Doubts that the fit recorded, and a large error on the chart it was checked on, are told
    before the first step and stand on the card, in amber; a faultless profile adds none."""
    path = write_linear_profile(tmp_path / "p.json")
    assert read_color_profile(path).findings == []

    doubt = {"name": "dark-photo", "finding": "paper is at 60", "remedy": "Use more light"}
    table = json.loads(path.read_text())
    table |= {"doubts": [doubt, "no finding"], "held_out": {"mean": 9.5, "p95": 20.0}}
    path.write_text(json.dumps(table))
    told = read_color_profile(path).findings
    assert [finding.name for finding in told] == ["profile-dark-photo", "profile-of-another-print"]
    assert "dE00 9.5" in told[1].finding
    assert {finding.light for finding in told} == {"amber"}

    run = PatchRun(replace(settings, profile=str(path)), tmp_path / "out", force=True)
    assert run.check_controls()[-2:] == told
    for _ in run.steps(validate_every=2):
        pass
    bundle, _ = run.finish()
    assert bundle.card.heldout["doubts"][-2:] == [finding.as_dict() for finding in told]
    assert bundle.card.heldout["light"] != "green"


def test_a_bundle_keeps_its_profiles_and_replays(settings: PatchConfig, tmp_path: Path) -> None:
    """With the originals gone verify measures the card's very rate from the bundle's copies, unless
    altered."""
    profile = write_linear_profile(tmp_path / "mine.json", spread=0.01)
    camera = CameraProfile(900, 900, 640, 360, (-0.1, 0, 0, 0, 0), 1280, 720, 0.2, 12, "now")
    lens = write_profile(tmp_path / "lens.json", camera)
    run = PatchRun(
        replace(settings, profile=str(profile), camera_profile=str(lens)), tmp_path / "out"
    )
    for _ in run.steps(validate_every=2):
        pass
    bundle, measured = run.finish()
    profile.unlink()
    lens.unlink()
    own = {"model": settings.model}
    verdict = verify_bundle(read_bundle(bundle.folder), given=own)
    assert verdict.agrees
    assert verdict.measured.success == measured.success
    assert bundle.card.eot["field_of_view_deg"][0] == pytest.approx(
        2 * np.degrees(np.arctan(640 / 900))
    )
    table = json.loads((tmp_path / "out/profile.json").read_text())
    (tmp_path / "out/profile.json").write_text(json.dumps({**table, "printer": "another"}))
    with pytest.raises(BundleError, match="profile has sha256"):
        verify_bundle(read_bundle(bundle.folder), given=own)


def test_a_camera_profile_becomes_ranges() -> None:
    """Angle of view, width and all of the distortion are the camera's; sizes become the distances
    at which it sees them so."""
    lens = (-0.2, 0.05, 0.001, -0.002, 0.01)
    camera = CameraProfile(1000, 1002, 650, 355, lens, 1280, 720, 0.2, 12, "now")
    ranges = camera.narrow_ranges(
        EotRanges(size_px=(20, 100)), sign_width_mm=500, whole_frame=False
    )
    assert ranges.distance_m == pytest.approx((5.0, 25.0))
    assert ranges.sensor_px == (1280, 1280)
    half = 0.64
    assert ranges.lens_k1 == pytest.approx((-0.2 * half**2,) * 2)
    assert ranges.lens_k2 == pytest.approx((0.05 * half**4,) * 2)
    assert ranges.lens_p1 == pytest.approx((0.001 * half,) * 2)
    assert ranges.lens_p2 == pytest.approx((-0.002 * half,) * 2)
    assert ranges.lens_k3 == pytest.approx((0.01 * half**6,) * 2)
    assert ranges.lens_center_x == pytest.approx((10 / 640,) * 2)
    assert ranges.lens_center_y == pytest.approx((-5 / 640,) * 2)
    assert ranges.lens_aspect == pytest.approx((1.002,) * 2)
    given = camera.narrow_ranges(EotRanges(distance_m=(2, 3)), sign_width_mm=500, whole_frame=False)
    assert given.distance_m == (2, 3)


def test_eot_shows_a_profile_as_opencv_does() -> None:
    """Drawn from a 90 degree profile, the lens moves every pixel as OpenCV does, within 0.05 px."""
    lens = (-0.3, 0.1, 0.001, -0.0007, -0.01)
    camera = CameraProfile(640, 642, 646, 353, lens, 1280, 720, 0.2, 12, "now")
    ranges = camera.narrow_ranges(NOTHING, sign_width_mm=500, whole_frame=True)
    blank = torch.zeros(1, 3, 720, 1280)
    pose = torch.tensor([[[1.0, 0.0, 646.0], [0.0, 1.0, 353.0], [0.0, 0.0, 1.0]]])
    scenes = SceneBatch(blank, pose, torch.ones(1, 3), torch.zeros(1, 3), torch.ones(1), ())
    drawn = Pipeline.from_ranges(ranges).sample(scenes, torch.Generator().manual_seed(0))

    xs, ys = torch.arange(1280)[None, None] + 0.5, torch.arange(720)[None, :, None] + 0.5
    x, y, _ = undistorted_grid(xs, ys, drawn[LensDistortion], (720, 1280))
    points = np.stack([np.mgrid[:720, :1280][1], np.mgrid[:720, :1280][0]], -1) + 0.5
    exact = cv2.undistortPoints(
        points.reshape(-1, 1, 2),
        camera.matrix,
        np.array(lens),
        R=np.eye(3),
        P=camera.matrix,
        criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 300, 1e-12),
    ).reshape(720, 1280, 2)
    seen = torch.stack([x[0], y[0]], -1).double().numpy()
    assert np.abs(seen - exact).max() < 0.05


def test_a_lens_that_folds_is_refused(tmp_path: Path) -> None:
    """A profile whose distortion has no inverse in the picture is named wherever it is used."""
    camera = CameraProfile(640, 640, 640, 360, (-0.35, 0, 0, 0, 0), 1280, 720, 0.2, 12, "now")
    with pytest.raises(CalibrationError, match="folds inside its 1280x720 picture"):
        camera.narrow_ranges(EotRanges(), sign_width_mm=500, whole_frame=False)
    path = write_profile(tmp_path / "wide.json", camera)
    for use in (read_camera_profile, lens_for):
        with pytest.raises(CalibrationError, match=r"wide.json.*folds"):
            use(path)
    picture = np.zeros((720, 1280, 3), np.uint8)
    with pytest.raises(CalibrationError, match="folds"):
        read_chart(picture, "photo.png", camera)


def test_coefficients_beyond_brown_are_refused(tmp_path: Path) -> None:
    """Eight coefficients of the rational model are not cut down to five without a word."""
    lens = (-0.1, 0.0, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0)
    camera = CameraProfile(1000, 1000, 640, 360, lens, 1280, 720, 0.2, 12, "now")
    with pytest.raises(CalibrationError, match="8 distortion coefficients"):
        read_camera_profile(write_profile(tmp_path / "rational.json", camera))


@pytest.mark.parametrize(
    ("text", "said"), [("{}", "kind"), ("nonsense", "JSON"), (None, "no such file")]
)
def test_what_is_no_profile_is_refused(
    settings: PatchConfig, tmp_path: Path, text: str | None, said: str
) -> None:
    """Another JSON, no JSON and no file are each named."""
    if text is not None:
        (tmp_path / "p.json").write_text(text)
    with pytest.raises(CalibrationError, match=said):
        PatchTask.from_config(replace(settings, profile=str(tmp_path / "p.json")))


def test_a_damaged_profile_is_refused(tmp_path: Path) -> None:
    """Coefficients of another map and numbers that are not finite are named."""
    path = write_linear_profile(tmp_path / "p.json")
    table = json.loads(path.read_text())
    path.write_text(json.dumps({**table, "map": "20-term"}))
    with pytest.raises(CalibrationError, match="another shape"):
        read_color_profile(path)
    path.write_text(json.dumps({**table, "covariance": [[float("nan")] * 3] * 3}))
    with pytest.raises(CalibrationError, match="NaN is no number"):
        read_color_profile(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"matrix": [[1, 0], [0, 1]]}, "matrix"),
        ({"matrix": [[900, 0, 640], [0, 900, 360]]}, "2 rows"),
        ({"image_size": "1280x720"}, "image_size = '1280x720': a list"),
        ({"rms_px": "small"}, "rms_px = 'small': a number is needed"),
        ({"distortion": [0.1, None]}, "distortion"),
        ({"created": None}, "created"),
    ],
)
def test_a_field_of_another_type_is_named(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    """A camera profile with a wrong field is refused in one line that names file and field."""
    camera = CameraProfile(1000, 1000, 640, 360, (-0.1, 0.0), 1280, 720, 0.2, 12, "now")
    path = write_profile(tmp_path / "camera.json", camera)
    assert read_camera_profile(path).distortion == (-0.1, 0.0)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CalibrationError, match=re.escape(named)) as caught:
        read_camera_profile(path)
    assert str(path) in str(caught.value)


def test_ragged_rows_of_a_color_profile_are_named(tmp_path: Path) -> None:
    """Rows of different lengths are no array."""
    path = write_linear_profile(tmp_path / "p.json")
    table = json.loads(path.read_text())
    path.write_text(json.dumps({**table, "sent": [[0.1, 0.2], *table["sent"]]}))
    with pytest.raises(CalibrationError, match="rows of sent differ"):
        read_color_profile(path)


def test_the_command_takes_a_profile(settings: PatchConfig, tmp_path: Path) -> None:
    """`physadv patch --profile` and `patch verify` run in a process of their own and agree."""
    write_linear_profile(tmp_path / "mine.json", spread=0.01)

    def run(*arguments: str) -> dict[str, object]:
        done = physadv(tmp_path, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    run(
        "patch",
        "--victim",
        settings.model,
        "--faces",
        "plain",
        "--steps",
        "3",
        "--draws",
        "2",
        "--test-draws",
        "20",
        "--resolution",
        "16",
        "--profile",
        "mine.json",
        "--out",
        "out",
    )
    (tmp_path / "mine.json").unlink()
    assert run("patch", "verify", "out", "--model", settings.model)["agrees"] is True
