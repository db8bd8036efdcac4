"""Patches on photos, ensembles, looks and transfer, on small victims of the test's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from own_model import work_beside
from PIL import Image

from physadv.core.errors import BundleError, DataError, OptionError
from physadv.core.random_streams import numpy_generator
from physadv.core.rows import read_rows
from physadv.evaluation.metrics.detection import summarize_detection
from physadv.patches.bundle import PatchBundle, read_bundle
from physadv.patches.config import PatchConfig
from physadv.patches.patch_run import PatchRun
from physadv.patches.reverify import config_from_bundle, locate_files, verify_bundle
from physadv.patches.task import PatchTask, class_name_for
from physadv.patches.transfer import transfer_matrix, transfer_table
from physadv.threat.printability import in_palette, parse_palette

MODELS = """
import torch
from physadv.core.types import Detections
from physadv.models.load import as_model

class Colors(torch.nn.Module):
    def __init__(self, order):
        super().__init__()
        self.order = order
    def forward(self, x):
        return 30 * x.mean((2, 3))[:, self.order]

class Cells(torch.nn.Module):
    # One candidate a cell of a 4 x 4 grid; "person" scores by how much redder it is than green.
    def forward(self, x):
        b, _, h, w = x.shape
        cells = torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(2)
        y, x0 = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
        corners = [x0 * w / 4, y * h / 4, (x0 + 1) * w / 4, (y + 1) * h / 4]
        boxes = torch.stack(corners, -1).view(1, 16, 4)
        score = torch.sigmoid(16 * (cells[:, 0] - cells[:, 1]) - 2)
        blue = torch.sigmoid(16 * (cells[:, 2] - cells[:, 1]) - 2)
        return Detections(boxes.expand(b, 16, 4), torch.stack([score, blue], 2))

