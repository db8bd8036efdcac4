"""The benchmark of patches: pasting, optimization, rows, table, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from study_runs import quick_page, rows_after_a_stop
from torch import Tensor, nn

from physadv.core.errors import DataError, ModelError
from physadv.core.trust import only_code_named
from physadv.core.types import Detections
from physadv.evaluation.detection_samples import image_detections
from physadv.evaluation.metrics.coco_average_precision import CocoMatches
from physadv.models.load import as_model
from physadv.studies.attack_studies_config import PatchBenchmarkConfig
from physadv.studies.page import Matrix, Table
from physadv.studies.patch_benchmark import (
    PATCH_PX,
    SIDE,
    STUDY,
    Photo,
    optimize_hiding_patch,
    paste,
    study_parts,
)
from physadv.studies.study import study_rows


class Red(nn.Module):
    """One box in the middle half of the frame, whose score follows its red."""

    def forward(self, x: Tensor) -> Detections:
        side = x.shape[-1]
        low, high = side // 4, 3 * side // 4
        red = (x[:, 0] - x[:, 2])[:, low:high, low:high].mean((1, 2))
        score = (20 * (red - 0.25)).sigmoid()[:, None, None]
        box = x.new_tensor([[[low, low, high, high]]]).float()
        return Detections(box.repeat(len(x), 1, 1), score)


SOURCE = """
import torch
from torch import nn, Tensor
from physadv.core.types import Detections
from physadv.models.load import as_model

{body}

def net():
    return as_model(Red(), task="detect", classes=["person", "car"][:1])
