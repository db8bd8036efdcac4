"""Filmed signs of known color, and victims whose answers can be worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from physadv.core.types import Detections
from physadv.models.cards import ModelCard
from physadv.printing.aruco_markers import FIDUCIALS, marker_modules, test_sign_layout

RED, BLUE = (200, 30, 30), (30, 30, 200)
SIZE = (160, 120)


class ColorModel(nn.Module):
    """stop where a picture's red exceeds its blue, limit where it does not; logits are ten times
    the difference."""

    card = ModelCard("colour", "classify", ("stop", "limit"), (32, 32), sha256="c0ffee")

    def forward(self, images: Tensor) -> Tensor:
        difference = 10 * (images[:, 0] - images[:, 2]).mean((1, 2))
        return torch.stack([difference, -difference], 1)


class RedDetector(nn.Module):
    """One stop sign box at the place given, its score the mean red of the frame inside it; one far
    box of a car."""

    card = ModelCard("reds", "detect", ("car", "stop sign"), None)

    def __init__(self, box: Sequence[float]) -> None:
        super().__init__()
        self.box = [float(v) for v in box]

    def forward(self, images: Tensor) -> Detections:
        b = len(images)
        x0, y0, x1, y1 = (int(v) for v in self.box)
        red = images[:, 0, y0:y1, x0:x1].mean((1, 2)) * (
            images[:, 2, y0:y1, x0:x1].mean((1, 2)) < 0.4
        )
        boxes = torch.tensor([self.box, [0.0, 0.0, 8.0, 8.0]]).expand(b, 2, 4)
        scores = torch.zeros(b, 2, 2)
        scores[:, 0, 1], scores[:, 1, 0] = red, 0.9
        return Detections(boxes, scores)


def picture(color: tuple[int, int, int], size: tuple[int, int] = SIZE) -> np.ndarray:
    """A gray frame with a colored square of 60 px in its middle, RGB."""
    image = np.full((size[1], size[0], 3), 128, np.uint8)
    x, y = size[0] // 2 - 30, size[1] // 2 - 30
    image[y : y + 60, x : x + 60] = color
    return image


MIDDLE = (50.0, 30.0, 110.0, 90.0)


def write_video(path: Path, images: Sequence[np.ndarray], fps: float = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (images[0].shape[1], images[0].shape[0])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    for image in images:
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def numbered(image: np.ndarray, number: int) -> np.ndarray:
    """The picture with its number (0 to 255) in black and white bits along its upper edge, for a
    camera never sees the same picture twice."""
    marked = image.copy()
    for bit in range(8):
        marked[:16, 16 * bit : 16 * bit + 16] = 255 * (number >> bit & 1)
    return marked


@pytest.fixture
def video() -> Callable[..., Path]:
    """write(path, "rrb"): a video of red and blue signs, one letter a frame."""
    colors = {"r": RED, "b": BLUE}
    return lambda path, letters, **more: write_video(
        path, [numbered(picture(colors[c]), i) for i, c in enumerate(letters)], **more
    )


@pytest.fixture
def twin(tmp_path: Path) -> Callable[..., Path]:
    """make({"patch-00": "rrb", ...}): a twin folder with clips of those colors and the truth about
    them."""
    colors = {"r": RED, "b": BLUE}

    def make(clips: dict[str, str], folder: Path = tmp_path / "twin") -> Path:
        rows: list[dict[str, Any]] = []
        x0, y0, x1, y1 = MIDDLE
        for number, (name, letters) in enumerate(clips.items()):
            write_video(folder / "clips" / f"{name}.avi", [picture(colors[c]) for c in letters])
            rows += [
                {
                    "clip": name,
                    "block": name.partition("-")[0],
                    "frame": i,
                    "file": f"clips/{name}.avi",
                    "corners": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]],
                    "distance_m": 3.0 + number,
                    "yaw_deg": 10.0 * (number % 3 - 1),
                    "pitch_deg": 0,
                    "roll_deg": 0,
                }
                for i in range(len(letters))
            ]
        (folder / "truth.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        (folder / "twin.json").write_text(json.dumps({"simulation": True, "seed": 0}))
        return folder

    return make


@pytest.fixture
def color_model() -> ColorModel:
    return ColorModel()


@pytest.fixture
def red_detector() -> RedDetector:
    return RedDetector(MIDDLE)


@pytest.fixture
def middle() -> tuple[float, float, float, float]:
    return MIDDLE


@pytest.fixture
def make_picture() -> Callable[..., np.ndarray]:
    return picture


def draw_page(block: str, width: int = 300, shift: tuple[int, int] = (150, 90)) -> np.ndarray:
    """A white page with a red sign of ``width`` px and its four markers, as it is printed."""
    page = np.full((480, 640, 3), 255, np.uint8)
    x, y = shift
    page[y : y + width, x : x + width] = (200, 30, 30)
    for marker, corners in zip(FIDUCIALS[block], test_sign_layout(), strict=True):
        x0, y0 = np.round(corners[0] * width + shift).astype(int)
        side = round(float(corners[1, 0] - corners[0, 0]) * width)
        modules = np.where(marker_modules(marker), 0, 255).astype(np.uint8)
        page[y0 : y0 + side, x0 : x0 + side] = cv2.resize(
            modules, (side, side), interpolation=cv2.INTER_NEAREST
        )[..., None]
    return page


@pytest.fixture(name="marked_page")
def _marked_page() -> Callable[..., np.ndarray]:
    return draw_page


@pytest.fixture
def mjpeg_stream() -> Iterator[Callable[[Sequence[np.ndarray], float], str]]:
    """serve(images, seconds between them) -> address of an MJPEG stream that ends after the last
    image."""
    servers: list[ThreadingHTTPServer] = []

    def serve(images: Sequence[np.ndarray], pause_s: float) -> str:
        from time import sleep

        parts = [
            cv2.imencode(".jpg", cv2.cvtColor(i, cv2.COLOR_RGB2BGR))[1].tobytes() for i in images
        ]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for part in parts:
                        head = (
                            "--frame\r\nContent-Type: image/jpeg\r\n"
                            f"Content-Length: {len(part)}\r\n\r\n"
                        )
                        self.wfile.write(head.encode() + part + b"\r\n")
                        sleep(pause_s)
                except OSError:  # the reader has seen enough
                    pass

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/stream"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
