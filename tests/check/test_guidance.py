"""Stopping rule, instructions, and the live picture, page and window that show them."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from physadv.camera.frames import CameraFrame
from physadv.camera.lens import lens_for
from physadv.camera.localization.boxes import corners_of
from physadv.camera.localization.location import SignLocation
from physadv.check.guidance import FilmingGuide
from physadv.check.live.check_page import CheckPage
from physadv.check.live.desktop_window import DesktopWindow, apply_key, why_no_window
from physadv.check.live.overlay import PANEL, LiveState, draw_overlay
from physadv.check.live.remote_control import RemoteControl
from physadv.check.rates import BlockRates, block_rates
from physadv.check.session import CheckProgress
from physadv.check.stopping_rule import check_width, clips_missing, stopping_state, stopping_states
from physadv.check.view_coverage import ViewPlan, count_views, plan_views
from physadv.core.errors import CaptureError, OptionError
from physadv.evaluation.metrics.intervals import RateInterval, sequential_interval


def row(clip: int, success: bool, block: str = "patch", **more: Any) -> dict[str, Any]:
    return {
        "clip": f"live-{clip:03d}",
        "block": block,
        "frame": 0,
        "verdict": "limit" if success else "stop",
        "confidence": 0.9,
        "true": not success,
        "success": success,
        **more,
    }


def clips(n: int, hits: int, frames: int = 10, block: str = "patch") -> list[dict[str, Any]]:
    """n clips of ten frames, ``hits`` of each met."""
    return [row(k, i < hits, block) for k in range(n) for i in range(frames)]


def sequential(rows: list[dict[str, Any]], block: str = "patch") -> BlockRates:
    """Rates with the interval that allows looking, which the stopping rule needs."""
    return block_rates(block, rows, sequential=True)


def test_equal_clips_need_what_they_will_need_at_the_stop() -> None:
    """If all clips agree, the clips missing are those at which the interval has the width."""
    missing = stopping_state(sequential(clips(2, 10)), 0.1).clips_missing
    enough = sequential_interval([True] * (2 + missing), range(2 + missing))
    short = sequential_interval([True] * (1 + missing), range(1 + missing))
    assert enough.high - enough.low <= 0.1 < short.high - short.low
    assert stopping_state(sequential(clips(1, 10)), 0.1).clips_missing == missing + 1
    assert stopping_state(sequential(clips(2, 10)), 0.1).frames_missing == 10 * missing


def test_twice_as_wide_needs_four_times_the_clips() -> None:
    """If clips differ, the interval shrinks with the square root of their number."""
    rows = clips(20, 8) + [row(k, False) for k in range(100, 120) for _ in range(10)]
    now = stopping_state(sequential(rows), 0.1)
    assert now.clips_missing == pytest.approx(40 * ((now.width / 0.1) ** 2 - 1), abs=1)
    assert not now.done


def test_ten_clips_are_the_least() -> None:
    """A narrow interval of few clips is not enough; ten clips that agree suffice for a wide aim."""
    assert clips_missing(RateInterval(0.5, 0.4, 0.6, 80, 2), 2, 0.5) == 8
    assert stopping_state(sequential(clips(10, 10)), 0.5).done
    assert not stopping_state(sequential(clips(9, 10)), 0.5).done
    with pytest.raises(OptionError, match="below 1"):
        check_width(1.5)


def test_a_control_is_judged_by_both_its_rates() -> None:
    """A clean sign never meets a targeted goal, so its rate of true verdicts must be narrow as
    well."""
    rows = [{**row(k, False, "clean"), "true": k % 2 == 0} for k in range(20) for _ in range(10)]
    now = stopping_states({"clean": rows}, 0.3)["clean"]
    assert now.rates.attack.high - now.rates.attack.low < 0.3
    assert now.width > 0.4
    assert not now.done


def test_the_plan_fits_lens_and_sign() -> None:
    """At the nearest distance the page fits the picture; at the farthest its markers exceed 20
    px."""
    lens = lens_for(focal_px=950)((1280, 720))
    plan = plan_views(lens, 190.0, tall=1.36, least_share=0.13, least_px=20)
    near, far = plan.distances[0], plan.distances[-1]
    assert 950 * 1.36 * 190 / (near * 1000) == pytest.approx(0.85 * 720, rel=0.01)
    assert 950 * 0.13 * 190 / (far * 1000) > 20
    assert plan.distances == tuple(sorted(plan.distances))
    assert plan.cell(near, 0.0) == (0, 2)
    assert plan.cell(far, -50.0) == (2, 0)
    assert plan.cell(far * 1.1, 0.0) is plan.cell(near, 60.0) is plan.cell(None, 0.0) is None
    seen = count_views([row(0, True, distance_m=near, yaw_deg=0.0)] * 3 + [row(0, True)], plan)
    assert seen == {(0, 2): 3}


PLAN = ViewPlan((0.4, 0.6, 0.8, 1.0))


def at(distance: float, yaw: float) -> SignLocation:
    return SignLocation(corners_of((100, 100, 300, 300)), "fiducials", "patch", distance, yaw)


def test_move_here_next() -> None:
    """The emptiest view is next, the nearest among equals, with distance and direction in words."""
    rows = [
        row(0, True, distance_m=d, yaw_deg=y)
        for d, y in map(PLAN.middle, PLAN.cells)
        for _ in range(2)
    ]
    missing = [r for r in rows if (r["distance_m"], r["yaw_deg"]) != PLAN.middle((2, 4))]
    advice = FilmingGuide(width=0.1, plan=PLAN).advise({"patch": missing}, at(0.5, 0.0), "patch")
    assert advice.next == (2, 4)
    assert (
        advice.move
        == "Move to 0.9 m, facing 40° to the right: 0.4 m back and turn it 40° to the picture's "
        "right"
    )
    advice = FilmingGuide(width=0.1, plan=PLAN).advise({"patch": []}, at(0.5, -38.0), "patch")
    assert advice.next == (0, 0)
    assert advice.move.startswith("Stay at 0.5 m")


def test_prompts_go_through_the_blocks() -> None:
    """The prompt names the page in view, then the blocks that lack frames, then the end."""
    full = {b: clips(60, 10 * (b == "patch"), block=b) for b in ("clean", "blank", "patch")}
    guide = FilmingGuide(width=0.1)
    assert guide.advise({}, None, None).prompt.startswith(
        "Hold up the clean sign: nothing filmed yet"
    )
    some = {"clean": full["clean"], "patch": clips(3, 10)}
    assert (
        "about 48 clips (480 frames) to go"
        in FilmingGuide(width=0.1).advise(some, None, "patch").prompt
    )
    turned = FilmingGuide(width=0.1).advise(some, None, "clean").prompt
    assert (
        turned == "clean is measured. Hold up the sign with the blank sticker: nothing filmed yet"
    )
    assert (
        FilmingGuide(width=0.1).advise(full, None, "patch").prompt
        == "All blocks are measured: done."
    )


def test_too_small_says_come_closer() -> None:
    """For a refused page the instruction names the size of its markers."""
    small = SignLocation(
        corners_of((1, 1, 9, 9)),
        "fiducials",
        "patch",
        1.6,
        marker_px=13.8,
        refused="markers under 20 px",
    )
    said = FilmingGuide(width=0.1, plan=PLAN).advise({}, small, "patch").move
    assert said == "Come closer: markers of 14 px, 20 are needed"


def look(**more: Any) -> LiveState:
    image = np.full((720, 1280, 3), 90, np.uint8)
    newest = row(3, True, distance_m=0.5, yaw_deg=0.0)
    rows = {"patch": clips(12, 9)}
    frame = CameraFrame(image, 1.0, "live-003", None, 3)
    step = CheckProgress(120, 4, None, newest, {}, {}, rows, frame, at(0.5, 0.0), "patch")
    advice = FilmingGuide(width=0.1, plan=PLAN).advise(rows, at(0.5, 0.0), "patch")
    return LiveState(step, advice, PLAN, **more)


def test_overlay_shows_frame_and_panel() -> None:
    """The frame is 800 px wide, the sign has the outline of a met goal, and the panel has text."""
    picture = draw_overlay(look(note="camera 0 fell silent"))
    assert picture.shape[1] == 800 + PANEL
    x = round(100 * 800 / 1280)
    edge = picture[round(200 * 800 / 1280), x - 2 : x + 3].astype(int)
    assert np.abs(edge - [213, 94, 0]).sum(1).min() < 60
    assert (picture[:, 800:] < 100).any(2).sum() > 1500  # words
    assert not np.array_equal(picture, draw_overlay(look()))  # the note is drawn


def test_overlay_without_a_sign() -> None:
    """A picture is drawn without a sign, without rows, and for portrait and tiny frames."""
    for size in ((720, 1280), (1280, 720), (48, 64)):
        frame = CameraFrame(np.zeros((*size, 3), np.uint8), 0.0, "a", None, 0)
        step = CheckProgress(0, 1, None, None, {}, {}, {}, frame, None, None)
        picture = draw_overlay(LiveState(step, FilmingGuide(width=0.1).advise({}, None, None)))
        assert picture.shape[0] >= 560
        assert picture.shape[1] > PANEL


def ask(page: CheckPage, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    known = {"X-Token": page.token} | {k.replace("_", "-"): v for k, v in headers.items()}
    connection.request(method, path, headers=known)
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.fixture
def served() -> Iterator[CheckPage]:
    with CheckPage(0, RemoteControl()) as page:
        yield page


def test_the_page_shows_the_newest_picture(served: CheckPage) -> None:
    """The page embeds the stream; the newest picture is a JPEG; two parts of the stream are two
    pictures."""
    status, html = ask(served, "GET", "/")
    assert status == 200
    assert b'src="stream"' in html
    assert b"http://" not in html.replace(b"http://www.w3", b"")  # nothing is loaded from elsewhere
    for level in (40, 200):
        served.show(np.full((48, 64, 3), level, np.uint8))
        jpeg = np.frombuffer(ask(served, "GET", "/frame.jpg")[1], np.uint8)
        assert cv2.imdecode(jpeg, 1).mean() == pytest.approx(level, abs=3)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.request("GET", f"/{served.token}/stream")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"].startswith("multipart/x-mixed-replace")
    assert answer.readline().strip() == b"--frame"
    connection.close()
    assert ask(served, "GET", "/elsewhere")[0] == 404


def test_only_this_machine_may_look_and_only_the_page_may_steer(served: CheckPage) -> None:
    """The server listens on 127.0.0.1 only, refuses a foreign Host, and obeys only requests with
    the token."""
    assert served._server.server_address[0] == "127.0.0.1"
    assert ask(served, "GET", "/", Host="evil.example")[0] == 403
    assert ask(served, "GET", "/state.json", X_Token="")[0] == 403
    assert ask(served, "POST", "/stop", X_Token="")[0] == 403
    assert ask(served, "POST", "/stop", X_Token="é")[0] == 403
    assert not served.remote.stopped
    assert ask(served, "POST", "/block/patch", X_Token=served.token)[0] == 200
    assert ask(served, "POST", "/block/left", X_Token=served.token)[0] == 404
    assert ask(served, "POST", "/stop", X_Token=served.token)[0] == 200
    assert (served.remote.block, served.remote.stopped) == ("patch", True)
    served.remote.set_note("camera 0 fell silent")
    assert json.loads(ask(served, "GET", "/state.json")[1])["note"] == "camera 0 fell silent"


def test_the_page_ends_with_the_run() -> None:
    """After closing, the port is free, even if a browser was watching; a port in use is an
    error."""
    page = CheckPage(0, RemoteControl())
    page.show(np.zeros((8, 8, 3), np.uint8))
    watching = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    watching.request("GET", f"/{page.token}/stream")
    watching.getresponse()
    with pytest.raises(CaptureError, match="another port"):
        CheckPage(page.port, RemoteControl())
    start = time.monotonic()
    page.close()
    assert time.monotonic() - start < 60
    with pytest.raises(OSError):
        ask(page, "GET", "/")


def test_windows_only_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a display, or with a headless OpenCV, --window is a one-line error that names
    --serve."""
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CaptureError, match=r"no display.*--serve"):
        DesktopWindow(RemoteControl())
    monkeypatch.setenv("DISPLAY", ":0")
    assert why_no_window() is None or "headless" in str(why_no_window())
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:           NONE\n")
    with pytest.raises(CaptureError, match=r"headless.*--serve"):
        DesktopWindow(RemoteControl())


def test_keys() -> None:
    """The key b chooses blank, q ends the check, and no key does nothing."""
    remote = RemoteControl()
    apply_key(remote, 255)
    assert (remote.block, remote.stopped) == (None, False)
    apply_key(remote, ord("b"))
    apply_key(remote, ord("q"))
    assert (remote.block, remote.stopped) == ("blank", True)
