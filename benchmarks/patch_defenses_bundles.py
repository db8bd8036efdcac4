r"""Front ends before a detector and before an ImageNet classifier, against the ready-made patches
made for these.

    python benchmarks/patch_defenses_bundles.py judge ../shared/data --bundle person-fastestdet-v1
    --n 48 none jpeg lgs python benchmarks/patch_defenses.py table

Each bundle's own task, at its held-out photos, in simulated draws that its card does not report;
the clean, the blank and the patched picture share a draw. The last table of patch_defenses.md is
made of the rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from physadv.core.package_data import patches_dir
from physadv.core.rows import Row, append_rows
from physadv.defenses.registry import defend_model
from physadv.evaluation.metrics.intervals import clustered_interval
from physadv.models.cards import LoadedModel
from physadv.patches.bundle import read_bundle
from physadv.patches.optimize import BLANK_LEVEL, annotations_of, render_scenes, sample_eot
from physadv.patches.reverify import config_from_bundle, locate_files
from physadv.patches.task import PatchTask, sample_scenes
from physadv.threat.patch_goals import Annotations

ROWS = Path("benchmarks/patch_defenses_bundles.jsonl")
BATCH = 8
BLOCKS = ("clean", "blank", "patch")
INTRO = """## The other bundles

The same front ends before the victims that the other three bundles attack: how often an object is still seen as what it
is, and how often the universal patch gets its "toaster". Each at its bundle's held-out photos, in simulated draws that
the card does not report; 95 % intervals over photos, wide where these are few. The remover learned from
signs at 64 px; `side` is what it stretches other pictures to. These patches were made without any front end: what
stops them here is not shown to stop one made with it (above, every front end falls). No proof is asked for: those of
this project are for classifiers trained on masked pictures, and this page has them for signs only."""

Seen = list[tuple[dict[str, Tensor], Annotations, tuple[str, ...]]]


@torch.no_grad()
def photographed(task: PatchTask, patch: Tensor, n: int) -> Seen:
    """``n`` held-out scenes in batches: their three pictures, what is judged in them, and their
    photos' names."""
    found: Seen = []
    for first in range(0, n, BATCH):
        name = ("patch-defences", first)
        scenes = sample_scenes(task, task.scene_sources.test, min(BATCH, n - first), *name)
        images = {"clean": task.stages.without_patch(scenes, sample_eot(task, scenes, name))}
        images["blank"], _ = render_scenes(task, torch.full_like(patch, BLANK_LEVEL), scenes, name)
        images["patch"], _ = render_scenes(task, patch, scenes, name)
        found.append((images, annotations_of(task, scenes), scenes.groups))
    return found


def save(seen: Seen, path: Path) -> None:
    """Keep the pictures as a camera would, in 8 bits, so that every defense sees the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [
        (
            {b: x.mul(255).round().byte() for b, x in images.items()},
            (m.boxes, m.labels, m.scene),
            list(groups),
        )
        for images, m, groups in seen
    ]
    torch.save(plain, path)


def load(path: Path) -> Seen:
    """What :func:`save` kept."""
    plain = torch.load(path, weights_only=True)
    return [
        ({b: x.float() / 255 for b, x in images.items()}, Annotations(*m), tuple(g))
        for images, m, g in plain
    ]


@torch.no_grad()
def judged(task: PatchTask, model: LoadedModel, seen: Seen) -> list[Row]:
    """One row an object: is it recognized, and is the patch's goal met, in each of the three
    pictures."""
    rows: list[Row] = []
    for images, marks, groups in seen:
        predictions = {block: model(picture) for block, picture in images.items()}
        right = {b: task.goal.recognized(p, marks).tolist() for b, p in predictions.items()}
        won = {b: task.goal.succeeded(p, marks).tolist() for b, p in predictions.items()}
        owners = range(len(groups)) if marks.scene is None else marks.scene.tolist()
        for k, owner in enumerate(owners):
            row: Row = {"group": groups[owner]}
            row |= {b: right[b][k] for b in BLOCKS} | {f"{b}_goal": won[b][k] for b in BLOCKS}
            rows.append(row)
    return rows


def judge(bundle: str, names: Sequence[str], data: Path, n: int, out: Path) -> None:
    """Photograph once, then every defense in turn."""
    loaded = read_bundle(patches_dir() / bundle)
    task = PatchTask.from_config(
        locate_files(replace(config_from_bundle(loaded), device="cpu"), loaded, data)
    )
    model = task.loaded_model
    cache = Path(f"runs/patch-defences-{bundle}-{n}.pt")
    if not cache.is_file():
        save(photographed(replace(task, mask=loaded.mask), loaded.patch, n), cache)
    seen = load(cache)
    for name in names:
        began = time.process_time()
        rows = judged(task, model if name == "none" else defend_model(model, name), seen)
        seconds = round(time.process_time() - began, 1)
        about = {
            "bundle": bundle,
            "defence": name,
            "goal": task.goal.kind,
            "scenes": n,
            "cpu_s": seconds,
        }
        append_rows(out, [{**about, **row} for row in rows])
        print(line(bundle, name, [{**about, **row} for row in rows]), flush=True)


def line(bundle: str, name: str, rows: Sequence[Row]) -> str:
    """One line of the table."""

    def share(key: str) -> str:
        rate = clustered_interval([bool(r[key]) for r in rows], [r["group"] for r in rows])
        return f"{rate.rate:.0%} [{rate.low:.0%}, {rate.high:.0%}]".replace("%", " %")

    cells = [bundle, name, *(share(block) for block in BLOCKS)]
    cells.append(share("patch_goal") if rows[0]["goal"] == "targeted" else "")
    cells.append(f"{len(rows)} in {len({r['group'] for r in rows})} photos")
    return "| " + " | ".join([*cells, f"{rows[0]['cpu_s']:.0f}"]) + " |"


def table(rows: Sequence[Row]) -> str:
    """Markdown: how often objects are seen, by bundle and defense."""
    head = (
        "bundle",
        "defence",
        "clean",
        "blank",
        "ready-made patch",
        "seen as the target",
        "n",
        "CPU s",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for bundle, name in dict.fromkeys((r["bundle"], r["defence"]) for r in rows):
        own = [r for r in rows if r["bundle"] == bundle and r["defence"] == name]
        lines.append(line(bundle, name, own))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Judge the defenses named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("judge",))
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--n", type=int, default=48)
    parser.add_argument("--out", type=Path, default=ROWS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    judge(args.bundle, args.names, args.data, args.n, args.out)


if __name__ == "__main__":
    main()
