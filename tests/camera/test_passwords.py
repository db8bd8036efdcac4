"""Passwords of cameras go to the camera alone, and stand in no record, report or message."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import cv2
import numpy as np
import pytest
from commandline import environment, physadv
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from physadv.camera import open_capture
from physadv.camera.open_source import open_frame_source
from physadv.core.addresses import public_address, redact_addresses
from physadv.core.errors import CaptureError, PhysadvError
from physadv_cli.main import app

SECRET = "hunter2"
JPEG = cv2.imencode(".jpg", np.full((24, 32, 3), 99, np.uint8))[1].tobytes()


class Camera:
    """A server that remembers each request, and answers as it is told."""

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.requests: list[tuple[str, str]] = []
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.requests.append((self.path, self.headers.get("Authorization", "")))
                with suppress(OSError):
                    answer(self)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def stream(handler: BaseHTTPRequestHandler) -> None:
    """Five pictures."""
    handler.send_response(200)
    handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
    handler.end_headers()
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(JPEG)}\r\n\r\n"
    for _ in range(5):
        handler.wfile.write(head.encode() + JPEG + b"\r\n")


def leading_to(address: Callable[[], str], code: int) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Location", address())
        handler.end_headers()

    return answer


@contextmanager
def redirected(target: Callable[[int], str], code: int = 302) -> Iterator[tuple[Camera, Camera]]:
    """A camera that leads to ``target`` (of the other's port), and that other one."""
    with Camera(stream) as other, Camera(leading_to(lambda: target(other.port), code)) as camera:
        yield camera, other


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_password_follows_no_redirect_to_another_host(code: int, host: str) -> None:
    """Another name, or another port of the same one: the other server is not even asked."""
    with redirected(lambda port: f"http://{host}:{port}/live", code) as (camera, other):
        address = f"http://me:{SECRET}@127.0.0.1:{camera.port}/live?key={SECRET}"
        with pytest.raises(CaptureError, match="no other host") as refusal:
            open_frame_source(address, timeout_s=5)
        assert not other.requests
        assert camera.requests[0][1] == "Basic " + b64encode(f"me:{SECRET}".encode()).decode()
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/", "x:y"]
)
def test_no_redirect_leads_off_the_web(target: str) -> None:
    """With a password or without."""
    for user in ("", f"me:{SECRET}@"):
        with (
            redirected(lambda _: target) as (camera, _),
            pytest.raises(CaptureError, match=r"no web address|did not open"),
        ):
            open_frame_source(f"http://{user}127.0.0.1:{camera.port}/", timeout_s=5)


def test_a_redirect_to_the_camera_itself_is_followed() -> None:
    """Another page of the same host and port gets the password."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/old":
            handler.send_response(302)
            handler.send_header("Location", "/new")
            handler.end_headers()
        else:
            stream(handler)

    with Camera(answer) as camera:
        source = open_frame_source(f"http://me:{SECRET}@127.0.0.1:{camera.port}/old", timeout_s=5)
        assert next(iter(source)).image.shape == (24, 32, 3)
        assert [path for path, _ in camera.requests[:2]] == ["/old", "/new"]
        assert camera.requests[1][1]


def test_ffmpeg_hands_no_password_on() -> None:
    """A recorded video behind an address, which ffmpeg fetches: the other host gets none."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if not handler.headers.get("Authorization"):
            handler.send_response(401)
            handler.send_header("WWW-Authenticate", 'Basic realm="camera"')
            handler.end_headers()
            return
        leading_to(lambda: f"http://localhost:{other.port}/film.mp4", 302)(handler)

    with Camera(stream) as other, Camera(answer) as camera:
        address = f"http://me:{SECRET}@127.0.0.1:{camera.port}/film.mp4"
        source = open_frame_source(address, timeout_s=5)
        assert SECRET not in source.name
        assert any(sent for _, sent in camera.requests)
        assert other.requests
        assert not any(sent for _, sent in other.requests)


