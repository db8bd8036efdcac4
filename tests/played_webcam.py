"""A webcam played from a stream on 127.0.0.1, and a model of two colors for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import cv2
import numpy as np

VICTIM = """
import torch
from torch import nn

class Color(nn.Module):
    def forward(self, images):
        d = 10 * (images[:, 0] - images[:, 2]).mean((1, 2))
        return torch.stack([d, -d], 1)
"""


def picture(size: tuple[int, int] = (160, 120)) -> np.ndarray:
    image = np.full((size[1], size[0], 3), 128, np.uint8)
    image[30:90, 50:110] = (200, 30, 30)  # blue, as OpenCV writes it
    return image


def jpeg(size: tuple[int, int] = (160, 120)) -> bytes:
    return bytes(cv2.imencode(".jpg", picture(size))[1].tobytes())


class Webcam:
    """An MJPEG server. Each connection is served by the next of ``acts``; the last one again and
    again."""

    def __init__(self, acts: list[Callable[[Any], None]]) -> None:
        self.connections, self.over = 0, Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                act = acts[min(outer.connections, len(acts) - 1)]
                outer.connections += 1
                with suppress(OSError):
                    act(self)

            def send(
                self, frames: int, size: tuple[int, int] = (160, 120), pause_s: float = 0.04
            ) -> None:
                """That many frames, one every ``pause_s``."""
                part = jpeg(size)
                head = (
                    f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n"
                ).encode()
                for _ in range(frames):
                    if outer.over.is_set():
                        return
                    self.wfile.write(head + part + b"\r\n")
                    time.sleep(pause_s)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/cam"
        Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def die(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
