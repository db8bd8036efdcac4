"""Recordings are read as players show them, and whatever cannot be shown so is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorTrc
from PIL import Image

from physadv.camera.frames import CameraFrame
from physadv.camera.open_source import VIDEO_SUFFIXES, open_frame_source
from physadv.core.errors import CaptureError
from physadv.core.image_io import save_png

VIDEOS = Path(__file__).parent / "videos"


def read(path: Path) -> tuple[list[CameraFrame], list[str]]:
    source = open_frame_source(path)
    return list(source), source.warnings


def ramp(number: int, size: tuple[int, int] = (96, 64)) -> np.ndarray:
    """A picture (h, w, 3) bright at its upper left, unlike any of another number."""
    x, y = np.meshgrid(np.linspace(1, 0, size[0]), np.linspace(1, 0, size[1]))
    gray = 30 + 150 * x * y + 4 * number
    return np.repeat(gray[..., None], 3, 2).astype(np.uint8)


def encode(
    path: Path,
    images: Sequence[np.ndarray],
    times: Sequence[int] | None = None,
    codec: str = "libx264",
    **properties: Any,
) -> Path:
    """Write a video with 10 ticks a second; ``times`` are the frames' ticks."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *images[0].shape[1::-1], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        stream.codec_context.gop_size = 4
        # What an encoder of several threads writes depends on the machine's number of cores.
        stream.codec_context.thread_count = 1
        for name, value in properties.items():
            setattr(stream.codec_context, name, value)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, 10)
            for name in {"color_trc", "color_primaries"} & set(properties):
                setattr(frame, name, properties[name])
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def with_matrix(video: Path, path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Copy an MP4 with the display matrix (a, b, c, d), which players apply to each picture."""
    content = bytearray(video.read_bytes())
    start = content.find(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    content[start : start + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(content)
    return path


def test_an_interlaced_video_is_deinterlaced_and_said() -> None:
    """An AVCHD clip shows what the same clip shows in progressive form, with no frame twice."""
    frames, warnings = read(VIDEOS / "clean.mts")
    wanted, silent = read(VIDEOS / "progressive.mp4")
    assert (len(frames), silent) == (12, [])
    assert ["is interlaced: deinterlaced" in line for line in warnings] == [True]
    assert not any(np.array_equal(a.image, b.image) for a, b in pairwise(frames))
    for frame, progressive in zip(frames, wanted, strict=True):
        difference = frame.image.astype(int) - progressive.image
        assert np.abs(difference).mean() < 4


def test_pixels_that_are_not_square_are_made_square() -> None:
    """A stored 320x480 with pixels twice as wide as high is 640x480, as players show it."""
    frames, warnings = read(VIDEOS / "sar.mp4")
    assert frames[0].image.shape == (480, 640, 3)
    assert warnings == []


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    ],
    ids=["upright", "right", "upside-down", "left", "mirrored", "flipped", "transposed"],
)
def test_rotation_and_mirror_of_the_container(
    tmp_path: Path,
    matrix: tuple[int, int, int, int],
    shown: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Each display matrix of multiples of 90 degrees turns the stored pixels and nothing else."""
    stored = encode(tmp_path / "stored.mp4", [ramp(0)])
    turned = with_matrix(stored, tmp_path / "turned.mp4", matrix)
    assert np.array_equal(read(turned)[0][0].image, shown(read(stored)[0][0].image))


def test_a_turn_by_another_angle_is_said(tmp_path: Path) -> None:
    """A matrix that shears or turns by no multiple of 90 degrees is not silently dropped."""
    video = with_matrix(encode(tmp_path / "a.mp4", [ramp(0)]), tmp_path / "b.mp4", (1, 1, -1, 1))
    assert ["no multiple of 90 degrees" in line for line in read(video)[1]] == [True]


def test_hdr_is_tone_mapped_and_said(tmp_path: Path) -> None:
    """HLG, as phones film, and PQ come with a warning about their colors; SDR with none."""
    frames, warnings = read(VIDEOS / "hlg.mov")
    assert len(frames) == 12
    assert ["is HDR (HLG, BT.2020)" in line for line in warnings] == [True]

    tags = {"color_trc": ColorTrc.SMPTE2084, "color_primaries": ColorPrimaries.BT2020}
    _, warnings = read(encode(tmp_path / "pq.mp4", [ramp(0)], **tags))
    assert ["is HDR (PQ, BT.2020)" in line for line in warnings] == [True]
    assert read(encode(tmp_path / "sdr.mp4", [ramp(0)]))[1] == []


def test_av1_is_read() -> None:
    """AV1, as phones record their screen, is a video like any other."""
    frames, warnings = read(VIDEOS / "av1.mp4")
    assert (len(frames), frames[0].image.shape, warnings) == (12, (480, 640, 3), [])


def test_times_of_a_variable_frame_rate_are_its_own(tmp_path: Path) -> None:
    """Frames at 0, 0.1, 0.7 and 2 s have these times, and clips are cut by them."""
    video = encode(tmp_path / "vfr.mkv", [ramp(n) for n in range(4)], times=[0, 1, 7, 20])
    frames = list(open_frame_source(video, clip_seconds=0.5))
    assert [f.time_s for f in frames] == pytest.approx([0, 0.1, 0.7, 2.0])
    assert [f.clip for f in frames] == ["vfr@000", "vfr@000", "vfr@001", "vfr@004"]


def test_frames_that_repeat_exactly_count_once(tmp_path: Path) -> None:
    """A frozen source gives one frame however long it is, and a copied clip none, with a word."""
    folder = tmp_path / "clips"
    folder.mkdir()
    frozen = [ramp(0)] * 6 + [ramp(5)]
    encode(folder / "patch-0.avi", frozen, codec="ffv1")
    shutil.copy(folder / "patch-0.avi", folder / "patch-1.avi")
    shutil.copy(folder / "patch-0.avi", folder / "clean-0.avi")
    frames, warnings = read(folder)
    assert [(f.block, f.clip, f.index) for f in frames] == [
        (block, f"{block}-0", index) for block in ("clean", "patch") for index in (0, 6)
    ]
    assert [line.partition(" frames ")[0] for line in warnings] == [
        "clean-0: 5 of 7",
        "patch-0: 5 of 7",
        "patch-1: 7 of 7",
    ]


def test_photos_that_repeat_exactly_count_once(tmp_path: Path) -> None:
    """A photo saved twice is one photo, with a word."""
    for name, number in (("a", 0), ("b", 1), ("c", 0)):
        save_png(tmp_path / f"{name}.png", ramp(number))
    frames, warnings = read(tmp_path)
    assert [f.clip for f in frames] == ["a", "b"]
    assert warnings == ["c.png: 1 of 1 photo repeats an earlier one exactly; not counted as new"]


def test_a_twin_is_not_filmed_and_keeps_its_frames(twin: Callable[..., Path]) -> None:
    """A simulated clip has its own truth, and its frames count though they are alike."""
    assert len(read(twin({"clean-00": "rrr"}))[0]) == 3


@pytest.mark.parametrize("name", ["anim.gif", "anim.webp", "anim.png"])
def test_an_animated_picture_is_a_recording(tmp_path: Path, name: str) -> None:
    """GIF, WebP and PNG animations give each of their pictures, at its time."""
    pictures = [Image.fromarray(ramp(10 * n)) for n in range(4)]
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=80)
    frames, warnings = read(tmp_path / name)
    assert (len(frames), warnings) == (4, [])
    assert [f.time_s for f in frames] == pytest.approx([0, 0.08, 0.16, 0.24])
    assert len(read(VIDEOS / "anim.gif")[0]) == 4


