"""Models that only answer: behind an HTTP address, or behind a command.

A black box gets images as PNG (8 bits a channel) and answers with scores, labels or boxes; it has
no gradient. Requests are batched, repeated where the connection fails, and counted against a
budget. ``docs/black_box.md`` documents what is sent and what is expected.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from physadv.core.addresses import public_address
from physadv.core.errors import ModelError
from physadv.core.image_io import png_bytes, to_uint8
from physadv.core.tables import convert_value, read_table
from physadv.core.trust import assert_may_run
from physadv.core.types import Detections
from physadv.core.wording import count_noun
from physadv.models.black_box_answers import AnsweredBoxes, BoxAnswer
from physadv.models.black_box_connections import (
    BoxConnection,
    RequestError,
    open_connection,
)
from physadv.models.black_box_settings import BlackBoxSettings, check_settings

__all__ = [
    "AskedModel",
    "BlackBox",
    "BlackBoxSettings",
    "black_box_within",
    "names_a_black_box",
    "open_black_box",
]

COMMAND = "command:"
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_LONGEST_WAIT = 60.0
_MOST_CLASSES = 100_000
_OF_ONE_VALUE = {"probability": "probabilities", "logit": "logits"}
"""What a box of one value returns, once it is written as two scores."""
_PROBE_SIDE = {"classify": 64, "detect": 320}
"""Side in px of the gray picture that a box of unknown classes is asked about."""


class AskedModel(nn.Module):
    """A model without a gradient, whose queries are counted.

    Args:
        name: Name in errors and on the card.
        budget: Largest number of images that it is asked about; 0 for no limit.
        outputs: What it returns: "probabilities", "logits", "labels" or "boxes"; empty where not
            known.

    Attributes:
        sent: Images that it was asked about.
    """

    def __init__(self, name: str, *, budget: int = 0, outputs: str = "") -> None:
        super().__init__()
        self.name, self.budget, self.outputs = name, budget, outputs
        self.sent = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the model itself: copies would count queries apart."""
        return self


