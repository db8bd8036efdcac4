"""The simulation films the printed sticker, records its true position, is reproducible, and keeps
its controls comparable."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from physadv.core.errors import BundleError, GeometryError, OptionError
from physadv.core.sign_artwork import SignFace, octagon_mm, sign_face
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.twin.cameras import PHONE, WEBCAM, with_quality
from physadv.twin.photo_clips import PhotoScene
from physadv.twin.recording import ClipWriter
from physadv.twin.simulate import simulate_clips
from physadv.twin.trajectories import AngleLimits

Printed = tuple[Path, Path]
SHARP = with_quality(
    PHONE, shutter=0.0, electrons=1e7, read_noise=0, wb_error=0, contrast=0, jpeg=98
)
GRAY = [np.full((400, 500, 3), 150, np.uint8)]


def rows_of(out: Path) -> list[dict]:
    """Truth rows."""
    return [json.loads(line) for line in (out / "truth.jsonl").read_text().splitlines()]


def frames_of(path: Path) -> list[np.ndarray]:
    """All frames of a clip as RGB."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        good, frame = capture.read()
        if not good:
            return frames
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def on_sign(frame: np.ndarray, corners: list, size: int = 400) -> np.ndarray:
    """The sign's bounding square seen straight on, (size, size, 3)."""
    target = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
    matrix = cv2.getPerspectiveTransform(np.array(corners, np.float32), target)
    return cv2.warpPerspective(frame, matrix, (size, size), flags=cv2.INTER_LINEAR)


