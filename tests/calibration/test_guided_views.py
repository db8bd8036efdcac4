"""Guided views from rendered films: taken when still, sharp and lit, kept in a folder, resumed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from guided_films import (
    FOCAL,
    FRAMES_A_SECOND,
    SIZE,
    board_poses,
    frame,
    held,
    page_picture,
    write_film,
)

from physadv.calibration.charuco_board import write_board
from physadv.calibration.color_chart import write_chart
from physadv.calibration.guided_views import GuidedChart, GuidedStep, GuidedViews
from physadv.core.errors import OptionError
from physadv.core.image_io import save_png
from physadv.eot.profiles import read_camera_profile, read_color_profile
from physadv_cli.guiding import is_guided

FACING = (0.0, 0.0, 90.0, 330.0, 0.0, 0.0)
TURNED = (4.0, 3.0, -86.0, 330.0, 8.0, 5.0)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("pages")
    write_chart(folder / "chart.pdf")
    write_board(folder / "board.pdf")
    return {name: page_picture(folder / f"{name}.pdf") for name in ("chart", "board")}


def follow(views: GuidedViews, frames: list[np.ndarray], start: int = 0) -> list[GuidedStep]:
    return [views.take(picture, (start + i) / FRAMES_A_SECOND) for i, picture in enumerate(frames)]


def test_a_view_is_taken_once_still_and_lit(pages: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Dark, moving and blurred frames are named and not taken; five still ones give one view, and
    the next has to be upside down."""
    page, views = pages["chart"], GuidedViews(GuidedChart(2), tmp_path)
    empty = [np.full((SIZE[1], SIZE[0], 3), level, np.uint8) for level in (20, 150)]
    dark = held(page, FACING, 2, 1, light=0.4)
    moving = [frame(page, (*FACING[:4], 12.0 * i, 0), seed=i) for i in range(3)]
    blurred = [frame(page, FACING, blur_px=2.9, seed=90 + i) for i in range(3)]
    steps = follow(views, [*empty, *dark, *moving, *blurred])
    words = [step.advice.words for step in steps]
    assert words[:2] == ["Too dark", "Hold the chart before the camera"]
    assert words[2:4] == ["Too dark", "Too dark"]
    assert set(words[5:7]) == {"Hold still"}
    assert words[-1] == "Out of focus"
    assert not any(step.new_view for step in steps)

    still = follow(views, held(page, FACING, 7, 2), start=20)
    assert [step.new_view for step in still if step.new_view] == ["view-01.png"]
    assert still[-1].advice.words == "Turn the page upside down"
    assert (tmp_path / "view-01.png").is_file()
    turned = follow(views, held(page, TURNED, 7, 3), start=40)
    assert turned[-1].done
    assert [view.chart.number for view in views.views] == [1, 1]


