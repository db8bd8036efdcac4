"""Face embedders as models under test: an aligned crop in, an embedding out, and a card with
provenance and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.files import sha256_of
from physadv.core.tables import parse_table, read_table
from physadv.core.tensors import exact_device
from physadv.models.architectures.dlib_resnet import load_dlib_resnet
from physadv.models.architectures.edgeface import EdgeFace, merge_low_rank
from physadv.models.architectures.mobilefacenet import MobileFaceNet, fold_batch_norms
from physadv.models.cards import ModelCard
from physadv.models.faces.face_detection import SLIM_CARD, Alignment, model_file
from physadv.models.fetch import cached_weights
from physadv.models.loading import (
    is_import_path,
    kind_of,
    load_exported,
    load_import_path,
    load_state,
    load_torchscript,
    pick_device,
    read_state,
)
from physadv.models.onnx_loading import open_onnx

Metric = Literal["cosine", "euclidean"]


@dataclass(frozen=True)
class EmbedderCard:
    """Input, output and provenance of an embedder.

    Attributes:
        name: Name under which it is loaded and reported.
        size: Side of the aligned crops in px.
        alignment: Template the crops are aligned by.
        channels: Order of the color channels.
        mean: Subtracted mean a channel, in units of [0, 1].
        std: Divisor a channel, in units of [0, 1].
        dimension: Length of an embedding.
        metric: Comparison of two embeddings.
        thresholds: Similarities (higher is more alike; minus the distance for "euclidean") by the
            share of pairs of different people that passes for one person: {0.01: ..., 0.001: ...}.
        licence: License of the weights.
        source: Publisher of the weights.
        accuracy: Measured accuracy, with data and interval.
        sha256: Hash of the weights' file.
        share: Share of the views that a cloak made with several recognizers shows to this one, in
            (0, 1]; small where its gradients say little of others.
    """

    name: str
    size: int
    alignment: Alignment = "arcface"
    channels: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    dimension: int = 512
    metric: Metric = "cosine"
    thresholds: Mapping[float, float] = field(default_factory=dict)
    licence: str = "unknown"
    source: str = "unknown"
    accuracy: str = "not measured"
    sha256: str = ""
    share: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON and TOML."""
        return {**asdict(self), "thresholds": {str(k): v for k, v in self.thresholds.items()}}