@pytest.fixture(scope="module")
def filmed(printed: Printed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, one by each of two cameras, near and frontal enough to look at."""
    out = tmp_path_factory.mktemp("filmed")
    done = list(
        simulate_clips(
            *printed,
            out,
            clips=2,
            frames=4,
            frame_size=(640, 480),
            seed=7,
            cameras=(SHARP, WEBCAM),
            backgrounds=GRAY,
            distances_m=(2.2, 3.5),
            angles=AngleLimits(20, 6, 4),
        )
    )
    assert [d.number for d in done] == [0, 1]
    return out


def test_clips_and_truth_are_whole(filmed: Path) -> None:
    """Every clip has the requested frames, every frame has its row, and the run is marked as a
    simulation."""
    rows = rows_of(filmed)
    assert len(rows) == 3 * 2 * 4
    for block in ("clean", "blank", "patch"):
        for number in range(2):
            frames = frames_of(filmed / "clips" / f"{block}-{number:02d}.avi")
            assert len(frames) == 4
            assert frames[0].shape == (480, 640, 3)
            mine = [r for r in rows if r["clip"] == f"{block}-{number:02d}"]
            assert [r["frame"] for r in mine] == [0, 1, 2, 3]
            assert {r["file"] for r in mine} == {f"clips/{block}-{number:02d}.avi"}
            assert {r["block"] for r in mine} == {block}
    assert {r["camera"] for r in rows} == {"phone", "webcam"}
    settings = json.loads((filmed / "twin.json").read_text())
    assert settings["simulation"] is True
    assert settings["complete"] is True
    assert not list(filmed.glob("clips/.*"))


def test_blocks_share_path_and_light(filmed: Path) -> None:
    """The three blocks of a clip number have one truth and, noise included, one picture outside the
    sticker."""
    rows = rows_of(filmed)
    for number in range(2):
        truths = [
            [
                {k: r[k] for k in ("corners", "distance_m", "yaw_deg")}
                for r in rows
                if r["clip"] == f"{b}-{number:02d}"
            ]
            for b in ("clean", "blank", "patch")
        ]
        assert truths[0] == truths[1] == truths[2]
    clean, blank = (
        frames_of(filmed / "clips" / f"{b}-00.avi")[0].astype(int) for b in ("clean", "blank")
    )
    truth = next(r for r in rows if r["clip"] == "clean-00")
    x1, y0 = (
        int(np.max(np.array(truth["corners"])[:, 0])),
        int(np.min(np.array(truth["corners"])[:, 1])),
    )
    # A JPEG's blocks are 16 px wide; those that the sign does not reach are equal to the bit.
    assert not np.abs(clean - blank)[:, min(x1 + 20, 635) :].any()
    assert not np.abs(clean - blank)[: max(y0 - 20, 4)].any()
    assert (clean != blank).any()


def test_truth_is_where_the_sign_is(filmed: Path) -> None:
    """The red area's centroid lies within 2 px of the truth's center, and its extent within the
    square."""
    for number in range(2):
        frames = frames_of(filmed / "clips" / f"clean-{number:02d}.avi")
        truths = [r for r in rows_of(filmed) if r["clip"] == f"clean-{number:02d}"]
        for frame, truth in zip(frames, truths, strict=True):
            f = frame.astype(int)
            red = ((f[..., 0] > f[..., 1] + 30) & (f[..., 0] > f[..., 2] + 15)).astype(np.uint8)
            hull = cv2.convexHull(
                cv2.findNonZero(cv2.morphologyEx(red, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)))
            )
            moments = cv2.moments(hull)
            center = np.array([moments["m10"], moments["m01"]]) / moments["m00"] + 0.5
            corners = np.array(truth["corners"], np.float32)
            plane = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
            unit = np.array([octagon_mm(1.0)], np.float32)
            outline = cv2.perspectiveTransform(unit, cv2.getPerspectiveTransform(plane, corners))
            moments = cv2.moments(outline)
            want = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
            assert center == pytest.approx(want, abs=2)
            assert (hull.reshape(-1, 2).min(0) >= corners.min(0) - 3).all()
            assert (hull.reshape(-1, 2).max(0) <= corners.max(0) + 3).all()


def test_sticker_is_where_the_card_says_and_in_order(filmed: Path) -> None:
    """Seen straight on, the sticker's stripes stand red, green, blue, gray from left to right,
    below the center."""
    frame = frames_of(filmed / "clips" / "patch-00.avi")[-1]
    truth = [r for r in rows_of(filmed) if r["clip"] == "patch-00"][-1]
    sign = on_sign(frame, truth["corners"]).astype(int)
    y = round(400 * (0.5 + 210 / 762))
    stripes = [
        sign[y - 15 : y + 15, round(400 * (0.5 + (x - 200) / 762)) + np.arange(-8, 9)].mean((0, 1))
        for x in (50, 150, 250, 350)
    ]
    assert [int(s.argmax()) for s in stripes[:3]] == [0, 1, 2]
    for channel in range(3):
        others = [stripes[i][channel] for i in range(3) if i != channel]
        assert stripes[channel][channel] > 1.6 * max(others) + 8
    assert np.ptp(stripes[3]) < 40


def test_blank_is_white_paper(filmed: Path) -> None:
    """The blank sticker is the brightest thing on the sign and without color of its own."""
    frame = frames_of(filmed / "clips" / "blank-00.avi")[-1]
    truth = [r for r in rows_of(filmed) if r["clip"] == "blank-00"][-1]
    sign = on_sign(frame, truth["corners"]).astype(float)
    y = round(400 * (0.5 + 210 / 762))
    paper = sign[y - 20 : y + 20, 120:280].reshape(-1, 3)
    letters = np.quantile(sign[140:260, 60:340].reshape(-1, 3), 0.9, axis=0)
    assert np.ptp(paper.mean(0)) < 45
    assert paper.mean() > 0.85 * letters.mean()
    assert paper.std(0).max() < 25


def test_same_seed_same_files(printed: Printed, tmp_path: Path) -> None:
    """One seed gives the same bytes, another seed other ones."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        list(
            simulate_clips(
                *printed, tmp_path / name, clips=1, frames=2, frame_size=(320, 240), seed=seed
            )
        )
    for part in ("clips/patch-00.avi", "clips/clean-00.avi", "truth.jsonl"):
        a, b, c = ((tmp_path / n / part).read_bytes() for n in "abc")
        assert a == b
        assert a != c


def test_ranges_are_kept(printed: Printed, tmp_path: Path) -> None:
    """Distances, angles and sizes stay within the requested ranges, and the sign within the
    picture."""
    limits = AngleLimits(30, 8, 3)
    steps = simulate_clips(
        *printed,
        tmp_path,
        clips=4,
        frames=6,
        frame_size=(320, 240),
        seed=4,
        distances_m=(2, 9),
        angles=limits,
    )
    list(steps)
    for row in rows_of(tmp_path):
        assert 2 <= row["distance_m"] <= 9
        assert abs(row["yaw_deg"]) <= 30
        assert abs(row["pitch_deg"]) <= 8
        assert abs(row["roll_deg"]) <= 3
        corners = np.array(row["corners"])
        assert corners.min() > -2
        assert (corners.max(0) < (322, 242)).all()


