"""Page of a model's examination: how it reads images, what it answers on pictures, and doubts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import cv2
import numpy as np

from physadv.core.files import write_text
from physadv.core.findings import Finding
from physadv.core.image_io import Array, to_uint8
from physadv.evaluation.model_check import Accuracy, PictureAnswer
from physadv.models.classifiers import resize_images
from physadv.report.design import picture_uri, render_page

_SIDE = 300
"""Longest side of a picture on the page, in px."""
_BOX_COLOR = (255, 64, 0)


def write_model_report(
    path: str | Path,
    name: str,
    facts: Mapping[str, str],
    answers: Sequence[PictureAnswer],
    warnings: Sequence[str],
    findings: Sequence[Finding],
    accuracy: Accuracy | None,
    verdict: str,
) -> Path:
    """Write the page of a model's examination.

    Args:
        path: HTML file to write.
        name: The model as it was named.
        facts: How it reads images, in words by heading.
        answers: What it answers to pictures.
        warnings: What is wrong with outputs and gradients.
        findings: Doubts.
        accuracy: Accuracy on labeled images; None where there were none.
        verdict: What all of it shows, in a line.

    Returns:
        Path of the page.
    """
    shown = Path(name).name if Path(name).is_file() else name
    page = render_page(
        "model.html.j2",
        title=f"Model: {shown}",
        name=shown,
        facts={**facts, "source": PurePath(facts.get("source", "")).name},  # no path of one machine
        pictures=[_shown(answer) for answer in answers],
        warnings=warnings,
        findings=findings,
        accuracy=accuracy,
        verdict=verdict[:1].upper() + verdict[1:],
    )
    return write_text(Path(path), page)


def _shown(answer: PictureAnswer) -> dict[str, object]:
    """A picture with its boxes, and the answers below it."""
    rows = [{"name": name, "score": score} for name, score in answer.answers]
    return {"name": answer.name, "uri": picture_uri(_drawn(answer)), "answers": rows}


def _drawn(answer: PictureAnswer) -> Array:
    height, width = answer.image.shape[-2:]
    scale = _SIDE / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    image = resize_images(answer.image[None], *size)[0].clamp(0, 1)
    pixels = np.ascontiguousarray(to_uint8(image.expand(3, -1, -1)))
    for box in answer.boxes:
        left, top, right, bottom = (round(side * scale) for side in box)
        cv2.rectangle(pixels, (left, top), (right, bottom), _BOX_COLOR, 2)
    return pixels
