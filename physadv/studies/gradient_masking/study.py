"""The study `physadv study masked`: defenses that mask gradients, each beside the attacks that
break it.

After Athalye et al. (2018), Carlini et al. (2019) and Tramer et al. (2020). One row an image and
defense is recorded; every table is computed from the rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from physadv.core.files import contents_digest, make_folder
from physadv.core.random_streams import numpy_generator
from physadv.core.rows import Row, append_rows, read_rows, replace_rows
from physadv.core.wording import count_noun, format_percent
from physadv.datasets import DatasetSummary, read_dataset
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.evaluation.progress_log import DATA_DIGEST, claim_folder
from physadv.evaluation.samples import choose_samples
from physadv.models.cards import ModelCard
from physadv.models.resizing import InputResizing
from physadv.studies.config import MaskingConfig
from physadv.studies.gradient_masking.escalation import AttackRound, escalate_attacks, is_settled
from physadv.studies.gradient_masking.gallery import MaskedDefense, SurvivingImages, attack_defense
from physadv.studies.gradient_masking.trained_nets import StudyNets, trained_gallery
from physadv.training.data import load_training_data

ROWS = "rows.jsonl"
Indices = npt.NDArray[np.int64]
ABOUT = (
    "defence",
    "paper",
    "hides",
    "threat",
    "plain_is",
    "remedy",
    "train_s",
    "attack_s",
    "rounds",
)
COLUMNS = ("clean", "plain", "gradient", "black_box", "real")


@dataclass(frozen=True)
class MaskingProgress:
    """Progress of the study: ``done`` of ``total`` defenses, a ``note`` on the current one, and at
    the beginning what the ``data`` were taken for."""

    done: int
    total: int
    note: str
    data: DatasetSummary | None = None


TOTAL = 11
"""Number of defenses and controls."""


def claim_masking(folder: Path, config: MaskingConfig) -> None:
    """Record in ``folder`` which study it holds, and on which data.

    Raises:
        OptionError: The folder holds another study.
    """
    claim_folder(folder, {**config.facts(), DATA_DIGEST: contents_digest(config.files())})


def run_masking_study(
    config: MaskingConfig, folder: Path, tell: Callable[[str], None] = lambda note: None
) -> Iterator[MaskingProgress]:
    """Train the defenses, attack them and write rows; yield before each defense and at the end.

    Networks and rows that the folder holds are not computed again; a defense that is not settled
    there is attacked in further rounds where ``config`` allows more of them.

    Args:
        config: Configuration of the study.
        folder: Folder of the run.
        tell: Called with a line on the current step.

    Yields:
        The progress.

    Raises:
        OptionError: The folder holds another study.
        DataError: The data cannot be read.
    """
    settings = config.effective
    claim_masking(folder, config)
    training = load_training_data(
        Path(settings.data), limit=settings.train_images, seed=settings.seed
    )

    card = ModelCard("study", classes=training.classes, extra={"channels": training.channels})
    dataset = read_dataset(settings.data, split="test")
    half = split_half(len(dataset), settings.part)
    test = choose_samples(dataset.subset(half), card, limit=settings.limit, seed=settings.seed)
    indices = [int(half[i]) for i in test.indices]

    positions = range(len(test))
    images = InputResizing((training.image_size,) * 2)(test.images(positions))
    labels = test.targets(positions)

    nets = StudyNets(
        training,
        folder / "nets",
        settings.epochs,
        settings.eps,
        settings.seed,
        lambda name, share: tell(f"training {name} {format_percent(share, 0)}"),
    )
    make_folder(nets.folder)
    study_result(folder)

    yield MaskingProgress(0, TOTAL, "", test.summary)
    began = time.process_time()
    for number, defense in enumerate(trained_gallery(nets), 1):
        recorded = list(read_rows(folder / ROWS)) if (folder / ROWS).is_file() else []
        own = _rows_of(recorded, defense.name)
        if not own:
            trained = time.process_time() - began
            tell(f"attacking {defense.name}")
            append_rows(folder / ROWS, _rows(defense, images, labels, indices, settings, trained))
        elif more_rounds(own, settings.rounds):
            tell(f"attacking {defense.name} further")
            further = _further_rows(defense, images, labels, own, settings)
            replace_rows(folder / ROWS, _replaced(recorded, further))
        began = time.process_time()
        yield MaskingProgress(number, TOTAL, defense.name)


def split_half(n: int, part: str) -> Indices:
    """Return which of ``n`` test images belong to ``part``, ascending; the split does not depend on
    any other setting."""
    order = numpy_generator(0, "limit").permutation(n)
    return np.sort(order[: n // 2] if part == "choose" else order[n // 2 :])


def study_result(folder: Path) -> set[str]:
    """Return the defenses whose rows in ``folder`` are complete, and remove the rows of one that
    was cut short."""
    path = folder / ROWS
    if not path.is_file():
        return set()
    rows = list(read_rows(path))
    complete = {
        str(r["defence"])
        for r in rows
        if r["of"] == sum(s["defence"] == r["defence"] for s in rows)
    }

    if any(r["defence"] not in complete for r in rows):
        replace_rows(path, [r for r in rows if r["defence"] in complete])
    return complete


def masking_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one line a defense, in order of ``rows``: rates with intervals in each of COLUMNS, and
    CPU seconds."""
    lines = []
    for name in dict.fromkeys(str(r["defence"]) for r in rows):
        own = _rows_of(rows, name)
        about = {k: own[0].get(k, []) if k == "rounds" else own[0][k] for k in ABOUT}
        rates = {
            c: wilson_interval(sum(bool(r[c]) for r in own), len(own)).as_dict() for c in COLUMNS
        }
        stopped = stopping_point(about["rounds"])
        lines.append({**about, "stopped": stopped, "n": len(own), **rates})
    return lines


