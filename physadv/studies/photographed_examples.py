"""The study `physadv study photographed`: do adversarial images survive printing and photographing?

After Kurakin, Goodfellow and Bengio (2016), with the twin's simulation in place of printer and
phone. Images are attacked by the fast method, by iterated small steps, and by small steps towards
the least likely class; each is then printed, photographed and cropped. The destruction rate is the
share of images that fooled the model on disk and no longer do so in the photo. One row an image,
attack and eps is recorded; every table is computed from the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from physadv.attacks.gradient import fgsm, pgd
from physadv.core.errors import DataError, OptionError
from physadv.core.files import contents_digest
from physadv.core.image_io import Array, list_images, read_rgb, to_tensor
from physadv.core.rows import Row, append_rows, read_rows, replace_rows
from physadv.core.wording import format_percent
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.evaluation.progress_log import DATA_DIGEST, claim_folder
from physadv.evaluation.subject import state_digest
from physadv.models.cards import LoadedModel
from physadv.studies.config import PhotographedConfig
from physadv.twin.cameras import EFFECTS, VirtualCamera, cameras_named, leave_out
from physadv.twin.flat_print import photograph_flat, print_flat

ROWS = "rows.jsonl"
ATTACKS = ("fast", "iterative", "least-likely")
PUBLISHED = {
    ("fast", 16): 0.125,
    ("fast", 8): 0.333,
    ("iterative", 16): 0.404,
    ("iterative", 8): 0.521,
    ("least-likely", 16): 0.722,
    ("least-likely", 8): 0.863,
}
"""Destruction rates of the paper's photos (table 1, top-1, 102 images, Inception v3)."""


def photograph_ways(config: PhotographedConfig) -> dict[str, tuple[str, VirtualCamera]]:
    """Return printer and camera of each way to photograph that ``config`` names, by its name.

    Raises:
        OptionError: A camera or an effect is unknown.
    """
    for name in config.only:
        if name not in ("printer", *EFFECTS):
            raise OptionError(
                f"unknown effect {name!r}",
                f"the effects are printer, {', '.join(EFFECTS)}",
                "Choose one of these",
            )

    ways = {camera.name: (config.printer, camera) for camera in cameras_named(config.camera)}

    last = list(ways.values())[-1][1]
    for effect in config.only:
        printer = config.printer if effect == "printer" else "ideal"
        ways[f"{effect} alone"] = (printer, leave_out(last, [e for e in EFFECTS if e != effect]))
    return ways


def run_photographed(
    config: PhotographedConfig, model: LoadedModel, folder: Path
) -> Generator[tuple[int, int], None, None]:
    """Run the study image by image, resuming a folder; yield (done, total), with rows on disk
    before each.

    Args:
        config: Configuration of the study.
        model: Classifier.
        folder: Folder of the run.

    Raises:
        OptionError: The folder holds another study.
        DataError: There is no photo.
    """
    ways = photograph_ways(config)
    claim_study(folder, config, model)
    done = _finished_images(folder / ROWS, len(ways) * len(ATTACKS) * len(config.eps255))
    files = choose_photos(config)

    yield len(done), len(files)
    for number, file in enumerate(files):
        if file.name not in done:
            picture = _square(read_rgb(file), config.picture_size)
            fresh = _picture_rows(config, ways, model, picture, file.name, number)
            append_rows(folder / ROWS, fresh)
        yield number + 1, len(files)


def _finished_images(file: Path, each: int) -> set[str]:
    """The images with all of their ``each`` rows in ``file``; rows of one that a kill cut short are
    removed."""
    rows = list(read_rows(file)) if file.is_file() else []
    counts = Counter(str(row["image"]) for row in rows)
    done = {image for image, count in counts.items() if count == each}
    if len(done) < len(counts):
        replace_rows(file, [row for row in rows if row["image"] in done])
    return done


def claim_study(folder: Path, config: PhotographedConfig, model: LoadedModel) -> None:
    """Record in ``folder`` which study it holds.

    Args:
        folder: Folder of the study.
        config: Configuration of the study.
        model: Classifier under attack.

    Raises:
        OptionError: The folder holds another study.
    """
    state = model.card.sha256[:16] or state_digest(model)
    contents = contents_digest(choose_photos(config))
    own = {"victim": model.card.name, "model_state": state, DATA_DIGEST: contents}
    claim_folder(folder, config.facts() | own)