def test_pages_of_a_photo_are_named(tmp_path: Path) -> None:
    """A TIFF of two pages is a photo, and its second page is not dropped without a word."""
    pages = [Image.fromarray(ramp(10 * n)) for n in range(2)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    frames, warnings = read(tmp_path / "scan.tif")
    assert len(frames) == 1
    assert ["the first of its 2 pictures" in line for line in warnings] == [True]


def test_every_kind_of_video_counts_in_a_folder(tmp_path: Path) -> None:
    """A folder takes what is read when named alone, whatever the case of its suffix."""
    shutil.copy(VIDEOS / "clean.3gp", tmp_path / "clean.3gp")
    shutil.copy(VIDEOS / "clean.mts", tmp_path / "patch.MTS")
    frames, _ = read(tmp_path)
    assert {f.clip for f in frames} == {"clean", "patch"}
    assert {".mts", ".m2ts", ".3gp", ".webm", ".mkv", ".mov", ".wmv"} <= VIDEO_SUFFIXES


def test_what_a_folder_holds_and_is_not_read_is_named(tmp_path: Path) -> None:
    """A file of an unknown kind beside videos, and photos beside them, are told of."""
    shutil.copy(VIDEOS / "sar.mp4", tmp_path / "clean.mp4")
    (tmp_path / "patch.braw").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    save_png(tmp_path / "photo.png", ramp(0))
    _, warnings = read(tmp_path)
    assert warnings == [
        f"not read: 1 photo beside the videos in {tmp_path}",
        f"of no kind that is read: 1 file in {tmp_path}, patch.braw",
    ]


def test_a_truncated_video_keeps_what_was_read(tmp_path: Path) -> None:
    """A file that ends early gives its sound frames and a warning; none of them is stale."""
    for number in range(3):
        whole = encode(tmp_path / "whole.ts", [ramp(n) for n in range(24)], codec="mpeg2video")
        content = whole.read_bytes()
        cut = tmp_path / f"cut-{number}.ts"
        cut.write_bytes(content[: len(content) * (number + 1) // 4])
        frames, _ = read(cut)
        assert 0 < len(frames) < 24
        assert len({f.image.tobytes() for f in frames}) == len(frames)


def test_a_decoder_that_fails_is_seen(tmp_path: Path) -> None:
    """With its picture data overwritten a video gives no frame, and the error names its codec."""
    content = bytearray(encode(tmp_path / "a.mp4", [ramp(n) for n in range(8)]).read_bytes())
    start = content.find(b"mdat") + 4
    end = content.find(b"moov") - 4
    content[start:end] = bytes(end - start) if end > start else b""
    (tmp_path / "broken.mp4").write_bytes(content)
    with pytest.raises(CaptureError, match=r"broken\.mp4: none of its h264 frames could be"):
        read(tmp_path / "broken.mp4")


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "mp4"), ("mpeg2video", "ts")])
def test_damaged_frames_are_left_out(tmp_path: Path, codec: str, suffix: str) -> None:
    """No frame is judged that a decoder patched up: what is given is what was filmed, and what is
    not is counted."""
    whole = encode(tmp_path / f"a.{suffix}", [ramp(n, (320, 240)) for n in range(30)], codec=codec)
    filmed = {f.image.tobytes() for f in read(whole)[0]}
    content = bytearray(whole.read_bytes())
    generator = np.random.default_rng(0)
    for at in generator.integers(len(content) // 3, len(content) // 2, 40):
        content[at] = int(generator.integers(256))
    (tmp_path / f"damaged.{suffix}").write_bytes(content)
    frames, warnings = read(tmp_path / f"damaged.{suffix}")
    assert 0 < len(frames) < 30
    assert {f.image.tobytes() for f in frames} <= filmed
    assert ["frames damaged; left out" in line for line in warnings] == [True]


def test_a_file_without_pictures_says_so(tmp_path: Path) -> None:
    """A recording of sound alone is named as such, not as damaged."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(CaptureError, match="holds no video"):
        open_frame_source(tmp_path / "a.mp4")
