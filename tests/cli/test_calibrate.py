"""`physadv calibrate` as people run it: a process of its own, one JSON object, one line for what
goes wrong."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import commandline
import cv2
import numpy as np
import pytest
from capture_fixtures import numbered
from charttwin import SLANTED, photograph, printed, printer_of, raster

from physadv.calibration.charuco_board import write_board
from physadv.calibration.color_chart import write_chart
from physadv.eot.profiles import read_camera_profile, read_color_profile
from physadv.twin.trajectories import SignPose

Done = subprocess.CompletedProcess[str]


def physadv(folder: Path, *arguments: str) -> Done:
    return commandline.physadv(folder, "calibrate", *arguments)


def save(path: Path, picture: np.ndarray) -> Path:
    cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of sets 1 and 2 and a blurred one."""
    folder = tmp_path_factory.mktemp("photos")
    for number in (1, 2):
        write_chart(folder / "c.pdf", number)
        page = printed(folder / "c.pdf", printer_of(0))
        save(folder / f"set{number}.jpg", photograph(page, pose=SLANTED))
        save(folder / "blurred.jpg", photograph(page, blur_px=6))
    return folder


def test_chart_writes_the_page(tmp_path: Path) -> None:
    """The chart and the board lie where the JSON says; an unknown kind is one line."""
    for arguments, name in (((), "chart-1.pdf"), (("--kind", "charuco"), "board.pdf")):
        done = physadv(tmp_path, "chart", "--paper", "letter", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert (said["pdf"], said["page_mm"]) == (name, [215.9, 279.4])
        assert (tmp_path / name).read_bytes().startswith(b"%PDF")
    wrong = physadv(tmp_path, "chart", "--kind", "grey")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)


def test_fit_writes_a_profile(photos: Path, tmp_path: Path) -> None:
    """One photo fits, a blurred one beside it is left out with its reason, another set gives the
    held-out error."""
    done = physadv(
        tmp_path,
        "fit",
        str(photos / "set1.jpg"),
        str(photos / "blurred.jpg"),
        "--check",
        str(photos / "set2.jpg"),
        "--printer",
        "office",
        "--printed-on",
        "matt",
        "--camera",
        "phone",
        "--out",
        "mine.json",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["profile"] == "mine.json"
    assert "blurred" in said["left_out"][0]
    assert said["held_out"]["mean"] < 1.5
    profile = read_color_profile(tmp_path / "mine.json")
    assert (profile.printer, profile.paper, profile.camera) == ("office", "matt", "phone")
    assert profile.de00 == said["de00"]
    assert profile.n_patches == 136
    assert "next: physadv patch --profile mine.json" in done.stderr


def test_a_fit_is_repeated_from_the_record_beside_its_profile(photos: Path, tmp_path: Path) -> None:
    """NAME.config.toml beside the profile holds the options, which --config takes."""
    source = str(photos / "set1.jpg")
    first = physadv(tmp_path, "fit", source, "--map", "3x4", "--out", "mine.json", "--json")
    assert first.returncode == 0, first.stderr
    again = physadv(
        tmp_path, "fit", "--config", "mine.config.toml", "--out", "other.json", "--json"
    )
    assert again.returncode == 0, again.stderr
    one, other = (json.loads(done.stdout) for done in (first, again))
    assert other["map"] == "3x4"
    assert other["de00"] == one["de00"]
    record = (tmp_path / "mine.config.toml").read_text()
    assert record.startswith('command = "calibrate-fit"')
    assert (tmp_path / "other.config.toml").read_text() == record


def test_fit_averages_a_video(photos: Path, tmp_path: Path) -> None:
    """A video is read to the number of usable frames asked for."""
    picture = cv2.imread(str(photos / "set1.jpg"))
    writer = cv2.VideoWriter(
        str(tmp_path / "v.avi"),
        cv2.VideoWriter.fourcc(*"MJPG"),
        5,
        (picture.shape[1], picture.shape[0]),
    )
    for number in range(5):
        writer.write(numbered(picture, number))
    writer.release()
    done = physadv(tmp_path, "fit", "v.avi", "--frames", "3", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["photos"] == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "blurred.jpg"], "blurred"),
        (["fit", "nowhere.jpg"], "nowhere.jpg"),
        (["fit", "set1.jpg", "--map", "linear"], "linear"),
        (["fit", "set1.jpg", "--check", "set1.jpg"], "set 1 is the set"),
        (["fit", "set1.jpg", "set2.jpg"], "mixed"),
        (["fit", "set1.jpg", "--camera-profile", "set1.jpg"], "neither UTF-8"),
        (["camera", "set1.jpg"], "board corners"),
    ],
)
def test_what_goes_wrong_is_one_line(
    photos: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    """Exit code 1, the reason in one line, no traceback and no profile."""
    done = physadv(photos, *arguments, "--out", str(tmp_path / "x.json"))
    lines = [line for line in done.stderr.splitlines() if line.startswith("physadv:")]
    assert done.returncode == 1
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.json").exists()


def test_camera_measures_the_twins_lens(tmp_path: Path) -> None:
    """From photos of the board by the twin's telephone the focal length comes out within 1 %; four
    are too few."""
    from charttwin import PHONE

    write_board(tmp_path / "b.pdf")
    page = printed(tmp_path / "b.pdf", printer_of(0))
    assert raster(tmp_path / "b.pdf").shape[2] == 3
    poses = [
        (0, 0, 0.5, 0.5),
        (30, 0, 0.4, 0.4),
        (-30, 0, 0.6, 0.6),
        (0, 30, 0.6, 0.4),
        (0, -30, 0.4, 0.6),
        (25, 20, 0.5, 0.4),
        (-25, 20, 0.45, 0.5),
        (20, -25, 0.55, 0.5),
        (-22, -22, 0.5, 0.55),
    ]
    (tmp_path / "views").mkdir()
    for i, (yaw, pitch, u, v) in enumerate(poses):
        pose = SignPose(430, yaw, pitch, 6 * i, u, v)
        save(
            tmp_path / "views" / f"{i}.jpg",
            photograph(page, pose=pose, size=(1200, 900), exposure=0.7, seed=i),
        )
    done = physadv(tmp_path, "camera", "views", "--camera", "phone", "--out", "lens.json", "--json")
    assert done.returncode == 0, done.stderr
    profile = read_camera_profile(tmp_path / "lens.json")
    assert profile.fx == pytest.approx(PHONE.focal * 1200, rel=0.01)
    assert profile.fy == pytest.approx(PHONE.focal * 1200, rel=0.01)
    assert (profile.cx, profile.cy) == pytest.approx((600, 450), abs=12)
    assert json.loads(done.stdout)["rms_px"] == profile.rms_px
    for i in range(5, 9):
        (tmp_path / "views" / f"{i}.jpg").unlink()
    few = physadv(tmp_path, "camera", "views")
    assert few.returncode == 1
    assert "5 usable views of the board: 8 are needed: 3 more" in few.stderr