def rgb(): return as_model(Colors([0, 1, 2]), classes=["red", "green", "blue"], input_size=48)
def bgr(): return as_model(Colors([2, 1, 0]), classes=["blue", "green", "red"], input_size=32)
def cells(): return as_model(Cells(), classes=["person", "blue"], input_size=64, task="detect")
"""


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixteen photos: red and green ones, a red square of one cell in the middle of each green
    one."""
    work_beside("small_models", MODELS, tmp_path, monkeypatch)
    folder, rng = tmp_path / "photos", numpy_generator(0, "photos")
    folder.mkdir()
    lines = ["file,class"]
    for number in range(16):
        image = rng.integers(60, 90, (64, 64, 3)).astype(np.uint8)
        image[..., number % 2] += 90
        if number % 2:
            image[16:32, 16:32] = (200, 40, 40)
        Image.fromarray(image).save(folder / f"{number:02}.png")
        lines.append(f"{number:02}.png,{('red', 'green')[number % 2]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


BASE = PatchConfig(
    model="small_models:rgb",
    photos="photos",
    object="anywhere",
    goal="targeted",
    target_class="blue",
    steps=25,
    draws=4,
    lr=0.1,
    test_draws=40,
    resolution=8,
    size_mm=(100, 100),
    share=(0.7, 0.9),
    eot="default",
)
WORN = replace(
    BASE,
    model="small_models:cells",
    object="person",
    goal="vanish",
    target_class=None,
    share=(0.5, 0.7),
    steps=15,
)


def made(settings: PatchConfig, out: Path) -> PatchBundle:
    run = PatchRun(settings, out)
    for _ in run.steps(validate_every=5):
        pass
    return run.finish()[0]


def test_a_universal_patch_turns_every_photo(photos: Path, tmp_path: Path) -> None:
    """Optimized on some photos it turns others to the target; the blank does not; the card names no
    place or sign."""
    bundle = made(BASE, tmp_path / "out")
    card = read_bundle(bundle.folder).card
    assert card.heldout["success"]["rate"] > 0.9
    assert card.heldout["blank_success"]["rate"] < 0.1
    assert card.patch.true_class == "anywhere"
    assert card.placement.sign == "anywhere"
    assert card.placement.area_share == pytest.approx(0.64, abs=0.02)
    assert float(bundle.patch[:, 2].mean()) > float(bundle.patch[:, :2].mean()) + 0.3
    with pytest.raises(BundleError, match="built-in models only"):
        verify_bundle(read_bundle(bundle.folder))
    assert verify_bundle(read_bundle(bundle.folder), given={"model": BASE.model}).agrees
    train, test = (
        set(PatchTask.from_config(BASE).scene_sources.train.sample(60, *_view()).groups),
        set(PatchTask.from_config(BASE).scene_sources.test.sample(60, *_view()).groups),
    )
    assert not train & test
    assert len(test) >= 3


def _view() -> tuple[object, ...]:
    from physadv.eot.ranges import EotRanges
    from physadv.eot.scenes.signs import SceneSize

    return SceneSize(32, False), EotRanges(), numpy_generator(0, "v")


def test_without_labels_the_models_own_answer_is_the_truth(photos: Path) -> None:
    """The notes say whose labels they are, and photos of the target class are left out."""
    (photos / "labels.csv").unlink()
    notes = " ".join(PatchTask.from_config(BASE).scene_sources.notes)
    assert "own answer" in notes
    task = PatchTask.from_config(replace(BASE, target_class="red"))
    assert "8 photos left out" in " ".join(task.scene_sources.notes)


def test_a_worn_patch_hides_what_the_detector_found(photos: Path, tmp_path: Path) -> None:
    """Its own clean detections are the labels; misses, AP and extra boxes are on the card, each
    with its controls."""
    bundle = made(WORN, tmp_path / "out")
    card = read_bundle(bundle.folder).card
    assert card.placement.sign == "person"
    assert card.patch.true_class == "person"
    assert "itself detects as person" in " ".join(card.heldout["notes"])
    blocks = card.heldout["detection"]
    assert blocks["patch"]["fnr"]["rate"] > blocks["clean"]["fnr"]["rate"]
    assert blocks["patch"]["ap50"]["value"] < blocks["clean"]["ap50"]["value"]
    assert blocks["clean"]["extra_boxes"]["value"] == 0
    rows = list(read_rows(bundle.folder / "rows.jsonl"))
    again = summarize_detection(rows, "patch")
    assert again is not None
    assert again.fnr.rate == pytest.approx(blocks["patch"]["fnr"]["rate"])


def test_boxes_can_be_given(photos: Path, tmp_path: Path) -> None:
    """boxes.csv takes the place of the victim's own detections; a file that is not there is
    named."""
    (tmp_path / "b.csv").write_text("file,x0,y0,x1,y1\n01.png,16,16,32,32\n03.png,16,16,32,32\n")
    notes = " ".join(PatchTask.from_config(replace(WORN, boxes="b.csv")).scene_sources.notes)
    assert "boxes from b.csv" in notes
    assert "2 objects in 2 of 16" in notes
    with pytest.raises(DataError, match="does not exist"):
        PatchTask.from_config(replace(WORN, boxes="c.csv"))


def test_a_box_is_created_where_none_is(photos: Path, tmp_path: Path) -> None:
    """Anywhere in a photo a detector is made to see a class that the clean photo does not hold
    there."""
    settings = replace(
        WORN, object="anywhere", goal="create", target_class="blue", share=(0.3, 0.5)
    )
    card = made(settings, tmp_path / "out").card
    assert card.heldout["success"]["rate"] > card.heldout["blank_success"]["rate"] + 0.3
    assert card.heldout["detection"]["patch"]["extra_boxes"]["value"] > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"object": "person"}, "classifier"),
        ({"photos": None}, "--photos"),
        ({"model": "small_models:cells"}, "create"),
        ({"share": (0.5, 0.2)}, "--share"),
        ({"ensemble": ("small_models:cells",)}, "ensemble"),
        ({"palette": "#12"}, "#12"),
    ],
)
def test_what_has_no_sense_is_said_in_one_line(
    photos: Path, change: dict[str, object], said: str
) -> None:
    """Boxes of a classifier, no photos, a target anywhere for a detector, mixed ensembles, bad
    palettes: each named."""
    with pytest.raises(OptionError, match=said):
        PatchTask.from_config(replace(BASE, **change))  # type: ignore[arg-type]


