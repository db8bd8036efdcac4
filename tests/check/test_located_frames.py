"""Frames that are located in a thread of their own keep their order, their errors and their
results."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from physadv.camera.frames import CameraFrame, FrameSource
from physadv.camera.localization.location import SignLocation
from physadv.camera.open_source import open_frame_source
from physadv.check.located_frames import LocatedFrames
from physadv.check.locators import locator_for
from physadv.check.run_check import BlockSource, run_check
from physadv.check.speed import SpeedMeter
from physadv.core.errors import CaptureError
from physadv.core.rows import read_rows


class Numbers(FrameSource):
    """A source of numbered frames that can fail, and notes how far it was read."""

    def __init__(self, n: int, *, fails_at: int = -1, live: bool = False) -> None:
        super().__init__("numbers")
        self.n, self.fails_at, self.live = n, fails_at, live
        self.read, self.closed = 0, False

    def __iter__(self) -> Iterator[CameraFrame]:
        for k in range(self.n):
            if k == self.fails_at:
                raise CaptureError("numbers", "broke", "Mend it")
            self.read = k + 1
            yield CameraFrame(np.zeros((4, 4, 3), np.uint8), float(k), "a", None, k)

    def close(self) -> None:
        self.closed = True


CLIPS = {"clean-00": "rrrrr", "blank-00": "rrrrr", "patch-00": "rrrbb", "patch-01": "bbbbb"}


def check(
    folder: Path, source: Path, model: Any, **more: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Check the twin ``source``; return the rows and the record."""
    options = {"goal": "untargeted", "true_class": "stop", "locator": locator_for(), **more}
    feeds = [BlockSource(open_frame_source(source), fallback="patch")]
    for _ in run_check(feeds, model, folder=folder, batch=4, **options):
        pass
    return list(read_rows(folder / "rows.jsonl")), json.loads((folder / "check.json").read_text())


def unchanged(frame: CameraFrame) -> tuple[CameraFrame, SignLocation | None]:
    return frame, None


def test_order_is_kept_whatever_takes_long() -> None:
    """Frames come in order, each located once and in order, while both sides take uneven time."""
    located: list[int] = []

    def locate(frame: CameraFrame) -> tuple[CameraFrame, SignLocation | None]:
        time.sleep(0.004 * (frame.index % 3 == 0))
        located.append(frame.index)
        return unchanged(frame)

    seen = []
    with LocatedFrames(Numbers(40), locate) as frames:
        for item in frames:
            time.sleep(0.004 * (item.frame.index % 5 == 0))
            seen.append(item.frame.index)
    assert seen == located == list(range(40))


@pytest.mark.parametrize(("live", "ahead"), [(False, 4), (True, 1)])
def test_it_reads_a_few_frames_ahead(live: bool, ahead: int) -> None:
    """While nobody takes a frame, one is held and the queue is full: four frames, one when live. A
    source that is left early is closed, and its thread ends."""
    source = Numbers(1000, live=live)
    with LocatedFrames(source, unchanged) as frames:
        iterator = iter(frames)
        next(iterator)
        time.sleep(0.3)
        assert source.read <= ahead + 2
    assert source.closed
    assert all(t.name != "located frames" for t in threading.enumerate())


def test_errors_come_after_the_frames_before_them() -> None:
    """An error of the source, or of locating, is raised where it happened."""

    def fails(frame: CameraFrame) -> tuple[CameraFrame, SignLocation | None]:
        if frame.index == 3:
            raise RuntimeError("the locator broke")
        return unchanged(frame)

    for source, locate in ((Numbers(9, fails_at=3), unchanged), (Numbers(9), fails)):
        seen: list[int] = []
        with LocatedFrames(source, locate) as frames:
            iterator = iter(frames)
            seen += [next(iterator).frame.index for _ in range(3)]
            with pytest.raises((CaptureError, RuntimeError), match="broke"):
                next(iterator)
        assert seen == [0, 1, 2]


def test_ctrl_c_leaves_no_thread() -> None:
    """A Ctrl-C while the frames are used ends the thread too."""

    def use() -> None:
        with LocatedFrames(Numbers(100), unchanged) as frames:
            next(iter(frames))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert all(t.name != "located frames" for t in threading.enumerate())


def test_rows_do_not_depend_on_the_threads_speed(
    tmp_path: Path,
    twin: Callable[..., Path],
    color_model: Any,
    red_detector: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow locator and a slow model write the same rows, with a stopping rule and a limit too."""
    folder = twin(CLIPS)
    plain = locator_for()

    def slow(frame: CameraFrame) -> SignLocation | None:
        time.sleep(0.003)
        return plain(frame)

    def slow_forward(images: Tensor, forward: Any) -> Any:
        time.sleep(0.005)
        return forward(images)

    runs: list[tuple[Any, dict[str, Any]]] = [
        (color_model, {}),
        (color_model, {"max_frames": 3}),
        (red_detector, {"goal": "vanish", "true_class": "stop sign", "width": 0.5}),
    ]
    for number, (model, options) in enumerate(runs):
        first, _ = check(tmp_path / f"{number}a", folder, model, **options)
        second, _ = check(tmp_path / f"{number}b", folder, model, locator=slow, **options)
        with monkeypatch.context() as patched:
            patched.setattr(model, "forward", partial(slow_forward, forward=model.forward))
            third, _ = check(tmp_path / f"{number}c", folder, model, **options)
        assert first == second == third


def test_a_resumed_check_follows_the_sign_as_the_whole_one_did(
    tmp_path: Path, twin: Callable[..., Path], color_model: Any
) -> None:
    """Frames that an earlier attempt classified are located again, so that a locator which follows
    the sign is where it was."""
    folder = twin(CLIPS)
    plain = locator_for()
    seen: list[tuple[str, int]] = []

    def locate(frame: CameraFrame) -> SignLocation | None:
        seen.append((frame.clip, frame.index))
        return plain(frame)

    whole, settings = check(tmp_path / "a", folder, color_model, locator=locate)
    everything = list(seen)
    rows = (tmp_path / "a" / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a" / "rows.jsonl").write_text("".join(rows[:7]))
    record = (tmp_path / "a" / "check.json").read_text()
    (tmp_path / "a" / "check.json").write_text(record.replace('"complete"', '"stopped"', 1))
    seen.clear()
    again, _ = check(tmp_path / "a", folder, color_model, locator=locate)
    assert again == whole == list(read_rows(tmp_path / "a" / "rows.jsonl"))
    assert seen == everything
    assert settings["status"] == "complete"


def test_the_speed_is_that_of_the_last_frames() -> None:
    """Rates and percentiles by hand: 300 slow frames, then 100 at 50 a second with 30 ms delay."""
    meter = SpeedMeter()
    assert meter.recent() is None
    for k in range(300):
        meter.add(k * 0.5, k * 0.5 + 0.2)
    for k in range(100):
        meter.add(200 + k * 0.02, 200 + k * 0.02 + (0.03 if k < 90 else 0.09))
    recent, overall = meter.recent(), meter.overall()
    assert recent is not None
    assert overall is not None
    assert recent.frames_per_s == pytest.approx(50, rel=0.05)
    assert (recent.median_s, recent.p95_s) == pytest.approx((0.03, 0.09))
    assert overall.as_dict()["frames"] == 400
    assert overall.median_s == pytest.approx(0.2)
