"""Files yield all frames in order, live sources the newest, and everything else a named error."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from physadv.camera.frames import block_of
from physadv.camera.live import NewestFrame
from physadv.camera.open_source import open_frame_source
from physadv.core.errors import CaptureError
from physadv.core.image_io import save_png


def is_red(image: np.ndarray) -> bool:
    return bool(image[60, 80, 0] > image[60, 80, 2])


def test_a_video_gives_every_frame_in_order_as_rgb(
    tmp_path: Path, video: Callable[..., Path]
) -> None:
    """No frame of a file is dropped, colors are not swapped, times follow the frame rate."""
    source = open_frame_source(video(tmp_path / "patch-00.avi", "rrbrb"))
    frames = list(source)
    assert [is_red(f.image) for f in frames] == [True, True, False, True, False]
    assert [f.index for f in frames] == list(range(5))
    assert [f.time_s for f in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=0.01)
    assert (source.total, source.live, frames[0].clip, frames[0].block) == (
        5,
        False,
        "patch-00",
        "patch",
    )
    assert source.warnings == []


def test_every_nth_frame_and_stretches(tmp_path: Path, video: Callable[..., Path]) -> None:
    """`every` keeps the frames' own numbers; `clip_seconds` cuts a recording into clips by time."""
    frames = list(open_frame_source(video(tmp_path / "a.avi", "r" * 12), every=3, clip_seconds=0.5))
    assert [f.index for f in frames] == [0, 3, 6, 9]
    assert [f.clip for f in frames] == ["a@000", "a@000", "a@001", "a@001"]


