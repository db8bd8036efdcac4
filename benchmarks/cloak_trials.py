"""Changes to the cloak, tried on people that settings are chosen on: what helps, and what does not.

The first people of odd place in the shared faces, one photo cloaked with MobileFaceNet in mode
``low`` and compared with four others after half size + JPEG 75. The recognizers that did not take
part judge, at 1 % false accepts among these people.

python benchmarks/cloak_trials.py NAME [--people 5] [--also RECOGNIZER[=WEIGHTS]]   # adds rows
                                  [--album] [--made edgeface-xs]
python benchmarks/cloak_trials.py table               # means over the people that all trials have
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cloak import OTHERS, album_of, embedded, embedder, impostors, read_rows

from physadv.core.image_io import read_rgba
from physadv.core.torch_threads import calm_threads
from physadv.models.faces.embedders import load_embedder
from physadv.models.faces.face_detection import SlimFinder
from physadv.privacy import cloak_faces as cloak
from physadv.privacy.check.pairs import main_face

HERE = Path(__file__).resolve().parent
LOW = cloak.MODES["low"]
JUDGES = ("edgeface-xs", "dlib", "mobilefacenet")
THRESHOLD_PEOPLE = 8
TRIALS = {
    "falling": LOW,
    "falling, 3 views, 40 steps": replace(LOW, draws=3, steps=40),
    "one share": LOW,
    "coarse shift": replace(LOW, flow_grain=12.0, limits=replace(LOW.limits, shift=2.5)),
    "DSSIM 0.035": replace(LOW, dssim=0.035),
}
"""``one share``: where a patch of skin shows, the whole change is weakened, as it was."""
FIGURES = ("cpu", "dssim", "patches", "color")


def main() -> None:
    """Run one trial, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trial", choices=(*TRIALS, "table"))
    parser.add_argument("--people", type=int, default=5)
    parser.add_argument("--also", default="", help="a second recognizer to cloak with")
    parser.add_argument(
        "--album", action="store_true", help="also know the photos from the sixth on"
    )
    parser.add_argument("--made", default="mobilefacenet", help="the recognizer to cloak with")
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    parser.add_argument("--out", type=Path, default=HERE / "cloak_trials.jsonl")
    chosen = parser.parse_args()
    if chosen.trial == "table":
        table(read_rows(chosen.out))
        return
    if chosen.trial == "one share":
        cloak._ROUNDS = 0
    with calm_threads(1):
        run(chosen)


def run(chosen: argparse.Namespace) -> None:
    """Cloak and judge each person's first photo."""
    nets = {name: embedder(chosen.shared, name) for name in JUDGES}
    finder = SlimFinder(chosen.shared / "data/weights/facedet_slim_biubug6.pth")
    folders = sorted(p for p in (chosen.shared / "data/faces").iterdir() if p.is_dir())[0::2]
    known: dict[str, dict[str, torch.Tensor]] = {}
    firsts: dict[str, Any] = {}
    for folder in folders[:THRESHOLD_PEOPLE]:
        rows: dict[str, list[torch.Tensor]] = {name: [] for name in nets}
        for path in sorted(folder.iterdir())[: OTHERS + 1]:
            rgb = np.ascontiguousarray(read_rgba(path)[..., :3])
            face = main_face(rgb, [finder])
            if face is None:
                continue
            firsts.setdefault(folder.name, (rgb, face))
            for name, net in nets.items():
                rows[name].append(embedded(net, rgb, face, "half"))
        known[folder.name] = {name: torch.stack(v) for name, v in rows.items()}
    limits = {
        n: float(np.quantile(impostors(net, {p: r[n] for p, r in known.items()}), 0.99))
        for n, net in nets.items()
    }
    trial = chosen.trial + (f" and {Path(chosen.also).stem}" if chosen.also else "")
    trial += ", album" if chosen.album else ""
    trial += f", made with {chosen.made}" if chosen.made != "mobilefacenet" else ""
    made_with = [nets[chosen.made]]
    if chosen.also:
        name, _, weights = chosen.also.partition("=")
        made_with.append(nets.get(name) or load_embedder(name, weights=weights or None))
    for person in list(known)[: chosen.people]:
        rgb, face = firsts[person]
        memory = album_of(folders[0].parent / person, made_with, [finder]) if chosen.album else None
        cpu = time.process_time()
        done, (note,) = cloak.cloak_faces(
            rgb, [face], made_with, TRIALS[chosen.trial], memory=memory, name=person
        )
        row: dict[str, Any] = {"trial": trial, "name": person}
        row["cpu"] = round(time.process_time() - cpu, 2)
        row |= {key: round(getattr(note.change, key), 4) for key in FIGURES[1:]}
        for name, net in nets.items():
            seen = embedded(net, done, face, "half")[None]
            similar = net.similarity(seen, known[person][name][1:])[0]
            row[name] = round(float(similar.mean()), 4)
            row[f"{name} matched"] = round(float((similar > limits[name]).float().mean()), 4)
        with chosen.out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        print(row, flush=True)


def table(rows: list[dict[str, Any]]) -> None:
    """Print the means of each trial over the people that all have."""
    trials = list(dict.fromkeys(row["trial"] for row in rows))
    people = set.intersection(*({r["name"] for r in rows if r["trial"] == t} for t in trials))
    keys = [key for key in rows[0] if key not in ("trial", "name")]
    print(f"{len(people)} people")
    for trial in trials:
        own = [r for r in rows if r["trial"] == trial and r["name"] in people]
        print(trial, {key: round(float(np.mean([r[key] for r in own])), 3) for key in keys})


if __name__ == "__main__":
    main()
