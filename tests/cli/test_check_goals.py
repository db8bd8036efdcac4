"""Every goal of `physadv check` from films to the report, with a detector of the user's own and as
a user runs it: where the patch wins, where it does not, and where a control fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from capture_fixtures import numbered
from commandline import physadv

DETECTOR = """
import torch
from torch import nn
from physadv import as_model
from physadv.core.types import Detections

COLORS = torch.eye(3)


class Blobs(nn.Module):
    '''One box around what is red (a stop sign), green (a person) or blue (a toaster) in each half
    of a picture; the score is 0.9.'''

    def forward(self, images):
        width = images.shape[-1]
        boxes, scores = [], []
        for image in images:
            of_image, of_scores = [], []
            for first, last in ((0, width // 2), (width // 2, width)):
                for number in range(3):
                    others = [c for c in range(3) if c != number]
                    is_it = (image[number] > 0.6) & (image[others].amax(0) < 0.4)
                    columns = torch.zeros(width, dtype=torch.bool)
                    columns[first:last] = True
                    rows_at, columns_at = (is_it & columns).nonzero(as_tuple=True)
                    seen = len(rows_at) > 20
                    low = (columns_at.min(), rows_at.min()) if seen else (0, 0)
                    high = (columns_at.max() + 1, rows_at.max() + 1) if seen else (1, 1)
                    of_image.append([float(v) for v in (*low, *high)])
                    of_scores.append(COLORS[number] * (0.9 if seen else 0.01))
            boxes.append(torch.tensor(of_image))
            scores.append(torch.stack(of_scores))
        return Detections(torch.stack(boxes), torch.stack(scores))


def blobs():
    names = ["stop sign", "person", "toaster"]
    return as_model(Blobs(), task="detect", classes=names, input_size=(120, 160))
"""
RED, GREEN, BLUE, GRAY = (30, 30, 220), (30, 220, 30), (220, 30, 30), (128, 128, 128)  # BGR
BOX = "50,30,78,90"


def film(path: Path, colors: str, *, beside: tuple[int, int, int] | None = None) -> Path:
    """Write frames with an object of each color in the box: r, g, b, or - for none; another object
    is ``beside`` it, in the right half."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120))
    for number, color in enumerate(colors):
        frame = np.full((120, 160, 3), 128, np.uint8)
        frame[30:90, 50:78] = {"r": RED, "g": GREEN, "b": BLUE, "-": GRAY}[color]
        if beside is not None:
            frame[30:90, 100:130] = beside
        writer.write(numbered(frame, number))
    writer.release()
    return path


def check(
    folder: Path,
    films: tuple[str, str, str],
    *goal: str,
    beside: tuple[int, int, int] | None = None,
) -> dict[str, Any]:
    """Film patch, clean and blank, run the command, and return its answer."""
    (folder / "own.py").write_text(DETECTOR)
    for name, colors in zip(("patch", "clean", "blank"), films, strict=True):
        film(folder / f"{name}.avi", colors, beside=beside)
    place = ("--locate", "box", "--box", BOX)
    controls = ("--clean", "clean.avi", "--blank", "blank.avi")
    words = ("check", "patch.avi", *controls, "--model", "own:blobs", "--trust", *place, *goal)
    done = physadv(folder, *words, "--out", "out", "--json")
    assert done.returncode == 0, done.stderr
    assert (folder / "out" / "report.html").is_file()
    return dict(json.loads(done.stdout))


STOP, PERSON = ("--true-class", "stop sign"), ("--true-class", "person")
TOASTER = ("--target", "toaster")


@pytest.mark.parametrize(
    ("goal", "films", "success"),
    [
        (("--goal", "vanish", *STOP), ("--r-", "rrrr", "rrrr"), 0.75),
        (("--goal", "untargeted", *STOP), ("-rbr", "rrrr", "rrrr"), 0.5),
        # That nothing is seen in its place is no misclassification.
        (("--goal", "misclassify", *STOP), ("bb-r", "rrrr", "rrrr"), 0.5),
        (("--goal", "misclassify", *STOP, *TOASTER), ("bg-r", "rrrr", "rrrr"), 0.25),
        (("--goal", "targeted", *STOP, *TOASTER), ("bbgr", "rrrr", "rrrr"), 0.5),
        (("--goal", "create", *TOASTER), ("bbb-", "----", "----"), 0.75),
        (("--goal", "vanish", *PERSON), ("--gg", "gggg", "gggg"), 0.5),
    ],
)
def test_each_goal_from_films_to_the_report(
    tmp_path: Path, goal: tuple[str, ...], films: tuple[str, str, str], success: float
) -> None:
    """The share of frames that meet the goal is the one filmed, and both controls hold."""
    said = check(tmp_path, films, *goal)
    assert said["blocks"]["patch"]["attack_success_rate"] == success
    assert said["blocks"]["clean"]["attack_success_rate"] == 0
    assert said["blocks"]["blank"]["attack_success_rate"] == 0
    assert said["blocks"]["patch"]["frames"] == 4


def test_another_object_in_view_is_not_the_one(tmp_path: Path) -> None:
    """The person in the box is hidden in every frame, the one beside stays: that is success, and
    the other way round it is none."""
    said = check(tmp_path, ("----", "gggg", "gggg"), "--goal", "vanish", *PERSON, beside=GREEN)
    assert said["blocks"]["patch"]["attack_success_rate"] == 1

    (tmp_path / "seen").mkdir()
    said = check(tmp_path / "seen", ("gggg", "gggg", "gggg"), "--goal", "vanish", *PERSON)
    assert said["blocks"]["patch"]["attack_success_rate"] == 0


def test_a_toaster_beside_the_sign_is_not_created_by_the_patch(tmp_path: Path) -> None:
    """What stands beside the patch all the time is not its work, in any block."""
    said = check(tmp_path, ("rrrr", "rrrr", "rrrr"), "--goal", "create", *TOASTER, beside=BLUE)
    assert said["blocks"]["patch"]["attack_success_rate"] == 0


def test_a_model_that_misses_the_clean_object_proves_nothing(tmp_path: Path) -> None:
    """The sign vanishes in every block: no success is claimed."""
    said = check(tmp_path, ("----", "----", "----"), "--goal", "vanish", *STOP)
    assert said["valid"] is False
    assert "clean" in said["headline"].lower()
