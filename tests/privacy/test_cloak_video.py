"""Videos: faces followed, a steady change laid onto them, sound, frame times and rotation kept."""

from __future__ import annotations

import struct
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from tinyface import drawn_photo, face_at, tiny_embedder

from physadv.camera.video_reader import VideoReader
from physadv.core.errors import ImageError, OptionError
from physadv.models.faces.face_detection import DetectedFace
from physadv.privacy.cloak_faces import MODES, FaceWindow
from physadv.privacy.embedding_loss import own_embeddings
from physadv.privacy.photo_cloaker import PhotoCloaker
from physadv.privacy.video.cloak_video import cloak_video
from physadv.privacy.video.face_tracks import follow_faces
from physadv.privacy.video.live_photos import cloak_live_videos, live_videos
from physadv.privacy.video.moved_change import FaceChange

HEAD = drawn_photo(70, 70, face_at(0, 0, 70))
SIZE = (112, 160)


def place_at(number: int) -> tuple[int, int]:
    """Where the head is in a frame."""
    return 10 + 2 * number, 20 + number // 2


def filmed(number: int) -> np.ndarray:
    """A frame: the head on a dark wall."""
    frame = np.full((*SIZE, 3), 12, np.uint8)
    x, y = place_at(number)
    frame[y : y + 70, x : x + 70] = HEAD
    return frame


def find_head(rgb: np.ndarray) -> list[DetectedFace]:
    """The head is where it is bright."""
    rows, columns = (np.flatnonzero((rgb.max(2) > 45).mean(k) > 0.2) for k in (1, 0))
    if len(rows) < 30:
        return []
    side = len(columns)
    return [face_at(float(columns[0]), float(rows[0]), float(side))]


