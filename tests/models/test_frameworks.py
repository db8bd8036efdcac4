"""Real torchvision, timm, transformers and ultralytics: what they load here is what they compute.

Run by ``make test-frameworks`` in an environment of its own; they fail without the libraries.
All weights are random: what is tested is the way of the images, the outputs and their names.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_commands import SMALL_COMMANDS
from test_sources_end_to_end import run, write_pictures
from torch import Tensor

import physadv
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.core.types import Detections
from physadv.models.cards import card_from
from physadv.models.classifiers import Preprocessed
from physadv.models.detectors import non_maximum_suppression
from physadv.models.hub_models import _hf_table, _resized_by_edges, _timm_table

pytestmark = pytest.mark.frameworks


def photo(height: int = 300, width: int = 400) -> tuple[Image.Image, Tensor]:
    """A picture as Pillow's and as a batch of one."""
    pixels = synthetic_background(0, "frameworks", 0, height=height, width=width)
    pixels = np.asarray(pixels, np.uint8)
    return Image.fromarray(pixels), torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255


def close(found: Tensor, wanted: Tensor, share: float) -> bool:
    """Whether the largest difference is under a share of the outputs' spread."""
    return bool((found - wanted).abs().max() < share * wanted.std())


def has_gradient(model: Any) -> bool:
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    output = model(image)
    total = (output.scores if isinstance(output, Detections) else output).sum()
    (gradient,) = torch.autograd.grad(total, image)
    return bool(gradient.abs().sum() > 0)


def test_torchvision_by_its_own_preprocessing(tmp_path: Path) -> None:
    """resnet18 from a file: the logits of torchvision's own transforms, 2 % for 8-bit rounding."""
    from torchvision.models import ResNet18_Weights, resnet18

    torch.manual_seed(0)
    net = resnet18().eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    model = physadv.load_model(f"torchvision:resnet18@{tmp_path / 'w.pth'}")
    picture, image = photo()
    with torch.no_grad():
        wanted = net(ResNet18_Weights.DEFAULT.transforms()(picture)[None])
        assert close(model(image), wanted, 0.05)
    assert model.card.classes[0] == "tench"
    assert has_gradient(model)


@pytest.mark.parametrize(
    "name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large"]
)
def test_torchvision_detectors(name: str, tmp_path: Path) -> None:
    """Detectors give candidates with gradients."""
    import torchvision.models.detection as detection

    net = getattr(detection, name)(weights=None, weights_backbone=None)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    model = physadv.load_model(f"torchvision:{name}@{tmp_path / 'w.pth'}")
    assert model.card.task == "detect"
    assert isinstance(model(torch.rand(1, 3, 320, 320)), Detections)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "convnextv2_atto"])
def test_timm_by_its_own_preprocessing(name: str, tmp_path: Path) -> None:
    """Seven classes from a state dict, and the folder that timm writes, with its names."""
    import timm
    from timm.data import create_transform, resolve_model_data_config
    from timm.models import save_for_hf

    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=7).eval()
    torch.save({"state_dict": net.state_dict(), "epoch": 1}, tmp_path / "w.pth")
    picture, image = photo()
    with torch.no_grad():
        wanted = net(create_transform(**resolve_model_data_config(net))(picture)[None])
        model = physadv.load_model(f"timm:{name}@{tmp_path / 'w.pth'}")
        assert close(model(image), wanted, 0.05)
    assert has_gradient(model)

    names = [f"class {i}" for i in range(7)]
    config = {"label_names": names}
    save_for_hf(net, str(tmp_path / "folder"), model_config=config, safe_serialization=True)
    for text in (f"timm:{tmp_path / 'folder'}", f"hf:{tmp_path / 'folder'}"):
        again = physadv.load_model(text)
        assert again.card.classes == tuple(names)
        with torch.no_grad():
            assert torch.equal(again(image), model(image))


def hf_classifier(kind: str) -> tuple[Any, Any]:
    """A small random net of transformers and its image processor."""
    import transformers as hf

    torch.manual_seed(0)
    names = {0: "cat", 1: "dog", 2: "stop"}
    if kind == "vit":
        config = hf.ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=64,
            id2label=names,
        )
        return hf.ViTForImageClassification(config), hf.ViTImageProcessor(
            size={"height": 64, "width": 64}
        )
    if kind == "convnext":
        config = hf.ConvNextConfig(hidden_sizes=[8, 16, 16, 16], depths=[1] * 4, id2label=names)
        return hf.ConvNextForImageClassification(config), hf.ConvNextImageProcessor(
            size={"shortest_edge": 96}, crop_pct=0.875
        )
    config = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1] * 4, id2label=names
    )
    return hf.ResNetForImageClassification(config), hf.CLIPImageProcessor(
        size={"shortest_edge": 96}, crop_size={"height": 80, "width": 80}, resample=2
    )


