"""YOLOX: the published ONNX file computes the same here as in OpenCV, real photos are detected in
frames of any aspect, and files of other networks are refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import torch
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.image_io import list_images, read_image
from physadv.core.types import Detections
from physadv.defenses.load_model import load_model
from physadv.models.architectures.yolox import YoloX, decode_boxes
from physadv.models.cards import LoadedModel
from physadv.models.classifiers import Preprocessed
from physadv.models.detectors import best_of_class, non_maximum_suppression
from physadv.models.onnx_file import read_onnx
from physadv.models.yolox_weights import without_batch_norms
from physadv.threat.patch_goals import PatchGoal

STOP = 11


@pytest.fixture(scope="module")
def published(shared_data: Path) -> Path:
    return shared_data / "weights" / "yolox_nano_coco.onnx"


@pytest.fixture(scope="module")
def detector(published: Path) -> LoadedModel:
    return load_model("yolox-nano", weights=published)


def predict(model: nn.Module, images: Tensor) -> Detections:
    found = model(images)
    assert isinstance(found, Detections)
    return found


def field(number: int, content: bytes | int) -> bytes:
    """One field of a Protocol Buffers message."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def onnx_tensor(name: str, values: Tensor, *, packed: bool = False) -> bytes:
    """A stored tensor: its numbers as raw bytes, or one by one as older exporters wrote them."""
    dims = b"".join(field(1, side) for side in values.shape)
    numbers = field(4 if packed else 9, values.numpy().tobytes())
    return dims + field(2, 1) + field(8, name.encode()) + numbers


def onnx_node(operation: str, inputs: list[str], output: str) -> bytes:
    names = b"".join(field(1, name.encode()) for name in inputs)
    return names + field(2, output.encode()) + field(4, operation.encode())


def onnx_model(nodes: list[bytes], tensors: list[bytes], size: tuple[int, int]) -> bytes:
    dims = b"".join(field(1, field(1, side)) for side in (1, 3, *size))
    given = field(1, b"images") + field(2, field(1, field(1, 1) + field(2, dims)))
    graph = b"".join(
        [*(field(1, n) for n in nodes), *(field(5, t) for t in tensors), field(11, given)]
    )
    return field(1, 7) + field(7, graph)


def test_the_published_weights_compute_what_opencv_computes(
    detector: LoadedModel, published: Path, shared_data: Path
) -> None:
    """On six photos every box number and probability of the file's own graph, run by OpenCV, is
    found within 0.002 of it."""
    wrapper = detector.net
    assert isinstance(wrapper, Preprocessed)
    assert wrapper.resizing is not None
    net = wrapper.net
    assert isinstance(net, YoloX)
    judge = cv2.dnn.readNetFromONNX(str(published))

    for file in list_images(shared_data / "coco128" / "images")[:6]:
        image = wrapper.resizing(read_image(file)[None])
        with torch.no_grad():
            raw = torch.cat([r.flatten(2) for r in net.raw_outputs(image)], 2).transpose(1, 2)
        judge.setInput((255 * image.flip(1)).numpy())
        expected = torch.from_numpy(judge.forward())
        assert float((raw[..., :4] - expected[..., :4]).abs().max()) < 2e-3
        assert float((raw[..., 4:].sigmoid() - expected[..., 4:]).abs().max()) < 2e-3


def test_every_stop_sign_of_the_street_photos_is_found_and_none_is_invented(
    detector: LoadedModel, shared_data: Path
) -> None:
    """Every one of 12 photos with a stop sign scores 0.85 or more, none of the 12 others reaches
    the card's threshold."""
    best = {}
    for folder in ("stop", "other"):
        files = list_images(shared_data / "stop-photos" / folder)
        with torch.no_grad():
            found = [best_of_class(predict(detector, read_image(f)[None]), STOP) for f in files]
        best[folder] = torch.cat(found)
    assert len(best["stop"]) == len(best["other"]) == 12
    assert float(best["stop"].min()) > 0.845
    assert float(best["other"].max()) < detector.card.extra["score_threshold"]


@pytest.mark.parametrize("window", [(0, 0, 1280, 720), (450, 0, 1280, 720), (300, 90, 1180, 720)])
def test_the_box_lies_on_the_sign_in_frames_of_any_aspect(
    detector: LoadedModel, shared_data: Path, window: tuple[int, int, int, int]
) -> None:
    """Photo 018 whole, cut and cut to a taller aspect: the best box is at the hand-read place."""
    left, top, right, bottom = window
    image = read_image(shared_data / "stop-photos" / "stop" / "018.jpg")[None]
    image = image[..., top:bottom, left:right]
    place = torch.tensor([505.0, 150.0, 1085.0, 705.0]) - torch.tensor([left, top, left, top])
    with torch.no_grad():
        found = predict(detector, image)
    assert float(best_of_class(found, STOP, place, min_iou=0.8)) > 0.85