class RtspCamera:
    """A server of RTSP that remembers each request, wants a password, and then leads elsewhere."""

    def __init__(self, challenge: str, target: str = "") -> None:
        self.requests: list[str] = []
        self._challenge, self._target = challenge, target
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                Thread(target=self._talk, args=(self._socket.accept()[0],), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        received = b""
        with suppress(OSError):
            while piece := connection.recv(4096):
                received += piece
                while b"\r\n\r\n" in received:
                    request, _, received = received.partition(b"\r\n\r\n")
                    self.requests.append(request.decode())
                    number = re.search(r"(?i)cseq: *(\d+)", self.requests[-1])
                    assert number is not None
                    head = self._answer(self.requests[-1])
                    connection.sendall(f"RTSP/1.0 {head}\r\nCSeq: {number[1]}\r\n\r\n".encode())

    def _answer(self, request: str) -> str:
        if request.startswith("OPTIONS"):
            return "200 OK\r\nPublic: DESCRIBE"
        if "Authorization" not in request:
            return f"401 Unauthorized\r\nWWW-Authenticate: {self._challenge}"
        return f"302 Moved\r\nLocation: {self._target}" if self._target else "404 Not Found"


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Digest realm="x", nonce="abc"'])
def test_a_password_follows_no_redirect_of_rtsp(challenge: str) -> None:
    """ffmpeg would take it along; the other host is not even asked."""
    other = RtspCamera(challenge)
    camera = RtspCamera(challenge, f"rtsp://127.0.0.1:{other.port}/live")
    with pytest.raises(CaptureError, match="no other host"):
        open_frame_source(f"rtsp://me:{SECRET}@127.0.0.1:{camera.port}/live", timeout_s=5)
    assert any("Authorization" in request for request in camera.requests)
    assert not other.requests


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "concat://a|b",
        "subfile,,start,0,end,9,,:///etc/passwd",
        "ftp://host/x",
        "data://text/plain,x",
        "pipe://0",
        "gopher://x/",
    ],
)
def test_ffmpegs_own_protocols_are_no_addresses(address: str) -> None:
    """Those read and join files of this machine."""
    with pytest.raises(CaptureError):
        open_frame_source(address, timeout_s=2)


