"""Detectors of torchvision and ultralytics, tested with stand-ins that have the same interfaces.

Neither library is installed here (torchvision has no build for this torch, ultralytics is
AGPL-3.0): what is shown is that models of these shapes are opened rightly, not that every release
of the libraries keeps its shape.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.types import Detections
from physadv.defenses.load_model import load_model
from physadv.models.checks import check_model
from physadv.models.hub_models import _hf_table, load_hf
from physadv.models.load import as_model

ROOT = Path(__file__).resolve().parents[2]


class Predictor(nn.Module):
    """Where torchvision's two-stage nets keep their number of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_score = nn.Linear(2, 3)


class Heads(nn.Module):
    """roi_heads: two fixed proposals that overlap, scored by red and green; then threshold, NMS and
    a limit."""

    def __init__(self) -> None:
        super().__init__()
        self.box_predictor = Predictor()
        self.score_thresh, self.nms_thresh, self.detections_per_img = 0.5, 0.5, 1
        self.mask_roi_pool: nn.Module | None = nn.Identity()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        boxes = torch.tensor([[2.0, 2.0, 10.0, 10.0], [2.0, 2.0, 10.0, 9.0]])
        scores, labels = image[:2].mean((1, 2)), torch.tensor([1, 2])
        keep = (scores > self.score_thresh).nonzero()[:, 0]
        keep = keep[scores[keep].argsort(descending=True)]
        if self.nms_thresh < 0.8:  # the two overlap by 7/8
            keep = keep[:1]
        keep = keep[: self.detections_per_img]
        assert self.mask_roi_pool is None or not hasattr(self, "forbid_masks")
        return {"boxes": boxes[keep], "labels": labels[keep], "scores": scores[keep]}


class TwoStage(nn.Module):
    """A list of images in, a list of dicts out, as torchvision's GeneralizedRCNN."""

    def __init__(self) -> None:
        super().__init__()
        self.transform, self.roi_heads = nn.Identity(), Heads()

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert isinstance(images, list)
        return [self.roi_heads(image) for image in images]


def test_a_torchvision_detector_is_opened() -> None:
    """Candidates under its threshold and under its suppression come out, with gradients; the user's
    model stays."""
    mine = TwoStage()
    model = as_model(mine, classes=["__background__", "person", "sign"])
    images = torch.zeros(2, 3, 16, 16)
    images[0, 0], images[0, 1], images[1, 1] = 0.9, 0.3, 0.2
    found = model(images.requires_grad_())
    assert isinstance(found, Detections)
    assert found.scores.shape == (2, 2, 3)
    assert found.scores[0].detach().tolist() == [
        [0, pytest.approx(0.9), 0],
        [0, 0, pytest.approx(0.3)],
    ]
    assert found.scores[1].detach().max() == pytest.approx(0.2)
    assert found.boxes[0, 0].tolist() == [2, 2, 10, 10]
    (gradient,) = torch.autograd.grad(found.scores[0, 1, 2], images)
    assert float(gradient[0, 1].sum()) == pytest.approx(1)
    assert model.card.task == "detect"
    assert (
        mine.roi_heads.score_thresh,
        mine.roi_heads.nms_thresh,
        mine.roi_heads.detections_per_img,
    ) == (0.5, 0.5, 1)
    assert isinstance(mine.roi_heads.mask_roi_pool, nn.Identity)
    check_model(model, images.detach().clamp(0.05, 1))


def test_a_picture_without_candidates_is_an_empty_answer() -> None:
    """Black pictures give one candidate of score zero, not an error."""
    found = as_model(TwoStage(), classes=["none", "person", "sign"])(torch.zeros(1, 3, 16, 16))
    assert found.scores.shape == (1, 1, 3)
    assert float(found.scores.sum()) == 0


def test_a_detector_that_cannot_be_opened_is_refused() -> None:
    """Without a suppression to open, the line says so and what to return instead."""
    closed = TwoStage()
    del closed.roi_heads.nms_thresh
    with pytest.raises(ModelError, match="nms_thresh"):
        as_model(closed)


class YoloNet(nn.Module):
    """ultralytics' DetectionModel: names, stride, model; in eval mode (predictions, feature
    maps)."""

    def __init__(self) -> None:
        super().__init__()
        self.names, self.stride = {0: "person", 1: "stop sign"}, torch.tensor([32.0])
        self.model = nn.Sequential(nn.Identity())
        self.end_to_end = False

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        assert images.shape[-1] % 32 == 0
        if self.end_to_end:
            return torch.zeros(len(images), 300, 6), []
        red = images[:, 0].mean((1, 2))
        line = torch.tensor([320.0, 160.0, 64.0, 32.0]).repeat(len(images), 1)
        return torch.cat([line, red[:, None], 1 - red[:, None]], 1)[..., None].repeat(1, 1, 5), [
            images
        ]


class Yolo(nn.Module):
    """ultralytics.YOLO: a wrapper whose own call predicts on files and whose train() starts a
    training."""

    def __init__(self, task: str = "detect") -> None:
        super().__init__()
        self.model, self.task = YoloNet(), task

    def train(self, mode: bool = True) -> Yolo:
        raise AssertionError("a training was started")

    def eval(self) -> Yolo:
        return self

    def forward(self, images: Tensor) -> list[str]:
        raise AssertionError("the predictor was called")