@pytest.mark.parametrize("kind", ["vit", "convnext", "resnet"])
def test_transformers_by_their_own_preprocessing(kind: str, tmp_path: Path) -> None:
    """Logits and names of a saved folder are those of transformers with its own processor."""
    net, processor = hf_classifier(kind)
    net.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    picture, image = photo()
    model = physadv.load_model(f"hf:{tmp_path}")
    with torch.no_grad():
        wanted = net(**processor(picture, return_tensors="pt")).logits
        assert close(model(image), wanted, 0.05)
    assert model.card.classes == ("cat", "dog", "stop")
    assert has_gradient(model)


PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("ViT", "Beit", "Bit", "CLIP", "ConvNext", "DeiT", "EfficientNet")),
    *((name, {}) for name in ("Levit", "MobileNetV1", "MobileNetV2", "PoolFormer", "Pvt")),
    *((name, {}) for name in ("Perceiver", "Segformer", "Siglip", "DINOv3ViT")),
    ("ViT", {"size": 224}),
    ("DeiT", {"size": 256, "crop_size": 224}),
    ("Beit", {"size": 256, "crop_size": 224, "do_center_crop": True}),
    ("CLIP", {"size": 224, "crop_size": 224}),
    ("ConvNext", {"size": 224, "crop_pct": 0.875}),
    ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
    ("MobileViT", {"size": 288, "crop_size": 256}),
    ("MobileViT", {"size": {"shortest_edge": 288}, "crop_size": 256, "resample": 2}),
    ("PoolFormer", {"size": 224, "crop_pct": 0.95}),
]
"""Image processors of transformers, as they are and with settings of published folders."""
CLOSE = {"Perceiver": 2, "PoolFormer": 4}
"""Larger mean differences in steps of 255: the one crops before it resizes, at whole pixels of the
picture; the other's crop is half a pixel off the center where the margin is odd."""


@pytest.mark.parametrize(("name", "settings"), PROCESSORS)
def test_pictures_reach_a_net_as_its_own_processor_brings_them(
    name: str, settings: dict[str, Any]
) -> None:
    """A picture that is no square has the pixels of transformers, within 1 of 255 on average (two
    kinds: see CLOSE), whether it is stretched, cropped, or stretched and then cropped."""
    import transformers as hf

    processor = getattr(hf, f"{name}ImageProcessor")(**settings)
    steps = {**json.loads(processor.to_json_string()), **settings}
    steps["image_processor_type"] = f"{name}ImageProcessor"
    picture, image = photo()
    wanted = processor(picture, return_tensors="pt")["pixel_values"]
    found, std = prepared(_hf_table(steps, detects=False), image)
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().mul(std).mean()) < CLOSE.get(name, 1) / 255


@pytest.mark.parametrize(
    "stated",
    [
        {"crop_pct": 0.875, "crop_mode": "center"},
        {"crop_pct": 0.9, "crop_mode": "squash"},
        {"crop_pct": 1.0, "crop_mode": "squash"},
        {"crop_pct": 1.0, "crop_mode": "border"},
        {"crop_pct": 0.8, "crop_mode": "border"},
        *(
            {"input_size": (3, 160, 224), "crop_pct": share, "crop_mode": mode}
            for share in (0.9, 1.0)
            for mode in ("center", "squash", "border")
        ),
    ],
)
def test_pictures_reach_a_net_as_timm_brings_them(stated: dict[str, Any]) -> None:
    """The same for each crop mode of timm, and for an input that is no square."""
    from timm.data import create_transform

    shown = {
        "input_size": (3, 224, 224),
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        **stated,
    }
    picture, image = photo()
    wanted = create_transform(**shown, is_training=False)(picture)[None]
    found, std = prepared(_timm_table(shown), image)
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().mul(std).mean()) < 1 / 255


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("TextNet", {}),
        ("TextNet", {"size": {"shortest_edge": 96}, "size_divisor": 16}),
        ("Detr", {"size": {"shortest_edge": 120, "longest_edge": 150}, "do_pad": False}),
        ("Yolos", {"size": {"shortest_edge": 64, "longest_edge": 333}, "do_pad": False}),
    ],
)
def test_pictures_of_many_sizes_are_those_of_their_processor(
    name: str, settings: dict[str, Any]
) -> None:
    """Processors that bring an edge to a length: the size is theirs, and the pixels within 1 of
    255 on average."""
    import transformers as hf

    processor = getattr(hf, f"{name}ImageProcessor")(**settings)
    steps = json.loads(processor.to_json_string())
    steps["image_processor_type"] = f"{name}ImageProcessor"
    picture, image = photo()
    wanted = processor(picture, return_tensors="pt")["pixel_values"]
    table = _hf_table(steps, detects=name != "TextNet")
    found, std = prepared(table, image, lambda net: _resized_by_edges(net, steps, table))
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().mul(std).mean()) < 1 / 255