class BlackBox(AskedModel):
    """A model that is asked instead of computed.

    Its output carries no gradient. ``sent`` counts the images sent so far.

    Args:
        name: Name in errors and on the card.
        settings: How it is asked.

    Raises:
        ModelError: It cannot be reached, or answers otherwise than documented.
    """

    def __init__(self, name: str, settings: BlackBoxSettings) -> None:
        super().__init__(
            name,
            budget=settings.budget,
            outputs=_OF_ONE_VALUE.get(settings.outputs, settings.outputs),
        )
        check_settings(name, settings)
        self.settings = settings
        self.connection: BoxConnection = open_connection(settings, name)
        self._next_request = 0.0
        stated = self.connection.describe()
        self.task = settings.task or str(stated.get("task") or "")
        self.classes = settings.classes or tuple(map(str, stated.get("classes") or ()))
        self.outputs = self.outputs or str(stated.get("outputs") or "")
        self.outputs = "boxes" if self.task == "detect" else self.outputs
        self.input_size = settings.input_size or tuple(stated.get("input_size") or ())
        self.score_threshold = settings.score_threshold or float(
            stated.get("score_threshold") or 0.25
        )

    def forward(self, images: Tensor) -> Tensor | Detections:
        """Ask for images (b, c, h, w) in [0, 1], rounded to 8 bits.

        Returns:
            Scores (b, classes), for labels 1 for the class answered and 0 for all others; or a
            detector's boxes, each with the score of its one class.

        Raises:
            ModelError: The budget is spent, the box cannot be reached, or its answer is not as
                documented.
        """
        pngs = [png_bytes(to_uint8(image.detach().cpu())) for image in images]
        batch = self.settings.batch
        starts = range(0, len(pngs), batch)
        answers = [self._answer(pngs[start : start + batch]) for start in starts]
        if self.task == "detect":
            return self._detections(answers, images.device)
        rows = [row for each in answers for row in each.scores or []]
        return torch.tensor(rows, dtype=torch.float32, device=images.device)

    def learn(self) -> None:
        """Ask about one gray picture where the box has not said what it is: its task, the number of
        its classes and what its scores are.

        Raises:
            ModelError: It answers otherwise than documented, or is a detector without class names.
        """
        if self.classes and self.outputs:
            return
        side = _PROBE_SIDE.get(self.task, 64)
        found = self(torch.full((1, 3, *(self.input_size or (side, side))), 0.5))
        if self.task != "detect":
            self.classes = self.classes or tuple(map(str, range(found.shape[1])))
        elif not self.classes:
            raise self._nameless("boxes")

    def _answer(self, pngs: Sequence[bytes]) -> BoxAnswer:
        """The answer to some images, with scores in place of labels, checked and counted."""
        if self.budget and self.sent + len(pngs) > self.budget:
            raise ModelError(
                f"{public_address(self.name)}: {count_noun(self.sent, 'image')} sent",
                f"The budget is {count_noun(self.budget, 'query')}",
                "Raise it, or attack fewer images or with fewer steps",
            )
        answer = self._repeated(pngs)
        self.sent += len(pngs)
        if answer.classes and not self.classes:
            self.classes = tuple(answer.classes)
        self._check_task(answer)
        if answer.detections is not None:
            if len(answer.detections) != len(pngs):
                raise self._wrong(
                    f"{len(answer.detections)} detections for {count_noun(len(pngs), 'image')}"
                )
            return answer
        if not self.outputs:
            self.outputs = answer.outputs or ("labels" if answer.labels else "probabilities")
        if answer.labels is not None:
            return BoxAnswer(scores=self._one_hot(answer.labels, len(pngs)))
        return BoxAnswer(scores=self._checked(answer.scores or [], len(pngs)))

    def _check_task(self, answer: BoxAnswer) -> None:
        """Learn the task from the first answer. Raises ModelError where another is stated."""
        task = "classify" if answer.detections is None else "detect"
        self.task = self.task or task
        if self.task != task:
            kinds = {"classify": "scores or labels", "detect": "detections"}
            raise ModelError(
                f"{public_address(self.name)} answered with {kinds[task]}",
                f"Its task is {self.task}: {kinds[self.task]} are needed",
                "Correct its task, or its answer",
            )
        if task == "detect" and self.settings.outputs:
            raise ModelError(
                f"{public_address(self.name)} answers with boxes",
                f"outputs {self.settings.outputs!r} are those of a classifier",
                "Leave them out",
            )
        self.outputs = "boxes" if task == "detect" else self.outputs

    def _repeated(self, pngs: Sequence[bytes]) -> BoxAnswer:
        """The answer, asked again where the connection failed."""
        for attempt in range(self.settings.retries + 1):
            self._wait_turn()
            try:
                return self.connection.ask(pngs)
            except RequestError as failure:
                if attempt == self.settings.retries:
                    raise ModelError(
                        f"{public_address(self.name)}",
                        f"It gave no answer in {attempt + 1} attempts ({failure})",
                        "Check that it runs, or raise its timeout_s or retries",
                    ) from failure
                wait = failure.wait_s if failure.wait_s is not None else 0.2 * 2**attempt
                time.sleep(min(wait, _LONGEST_WAIT))
        raise AssertionError("unreachable")

    def _wait_turn(self) -> None:
        """Sleep until the rate allows another request."""
        if self.settings.per_second <= 0:
            return
        now = time.monotonic()
        time.sleep(max(0.0, self._next_request - now))
        self._next_request = max(now, self._next_request) + 1 / self.settings.per_second

    def _one_hot(self, labels: Sequence[str | int], count: int) -> list[list[float]]:
        if len(labels) != count:
            raise self._wrong(
                f"{count_noun(len(labels), 'label')} for {count_noun(count, 'image')}"
            )
        if not self.classes:
            raise self._nameless("labels")
        indices = [self._index(label) for label in labels]
        return [[float(i == index) for i in range(len(self.classes))] for index in indices]

    def _index(self, label: str | int) -> int:
        """Number of a class that was answered by name or number."""
        if str(label) in self.classes:
            return self.classes.index(str(label))
        index = label if isinstance(label, int) else -1
        if not 0 <= index < len(self.classes):
            raise self._wrong(f"the label {str(label)[:80]!r}, which is none of its classes")
        return index

    def _nameless(self, kind: str) -> ModelError:
        return ModelError(
            f"{public_address(self.name)} answers with {kind}",
            "Its classes must be known",
            "Give --classes, or classes = [...] in a file, and name that file as the model",
        )

    def _checked(self, scores: Sequence[Sequence[float]], count: int) -> list[list[float]]:
        if len(scores) != count:
            raise self._wrong(
                f"{count_noun(len(scores), 'row')} of scores for {count_noun(count, 'image')}"
            )
        if self.settings.outputs in _OF_ONE_VALUE:
            scores = [self._of_two(row) for row in scores]
        width = len(self.classes) or len(scores[0])
        if any(len(row) != width for row in scores):
            raise self._wrong(
                f"{count_noun(len(scores[0]), 'score')} an image, where it has "
                f"{count_noun(width, 'class')}"
            )
        if not 2 <= width <= _MOST_CLASSES:
            raise self._wrong(
                f"{count_noun(width, 'score')} an image; 2 to {_MOST_CLASSES} are needed"
            )
        rows = [list(map(float, row)) for row in scores]
        outside = any(not -1e-6 <= value <= 1 + 1e-6 for row in rows for value in row)
        if self.outputs == "probabilities" and outside:
            raise ModelError(
                f"{public_address(self.name)}",
                "Its scores are taken for probabilities, and lie outside of [0, 1]",
                'Give --outputs logits, or outputs = "logits" in its description or file',
            )
        return rows

    def _of_two(self, row: Sequence[float]) -> list[float]:
        """Scores of two classes for a row that has the value of the second alone."""
        if len(row) != 1:
            raise self._wrong(f"{count_noun(len(row), 'score')} an image, where one is stated")
        return [1 - row[0] if self.outputs == "probabilities" else 0.0, row[0]]

    def _detections(self, answers: Sequence[BoxAnswer], device: torch.device) -> Detections:
        """Boxes of all images; those with fewer are padded with boxes of score 0."""
        found = [each for answer in answers for each in answer.detections or []]
        if not self.classes:
            raise self._nameless("boxes")
        most = max(1, *(len(each.scores) for each in found))
        boxes = torch.zeros(len(found), most, 4)
        scores = torch.zeros(len(found), most, len(self.classes))
        for number, each in enumerate(found):
            self._check_boxes(each)
            for i, (box, score, label) in enumerate(
                zip(each.boxes, each.scores, each.labels, strict=True)
            ):
                boxes[number, i] = torch.tensor(box)
                scores[number, i, self._index(label)] = score
        return Detections(boxes.to(device), scores.to(device))

    def _check_boxes(self, found: AnsweredBoxes) -> None:
        """Raise ModelError for lists of several lengths, and what are no corners in px."""
        counts = {len(found.boxes), len(found.scores), len(found.labels)}
        if len(counts) > 1:
            raise self._wrong("lists of several lengths for one image")
        if any(not 0 <= score <= 1 for score in found.scores):
            raise self._wrong("scores of boxes outside of [0, 1]")
        turned = any(box[0] > box[2] or box[1] > box[3] for box in found.boxes)
        shares = bool(found.boxes) and all(value <= 1 for box in found.boxes for value in box)
        if turned or shares:
            raise ModelError(
                f"{public_address(self.name)} answered the box {list(found.boxes[0])}",
                "Boxes are corners x0, y0, x1, y1 in px of the image sent",
                "See docs/black_box.md",
            )

    def _wrong(self, said: str) -> ModelError:
        return ModelError(
            f"{public_address(self.name)} answered {said}",
            "A row of scores, one label or one list of boxes an image is needed",
            "See docs/black_box.md",
        )


