"""The live page lets nobody in who does not know its address, and cannot be held up."""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from physadv.calibration.guided_page import CalibrationPage
from physadv.camera.live_page import LivePage
from physadv.camera.local_server import MOST_CONNECTIONS, REQUEST_S
from physadv.check.live.check_page import CheckPage
from physadv.check.live.remote_control import RemoteControl


@pytest.fixture(params=["check", "calibrate"])
def page(request: pytest.FixtureRequest) -> Iterator[LivePage]:
    made: LivePage = (
        CheckPage(0, RemoteControl())
        if request.param == "check"
        else CalibrationPage(0, "chart", ["near", "far"])
    )
    made.show(np.full((48, 64, 3), 90, np.uint8))
    with made:
        yield made


def ask(
    page: LivePage, method: str, path: str, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def own(page: LivePage, path: str = "") -> str:
    return f"/{page.token}/{path}"


def raw(page: LivePage, data: bytes, *, timeout_s: float = 20) -> bytes:
    """What the server answers to ``data`` until it closes the connection."""
    with socket.create_connection(("127.0.0.1", page.port), timeout=timeout_s) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while piece := connection.recv(1 << 16):
                answer += piece
        except ConnectionError:
            pass
        return answer


def test_the_address_holds_a_token_of_this_run(page: LivePage) -> None:
    """Long, at random, and the only way in."""
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{24}/", page.address)
    with CheckPage(0, RemoteControl()) as other:
        assert other.token != page.token
    assert ask(page, "GET", own(page))[0] == 200
    assert ask(page, "GET", own(page, "frame.jpg"))[1]["Content-Type"] == "image/jpeg"
    assert ask(page, "GET", own(page, "state.json"))[0] == 200


@pytest.mark.parametrize("path", ["", "stream", "frame.jpg", "state.json", "stop", "finish"])
def test_nobody_gets_in_without_it(page: LivePage, path: str) -> None:
    """Neither to see nor to change, with no token or another; the answer holds none."""
    for address in (f"/{path}", f"/{page.token[:-1]}/{path}", f"/x/{page.token}/{path}"):
        for headers in ({}, {"X_Token": ""}, {"X_Token": "x"}, {"X_Token": "\xe9"}):
            for method in ("GET", "POST"):
                status, _, body = ask(page, method, address, **headers)
                assert status == 403
                assert page.token.encode() not in body


def test_the_page_does_not_give_the_token_away(page: LivePage) -> None:
    """Its requests are relative to its address."""
    assert page.token.encode() not in ask(page, "GET", own(page))[2]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:PORT",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1.evil.example:PORT",
        "localhost.evil.example:PORT",
        "[::1]:PORT",
        "0.0.0.0:PORT",
        "",
    ],
)
def test_no_other_host_is_answered(page: LivePage, host: str) -> None:
    """A name of a stranger that points to 127.0.0.1, with the right token."""
    assert ask(page, "GET", own(page), Host=host.replace("PORT", str(page.port)))[0] == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:1", "file://"]
)
def test_no_other_page_may_steer(page: LivePage, origin: str) -> None:
    """A request of another page says where it comes from."""
    assert ask(page, "POST", own(page, "stop"), Origin=origin)[0] == 403
    assert ask(page, "GET", own(page, "state.json"), Origin=origin)[0] == 403


@pytest.mark.parametrize("path", ["", "state.json", "frame.jpg", "nowhere", "../../etc/passwd"])
def test_every_answer_keeps_other_pages_out(page: LivePage, path: str) -> None:
    """Framing, sniffing, referrers and caches; of errors too."""
    for address in (own(page, path), f"/{path}"):
        headers = ask(page, "GET", address)[1]
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers
    assert "X-Frame-Options" in ask(page, "DELETE", own(page))[1]


def test_the_pages_own_script_may_run(page: LivePage) -> None:
    """The policy names the script by a nonce, new for each answer."""
    nonces = set()
    for _ in range(2):
        _, headers, html = ask(page, "GET", own(page))
        found = re.findall(rb'<script nonce="([\w-]+)">', html)
        assert len(found) == 1
        assert f"'nonce-{found[0].decode()}'" in headers["Content-Security-Policy"]
        assert html.count(b"<script") == 1
        nonces.add(found[0])
    assert len(nonces) == 2


BROKEN = [
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * 60_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % i for i in range(20_000)) + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"\x00" * 70_000,
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nX-Token: \xff\xfe\r\n\r\n",
    b"POST http://[ HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nX-Token: TOKEN\r\n\r\n",
    b"POST * HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nX-Token: TOKEN\r\n\r\n",
]


