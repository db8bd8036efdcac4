"""Error of each color map on the twin: one row for each printer, camera and map.

    python benchmarks/calibration.py --printers 3 --out benchmarks/calibration.jsonl

The chart is printed by a simulated printer and photographed once, slanted, in uneven light, as
JPEG; the maps are fitted to that photo and tested on 200 colors that are not on the chart, against
the camera's picture of large, evenly lit areas of them. The per-channel map is a cubic for each
channel alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from charttwin import SLANTED, photograph, printed, truth

from physadv.calibration.chart_reader import read_chart
from physadv.calibration.color_chart import write_chart
from physadv.calibration.color_fit import (
    ChartMeasurement,
    fit_profile,
    measure_chart,
    predict_colors,
)
from physadv.core.color import de00_of_srgb
from physadv.core.files import write_text
from physadv.core.random_streams import numpy_generator
from physadv.eot.color_map import DEGREES
from physadv.twin.cameras import CAMERAS
from physadv.twin.virtual_printer import random_printer


def per_channel(measured: ChartMeasurement, sent: np.ndarray) -> np.ndarray:
    """A cubic for each channel alone."""
    curves = [np.polyfit(measured.sent[:, c], measured.seen[:, c], 3) for c in range(3)]
    return np.stack([np.polyval(curve, sent[:, c]) for c, curve in enumerate(curves)], -1).clip(
        0, 1
    )


def main() -> None:
    """Write the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--printers", type=int, default=3)
    parser.add_argument("--colours", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/calibration.jsonl"))
    chosen = parser.parse_args()
    held_out = (
        numpy_generator(5, "held-out colours").integers(0, 256, (chosen.colors, 3)).astype(np.uint8)
    )
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_chart(Path(folder) / "chart.pdf")
        for seed in range(chosen.printers):
            printer = random_printer(seed)
            page = printed(Path(folder) / "chart.pdf", printer, seed)
            for camera in CAMERAS:
                measured = measure_chart(
                    [read_chart(photograph(page, camera, pose=SLANTED, seed=seed), "photo")]
                )
                true = truth(held_out, printer, camera)
                shown = {
                    "none": held_out / 255,
                    "per channel": per_channel(measured, held_out / 255),
                }
                profiles = {name: fit_profile(measured, map_name=name) for name in DEGREES}
                shown |= {name: predict_colors(p, held_out / 255) for name, p in profiles.items()}
                for name, colors in shown.items():
                    differences = de00_of_srgb(colors, true)
                    found[name].append(differences)
                    loo = profiles[name].de00["mean"] if name in profiles else None
                    row = {
                        "printer": seed,
                        "camera": camera.name,
                        "map": name,
                        "mean": round(differences.mean(), 3),
                    }
                    row |= {"p95": round(np.percentile(differences, 95), 3), "n": len(differences)}
                    rows.append(json.dumps({**row, "leave_one_out_mean": loo}))
    write_text(chosen.out, "\n".join(rows) + "\n")
    print(
        "| map | mean dE00 | 95 % | worst mean of a printer and camera | n |\n|---|---|---|---|---|"
    )
    for name, parts in found.items():
        every, worst = np.concatenate(parts), max(p.mean() for p in parts)
        print(
            f"| {name} | {every.mean():.2f} | {np.percentile(every, 95):.2f} | {worst:.2f} | "
            f"{len(every)} |"
        )


if __name__ == "__main__":
    main()
