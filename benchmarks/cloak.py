"""The cloak measured on the shared faces: one net as surrogate, the other as judge, and the other
way round.

People of odd number only: budgets, ranges and weights were chosen on those of even number. Every
photo is cloaked by one embedder and judged by the other, which the cloak never saw; thresholds come
from the judge's own impostor pairs. Cells already measured are kept, so a stopped run goes on.

python benchmarks/cloak.py [--people 16] [--photos 1] [--modes low mid high] [--out
benchmarks/cloak.json]

The table beside it, cloak.md, is made from the cells; --people 0 makes it again without measuring.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from physadv.core.files import write_json, write_text
from physadv.core.image_io import save_png
from physadv.core.torch_threads import calm_threads
from physadv.models.faces.embedders import FaceEmbedder, load_embedder
from physadv.models.faces.face_detection import DlibFinder, FaceFinder, SlimFinder
from physadv.privacy.check.channels import CHANNELS
from physadv.privacy.check.embeddings import EmbeddingPlan
from physadv.privacy.check.protection_verdict import LOST
from physadv.privacy.check.run_cloak_check import run_cloak_check
from physadv.privacy.cloak_faces import MODES
from physadv.privacy.photo_cloaker import PhotoCloaker
from physadv.privacy.photo_io.photo import read_photo

ORIGINALS = 6


def people_of(faces: Path, count: int) -> list[Path]:
    """Held-out people: every second folder, from the second on."""
    return sorted(p for p in faces.iterdir() if p.is_dir())[1::2][:count]


def cloak_all(
    people: list[Path], photos: int, cloaker: PhotoCloaker, folder: Path
) -> dict[str, Any]:
    """Cloak the first photos of each person into ``folder``; what it took and what it changed."""
    rows, cpu, wall = [], time.process_time(), time.perf_counter()
    for person in people:
        for path in sorted(person.iterdir())[:photos]:
            rgb = read_photo(path).rgb
            main, _ = cloaker.faces(rgb)
            middle = torch.tensor(rgb.shape[1::-1]) / 2
            main = sorted(
                main, key=lambda f: float((torch.from_numpy(f.quad().mean(0)) - middle).norm())
            )[:1]
            work = cloaker.cloak(rgb, path.stem, main)
            save_png(folder / person.name / f"{path.stem}.png", work.rgb)
            cloaker.recall(rgb, work.rgb, work.faces)
            rows += work.faces
    faces = max(1, len(rows))
    return {
        "faces": len(rows),
        "cpu_seconds_a_face": round((time.process_time() - cpu) / faces, 2),
        "wall_seconds_a_face": round((time.perf_counter() - wall) / faces, 2),
        "steps": sum(row["steps"] for row in rows) / faces,
        "surrogate_margin": sum(next(iter(row["margins"].values())) for row in rows) / faces,
    }


def cell(
    surrogates: list[FaceEmbedder],
    judge: FaceEmbedder,
    mode: str,
    people: list[Path],
    photos: int,
    finders: list[FaceFinder],
) -> dict[str, Any]:
    """One row of the table: surrogates -> judge in one mode."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for person in people:
            for path in sorted(person.iterdir())[:ORIGINALS]:
                (root / "originals" / person.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, root / "originals" / person.name)
        cost = cloak_all(
            people, photos, PhotoCloaker(finders, surrogates, MODES[mode]), root / "cloaked"
        )
        result = run_cloak_check(
            root / "cloaked",
            root / "originals",
            [judge],
            finders,
            folder=root / "check",
            plan=EmbeddingPlan(),
            surrogates=[e.card.sha256 for e in surrogates],
        )
        asked = result.recognizers[0]
        return {
            "surrogates": [e.card.name for e in surrogates],
            "judge": judge.card.name,
            "mode": mode,
            "linf_limit": MODES[mode].linf,
            "dssim_limit": MODES[mode].dssim,
            "search": search_of(mode),
            "people": len(people),
            "photos_a_person": photos,
            "verdict": result.verdict.light,
            "quality": result.quality,
            **cost,
            "thresholds": asked["thresholds"],
            "cross_photo": asked["pairs"]["cross photo"],
            "same_photo": asked["pairs"]["same photo"],
            "cloaked_pair": asked["pairs"].get("cloaked pair", {}),
            "gallery": asked["gallery"],
            "adaptive": asked["adaptive"],
        }


def search_of(mode: str) -> dict[str, float]:
    """How a mode's cloak is sought: cells of other settings are other cells."""
    return {
        key: getattr(MODES[mode], key) for key in ("steps", "draws", "grain", "chroma", "smooth")
    }


