"""The live pages of check and calibrate in a real browser: what they show, that their buttons
work, that they connect again, and what is left after the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import axe_faults, chromium, sideways_px, wait_until, watched_page
from played_webcam import VICTIM, Webcam

from physadv.calibration.guided_page import CalibrationPage
from physadv.calibration.guided_views import GuidedStep
from physadv.calibration.live_advice import Advice
from physadv.camera.frames import CameraFrame
from physadv.camera.localization.boxes import corners_of
from physadv.camera.localization.location import SignLocation
from physadv.check.guidance import FilmingGuide
from physadv.check.live.check_page import CheckPage
from physadv.check.live.overlay import LiveState
from physadv.check.live.remote_control import RemoteControl
from physadv.check.session import CheckProgress
from physadv.check.view_coverage import ViewPlan

PLAN = ViewPlan((0.4, 0.6, 0.8, 1.0))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


def played(distance_m: float, yaw_deg: float) -> LiveState:
    """The state of a check of which four clips of the patch and two of the clean sign are
    filmed."""
    rows = {
        block: [
            {
                "clip": f"live-{k:03d}",
                "block": block,
                "verdict": "limit 30" if block == "patch" else "stop",
                "confidence": 0.91,
                "true": block == "clean",
                "success": block == "patch" and i < 8,
                "distance_m": 0.5 + 0.2 * (k % 2),
                "yaw_deg": 0.0,
            }
            for k in range(clips)
            for i in range(10)
        ]
        for block, clips in (("clean", 2), ("patch", 4))
    }
    location = SignLocation(
        corners_of((400, 200, 800, 600)), "fiducials", "patch", distance_m, yaw_deg
    )
    frame = CameraFrame(np.full((720, 1280, 3), 130, np.uint8), 1.0, "live-003", None, 3)
    newest = rows["patch"][0]
    step = CheckProgress(60, 4, None, newest, {}, {}, rows, frame, location, "patch")
    advice = FilmingGuide(width=0.1, plan=PLAN).advise(rows, location, "patch")
    verdict = "The patch met its goal in 80.0 % of 40 frames, but this proves nothing yet."
    return LiveState(step, advice, PLAN, verdict=verdict, folder="runs/check")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_of_a_check_guides(browser: Any, width: int, scheme: str) -> None:
    """One instruction in large letters, the blocks with their intervals, the map of views; the
    buttons steer; nothing scrolls sideways, complains or asks another machine."""
    remote = RemoteControl()
    with CheckPage(0, remote) as served:
        served.show_state(played(0.5, 0.0))
        page, faults = watched_page(
            browser, viewport={"width": width, "height": 844}, color_scheme=scheme
        )
        page.goto(served.address)
        page.get_by_text("Turn left").or_(page.get_by_text("Turn right")).wait_for()
        served.show_state(played(0.7, 40.0))
        page.get_by_text("Hold still: ").wait_for()
        assert "good" in page.get_attribute("#say", "class")
        assert "80 % [" in page.inner_text("#block-patch")
        assert page.inner_text("#block-blank").split() == ["blank", "nothing", "filmed", "yet"]
        assert page.inner_text("#verdict").startswith("The patch met its goal in 80.0 %")
        assert page.locator("#views tbody tr").count() == 3
        assert page.locator("#views td.next").count() == 1
        assert page.evaluate("document.getElementById('view').naturalWidth") == 800
        assert sideways_px(page) <= 0

        assert axe_faults(page) == []
        for button in page.locator("button").all():
            assert button.bounding_box()["height"] >= 44
        page.get_by_role("button", name="blank").click()
        page.locator("button[aria-pressed=true]", has_text="blank").wait_for()
        page.get_by_role("button", name="Stop and report").click()
        page.get_by_text("Stopping").wait_for()
        assert (remote.block, remote.stopped) == ("blank", True)
        assert faults == []
        page.close()


def test_the_page_connects_again(browser: Any) -> None:
    """A server that goes away is told, and one that is back is shown, its picture too."""
    with CheckPage(0, RemoteControl()) as served:
        served.show_state(played(0.5, 0.0))
        page, _ = watched_page(browser)
        page.goto(served.address)
        page.locator("#block-patch", has_text="80 %").wait_for()
        port, token = served.port, served.token
    page.get_by_text("The connection is lost").wait_for()
    with CheckPage(port, RemoteControl()) as again:
        again._server.token = token
        again.show_state(played(0.7, 40.0))
        page.get_by_text("Hold still: ").wait_for()
        page.locator("#lost:empty").wait_for(state="attached")
        wait_until(page, "document.getElementById('view').naturalWidth === 800")
    page.close()


def test_a_check_is_watched_to_its_report(browser: Any, tmp_path: Path) -> None:
    """A played stream: the page shows the frames' verdict, its button ends the check, and the
    report stands in its place after the program is gone."""
    (tmp_path / "red_or_blue.py").write_text(VICTIM)
    camera = Webcam([lambda it: it.send(10**6)])
    command = [sys.executable, "-m", "physadv_cli.main", "check", camera.address, "--serve"]
    command += ["--model", "red_or_blue:Color", "--goal", "untargeted", "--true-class", "0"]
    command += ["--box", "50,30,110,90", "--block", "patch", "--clip-seconds", "1", "--out", "out"]
    running = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "300"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    try:
        told = next(line for line in running.stderr if "http://127.0.0.1" in line)
        page, faults = watched_page(browser)
        page.goto(told.split(" at ")[1].split()[0])
        page.locator("#now", has_text="the goal is met").wait_for(timeout=120_000)
        assert "100 %" in page.inner_text("#block-patch")
        assert "Without a control" in page.inner_text("#verdict")
        page.get_by_role("button", name="Stop and report").click()
        page.wait_for_url("**/report", timeout=120_000)
        running.stderr.read()
        assert running.wait(60) == 0
        assert page.get_by_text("without a control").count()
        assert page.locator("table").count()
        assert sideways_px(page) <= 0
        assert faults == []
        page.close()
    finally:
        running.kill()
        camera.die()


def test_the_page_of_a_calibration_guides(browser: Any) -> None:
    """One instruction, the views taken, a button that ends, and the result after the end."""
    image = np.full((480, 640, 3), 120, np.uint8)
    with CalibrationPage(0, "physadv calibrate: the board", ["near", "far"]) as served:
        step = GuidedStep(Advice("Closer", "a cell is 8 px, 12 are needed"), None, 0, 2)
        served.show_step(image, step)
        page, faults = watched_page(browser)
        page.goto(served.address)
        page.get_by_text("Closer").wait_for()
        served.show_step(
            image, GuidedStep(Advice("Hold still", ready=True), None, 1, 2, "", (True, False))
        )
        page.get_by_text("1 of 2 views taken").wait_for()
        assert page.locator("li.on").count() == 1
        assert axe_faults(page) == []
        assert sideways_px(page) <= 0
        page.get_by_role("button", name="Finish").click()
        wait_until(page, "document.getElementById('finish').disabled")
        assert served.stopped
        start_s = time.monotonic()
        served.finish("The lens is written to lens.json")
        assert time.monotonic() - start_s < 5
        page.get_by_text("The lens is written to lens.json").wait_for()
        assert faults == []
        page.close()
