"""A webcam check played from a stream on 127.0.0.1 that stalls, drops, changes size and dies; kills
and resumption."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

import cv2
import numpy as np
import pytest
from capture_fixtures import numbered
from played_webcam import VICTIM, Webcam, picture

PHYSADV = [sys.executable, "-m", "physadv_cli.main"]
ASK = ["--victim", "red_or_blue:Color", "--goal", "untargeted", "--true-class", "0"]
BOX = ["--box", "50,30,110,90", "--block", "patch"]


@pytest.fixture
def webcam() -> Iterator[Callable[..., Webcam]]:
    made: list[Webcam] = []

    def start(*acts: Callable[[Any], None]) -> Webcam:
        made.append(Webcam(list(acts)))
        return made[-1]

    yield start
    for each in made:
        each.die()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "red_or_blue.py").write_text(VICTIM)
    return tmp_path


def shell(place: Path, *arguments: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    return subprocess.Popen(
        [*PHYSADV, *map(str, arguments)],
        cwd=place,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def rows_in(folder: Path) -> int:
    file = folder / "rows.jsonl"
    return file.read_text().count("\n") if file.is_file() else 0


def wait_for(
    what: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 240
) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and process.poll() is None and not what():
        time.sleep(0.05)


def test_a_bad_webcam_from_beginning_to_end(place: Path, webcam: Callable[..., Webcam]) -> None:
    """It drops, comes back larger, stalls, changes within a line and dies: exit 0, rows are kept,
    each event a line."""

    def drops(it: Any) -> None:
        it.send(40)

    def larger_then_stalls(it: Any) -> None:
        it.send(40, (320, 240))
        camera.over.wait(60)  # the connection stays open and says nothing

    def changes_and_dies(it: Any) -> None:
        it.send(30)
        it.send(30, (200, 150))
        Thread(target=camera.die, daemon=True).start()

    camera = webcam(drops, larger_then_stalls, changes_and_dies)
    process = shell(
        place,
        "check",
        camera.address,
        *ASK,
        *BOX,
        "--out",
        "out",
        "--timeout",
        3,
        "--retry",
        6,
        "--json",
    )
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    said = json.loads(out)
    assert said["blocks"]["patch"]["frames"] == rows_in(place / "out") > 10
    assert said["blocks"]["patch"]["attack_success_rate"] == 1.0
    record = json.loads((place / "out" / "check.json").read_text())
    assert record["status"] == "lost"
    lines = "\n".join(record["warnings"])
    assert "ended or broke" in lines, lines
    assert "fell silent for 3 s" in lines, lines
    for was, now in (("160x120", "320x240"), ("320x240", "160x120"), ("160x120", "200x150")):
        assert re.search(rf"changed from {was} to {now} at frame \d+", lines), lines
    assert lines.count("; back after ") == 2, lines
    assert "not back after" in record["warnings"][-1]
    assert "trying again in 0.5 s" in err
    assert "Traceback" not in err
    assert any("stopped before its end" in note for note in said["notes"])
    assert said["missing"]
    assert (place / "out" / "report.html").is_file()


def forever(it: Any) -> None:
    it.send(10**6)


def test_killed_and_gone_on(place: Path, webcam: Callable[..., Webcam]) -> None:
    """SIGKILL leaves rows; `report` reads them; the same command adds clips of a new name; another
    one is refused."""
    camera, out = webcam(forever), place / "out"
    command = ["check", camera.address, *ASK, *BOX, "--out", "out", "--clip-seconds", 1, "--json"]
    process = shell(place, *command)
    wait_for(lambda: rows_in(out) >= 8, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = rows_in(out)
    assert kept >= 8
    with (out / "rows.jsonl").open("a") as stream:
        stream.write('{"clip": "live-0')  # what a kill in the middle of a write leaves
    report = shell(place, "report", "out", "--json")
    said = json.loads(report.communicate(timeout=240)[0])
    assert said["blocks"]["patch"]["frames"] == kept
    assert any("stopped before its end" in note for note in said["notes"])

    process = shell(place, *command)
    wait_for(lambda: rows_in(out) >= kept + 8, process)
    process.send_signal(signal.SIGINT)
    text, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert json.loads(text)["blocks"]["patch"]["frames"] == len(rows) >= kept + 8
    assert {r["clip"].startswith("take2-live-") for r in rows[:kept]} == {False}
    assert {r["clip"].startswith("take2-live-") for r in rows[kept:]} == {True}
    assert json.loads((out / "check.json").read_text())["attempt"] == 2

    other = shell(
        place, "check", camera.address, *ASK, "--box", "0,0,9,9", "--block", "clean", "--out", "out"
    )
    _, err = other.communicate(timeout=240)
    assert other.returncode == 1
    assert "--block patch -> clean" in err
    assert "--out" in err


def test_a_page_while_it_runs_and_an_end_of_its_own(
    place: Path, webcam: Callable[..., Webcam]
) -> None:
    """--serve alone names its page; the page shows the picture; the check ends by itself when
    --width is reached."""
    camera = webcam(forever)
    process = shell(
        place,
        "check",
        camera.address,
        *ASK,
        *BOX,
        "--serve",
        "--width",
        0.35,
        "--clip-seconds",
        0.5,
        "--out",
        "out",
        "--json",
    )
    assert process.stderr is not None
    said: list[str] = []
    reader = Thread(target=lambda: said.extend(process.stderr or []), daemon=True)
    reader.start()
    wait_for(lambda: rows_in(place / "out") >= 2, process)
    address = re.search(r"http://127\.0\.0\.1:\d+/\S*/", "".join(said))
    assert address is not None
    with urlopen(f"{address[0]}frame.jpg", timeout=30) as answer:
        shown = cv2.imdecode(np.frombuffer(answer.read(), np.uint8), 1)
    assert shown.shape[1] == 800
    assert process.wait(timeout=240) == 0
    assert process.stdout is not None
    result = json.loads(process.stdout.read())
    patch = result["blocks"]["patch"]
    assert patch["high"] - patch["low"] <= 0.35
    assert patch["clips"] >= 10
    assert result["missing"] == []
    assert json.loads((place / "out" / "check.json").read_text())["status"] == "complete"


def film(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120))
    for number in range(frames):
        writer.write(numbered(picture(), number))
    writer.release()
    return path


def test_a_file_goes_on_at_the_first_frame_not_judged(place: Path) -> None:
    """Half of the rows cut away and the record marked running, as a kill leaves them: the rest is
    judged, once."""
    film(place / "v.avi", 24)
    command = ["check", "v.avi", *ASK, *BOX, "--out", "out", "--json"]
    first = shell(place, *command)
    assert first.communicate(timeout=240) is not None
    rows = place / "out" / "rows.jsonl"
    whole = rows.read_text()
    rows.write_text("".join(whole.splitlines(keepends=True)[:10]))
    record = place / "out" / "check.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "status": "running"}))
    again = shell(place, *command)
    out, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert rows.read_text() == whole
    assert json.loads(out)["blocks"]["patch"]["frames"] == 24
    third = shell(place, *command)
    assert "this check is finished" in third.communicate(timeout=240)[1]
    assert (third.returncode, rows.read_text()) == (0, whole)

    film(place / "v.avi", 23)
    for status, said in (
        ("complete", "other contents of v.avi"),
        ("running", "contents of the so"),
    ):
        record.write_text(json.dumps({**json.loads(record.read_text()), "status": status}))
        other = shell(place, *command)
        assert said in other.communicate(timeout=240)[1]
        assert (other.returncode, rows.read_text()) == (1, whole)
