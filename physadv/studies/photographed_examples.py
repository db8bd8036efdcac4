"""`physadv study photographed`: do adversarial pictures survive being printed and photographed?

After Kurakin, Goodfellow & Bengio (2016), with the twin in place of printer and phone: a
simulation. Pictures are made adversarial by the fast method, by small steps of it, and by small
steps towards the least likely class; then each is printed, photographed and cut out again. The
destruction rate is the share of those that fooled the victim on disk and no longer do so in the
photo. One row a picture, attack and eps; every table is computed from the rows.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from physadv.attacks.gradient import fgsm, pgd
from physadv.core.errors import DataError, OptionError
from physadv.core.image_io import Array, list_images, read_rgba, to_tensor
from physadv.core.rows import Row, append_rows, read_rows
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.evaluation.progress_log import claim_folder
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
"""Destruction rates of the paper's photos (table 1, top-1, 102 pictures, Inception v3)."""


def photograph_ways(config: PhotographedConfig) -> dict[str, tuple[str, VirtualCamera]]:
    """Return printer and camera of each way to photograph that ``config`` names, by its name.

    Raises OptionError for an unknown camera or effect.
    """
    for name in config.only:
        if name not in ("printer", *EFFECTS):
            raise OptionError(
                f"effect {name!r}", f"one of printer, {', '.join(EFFECTS)}", "choose one of these"
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
    """Do what is not done yet, a picture at a time; rows are on disk before each yield.

    Args:
        config: the study's configuration.
        model: the classifier attacked.
        folder: folder of the study; pictures that it holds rows of are not done again.

    Yields:
        Pictures done, and pictures in all.

    Raises:
        OptionError: another study lies in ``folder``, or a camera or an effect is unknown.
        DataError: there is no picture.
    """
    ways = photograph_ways(config)
    claim_study(folder, config, model)
    rows = list(read_rows(folder / ROWS)) if (folder / ROWS).is_file() else []
    known = {row["image"] for row in rows}

    files = choose_photos(config)
    yield len(known), len(files)
    for number, file in enumerate(files):
        if file.name not in known:
            picture = _square(read_rgba(file)[..., :3], config.picture_size)
            fresh = _picture_rows(config, ways, model, picture, file.name, number)
            append_rows(folder / ROWS, fresh)
        yield number + 1, len(files)


def claim_study(folder: Path, config: PhotographedConfig, model: LoadedModel) -> None:
    """Note in ``folder`` which study it holds.

    Args:
        folder: folder of the study.
        config: the study's configuration.
        model: the classifier attacked.

    Raises:
        OptionError: it is another study.
    """
    claim_folder(folder, config.facts() | {"victim": model.card.name})


def choose_photos(config: PhotographedConfig) -> list[Path]:
    """Return every k-th photo of the folder that ``config`` names, so that they spread over it.

    Raises DataError where there is none.
    """
    files = list_images(config.pictures)
    if not files:
        raise DataError(f"{config.pictures}", "holds no photo", "name a folder of photos")
    return files[:: max(1, len(files) // config.picture_count)][: config.picture_count]


def _picture_rows(
    config: PhotographedConfig,
    ways: dict[str, tuple[str, VirtualCamera]],
    model: LoadedModel,
    picture: Array,
    name: str,
    number: int,
) -> list[Row]:
    """The rows of one (n, n, 3) picture: what the victim sees of each version, on disk and
    photographed."""
    clean = to_tensor(picture)[None].to(_device_of(model))
    truth, rows = _read(model, clean), []

    def taken(version: Array) -> dict[str, int]:
        """What the victim sees in each photograph; what is printed is printed once for all cameras."""
        printers = dict.fromkeys(printer for printer, _ in ways.values())
        prints = {printer: print_flat(version, printer, seed=config.seed) for printer in printers}
        shown = {
            n: photograph_flat(prints[p], camera=c, seed=config.seed, shot=number)
            for n, (p, c) in ways.items()
        }
        return {way: _read(model, to_tensor(photo)[None]) for way, photo in shown.items()}

    photos_of_clean = taken(picture)
    for eps in config.eps255:
        for attack in ATTACKS:
            made = make_adversarial(model, clean, attack, eps)
            photos = taken((made[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy())
            fooled = _read(model, made) != truth
            rows += [
                {
                    "image": name,
                    "way": way,
                    "attack": attack,
                    "eps": eps,
                    "class": truth,
                    "clean_photo": photos_of_clean[way] == truth,
                    "fooled": fooled,
                    "photo_fooled": seen != truth,
                }
                for way, seen in photos.items()
            ]
    return rows


def make_adversarial(model: LoadedModel, clean: Tensor, attack: str, eps: int) -> Tensor:
    """(1, 3, n, n) in l_inf ``eps``/255 and 8 bit, by one of ``ATTACKS``; steps of 1/255, as many
    as in the paper."""
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
def _read(model: LoadedModel, image: Tensor) -> int:
    return int(model(image.to(_device_of(model))).argmax(1))


def _device_of(model: LoadedModel) -> torch.device:
    """The device of a model's parameters; one without parameters computes on the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _square(picture: Array, size: int) -> Array:
    side = min(picture.shape[:2])
    y, x = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    cut = picture[y : y + side, x : x + side]
    return np.asarray(cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def photographed_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line for each way, eps and attack: fooled on disk, fooled in the photo, destroyed; each
    with its interval."""
    lines = []
    for way, eps, attack in _places(rows):
        mine = [r for r in rows if _place(r) == (way, eps, attack)]
        fooled = [r for r in mine if r["fooled"]]
        lost = sum(not r["photo_fooled"] for r in fooled)
        lines.append(
            {
                "way": way,
                "attack": attack,
                "eps": eps,
                "n": len(mine),
                "clean_photo_right": _rate(
                    sum(r["clean_photo"] for r in mine), len(mine)
                ).as_dict(),
                "fooled": _rate(len(fooled), len(mine)).as_dict(),
                "photo_fooled": _rate(sum(r["photo_fooled"] for r in mine), len(mine)).as_dict(),
                "destroyed": _rate(lost, len(fooled)).as_dict(),
                "published": PUBLISHED.get((attack, eps)),
            }
        )
    return lines


def _places(rows: Sequence[Row]) -> list[tuple[str, int, str]]:
    """Way by way, in the order in which they were taken."""
    ways = list(dict.fromkeys(str(r["way"]) for r in rows))
    return sorted(dict.fromkeys(map(_place, rows)), key=lambda place: ways.index(place[0]))


def _place(row: Row) -> tuple[str, int, str]:
    return str(row["way"]), int(row["eps"]), str(row["attack"])


def _rate(hits: int, n: int) -> RateInterval:
    return wilson_interval(hits, n)


def photographed_markdown(lines: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown."""
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
        lost, known = line["destroyed"], line["published"]
        share = f"{lost['rate']:.1%} [{lost['low']:.1%}, {lost['high']:.1%}]" if lost["n"] else "-"
        shares = (
            f"{line[key]['rate']:.1%}" for key in ("clean_photo_right", "fooled", "photo_fooled")
        )
        cells = [
            line["way"],
            line["attack"],
            f"{line['eps']}/255",
            *shares,
            share,
            str(lost["n"]),
            f"{known:.1%}" if known else "-",
        ]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out) + "\n"