"""


def photos(folder: Path, count: int = 6) -> Path:
    """Blue photos with a red square in the middle, as a YOLO set."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text("names: [person]\n")
    for i in range(count):
        pixels = np.zeros((120, 120, 3), np.uint8)
        pixels[..., 2] = 60
        pixels[30:90, 30:90, 0] = 160 + 10 * i
        Image.fromarray(pixels).save(folder / f"images/{i}.png")
        (folder / f"labels/{i}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    return folder


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PatchBenchmarkConfig:
    """A quick configuration with a detector of the user's own."""
    text = Path(__file__).read_text(encoding="utf-8")
    body = text[text.index("class Red") : text.index("SOURCE = ")]
    (tmp_path / "red_detector.py").write_text(SOURCE.format(body=body))
    monkeypatch.syspath_prepend(str(tmp_path))
    data = photos(tmp_path / "data")
    return PatchBenchmarkConfig(
        data=str(data), detector=("red_detector:net",), behind=("median",), quick=True
    )


def test_a_patch_covers_the_middle_of_each_object_and_nothing_else() -> None:
    """In its color and size; gradients reach the patch alone."""
    images = torch.rand(2, 3, 40, 60)
    boxes = [torch.tensor([[10.0, 10, 30, 30], [40.0, 0, 60, 20]]), torch.zeros(0, 4)]
    patch = torch.zeros(1, 3, PATCH_PX, PATCH_PX, requires_grad=True)
    shown = paste(images, patch + torch.tensor([0.5, 0.2, 0.3]).view(1, 3, 1, 1), boxes)
    changed = (shown != images).any(1)
    assert not changed[1].any()
    assert changed[0, 15:25, 15:25].all()
    assert int(changed[0].sum()) == 200
    assert torch.allclose(shown[0, :, 20, 20], torch.tensor([0.5, 0.2, 0.3]), atol=1e-6)
    shown.sum().backward()
    assert patch.grad is not None
    assert float(patch.grad.sum()) == pytest.approx(600, rel=1e-3)


@pytest.mark.parametrize("attack", ["gradient", "square"])
def test_the_patch_learns_to_hide(attack: str) -> None:
    """Less red than gray, so that the score falls; by gradient and by scores alone."""
    model = as_model(Red(), task="detect", classes=["person"])
    image = torch.zeros(3, SIDE, SIDE)
    quarter = SIDE // 4
    image[0, quarter:-quarter, quarter:-quarter] = 0.5
    box = torch.tensor([[quarter, quarter, 3 * quarter, 3 * quarter]]).float()
    photo = Photo("a", image, box, torch.zeros(1, dtype=torch.bool))

    class Steps(PatchBenchmarkConfig):
        patch_steps, search_steps, photos_a_step = 25, 60, 1  # type: ignore[assignment]

    config = Steps(data="none")
    patch = optimize_hiding_patch(config, model, 0, [photo], 0, attack)
    assert float((patch[:, 0] - patch[:, 2]).mean()) < -0.25
    before = float(model(image[None]).scores)
    assert float(model(paste(image[None], patch, [box])).scores) < before


def test_the_table_holds_every_attack_on_every_defense(
    config: PatchBenchmarkConfig, tmp_path: Path
) -> None:
    """Clean frames are right, the page states AP50 and the share found with intervals, and a run
    that was stopped gives the same rows."""
    with only_code_named(list(config.detector)):
        page = quick_page(STUDY, config, tmp_path / "run")
        rows = study_rows(STUDY, config, tmp_path / "run")
        assert rows_after_a_stop(STUDY, config, tmp_path / "other", 1) == rows
    assert [part.name for part in study_parts(config)] == [
        "red_detector:net+none",
        "red_detector:net+median",
    ]
    attacks = {row["attack"] for row in rows["red_detector:net+median"]}
    assert attacks == {"clean", "gray", "noise", "gradient", "square", "adaptive"}
    matrix = next(f for f in page.figures if isinstance(f, Matrix) and f.name.startswith("ap50-"))
    assert matrix.values[0][0] == 1.0
    table = next(f for f in page.figures if isinstance(f, Table))
    assert len(table.rows) == 5 + 6
    assert page.answer.startswith("Red_detector:net's AP50 of person is ")


def test_what_is_wrong_is_named(config: PatchBenchmarkConfig, tmp_path: Path) -> None:
    """Too few photos with the object, and a class that the detector has not."""
    few = photos(tmp_path / "few", 2)
    values = {"detector": config.detector, "quick": True}
    with only_code_named(list(config.detector)):
        with pytest.raises(DataError, match="At least four"):
            quick_page(STUDY, PatchBenchmarkConfig(data=str(few), **values), tmp_path / "a")
        other = PatchBenchmarkConfig(data=config.data, object_class="boat", **values)
        with pytest.raises(ModelError, match="boat"):
            quick_page(STUDY, other, tmp_path / "b")


def test_the_tables_of_the_page_are_those_of_the_rows() -> None:
    """AP50 of each detector, defense and attack in docs/studies.md, computed again from the rows
    that are kept."""
    root = Path(__file__).resolve().parents[2]
    by_cell: dict[tuple[str, str], list[Any]] = {}
    for line in (root / "benchmarks/study_patches.jsonl").read_text().splitlines():
        row = json.loads(line)
        by_cell.setdefault((row["part"], row["attack"]), []).append(row)
    attacks = ("clean", "gray", "noise", "gradient", "square", "adaptive")
    page = (root / "docs/studies.md").read_text()
    for name, detector in (("FastestDet", "fastestdet"), ("YOLOX-Nano", "yolox-nano")):
        table = page[page.index(f"| {name} behind |") :].split("\n\n")[0].splitlines()[2:]
        assert len(table) == 5
        for line in table:
            defense, *shown = [cell.strip() for cell in line.strip("|").split("|")]
            part = f"{detector}+{'none' if defense == 'nothing' else defense}"
            part += ":side128" if defense == "remover" else ""
            for attack, cell in zip(attacks, shown, strict=True):
                rows = by_cell.get((part, attack), [])
                assert bool(cell) == bool(rows)
                if rows:
                    assert len(rows) == 32
                    found = [image_detections(row["found"], row["objects"]) for row in rows]
                    ap50 = CocoMatches(found).average_precision().ap50
                    assert cell.startswith(f"{100 * ap50:.0f} % ["), (part, attack, ap50)
