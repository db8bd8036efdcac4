"""Order of requests to a camera, values read back, and restoration of its state."""

from __future__ import annotations

import time
from typing import Any

import cv2
import numpy as np

from physadv.camera.controls import release_controls
from physadv.camera.live import LiveSource
from physadv.camera.open_capture import OpenedCapture, prepare_camera

MJPG = cv2.VideoWriter.fourcc(*"MJPG")


class FakeCamera:
    """A camera that records what is set; ``deaf`` properties are refused, ``fixed`` ones are taken
    and not kept."""

    def __init__(
        self,
        *,
        backend: str = "V4L2",
        deaf: tuple[int, ...] = (),
        fixed: tuple[int, ...] = (),
        frames: int = 10**6,
    ) -> None:
        self.backend, self.deaf, self.fixed, self.frames, self.released = (
            backend,
            deaf,
            fixed,
            frames,
            False,
        )
        self.asked: list[tuple[int, float]] = []
        self.values: dict[int, float] = {
            cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*"YUYV"),
            cv2.CAP_PROP_FRAME_WIDTH: 640,
            cv2.CAP_PROP_FRAME_HEIGHT: 480,
            cv2.CAP_PROP_FPS: 30,
            cv2.CAP_PROP_AUTO_EXPOSURE: 3,
            cv2.CAP_PROP_EXPOSURE: 157,
            cv2.CAP_PROP_AUTO_WB: 1,
            cv2.CAP_PROP_WB_TEMPERATURE: 4200,
            cv2.CAP_PROP_AUTOFOCUS: 1,
            cv2.CAP_PROP_FOCUS: 30,
        }

    def getBackendName(self) -> str:  # noqa: N802
        return self.backend

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, key: int) -> float:
        return -1.0 if key in self.deaf else self.values.get(key, 0.0)

    def set(self, key: int, value: float) -> bool:
        self.asked.append((key, value))
        if key in self.deaf:
            return False
        if key not in self.fixed:
            self.values[key] = value
        return True

    def read(self) -> tuple[bool, Any]:
        self.frames -= 1
        time.sleep(0.001)
        return self.frames >= 0, np.zeros((480, 640, 3), np.uint8)

    def release(self) -> None:
        self.released = True


def prepared(camera: FakeCamera, **more: Any) -> OpenedCapture:
    return prepare_camera(
        camera, "camera 0", size=(1280, 720), timeout_s=10, **{"hold": True, **more}
    )


def test_format_before_size() -> None:
    """MJPG is requested before the size; in the other order many cameras fall back to a few raw
    frames per second."""
    camera = FakeCamera()
    prepared(camera)
    keys = [k for k, _ in camera.asked]
    assert keys.index(cv2.CAP_PROP_FOURCC) < keys.index(cv2.CAP_PROP_FRAME_WIDTH)
    assert camera.values[cv2.CAP_PROP_FOURCC] == MJPG


def test_everything_locked_is_read_back() -> None:
    """Exposure, white balance and focus are held at their settled values, without warnings."""
    opened = prepared(FakeCamera())
    assert {each["name"]: (each["held"], each["value"]) for each in opened.settings["locks"]} == {
        "exposure": (True, 157),
        "white balance": (True, 4200),
        "focus": (True, 30),
    }
    assert opened.warnings == []


def test_what_did_not_stick_is_said() -> None:
    """A fixed focus, a white balance that does not hold, and a size and format not delivered are
    each named."""
    opened = prepared(
        FakeCamera(
            deaf=(cv2.CAP_PROP_AUTOFOCUS,),
            fixed=(cv2.CAP_PROP_AUTO_WB, cv2.CAP_PROP_FOURCC, cv2.CAP_PROP_FRAME_WIDTH),
        ),
    )
    assert {each["name"]: each["held"] for each in opened.settings["locks"]} == {
        "exposure": True,
        "white balance": False,
        "focus": False,
    }
    assert opened.warnings == [
        "camera 0 delivers 640x720, not the 1280x720 asked for",
        "camera 0 delivers YUYV, not MJPG: expect few fps",
        "camera 0 did not lock white balance (asked for 0, reads back 1), focus (the driver does "
        "not offer it): "
        "it may change while you film",
    ]