PASSWORDS = [SECRET, f"a@{SECRET}", f"a/{SECRET}", f"a?{SECRET}", f"a#{SECRET}", f"%40{SECRET}"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("form", ["{}", "--source={}", "see {} there", "'{}': refused", "<{}>"])
def test_no_password_survives(password: str, form: str) -> None:
    """Whatever characters it has, alone, behind an option, in a sentence."""
    text = form.format(f"rtsp://me:{password}@10.0.0.7:554/live?token={SECRET}#{SECRET}")
    redacted = redact_addresses(text)
    assert SECRET not in redacted
    assert "rtsp://10.0.0.7:554/live" in redacted
    assert SECRET not in public_address(text)


@pytest.mark.parametrize(
    "text",
    [
        f"http:/me:{SECRET}@10.0.0.7/live",
        f"rtsp:me:{SECRET}@10.0.0.7/live",
        f"http:\\\\me:{SECRET}@10.0.0.7/live",
        f"http://10.0.0.7/user=me&password={SECRET}&channel=1",
        f"rtsp://10.0.0.7/user=me_password={SECRET}_channel=1_stream=0.sdp?real_stream",
        f"http://10.0.0.7/;pwd={SECRET}",
        f"me:{SECRET}@10.0.0.7",
        f"me:{SECRET}@10.0.0.7:554/live?token={SECRET}",
        f"me:a@{SECRET}@10.0.0.7/live",
        f"me:a/{SECRET}@10.0.0.7/live",
        f"me:a://{SECRET}@10.0.0.7/live",
        f":{SECRET}@10.0.0.7/live",
    ],
)
def test_no_password_survives_a_slip(text: str) -> None:
    """One slash, as a path has it, or none; no scheme at all; a password in the path, as some
    cameras want it."""
    for form in ("{}", "'{}': no such file", "--data={}"):
        assert SECRET not in redact_addresses(form.format(text))
        assert SECRET not in public_address(form.format(text))
        assert "10.0.0.7" in redact_addresses(form.format(text))


@pytest.mark.parametrize(
    "words", [("check", "{}", "{}"), ("check", "{}", "--width", "{}"), ("nonsense", "{}"), ("{}",)]
)
def test_an_error_of_usage_repeats_no_password(words: tuple[str, ...]) -> None:
    """A word too many, a value of another kind and an unknown command are repeated otherwise."""
    address = f"rtsp://me:{SECRET}@10.0.0.7/live"
    result = CliRunner().invoke(app, [word.format(address) for word in words])
    assert result.exit_code == 2
    assert SECRET not in result.output


def test_a_proxy_learns_no_address_of_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """http_proxy is meant for the web; ffmpeg would hand the camera's password to it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_error(401)

    with Camera(answer) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(CaptureError):
            open_frame_source(f"http://me:{SECRET}@192.0.2.1/live?token={SECRET}", timeout_s=1)
        assert proxy.requests == []


def test_overlapping_openings_leave_the_proxy_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was abandoned is still under way when the next begins, and ends before it."""
    monkeypatch.delenv("no_proxy", raising=False)
    second_began, first_ended = Event(), Event()

    def open_slowly(url: str, *_: object) -> None:
        if url == "first":
            second_began.wait(0.3)
        else:
            second_began.set()
            first_ended.wait(0.3)

    monkeypatch.setattr(open_capture.cv2, "VideoCapture", open_slowly)

    def open_first() -> None:
        open_capture._open_directly("first", [])
        first_ended.set()

    threads = [
        Thread(target=open_first),
        Thread(target=open_capture._open_directly, args=("second", [])),
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert "no_proxy" not in os.environ


@given(st.text(max_size=30))
def test_other_texts_stay(text: str) -> None:
    """Paths, names and numbers are no addresses."""
    if "://" not in text and not (":" in text and "@" in text):
        assert public_address(text) == redact_addresses(text) == text


@pytest.mark.parametrize(
    "text",
    ["C:\\me@home\\a.mp4", "D:/me@home", "a.png: me@home", "me@home.mp4", "m:make", "@", ":@"],
)
def test_a_path_with_an_at_sign_stays(text: str) -> None:
    """A user and a password stand before the sign, or there is nothing to hide."""
    assert public_address(text) == redact_addresses(text) == text


@pytest.mark.parametrize(
    "words",
    [
        *(("check", "{}", "signs"), ("twin", "signs", "--sheet", "{}"), ("print", "{}")),
        *(("cloak", "{}"), ("report", "{}"), ("calibrate", "fit", "{}"), ("patch", "show", "{}")),
        *(("evaluate", "--model", "{}", "--data", "{}"), ("models", "info", "{}"), ("{}",)),
        *(
            ("train", "signs", "--data", "{}"),
            ("patch", "--signs", "{}"),
            ("check", "--config", "{}"),
        ),
    ],
)
def test_an_address_without_its_scheme_is_told_without_its_password(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken for a file or a name, which an error repeats, wherever it was typed."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [word.format(f"me:{SECRET}@10.0.0.7/live") for word in words])
    assert result.exit_code in (1, 2)
    assert SECRET not in f"{result.output} {result.exception}"


def test_errors_hold_no_password() -> None:
    """What a library says of an address is redacted where every error is made."""
    address = f"rtsp://me:{SECRET}@cam/live?token={SECRET}"
    for parts in ((address,), ("x", f"'{address}' returned 22"), ("x", "y", f"Open {address}")):
        error = PhysadvError(*parts)
        assert SECRET not in f"{error} {error.value} {error.limit} {error.remedy} {error.args}"


def test_a_check_leaves_no_password_anywhere(tmp_path: Path) -> None:
    """Arguments, configuration, record, rows, report, terminal: of a stream that was watched."""
    with Camera(stream) as camera:
        address = f"http://me:{SECRET}@127.0.0.1:{camera.port}/live?token={SECRET}"
        done = physadv(
            tmp_path,
            *("check", address, "--goal", "untargeted", "--true-class", "stop"),
            *("--model", "signs", "--block", "patch", "--box", "2,2,20,20", "--max-frames", "3"),
            *("--out", "run", "--json", "--device", "cpu"),
        )
    assert SECRET not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3, done.stderr
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    argv = json.loads((tmp_path / "run" / "environment.json").read_text())["argv"]
    assert f"http://127.0.0.1:{camera.port}/live" in argv


@pytest.mark.parametrize(
    "words",
    [
        ("check", "ADDRESS", "--bundle", "stop-sticker-signs-v1", "--out", "run", "--verbose"),
        ("calibrate", "camera", "ADDRESS", "--guided", "--out", "camera.json"),
        pytest.param(
            ("calibrate", "fit", "ADDRESS", "--printer-name", "p", "--out", "fit.json"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda words: " ".join((*words[:2], *words[-1:])),
)
def test_a_camera_that_does_not_answer_is_named_without_its_password(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Errors, tracebacks and what ffmpeg logs."""
    address = f"rtsp://me:{SECRET}@127.0.0.1:9/live?token={SECRET}"
    code = "from physadv_cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *(address if word == "ADDRESS" else word for word in words)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert SECRET not in done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
