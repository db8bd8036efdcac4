"""MAITE's protocols both ways: models, data sets, attacks and a metric for other test tools.

MAITE (Modular AI Trustworthy Engineering, of the US test-and-evaluation community) describes
components by structure. So nothing of it is imported here: what it calls an image classification or
object detection model, data set, augmentation or metric is wrapped as ours, and ours as its.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.attacks.attack_result import AttackResult
from physadv.attacks.detection import DetectorGoal, detector_attack
from physadv.core.errors import DataError, ModelError
from physadv.core.findings import FindingWarning
from physadv.core.image_io import Array
from physadv.core.types import Detections
from physadv.core.wording import count_noun
from physadv.datasets.base import ImageDataset
from physadv.datasets.box_annotations import LabeledBox
from physadv.datasets.detection import DetectionDataset, detection_arrays
from physadv.datasets.summary import DatasetSummary
from physadv.evaluation.attack_plan import AttackSettings, attack_function
from physadv.evaluation.detection_samples import image_detections
from physadv.evaluation.metrics.coco_average_precision import CocoMatches
from physadv.models.cards import LoadedModel, Task
from physadv.models.detectors import PredictSettings
from physadv.models.load import as_model
from physadv.threat.constraints import LpBall
from physadv.threat.parsing import parse_threat

Scale = Literal[1, 255]
"""Largest value of an image: 1 for floats, 255 for bytes."""


@dataclass(frozen=True)
class BoxTarget:
    """Boxes of one image, as MAITE's ObjectDetectionTarget.

    Attributes:
        boxes: Corners (n, 4) x0, y0, x1, y1 in px.
        labels: Class numbers (n,).
        scores: Scores (n,); 1 for true objects.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


class _ForeignModel(nn.Module):
    """A model of MAITE's protocol as a network: images (b, c, h, w) to scores or Detections."""

    def __init__(self, model: Any, task: Task, classes: int, scale: Scale) -> None:
        super().__init__()
        self.model, self.task, self.classes, self.scale = model, task, classes, scale

    def forward(self, images: Tensor) -> Tensor | Detections:
        """Return scores (b, classes), or Detections of boxes after the model's own suppression."""
        batch = [image * self.scale if self.scale == 255 else image for image in images]
        answers = list(self.model(batch))
        if len(answers) != len(images):
            raise ModelError(
                f"{count_noun(len(answers), 'target')} for {count_noun(len(images), 'image')}",
                "One each",
                "Check the model",
            )
        if self.task == "classify":
            return torch.stack([_as_tensor(answer, images).reshape(-1) for answer in answers])
        return self._detections(answers, images)

    def _detections(self, answers: Sequence[Any], images: Tensor) -> Detections:
        most = max(1, *(len(np.asarray(a.labels)) for a in answers))
        boxes, scores = [], []
        for answer in answers:
            own = _as_tensor(answer.boxes, images).reshape(-1, 4)
            score = _as_tensor(answer.scores, images)
            if score.ndim == 1:  # the score of one class each
                label = torch.as_tensor(np.asarray(answer.labels)).long().to(images.device)
                wide = score.new_zeros(len(score), self.classes)
                score = wide.scatter(1, label[:, None], score[:, None]) if len(score) else wide
            score = score.reshape(len(own), -1 if len(own) else self.classes)
            if score.shape[1] != self.classes:
                named = f"{self.classes} are named"
                raise ModelError(f"{score.shape[1]} scores a box", named, "Give classes")
            boxes.append(F.pad(own, (0, 0, 0, most - len(own))))
            scores.append(F.pad(score, (0, 0, 0, most - len(score))))
        return Detections(torch.stack(boxes), torch.stack(scores))

    def __deepcopy__(self, memo: dict[int, Any]) -> _ForeignModel:
        """Return the model itself: it is asked, and not all can be copied."""
        return self


