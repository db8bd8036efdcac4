"""HTTP server for this machine alone: bounded connections, sizes and times, and closed headers.

A browser runs pages of strangers beside ours. The server therefore listens on 127.0.0.1 alone,
answers only where the request names that host, sends headers by which no other page may frame or
read it, and lets nobody in who does not know the token of its address.
"""

from __future__ import annotations

import json
import secrets
import socket
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Self

from physadv.core.errors import CaptureError
from physadv.core.page_script import script_source

HOST = "127.0.0.1"
MOST_CONNECTIONS = 24
"""Most connections at a time; a page takes about three."""
REQUEST_S, ANSWER_S = 5.0, 10.0
"""Longest time in seconds that a request may take to arrive whole, and a piece of an answer to
leave."""
MOST_BYTES = 16 << 10
"""Most bytes of a request's head."""
EVENT_S, BEAT_S = 0.2, 3.0
"""Seconds between two looks for a new state, and between two signs of life where there is none."""
_POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'nonce-{nonce}' {script}; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class LocalServer(ThreadingHTTPServer):
    """Server on 127.0.0.1, with at most ``MOST_CONNECTIONS`` connections.

    Where another one comes, that which has waited longest to send its request has to go.

    Args:
        port: Port; 0 takes any free one.
        handler: Handler of the requests.

    Raises:
        OSError: The port cannot be used.
        OverflowError: It is no port.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, handler: type[LocalHandler]) -> None:
        self.token = secrets.token_urlsafe(18)
        self._lock = Lock()
        self._since: dict[socket.socket, float | None] = {}
        super().__init__((HOST, port), handler)

    @property
    def port(self) -> int:
        """Port that the server listens on."""
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """Address to open in a browser on this machine, with the token of this run."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer ``request`` in a thread of its own, where there is a place for it."""
        with self._lock:
            slowest = None
            if len(self._since) >= MOST_CONNECTIONS:
                waiting = (each for each, since in self._since.items() if since is not None)
                slowest = next(waiting, request)
                self._since.pop(slowest, None)
                _cut(slowest)
            if slowest is not request:
                self._since[request] = time.monotonic()
        if slowest is request:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def heard(self, request: socket.socket) -> None:
        """Note that ``request`` arrived whole."""
        with self._lock:
            if request in self._since:
                self._since[request] = None

    def shutdown_request(self, request: Any) -> None:
        """Close ``request`` and free its place."""
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut what takes too long to send its request; called several times a second."""
        latest = time.monotonic() - REQUEST_S
        with self._lock:
            slow = [each for each, since in self._since.items() if since and since < latest]
            for request in slow:
                _cut(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent where a browser went away; report other faults on stderr."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class LocalPage(ABC):
    """Page of a program that runs, from construction to :meth:`close`.

    Args:
        port: Port on 127.0.0.1; 0 takes any free one.
        handler: Handler of the requests.
        option: Option that named the port, for the error.

    Raises:
        CaptureError: The port cannot be used.
    """

    def __init__(self, port: int, handler: type[LocalHandler], option: str = "--serve") -> None:
        self._closed = Event()
        try:
            self._server = LocalServer(port, handler)
        except (OSError, OverflowError) as error:
            raise CaptureError(
                f"{option} {port}", str(error), "Name another port, or 0 for any free one"
            ) from error
        Thread(target=self._server.serve_forever, args=(0.1,), daemon=True, name="page").start()

    @abstractmethod
    def html(self) -> str:
        """Return the page, whose requests are relative to its address, which holds the token."""

    @abstractmethod
    def state(self) -> object:
        """Return what the page shows, plain values for JSON."""

    def sent(self, state: object) -> None:  # noqa: B027 - most pages do not mind
        """Note that a page was sent ``state`` whole."""

    def wait_closed(self, seconds: float) -> bool:
        """Wait until the server stops, ``seconds`` at most; return whether it has."""
        return self._closed.wait(seconds)

    @property
    def port(self) -> int:
        """Port that the server listens on."""
        return self._server.port

    @property
    def address(self) -> str:
        """Address to open in a browser on this machine; it holds the token."""
        return self._server.address

    @property
    def token(self) -> str:
        """Token of this run, without which no request is answered."""
        return self._server.token

    def close(self) -> None:
        """Stop the server."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LocalHandler(BaseHTTPRequestHandler):
    """Handler of requests that name this machine and know the token.

    Subclasses answer in ``get`` and ``post``, which are called for such requests alone, and in
    ``post_body`` where ``most_body`` bytes of a body are taken.
    """

    most_body = 0

    server: LocalServer
    server_version, sys_version = "physadv", ""
    timeout = ANSWER_S

    def setup(self) -> None:
        """Prepare to read a request of bounded size."""
        super().setup()
        self.nonce = secrets.token_urlsafe(12)
        self.rfile = _Bounded(self.rfile, MOST_BYTES)  # type: ignore[assignment]

    def parse_request(self) -> bool:
        """Read the request's head; return whether it can be answered."""
        parsed = super().parse_request()
        self.server.heard(self.connection)
        return parsed

    def do_GET(self) -> None:
        """Answer a request to see something."""
        path = self._own_path()
        if path is not None:
            self.get(path)

    def do_POST(self) -> None:
        """Answer a request to change something."""
        path = self._own_path()
        if path is None:
            return
        lengths = self.headers.get_all("Content-Length", ["0"])
        plain = len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdecimal()
        if not plain or len(lengths[0]) > 12 or "Transfer-Encoding" in self.headers:
            self.answer(413, "text/plain", b"a request says once how long it is\n")
        elif int(lengths[0]) > self.most_body:
            words = "too large" if self.most_body else "a request has no body here"
            self.answer(413, "text/plain", f"{words}\n".encode())
        elif int(lengths[0]):
            body = self.rfile.read_body(int(lengths[0]))  # type: ignore[attr-defined]
            if len(body) == int(lengths[0]):
                self.post_body(path, body)
        else:
            self.post(path)

    def get(self, path: str) -> None:
        """Answer a GET request to ``path``."""
        raise NotImplementedError

    def post(self, path: str) -> None:
        """Answer a POST request to ``path``."""
        raise NotImplementedError

    def post_body(self, path: str, body: bytes) -> None:
        """Answer a POST request to ``path`` with ``body``."""
        raise NotImplementedError

    def answer_for(self, page: LocalPage, path: str) -> None:
        """Answer a GET request for ``page``, its state or the events of its state; any other path
        is not found."""
        if path == "/":
            html = page.html().replace("<script>", f'<script nonce="{self.nonce}">')
            self.answer(200, "text/html; charset=utf-8", html.encode())
        elif path == "/state.json":
            state = page.state()
            self.answer(200, "application/json", json.dumps(state).encode())
            page.sent(state)
        elif path == "/events":
            self._events(page)
        else:
            self.answer(404, "text/plain", b"not found\n")

    def _events(self, page: LocalPage) -> None:
        """Send the state of ``page`` whenever it is another one, until the server stops or the
        browser goes away (server-sent events)."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.close_connection = True

        self.wfile.write(b"retry: 1000\n\n")
        last, beat_s = "", time.monotonic()
        while True:
            state = page.state()
            words = json.dumps(state)  # one line: control characters are escaped
            if words != last:
                self.wfile.write(f"data: {words}\n\n".encode())
                page.sent(state)
                last, beat_s = words, time.monotonic()
            elif time.monotonic() - beat_s > BEAT_S:
                self.wfile.write(b": still here\n\n")
                beat_s = time.monotonic()
            if page.wait_closed(EVENT_S):
                return

    def answer(self, code: int, kind: str, body: bytes) -> None:
        """Send ``body`` of the content type ``kind``."""
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        """End the head of any answer, also that of an error, with what keeps other pages out."""
        self.send_header(
            "Content-Security-Policy", _POLICY.format(nonce=self.nonce, script=script_source())
        )
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that cannot be understood, without repeating what it said."""
        self.answer(code, "text/plain", b"no request that is answered here\n")

    def log_message(self, *_: Any) -> None:
        """Log nothing: a request's address holds the token."""

    @property
    def query(self) -> str:
        """What stands behind the path of the request's address."""
        return self.path.partition("?")[2]

    def _own_path(self) -> str | None:
        """The path behind the token, of a request that names this machine and knows the token, in
        its address or as X-Token; None where it does not, and is answered here."""
        hosts = {f"{name}:{self.server.port}" for name in (HOST, "localhost")}
        named = self.headers.get_all("Host", [])
        origins = self.headers.get_all("Origin", [])
        is_own_page = all(origin.removeprefix("http://") in hosts for origin in origins)
        if len(named) != 1 or named[0] not in hosts or not is_own_page:
            self.answer(403, "text/plain", b"only as 127.0.0.1 or localhost\n")
            return None

        path = self.path.partition("?")[0]
        if not path.startswith("/"):  # as sent to a proxy, or *
            self.answer(404, "text/plain", b"not found\n")
            return None
        first, slash, rest = path.removeprefix("/").partition("/")
        if slash and self._knows(first):
            return f"/{rest}"
        if self._knows(self.headers.get("X-Token", "")):
            return path
        self.answer(403, "text/plain", b"open the whole address that physadv printed\n")
        return None

    def _knows(self, token: str) -> bool:
        """Whether ``token`` is that of this run, compared in constant time."""
        return secrets.compare_digest(token.encode(errors="replace"), self.server.token.encode())


class _Bounded:
    """Stream of a request, of which no more than ``most`` bytes are read."""

    def __init__(self, stream: BufferedIOBase, most: int) -> None:
        self._stream, self._left = stream, most

    def readline(self, size: int = -1) -> bytes:
        """Read a line, or what is left of the bytes allowed.

        Raises:
            LineTooLong: None is left; to end there would be taken for the end of the head, and what
                it says after that be lost.
        """
        if self._left <= 0:
            raise LineTooLong("head")
        line = self._stream.readline(self._left if size < 0 else min(size, self._left))
        self._left -= len(line)
        return line

    def read_body(self, size: int) -> bytes:
        """Read the ``size`` bytes behind the head; fewer where the request ends before."""
        return self._stream.read(size)

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    @property
    def closed(self) -> bool:
        """Whether the stream is closed."""
        return self._stream.closed


def _cut(request: socket.socket) -> None:
    """End a connection, which another thread may be reading."""
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)