@pytest.mark.parametrize("make", [Yolo, YoloNet])
def test_an_ultralytics_model_is_opened(make: type[nn.Module]) -> None:
    """The net inside is called, in its own input size; names and boxes come out in the picture's
    pixels."""
    model = as_model(make())
    found = model(torch.full((2, 3, 320, 320), 0.25))
    assert model.card.classes == ("person", "stop sign")
    assert found.scores.shape == (2, 5, 2)
    assert found.scores[0, 0].tolist() == pytest.approx([0.25, 0.75])
    assert found.boxes[0, 0].tolist() == pytest.approx([144, 72, 176, 88])
    assert model.card.extra["score_threshold"] == 0.25


def test_what_ultralytics_suppresses_itself_is_refused() -> None:
    """An end-to-end answer (b, 300, 6) and a task without boxes are named, with what to do."""
    net = YoloNet()
    net.end_to_end = True
    with pytest.raises(ModelError, match="before suppression"):
        as_model(net)(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ModelError, match="classify"):
        as_model(Yolo("classify"))


def test_module_factory_finds_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--model mine:make` opens a detector of either shape without another word."""
    (tmp_path / "my_yolo.py").write_text(
        "from test_adapters import Yolo\n\ndef make():\n    return Yolo()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert load_model("my_yolo:make").card.task == "detect"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvision:fasterrcnn_resnet50_fpn", r"pip install 'physadv\[torchvision\]'"),
        ("ultralytics:nowhere/yolo11n.pt", "nothing is downloaded"),
        ("timm:resnet50", r"pip install 'physadv\[timm\]'"),
        ("timm:resnet50@nowhere.pth", "no such file"),
        ("hf:nowhere", "nothing is downloaded"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the library, or without the file, one line tells how to get it."""
    for library in ("torchvision.models", "timm", "transformers"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModelError, match=said):
        load_model(name)


def test_transformers_missing_with_its_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is judged before the library is asked for: another kind, no weights, a pickle."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    config = tmp_path / "config.json"
    config.write_text('{"architectures": ["ViTForImageClassification"], "model_type": "vit"}')
    with pytest.raises(ModelError, match="holds none of"):
        load_model(f"hf:{tmp_path}")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle of more than weights"):
        load_model(f"hf:{tmp_path}")
    torch.save({"w": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pip install 'physadv\[hf\]'"):
        load_model(f"hf:{tmp_path}")


VIT = '{"architectures": ["ViTForImageClassification"], "model_type": "vit"%s}'


class FakeTransformers(types.ModuleType):
    """A library that notes what it is asked, and finds the weights ``missing``."""

    def __init__(self, missing: tuple[str, ...] = ()) -> None:
        super().__init__("transformers")
        self.hub = types.ModuleType("huggingface_hub")
        self.hub.constants = types.SimpleNamespace(HF_HUB_OFFLINE=False)  # type: ignore[attr-defined]
        self.settings = types.SimpleNamespace(
            use_pretrained_backbone=True, num_labels=2, id2label={0: "car", 1: "stop"}
        )
        self.missing, self.asked = missing, list[dict[str, Any]]()
        self.AutoConfig = self.AutoModelForImageClassification = self

    def from_pretrained(self, folder: str, **options: Any) -> Any:
        self.asked.append({**options, "offline": self.hub.constants.HF_HUB_OFFLINE})
        if "config" not in options:
            return self.settings
        net = torch.nn.Linear(2, 2)
        net.config = self.settings  # type: ignore[assignment]
        return net, {"missing_keys": set(self.missing)}


def hf_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, library: FakeTransformers, more: str = ""
) -> str:
    """A folder for the fake library, with ``more`` entries in its configuration."""
    monkeypatch.setitem(sys.modules, "transformers", library)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library.hub)
    (folder / "config.json").write_text(VIT % more)
    torch.save({"w": torch.zeros(1)}, folder / "pytorch_model.bin")
    return str(folder)


def test_a_folder_of_transformers_asks_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration may name a backbone on the Hub: the library is kept offline meanwhile, and
    neither code nor weights are taken from elsewhere."""
    library = FakeTransformers(missing=("bn.num_batches_tracked",))
    _, table = load_hf(hf_folder(tmp_path, monkeypatch, library), None)
    assert table["classes"] == ["car", "stop"]
    assert all(asked["offline"] and asked["local_files_only"] for asked in library.asked)
    assert not any(asked["trust_remote_code"] for asked in library.asked)
    assert library.settings.use_pretrained_backbone is False
    assert library.hub.constants.HF_HUB_OFFLINE is False


def test_weights_that_are_not_whole_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would draw those that are missing at random."""
    library = FakeTransformers(missing=("head.weight", "head.bias"))
    with pytest.raises(ModelError, match=r"2 weights are missing, such as head\.bias"):
        load_hf(hf_folder(tmp_path, monkeypatch, library), None)


def test_a_configuration_names_no_kernel_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be fetched and run."""
    library = FakeTransformers()
    more = ', "text_config": [{"attn_implementation": "someone/kernel"}]'
    with pytest.raises(ModelError, match="names no code"):
        load_hf(hf_folder(tmp_path, monkeypatch, library, more), None)
    assert library.asked == []


def test_preprocessing_of_transformers_is_read() -> None:
    """Sizes, crops, means and factors of the processors of ViT, ConvNeXT, CLIP and RT-DETR."""
    norm = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    vit = _hf_table({"size": {"height": 64, "width": 48}, "resample": 3, **norm}, detects=False)
    assert (vit["input_size"], vit["resize"], vit["interpolation"]) == (
        (64, 48),
        "stretch",
        "bicubic",
    )
    assert (vit["mean"], vit["std"]) == ([0.5] * 3, [0.25] * 3)
    convnext = {"size": {"shortest_edge": 224}, "crop_pct": 0.875}
    found = _hf_table(convnext, detects=False)
    assert (found["input_size"], found["short_side"]) == ((224, 224), 256)
    crop = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
    found = _hf_table({"size": {"shortest_edge": 256}, **crop}, detects=False)
    assert (found["input_size"], found["short_side"]) == ((224, 224), 256)
    found = _hf_table({"size": {"height": 256, "width": 256}, **crop}, detects=False)
    assert (found["resize"], found["short_side"], found["input_size"]) == (
        "stretch",
        256,
        (224, 224),
    )
    found = _hf_table({"size": 224, "crop_pct": 0.875}, detects=False)  # ResNet's, as first written
    assert (found["input_size"], found["short_side"]) == ((224, 224), 256)
    assert "input_size" not in _hf_table({"size": {"shortest_edge": 800}}, detects=True)
    assert _hf_table({"do_rescale": False, "size": 32}, detects=False)["scale"] == 255


def test_ultralytics_missing_with_its_file_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is here, the library is not: the line names the extra and its license."""
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    (tmp_path / "y.pt").write_bytes(b"x")
    with pytest.raises(ModelError, match="AGPL"):
        load_model(f"ultralytics:{tmp_path / 'y.pt'}")


def stub_torchvision(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    """A torchvision.models with one detector and one classifier, and their tables of weights."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 2))

        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) @ self.weight

    shown = types.SimpleNamespace(
        crop_size=[32],
        resize_size=[40],
        mean=[0.5] * 3,
        std=[0.5] * 3,
        interpolation=types.SimpleNamespace(value="bicubic"),
        antialias=False,
    )
    det = types.SimpleNamespace(
        url="https://x/det-1234.pth",
        meta={"categories": ["bg", "person", "sign"], "_metrics": {"C": {"box_map": 1.0}}},
    )
    cls = types.SimpleNamespace(
        url="https://x/cls-1234.pth",
        transforms=lambda: shown,
        meta={"categories": ["a", "b"], "_metrics": {"I": {"acc@1": 1.0}}},
    )
    all_models = types.ModuleType("torchvision.models")
    all_models.list_models = lambda: ["det", "cls"]  # type: ignore[attr-defined]
    all_models.get_model_weights = lambda n: types.SimpleNamespace(
        DEFAULT=det if n == "det" else cls
    )  # type: ignore[attr-defined]
    all_models.get_model = lambda n, **_: TwoStage() if n == "det" else Net()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", all_models)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))


def test_torchvision_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names load what is in torch's cache, with classes and preprocessing of its table, and never
    fetch it."""
    stub_torchvision(monkeypatch, tmp_path)
    with pytest.raises(ModelError, match="DEFAULT"):
        load_model("torchvision:det")
    with pytest.raises(ModelError, match="id you mean"):
        load_model("torchvision:dett")
    (tmp_path / "checkpoints").mkdir()
    for name in ("det", "cls"):
        torch.save({"weight": torch.ones(1)}, tmp_path / "checkpoints" / f"{name}-1234.pth")
    detector, classifier = load_model("torchvision:det"), load_model("torchvision:cls")
    assert detector.card.class_index("sign") == 2
    assert isinstance(detector(torch.rand(1, 3, 16, 16)), Detections)
    assert classifier.card.task == "classify"
    logits = classifier(torch.full((1, 3, 64, 48), 0.75))
    assert logits.tolist() == [[pytest.approx(1.5), pytest.approx(1.5)]]


def test_nothing_imports_them_unasked() -> None:
    """Importing every module of the library leaves torchvision and ultralytics out; the imports
    stand in functions."""
    names = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in sorted((ROOT / "physadv").rglob("*.py"))
        if p.name != "__init__.py" and "_data" not in p.parts
    ]
    code = (
        f"import importlib, sys\nfor n in {names!r}:\n    try:\n        "
        "importlib.import_module(n)\n"
        "    except ImportError:\n        pass\n"
        "assert not {'ultralytics', 'torchvision', 'timm', 'transformers', 'onnxruntime'} & "
        "set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
    for path in (ROOT / "physadv").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            roots = {a.name.split(".")[0] for a in getattr(node, "names", [])} | {
                str(getattr(node, "module", ""))[:11]
            }
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not roots & {"ultralytics", "torchvision"}, path