def from_maite_model(
    model: Any,
    *,
    task: Task = "classify",
    classes: Sequence[str] | None = None,
    outputs: Literal["probabilities", "logits"] = "probabilities",
    scale: Scale = 1,
) -> LoadedModel:
    """Wrap a model of MAITE's protocol as one of this toolkit.

    Gradients reach the image where the model computes with torch and returns its tensors; others
    are black boxes, which attacks on scores and decisions take.

    Args:
        model: Image classification or object detection model: a sequence of images (c, h, w) to a
            sequence of scores (classes,), or of targets with ``boxes``, ``labels``, ``scores``.
        task: "classify" or "detect".
        classes: Names of the classes; None for ``index2label`` of the model's metadata.
        outputs: What a classifier returns.
        scale: Largest value of the images it takes: 1 or 255.

    Returns:
        The model with its card.

    Raises:
        ModelError: A detector names no classes.

    Example:
        >>> class Bright:
        ...     metadata = {"id": "bright", "index2label": {0: "dark", 1: "bright"}}
        ...     def __call__(self, batch):
        ...         return [np.array([1 - float(x.mean()), float(x.mean())]) for x in batch]
        >>> model = from_maite_model(Bright())
        >>> model.card.classes, model(torch.ones(1, 3, 4, 4)).argmax(1).tolist()
        (('dark', 'bright'), [1])
    """
    metadata = getattr(model, "metadata", {}) or {}
    names = list(classes) if classes is not None else _names_of(metadata)
    if task == "detect" and not names:
        raise ModelError(
            "a MAITE detector without index2label", "Its classes must be known", "Give classes"
        )
    net = _ForeignModel(model, task, len(names), scale)
    settings: dict[str, Any] = {"outputs": outputs} if task == "classify" else {}
    return as_model(
        net,
        name=str(metadata.get("id", type(model).__name__)),
        classes=names or None,
        task=task,
        **settings,
    )


def from_maite_dataset(
    dataset: Any, *, task: Task = "classify", scale: Scale | None = None
) -> ImageDataset | DetectionDataset:
    """Wrap a data set of MAITE's protocol as one of this toolkit, streamed.

    Targets are read once; images where they are needed, rounded to 8 bits.

    Args:
        dataset: Image classification or object detection data set.
        task: "classify" or "detect".
        scale: Largest value of its images; None for 255 of bytes and of floats over 1, else 1.

    Returns:
        The images with their labels or boxes.

    Raises:
        DataError: A datum has another form.

    Example:
        >>> class Two:
        ...     metadata = {"id": "two", "index2label": {0: "a", 1: "b"}}
        ...     def __len__(self): return 2
        ...     def __getitem__(self, i):
        ...         return np.zeros((3, 4, 4)), np.eye(2)[i], {"id": i}
        >>> data = from_maite_dataset(Two())
        >>> data.labels.tolist(), data.classes, data.read(0).shape
        ([0, 1], ('a', 'b'), (4, 4, 3))
    """
    metadata = getattr(dataset, "metadata", {}) or {}
    names = _names_of(metadata)
    data = [_target_of(dataset, i) for i in range(len(dataset))]
    files = tuple(str(identity) for _, identity in data)
    summary = DatasetSummary(str(metadata.get("id", "")), "MAITE data set")

    def read(index: int) -> Array:
        return _as_pixels(_input_of(dataset, index), scale, f"datum {index}")

    if task == "detect":
        boxes = [_labeled_boxes(target, i, names) for i, (target, _) in enumerate(data)]
        return detection_arrays(read, boxes, names, files, summary)
    scores = [np.asarray(_plain(target)).reshape(-1) for target, _ in data]
    labels = np.asarray([int(s.argmax()) if len(s) > 1 else int(s[0]) for s in scores], np.int64)
    count = max([len(names), int(labels.max(initial=0)) + 1, *(len(s) for s in scores)])
    classes = (*names, *(str(i) for i in range(len(names), count)))
    return ImageDataset(read, labels, classes, files, files, summary=summary)


