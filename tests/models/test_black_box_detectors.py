"""Detectors behind an address or a command: boxes over the wire, attacks and checks by them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import physadv as program
from forked import Faults, shared_server
from PIL import Image
from reference_server import ReferenceBox, python_words, red_boxes, served
from small_commands import SMALL_COMMANDS

import physadv
from physadv.core.errors import ModelError
from physadv.core.types import Detections
from physadv.models.detectors import predict_boxes

CLASSES = ["car", "stop sign"]
ABOUT = {"task": "detect", "classes": CLASSES, "score_threshold": 0.3}
DETECT = """\
import json, sys
import numpy as np
from PIL import Image

def answer(name):
    pixels = np.asarray(Image.open(name).convert("RGB")) / 255
    rows, columns = np.nonzero(pixels[..., 0] - pixels[..., 1:].mean(2) > 0.2)
    if len(rows) == 0:
        return {"boxes": [], "scores": [], "labels": []}
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return {"boxes": [[int(v) for v in box]], "scores": [0.9], "labels": [1]}

if len(sys.argv) > 1:
    print(json.dumps({"detections": [answer(name) for name in sys.argv[1:]]}))
else:
    for line in sys.stdin:
        print(json.dumps(answer(line.strip())), flush=True)
"""


def street(*, red: bool, side: int = 64) -> torch.Tensor:
    """A gray picture (3, side, side), with a red square from a quarter to three quarters of it."""
    image = torch.full((3, side, side), 0.4)
    if red:
        image[0, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 0.9
    return image


@pytest.fixture(scope="module")
def detector() -> Iterator[tuple[str, ReferenceBox]]:
    """The address of a detector of red things."""
    box = ReferenceBox(red_boxes, ABOUT)
    with served(box) as url:
        yield url, box


def test_boxes_are_those_that_were_answered(detector: tuple[str, ReferenceBox]) -> None:
    """Each in px of the image, with its score and class; an image without boxes has none."""
    model = physadv.load_model(detector[0])
    assert model.card.task == "detect"
    assert model.card.classes == tuple(CLASSES)
    with_box, without = predict_boxes(model, torch.stack([street(red=True), street(red=False)]))
    assert with_box.boxes.tolist() == [[16, 16, 48, 48]]
    assert with_box.labels.tolist() == [1]
    expected = red_boxes(street(red=True)[None])[0]["scores"][0]
    assert with_box.scores[0] == pytest.approx(expected, abs=0.01)  # 8 bits a channel
    assert len(without) == 0


def test_no_box_is_suppressed_here() -> None:
    """Boxes come after the box's own suppression: two of one class that overlap both count, and
    those under the threshold that it states do not."""
    boxes = [[0, 0, 10, 10], [0, 0, 10, 11], [5, 5, 9, 9]]
    entry = {"boxes": boxes, "scores": [0.9, 0.8, 0.2], "labels": [0, "car", 1]}
    with served(ReferenceBox(lambda images: [entry] * len(images), ABOUT)) as url:
        (found,) = predict_boxes(physadv.load_model(url), street(red=True)[None])
    assert found.boxes.tolist() == boxes[:2]


def test_sizes_are_brought_to_what_the_box_states() -> None:
    """A stated input size is sent, and boxes come back in px of the image that was asked about."""
    seen: list[tuple[int, ...]] = []

    def answer(images: torch.Tensor) -> list[dict[str, object]]:
        seen.append(tuple(images.shape[-2:]))
        return red_boxes(images)

    with served(ReferenceBox(answer, {**ABOUT, "input_size": [128, 128]})) as url:
        (found,) = predict_boxes(physadv.load_model(url), street(red=True)[None])
    assert seen == [(128, 128)]
    assert torch.allclose(found.boxes, torch.tensor([[16.0, 16, 48, 48]]), atol=0.6)


@pytest.mark.parametrize("words", ["{images}", "{lines}"])
def test_a_command_answers_boxes(tmp_path: Path, words: str) -> None:
    """What it is shows in its first answer; its class names are given."""
    (tmp_path / "detect.py").write_text(DETECT)
    command = f"command:{python_words()} '{tmp_path / 'detect.py'}' {words}"
    with pytest.raises(ModelError, match="--classes"):
        physadv.load_model(command)
    model = physadv.load_model(command, settings={"classes": CLASSES})
    found = model(torch.stack([street(red=False), street(red=True)]))
    assert isinstance(found, Detections)
    assert found.boxes[1, 0].tolist() == [16, 16, 48, 48]
    assert found.scores[:, 0].tolist() == [[0.0, 0.0], [0.0, pytest.approx(0.9)]]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"boxes": [[0, 0, 9, 9]], "scores": [0.5], "labels": ["bus"]}, "'bus'"),
        ({"boxes": [[0, 0, 9, 9]], "scores": [0.5], "labels": [2]}, "'2'"),
        ({"boxes": [[0, 0, 9, 9]], "scores": [1.5], "labels": [0]}, "outside of"),
        ({"boxes": [[0, 0, 9, 9]], "scores": [], "labels": [0]}, "several lengths"),
        ({"boxes": [[30, 30, 9, 9]], "scores": [0.5], "labels": [0]}, "corners"),
        ({"boxes": [[0.1, 0.1, 0.9, 0.9]], "scores": [0.5], "labels": [0]}, "corners"),
        ({"boxes": [[0, 0, 9]], "scores": [0.5], "labels": [0]}, "boxes"),
        ({"boxes": [[0, 0, 9, 9]], "labels": [0]}, "scores: is missing"),
    ],
)
def test_odd_boxes_are_one_error(entry: dict[str, object], words: str) -> None:
    """What is no box in px, such as width and height or shares, is named with what is expected."""
    box = ReferenceBox(red_boxes, ABOUT)
    with served(box) as url:
        model = physadv.load_model(url)
        box.answer = json.dumps({"detections": [entry]}).encode()
        with pytest.raises(ModelError, match=words):
            model(street(red=True)[None])


def test_a_task_that_is_not_the_stated_one_is_named() -> None:
    """Scores from a detector, and boxes where outputs of a classifier are stated."""
    box = ReferenceBox(red_boxes, ABOUT)
    with served(box) as url:
        model = physadv.load_model(url)
        box.answer = b'{"scores": [[0.5, 0.5]]}'
        with pytest.raises(ModelError, match="task is detect"):
            model(street(red=True)[None])
        box.answer = None
        stated = physadv.load_model(url, settings={"outputs": "logits"})
        with pytest.raises(ModelError, match="answers with boxes"):
            stated(street(red=True)[None])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLO set of red squares, and frames of one."""
    folder = tmp_path_factory.mktemp("detectors")
    source = np.random.default_rng(0)
    for kind in ("images", "labels", "views/clean", "views/blank", "views/patch"):
        (folder / kind).mkdir(parents=True)
    (folder / "data.yaml").write_text("names: [car, stop sign]\n")
    for number in range(3):
        pixels = street(red=True).permute(1, 2, 0).numpy() * 255
        pixels = (pixels + source.integers(-5, 5, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{number}.png")
        (folder / f"labels/{number}.txt").write_text("1 0.5 0.5 0.5 0.5\n")
        for block in ("clean", "blank", "patch"):
            Image.fromarray(pixels).save(folder / f"views/{block}/{number}.png")
    return folder


def test_a_detector_that_answers_is_attacked(
    place: Path, detector: tuple[str, ReferenceBox], tmp_path: Path
) -> None:
    """By scores alone, which the result says, with the queries that the server has seen."""
    url, box = detector
    before = box.images
    words = ("evaluate", "--model", url, "--data", ".", "--threat", "linf:0.4", "--limit", "1")
    goals = ("--detector-goal", "hide", "--split", "all")
    done = program(place, *words, *goals, "--json", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["attacks"] == "square"
    assert "no-gradient" in {doubt["name"] for doubt in result["doubts"]}
    assert result["queries"] == box.images - before
    assert result["clean"]["ap50"]["value"] == pytest.approx(1, abs=0.01)
    assert result["goals"]["hide"]["success"]["rate"] == 1


@pytest.mark.slow
def test_a_detector_that_answers_goes_from_model_check_to_sticker_and_check(
    place: Path, tmp_path: Path
) -> None:
    """``models check``, a patch by scores of few steps, and a check of frames with it."""
    with served(ReferenceBox(red_boxes, {**ABOUT, "input_size": [128, 128]})) as url:
        _from_model_check_to_check(url, place, tmp_path)


def _from_model_check_to_check(url: str, place: Path, tmp_path: Path) -> None:
    looked = program(place, "models", "check", url, "--photos", "images", "--json")
    assert looked.returncode == 0, looked.stderr
    assert json.loads(looked.stdout)["facts"]["task"] == "detect"

    small, sticker = SMALL_COMMANDS["patch"], str(tmp_path / "sticker")
    words = (*small.words, "--model", url, "--goal", "vanish", "--true-class", "stop sign")
    made = shared_server().run(
        place, *words, "--out", sticker, "--json", faults=Faults(code=small.code)
    )
    assert made.code == 0, made.stderr
    assert json.loads(made.stdout)["queries"] > 0

    blocks = ("views", "--bundle", sticker, "--locate", "box", "--box", "16,16,48,48")
    out = ("--out", str(tmp_path / "checked"), "--json")
    checked = program(place, "check", *blocks, "--model", url, *out)
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["blocks"]["clean"]["frames"] == 3
