"""Time and memory of the files that announce too much, each read in a process of its own.

    python benchmarks/reading_costs.py

The files are those of tests/core/test_picture_bombs.py, test_svg_bombs.py and
test_unpacking_bombs.py. Memory is what the reading adds to a process that has imported the package;
for drawings, what their own process takes. The last lines compare the drawing of the stop sign in a
process of its own with the same in this one.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import resvg_py

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "core")]

import test_picture_bombs  # noqa: E402
import test_svg_bombs  # noqa: E402
import test_unpacking_bombs  # noqa: E402

from physadv.core.errors import PhysadvError  # noqa: E402
from physadv.core.image_io import decode_rgba  # noqa: E402
from physadv.core.sign_artwork import stop_sign_svg  # noqa: E402
from physadv.core.svg import rasterize_svg  # noqa: E402


def cost(read: Callable[[], object]) -> tuple[str, float, int]:
    """What a fork of this process says of a file, its processor time in s, and memory in MB."""
    inlet, outlet = os.pipe()
    child = os.fork()
    if child == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read()
            said = "read"
        except PhysadvError as error:
            said = f"{type(error).__name__}"
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        drawn = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        os.write(outlet, f"{said} {max(own, drawn) // 1024}".encode())
        os._exit(0)
    os.close(outlet)
    with os.fdopen(inlet, "rb") as stream:
        words = stream.read().decode().split()
    _, status, usage = os.wait4(child, 0)
    if status:
        return f"DEATH {status}", usage.ru_utime, 0
    return words[0], usage.ru_utime + usage.ru_stime, int(words[1])


def spent() -> float:
    """Processor time of this process and of those that it has waited for, in s."""
    own, others = (
        resource.getrusage(resource.RUSAGE_SELF),
        resource.getrusage(resource.RUSAGE_CHILDREN),
    )
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def main() -> None:
    """Print the cost of every file, the worst of each kind, and of an ordinary drawing."""
    with tempfile.TemporaryDirectory() as folder:
        reads: dict[str, Callable[[], object]] = {
            f"picture: {name}": lambda data=data: decode_rgba(data, "bomb")
            for name, (data, _) in test_picture_bombs.BOMBS.items()
        }
        reads |= {
            f"drawing: {name}": lambda body=body: rasterize_svg(test_svg_bombs.drawing(body), 512)
            for name, (body, _) in test_svg_bombs.BOMBS.items()
        }
        reads |= {
            f"unpacking: {name}": lambda read=read, data=data: read(data, Path(folder))
            for name, (read, data, _) in test_unpacking_bombs.BOMBS.items()
        }
        worst: dict[str, tuple[float, int]] = {}
        for name, read in reads.items():
            said, seconds, megabytes = cost(read)
            kind = name.partition(":")[0]
            most = worst.get(kind, (0.0, 0))
            worst[kind] = max(most[0], seconds), max(most[1], megabytes)
            print(f"{name:60} {said:12} {seconds:6.2f} s {megabytes:5} MB", flush=True)
    for kind, (seconds, megabytes) in worst.items():
        count = sum(name.startswith(kind) for name in reads)
        print(f"worst of {count} of kind {kind}: {seconds:.2f} s, {megabytes} MB")

    for width in (128, 512, 2048):
        here, apart = [], []
        for _ in range(20):
            start = spent()
            resvg_py.svg_to_bytes(svg_string=stop_sign_svg(), width=width, dpi=96)
            here.append(spent() - start)
            start = spent()
            rasterize_svg(stop_sign_svg(), width)
            apart.append(spent() - start)
        ms = [1000 * sorted(times)[10] for times in (here, apart)]
        ratio = ms[1] / ms[0]
        print(
            f"stop sign, {width} px wide: {ms[0]:.0f} ms here, {ms[1]:.0f} ms apart: {ratio:.1f}x"
        )


if __name__ == "__main__":
    main()