def names_a_black_box(text: str) -> bool:
    """Return whether ``text`` is an http(s) address or begins with ``command:``.

    Example:
        >>> names_a_black_box("http://127.0.0.1:8080/predict"), names_a_black_box("signs")
        (True, False)
    """
    return bool(_ADDRESS.match(text)) or text.startswith(COMMAND)


def open_black_box(
    text: str, stated: Mapping[str, Any] | None = None
) -> tuple[BlackBox, dict[str, Any]]:
    """Open the black box that ``text`` names.

    Args:
        text: An http(s) address, ``command:`` with a command line, or a TOML file with the fields
            of :class:`BlackBoxSettings`.
        stated: Fields of it that hold in place of those of the file and of what the box says.

    Returns:
        The box, and the entries of its card.

    Raises:
        ModelError: It may not be asked, cannot be reached, or the settings cannot be used.
    """
    if _ADDRESS.match(text):
        table: dict[str, Any] = {"url": text}
    elif text.startswith(COMMAND):
        table = {"command": text.removeprefix(COMMAND)}
    else:
        table = read_table(Path(text), error=ModelError, remedy="Correct the file")
    settings: BlackBoxSettings = convert_value(
        {**table, **(stated or {})}, BlackBoxSettings, name=public_address(text), error=ModelError
    )
    assert_may_run(text, "address" if settings.url else "command")

    box = BlackBox(text, settings)
    box.learn()
    entries: dict[str, Any] = {
        "classes": box.classes,
        "black_box": box.outputs,
        "gradient": "none: it only answers",
        **({"input_size": box.input_size} if box.input_size else {}),
    }
    if box.task != "detect":
        outputs = "logits" if box.outputs == "logits" else "probabilities"
        return box, {**entries, "outputs": outputs}
    # Boxes come after the box's own suppression: none of them is dropped here.
    after = {"score_threshold": box.score_threshold, "nms_iou": 1.0, "max_boxes": 1000}
    return box, {**entries, "task": "detect", **after}


def black_box_within(model: nn.Module) -> AskedModel | None:
    """Return the black box that ``model`` asks, None where it asks none.

    Args:
        model: Any model.
    """
    return next((part for part in model.modules() if isinstance(part, AskedModel)), None)