def test_a_request_of_any_form_is_answered_or_ended(
    page: LivePage, capfd: pytest.CaptureFixture[str]
) -> None:
    """Too long, no HTTP, broken: the connection ends, nothing is printed, and the page goes on."""
    for data in BROKEN:
        data = data.replace(b"TOKEN", page.token.encode())
        answer = raw(page, data.replace(b"PORT", str(page.port).encode()))
        assert len(answer) < 4096
        assert b" 200 " not in answer.partition(b"\r\n")[0]
        assert ask(page, "GET", own(page))[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "more",
    [
        b"X: " + b"x" * 300_000,
        b"X: x\r\n" * 20_000,
        b"X: " + b"x" * 20_000 + b"\r\nOrigin: http://elsewhere.example",
    ],
    ids=["one line", "many lines", "an origin behind"],
)
def test_a_long_head_is_not_answered_by_its_beginning(page: LivePage, more: bytes) -> None:
    """What stands behind the bytes that are read, such as another origin, would be lost."""
    head = f"GET {own(page)} HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n".encode()
    try:
        answer = raw(page, head + more + b"\r\n\r\n")
    except ConnectionError:
        return
    assert b" 200 " not in answer[:20]


def test_two_names_of_a_host_are_none(page: LivePage) -> None:
    """RFC 9112: a request with more than one Host is not answered."""
    host = f"Host: 127.0.0.1:{page.port}\r\n".encode()
    answer = raw(page, f"GET {own(page)} HTTP/1.1\r\n".encode() + host + host + b"\r\n")
    assert answer.startswith(b"HTTP/1.0 403") or answer.startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("body", [{"Content_Length": "5"}, {"Transfer_Encoding": "chunked"}])
def test_a_body_is_refused(page: LivePage, body: dict[str, str]) -> None:
    """No request has one."""
    assert ask(page, "POST", own(page, "stop"), **body)[0] == 413


def test_slow_requests_hold_nobody_up(page: LivePage) -> None:
    """Three times as many connections as there are places, each with half a request: the page is
    still served at once, and what stays silent is cut."""
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", page.port), timeout=30))
            for _ in range(3 * MOST_CONNECTIONS)
        ]
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert ask(page, "GET", own(page))[0] == 200
        assert (
            ask(page, "POST", own(page, "finish" if "chart" in page.html() else "stop"))[0] == 200
        )

        start = time.monotonic()
        for connection in slow:
            try:
                while time.monotonic() - start < 3 * REQUEST_S:
                    connection.sendall(b"a")  # a byte now and then does not buy more time
                    connection.settimeout(0.3)
                    try:
                        if not connection.recv(4096):
                            break
                    except TimeoutError:
                        continue
            except OSError:
                continue
        assert time.monotonic() - start < 3 * REQUEST_S


def test_connections_are_bounded(page: LivePage) -> None:
    """Watchers of the stream beyond the places are turned away; the server keeps no more."""
    with ExitStack() as stack:
        for _ in range(2 * MOST_CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", page.port), timeout=30)
            stack.enter_context(connection)
            request = f"GET {own(page, 'stream')} HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n\r\n"
            connection.sendall(request.encode())
        time.sleep(0.5)
        assert len(page._server._since) <= MOST_CONNECTIONS
    page.show(np.full((48, 64, 3), 10, np.uint8))


def test_a_browser_that_goes_away_is_not_worth_a_word(
    page: LivePage, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the middle of a request, of a picture, and of the stream, also with a reset."""
    linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")  # closing sends a reset
    for path in ("", "frame.jpg", "stream", "state.json"):
        for _ in range(5):
            connection = socket.create_connection(("127.0.0.1", page.port), timeout=10)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            request = f"GET {own(page, path)} HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n\r\n"
            connection.sendall(request.encode())
            connection.close()
            page.show(np.full((480, 640, 3), 30, np.uint8))
    raw_half = socket.create_connection(("127.0.0.1", page.port), timeout=10)
    raw_half.sendall(b"GET / HT")
    raw_half.close()
    time.sleep(0.3)
    assert ask(page, "GET", own(page))[0] == 200
    assert capfd.readouterr().err == ""


def test_only_this_machine_can_reach_it(page: LivePage) -> None:
    """The socket is bound to 127.0.0.1, and to no other address of the machine."""
    assert page._server.server_address[0] == "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        assert probe.connect_ex(("127.0.0.2", page.port)) != 0