def more_rounds(rows: Sequence[Row], limit: int) -> bool:
    """Return whether the ``rows`` of a defense are of fewer rounds than ``limit`` and not settled.

    Example:
        >>> more_rounds([{"real": True, "rounds": [{"attacked": 7, "broken": 2}]}], 2)
        True
        >>> more_rounds([{"real": True, "rounds": [{"attacked": 5, "broken": 0}]}], 2)
        False
    """
    rounds = rows[0].get("rounds", [])
    return len(rounds) < limit and not is_settled(rounds) and any(row["real"] for row in rows)


def stopping_point(rounds: Sequence[dict[str, int]]) -> str:
    """Return in words where the attacks of one defense stopped, from its recorded ``rounds``.

    Example:
        >>> stopping_point([{"queries": 2000, "seeds": 2, "steps": 80, "attacked": 6, "broken": 0}])
        '2,000 queries, 80 steps, 2 seeds: none of 6 broken'
    """
    if not rounds:
        return "one round"
    last = rounds[-1]
    budget = (
        f"{count_noun(last['queries'], 'query')}, {count_noun(last['steps'], 'step')}, "
        f"{count_noun(last['seeds'], 'seed')}"
    )
    if last["broken"] == 0:
        return f"{budget}: none of {last['attacked']} broken"
    if last["broken"] == last["attacked"]:
        return f"{budget}: nothing left"
    return f"{budget}: {last['broken']} of {last['attacked']} broken, not settled"


def defense_name(line: Mapping[str, Any]) -> str:
    """Return the name of the defense of ``line`` of the study's table as people read it.

    Args:
        line: A line of the table; its records keep the spelling that they began with.
    """
    return str(line["defence"]).replace("defence", "defense")


def masking_markdown(rows: Sequence[Row]) -> str:
    """Return the table of ``rows`` in Markdown."""

    def cell(rate: dict[str, float]) -> str:
        value, low, high = (format_percent(rate[key]) for key in ("rate", "low", "high"))
        return f"{value} [{low}, {high}]"

    head = (
        "defense",
        "hides by",
        "threat",
        "plain attack",
        "seen through by",
        "clean",
        "plain (apparent)",
        "adaptive",
        "black box",
        "**real**",
        "stopped at",
        "n",
        "train s",
        "attack s",
    )

    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for t in masking_table(rows):
        name = defense_name(t) + (f" ({t['paper']})" if t["paper"] else "")
        cells = [
            name,
            t["hides"],
            t["threat"],
            t["plain_is"],
            t["remedy"],
            *(cell(t[c]) for c in COLUMNS[:-1]),
            f"**{cell(t['real'])}**",
            t["stopped"],
        ]
        cells += [str(t["n"]), f"{t['train_s']:.0f}", f"{t['attack_s']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")

    return "\n".join(lines) + "\n"


def _rows_of(rows: Sequence[Row], name: str) -> list[Row]:
    """Return the rows of the defense ``name``."""
    return [row for row in rows if row["defence"] == name]


def _replaced(rows: Sequence[Row], own: Sequence[Row]) -> list[Row]:
    """Return ``rows`` with those of one defense replaced by ``own``, in the old order."""
    renewed = {(row["defence"], row["index"]): row for row in own}
    return [renewed.get((row["defence"], row["index"]), row) for row in rows]


def _further_rows(
    defense: MaskedDefense,
    images: Tensor,
    labels: Tensor,
    rows: Sequence[Row],
    settings: MaskingConfig,
) -> list[Row]:
    """Return the ``rows`` of a defense after the rounds that they lack of ``settings``."""
    began = time.process_time()
    survived, rounds = escalate_attacks(
        defense,
        images,
        labels,
        torch.tensor([bool(row["real"]) for row in rows]),
        eps=settings.eps,
        steps=settings.attack_steps,
        queries=settings.queries,
        rounds=settings.rounds,
        seed=settings.seed,
        earlier=[AttackRound(**record) for record in rows[0].get("rounds", [])],
    )

    about = {
        "attack_s": round(rows[0]["attack_s"] + time.process_time() - began, 1),
        "rounds": [one.as_dict() for one in rounds],
    }
    return [{**row, **about, "real": bool(survived[k])} for k, row in enumerate(rows)]


def _rows(
    defense: MaskedDefense,
    images: Tensor,
    labels: Tensor,
    indices: Sequence[int],
    settings: MaskingConfig,
    trained: float,
) -> list[Row]:
    began = time.process_time()
    outcome = attack_defense(
        defense,
        images,
        labels,
        eps=settings.eps,
        steps=settings.attack_steps,
        seed=settings.seed,
        queries=settings.queries,
    )
    survived, rounds = escalate_attacks(
        defense,
        images,
        labels,
        outcome.real,
        eps=settings.eps,
        steps=settings.attack_steps,
        queries=settings.queries,
        rounds=settings.rounds,
        seed=settings.seed,
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
        "rounds": [one.as_dict() for one in rounds],
    }

    return [
        {
            **about,
            "index": int(i),
            "label": int(labels[k]),
            **_verdicts(outcome, k),
            "real": bool(survived[k]),
        }
        for k, i in enumerate(indices)
    ]


def _verdicts(outcome: SurvivingImages, k: int) -> dict[str, bool]:
    """Return whether image ``k`` is correct in each column but the last; one that is wrong without
    attack counts as wrong everywhere."""
    clean = bool(outcome.clean[k])
    black = True if outcome.black_box is None else bool(outcome.black_box[k])
    return {
        "clean": clean,
        "plain": clean and bool(outcome.plain[k]),
        "gradient": clean and bool(outcome.gradient[k]),
        "black_box": clean and black,
    }
