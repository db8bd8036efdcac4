"""Fuzzed readers of videos, streams, answers of cameras, and requests to the page of a check."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import numpy as np
from fuzz import mutations
from fuzz.picture_readers import jpeg_bytes
from fuzz.reader_kit import registered, texts_of, written


@cache
def video_seeds() -> Sequence[bytes]:
    import av

    found = []
    for kind, codec in (("mp4", "mpeg4"), ("avi", "mjpeg"), ("matroska", "mpeg4")):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=kind) as container:
            stream = container.add_stream(codec, rate=10)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(3):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * number, np.uint8))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        found.append(buffer.getvalue())
    return found


@registered("video", video_seeds, mutations.mutate_bytes, 0.15)
def _video(folder: Path, data: bytes) -> object:
    from physadv.camera.open_source import open_frame_source

    suffix = (".mp4", ".avi", ".mkv")[len(data) % 3]
    source = open_frame_source(written(folder, f"v{suffix}", data), timeout_s=4)
    return sum(1 for _ in source)


def _mjpeg_seeds() -> Sequence[bytes]:
    part = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg_bytes())
    return [
        (part + jpeg_bytes() + b"\r\n") * 2,
        b"--x\r\n\r\n" + jpeg_bytes() + b"\r\n--x\r\n\r\n" + jpeg_bytes(),
    ]


@registered("mjpeg stream", _mjpeg_seeds, mutations.mutate_bytes, 1)
def _mjpeg(folder: Path, data: bytes) -> object:
    from physadv.camera.mjpeg import MjpegCapture

    capture = MjpegCapture(io.BytesIO(data))
    frames = 0
    while capture.read()[0] and frames < 100:
        frames += 1
    return capture.get(3)


class _Answering:
    """Connections that all get the same answer, whatever host a redirect names."""

    def __init__(self, answer: bytes) -> None:
        self._answer, self._open = answer, []  # type: ignore[var-annotated]

    def connect(self, *_: object, **__: object) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._open += [ours, theirs]
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        theirs.setblocking(False)
        with suppress(BlockingIOError):
            theirs.send(self._answer)
        theirs.shutdown(socket.SHUT_WR)
        ours.settimeout(2)
        return ours

    def said(self) -> bytes:
        """What the other side sent."""
        received = b""
        with suppress(BlockingIOError):
            while piece := self._open[-1].recv(1 << 16):
                received += piece
        return received

    def close(self) -> None:
        for each in self._open:
            each.close()


@contextmanager
def _answering(data: bytes) -> Iterator[None]:
    """Let no connection leave this process while the context lasts."""
    answering, connect, tls = _Answering(data), socket.create_connection, HTTPSConnection.connect
    socket.create_connection = answering.connect  # type: ignore[assignment]
    HTTPSConnection.connect = HTTPConnection.connect  # type: ignore[method-assign]
    try:
        yield
    finally:
        socket.create_connection, HTTPSConnection.connect = connect, tls  # type: ignore[method-assign]
        answering.close()


def _http_seeds() -> Sequence[bytes]:
    kind = b"Content-Type: multipart/x-mixed-replace; boundary=x\r\n"
    body = b"\r\n" + _mjpeg_seeds()[0]
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return [
        b"HTTP/1.1 200 OK\r\nServer: cam\r\n" + kind + body,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + kind + b"\r\n" + chunked,
        b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1/b?c\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="x"\r\n\r\nno',
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" + kind + body,
    ]


@registered("answers of http cameras", _http_seeds, mutations.mutate_head, 2)
def _http_camera(folder: Path, data: bytes) -> object:
    from physadv.camera.mjpeg import open_mjpeg

    with _answering(data):
        user = "u:p@" if len(data) % 2 else ""
        capture = open_mjpeg(f"http://{user}127.0.0.1/a", 1.0)
        frames = 0
        while capture is not None and capture.read()[0] and frames < 20:
            frames += 1
        return frames


def _rtsp_seeds() -> Sequence[bytes]:
    digest = 'Digest realm="x", nonce="y", qop="auth", algorithm=MD5, opaque="z"'
    return [
        f"RTSP/1.0 401 No\r\nCSeq: 1\r\nWWW-Authenticate: {digest}\r\n\r\n".encode(),
        b'RTSP/1.0 401 No\r\nCSeq: 1\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n',
        b"RTSP/1.0 302 Moved\r\nLocation: rtsp://127.0.0.1/b\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n",
    ]


@registered("answers of rtsp cameras", _rtsp_seeds, mutations.mutate_head, 3)
def _rtsp_camera(folder: Path, data: bytes) -> object:
    from physadv.camera.rtsp_redirect import refuse_rtsp_redirect

    with _answering(data):
        return refuse_rtsp_redirect("rtsp://u:p@127.0.0.1/a", 1.0)


_TOKEN, _PAGE = "t" * 24, b"the page of a check"


class _ServerOfNothing:
    """What a handler asks of its server."""

    port, token = 8000, _TOKEN

    def heard(self, request: socket.socket) -> None:
        """Note nothing."""


_REQUEST = f"GET /{_TOKEN}/ HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"


@registered(
    "requests to the local server",
    texts_of(
        f"{_REQUEST}Accept: */*\r\n\r\n",
        f"POST /next HTTP/1.1\r\nHost: localhost:8000\r\nX-Token: {_TOKEN}\r\n\r\n",
        f"POST /{_TOKEN}/next HTTP/1.0\r\nHost: localhost:8000\r\nContent-Length: 3\r\n\r\nabc",
        f"{_REQUEST}Origin: http://127.0.0.1:8000\r\nExpect: 100-continue\r\n\r\n",
    ),
    mutations.mutate_head,
    3,
)
def _local_server(folder: Path, data: bytes) -> object:
    from physadv.camera.local_server import LocalHandler

    class Page(LocalHandler):
        def get(self, path: str) -> None:
            self.answer(200, "text/plain", _PAGE)

        post = get

    answering = _Answering(data)
    request = answering.connect()
    with suppress(OSError):  # as the server: a browser that went away is no fault
        Page(request, ("127.0.0.1", 9), _ServerOfNothing())  # type: ignore[arg-type]
    request.shutdown(socket.SHUT_WR)
    said = answering.said()
    answering.close()
    assert _PAGE not in said or _TOKEN.encode() in data, "answered without the token"
    assert data in (b"",) or _TOKEN.encode() not in said, "the token is told"
    return said
