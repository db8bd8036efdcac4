"""The journey on real photos: sticker -> sheet -> twin over held-out photos -> check, for `signs`
and `fastestdet`.

    python benchmarks/journey.py --shared ../shared/data --out benchmarks/journey

Each journey leaves its card, its held-out rows, the check's report.json and rows, and one line in
summary.jsonl. Photos are split by photo (GTSRB: tracks the victim never saw), so every figure is on
photos that nothing was fitted to.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Journey:
    """One row of the table: a victim, a goal, the signs and how hard it is tried."""

    name: str
    model: str
    goal: str
    signs: str | None
    backgrounds: str | None
    steps: int
    draws: int
    size: str = "190x150"
    center: str = "0,95"
    weights: str | None = None
    test_draws: int = 300
    clips: int = 12


JOURNEYS = (
    Journey("signs-stop-photos", "signs", "untargeted", "stop-photos/stop", "backgrounds", 400, 32),
    Journey("signs-gtsrb", "signs", "untargeted", "gtsrb-train-third.zip", "backgrounds", 400, 32),
    Journey("signs-drawings", "signs", "untargeted", "stop-drawings", "backgrounds", 400, 32),
    Journey(
        "fastestdet-stop-photos",
        "fastestdet",
        "vanish",
        "stop-photos/stop",
        "backgrounds",
        400,
        12,
        size="200x200",
        center="0,40",
        weights="weights/fastestdet_coco.pth",
    ),
)


def physadv(*arguments: str) -> dict[str, Any]:
    """Run a command of the installed project with --json and return its object."""
    done = subprocess.run(
        [sys.executable, "-m", "physadv_cli.main", *arguments, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def stop_drawings(shared: Path, folder: Path) -> Path:
    """The stop signs among the drawings, in a folder of their own."""
    target = folder / "stop-drawings"
    target.mkdir(exist_ok=True)
    for drawing in sorted((shared / "signs-svg" / "mapillary").glob("regulatory--stop--g*.svg")):
        shutil.copy(drawing, target)
    return target


def run(journey: Journey, shared: Path, out: Path, scratch: Path, threads: int) -> dict[str, Any]:
    """One journey; returns its line of the summary."""
    began = time.time()
    bundle, twin, check = (scratch / journey.name / part for part in ("bundle", "twin", "check"))
    signs = (
        stop_drawings(shared, scratch)
        if journey.signs == "stop-drawings"
        else shared / str(journey.signs)
    )
    places = ["--signs", str(signs), "--backgrounds", str(shared / str(journey.backgrounds))]
    weights = [] if journey.weights is None else ["--weights", str(shared / journey.weights)]
    made = physadv(
        "patch",
        "--victim",
        journey.model,
        "--goal",
        journey.goal,
        "--steps",
        str(journey.steps),
        "--draws",
        str(journey.draws),
        "--size",
        journey.size,
        "--center",
        journey.center,
        "--test-draws",
        str(journey.test_draws),
        "--threads",
        str(threads),
        "--out",
        str(bundle),
        *places,
        *weights,
    )
    physadv(
        "twin",
        str(bundle),
        *places,
        "--clips",
        str(journey.clips),
        "--frames",
        "16",
        "--out",
        str(twin),
    )
    seen = physadv("check", str(twin), "--bundle", str(bundle), "--out", str(check), *weights)
    target = out / journey.name
    target.mkdir(parents=True, exist_ok=True)
    for source in (bundle / "rows.jsonl", bundle / "preview.png"):
        shutil.copy(source, target)
    shutil.copy(check / "rows.jsonl", target / "check-rows.jsonl")
    return {
        "name": journey.name,
        "victim": journey.model,
        "goal": journey.goal,
        "steps": journey.steps,
        "area_share": made["area_share"],
        "success": made["success"],
        "blank_success": made["blank_success"],
        "clean_recognised": made["clean_recognised"],
        "twin_blocks": seen["blocks"],
        "seconds": round(time.time() - began, 1),
    }


def main() -> None:
    """Run the journeys asked for and append their lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/journey"))
    parser.add_argument("--only", nargs="*", help="names of journeys")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for journey in JOURNEYS:
            if options.only and journey.name not in options.only:
                continue
            line = run(journey, options.shared, options.out, Path(scratch), options.threads)
            with (options.out / "summary.jsonl").open("a") as stream:
                stream.write(json.dumps(line) + "\n")
            print(json.dumps(line, indent=1))


if __name__ == "__main__":
    main()