def test_a_session_goes_on_with_the_views_in_its_folder(
    pages: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Views are counted again for the targets they fit; a file that is no view is left out."""
    first = GuidedViews(GuidedChart(2), tmp_path)
    follow(first, held(pages["chart"], FACING, 6, 2))
    assert first.step.taken == 1
    again = GuidedViews(GuidedChart(2), tmp_path)
    assert (again.step.taken, again.step.advice.words) == (1, "Turn the page upside down")
    assert again.step.done_targets == (True, False)
    np.testing.assert_array_equal(again.views[0].light, first.views[0].light)

    (tmp_path / "view-02.png").write_bytes(b"no picture")
    more = GuidedViews(GuidedChart(2), tmp_path)
    assert more.step.taken == 1
    assert "view-02.png" in more.left_out[0]
    follow(more, held(pages["chart"], TURNED, 6, 3), start=9)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"view-0{number}.png" for number in (1, 2, 3)
    ]


def physadv(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "physadv_cli.main", "calibrate", *arguments]


def test_the_board_gives_the_lens(pages: dict[str, np.ndarray], tmp_path: Path) -> None:
    """A film of twelve poses, each held for half a second: all views are taken and the focal length
    is right to 1 %."""
    frames = [
        picture
        for number, pose in enumerate(board_poses())
        for picture in held(pages["board"], pose, 6, number)
    ]
    write_film(tmp_path / "film.avi", frames)
    done = subprocess.run(
        physadv("camera", "film.avi", "--guided", "--out", "lens.json", "--json"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "view 12 of 12: far taken" in done.stderr
    profile = read_camera_profile(tmp_path / "lens.json")
    assert profile.n_views >= 10
    assert profile.fx == pytest.approx(FOCAL, rel=0.01)
    assert profile.about["coverage"] == 1.0
    assert len(list((tmp_path / "lens-views").glob("view-*.png"))) == 12


def test_a_stopped_session_is_finished_by_the_same_command(
    pages: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Ctrl-C keeps the views; the same command goes on with them and writes the profile; then the
    page in the browser shows the result."""
    first = held(pages["chart"], FACING, 7, 2)
    search = [np.full((SIZE[1], SIZE[0], 3), 120, np.uint8) + i % 7 for i in range(7)]
    noise = np.random.default_rng(0).integers(0, 9, (400, SIZE[1] // 8, SIZE[0] // 8, 1), np.uint8)
    long = [search[0] + np.kron(n, np.ones((8, 8, 3), np.uint8)) for n in noise[:250]]
    write_film(tmp_path / "film.avi", [*first, *long])
    command = physadv("fit", "film.avi", "--guided", "--views", "2")
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("view 1 of 2"):
            break
    running.send_signal(signal.SIGINT)
    rest = running.stderr.read()
    assert running.wait(60) == 130
    assert "1 of 2 views are kept in profile-views" in rest
    assert "Traceback" not in rest
    assert not (tmp_path / "profile.json").exists()

    write_film(tmp_path / "film.avi", held(pages["chart"], TURNED, 9, 3))
    running = subprocess.Popen(
        [*command, "--serve", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    assert running.stdout is not None
    said = []
    for line in running.stderr:
        said.append(line)
        if "http://127.0.0.1" in line:
            break
    address = said[-1].split("at ")[1].split()[0]
    state = {"done": ""}
    for _ in range(600):
        with urllib.request.urlopen(f"{address}state.json", timeout=10) as answer:
            state = json.loads(answer.read())
        if state["done"]:
            break
        time.sleep(0.1)
    out = running.stdout.read()
    running.stderr.read()
    assert running.wait(60) == 0
    assert "profile.json" in state["done"]
    assert json.loads(out)["photos"] == 2
    assert read_color_profile(tmp_path / "profile.json").n_patches > 120


def test_the_page_of_a_lens_is_ended_by_those_who_know_its_address_alone(tmp_path: Path) -> None:
    """Half requests, requests without the token, and links among the views change nothing: neither
    is the session ended, nor is a file elsewhere read or written."""
    rng = np.random.default_rng(0)
    noise = rng.integers(90, 150, (1200, SIZE[1] // 8, SIZE[0] // 8, 1), np.uint8)
    write_film(tmp_path / "film.avi", [np.kron(n, np.ones((8, 8, 3), np.uint8)) for n in noise])
    views = tmp_path / "lens-views"
    views.mkdir()
    (views / "view-01.png").symlink_to("../elsewhere.png")
    (views / "view-02.png").symlink_to("../private.png")
    save_png(tmp_path / "private.png", np.zeros((90, 90, 3), np.uint8))
    running = subprocess.Popen(
        physadv("camera", "film.avi", "--serve", "--out", "lens.json"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    line = next(line for line in running.stderr if "http://127.0.0.1" in line)
    address = line.split("at ")[1].split()[0]
    port = int(address.split(":")[2].partition("/")[0])
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
    for each in held:
        each.sendall(b"POST /")
    for path in ("finish", "x/finish", "state.json"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", b"", timeout=10)
    assert running.poll() is None

    asked = urllib.request.Request(f"{address}finish", method="POST")
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert answer.status < 300
    rest = running.stderr.read()
    assert running.wait(60) == 1
    assert "0 of 12 views taken" in rest
    assert "Traceback" not in rest
    assert not (tmp_path / "elsewhere.png").exists()
    assert sorted(path.name for path in views.glob("view-*")) == ["view-01.png", "view-02.png"]
    for each in held:
        each.close()


def test_links_among_the_views_are_named(tmp_path: Path) -> None:
    """They may lead to photos of others; the next view has a name of its own."""
    (tmp_path / "view-01.png").symlink_to("nowhere.png")
    views = GuidedViews(GuidedChart(2), tmp_path)
    assert "link" in views.left_out[0]
    assert views._free_name() == "view-02.png"


def test_a_film_without_the_page_is_one_line(tmp_path: Path) -> None:
    """Too few views: what was taken, how many are needed, and how to go on."""
    rng = np.random.default_rng(1)
    write_film(
        tmp_path / "film.avi",
        [rng.integers(100, 140, (SIZE[1], SIZE[0], 3)).astype(np.uint8) for _ in range(4)],
    )
    done = subprocess.run(
        physadv("camera", "film.avi", "--guided"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "0 of 12 views taken: at least 8 are needed" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_camera_guides_and_photos_do_not() -> None:
    """A camera's index is guided, files where it is asked for, and several sources never."""
    assert is_guided(["0"], guided=False, serve=None)
    assert is_guided(["film.mp4"], guided=True, serve=None)
    assert is_guided(["film.mp4"], guided=False, serve=0)
    assert not is_guided(["a.jpg", "b.jpg"], guided=False, serve=None)
    with pytest.raises(OptionError, match="2 sources"):
        is_guided(["0", "1"], guided=False, serve=None)