def test_a_video_cut_in_half_keeps_what_was_read(
    tmp_path: Path, video: Callable[..., Path]
) -> None:
    """A broken video ends early with a warning that counts the frames; it is no error."""
    whole = video(tmp_path / "a.avi", "rb" * 20).read_bytes()
    (tmp_path / "half.avi").write_bytes(whole[: len(whole) // 2])
    source = open_frame_source(tmp_path / "half.avi")
    read = len(list(source))
    assert 5 < read < 40
    assert source.warnings == [
        f"{tmp_path / 'half.avi'} ended after {read} of 40 frames; what was read is kept"
    ]


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes) -> None:
    """An empty or foreign file raises CaptureError with its name."""
    (tmp_path / "bad.avi").write_bytes(content)
    with pytest.raises(CaptureError, match=r"bad\.avi: did not open"):
        open_frame_source(tmp_path / "bad.avi")


def test_missing_file_and_camera_are_named() -> None:
    """Camera 99 and a missing path fail at once, each with a remedy."""
    with pytest.raises(CaptureError, match=r"camera 99: did not open.*plugged in"):
        open_frame_source("99")
    with pytest.raises(CaptureError, match=r"nowhere\.mp4.*Check the path"):
        open_frame_source("nowhere.mp4")


def test_an_address_nobody_answers_at_fails_within_the_limit() -> None:
    """A port that accepts but never answers costs no more than the limit, and the error names the
    address."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        start = time.monotonic()
        with pytest.raises(CaptureError, match=r"127\.0\.0\.1"):
            open_frame_source(url, timeout_s=1)
        assert time.monotonic() - start < 30


def test_folder_of_clips_knows_its_blocks(tmp_path: Path, video: Callable[..., Path]) -> None:
    """Blocks are read from file names and from folder names; a clip that does not open is a
    warning."""
    video(tmp_path / "clean-00.avi", "r")
    video(tmp_path / "patch" / "walk.avi", "bb")
    (tmp_path / "blank-00.avi").write_bytes(b"junk")
    source = open_frame_source(tmp_path)
    assert [(f.clip, f.block) for f in source] == [
        ("clean-00", "clean"),
        *[("patch/walk", "patch")] * 2,
    ]
    assert len(source.warnings) == 1
    assert "blank-00.avi: did not open" in source.warnings[0]


def test_photos(tmp_path: Path, make_picture: Callable[..., np.ndarray]) -> None:
    """A photo is its own clip; photos in a sub-folder are one; a broken one is left out with a
    warning."""
    names = ("clean/a.png", "clean/b.png", "patch/walk1/1.png", "patch/walk1/2.png")
    for blue, name in enumerate(names):
        save_png(tmp_path / name, make_picture((200, 30, blue)))
    (tmp_path / "clean" / "c.png").write_bytes(b"")
    source = open_frame_source(tmp_path)
    assert [(f.clip, f.block) for f in source] == [
        ("clean/a", "clean"),
        ("clean/b", "clean"),
        ("patch/walk1", "patch"),
        ("patch/walk1", "patch"),
    ]
    assert len(source.warnings) == 1
    assert "c.png: empty file" in source.warnings[0]


def test_folder_without_pictures(tmp_path: Path) -> None:
    """The error about an empty folder names it and what it should hold."""
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CaptureError, match="holds neither videos nor photos"):
        open_frame_source(tmp_path)


def test_twin_folder_carries_its_truth(twin: Callable[..., Path]) -> None:
    """Frames of a twin have block and truth and are marked as simulation; max_frames is spread over
    the clips."""
    folder = twin({"clean-00": "rrrr", "patch-00": "rrrr", "patch-01": "bbbb"})
    source = open_frame_source(folder)
    frames = list(source)
    assert (source.kind, source.simulation, source.total, len(frames)) == ("twin", True, 12, 12)
    assert frames[4].truth is not None
    assert (frames[4].block, frames[4].truth["frame"]) == ("patch", 0)
    few = [(f.clip, f.index) for f in open_frame_source(folder, max_frames=4)]
    assert few == [
        *[("clean-00", i) for i in range(4)],
        ("patch-00", 0),
        ("patch-00", 2),
        ("patch-01", 1),
        ("patch-01", 3),
    ]


def test_twin_with_broken_settings(twin: Callable[..., Path]) -> None:
    """A twin.json that is no JSON is a named error, not a traceback."""
    folder = twin({"clean-00": "r"})
    (folder / "twin.json").write_text("{")
    with pytest.raises(CaptureError, match=r"twin\.json.?: it is no valid JSON"):
        open_frame_source(folder)


def test_twin_with_a_bad_truth(twin: Callable[..., Path]) -> None:
    """A truth row without its block names the file and the key."""
    folder = twin({"clean-00": "r"})
    (folder / "truth.jsonl").write_text('{"clip": "clean-00"}\n')
    with pytest.raises(CaptureError, match=r"truth\.jsonl.*block: is missing"):
        open_frame_source(folder)


def test_mjpeg_stream_until_it_ends(
    mjpeg_stream: Callable[..., str], make_picture: Callable[..., np.ndarray]
) -> None:
    """A live stream is read until it ends; the end is a warning, and earlier frames are kept."""
    url = mjpeg_stream([make_picture((200, 30, 30))] * 12, 0.05)
    source = open_frame_source(url, timeout_s=10)
    frames = list(source)
    assert source.live
    assert frames
    assert all(is_red(f.image) for f in frames)
    assert source.warnings == [
        f"{url} ended or broke after {len(frames)} frames; what was read is kept"
    ]


class SlowReaderCamera:
    """A fake device with a frame every 5 ms, each carrying its own number."""

    def __init__(self, frames: int) -> None:
        self.frames, self.number, self.released = frames, 0, False

    def read(self) -> tuple[bool, Any]:
        time.sleep(0.005)
        self.number += 1
        return self.number <= self.frames, np.full((4, 4, 3), min(self.number, 255), np.uint8)

    def release(self) -> None:
        self.released = True


def test_newest_frame_is_handed_on() -> None:
    """A slow reader receives the newest frame each time, never an old one or one twice; the device
    is released."""
    camera = SlowReaderCamera(200)
    newest = NewestFrame(camera)
    seen = []
    for _, image, number in newest:
        assert image[0, 0, 0] == min(number, 255)
        seen.append((number, camera.number))
        time.sleep(0.05)
        if len(seen) == 8:
            break
    newest.close()
    numbers = [n for n, _ in seen]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > 2 * len(numbers)  # most were dropped
    assert all(now - taken <= 2 for taken, now in seen)
    assert camera.released


def test_a_live_source_that_falls_silent_ends() -> None:
    """A device that blocks forever ends the loop after the limit, marked as stalled."""

    class Blocking:
        def read(self) -> tuple[bool, Any]:
            time.sleep(3)
            return False, None

        def release(self) -> None: ...

    newest = NewestFrame(Blocking(), stall_s=0.2)
    assert list(newest) == []
    assert newest.stalled


def test_block_names() -> None:
    """A name starts with its block, and only as a word of its own."""
    assert [block_of(n) for n in ("patch-03.avi", "clean", "Blank_1", "patchwork", "my-patch")] == [
        "patch",
        "clean",
        "blank",
        None,
        None,
    ]