def test_other_classes_have_their_names(detector: LoadedModel, shared_data: Path) -> None:
    """A giraffe is found under its own class, where it is."""
    with torch.no_grad():
        found = predict(
            detector, read_image(shared_data / "coco128" / "images" / "000000000025.jpg")[None]
        )
    label = detector.card.class_index("giraffe")
    place = torch.tensor([383.0, 72, 601, 357])
    assert float(best_of_class(found, label, place, min_iou=0.7)) > 0.8
    assert int(non_maximum_suppression(found, 0.5)[0].labels[0]) == label


@pytest.mark.parametrize("kind", ["vanish", "untargeted", "targeted", "create"])
def test_every_goal_has_a_gradient_that_reaches_the_image_alone(
    detector: LoadedModel, shared_data: Path, kind: str
) -> None:
    """Backward from each goal's loss fills the gradient of a batch of photos, finite and different
    from 0, and leaves every parameter without one; also where the class that should appear, a
    toaster, has a score near 0."""
    files = list_images(shared_data / "stop-photos" / "stop")[:2]
    images = torch.cat([read_image(f)[None, :, :350, :600] for f in files]).requires_grad_()
    goal = PatchGoal(kind, STOP, detector.card.class_index("toaster"))
    boxes = torch.tensor([[150.0, 50.0, 450.0, 300.0]]).expand(2, 4)
    goal.loss(predict(detector, images), boxes).sum().backward()
    assert images.grad is not None
    assert bool(images.grad.isfinite().all())
    assert bool((images.grad.flatten(1).abs().sum(1) > 0).all())
    assert all(p.grad is None and not p.requires_grad for p in detector.parameters())


def test_candidates_are_dense_and_alike_in_any_batch() -> None:
    """A 64x96 image has 8 x 12 + 4 x 6 + 2 x 3 candidates, whose scores lie in [0, 1] and do not
    depend on the other images."""
    net = YoloX(0.25, depthwise=True, classes=5).eval()
    images = torch.rand(3, 3, 64, 96)
    with torch.no_grad():
        together, alone = predict(net, images), predict(net, images[1:2])
    assert together.boxes.shape == (3, 126, 4)
    assert bool(((together.scores >= 0) & (together.scores <= 1)).all())
    assert torch.allclose(together.scores[1:2], alone.scores, atol=1e-5)


def test_boxes_decode_by_hand() -> None:
    """Half a cell right of the corner of cell (row 1, column 2), e cells wide, one high."""
    raw = torch.zeros(1, 4, 3, 4)
    raw[0, :, 1, 2] = torch.tensor([0.5, 0.0, 1.0, 0.0])
    x, y, half_width = 2.5 * 16, 1.0 * 16, torch.e * 16 / 2
    expected = [x - half_width, y - 8, x + half_width, y + 8]
    assert decode_boxes(raw, 16)[0, 1 * 4 + 2].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("width", "blocks", "depthwise"), [(0.25, 1, True), (0.375, 1, False), (0.75, 2, False)]
)
def test_a_size_is_known_by_its_shapes(width: float, blocks: int, depthwise: bool) -> None:
    """Nano, tiny and M of three classes are rebuilt from the shapes of their weights; with one
    shape changed, nothing is."""
    with torch.device("meta"):
        net = YoloX(width, blocks, 3, depthwise=depthwise)
        shapes = [tuple(conv.weight.shape) for conv in net.convolutions()]
        rebuilt = YoloX.from_shapes(shapes)
        assert rebuilt is not None
        assert rebuilt.state_dict().keys() == net.state_dict().keys()
        assert rebuilt.classes == 3
        shapes[20] = (shapes[20][0] + 1, *shapes[20][1:])
        assert YoloX.from_shapes(shapes) is None


