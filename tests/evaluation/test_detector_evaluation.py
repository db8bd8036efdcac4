"""A detector's evaluation: rows, COCO's average precision of them, goals, resuming, findings."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from physadv.core.errors import DataError, ModelError, OptionError
from physadv.core.types import Detections
from physadv.datasets.detection import DetectionDataset, detection_in_memory
from physadv.evaluation.detector_evaluation import (
    block_figures,
    evaluate_detector,
    prepare_detector_evaluation,
)
from physadv.models.cards import LoadedModel
from physadv.models.load import as_model
from physadv.threat.constraints import LpBall


class Quarters(nn.Module):
    """A candidate on each quarter of an image; class 0 follows red, class 1 green."""

    def forward(self, x: Tensor) -> Detections:
        half = x.shape[-1] // 2
        corners = [(0, 0), (half, 0), (0, half), (half, half)]
        boxes = x.new_tensor([[a, b, a + half, b + half] for a, b in corners])
        means = [x[:, :2, b : b + half, a : a + half].mean((2, 3)) for a, b in corners]
        return Detections(
            boxes.expand(len(x), 4, 4), (12 * (torch.stack(means, 1) - 0.5)).sigmoid()
        )


def detector(**settings: Any) -> LoadedModel:
    settings = {"score_threshold": 0.4, **settings}
    return as_model(Quarters(), task="detect", classes=["red", "green"], **settings)


def scenes(count: int = 6, side: int = 16) -> DetectionDataset:
    """Images with a red object in one quarter; noise makes each another one."""
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for i in range(count):
        image = rng.integers(60, 90, (side, side, 3)).astype(np.uint8)
        half = side // 2
        a, b = (i % 2) * half, (i // 2 % 2) * half
        image[b : b + half, a : a + half, 0] = 150 + 5 * i
        images.append(image)
        boxes.append(np.array([[a, b, a + half, b + half]], np.float32))
    labels = [np.zeros(1, np.int64)] * count
    return detection_in_memory(images, boxes, labels, ("red", "green"))


def test_every_goal_is_met_at_a_large_radius_and_none_at_zero() -> None:
    """AP50 is 1 before; hidden objects are not found, and false boxes are counted."""
    result = evaluate_detector(detector(), scenes(), "linf:0.35", attack="pgd", steps=20)
    assert result.complete
    assert result.clean.ap50.value == 1.0
    assert result.clean.recall.rate == 1.0
    for goal, figures in result.goals.items():
        assert figures.success is not None
        assert figures.success.rate == 1.0, goal
    assert result.goals["hide"].recall.rate == 0
    assert result.goals["fabricate"].extra is not None
    assert result.goals["fabricate"].extra.value >= 1
    still = evaluate_detector(detector(), scenes(), "linf:0", attack="pgd")
    assert still.goals["hide"].success is not None
    assert still.goals["hide"].success.rate == 0
    assert still.goals["hide"].ap50.value == 1.0


def test_attacked_images_keep_the_ball_in_eight_bit() -> None:
    """The verdict is that of the rounded image, whose change stays inside."""
    task = prepare_detector_evaluation(
        detector(), scenes(2), "linf:8/255", attack="pgd", eight_bit=True, goals=["hide"]
    )
    kept: list[tuple[Tensor, Tensor]] = []
    evaluation = task.start(keep=lambda p, g, clean, moved, b, a: kept.append((clean, moved)))
    for _ in evaluation.run():
        pass
    for row in evaluation.ledger.rows.values():
        assert row["hide"]["distance"] <= 8 / 255 + 1e-6
    for clean, moved in kept:
        assert torch.equal(moved, (moved * 255).round() / 255)
        assert (moved - clean).abs().max() <= 8 / 255 + 1e-6


def test_average_precision_of_rows_is_that_of_the_reference() -> None:
    """Rows written as COCO's results give pycocotools the same AP and AP50."""
    coco = pytest.importorskip("pycocotools.coco", reason="the extra dev brings pycocotools")
    from pycocotools.cocoeval import COCOeval

    result = evaluate_detector(detector(), scenes(8), "linf:0.2", attack="pgd", steps=5)
    for block in ("clean", "hide", "fabricate", "mislabel"):
        truth, found = [], []
        for number, row in enumerate(result.rows, 1):
            for x0, y0, x1, y1, label, crowd, area in row["objects"]:
                truth.append(
                    {
                        **{"id": len(truth) + 1, "image_id": number, "category_id": int(label)},
                        **{"bbox": [x0, y0, x1 - x0, y1 - y0], "area": area, "iscrowd": crowd},
                    }
                )
            boxes = row[block] if block == "clean" else row[block]["found"]
            for x0, y0, x1, y1, score, label in boxes:
                box = [x0, y0, x1 - x0, y1 - y0]
                found.append(
                    {"image_id": number, "category_id": int(label), "bbox": box, "score": score}
                )
        with contextlib.redirect_stdout(io.StringIO()):
            data = coco.COCO()
            data.dataset = {
                "images": [{"id": n} for n in range(1, len(result.rows) + 1)],
                "categories": [{"id": c, "name": str(c)} for c in range(2)],
                "annotations": truth,
            }
            data.createIndex()
            judged = COCOeval(data, data.loadRes(found), "bbox")
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
        figures = block_figures(result.rows, block)
        assert figures.ap.value == pytest.approx(judged.stats[0], abs=1e-9), block
        assert figures.ap50.value == pytest.approx(judged.stats[1], abs=1e-9), block