def test_each_backend_has_its_own_numbers() -> None:
    """V4L2's manual exposure is 1 and its automatic 3; elsewhere they are 0.25 and 0.75."""
    for backend, manual, auto in (("V4L2", 1, 3), ("DSHOW", 0.25, 0.75), ("MSMF", 0.25, 0.75)):
        camera = FakeCamera(backend=backend)
        opened = prepared(camera)
        assert camera.values[cv2.CAP_PROP_AUTO_EXPOSURE] == manual
        assert opened.farewell is not None
        opened.farewell(camera)
        assert camera.values[cv2.CAP_PROP_AUTO_EXPOSURE] == auto
        assert camera.values[cv2.CAP_PROP_AUTOFOCUS] == 1


def test_hold_can_be_left_out() -> None:
    """Without hold no automatic control is changed, and the record notes it."""
    camera = FakeCamera()
    opened = prepared(camera, hold=False)
    assert {k for k, _ in camera.asked}.isdisjoint(
        {cv2.CAP_PROP_AUTO_EXPOSURE, cv2.CAP_PROP_AUTO_WB}
    )
    assert opened.settings["locks"] == "not asked"


def test_the_camera_is_left_as_it_was_found() -> None:
    """When the source is closed, the controls are automatic again before the device is released."""
    camera = FakeCamera()
    source = LiveSource("camera 0", "camera", prepared(camera), clip_seconds=10, stall_s=5)
    next(iter(source))
    source.close()
    assert camera.released
    assert camera.values[cv2.CAP_PROP_AUTO_EXPOSURE] == 3
    assert source.settings["backend"] == "V4L2"


def test_only_what_was_locked_is_released() -> None:
    """A control that was not locked is not switched on."""
    camera = FakeCamera(deaf=(cv2.CAP_PROP_AUTO_WB,))
    prepared(camera)
    camera.asked.clear()
    release_controls(camera, "V4L2", [])
    assert camera.asked == []


def test_lost_and_found_again() -> None:
    """A camera that breaks is reopened after two failed attempts; frames and their count continue,
    and the gap is reported."""
    tries: list[int] = []

    def again() -> OpenedCapture:
        from physadv.core.errors import CaptureError

        tries.append(1)
        if len(tries) < 3:
            raise CaptureError("camera 0", "did not open")
        return OpenedCapture(FakeCamera(frames=40 if len(tries) == 3 else 0), {})

    told: list[str] = []
    source = LiveSource(
        "camera 0",
        "camera",
        OpenedCapture(FakeCamera(frames=40), {}),
        clip_seconds=10,
        stall_s=5,
        retry_s=5,
        again=again,
    )
    source.on_message = told.append
    frames = []
    for frame in source:
        frames.append(frame)
        if len(tries) >= 3 and frame.index > 45:
            source.close()
    assert [f.index for f in frames] == sorted({f.index for f in frames})
    assert frames[-1].index > 45
    assert [f.time_s for f in frames] == sorted(f.time_s for f in frames)
    assert [line.rpartition("trying again in ")[2] for line in told[:3]] == ["0.5 s", "1 s", "2 s"]
    assert len(source.warnings) == 1
    assert "ended or broke after" in source.warnings[0]
    assert "; back after 3." in source.warnings[0]


def test_gone_for_good() -> None:
    """A source that stays away ends the loop after the time limit, with one line and without an
    error."""

    def never() -> OpenedCapture:
        from physadv.core.errors import CaptureError

        raise CaptureError("camera 0", "did not open")

    source = LiveSource(
        "camera 0",
        "camera",
        OpenedCapture(FakeCamera(frames=5), {}),
        clip_seconds=10,
        stall_s=5,
        retry_s=1,
        again=never,
    )
    frames = list(source)
    assert 1 <= len(frames) <= 5
    assert len(source.warnings) == 1
    assert "not back after" in source.warnings[0]
    assert source.warnings[0].endswith("so what was read is kept")
