"""Local web page of a running check, as MJPEG on 127.0.0.1, for machines without a display.

No other machine can reach it: the socket is bound to 127.0.0.1, a request must name that host (so
that no foreign name can be pointed at it), and a request that steers the check must send the token
embedded in the page.
"""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from types import TracebackType
from typing import Any

import cv2

from physadv.camera.frames import BLOCKS
from physadv.camera.localization.boxes import Pixels
from physadv.check.live.remote_control import RemoteControl
from physadv.core.errors import CaptureError, OptionError

HOST = "127.0.0.1"
_QUALITY, _PATIENCE_S = 80, 2.0


class LivePage:
    """Server of the newest picture, from construction to :meth:`close`.

    Args:
        port: Port on 127.0.0.1; 0 takes any free one.
        remote: Control that the page's buttons act on.

    Raises:
        CaptureError: The port cannot be used.
    """

    def __init__(self, port: int, remote: RemoteControl) -> None:
        self.remote, self.token = remote, secrets.token_urlsafe(12)
        self._news = Condition()
        self._jpeg, self._count, self._open = b"", 0, True
        try:
            self._server = ThreadingHTTPServer((HOST, port), _handler(self))
        except (OSError, OverflowError) as error:
            raise CaptureError(
                f"--serve {port}", str(error), "Name another port, or 0 for any free one"
            ) from error

        self._server.daemon_threads = True
        self._thread = Thread(
            target=self._server.serve_forever, args=(0.2,), daemon=True, name="page"
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Port that the server listens on."""
        return int(self._server.server_address[1])

    @property
    def address(self) -> str:
        """Address to open in a browser on this machine."""
        return f"http://{HOST}:{self.port}/"

    def show(self, picture: Pixels) -> None:
        """Publish ``picture`` (h, w, 3) uint8 RGB as the newest one."""
        encoded, jpeg = cv2.imencode(
            ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        )
        if encoded:
            with self._news:
                self._jpeg, self._count = jpeg.tobytes(), self._count + 1
                self._news.notify_all()

    def next(self, last: int) -> tuple[bytes, int] | None:
        """Return the picture after number ``last`` and its number, the same picture when none
        arrives in time, or None once the server is closed."""
        with self._news:
            self._news.wait_for(lambda: self._count > last or not self._open, _PATIENCE_S)

            return (self._jpeg, self._count) if self._open else None

    def close(self) -> None:
        """Stop the server."""
        with self._news:
            self._open = False
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> LivePage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _handler(page: LivePage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "physadv", ""

        def do_GET(self) -> None:
            if not self._local():
                self._answer(403, "text/plain", b"only as 127.0.0.1 or localhost\n")
            elif self.path == "/":
                self._answer(200, "text/html; charset=utf-8", _html(page.token).encode())
            elif self.path == "/stream":
                self._stream()
            elif self.path == "/frame.jpg":
                self._frame()
            elif self.path == "/state.json":
                state = {
                    "block": page.remote.block,
                    "stopped": page.remote.stopped,
                    "note": page.remote.note,
                }
                self._answer(200, "application/json", json.dumps(state).encode())
            else:
                self._answer(404, "text/plain", b"not found\n")

        def do_POST(self) -> None:
            token = self.headers.get("X-Token", "").encode()
            if not self._local() or not secrets.compare_digest(token, page.token.encode()):
                self._answer(403, "text/plain", b"not from this page\n")
                return
            try:
                _apply_command(page.remote, self.path)
                self._answer(200, "text/plain", b"done\n")
            except OptionError as error:
                self._answer(404, "text/plain", f"{error}\n".encode())

        def _local(self) -> bool:
            """Return whether the request names this machine, not a foreign name pointed at it."""
            return self.headers.get("Host", "") in {f"{HOST}:{page.port}", f"localhost:{page.port}"}

        def _frame(self) -> None:
            newest = page.next(0)
            if newest is None or not newest[0]:
                self._answer(503, "text/plain", b"no picture yet\n")
            else:
                self._answer(200, "image/jpeg", newest[0])

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()

            seen = 0
            try:
                while (newest := page.next(seen)) is not None:
                    jpeg, seen = newest
                    if jpeg:
                        head = "--frame\r\nContent-Type: image/jpeg\r\n"
                        head += f"Content-Length: {len(jpeg)}\r\n\r\n"
                        self.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:  # the browser closed the connection
                pass

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    return Handler


def _apply_command(remote: RemoteControl, path: str) -> None:
    if path == "/stop":
        remote.stop()
    elif path.startswith("/block/"):
        remote.choose(path.removeprefix("/block/"))
    else:
        raise OptionError(path, "/stop or /block/<name>", "Use one of these addresses")


def _html(token: str) -> str:
    buttons = "".join(f'<button data-to="/block/{b}">{b}</button>' for b in BLOCKS)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>physadv check</title>
<style>
body {{ margin:0; background:#eef1f4; color:#1b2733; font:16px/1.5 system-ui,sans-serif; }}
main {{ max-width:1200px; margin:0 auto; padding:1rem; }}
img {{ display:block; width:100%; height:auto; background:#14181c; min-height:12rem; }}
p {{ margin:.7rem 0; }}
button {{ font:inherit; padding:.35rem .9rem; margin-right:.5rem; cursor:pointer; }}
button.on {{ outline:3px solid #0b5c8a; }} #note {{ color:#a63d00; min-height:1.5em; }}
</style>
<main>
<img id="view" src="/stream"
 alt="The camera's picture with the verdict, the blocks and where to move next">
<p id="note"></p>
<p>Without markers, say which sign is in view: {buttons}
<button data-to="/stop">stop and report</button></p>
</main>
<script>
const post = to => fetch(to, {{method: "POST", headers: {{"X-Token": "{token}"}}}});
document.querySelectorAll("button").forEach(b => b.onclick = () => post(b.dataset.to));
const look = setInterval(async () => {{
  try {{
    const s = await (await fetch("/state.json")).json();
    document.getElementById("note").textContent = s.note;
    document.querySelectorAll("button").forEach(
      b => b.classList.toggle("on", b.dataset.to === "/block/" + s.block));
  }} catch {{
    clearInterval(look);
    document.getElementById("note").textContent =
      "The check has ended; its report is in the folder of the run.";
  }}
}}, 1000);
</script>
</html>
"""