class FaceEmbedder(nn.Module):
    """A frozen network and its card: aligned crops (b, 3, size, size), RGB in [0, 1] ->
    embeddings (b, dimension).

    ``no_gradient`` is the reason where it can only be asked; such a recognizer judges a cloak and
    cannot make one.
    """

    card: EmbedderCard
    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, card: EmbedderCard, *, no_gradient: str = "") -> None:
        super().__init__()
        self.net, self.card, self.no_gradient = net, card, no_gradient
        self.register_buffer("mean", torch.tensor(card.mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(card.std).reshape(-1, 1, 1))

    def forward(self, crops: Tensor) -> Tensor:
        """Return embeddings of ``crops`` as the network computes them, not scaled to unit length.

        Raises:
            ModelError: The network returns another shape than its card states.
        """
        out: Any = self.net(self.prepared(crops))
        if not isinstance(out, Tensor):
            raise ModelError(
                f"{self.card.name} gave several outputs", "One is needed", "Export the embedding"
            )
        if out.ndim != 2 or out.shape[1] != self.card.dimension:
            raise ModelError(
                f"{self.card.name} gave shape {tuple(out.shape)}",
                f"(b, {self.card.dimension}) is stated",
                "Correct the descriptor",
            )
        embeddings: Tensor = out
        return embeddings

    def prepared(self, crops: Tensor) -> Tensor:
        """Return ``crops`` as the network receives them: channels in its order, normalized."""
        ordered = crops if self.card.channels == "rgb" else crops.flip(1)
        return (ordered - self.mean) / self.std

    def similarity(self, first: Tensor, second: Tensor) -> Tensor:
        """Return similarities (n, m) of embeddings ``first`` (n, d) and ``second`` (m, d),
        differentiable; higher is more alike."""
        return embedding_similarity(self.card.metric, first, second)


def embedding_similarity(metric: Metric, first: Tensor, second: Tensor) -> Tensor:
    """Compare embeddings by cosine, or by minus the Euclidean distance.

    Args:
        metric: "cosine" or "euclidean".
        first: Embeddings (n, d).
        second: Embeddings (m, d).

    Returns:
        Similarities (n, m), higher for more alike.

    Example:
        >>> import torch
        >>> float(embedding_similarity("euclidean", torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])))
        -5.0
    """
    if metric == "cosine":
        return F.normalize(first) @ F.normalize(second).T
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
    return -squares.clamp_min(1e-12).sqrt()


DLIB = EmbedderCard(
    name="dlib",
    size=150,
    alignment="dlib",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    dimension=128,
    metric="euclidean",
    thresholds={0.01: -0.608, 0.001: -0.547},
    licence="CC0-1.0",
    accuracy="98.4 % [97.6, 99.1] of 3,882 pairs, 80 people of LFW; true accepts 98.4 % at FAR 1 "
    "%, 91.5 % at 0.1 %",
    source="dlib_face_recognition_resnet_model_v1.dat (King, 2017), from PyPI "
    "face_recognition_models",
    sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    share=0.25,
)
MOBILEFACENET = EmbedderCard(
    name="mobilefacenet",
    size=112,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    dimension=128,
    thresholds={0.01: 0.260, 0.001: 0.350},
    licence="Apache-2.0",
    accuracy="98.7 % [97.9, 99.5] of 3,882 pairs, 80 people of LFW; true accepts 99.0 % at FAR 1 "
    "%, 97.2 % at 0.1 %",
    source="https://github.com/foamliu/MobileFaceNet",
    sha256="90a00ba1d8b0b688af3deb731ed53dca582e6106805d1bc3cfdef55f570493f4",
)
MOBILEFACENET_FILE = ModelCard(
    name="mobilefacenet",
    licence=MOBILEFACENET.licence,
    source=MOBILEFACENET.source,
    data="MS-Celeb-1M, refined",
    sha256=MOBILEFACENET.sha256,
    urls=("https://github.com/foamliu/MobileFaceNet/releases/download/v1.0/mobilefacenet.pt",),
    extra={"size_bytes": 4135271},
)
EDGEFACE = EmbedderCard(
    name="edgeface-xs",
    size=112,
    dimension=512,
    thresholds={0.01: 0.204, 0.001: 0.285},
    licence="for research (code BSD-3-Clause)",
    accuracy="99.7 % [92.8, 100] of 373 pairs, 60 people of LFW; true accepts 100 % at FAR 1 % and "
    "at 0.1 %, [94.0, 100] of 180 pairs",
    source="https://github.com/yayoimizuha/face_recognition_train, int8 weights of Idiap's "
    "EdgeFace-XS (George et al., 2024)",
    sha256="a31314377876ab9fa2a75e5638bc528efe79fd17d5c9c0a228fb7f846d7581a6",
)
_EDGEFACE_COMMIT = "3e631e35bf207a09aa2af79239961cfb14248c0a"
EDGEFACE_FILE = ModelCard(
    name="edgeface-xs",
    licence=EDGEFACE.licence,
    source=EDGEFACE.source,
    data="WebFace, of which the publisher allows research",
    sha256=EDGEFACE.sha256,
    urls=(
        "https://raw.githubusercontent.com/yayoimizuha/face_recognition_train/"
        f"{_EDGEFACE_COMMIT}/checkpoints/edgeface_xs_q.pt",
    ),
    extra={"size_bytes": 2993451},
)
FETCHABLE = {card.name: card for card in (MOBILEFACENET_FILE, EDGEFACE_FILE, SLIM_CARD)}
"""For ``models fetch``: weights' files that are no models under test."""


def load_embedder(
    name_or_path: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> FaceEmbedder:
    """Load a face embedder by name ("dlib", "mobilefacenet", "edgeface-xs") or by a descriptor, a
    TOML file of about ten lines.

    A descriptor names the fields of :class:`EmbedderCard` (``threshold`` and ``far`` may stand for
    ``thresholds``), and its net: ``weights`` (ONNX, TorchScript or torch.export, relative to
    itself), or a ``factory`` ("package.module:function") with or without weights for it. A net is
    code, which does not run because a file names it: ``weights`` has to name it as well. ONNX is no
    code: naming it in the descriptor is enough.

    Args:
        name_or_path: Name or descriptor file.
        weights: File that replaces the embedder's own weights; the net of a descriptor, a file or
            ``module:factory``.
        device: Torch device, or "auto".

    Returns:
        The embedder in eval mode with frozen parameters.

    Raises:
        ModelError: The name is unknown, the descriptor cannot be used, or weights are absent or
            may not run.
    """
    text = str(name_or_path)
    if text in _KNOWN:
        embedder = _KNOWN[text](None if weights is None else Path(weights))
    elif Path(text).suffix == ".toml":
        embedder = _from_descriptor(Path(text), weights)
    else:
        raise ModelError(
            f"embedder {text!r}",
            f"is none of {', '.join(_KNOWN)}",
            "Or name a descriptor file (.toml)",
        )

    # The mode is set by hand: modules made by torch.export refuse .eval().
    for module in embedder.modules():
        module.training = False
    embedder.requires_grad_(False).to(exact_device(pick_device(device)))

    # Small convolutions run about a fifth faster with the channels innermost.
    embedder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return embedder


def load_embedders(
    names: Sequence[str | FaceEmbedder] = (),
    weights: Mapping[str, str | Path] | None = None,
    *,
    device: str | torch.device = "cpu",
) -> list[FaceEmbedder]:
    """Load face embedders, or all whose weights are at hand.

    Args:
        names: Names or descriptor files; embedders that are loaded already pass through. Without
            any, all at hand and those that ``weights`` names.
        weights: Weights files by the name of their embedder.
        device: Torch device, or "auto".

    Returns:
        At least one embedder, each once.

    Raises:
        ModelError: A name is unknown, or no embedder is at hand.
    """
    files = weights or {}
    named = names or [*available_embedders(), *files]
    if not named:
        raise ModelError(
            "No face recognizer is at hand",
            "At least one needs its weights here",
            "Run pip install 'physadv[faces]', or name weights",
        )
    return [
        load_embedder(each, weights=files.get(each), device=device)
        if isinstance(each, str)
        else each
        for each in dict.fromkeys(named)
    ]


def load_surrogates(
    names: Sequence[str | FaceEmbedder] = (),
    weights: Mapping[str, str | Path] | None = None,
    *,
    device: str | torch.device = "cpu",
) -> tuple[list[FaceEmbedder], str | None]:
    """Load the embedders to make a cloak with: those named, or all at hand but one, which stays out
    to judge.

    Args:
        names: Names or descriptor files; embedders that are loaded already pass through.
        weights: Weights files by the name of their embedder.
        device: Torch device, or "auto".

    Returns:
        At least one embedder, and the name of one at hand that had no part; None where there is
        none.

    Raises:
        ModelError: A name is unknown, no embedder is at hand, or one has no gradient.
    """
    at_hand = list(dict.fromkeys([*available_embedders(), *(weights or {})]))
    judge = next((name for name in _JUDGES if name in at_hand and len(at_hand) > 1), None)
    if names:
        named = {each if isinstance(each, str) else each.card.name for each in names}
        others = [name for name in at_hand if name not in named]
        judge = next((name for name in (*_JUDGES, *others) if name in others), None)
        return _with_gradients(load_embedders(names, weights, device=device)), judge

    files = {name: file for name, file in (weights or {}).items() if name != judge}
    chosen = [name for name in at_hand if name != judge]
    return _with_gradients(load_embedders(chosen, files, device=device)), judge


def _with_gradients(embedders: list[FaceEmbedder]) -> list[FaceEmbedder]:
    """The embedders, each of which has to have a gradient."""
    for embedder in embedders:
        if embedder.no_gradient:
            raise ModelError(
                f"{embedder.card.name} has no gradient ({embedder.no_gradient})",
                "A cloak is made with gradients",
                "Name others with --embedder; `cloak check` can ask this one",
            )
    return embedders


def available_embedders() -> list[str]:
    """Return the names of the built-in embedders whose weights are here, in order of preference."""
    available = []
    for name, load in _KNOWN.items():
        try:
            load(None)
        except ModelError:
            continue
        available.append(name)
    return available


def _dlib(weights: Path | None) -> FaceEmbedder:
    file = weights or model_file("dlib_face_recognition_resnet_model_v1.dat")
    return FaceEmbedder(load_dlib_resnet(file), _true_of(DLIB, file))


def _mobilefacenet(weights: Path | None) -> FaceEmbedder:
    file = weights or cached_weights(MOBILEFACENET_FILE)
    if file is None:
        remedy = "`physadv models fetch mobilefacenet` (4 MB, Apache-2.0), or give the file"
        raise ModelError("embedder mobilefacenet", "its weights are not here", remedy)
    net = MobileFaceNet()
    load_state(net, read_state(file), name="mobilefacenet")
    return FaceEmbedder(fold_batch_norms(net.eval()), _true_of(MOBILEFACENET, file))


def _edgeface(weights: Path | None) -> FaceEmbedder:
    file = weights or cached_weights(EDGEFACE_FILE)
    if file is None:
        remedy = "`physadv models fetch edgeface-xs` (3 MB, for research), or give the file"
        raise ModelError("embedder edgeface-xs", "its weights are not here", remedy)
    net = EdgeFace()
    load_state(net, merge_low_rank(read_state(file)), name="edgeface-xs")
    return FaceEmbedder(net.eval(), _true_of(EDGEFACE, file))


_KNOWN: dict[str, Callable[[Path | None], FaceEmbedder]] = {
    "dlib": _dlib,
    "mobilefacenet": _mobilefacenet,
    "edgeface-xs": _edgeface,
}
_JUDGES = ("edgeface-xs", "dlib")
"""Recognizers that stay out of a cloak to judge it, where another is at hand: the first of them.
The weights of the first are for research, and dlib's gradients transfer least."""


def _true_of(card: EmbedderCard, file: Path) -> EmbedderCard:
    """Weights of the user's own lose what was measured on the published ones."""
    digest = sha256_of(file)
    if digest == card.sha256:
        return card

    return replace(
        card,
        sha256=digest,
        source=str(file),
        accuracy="not measured",
        thresholds={},
        licence="yours",
    )


def _from_descriptor(path: Path, given: str | Path | None) -> FaceEmbedder:
    """The embedder of the descriptor ``path``; ``given`` is its net, a file or module:factory."""
    table = read_table(path, error=ModelError, remedy="See `load_embedder`")
    named = table.pop("weights", None)
    file = None if named is None else path.parent / str(named)
    if given is not None and not is_import_path(str(given)):
        file = Path(given)
    factory = table.pop("factory", None)

    card = _card_of(table, path, "" if file is None else sha256_of(file) if file.is_file() else "")

    if given is None and file is not None and file.is_file() and kind_of(file) == "onnx":
        return _from_onnx(file, card)
    if given is None:
        raise _unnamed_net(path, factory if factory is not None else file)
    if is_import_path(str(given)):
        net, _ = load_import_path(str(given))
        if not isinstance(net, nn.Module):
            raise ModelError(
                str(given), f"made a {type(net).__name__}", "A torch.nn.Module is needed"
            )
        if file is not None:
            load_state(net, read_state(file), name=card.name)
        return FaceEmbedder(net, card)
    assert file is not None  # it is what was given
    kind = kind_of(file)
    if kind == "torchscript":
        return FaceEmbedder(load_torchscript(file), card)
    if kind == "exported":
        return FaceEmbedder(load_exported(file)[0], card)
    if kind == "onnx":
        return _from_onnx(file, card)
    raise ModelError(
        f"{file}",
        f"holds {kind} without a net",
        "Give ONNX, TorchScript, torch.export or module:factory",
    )


def _from_onnx(file: Path, card: EmbedderCard) -> FaceEmbedder:
    """The embedder of an ONNX file, converted to torch or asked through onnxruntime."""
    net, facts = open_onnx(file)
    if facts.get("layout") == "nhwc":
        net = _ChannelsLast(net)
    return FaceEmbedder(net, card, no_gradient=str(facts.get("gradient", "")))


class _ChannelsLast(nn.Module):
    """A network for images (b, h, w, 3), given as (b, 3, h, w)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Any:
        return self.net(images.permute(0, 2, 3, 1).contiguous())


def _unnamed_net(path: Path, named: object) -> ModelError:
    """The error for a descriptor whose net, which is code, the user did not name."""
    if named is None:
        return ModelError(
            f"{path}", "names neither weights nor a factory", 'Add weights = "net.pt"'
        )
    return ModelError(
        f'"{path}" names the net "{named}", which is code',
        "Code runs only where you name it, not because a file does",
        f"If you trust it, add --embedder-weights {path}={named}",
    )


def _card_of(table: dict[str, Any], path: Path, digest: str) -> EmbedderCard:
    """The card that a descriptor states; ``threshold`` and ``far`` may stand for ``thresholds``."""
    values = {"name": path.stem, **table, "sha256": digest}
    if "license" in values:
        values["licence"] = values.pop("license")
    lacking = sorted({"size", "dimension", "licence"} - values.keys())
    if lacking:
        raise ModelError(f"{path}", f"missing: {', '.join(lacking)}", "Add it, see `load_embedder`")

    # Keys of TOML are text, those of the card are numbers.
    try:
        thresholds = {float(k): float(v) for k, v in dict(values.pop("thresholds", {})).items()}
        if "threshold" in values:
            thresholds[float(values.pop("far", 0.01))] = float(values.pop("threshold"))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: thresholds", "numbers are needed", "Write threshold = 0.31 and far = 0.01"
        ) from error

    return parse_table(
        {**values, "thresholds": thresholds}, EmbedderCard, name=str(path), error=ModelError
    )