def test_stopping_early_keeps_what_is_done(printed: Printed, tmp_path: Path) -> None:
    """After a stop, complete clips and their rows exist, and nothing is half written."""
    steps = simulate_clips(*printed, tmp_path, clips=3, frames=2, frame_size=(320, 240))
    next(steps)
    steps.close()
    assert len(rows_of(tmp_path)) == 6
    assert len(list((tmp_path / "clips").iterdir())) == 3
    assert json.loads((tmp_path / "twin.json").read_text())["complete"] is False


def test_second_run_replaces_the_first(printed: Printed, tmp_path: Path) -> None:
    """A shorter second run leaves no clip of the first; a folder with other rows is not changed."""
    for clips in (2, 1):
        list(simulate_clips(*printed, tmp_path / "t", clips=clips, frames=1, frame_size=(320, 240)))
    assert len(list((tmp_path / "t" / "clips").iterdir())) == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "truth.jsonl").write_text("{}\n")
    with pytest.raises(OptionError, match="other rows"):
        next(simulate_clips(*printed, tmp_path / "mine", clips=1, frames=1))


def test_photo_scene(printed: Printed, tmp_path: Path) -> None:
    """On a photo, the clean block has no sticker, the blank one a sticker lit like the sign's
    white, in its position."""
    face = sign_face("stop", 240)
    photo = synthetic_background(3, height=600, width=800).copy()
    alpha = face.rgba[..., 3:] / 255
    dim = (face.rgba[..., :3] * np.array([0.6, 0.6, 0.55])).astype(np.uint8)
    photo[100:340, 300:540] = (photo[100:340, 300:540] * (1 - alpha) + dim * alpha).astype(np.uint8)
    corners = np.array([[300, 100], [540, 100], [540, 340], [300, 340]], float)
    scene = PhotoScene(photo, corners, "made.png")
    list(
        simulate_clips(
            *printed,
            tmp_path,
            clips=1,
            frames=3,
            frame_size=(640, 480),
            cameras=(SHARP,),
            scenes=[scene],
            seed=5,
        )
    )
    rows = rows_of(tmp_path)
    assert {r["photo"] for r in rows} == {"made.png"}
    assert all(r["yaw_deg"] is None for r in rows)
    truth = next(r for r in rows if r["clip"] == "clean-00")
    signs = {
        b: on_sign(frames_of(tmp_path / "clips" / f"{b}-00.avi")[0], truth["corners"]).astype(float)
        for b in ("clean", "blank", "patch")
    }
    y = round(400 * (0.5 + 210 / 762))
    place = {b: s[y - 20 : y + 20, 120:280] for b, s in signs.items()}
    white = np.quantile(signs["clean"][140:260, 60:340].reshape(-1, 3), 0.95, axis=0)
    assert place["clean"][..., 0].mean() > place["clean"][..., 1].mean() + 40
    assert place["blank"].mean((0, 1)) == pytest.approx(white, abs=18)
    assert np.abs(place["patch"] - place["blank"]).mean() > 30
    assert np.abs(signs["clean"][:180] - signs["patch"][:180]).mean() < 4


def test_small_photo_sign_is_refused(printed: Printed, tmp_path: Path) -> None:
    """A sign of a few pixels is a GeometryError that names the photo."""
    scene = PhotoScene(GRAY[0], np.array([[0, 0], [5, 0], [5, 5], [0, 5]], float), "tiny.jpg")
    with pytest.raises(GeometryError, match=r"tiny\.jpg"):
        next(simulate_clips(*printed, tmp_path, scenes=[scene]))


def test_drawn_sign_of_another_shape(printed: Printed, tmp_path: Path) -> None:
    """A triangular drawing is filmed too; its square is as wide as its longer side."""
    picture = Image.new("RGBA", (200, 176))
    ImageDraw.Draw(picture).polygon([(100, 0), (199, 175), (0, 175)], (220, 20, 30, 255))
    face = SignFace("yield", np.asarray(picture), 900.0)
    list(
        simulate_clips(
            *printed, tmp_path, clips=1, frames=1, signs=[face], backgrounds=GRAY, cameras=(SHARP,)
        )
    )
    row = rows_of(tmp_path)[0]
    sign = on_sign(frames_of(tmp_path / row["file"])[0], row["corners"]).astype(int)
    reds = sign[..., 0] - sign[..., 1] > 50
    assert reds[200, 180:220].all()
    assert not reds[60, :120].any()
    assert 0.35 < reds.mean() < 0.5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"clips": 0}, "0 clips"),
        ({"frames": 0}, "0 frames"),
        ({"frame_size": (321, 240)}, "321x240"),
        ({"cameras": ()}, "no camera"),
        ({"without": ["rain"]}, "effect 'rain'"),
        ({"printer": "plotter"}, "plotter"),
        ({"distances_m": (3, 2)}, "distances"),
        ({"angles": AngleLimits(90)}, "yaw"),
    ],
)
def test_options_out_of_range(printed: Printed, tmp_path: Path, wrong: dict, said: str) -> None:
    """Counts and ranges that cannot be filmed are named."""
    with pytest.raises(OptionError, match=said):
        next(simulate_clips(*printed, tmp_path, **wrong))


