"""Error of color profiles: on the twin, on foreign printers and cameras, and beyond the limits.

    python benchmarks/calibration.py --printers 3
    python benchmarks/calibration.py --foreign PROFILES
    python benchmarks/calibration.py --limits

Each writes a file of rows beside this one and prints its tables. The error is the mean CIEDE2000
on 200 colors that are not on the chart, against the camera's picture of large, evenly lit areas of
them.

The twin: the chart is printed by a simulated printer and photographed once, slanted, in uneven
light, as JPEG. The per-channel map is a cubic for each channel alone.

Foreign printers (``tests/foreign_print.py``) share nothing with the twin: two Neugebauer presses,
and all CMYK profiles in the folder PROFILES, each driven from sRGB in three ways (perceptual,
relative colorimetric, unmanaged). Every photo has its own exposure, white balance, pose, light,
size and compression. ``benchmarks/foreign_profiles.sh PROFILES`` makes the profiles from the
characterization data of seven printing conditions in Debian's icc-profiles-free, with Argyll.

The limits: photos of both Neugebauer presses that grow darker, more colored, over-exposed, shaded,
blurred and so on, with the checks of exposure and cast off. The true error is that at a usual
exposure and white balance.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy.stats import bootstrap

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import foreign_print
from charttwin import SLANTED, photograph, printed, truth

from physadv.calibration import chart_reader
from physadv.calibration.chart_reader import read_chart
from physadv.calibration.color_chart import write_chart
from physadv.calibration.color_fit import (
    ChartMeasurement,
    check_profile,
    fit_profile,
    measure_chart,
    predict_colors,
)
from physadv.calibration.photo_limits import color_cast, photo_findings
from physadv.core.color import de00_of_srgb
from physadv.core.errors import CalibrationError
from physadv.core.random_streams import numpy_generator
from physadv.eot.color_map import DEGREES
from physadv.twin.cameras import CAMERAS
from physadv.twin.virtual_printer import random_printer

FOLDER = Path(__file__).resolve().parent
HELD_OUT = numpy_generator(5, "held-out colours").integers(0, 256, (200, 3)).astype(np.uint8)
Row = dict[str, Any]


def per_channel(measured: ChartMeasurement, sent: np.ndarray) -> np.ndarray:
    """A cubic for each channel alone."""
    curves = [np.polyfit(measured.sent[:, c], measured.seen[:, c], 3) for c in range(3)]
    return np.stack([np.polyval(curve, sent[:, c]) for c, curve in enumerate(curves)], -1).clip(
        0, 1
    )


def twin_rows(printers: int) -> Iterator[Row]:
    """One row for each simulated printer, twin camera and map."""
    with tempfile.TemporaryDirectory() as folder:
        write_chart(Path(folder) / "chart.pdf")
        for seed in range(printers):
            printer = random_printer(seed)
            page = printed(Path(folder) / "chart.pdf", printer, seed)
            for camera in CAMERAS:
                photo = photograph(page, camera, pose=SLANTED, seed=seed)
                measured = measure_chart([read_chart(photo, "photo")])
                true = truth(HELD_OUT, printer, camera)

                shown = {
                    "none": HELD_OUT / 255,
                    "per channel": per_channel(measured, HELD_OUT / 255),
                }
                profiles = {name: fit_profile(measured, map_name=name) for name in DEGREES}
                shown |= {name: predict_colors(p, HELD_OUT / 255) for name, p in profiles.items()}
                for name, colors in shown.items():
                    loo = profiles[name].de00["mean"] if name in profiles else None
                    yield {
                        "printer": seed,
                        "camera": camera.name,
                        "map": name,
                        **_errors(colors, true),
                        "leave_one_out_mean": loo,
                    }


def foreign_rows(profiles: Path, xicclu: str) -> Iterator[Row]:
    """One row for each foreign press, driver and camera."""
    presses = [foreign_print.COATED, foreign_print.UNCOATED]
    for profile in sorted(profiles.glob("*.ic[cm]")):
        presses += [foreign_print.icc_press(profile, driver, xicclu) for driver in "prn"]

    with tempfile.TemporaryDirectory() as folder:
        for number in (1, 2):
            write_chart(Path(folder) / f"{number}.pdf", number)
        for press in presses:
            pages = [foreign_print.printed_page(Path(folder) / f"{n}.pdf", press) for n in (1, 2)]
            for camera in foreign_print.CAMERAS:
                yield _foreign_row(pages, press, camera)


def _foreign_row(
    pages: Sequence[np.ndarray],
    press: foreign_print.ForeignPress,
    camera: foreign_print.ForeignCamera,
) -> Row:
    """Fit to a photo of set 1 under drawn conditions and test on held-out colors and on set 2."""
    rng = numpy_generator(13, "foreign photo", press.name, camera.name)
    exposure = float(rng.uniform(0.55, 0.85))
    balance = (1 + float(rng.uniform(-0.04, 0.04)), 1.0, 1 + float(rng.uniform(-0.04, 0.04)))
    conditions: dict[str, Any] = {
        "exposure": exposure,
        "balance": balance,
        "turn_deg": tuple(rng.uniform(-25, 25, 3)),
        "size": ((1280, 960), (960, 720))[int(rng.integers(2))],
        "fill": 0.8,
        "falloff": float(rng.uniform(0.0, 0.5)),
        "shade": float(rng.uniform(0.0, 0.1)),
        "glare": float(rng.uniform(0.0, 0.05)),
        "blur_px": float(rng.uniform(0.5, 1.5)),
    }
    row: Row = {"printer": press.name, "camera": camera.name, "exposure": round(exposure, 3)}
    try:
        views = [
            read_chart(foreign_print.photograph(page, camera, **conditions, seed=i), "photo")
            for i, page in enumerate(pages)
        ]
        profile = fit_profile(measure_chart(views[:1]))
        checked = check_profile(profile, measure_chart(views[1:]))
    except CalibrationError as error:
        return {**row, "refused": str(error)}

    predicted = predict_colors(profile, HELD_OUT / 255)
    here = foreign_print.relative_truth(HELD_OUT, press, camera, exposure, balance)
    usual = foreign_print.relative_truth(HELD_OUT, press, camera)
    return {
        **row,
        "paper": [round(level) for level in views[0].paper],
        "map": profile.map,
        "leave_one_out_mean": profile.de00["mean"],
        "set_2_mean": checked.about["held_out"]["mean"],
        **_errors(predicted, here),
        "usual_exposure_mean": _errors(predicted, usual)["mean"],
    }


def limit_rows() -> Iterator[Row]:
    """One row for each press, camera and step beyond the limits, nothing refused."""
    steps: list[tuple[str, float, dict[str, Any]]] = [
        ("exposure", e, {"exposure": e})
        for e in (0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2, 0.14, 0.1, 0.06)
    ]
    steps += [
        ("balance", c, {"exposure": 0.6, "balance": (1 + c, 1.0, 1 - c)})
        for c in (-0.2, -0.15, -0.1, -0.05, 0.05, 0.1, 0.15, 0.2)
    ]
    steps += [("video level", e, {"exposure": e, "ceiling": 235}) for e in (0.8, 1.0, 1.2, 1.5)]
    steps += [("shade", s, {"shade": s}) for s in (0.05, 0.1, 0.15, 0.25, 0.4)]
    steps += [("glare", s, {"glare": s, "exposure": 0.65}) for s in (0.05, 0.15, 0.3)]
    steps += [("falloff", s, {"falloff": s}) for s in (0.5, 1.0, 2.0)]
    steps += [("blur px", s, {"blur_px": s}) for s in (2.0, 4.0)]
    steps += [("jpeg", s, {"jpeg": s}) for s in (50, 30, 15)]
    steps += [("yaw", s, {"turn_deg": (s, -5, 3), "fill": 0.8}) for s in (30, 50)]
    steps += [("width px", s, {"size": (s, s * 3 // 4)}) for s in (640, 480)]

    with tempfile.TemporaryDirectory() as folder:
        write_chart(Path(folder) / "chart.pdf")
        for press in (foreign_print.COATED, foreign_print.UNCOATED):
            page = foreign_print.printed_page(Path(folder) / "chart.pdf", press)
            for camera in foreign_print.CAMERAS:
                for what, value, changes in steps:
                    photo = foreign_print.photograph(
                        page, camera, **{"size": (1280, 960), **changes}
                    )
                    row = {"printer": press.name, "camera": camera.name}
                    row |= {"fault": what, "value": value}
                    yield {**row, **_unchecked(photo, press, camera)}


def _unchecked(
    photo: np.ndarray, press: foreign_print.ForeignPress, camera: foreign_print.ForeignCamera
) -> Row:
    """Fit to a photo that nothing refuses; the reason for which it would be."""
    try:
        read_chart(photo, "photo")
        refused = ""
    except CalibrationError as error:
        refused = error.limit.split(":")[0]

    names = ("check_exposure", "check_cast", "clip_level")
    never = dict.fromkeys(names[:2], lambda *_: None) | {names[2]: lambda whites: 256}
    try:
        with patch.multiple(chart_reader, **never):
            measured = measure_chart([read_chart(photo, "photo")])
    except CalibrationError as error:
        return {"refused": error.limit.split(":")[0]}
    profile = fit_profile(measured)
    true = foreign_print.relative_truth(HELD_OUT, press, camera)
    return {
        "paper": round(max(measured.paper)),
        "cast": round(color_cast(measured.paper), 2),
        "refused": refused,
        "doubts": [finding.name for finding in photo_findings(measured.paper)],
        "leave_one_out_mean": profile.de00["mean"],
        **_errors(predict_colors(profile, HELD_OUT / 255), true),
    }


def _errors(colors: np.ndarray, true: np.ndarray) -> Row:
    differences = de00_of_srgb(colors, true)
    return {
        "mean": round(float(differences.mean()), 3),
        "p95": round(float(np.percentile(differences, 95)), 3),
        "n": len(differences),
    }


def print_twin(rows: Sequence[Row]) -> None:
    """Print the error of each map."""
    by_map: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_map[row["map"]].append(row)
    print(
        "| map | mean dE00 | mean 95 % | worst mean of a printer and camera | n |\n"
        "|---|---|---|---|---|"
    )
    for name, of_map in by_map.items():
        means = [row["mean"] for row in of_map]
        p95 = np.mean([row["p95"] for row in of_map])
        total = sum(row["n"] for row in of_map)
        print(f"| {name} | {np.mean(means):.2f} | {p95:.2f} | {max(means):.2f} | {total} |")


def print_foreign(rows: Sequence[Row]) -> None:
    """Print the error by driver and camera, and how well leave-one-out predicts it."""
    fitted = [row for row in rows if "mean" in row]
    groups: dict[str, list[Row]] = {"all": fitted}
    for row in fitted:
        if not photo_findings(row["paper"]):
            groups.setdefault("without doubts", []).append(row)
        driver = {"p": "perceptual", "r": "relative", "n": "unmanaged"}.get(
            row["printer"].rpartition(" ")[2], "Neugebauer"
        )
        groups.setdefault(driver, []).append(row)
        groups.setdefault(row["camera"], []).append(row)

    print(
        "| photos | true mean dE00 [95 %] | worst mean | leave-one-out | set 2 | at the usual "
        "exposure | n |\n|---|---|---|---|---|---|---|"
    )
    for name, group in groups.items():
        true, loo, check, usual = (
            np.array([row[key] for row in group])
            for key in ("mean", "leave_one_out_mean", "set_2_mean", "usual_exposure_mean")
        )
        low, high = bootstrap((true,), np.mean, rng=0).confidence_interval
        print(
            f"| {name} | {true.mean():.2f} [{low:.2f}, {high:.2f}] | {true.max():.2f} | "
            f"{loo.mean():.2f} | {check.mean():.2f} | {usual.mean():.2f} | {len(group)} |"
        )

    ratios = np.array([row["mean"] / row["leave_one_out_mean"] for row in groups["without doubts"]])
    low, middle, high = np.percentile(ratios, [2.5, 50, 97.5])
    print(
        f"\ntrue / leave-one-out without doubts: median {middle:.2f}, 95 % in {low:.2f} to "
        f"{high:.2f}"
    )
    print(f"refused: {len(rows) - len(fitted)} of {len(rows)}")


def print_limits(rows: Sequence[Row]) -> None:
    """Print stated and true error for each step, over presses and cameras."""
    print(
        "| fault | paper | cast | leave-one-out | true | largest true / leave-one-out | refused | "
        "doubted | n |\n|---|---|---|---|---|---|---|---|---|"
    )
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[f"{row['fault']} {row['value']:g}"].append(row)

    for name, group in groups.items():
        fitted = [row for row in group if "mean" in row]
        refused = sum(bool(row["refused"]) for row in group)
        doubted = sum(bool(row["doubts"]) and not row["refused"] for row in fitted)
        if not fitted:
            print(f"| {name} |  |  |  |  |  | {refused} | {doubted} | {len(group)} |")
            continue
        paper, cast = ([row[key] for row in fitted] for key in ("paper", "cast"))
        loo, true = ([row[key] for row in fitted] for key in ("leave_one_out_mean", "mean"))
        print(
            f"| {name} | {min(paper)}-{max(paper)} | {min(cast):.2f}-{max(cast):.2f} | "
            f"{np.mean(loo):.2f} | {np.mean(true):.2f} | {max(np.divide(true, loo)):.1f} | "
            f"{refused} | {doubted} | {len(group)} |"
        )


def main() -> None:
    """Write the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--printers", type=int, default=3, help="simulated printers of the twin")
    parser.add_argument("--foreign", type=Path, metavar="PROFILES", help="folder of CMYK profiles")
    parser.add_argument("--limits", action="store_true")
    parser.add_argument("--xicclu", default="xicclu", help="Argyll's lookup program")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()

    if chosen.foreign is not None:
        rows, show, name = (
            foreign_rows(chosen.foreign, chosen.xicclu),
            print_foreign,
            "calibration_foreign",
        )
    elif chosen.limits:
        rows, show, name = limit_rows(), print_limits, "calibration_limits"
    else:
        rows, show, name = twin_rows(chosen.printers), print_twin, "calibration"
    kept = []
    with (chosen.out or FOLDER / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            kept.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
    show(kept)


if __name__ == "__main__":
    main()