def choose_photos(config: PhotographedConfig) -> list[Path]:
    """Return evenly spaced photos of the folder that ``config`` names.

    Raises:
        DataError: There is none.
    """
    files = list_images(config.pictures)
    if not files:
        raise DataError(f"{config.pictures}", "holds no photo", "Give a folder of photos")
    return files[:: max(1, len(files) // config.picture_count)][: config.picture_count]


def _picture_rows(
    config: PhotographedConfig,
    ways: dict[str, tuple[str, VirtualCamera]],
    model: LoadedModel,
    picture: Array,
    name: str,
    number: int,
) -> list[Row]:
    """Return the rows of one (n, n, 3) image: predictions for each version, on disk and
    photographed."""
    clean = to_tensor(picture)[None].to(model.device)
    truth, rows = _classify(model, clean), []

    def photographed(version: Array) -> dict[str, int]:
        """Return the prediction for each photograph of ``version``; it is printed once a printer,
        for all cameras."""
        printers = dict.fromkeys(printer for printer, _ in ways.values())
        prints = {printer: print_flat(version, printer, seed=config.seed) for printer in printers}
        photos = {
            n: photograph_flat(prints[p], camera=c, seed=config.seed, shot=number)
            for n, (p, c) in ways.items()
        }
        return {way: _classify(model, to_tensor(photo)[None]) for way, photo in photos.items()}

    clean_photos = photographed(picture)
    for eps in config.eps255:
        for attack in ATTACKS:
            moved = make_adversarial(model, clean, attack, eps)
            photos = photographed((moved[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy())
            fooled = _classify(model, moved) != truth
            rows += [
                {
                    "image": name,
                    "way": way,
                    "attack": attack,
                    "eps": eps,
                    "class": truth,
                    "clean_photo": clean_photos[way] == truth,
                    "fooled": fooled,
                    "photo_fooled": predicted != truth,
                }
                for way, predicted in photos.items()
            ]

    return rows


def make_adversarial(model: LoadedModel, clean: Tensor, attack: str, eps: int) -> Tensor:
    """Return an adversarial 8-bit image (1, 3, n, n) by one of the paper's attacks, in steps of
    1/255.

    Args:
        model: Classifier.
        clean: Image (1, 3, n, n) in [0, 1].
        attack: "fast", "iterative" or "least-likely".
        eps: Radius of the l_inf ball in 255ths; it decides the number of steps, as in the paper.
    """
    radius, steps = eps / 255, round(min(eps + 4, 1.25 * eps))
    with torch.no_grad():
        logits = model(clean)
    labels = logits.argmax(1)

    if attack == "fast":
        return fgsm(model, clean, labels, eps=radius, levels=255).images
    towards = {"targets": logits.argmin(1)} if attack == "least-likely" else {}
    return pgd(
        model,
        clean,
        labels,
        eps=radius,
        steps=steps,
        step_size=1 / 255,
        schedule="constant",
        random_start=False,
        keep="loss",
        levels=255,
        **towards,
    ).images


@torch.no_grad()
def _classify(model: LoadedModel, image: Tensor) -> int:
    return int(model(image.to(model.device)).argmax(1))


def _square(picture: Array, size: int) -> Array:
    side = min(picture.shape[:2])
    y, x = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    cut = picture[y : y + side, x : x + side]
    return np.asarray(cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def photographed_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a line for each way, eps and attack in ``rows``: fooled on disk, in the photo, and
    destroyed, with intervals.

    Example:
        >>> from physadv.studies.photographed_examples import photographed_table
        >>> row = {"way": "phone", "attack": "fast", "eps": 8, "clean_photo": True, "fooled": True}
        >>> rows = [row | {"photo_fooled": fooled} for fooled in (True, True, True, False)]
        >>> photographed_table(rows)[0]["destroyed"]["rate"]
        0.25
    """
    lines = []
    for way, eps, attack in _settings(rows):
        own = [r for r in rows if _setting(r) == (way, eps, attack)]
        fooled = [r for r in own if r["fooled"]]
        destroyed = sum(not r["photo_fooled"] for r in fooled)

        lines.append(
            {
                "way": way,
                "attack": attack,
                "eps": eps,
                "n": len(own),
                "clean_photo_right": _rate(sum(r["clean_photo"] for r in own), len(own)).as_dict(),
                "fooled": _rate(len(fooled), len(own)).as_dict(),
                "photo_fooled": _rate(sum(r["photo_fooled"] for r in own), len(own)).as_dict(),
                "destroyed": _rate(destroyed, len(fooled)).as_dict(),
                "published": PUBLISHED.get((attack, eps)),
            }
        )
    return lines


def _settings(rows: Sequence[Row]) -> list[tuple[str, int, str]]:
    """Return the distinct (way, eps, attack), ways in the order in which they were run."""
    ways = list(dict.fromkeys(str(r["way"]) for r in rows))
    return sorted(dict.fromkeys(map(_setting, rows)), key=lambda setting: ways.index(setting[0]))


def _setting(row: Row) -> tuple[str, int, str]:
    return str(row["way"]), int(row["eps"]), str(row["attack"])


def _rate(hits: int, n: int) -> RateInterval:
    return wilson_interval(hits, n)


def photographed_markdown(lines: Sequence[dict[str, Any]]) -> str:
    """Return the table of ``lines`` in Markdown."""
    heads = [
        "photographed by",
        "attack",
        "eps",
        "clean photo right",
        "fooled on disk",
        "fooled in the photo",
    ]
    head = f"| {' | '.join([*heads, 'destroyed', 'of', 'Kurakin 2016'])} |"

    out = [head, "|---|---|---|---|---|---|---|---|---|"]
    for line in lines:
        destroyed, published = line["destroyed"], line["published"]
        interval = f"[{format_percent(destroyed['low'])}, {format_percent(destroyed['high'])}]"
        share = f"{format_percent(destroyed['rate'])} {interval}" if destroyed["n"] else "-"
        shares = (
            format_percent(line[key]["rate"])
            for key in ("clean_photo_right", "fooled", "photo_fooled")
        )

        cells = [
            line["way"],
            line["attack"],
            f"{line['eps']}/255",
            *shares,
            share,
            str(destroyed["n"]),
            format_percent(published) if published else "-",
        ]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out) + "\n"
