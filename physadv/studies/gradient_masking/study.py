"""`physadv study masked`: nine defenses that mask gradients, each beside the attack that sees
through it.

After Athalye et al. (2018), Carlini et al. (2019) and Tramer et al. (2020). One row an image and
defense is kept; every table is computed from the rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from physadv.core.random_streams import numpy_generator
from physadv.core.rows import Row, append_rows, read_rows
from physadv.datasets import read_dataset
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.evaluation.progress_log import claim_folder
from physadv.evaluation.samples import choose_samples
from physadv.models.cards import ModelCard
from physadv.studies.config import MaskingConfig
from physadv.studies.gradient_masking.gallery import MaskedDefense, SurvivingImages, attack_defense
from physadv.studies.gradient_masking.trained_nets import StudyNets, trained_gallery
from physadv.training.data import load_training_data

ROWS = "rows.jsonl"
Indices = npt.NDArray[np.int64]
ABOUT = ("defence", "paper", "hides", "threat", "plain_is", "remedy", "train_s", "attack_s")
COLUMNS = ("clean", "plain", "gradient", "black_box", "real")


@dataclass(frozen=True)
class MaskingProgress:
    """What the study is at: ``done`` of ``total`` defenses, and words for the one in work."""

    done: int
    total: int
    note: str


TOTAL = 11


def run_masking_study(
    config: MaskingConfig, folder: Path, tell: Callable[[str], None] = lambda note: None
) -> Iterator[MaskingProgress]:
    """Train, attack and write rows; yield before each defense and at the end.

    Args:
        config: the study's configuration.
        folder: folder of the study; nets and rows that it holds are not made again.
        tell: called with words for the work at hand.

    Yields:
        The progress.

    Raises:
        OptionError: another study lies in ``folder``.
        DataError: the data cannot be read.
    """
    settings = config.effective
    claim_folder(folder, config.facts())
    material = load_training_data(
        Path(settings.data), limit=settings.train_images, seed=settings.seed
    )
    card = ModelCard("study", classes=material.classes, extra={"channels": material.channels})
    dataset = read_dataset(settings.data, split="test")
    half = split_half(len(dataset), settings.part)
    test = choose_samples(dataset.subset(half), card, limit=settings.limit, seed=settings.seed)
    indices = [int(half[i]) for i in test.indices]
    positions = range(len(test))
    images = torch.nn.functional.interpolate(
        test.images(positions), (material.image_size,) * 2, mode="area"
    )
    labels = test.targets(positions)
    shop = StudyNets(
        material,
        folder / "nets",
        settings.epochs,
        settings.eps,
        settings.seed,
        lambda name, share: tell(f"training {name} {share:.0%}"),
    )
    shop.folder.mkdir(parents=True, exist_ok=True)
    done = study_result(folder)
    yield MaskingProgress(0, TOTAL, "")
    began = time.process_time()
    for number, defense in enumerate(trained_gallery(shop), 1):
        if defense.name not in done:
            trained = time.process_time() - began
            tell(f"attacking {defense.name}")
            append_rows(folder / ROWS, _rows(defense, images, labels, indices, settings, trained))
        began = time.process_time()
        yield MaskingProgress(number, TOTAL, defense.name)


def split_half(n: int, part: str) -> Indices:
    """Which of ``n`` test images belong to a part, ascending: the same cut whatever is asked for."""
    order = numpy_generator(0, "limit").permutation(n)
    return np.sort(order[: n // 2] if part == "choose" else order[n // 2 :])


def study_result(folder: Path) -> set[str]:
    """The defenses whose rows are complete; rows of one that was cut short are taken out of the
    file."""
    path = folder / ROWS
    if not path.is_file():
        return set()
    rows = list(read_rows(path))
    whole = {
        str(r["defence"])
        for r in rows
        if r["of"] == sum(s["defence"] == r["defence"] for s in rows)
    }
    if any(r["defence"] not in whole for r in rows):
        path.unlink()
        append_rows(path, [r for r in rows if r["defence"] in whole])
    return whole


def masking_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One line a defense, in order of the rows: rates with intervals in each of COLUMNS, and CPU
    seconds."""
    lines = []
    for name in dict.fromkeys(str(r["defence"]) for r in rows):
        own = [r for r in rows if r["defence"] == name]
        told = {k: own[0][k] for k in ABOUT}
        rates = {
            c: wilson_interval(sum(bool(r[c]) for r in own), len(own)).as_dict() for c in COLUMNS
        }
        lines.append({**told, "n": len(own), **rates})
    return lines


def masking_markdown(rows: Sequence[Row]) -> str:
    """The table for people, in Markdown."""

    def cell(rate: dict[str, float]) -> str:
        return f"{rate['rate']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]".replace("%", " %")

    head = (
        "defence",
        "hides by",
        "threat",
        "plain attack",
        "seen through by",
        "clean",
        "plain (apparent)",
        "adaptive",
        "black box",
        "**real**",
        "n",
        "train s",
        "attack s",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for t in masking_table(rows):
        named = t["defence"] + (f" ({t['paper']})" if t["paper"] else "")
        cells = [
            named,
            t["hides"],
            t["threat"],
            t["plain_is"],
            t["remedy"],
            *(cell(t[c]) for c in COLUMNS[:-1]),
            f"**{cell(t['real'])}**",
        ]
        cells += [str(t["n"]), f"{t['train_s']:.0f}", f"{t['attack_s']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _rows(
    defense: MaskedDefense,
    images: Tensor,
    labels: Tensor,
    indices: Sequence[int],
    settings: MaskingConfig,
    trained: float,
) -> list[Row]:
    began = time.process_time()
    found = attack_defense(
        defense,
        images,
        labels,
        eps=settings.eps,
        steps=settings.attack_steps,
        seed=settings.seed,
        queries=settings.queries,
    )
    about = {
        "defence": defense.name,
        "paper": defense.paper,
        "hides": defense.hides,
        "remedy": defense.remedy,
        "threat": f"{defense.pixels} px" if defense.pixels else f"l_inf {settings.eps:.4g}",
        "plain_is": defense.plain_is,
        "part": settings.part,
        "of": len(labels),
        "train_s": round(trained, 1),
        "attack_s": round(time.process_time() - began, 1),
    }
    return [
        {**about, "index": int(i), "label": int(labels[k]), **_verdicts(found, k)}
        for k, i in enumerate(indices)
    ]


def _verdicts(found: SurvivingImages, k: int) -> dict[str, bool]:
    """Right or not in each column. An image that is wrong as it is counts as wrong everywhere."""
    clean = bool(found.clean[k])
    black = True if found.black_box is None else bool(found.black_box[k])
    return {
        "clean": clean,
        "plain": clean and bool(found.plain[k]),
        "gradient": clean and bool(found.gradient[k]),
        "black_box": clean and black,
        "real": bool(found.real[k]),
    }