def test_an_ensemble_counts_classes_as_each_model_does(photos: Path, tmp_path: Path) -> None:
    """Blue is class 2 of the one and 0 of the other: the patch beats both, and the card has a rate
    for each."""
    settings = replace(BASE, ensemble=("small_models:bgr",))
    task = PatchTask.from_config(settings)
    assert [g.target_class for g in task.goals] == [2, 0]
    assert task.scene_size.size == 48
    card = made(settings, tmp_path / "out").card
    assert card.heldout["success"]["rate"] > 0.8
    assert card.heldout["further_victims"]["small_models:bgr"]["success"]["n"] > 0


def test_a_palette_is_kept_to_the_bit(photos: Path, tmp_path: Path) -> None:
    """Every pixel of the written patch is one of the colors given, and it still succeeds."""
    bundle = made(replace(BASE, palette="#102080, #c0c0c0 #000"), tmp_path / "out")
    palette = parse_palette("#102080,#c0c0c0,#000")
    assert torch.equal(in_palette(bundle.patch, palette), bundle.patch)
    assert bundle.card.heldout["success"]["rate"] > 0.5


def test_a_content_picture_is_stayed_near(photos: Path, tmp_path: Path) -> None:
    """The heavier the weight the nearer the picture; with none the patch leaves it."""
    Image.fromarray(np.full((20, 20, 3), (200, 180, 40), np.uint8)).save("yellow.png")
    picture = torch.tensor([200, 180, 40]).view(1, 3, 1, 1) / 255
    far, near = (
        float(
            (
                made(
                    replace(BASE, content="yellow.png", content_weight=w, steps=12),
                    tmp_path / f"{w}",
                ).patch
                - picture
            )
            .abs()
            .mean()
        )
        for w in (0.0, 500.0)
    )
    assert near < 0.5 * far


def test_transfer_asks_each_model_in_its_own_terms(photos: Path, tmp_path: Path) -> None:
    """Same scenes, own classes, own controls; what has no sense is a cell with its reason; rows
    hold it all."""
    universal, worn = (
        made(replace(BASE, steps=12), tmp_path / "u"),
        made(replace(WORN, steps=6), tmp_path / "w"),
    )
    cells = list(transfer_matrix([universal, worn], ["small_models:rgb", "small_models:cells"]))
    assert [c.model for c in cells] == ["small_models:rgb", "small_models:cells"] * 2
    assert cells[0].measured is not None
    assert cells[0].measured.rows == tuple(read_bundle_rows(universal))
    assert cells[1].goal == "create"
    assert cells[1].measured is not None
    assert cells[2].measured is None
    assert "classifier" in cells[2].reason
    row = cells[3].as_row()
    assert row["same_victim"] is True
    assert {"success", "blank_success", "clean_recognised", "detection"} <= set(row)
    text = transfer_table(cells)
    assert text.count("\n") == 3
    assert "| - |" in text


def read_bundle_rows(bundle: PatchBundle) -> list[dict[str, object]]:
    return list(read_rows(bundle.folder / "rows.jsonl"))


def test_stop_signs_have_many_names() -> None:
    """stop, stop sign, street sign: whichever the victim knows; other names are left alone."""
    assert class_name_for("stop", ("car", "stop sign")) == "stop sign"
    assert class_name_for("stop sign", ("stop", "yield")) == "stop"
    assert class_name_for("stop", ("traffic light", "street sign")) == "street sign"
    assert class_name_for("car", ("stop",)) == "car"


def test_files_on_the_card_are_found_under_a_data_folder(photos: Path, tmp_path: Path) -> None:
    """Relative names are looked for here, under --data and in the bundle; what is nowhere is named
    with its source."""
    bundle = made(replace(BASE, steps=1, test_draws=4), tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    photos.rename(tmp_path / "elsewhere" / "photos")
    found = locate_files(config_from_bundle(bundle), bundle, tmp_path / "elsewhere")
    assert found.photos == str(tmp_path / "elsewhere" / "photos")
    told = replace(bundle, card=replace(bundle.card, data={"photos": "from the moon"}))
    with pytest.raises(DataError, match="from the moon"):
        locate_files(config_from_bundle(told), told)