def write_video(path: Path, frames: list[np.ndarray], times: list[float] | None = None) -> Path:
    """H.264 with a tone beside it."""
    times = [k / 25 for k in range(len(frames))] if times is None else times
    with av.open(str(path), "w") as out:
        out.metadata.update({"location": "+48.1000+011.5000/", "title": "at home"})
        stream: Any = out.add_stream("libx264", rate=25, options={"crf": "8"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        sound: Any = out.add_stream("aac", rate=16000)
        for time_s, picture in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        samples = round(16000 * (times[-1] + 0.04))
        tone = np.sin(np.arange(samples) / 8).astype(np.float32)[None]
        for start in range(0, samples - 1024, 1024):
            part = np.ascontiguousarray(tone[:, start : start + 1024])
            block = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            block.pts, block.rate, block.time_base = start, 16000, Fraction(1, 16000)
            out.mux(sound.encode(block))
        out.mux(sound.encode())
    return path


def read_video(path: Path) -> tuple[np.ndarray, list[float]]:
    """Pictures (n, h, w, 3) and times."""
    reader = VideoReader(path, path.name, 5.0)
    frames = list(reader.frames(lambda number: True))
    reader.close()
    return np.stack([f.image for f in frames]), [f.time_s for f in frames]


def sound_of(path: Path) -> list[bytes]:
    """The packets of the sound."""
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(container.streams.audio[0]) if p.size]


def cloaker(mode: str = "high", finder: Any = find_head) -> PhotoCloaker:
    """A cloaker of the drawn head."""
    return PhotoCloaker([finder], [tiny_embedder()], MODES[mode])


@pytest.fixture(scope="module")
def cloaked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """A clip of 30 frames at uneven times, cloaked: its file, the new file, the result."""
    folder = tmp_path_factory.mktemp("clip")
    times = np.cumsum([0.0] + [0.04, 0.05, 0.03] * 9 + [0.04, 0.04]).tolist()
    source = write_video(folder / "a.mp4", [filmed(k) for k in range(30)], times)
    return source, folder / "b.mp4", cloak_video(source, folder / "b.mp4", cloaker())


def test_frames_times_and_sound_are_kept(cloaked: tuple[Path, Path, Any]) -> None:
    """As many frames at the same uneven times; the sound's packets are the same bytes."""
    source, target, result = cloaked
    before, times = read_video(source)
    after, new_times = read_video(target)
    assert after.shape == before.shape
    assert result.frames == 30
    assert new_times == pytest.approx(times, abs=1e-3)
    assert sound_of(target) == sound_of(source)


def test_place_and_title_go(cloaked: tuple[Path, Path, Any]) -> None:
    """What the recording says of its owner is not in the new file."""
    source, target, _ = cloaked
    with av.open(str(source)) as container:
        assert "location" in container.metadata
    with av.open(str(target)) as container:
        assert not {"location", "title", "creation_time"} & set(container.metadata)
    assert b"loci" in source.read_bytes()
    assert b"loci" not in target.read_bytes()


def test_faces_change_and_the_rest_is_encoded_anew_alone(cloaked: tuple[Path, Path, Any]) -> None:
    """Beside the face no pixel differs by more than compression does; in it many do."""
    before, _ = read_video(cloaked[0])
    after, _ = read_video(cloaked[1])
    inside, outside = [], []
    for number in range(30):
        x, y = place_at(number)
        difference = np.abs(after[number].astype(int) - before[number])
        inside.append(difference[y + 10 : y + 60, x + 10 : x + 60].mean())
        difference[max(0, y - 6) : y + 76, max(0, x - 6) : x + 76] = 0
        outside.append(difference.mean())
    assert min(inside) > 4 * max(outside)
    assert max(outside) < 1


def test_the_change_is_steady_on_the_face(cloaked: tuple[Path, Path, Any]) -> None:
    """From one frame to the next the change on the moving face differs by far less than it is
    large: it does not flicker."""
    before, _ = read_video(cloaked[0])
    after, _ = read_video(cloaked[1])
    changes = []
    for number in range(0, 30, 2):  # places of even frames lie on whole pixels
        x, y = place_at(number)
        crop = np.s_[number, y + 8 : y + 62, x + 8 : x + 62]
        changes.append(after[crop].astype(float) - before[crop])
    size = np.mean([np.abs(c).mean() for c in changes])
    steps = [np.abs(b - a).mean() for a, b in pairwise(changes)]
    assert size > 2
    assert np.mean(steps) < 0.6 * size


def test_every_frame_moves_the_embedding_as_the_optimized_one_does(
    cloaked: tuple[Path, Path, Any],
) -> None:
    """The change is made on one frame; in the others, and after H.264, it works as well."""
    before, _ = read_video(cloaked[0])
    after, _ = read_video(cloaked[1])
    (track,) = cloaked[2].tracks
    assert len(track["optimized_on"]) == 1
    assert 0 < track["patches_max"] < 1.2 * MODES["high"].patches
    net, similar = tiny_embedder(), []
    for number in range(0, 30, 4):
        face = face_at(*place_at(number), 70)
        windows = (FaceWindow.around(frames[number], face) for frames in (before, after))
        own, changed = (own_embeddings(w.scene, w.face, net)[:1] for w in windows)
        similar.append(float(net.similarity(own, changed)))
    assert max(similar) < 0.96
    assert np.ptp(similar) < 0.15


def test_a_rotated_video_comes_upright(tmp_path: Path) -> None:
    """A phone stores a portrait lying, with a matrix: the new file shows it as players did."""
    lying = [np.ascontiguousarray(np.rot90(filmed(k))) for k in range(4)]
    source = write_video(tmp_path / "a.mov", lying)
    content = bytearray(source.read_bytes())
    start = content.find(b"tkhd") + 44
    for offset, value in zip((0, 4, 12, 16), (0, 1, -1, 0), strict=True):
        content[start + offset : start + offset + 4] = struct.pack(">i", value << 16)
    source.write_bytes(content)
    before, _ = read_video(source)
    assert before.shape[1:3] == SIZE
    cloak_video(source, tmp_path / "b.mov", cloaker())
    after, _ = read_video(tmp_path / "b.mov")
    assert after.shape == before.shape
    assert sound_of(tmp_path / "b.mov") == sound_of(source)


def test_nothing_is_written_without_a_face(tmp_path: Path) -> None:
    """Nothing unprotected can pass for protected."""
    source = write_video(tmp_path / "a.mp4", [np.full((48, 64, 3), 10, np.uint8)] * 3)
    with pytest.raises(ImageError, match="no face"):
        cloak_video(source, tmp_path / "b.mp4", cloaker())
    assert not (tmp_path / "b.mp4").exists()


def test_other_containers_and_the_original_are_refused(tmp_path: Path) -> None:
    """With what is taken, before anything is read."""
    with pytest.raises(OptionError, match="MP4, M4V and MOV"):
        cloak_video(tmp_path / "a.mkv", tmp_path / "b.mkv", cloaker())
    with pytest.raises(OptionError, match="original"):
        cloak_video(tmp_path / "a.mp4", tmp_path / "a.mp4", cloaker())


def test_a_face_is_followed_over_a_gap_and_two_stay_apart() -> None:
    """A face unseen for some frames is one track, in all frames between; a second is another."""
    found = [
        [face_at(10 + k, 10, 40)] * (k not in (3, 4)) + [face_at(100 - k, 10, 40)] * (k > 1)
        for k in range(10)
    ]
    first, second = follow_faces(found, 25.0, (80, 160))
    assert sorted(first.faces) == list(range(10))
    assert sorted(second.faces) == list(range(10))  # it is taken to be there shortly before
    for number, face in first.faces.items():
        assert face.marks["arc5"] == pytest.approx(
            face_at(10 + number, 10, 40).marks["arc5"], abs=0.3
        )


def test_a_wavering_detector_shakes_the_face_less() -> None:
    """Landmarks are smoothed over time."""
    rng = np.random.default_rng(0)
    found = [[face_at(*(20 + rng.normal(0, 1, 2)), 40)] for _ in range(40)]
    (track,) = follow_faces(found, 30.0, (90, 90))
    shaken = np.std([f.marks["arc5"] for f in track.found.values()], axis=0).mean()
    smooth = np.std([f.marks["arc5"] for f in track.faces.values()], axis=0).mean()
    assert smooth < 0.6 * shaken


def test_a_change_follows_a_turned_and_larger_face() -> None:
    """Taken off one face and laid onto the same face is the same; onto a face turned by 90 degrees,
    a turned change."""
    photo = np.full((120, 120, 3), 128, np.uint8)
    window = FaceWindow.around(photo, face_at(30, 30, 60))
    height, width = window.mask.shape[-2:]
    gain = torch.zeros(1, 1, height, width)
    gain[..., height // 4 : height // 2, width // 4 : width // 2] = 1
    flow = torch.zeros(1, 2, height, width)
    flow[:, 0] = 0.5
    change = FaceChange.taken(window, gain, flow)
    back = change.shares(window)
    assert float((back[0] - gain).abs().mean()) < 0.02
    assert float((back[1] - flow)[..., 3:-3, 3:-3].abs().max()) < 0.02

    face = face_at(30, 30, 60)
    marks = face.marks["arc5"] - 60
    turned = DetectedFace(1.0, {"arc5": np.stack([-marks[:, 1], marks[:, 0]], 1) + 60})
    gain_turned, flow_turned = change.shares(FaceWindow.around(photo, turned))
    assert float((gain_turned - gain.rot90(-1, (2, 3))).abs().mean()) < 0.02
    assert flow_turned[0, :, 30, 30].tolist() == pytest.approx([0.0, 0.5], abs=0.02)


def test_the_video_of_a_live_photo_is_cloaked_beside_it(tmp_path: Path) -> None:
    """A MOV belongs to the photo of its name in its folder, whatever the case; a broken one is told
    with its reason and the others follow; one that is there already stays."""
    album, out = tmp_path / "album", tmp_path / "out"
    for name in ("a/IMG_1.HEIC", "a/IMG_2.jpg", "a/IMG_2.MOV", "a/IMG_3.MOV", "IMG_1.MOV"):
        (album / name).parent.mkdir(parents=True, exist_ok=True)
        (album / name).write_bytes(b"x")
    write_video(album / "a/img_1.mov", [filmed(k) for k in range(3)])
    pairs = {"a/img_1.mov": "a/IMG_1.HEIC", "a/IMG_2.MOV": "a/IMG_2.jpg"}
    assert {v.name: v.photo for v in live_videos(album)} == pairs
    assert [v.name for v in live_videos(album / "a/IMG_2.jpg")] == ["IMG_2.MOV"]
    several = [str(album / name) for name in pairs.values()]
    assert sorted(v.name for v in live_videos(several)) == sorted(Path(n).name for n in pairs)

    def run() -> dict[str, str]:
        done = cloak_live_videos(
            album, out, cloaker("low"), progress=lambda name: lambda *told: None
        )
        return {v.name: v.status for v in done if bool(v.reason) == (v.status == "failed")}

    assert run() == {"a/img_1.mov": "cloaked", "a/IMG_2.MOV": "failed"}
    written = (out / "a/img_1.mov").read_bytes()
    assert not (out / "a/IMG_2.MOV").exists()
    assert run() == {"a/img_1.mov": "already there", "a/IMG_2.MOV": "failed"}
    assert (out / "a/img_1.mov").read_bytes() == written