def prepared(
    table: dict[str, Any],
    image: Tensor,
    behind: Callable[[torch.nn.Module], torch.nn.Module] = lambda net: net,
) -> tuple[Tensor, Tensor]:
    """What a net gets by a table of settings, and the standard deviations it was divided by."""

    class Kept(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            self.images = images
            return torch.zeros(len(images), 2)

    kept = Kept()
    keys = {key: table[key] for key in ("mean", "std", "bgr", "scale") if key in table}
    Preprocessed(behind(kept), resizing=card_from(table, name="table").resizing, **keys)(image)
    return kept.images, torch.tensor(table.get("std", [1.0])).view(1, -1, 1, 1)


@pytest.mark.parametrize(
    "size", [{"height": 64, "width": 96}, {"shortest_edge": 64, "longest_edge": 333}]
)
def test_a_detr_of_transformers(size: dict[str, int], tmp_path: Path) -> None:
    """YOLOS: boxes in px and softmax scores as transformers' own post-processing gives them, of a
    fixed size and of one by its edges."""
    import transformers as hf

    torch.manual_seed(0)
    config = hf.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=[64, 96],
        num_detection_tokens=10,
        id2label={0: "car", 1: "stop"},
    )
    net = hf.YolosForObjectDetection(config).eval()
    net.save_pretrained(tmp_path)
    processor = hf.YolosImageProcessor(size=size, do_pad=False)
    processor.save_pretrained(tmp_path)
    picture, image = photo(128, 192)
    model = physadv.load_model(f"hf:{tmp_path}")
    with torch.no_grad():
        output = net(**processor(picture, return_tensors="pt"))
        (wanted,) = processor.post_process_object_detection(output, 0.0, [(128, 192)])
        found = model(image)
    assert model.card.classes == ("car", "stop")
    assert (found.boxes[0] - wanted["boxes"]).abs().max() < 2
    assert (found.scores[0].amax(1) - wanted["scores"]).abs().max() < 0.02
    assert has_gradient(model)


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n", "yolo11n", "yolo26n", "rtdetr-l"])
def test_ultralytics_boxes_are_those_of_its_own_predict(name: str, tmp_path: Path) -> None:
    """The best boxes that ultralytics' predict returns, by a random net, are found within 2 px."""
    from ultralytics import RTDETR, YOLO

    torch.manual_seed(0)
    kind = RTDETR if name.startswith("rtdetr") else YOLO
    made = kind(f"{name}.yaml")
    made.save(tmp_path / "net.pt")
    model = physadv.load_model(f"ultralytics:{tmp_path / 'net.pt'}")
    picture, image = photo(480, 640)
    picture.save(tmp_path / "p.png")
    own = kind(str(tmp_path / "net.pt")).predict(
        str(tmp_path / "p.png"), conf=1e-4, iou=0.45, imgsz=640, rect=False, verbose=False
    )[0]
    with torch.no_grad():
        found = model(image)
    assert has_gradient(model) or name.startswith("rtdetr")
    edges = torch.tensor([640.0, 480, 640, 480])  # at which some predict methods cut boxes
    best = own.boxes.xyxy[:20].clamp(min=0).minimum(edges)
    boxes = found.boxes[0].clamp(min=0).minimum(edges)
    distance = (best[:, None] - boxes[None]).abs().amax(2).amin(1)
    assert len(best)
    assert float((distance < 2).float().mean()) > 0.9