def main() -> None:
    """Measure the cells asked for and print one line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared"
    )
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--photos", type=int, default=1)
    parser.add_argument("--modes", nargs="+", default=list(MODES))
    parser.add_argument(
        "--directions", nargs="+", default=["mobilefacenet:dlib", "dlib:mobilefacenet"]
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    weights = chosen.shared / "data/weights"
    people = people_of(chosen.shared / "data/faces", chosen.people)
    cells = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.out.is_file() else []
    with calm_threads(1):
        nets = {
            "dlib": load_embedder("dlib"),
            "mobilefacenet": load_embedder(
                "mobilefacenet", weights=weights / "mobilefacenet_foamliu.pt"
            ),
        }
        finders: list[FaceFinder] = [SlimFinder(weights / "facedet_slim_biubug6.pth"), DlibFinder()]
        for mode in chosen.modes if people else []:
            for direction in chosen.directions:
                names, judge = direction.split(":")
                key = (names.split("+"), judge, mode, len(people), chosen.photos, search_of(mode))
                fields = ("surrogates", "judge", "mode", "people", "photos_a_person", "search")
                known = [tuple(c.get(field) for field in fields) for c in cells]
                if key not in known:
                    found = cell(
                        [nets[n] for n in key[0]], nets[judge], mode, people, chosen.photos, finders
                    )
                    cells.append(found)
                    write_json(chosen.out, cells)
                    print(line(found), flush=True)
    order = list(MODES)
    cells.sort(
        key=lambda c: (c["surrogates"], order.index(c["mode"]), c["search"] != search_of(c["mode"]))
    )
    write_text(chosen.out.with_suffix(".md"), table(cells))


def rate(found: dict[str, Any], variant: str, channel: str, far: str = "0.01") -> str:
    """A match rate of one cell, with its interval."""
    cell = found["cross_photo"].get(channel, {}).get(variant)
    return "–" if cell is None else "{rate:.2f} [{low:.2f}, {high:.2f}]".format(**cell[far])


def table(cells: list[dict[str, Any]]) -> str:
    """The cells as Markdown: one table of costs, one of match rates by channel."""
    names = [title_of(c) for c in cells]
    parts = [
        "# The cloak, measured",
        "",
        f"Made by `python benchmarks/cloak.py` from [cloak.json](cloak.json). {_SETTING}",
        "",
        "| made with → judged by, mode | people | comparisons | mean DSSIM | PSNR, dB | largest "
        "change | "
        "s a face, CPU | s a face, as it ran | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, c in zip(names, cells, strict=True):
        quality, n = c["quality"], c["cross_photo"]["png"]["cloaked"]["0.01"]["n"]
        parts.append(
            f"| {name} | {c['people']} | {n} | {quality['dssim_mean']:.4f} | "
            f"{quality['psnr_mean']:.1f} | "
            f"{quality['linf_max']} | {c['cpu_seconds_a_face']:.1f} | "
            f"{c['wall_seconds_a_face']:.1f} | {c['verdict']} |"
        )
    parts += ["", "## Matched with another photo of the person, false accepts 1 %", ""]
    for name, c in zip(names, cells, strict=True):
        limit = next(t for t in c["thresholds"] if t["far"] == 0.01)
        parts += [
            f"**{name}** (threshold {limit['value']:.3f} from {limit['pairs']} pairs of different "
            "people)",
            "",
            "| channel | uncloaked | noise of the same DSSIM | cloaked | cloaked, false accepts "
            "0.1 % |",
            "|---|---|---|---|---|",
        ]
        for channel in c["cross_photo"]:
            shown = [rate(c, variant, channel) for variant in ("original", "noise", "cloaked")]
            title = CHANNELS[channel].title
            parts.append(
                f"| {title} | {' | '.join(shown)} | {rate(c, 'cloaked', channel, '0.001')} |"
            )
        parts += ["", *_prepared(c), ""]
    return "\n".join(parts).rstrip() + "\n"


def title_of(c: dict[str, Any]) -> str:
    """Who cloaked, who judged, which mode; cells of settings that are no longer the mode's say
    which."""
    old = {key: value for key, value in c["search"].items() if value != search_of(c["mode"])[key]}
    said = "".join(f", earlier {key} {value:g}" for key, value in old.items())
    return f"{'+'.join(c['surrogates'])} → {c['judge']}, {c['mode']}{said}"


_SETTING = (
    "People of odd number in the folder; settings were chosen on those of even number. One photo "
    "of each is cloaked "
    "and compared with five others of the person. Brackets: 95 % intervals over people, "
    "as wide as a rate allows, which is where a person's comparisons all agree. Both nets ran on "
    "one thread of a machine with two cores that other work kept busy: the CPU column is what a "
    "face costs, the next "
    "one what it took under that load."
)


def _prepared(c: dict[str, Any]) -> list[str]:
    """What a recognizer does that was trained on cloaks of other people."""
    adapted = c["adaptive"].get("cross photo", {}).get("png")
    if adapted is None:
        return []
    clean, cloaked = (
        "{rate:.2f} [{low:.2f}, {high:.2f}]".format(**adapted[k]["0.01"])
        for k in ("original", "cloaked")
    )
    said = f"Trained on cloaked photos of other people, this judge matched {cloaked}; uncloaked ones {clean}"
    failed = adapted["original"]["0.01"]["rate"] < LOST
    return [said + ("; the training failed, and this says nothing." if failed else ".")]


def line(found: dict[str, Any]) -> str:
    """One cell in one line."""
    crossed = found["cross_photo"]

    def at(variant: str, channel: str) -> str:
        return rate(found, variant, channel)

    n, quality = crossed["png"]["cloaked"]["0.01"]["n"], found["quality"]
    who = f"{'+'.join(found['surrogates'])} -> {found['judge']}, {found['mode']}"
    rates = ", ".join(f"{c} {at('cloaked', c)}" for c in crossed)
    return (
        f"{who}: n = {n}; before {at('original', 'png')}; noise {at('noise', 'png')}; cloaked "
        f"{rates}; "
        f"DSSIM {quality['dssim_mean']}, PSNR {quality['psnr_mean']}, l_inf {quality['linf_max']}; "
        f"{found['cpu_seconds_a_face']} CPU s a face"
    )


if __name__ == "__main__":
    main()