def test_a_stopped_run_resumes_to_the_same_rows(tmp_path: Path) -> None:
    """Two images done, then all; a run of other settings is refused."""
    task = prepare_detector_evaluation(detector(), scenes(), "linf:0.2", attack="apgd", steps=4)
    steps = task.start(tmp_path / "a").run()
    for progress in steps:
        if progress.done == 2:
            break
    steps.close()
    first = task.start(tmp_path / "a")
    assert len(first.ledger.rows) == 2
    for _ in first.run():
        pass
    whole = task.start(tmp_path / "b")
    for _ in whole.run():
        pass
    assert first.ledger.rows == whole.ledger.rows
    other = prepare_detector_evaluation(detector(), scenes(), "linf:0.1", attack="apgd", steps=4)
    with pytest.raises(OptionError, match="another configuration"):
        other.start(tmp_path / "a")


def test_the_ensemble_adds_a_gradient_free_attack_and_says_where_it_is_better() -> None:
    """A detector whose gradient is cut is broken by square alone, and a finding says so."""

    class Masked(Quarters):
        def forward(self, x: Tensor) -> Detections:
            return super().forward((x * 255).round() / 255)

    model = as_model(Masked(), task="detect", classes=["red", "green"], score_threshold=0.4)
    result = evaluate_detector(model, scenes(4), "linf:0.45", goals=["hide"])
    names = [finding.name for finding in result.findings]
    assert names == ["black-box-better", "zero-gradient"]
    assert {row["hide"]["broken_by"] for row in result.rows} == {"square"}


def test_classes_that_find_nothing_are_doubted_in_red() -> None:
    """A model with its classes in another order has an AP50 of 0 on clean images."""
    model = as_model(Quarters(), task="detect", classes=["green", "red"], score_threshold=0.4)
    result = evaluate_detector(model, scenes(3), "linf:0", goals=["hide"], attack="fgsm")
    assert [(f.name, f.light) for f in result.findings] == [("nothing-found", "red")]


def test_a_ball_of_the_callers_is_rounded_when_asked() -> None:
    """8 bits are asked of a ball as of a text."""
    ball = LpBall("linf", 0.1)
    task = prepare_detector_evaluation(detector(), scenes(2), ball, attack="pgd", eight_bit=True)
    assert task.ball.levels == 255


def test_every_image_through_the_model_is_counted() -> None:
    """Those of the steps too: one clean, one attacked, and at least one a step and goal."""
    task = prepare_detector_evaluation(detector(), scenes(2), "linf:0.01", attack="pgd", steps=5)
    evaluation = task.start()
    for _ in evaluation.run():
        pass
    assert evaluation.result()["forwards"] >= 2 * (1 + 3 * (1 + 5))
    assert not evaluation.model._forward_hooks