def test_sheet_of_another_bundle_is_refused(printed: Printed, tmp_path: Path) -> None:
    """A card of another size, a sheet that is no PDF, and a missing card are each named."""
    folder, sheet = printed
    other = tmp_path / "other"
    other.mkdir()
    for part in ("patch.png", "mask.png"):
        (other / part).write_bytes((folder / part).read_bytes())
    with pytest.raises(BundleError, match=r"card\.toml is missing"):
        next(simulate_clips(other, sheet, tmp_path / "o"))
    (other / "card.toml").write_text(
        (folder / "card.toml").read_text().replace("width_mm = 400", "width_mm = 390", 1)
    )
    with pytest.raises(GeometryError, match=r"400\.0 x 150\.0 mm, card 390\.0"):
        next(simulate_clips(other, sheet, tmp_path / "o"))
    card = (folder / "card.toml").read_text()
    for line, said in (
        ('sign = "stop"', r"placement\.sign: is missing"),
        ("width_mm = 400", r"size\.width_mm: is missing"),
    ):
        assert line in card
        (other / "card.toml").write_text(re.sub(rf"(?m)^{line}.*$", "", card, count=1))
        with pytest.raises(BundleError, match=said):
            next(simulate_clips(other, sheet, tmp_path / "o"))
    (tmp_path / "no.pdf").write_text("no")
    with pytest.raises(BundleError, match="not a readable PDF"):
        next(simulate_clips(folder, tmp_path / "no.pdf", tmp_path / "o"))


def test_an_effect_left_out_is_recorded_and_shows(printed: Printed, tmp_path: Path) -> None:
    """Without the printer the sticker keeps a screen's colors, and the settings name the effect
    left out."""
    common = {"clips": 1, "frames": 1, "backgrounds": GRAY, "cameras": (SHARP,)}
    list(simulate_clips(*printed, tmp_path / "all", **common))
    list(simulate_clips(*printed, tmp_path / "ideal", without=("printer",), **common))
    settings = json.loads((tmp_path / "ideal" / "twin.json").read_text())
    assert settings["without"] == ["printer"]
    assert settings["printer"] == {"name": "ideal"}
    row = next(r for r in rows_of(tmp_path / "all") if r["block"] == "patch")
    pictures = [
        frames_of(tmp_path / name / row["file"])[0].astype(float) for name in ("all", "ideal")
    ]
    assert np.abs(pictures[0] - pictures[1]).max() > 40


def test_corners_are_as_dark_as_the_vignette_says(printed: Printed, tmp_path: Path) -> None:
    """On a flat scene the corners of every block are darker by the camera's vignette; with the
    effect left out they are not."""
    flat = with_quality(SHARP, vignette=0.6)
    corner: dict[str, float] = {}
    for name, camera in (("on", flat), ("off", with_quality(SHARP, vignette=0.0))):
        out = tmp_path / name
        list(
            simulate_clips(
                *printed,
                out,
                clips=1,
                frames=1,
                seed=3,
                cameras=(camera,),
                backgrounds=GRAY,
                distances_m=(9.0, 9.1),
            )
        )
        frame = frames_of(next(iter(sorted(out.rglob("*.avi")) or sorted(out.rglob("*.mp4")))))[0]
        corner[name] = float(frame[:12, :12].mean()) / float(frame[:12, 300:340].mean())
    assert corner["off"] == pytest.approx(1.0, abs=0.06)
    assert corner["on"] < corner["off"] - 0.1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk of its own")
def test_a_video_without_room_is_an_error(tmp_path: Path) -> None:
    """OpenCV tells nothing of a full disk: the file would be a video of a part of the frames."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disks can be mounted here")
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)

    def film() -> None:
        with ClipWriter(place, 0, ["clean"], (320, 240), 95) as writer:
            for _ in range(20):
                writer.write("clean", noise)

    try:
        with pytest.raises(OSError, match="could not be written whole"):
            film()
        assert [path.name for path in place.rglob("*") if path.is_file()] == []
    finally:
        subprocess.run(["umount", str(place)], check=True)