class MaiteModel:
    """A model of this toolkit under MAITE's protocol.

    Args:
        model: Classifier or detector, as :func:`physadv.load_model` returns it.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
        >>> model = MaiteModel(as_model(net, classes=["a", "b"]))
        >>> [scores.shape for scores in model([np.zeros((3, 4, 4), np.float32)])]
        [(2,)]
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.metadata = {"id": model.card.name, "index2label": dict(enumerate(model.card.classes))}

    def __call__(self, batch: Sequence[Any], /) -> Sequence[Any]:
        """Return for each image (c, h, w), floats in [0, 1] or bytes, probabilities (classes,) or a
        :class:`BoxTarget` after suppression."""
        answers = []
        for image in batch:  # sizes may differ from image to image
            with torch.no_grad():
                prediction = self.model(_as_unit(image, self.model.device))
            if isinstance(prediction, Detections):
                answers.append(_box_target(prediction, self.model))
            else:
                answers.append(prediction[0].float().softmax(0).cpu().numpy())
        return answers


class MaiteDataset:
    """A data set of this toolkit under MAITE's protocol.

    Args:
        data: Images with labels, or with boxes.
        scale: Largest value of the images: 1 for float32, 255 for uint8.

    Example:
        >>> from physadv.datasets.base import in_memory
        >>> images = np.zeros((2, 4, 4, 3), np.uint8)
        >>> data = MaiteDataset(in_memory(images, np.array([0, 1]), ("a", "b"), "set"))
        >>> image, target, about = data[1]
        >>> image.shape, target.tolist(), about["id"]
        ((3, 4, 4), [0.0, 1.0], 'set#1')
    """

    def __init__(self, data: ImageDataset | DetectionDataset, *, scale: Scale = 1) -> None:
        self.data, self.scale = data, scale
        name = data.summary.path or data.summary.layout
        self.metadata = {"id": name, "index2label": dict(enumerate(data.classes))}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int, /) -> tuple[Any, Any, dict[str, Any]]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        pixels, truth = self.data[index]
        image: Any = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        if self.scale == 1:
            image = image.astype(np.float32) / 255
        about = {"id": self.data.names[index]}
        if isinstance(truth, int):
            target = np.zeros(len(self.data.classes), np.float32)
            target[truth] = 1
            return image, target, about
        counted = ~truth.crowd
        ones = np.ones(int(counted.sum()), np.float32)
        return image, BoxTarget(truth.boxes[counted], truth.labels[counted], ones), about


class MaiteAttack:
    """An attack within an epsilon ball as an augmentation of MAITE's protocol.

    It moves the images of a batch, each as far as the ball allows, and leaves targets as they are:
    the true ones, against which a metric then measures the model.

    Args:
        model: Classifier or detector that is attacked.
        threat: Norm and radius, such as "linf:8/255".
        attack: Name of the attack, such as "pgd", "apgd" or "square".
        steps: Steps of the attack; None for its own.
        goal: Goal on a detector: "hide", "fabricate" or "mislabel".
        seed: Seed of its random starts.

    Raises:
        OptionError: The threat or the attack is unknown.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
        >>> attack = MaiteAttack(as_model(net), "linf:0.1", attack="fgsm")
        >>> batch = [np.full((3, 4, 4), 0.5, np.float32)], [np.array([1.0, 0.0])], [{"id": 0}]
        >>> (moved,), _, _ = attack(batch)
        >>> round(float(np.abs(moved - 0.5).max()), 3)
        0.1
    """

    def __init__(
        self,
        model: LoadedModel,
        threat: str = "linf:8/255",
        *,
        attack: str = "pgd",
        steps: int | None = None,
        goal: DetectorGoal = "hide",
        seed: int = 0,
    ) -> None:
        norm, eps = parse_threat(threat)
        self.model, self.ball, self.goal = model, LpBall(norm, eps), goal
        self.run = attack_function(attack, self.ball, AttackSettings(steps), seed)
        self.metadata = {"id": f"{attack} {threat}"}

    def __call__(
        self, batch: tuple[Sequence[Any], Sequence[Any], Sequence[Any]], /
    ) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """Return the batch with its images moved, in their own type and scale."""
        images, targets, about = batch
        moved = []
        for image, target in zip(images, targets, strict=True):
            clean = _as_unit(image, self.model.device)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FindingWarning)  # an augmentation has no report
                moved.append(_in_type_of(image, self._moved(clean, target)[0]))
        return moved, targets, about

    def _moved(self, clean: Tensor, target: Any) -> Tensor:
        if self.model.card.task == "classify":
            label = torch.as_tensor([int(np.asarray(_plain(target)).reshape(-1).argmax())])
            return self.run(self.model, clean, label.to(clean.device)).images

        def attack(model: Any, images: Tensor, labels: Tensor, **_: Any) -> AttackResult:
            return self.run(model, images, labels)

        return detector_attack(
            self.model,
            clean,
            eps=self.ball.eps,
            norm=self.ball.norm,
            goal=self.goal,
            attack=attack,
        ).images


class MaiteAveragePrecision:
    """Average precision by COCO's rules as a metric of MAITE's protocol.

    Example:
        >>> box = BoxTarget(np.array([[0, 0, 4, 4]], np.float32), np.array([0]), np.array([0.9]))
        >>> metric = MaiteAveragePrecision()
        >>> metric.update([box], [box], [{"id": 0}])
        >>> metric.compute()["ap50"]
        1.0
    """

    def __init__(self) -> None:
        self.metadata = {"id": "COCO average precision"}
        self._images: list[Any] = []

    def reset(self) -> None:
        """Forget all images."""
        self._images = []

    def update(
        self, predictions: Sequence[Any], targets: Sequence[Any], about: Sequence[Any], /
    ) -> None:
        """Add the boxes that were found and the true ones of some images."""
        for found, truth in zip(predictions, targets, strict=True):
            scores = np.asarray(_plain(found.scores), np.float64)
            scores = scores.max(1) if scores.ndim == 2 else scores
            rows = np.column_stack(
                [
                    np.asarray(_plain(found.boxes), np.float64).reshape(-1, 4),
                    scores.reshape(-1),
                    np.asarray(_plain(found.labels)).reshape(-1),
                ]
            )
            boxes = np.asarray(_plain(truth.boxes), np.float64).reshape(-1, 4)
            areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            labels = np.asarray(_plain(truth.labels)).reshape(-1)
            objects = np.column_stack([boxes, labels, np.zeros(len(boxes)), areas])
            self._images.append(image_detections(rows.tolist(), objects.tolist()))

    def compute(self) -> Mapping[str, Any]:
        """Return ``ap``, ``ap50``, ``ap75`` and the number of ``objects`` so far."""
        figures = CocoMatches(self._images).average_precision()
        return {
            "ap": figures.ap,
            "ap50": figures.ap50,
            "ap75": figures.ap75,
            "objects": figures.objects,
        }


def _names_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    table = metadata.get("index2label") or {}
    highest = max((int(key) for key in table), default=-1)
    return tuple(str(table.get(i, i)) for i in range(highest + 1))


def _target_of(dataset: Any, index: int) -> tuple[Any, Any]:
    """Target and identity of a datum, without its image where the data set allows it."""
    if hasattr(dataset, "get_target") and hasattr(dataset, "get_metadata"):
        return dataset.get_target(index), dataset.get_metadata(index).get("id", index)
    try:
        _, target, about = dataset[index]
    except (TypeError, ValueError) as fault:
        raise DataError(
            f"datum {index}", "It is no (image, target, metadata)", "Follow MAITE's Dataset"
        ) from fault
    return target, about.get("id", index) if isinstance(about, Mapping) else index


def _input_of(dataset: Any, index: int) -> Any:
    return dataset.get_input(index) if hasattr(dataset, "get_input") else dataset[index][0]


def _plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _as_tensor(value: Any, like: Tensor) -> Tensor:
    """A value as floats on the device of ``like``; tensors keep their gradient."""
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    return tensor.to(like.device).float()


def _as_unit(image: Any, device: torch.device) -> Tensor:
    """An image (c, h, w), floats in [0, 1] or bytes, as (1, c, h, w) in [0, 1]."""
    tensor = image if isinstance(image, Tensor) else torch.as_tensor(np.array(image))
    is_byte = not tensor.is_floating_point()
    tensor = tensor.to(device).float()
    return (tensor / 255 if is_byte else tensor)[None]


def _in_type_of(image: Any, moved: Tensor) -> Any:
    """A moved image (c, h, w) in [0, 1] in the type of the one that was given."""
    tensor = image if isinstance(image, Tensor) else torch.as_tensor(np.asarray(image))
    if not tensor.is_floating_point():
        moved = moved.mul(255).round()
    moved = moved.detach().to(tensor.dtype).to(tensor.device)
    return moved if isinstance(image, Tensor) else moved.numpy()


def _as_pixels(image: Any, scale: Scale | None, where: str) -> Array:
    """An image (c, h, w) as (h, w, 3) uint8."""
    values = np.asarray(_plain(image))
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise DataError(f"{where}: image of shape {values.shape}", "(c, h, w), c 1 or 3")
    if values.dtype != np.uint8:
        largest = float(values.max(initial=0))
        factor = 255.0 if (scale == 1 if scale else largest <= 1) else 1.0
        if float(values.min(initial=0)) < 0 or largest * factor > 255.5:
            raise DataError(where, "Its image lies outside of [0, 1] or 0 to 255", "Scale it")
        values = np.rint(values * factor).astype(np.uint8)
    pixels = np.repeat(values, 3, 0) if values.shape[0] == 1 else values
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _labeled_boxes(target: Any, index: int, names: Sequence[str]) -> list[LabeledBox]:
    boxes = np.asarray(_plain(target.boxes), np.float64).reshape(-1, 4)
    labels = np.asarray(_plain(target.labels)).reshape(-1).tolist()
    return [
        LabeledBox(
            str(index),
            (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
            f"datum {index}",
            names[int(label)] if int(label) < len(names) else str(int(label)),
        )
        for box, label in zip(boxes, labels, strict=True)
    ]


def _box_target(prediction: Detections, model: LoadedModel) -> BoxTarget:
    found = PredictSettings.of(model.card.extra).boxes_of(prediction)[0]
    return BoxTarget(
        found.boxes.float().cpu().numpy(),
        found.labels.cpu().numpy(),
        found.scores.float().clamp(0, 1).cpu().numpy(),
    )
