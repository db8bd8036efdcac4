"""`physadv check` and `physadv report` from the outside: files in, one JSON object, exit codes and
pages out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from capture_fixtures import numbered
from typer.testing import CliRunner

from physadv.core.errors import CaptureError, OptionError, PhysadvError
from physadv_cli.main import app

VICTIM = """
import torch
from torch import nn

class Color(nn.Module):
    def forward(self, images):
        d = 10 * (images[:, 0] - images[:, 2]).mean((1, 2))
        return torch.stack([d, -d], 1)
"""
COLORS = {"r": (30, 30, 200), "b": (200, 30, 30)}  # as OpenCV writes them, BGR
PHYSADV = [sys.executable, "-m", "physadv_cli.main"]


def picture(letter: str) -> np.ndarray:
    image = np.full((120, 160, 3), 128, np.uint8)
    image[30:90, 50:110] = COLORS[letter]
    return image


def film(path: Path, letters: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120))
    for number, letter in enumerate(letters):
        writer.write(numbered(picture(letter), number))
    writer.release()
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a victim of the user's own: class 0 where red exceeds blue, 1 where
    not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "red_or_blue.py").write_text(VICTIM)
    yield_name = "red_or_blue"
    sys.modules.pop(yield_name, None)
    return tmp_path


OWN = ("--model", "red_or_blue:Color")
ASK = ["--victim", "red_or_blue:Color", "--goal", "untargeted", "--true-class", "0"]
BOX = ["--box", "50,30,110,90"]


def run(*arguments: Any) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if result.exception is not None:
        raise result.exception
    return dict(json.loads(result.stdout))


def twin(folder: Path) -> Path:
    rows = []
    for block, letters in (("clean", "rrrr"), ("blank", "rrrr"), ("patch", "bbbr")):
        for k in range(3):
            film(folder / "clips" / f"{block}-{k:02d}.avi", letters)
            rows += [
                {
                    "clip": f"{block}-{k:02d}",
                    "block": block,
                    "frame": i,
                    "file": f"clips/{block}-{k:02d}.avi",
                    "corners": [[50, 30], [110, 30], [110, 90], [50, 90]],
                    "distance_m": 3 + i,
                    "yaw_deg": 5 * k,
                }
                for i in range(4)
            ]
    (folder / "truth.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def test_twin_folder(place: Path) -> None:
    """A twin gives all three blocks, says simulation, and leaves rows, report and record behind."""
    said = run("check", twin(place / "twin"), *ASK, "--out", "out")
    assert said["simulation"] is True
    assert said["blocks"]["patch"]["attack_success_rate"] == 0.75
    assert said["blocks"]["clean"]["true_class_rate"] == 1.0
    assert said["valid"] is True
    assert {p.name for p in (place / "out").iterdir()} >= {
        "rows.jsonl",
        "check.json",
        "report.html",
        "report.json",
        "config.toml",
        "environment.json",
    }


def test_bundle_gives_goal_classes_and_model(place: Path) -> None:
    """With a bundle nothing else need be said; its name, sha and victim stand in the report."""
    from physadv.patches.bundle import (
        CardPlacement,
        ModelInfo,
        PatchCard,
        PatchInfo,
        PatchSize,
        write_bundle,
    )

    card = PatchCard(
        PatchInfo("blue-sticker", "targeted", "0", "1"),
        PatchSize(100.0, 100.0),
        CardPlacement("stop", 762.0, (0.0, 0.0), 0.1),
        ModelInfo("red_or_blue:Color", "classify", "feed"),
    )
    bundle = write_bundle(
        place / "bundle", card=card, patch=torch.rand(1, 3, 8, 8), mask=torch.ones(1, 1, 8, 8)
    )
    said = run("check", twin(place / "twin"), "--bundle", place / "bundle", "--out", "out", *OWN)
    assert said["blocks"]["patch"]["attack_success_rate"] == 0.75
    page = (place / "out" / "report.html").read_text()
    assert "blue-sticker" in page
    assert bundle.card.patch.sha256 in page


def test_a_check_is_repeated_from_its_config(place: Path) -> None:
    """--config with the recorded file gives the same rows; an option overrules the file. A model
    that is code is named again."""
    film(place / "v.avi", "bbrb" * 3)
    first = run("check", "v.avi", *ASK, *BOX, "--camera-size", "640x480", "--out", "first")
    recorded = tomllib.loads((place / "first" / "config.toml").read_text())
    assert recorded["command"] == "check"
    assert recorded["box"] == [50, 30, 110, 90]
    assert recorded["camera_size"] == [640, 480]
    assert recorded["device"] == "auto"

    model = ("--model", recorded["model"])
    again = run("check", "--config", "first/config.toml", *model, "--out", "again")
    assert again["blocks"] == first["blocks"]
    assert tomllib.loads((place / "again" / "config.toml").read_text()) == recorded
    assert (place / "again" / "rows.jsonl").read_text() == (
        place / "first" / "rows.jsonl"
    ).read_text()

    fewer = run("check", "--config", "first/config.toml", *model, "--max-frames", 5)
    assert fewer["blocks"]["patch"]["frames"] == 5


def test_three_videos_and_a_box(place: Path) -> None:
    """Patch, clean and blank from files of their own, the sign found by the box."""
    sources = [
        film(place / f"{n}.avi", letters)
        for n, letters in (("p", "bbrb"), ("c", "rrr"), ("b", "rrrrr"))
    ]
    said = run(
        "check",
        sources[0],
        "--clean",
        sources[1],
        "--blank",
        sources[2],
        *ASK,
        *BOX,
        "--out",
        "out",
    )
    assert {b: v["frames"] for b, v in said["blocks"].items()} == {
        "clean": 3,
        "blank": 5,
        "patch": 4,
    }
    assert said["blocks"]["patch"]["attack_success_rate"] == 0.75
    assert json.loads((place / "out" / "check.json").read_text())["located_by"]["patch"] == {
        "box": 4
    }


def test_block_and_limits(place: Path) -> None:
    """--block names the block of SOURCE; --max-frames, --every and --clip-seconds do what they
    say."""
    video = film(place / "v.avi", "r" * 20)
    said = run(
        "check",
        video,
        *ASK,
        *BOX,
        "--block",
        "clean",
        "--max-frames",
        6,
        "--every",
        2,
        "--clip-seconds",
        0.5,
    )
    assert (said["blocks"]["clean"]["frames"], said["blocks"]["clean"]["clips"]) == (6, 3)
    assert said["valid"] is False
    assert "No frame with the patch" in said["headline"]


def test_half_a_video_is_a_warning(place: Path) -> None:
    """What was read of a broken video is reported, with the warning."""
    video = film(place / "v.avi", "b" * 40)
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    said = run("check", video, *ASK, *BOX, "--out", "out")
    assert 5 < said["blocks"]["patch"]["frames"] < 40
    assert "ended after" in said["warnings"][0]


def test_distance_from_focal_length(place: Path) -> None:
    """--focal-px and the sign's width turn the box's size into a distance: 762 mm * 100 px / 60
    px."""
    run(
        "check",
        film(place / "v.avi", "bb"),
        *ASK,
        *BOX,
        "--focal-px",
        100,
        "--sign-width-mm",
        762,
        "--out",
        "out",
    )
    row = json.loads((place / "out" / "rows.jsonl").read_text().splitlines()[0])
    assert row["distance_m"] == pytest.approx(1.27, rel=0.01)
    assert row["yaw_deg"] is None


def test_typed_distance(place: Path) -> None:
    """--distance stands in the rows and the report says that it was typed."""
    run("check", film(place / "v.avi", "bb"), *ASK, *BOX, "--distance", "250cm", "--out", "out")
    row = json.loads((place / "out" / "rows.jsonl").read_text().splitlines()[0])
    assert (row["distance_m"], row["pose_by"]) == (2.5, "typed")
    assert (
        "The distance was entered by hand, not measured."
        in (place / "out" / "report.html").read_text()
    )


def test_digital_twin_and_camera_side_by_side(place: Path) -> None:
    """The card's held-out rate, the twin's check and this one stand in one table, with what each
    step costs."""
    from physadv.patches.bundle import (
        CardPlacement,
        ModelInfo,
        PatchCard,
        PatchInfo,
        PatchSize,
        write_bundle,
    )

    held = {
        "success": {"rate": 0.9, "low": 0.86, "high": 0.93, "n": 300},
        "clean_recognised": {"rate": 1.0},
        "blank_success": {"rate": 0.02},
    }
    for name in ("blue", "other"):
        card = PatchCard(
            PatchInfo(name, "targeted", "0", "1"),
            PatchSize(100.0, 100.0),
            CardPlacement("stop", 762.0, (0.0, 0.0), 0.1),
            ModelInfo("red_or_blue:Color", "classify"),
            heldout=held,
        )
        write_bundle(
            place / name, card=card, patch=torch.rand(1, 3, 8, 8), mask=torch.ones(1, 1, 8, 8)
        )
    run("check", twin(place / "twin"), *OWN, "--bundle", "blue", "--out", "in-twin")
    sources = [
        film(place / f"{n}.avi", letters)
        for n, letters in (("p", "brrr"), ("c", "rrr"), ("b", "rrr"))
    ]
    filmed = [
        "check",
        sources[0],
        "--clean",
        sources[1],
        "--blank",
        sources[2],
        *BOX,
        *OWN,
        "--bundle",
        "blue",
    ]
    said = run(*filmed, "--twin-check", "in-twin", "--out", "out")
    stages = {s["name"]: (s["rate"], s["n"], s["clean_recognised"]) for s in said["stages"]}
    assert stages == {"digital": (0.9, 300, 1.0), "twin": (0.75, 12, 1.0), "camera": (0.25, 4, 1.0)}
    assert said["stages_in_words"][0].startswith(
        "From digital to twin: 90.0 % to 75.0 %, 15.0 points less; 95 % interval -"
    )
    change = said["stage_changes"][0]["change"]
    assert change["value"] == pytest.approx(-0.15)
    assert change["low"] < -0.15 < change["high"]
    # One clip of each block before the camera has no interval, and supports no comparison.
    assert said["stages_in_words"][1].startswith(
        "From twin to camera: not compared, since a control is not valid (camera: too few clips of"
    )
    assert "change" not in said["stage_changes"][1]
    assert said["differences"] == {}
    assert "From the screen to the camera" in (place / "out" / "report.html").read_text()
    for folder in (
        "in-twin",
        "out",
    ):  # the record holds what the report needs: the twin's folder may be gone
        (place / folder / "report.html").unlink()
    (place / "in-twin" / "rows.jsonl").rename(place / "away.jsonl")
    assert run("report", "out")["stages"] == said["stages"]
    (place / "away.jsonl").rename(place / "in-twin" / "rows.jsonl")
    with pytest.raises(OptionError, match="not of the twin"):
        run(*filmed, "--twin-check", "out", "--out", "again")
    with pytest.raises(OptionError, match="another patch"):
        run(*filmed[:-1], "other", "--twin-check", "in-twin", "--out", "again")


def test_serve_with_and_without_a_port() -> None:
    """--serve takes a port or none; a small number after it is the camera."""
    import typer.main

    command: Any = typer.main.get_command(app)
    check = command.commands["check"]
    for words, port, source in (
        (["0", "--serve"], 0, "0"),
        (["--serve", "0"], 0, "0"),
        (["0", "--serve", "8123"], 8123, "0"),
        (["--serve=9000", "v.avi"], 9000, "v.avi"),
        (["v.avi", "--serve", "--json"], 0, "v.avi"),
        (["0"], None, "0"),
    ):
        context = check.make_context("check", list(words))
        assert (context.params["serve"], context.params["source"]) == (port, source), words


def test_a_finished_check_prints_its_result_again(place: Path) -> None:
    """The same command on a finished check exits 0 with the same result and classifies nothing;
    other settings are refused."""
    film(place / "v.avi", "rrbb")
    command = ["v.avi", *ASK, *BOX, "--out", "run"]
    first = run("check", *command)
    rows = (place / "run" / "rows.jsonl").read_bytes()
    changed = (place / "run" / "rows.jsonl").stat().st_mtime_ns
    again = run("check", *command)
    assert again["blocks"] == first["blocks"]
    assert (place / "run" / "rows.jsonl").read_bytes() == rows
    assert (place / "run" / "rows.jsonl").stat().st_mtime_ns == changed
    other = CliRunner().invoke(app, ["check", *command, "--every", "2"])
    assert other.exit_code != 0
    assert isinstance(other.exception, OptionError | SystemExit)


def test_report_again(place: Path) -> None:
    """`physadv report` computes the same numbers from the rows, also after the pages were lost."""
    first = run("check", twin(place / "twin"), *ASK, "--out", "out")
    (place / "out" / "report.html").unlink()
    (place / "out" / "report.json").unlink()
    assert run("report", "out") == first
    assert (place / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["nowhere.mp4", *ASK], CaptureError, "Check the path"),
        (["empty", *ASK], CaptureError, "holds neither videos nor photos"),
        (["v.avi", *ASK, "--box", "1,2,3"], OptionError, "four numbers"),
        (["v.avi", *ASK, "--camera-size", "big"], OptionError, "WIDTHxHEIGHT"),
        (["v.avi", *ASK, "--block", "left"], OptionError, "one of clean, blank, patch"),
        (["v.avi", *ASK, "--locate", "magic"], OptionError, "one of auto"),
        (["v.avi", "--victim", "red_or_blue:Color"], OptionError, "--true-class"),
        (["v.avi", "--bundle", "empty"], PhysadvError, "card.toml is missing"),
        (["v.avi", *ASK, "--locate", "fiducials"], CaptureError, "2 patch: sign not found"),
        (["v.avi", *ASK, "--select"], CaptureError, "--box"),
        (["v.avi", *ASK, *BOX, "--window"], CaptureError, "--serve"),
        (["v.avi", *ASK, *BOX, "--distance", "far"], OptionError, "2.5m"),
        (["v.avi", *ASK, *BOX, "--width", "3"], OptionError, "below 1"),
        (["v.avi", *ASK, *BOX, "--camera-profile", "no.json"], PhysadvError, "calibrate camera"),
        (
            ["v.avi", *ASK, *BOX, "--camera-profile", "a", "--focal-px", "900"],
            OptionError,
            "one of the two",
        ),
        (["v.avi", *ASK, *BOX, "--twin-check", "empty"], PhysadvError, "holds no check.json"),
        (["v.avi", *ASK, *BOX, "--paper", "a9"], PhysadvError, "known: a5"),
        (["v.avi", *ASK, *BOX, "--out", "used"], OptionError, "already holds"),
    ],
)
def test_wrong_use_is_named(
    place: Path,
    arguments: list[str],
    error: type[PhysadvError],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each mistake raises an error of the tree, with what to do about it."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    film(place / "v.avi", "bb")
    (place / "empty").mkdir()
    (place / "used").mkdir()
    (place / "used" / "rows.jsonl").write_text("")
    with pytest.raises(error, match=said):
        run("check", *arguments)


def shell(place: Path, *arguments: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*PHYSADV, *map(str, arguments)],
        cwd=place,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def test_a_camera_that_is_not_there_is_one_line(place: Path) -> None:
    """Camera 99: exit code 1, one line on stderr that names it, nothing on stdout."""
    process = shell(place, "check", "99", *ASK, "--json", "--trust")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("physadv: camera 99: did not open")


@pytest.fixture
def endless_stream() -> Iterator[str]:
    """An MJPEG stream of a blue sign that goes on until the test ends."""
    part = cv2.imencode(".jpg", picture("b"))[1].tobytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            head = (
                f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n"
            ).encode()
            try:
                while True:
                    self.wfile.write(head + part + b"\r\n")
                    time.sleep(0.03)
            except OSError:
                pass

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://user:secret@127.0.0.1:{server.server_address[1]}/cam"
    server.shutdown()
    server.server_close()


def test_ctrl_c_on_a_stream_reports_what_was_measured(place: Path, endless_stream: str) -> None:
    """SIGINT ends a live check with exit code 0 and a report; the address's password is in no file
    of the report."""
    process = shell(
        place, "check", endless_stream, *ASK, *BOX, "--block", "patch", "--out", "out", "--json"
    )
    rows = place / "out" / "rows.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if rows.is_file() and rows.read_text().count("\n") >= 5:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    said = json.loads(out)
    assert said["blocks"]["patch"]["attack_success_rate"] == 1.0
    assert said["blocks"]["patch"]["frames"] == rows.read_text().count("\n")
    assert any("stopped before its end" in n for n in said["notes"])
    for name in ("report.html", "report.json", "check.json", "config.toml"):
        assert "secret" not in (place / "out" / name).read_text()