def test_onnx_exports_of_ultralytics(tmp_path: Path) -> None:
    """An export is a detector with its names, gradients and the boxes of the net itself."""
    from ultralytics import YOLO

    torch.manual_seed(0)
    net = YOLO("yolo11n.yaml")
    net.save(tmp_path / "net.pt")
    YOLO(str(tmp_path / "net.pt")).export(format="onnx", imgsz=320, simplify=False, opset=17)
    model = physadv.load_model(tmp_path / "net.onnx")
    same = physadv.load_model(f"ultralytics:{tmp_path / 'net.pt'}")
    image = torch.rand(1, 3, 320, 320)
    assert model.card.classes == same.card.classes
    with torch.no_grad():
        assert (model(image).scores - same.net.net(image).scores).abs().max() < 1e-3
    assert has_gradient(model)
    assert len(non_maximum_suppression(model(image), 0.0)) == 1


def _saved(source: str, folder: Path) -> str:
    """Save a random net of a library in ``folder``; the name of the model to type."""
    torch.manual_seed(0)
    if source == "torchvision":
        from torchvision.models import resnet18

        torch.save(resnet18().state_dict(), folder / "w.pth")
        return f"torchvision:resnet18@{folder / 'w.pth'}"
    if source == "timm":
        import timm

        torch.save(timm.create_model("resnet10t").state_dict(), folder / "w.pth")
        return f"timm:resnet10t@{folder / 'w.pth'}"
    if source == "transformers":
        net, processor = hf_classifier("vit")
        net.save_pretrained(folder / "net")
        processor.save_pretrained(folder / "net")
        return f"hf:{folder / 'net'}"
    from ultralytics import YOLO

    YOLO("yolov8n.yaml").save(folder / "net.pt")
    return f"ultralytics:{folder / 'net.pt'}"


@pytest.mark.parametrize("source", ["torchvision", "timm", "transformers", "ultralytics"])
def test_a_library_s_net_goes_from_attack_to_check(source: str, tmp_path: Path) -> None:
    """attack, evaluate, patch and check take it as a user names it; a net of random weights reads
    nothing, so only the way through is tested."""
    name = _saved(source, tmp_path)
    model, detector = ["--model", name, "--trust"], source == "ultralytics"
    classes = physadv.load_model(name).card.classes
    true = classes[1]
    _write_scenes(tmp_path, (classes[0], true))

    data = ["--data", "boxes" if detector else "d", "--limit", "2", "--eps", "2/255"]
    attack = ["--attack", "pgd", "--steps", "2"]
    run(tmp_path, "attack", *model, *data, *attack, "--out", str(tmp_path / "attacked"))
    assert (tmp_path / "attacked/report.html").is_file()
    if not detector:  # its ensemble takes minutes on a detector, and attack is the same code
        few = ["--curve", "none", "--out", str(tmp_path / "evaluated")]
        run(tmp_path, "evaluate", *model, *data, *few)

    small, sticker = SMALL_COMMANDS["patch"], str(tmp_path / "sticker")
    goal = ["--goal", "vanish" if detector else "untargeted", "--true-class", true]
    made = run(tmp_path, *small.words, *model, *goal, "--out", sticker, code=small.code)
    assert made["bundle"] == sticker
    blocks = ["views", "--bundle", sticker, "--locate", "box", "--box", "8,8,56,56"]
    checked = run(tmp_path, "check", *blocks, *model, "--out", str(tmp_path / "checked"))
    assert checked["blocks"]["patch"]["frames"] == 3


def _write_scenes(folder: Path, names: tuple[str, str]) -> None:
    """Labeled pictures in folders of two classes, with boxes beside them, and frames to check."""
    write_pictures(folder)
    shutil.copytree(folder / "d/stop", folder / "boxes")
    pictures = [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 32} for n in range(3)]
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400}
        for n in range(3)
    ]
    table = {"images": pictures, "annotations": boxes, "categories": [{"id": 1, "name": names[1]}]}
    (folder / "boxes/annotations.json").write_text(json.dumps(table))
    for old, new in zip(("other", "stop"), names, strict=True):
        (folder / "d" / old).rename(folder / "d" / new)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0", "ssdlite320_mobilenet_v3_large"])
def test_torchvision_with_a_head_of_ones_own(name: str, tmp_path: Path) -> None:
    """Weights of three classes, as fine-tuning leaves them, behind a wrapper's prefix."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    bare = {"weights_backbone": None} if name.startswith("ssd") else {}
    net = get_model(name, weights=None, num_classes=3, **bare).eval()
    state = {f"model.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    settings = {"classes": ["a", "b", "c"]}
    model = physadv.load_model(f"torchvision:{name}@{tmp_path / 'w.pth'}", settings=settings)
    output = model(torch.rand(1, 3, 320, 320))
    scores = output.scores if isinstance(output, Detections) else output
    assert scores.shape[-1] == 3
    assert model.card.classes == ("a", "b", "c")
