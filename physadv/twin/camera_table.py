"""Table of the twin's cameras for docs/check.md; a test holds the page to it.

python -m physadv.twin.camera_table
"""

from __future__ import annotations

import sys

from physadv.twin.cameras import FRAME_SIZE, KNOWN, leave_out
from physadv.twin.slanted_edge import camera_mtf50


def cameras_table() -> str:
    """Return Markdown: one line a camera, with its data and its sharpness measured on a slanted
    edge in a picture of the default size."""
    width = FRAME_SIZE[0]
    lines = [
        "| camera | pixel, um | read out, px | f-number | spot, um | sensor's px a px | "
        "MTF50, cycles a px | unsharpened |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for camera in KNOWN.values():
        plain = camera_mtf50(leave_out(camera, ["sharpening"]), width)
        cells = [
            camera.name,
            f"{camera.pixel_um:g}",
            f"{camera.sensor_px}",
            f"{camera.f_number:g}",
            f"{camera.lens_um:g}",
            f"{camera.oversampling(width):.2g}",
            f"{camera_mtf50(camera, width):.2f}",
            f"{plain:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(cameras_table())
