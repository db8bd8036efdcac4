"""What of a video's cloak survives H.264 at lower rates, and how steady it is on the face.

There are no videos of known people here, so each clip is a photo of the shared faces (of odd place,
which settings were chosen on) that drifts, turns and grows like a hand-held shot: 50 frames, 320 x
320 px. Every tenth frame is compared with four other photos of the person.

python benchmarks/cloak_video.py WORK [--people 3] [--mode mid]   # adds rows to cloak_video.jsonl
"""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from cloak import embedded, embedder, read_rows

from physadv.camera.video_reader import VideoReader
from physadv.core.image_io import Array, read_rgba
from physadv.core.torch_threads import calm_threads
from physadv.models.faces.face_detection import DetectedFace, SlimFinder
from physadv.privacy.cloak_faces import MODES
from physadv.privacy.photo_cloaker import PhotoCloaker
from physadv.privacy.video.cloak_video import cloak_video

HERE = Path(__file__).resolve().parent
FRAMES, SIDE, FPS = 50, 320, 25
CHANNELS: dict[str, tuple[float, str] | None] = {
    "as written": None,
    "crf 23": (1.0, "23"),
    "crf 30": (1.0, "30"),
    "half, 28": (0.5, "28"),
}
JUDGES = ("mobilefacenet", "edgeface-xs")


def drift(photo: Array, number: int) -> Array:
    """The photo as a hand-held camera sees it in one frame."""
    t = number / FRAMES
    scale = SIDE / min(photo.shape[:2]) * (1.05 + 0.15 * t)
    turn = cv2.getRotationMatrix2D(
        (photo.shape[1] / 2, photo.shape[0] / 2), 6 * np.sin(2 * np.pi * t), scale
    )
    turn[:, 2] += SIDE / 2 - np.array(photo.shape[1::-1]) / 2 + [8 * np.sin(5 * t), 6 * t]
    return np.asarray(cv2.warpAffine(photo, turn, (SIDE, SIDE), flags=cv2.INTER_CUBIC), np.uint8)


def encode(path: Path, frames: list[Array], crf: str, scale: float = 1.0) -> Path:
    """Write frames as H.264."""
    side = round(SIDE * scale / 2) * 2
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=FPS, options={"crf": crf})
        stream.width = stream.height = side
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, FPS)
        for number, picture in enumerate(frames):
            if scale < 1:
                picture = np.asarray(
                    cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
                )
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def decode(path: Path) -> list[Array]:
    """All frames of a video."""
    reader = VideoReader(path, path.name, 10.0)
    frames = [f.image for f in reader.frames(lambda number: True)]
    reader.close()
    return frames


def largest(rgb: Array, finder: SlimFinder) -> DetectedFace | None:
    """The largest face of a picture."""
    faces = finder(rgb)
    return max(faces, key=lambda f: np.ptp(f.marks["arc5"]), default=None)


@torch.no_grad()
def measure(work: Path, shared: Path, folder: Path, mode: str) -> list[dict[str, Any]]:
    """Rows of one person: similarity with other photos, uncloaked and cloaked, by channel."""
    finder = SlimFinder(shared / "data/weights/facedet_slim_biubug6.pth")
    nets = {name: embedder(shared, name) for name in JUDGES}
    first, *others = sorted(folder.iterdir())[:5]
    known: dict[str, list[torch.Tensor]] = {name: [] for name in nets}
    for path in others:
        rgb = np.ascontiguousarray(read_rgba(path)[..., :3])
        face = largest(rgb, finder)
        for name, net in nets.items():
            if face is not None:
                known[name].append(embedded(net, rgb, face, "png"))
    photo = np.ascontiguousarray(read_rgba(first)[..., :3])
    clips = {"uncloaked": [drift(photo, k) for k in range(FRAMES)]}
    source = encode(work / f"{folder.name}.mp4", clips["uncloaked"], "12")
    target = work / f"{folder.name}-{mode}.mp4"
    with torch.enable_grad():
        done = cloak_video(
            source, target, PhotoCloaker([finder], [nets["mobilefacenet"]], MODES[mode])
        )
    clips[mode] = decode(target)

    rows = []
    for label, frames in clips.items():
        for channel, how in CHANNELS.items():
            seen = frames
            if how is not None:
                seen = decode(encode(work / "seen.mp4", frames, how[1], how[0]))
            similar: dict[str, list[float]] = {name: [] for name in nets}
            for number in range(4, FRAMES, 10):
                face = largest(seen[number], finder)
                for name, net in nets.items():
                    if face is not None:
                        row = embedded(net, seen[number], face, "png")[None]
                        similar[name] += net.similarity(row, torch.stack(known[name]))[0].tolist()
            rows.append(
                {
                    "name": folder.name,
                    "label": label,
                    "channel": channel,
                    "seconds": round(done.seconds, 1),
                    "patches_max": done.tracks[0]["patches_max"],
                    "similar": {n: round(float(np.mean(v)), 4) for n, v in similar.items()},
                    "matched": {
                        n: [s > nets[n].card.thresholds[0.01] for s in v]
                        for n, v in similar.items()
                    },
                }
            )
    return rows


def main() -> None:
    """Measure people that have no rows yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared")
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--mode", default="mid")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    out = HERE / "cloak_video.jsonl"
    done = {row["name"] for row in read_rows(out)}
    folders = sorted(p for p in (chosen.shared / "data/faces").iterdir() if p.is_dir())[0::2]
    with calm_threads(1):
        for folder in folders[: chosen.people]:
            if folder.name not in done:
                for row in measure(chosen.work, chosen.shared, folder, chosen.mode):
                    with out.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(row) + "\n")
                    print(row["name"], row["label"], row["channel"], row["similar"], flush=True)


if __name__ == "__main__":
    main()