def test_a_torch_data_set_of_targets_is_taken() -> None:
    """As torchvision's detectors take it: float images, boxes and labels as tensors."""
    inner = scenes(3)

    class Own(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> Any:
            image, objects = inner[i]
            target = {
                "boxes": torch.tensor(objects.boxes),
                "labels": torch.tensor(objects.labels),
            }
            return torch.tensor(image).movedim(-1, 0) / 255, target

    own = evaluate_detector(detector(), Own(), "linf:0.2", attack="pgd", steps=3)
    same = evaluate_detector(detector(), inner, "linf:0.2", attack="pgd", steps=3)
    assert own.rows == same.rows


def test_wrong_calls_are_named() -> None:
    """A classifier, an unknown goal, data of another form."""
    with pytest.raises(ModelError, match="classifier"):
        evaluate_detector(as_model(nn.Flatten()), scenes())
    with pytest.raises(OptionError, match="carries its own"):
        evaluate_detector(detector(), scenes(), weights="w.pth")
    with pytest.raises(OptionError, match="hide, fabricate, mislabel"):
        evaluate_detector(detector(), scenes(), goals=["vanish"])
    with pytest.raises(DataError, match="item 0"):
        evaluate_detector(detector(), [(np.zeros((4, 4, 3), np.uint8), 3)])


def write_yolo(folder: Path, count: int = 3) -> None:
    """A Roboflow folder of :func:`scenes`."""
    data = scenes(count, 32)
    (folder / "test/images").mkdir(parents=True)
    (folder / "test/labels").mkdir()
    (folder / "data.yaml").write_text("nc: 2\nnames: ['red', 'green']\n")
    for i, (image, objects) in enumerate(data):
        Image.fromarray(image).save(folder / f"test/images/{i}.png")
        x0, y0, x1, y1 = (v / 32 for v in objects.boxes[0].tolist())
        line = f"0 {(x0 + x1) / 2} {(y0 + y1) / 2} {x1 - x0} {y1 - y0}\n"
        (folder / f"test/labels/{i}.txt").write_text(line)


@pytest.mark.parametrize(
    "words", [("attack", "--steps", "5"), ("evaluate", "--detector-goal", "hide")]
)
def test_the_commands_attack_a_detector(tmp_path: Path, words: tuple[str, ...]) -> None:
    """From a Roboflow folder and a detector of the user's own to rows, pictures and a page."""
    from commandline import physadv

    write_yolo(tmp_path / "data")
    source = Path(__file__).read_text(encoding="utf-8")
    body = source[source.index("class Quarters") : source.index("def detector(")]
    head = "import torch\nfrom torch import Tensor, nn\nfrom physadv.core.types import Detections\n"
    tail = (
        "from physadv.models.load import as_model\n"
        "def net():\n    return as_model(Quarters(), task='detect', classes=['red', 'green'])\n"
    )
    (tmp_path / "quarters.py").write_text(f"{head}\n\n{body}{tail}")
    model = "quarters:net" if words[0] == "attack" else "quarters:net+median"
    common = ("--model", model, "--data", "data", "--threat", "linf:0.35")
    done = physadv(tmp_path, *words, *common, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["clean"]["ap50"]["value"] == 1.0
    assert result["goals"]["hide"]["success"]["n"] == 3
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "Objects found" in page
    assert "data:image/png" in page
    rows = (tmp_path / "run/rows.jsonl").read_text().splitlines()
    assert len(rows) == 3
    assert result["victim"].endswith("+median") == (words[0] == "evaluate")

    listed = physadv(tmp_path, "runs", ".")
    assert "3 of 3 images: " in listed.stdout + listed.stderr


def test_a_run_under_another_reading_of_the_model_is_another_run(tmp_path: Path) -> None:
    """Channels in another order give other figures, which must not go on from the rows of these."""
    from physadv.evaluation.config import AttackConfig
    from physadv_cli.evaluating_detectors import run_detector_evaluation
    from physadv_cli.runs import RunOptions

    write_yolo(tmp_path / "data", 2)
    settings = {"attack": "pgd", "steps": 2}

    def attack(**read: Any) -> None:
        config = AttackConfig(model="m.onnx", data=str(tmp_path / "data"), **read)
        run = RunOptions("attack", out=tmp_path / "run", quiet=True)
        with run.held:
            run_detector_evaluation(config, run, detector(), settings)

    attack()
    attack()
    with pytest.raises(OptionError, match="model_settings"):
        attack(bgr=True)


def test_pictures_of_items_are_read_by_what_they_are() -> None:
    """Palettes are colors and not their numbers, 16 bits are not white; other numbers are
    refused."""
    boxes = {"boxes": np.array([[0, 0, 8, 8]], np.float32), "labels": np.array([0])}
    red = np.zeros((16, 16, 3), np.uint8)
    red[:8, :8, 0] = 220
    deep = np.where(red[..., 0] > 0, 220 * 257, 0).astype(np.uint16)
    for picture in (Image.fromarray(red), Image.fromarray(red).quantize(), Image.fromarray(deep)):
        result = evaluate_detector(
            detector(), [(picture, boxes)], "linf:0", attack="pgd", goals=["hide"]
        )
        assert result.clean.recall.rate == 1
    for image in (red.astype(np.int64), np.full((16, 16, 3), np.nan, np.float32)):
        with pytest.raises(DataError, match="item 0"):
            evaluate_detector(detector(), [(image, boxes)], "linf:0", attack="pgd")


@pytest.mark.parametrize("settings", [{"limit": -1}, {"limit": 0}, {"steps": 0}, {"seed": 0.5}])
def test_numbers_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    """A limit below 1 takes no other images."""
    with pytest.raises(OptionError, match="is needed"):
        evaluate_detector(detector(), scenes(2), "linf:0.1", **settings)


def test_rows_that_were_not_copied_are_computed_again(tmp_path: Path) -> None:
    """Of a folder whose copy was cut short."""
    settings: dict[str, Any] = {"attack": "pgd", "goals": ["hide"], "steps": 2}
    first = evaluate_detector(detector(), scenes(3), "linf:0.1", out=tmp_path, **settings)
    rows = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(rows[:1]))
    again = evaluate_detector(detector(), scenes(3), "linf:0.1", out=tmp_path, **settings)
    assert again.complete
    assert again.rows == first.rows