def test_batch_norms_of_a_checkpoint_are_folded() -> None:
    """Convolution and batch norm with YOLOX's epsilon give the same as the folded convolution."""

    class Unit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, bias=False)
            self.bn = nn.BatchNorm2d(4, eps=1e-3)

    unit = Unit().eval()
    with torch.no_grad():
        unit.bn.running_var.uniform_(1e-4, 1e-2)  # type: ignore[union-attr]
        for values in (unit.bn.weight, unit.bn.bias, unit.bn.running_mean):
            values.uniform_(-1, 1)  # type: ignore[union-attr]
    folded = without_batch_norms({f"stem.{k}": v for k, v in unit.state_dict().items()})
    plain = nn.Conv2d(3, 4, 3)
    plain.load_state_dict({k.removeprefix("stem.conv."): v for k, v in folded.items()})
    images = torch.rand(2, 3, 9, 9)
    assert torch.allclose(plain(images), unit.bn(unit.conv(images)), atol=1e-5)


def test_the_onnx_file_itself_is_a_model(published: Path, detector: LoadedModel) -> None:
    """Without a name, the file's size, classes and input are known by its content."""
    model = load_model(published)
    assert (model.card.task, model.card.input_size) == ("detect", (416, 416))
    assert model.card.class_name(STOP) == "stop sign"
    image = torch.rand(1, 3, 200, 300)
    with torch.no_grad():
        assert torch.equal(predict(model, image).boxes, predict(detector, image).boxes)


@pytest.mark.parametrize("packed", [False, True])
def test_weights_of_an_onnx_file_are_read(tmp_path: Path, packed: bool) -> None:
    """Weight, bias and input size of a file made by hand; a convolution without bias has zeros."""
    weight, bias = torch.rand(4, 3, 2, 2), torch.rand(4)
    nodes = [
        onnx_node("Identity", ["b"], "same"),
        onnx_node("Conv", ["images", "w", "same"], "x"),
        onnx_node("Conv", ["x", "w"], "y"),
    ]
    tensors = [onnx_tensor("w", weight, packed=packed), onnx_tensor("b", bias, packed=packed)]
    file = tmp_path / "net.bin"
    file.write_bytes(onnx_model(nodes, tensors, (160, 320)))
    graph = read_onnx(file)
    first, second = graph.convolutions
    assert torch.equal(first.weight, weight)
    assert torch.equal(first.bias, bias)
    assert not second.bias.any()
    assert graph.input_size == (160, 320)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "takes 0 inputs"),
        (b"\x08\x07\x3a\xff\xff\xff\xff\x0f", "ends too early"),
        (b"not an ONNX file", "not readable as an ONNX file"),
        (onnx_model([onnx_node("Conv", ["images", "w"], "x")], [], (8, 8)), "no operation before"),
        (
            onnx_model(
                [onnx_node("Conv", ["images", "w"], "x")],
                [onnx_tensor("w", torch.rand(1, 3, 1, 1))[:-4]],
                (8, 8),
            ),
            "ends too early",
        ),
        (
            onnx_model(
                [onnx_node("Conv", ["images", "w"], "x")],
                [onnx_tensor("w", torch.rand(1, 3, 1, 1)) + field(14, 1)],
                (8, 8),
            ),
            "files of its own folder",
        ),
    ],
)
def test_a_foreign_or_damaged_onnx_file_ends_in_one_line(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    """Each is a ModelError that says what is wrong."""
    file = tmp_path / "net.onnx"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=reason):
        load_model(file)


def test_a_net_of_the_same_shapes_that_computes_something_else_is_refused(
    tmp_path: Path, published: Path
) -> None:
    """The published file with softmax in place of one sigmoid."""
    content = published.read_bytes()
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(content.replace(field(4, b"Sigmoid"), field(4, b"Softmax"), 1))
    with pytest.raises(ModelError, match="its outputs are not those of one"):
        load_model(changed)
    with pytest.raises(ModelError, match="its outputs are not those of one"):
        load_model("yolox-nano", weights=changed)


def test_an_operation_that_opencv_does_not_know_is_one_line(
    tmp_path: Path, published: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """OpenCV's own complaints do not reach the terminal, and its level of logging stays."""
    content = published.read_bytes()
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(content.replace(field(4, b"Sigmoid"), field(4, b"Foreign"), 1))
    before = cv2.utils.logging.getLogLevel()
    with pytest.raises(ModelError, match="OpenCV cannot run it"):
        load_model(changed)
    assert capfd.readouterr() == ("", "")
    assert cv2.utils.logging.getLogLevel() == before


def test_weights_of_another_network_are_refused(shared_data: Path) -> None:
    """FastestDet's weights under the name of YOLOX."""
    with pytest.raises(ModelError, match="do not fit the architecture"):
        load_model("yolox-nano", weights=shared_data / "weights" / "fastestdet_coco.pth")
