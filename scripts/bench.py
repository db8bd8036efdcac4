"""Run all of benchmarks/ and render one page: what ran, what it printed, on which machine, when.

    make bench                              # or: python scripts/bench.py
    make bench BENCH="--quick"              # seconds a script, rows into build/bench
    python scripts/bench.py --only auto_speed.py epsilon_ball.py --shared ../shared/data

Peers (foolbox, torchattacks, ART, pyautoattack) are installed, with --peers, into build/bench/peers
without their own requirements, and only the scripts that name them see that folder. Scripts that
need what cannot be installed or fetched here are listed with the reason. A quick run shows that the
scripts run, and measures nothing: its figures are of a few images, steps and repeats.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from physadv.core.files import make_folder, write_text

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
LONGEST = 120
"""Lines of a script's output that the page keeps, from the end."""


@dataclass(frozen=True)
class Benchmark:
    """How a script of benchmarks/ is run.

    Attributes:
        full: Lines of arguments of its measurement; {shared} is the folder of real data, {work} a
            folder for what it makes and {rows} one for its rows.
        quick: Lines of arguments that take seconds; none where there are no such.
        before: Lines of a script and its arguments that the measurement needs first.
        peers: Packages that it runs beside where they can be imported.
        needs: What it needs besides; not run where this is given.
    """

    full: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    needs: str = ""


ATTACK_PEERS = (
    *("foolbox", "eagerpy", "GitPython", "gitdb", "smmap"),
    *("torchattacks", "adv-lib", "adversarial-robustness-toolbox", "six"),
    *("scikit-learn", "scipy", "joblib", "threadpoolctl", "cloudpickle", "narwhals"),
)
"""Peers of the epsilon ball, and what they ask for at import beside torch and numpy."""
TRAINED_NETS = (
    ("ResNet", "resnet", 900),
    ("'WRN, pre-activation'", "wrn", 900),
    ("ViT", "vit", 300),
    ("ConvNeXt-like", "convnext", 300),
    ("Mixer-like", "mixer", 300),
)
"""Nets of the epsilon ball that are trained before: name, file and steps."""
BENCHMARKS: dict[str, Benchmark] = {
    "ablation.py": Benchmark(("--out {rows}/ablation.jsonl",)),
    "attack_gate.py": Benchmark(
        ("--out {rows}/attack_gate.jsonl",),
        ("--repeats 1 --batch 2 --out {rows}/attack_gate.jsonl",),
    ),
    "attackbench_ranking.py": Benchmark(
        (
            "--weights {shared}/weights/wongkolter_mnist_eps01.pth --data {shared}/mnist "
            "--rows {rows}/attackbench_ranking.jsonl",
        ),
        peers=("attackbenchlib", "adv-lib", "tqdm"),
    ),
    "auto_speed.py": Benchmark(
        ("--rows {rows}/auto_speed.jsonl",),
        ("--rounds 1 --nets ResNet --rows {rows}/auto_speed.jsonl",),
    ),
    "calibration.py": Benchmark(
        ("--printers 3 --out {rows}/calibration.jsonl",),
        ("--printers 1 --out {rows}/calibration.jsonl",),
    ),
    "certify_bounds.py": Benchmark(
        (
            "{shared} --methods polytope crown --out {rows}/certify_bounds.jsonl",
            "{shared} --cost --out {rows}/certify_bounds_cost.jsonl",
        ),
        ("{shared} --methods crown --limit 64 --out {rows}/certify_bounds.jsonl",),
    ),
    "certify_smoothing.py": Benchmark(
        ("{shared}/smoothing-rows --out {rows}/certify_smoothing.jsonl",),
        ("{shared}/smoothing-rows --trials 2 --out {rows}/certify_smoothing.jsonl",),
    ),
    "check_speed.py": Benchmark(needs="clips that `physadv twin` films and a detector's weights"),
    "cloak.py": Benchmark(
        (
            "make {work}/cloak after --out {rows}/cloak.jsonl",
            "judge {work}/cloak --out {rows}/cloak.jsonl",
        )
    ),
    "cloak_embedders.py": Benchmark(("--out {rows}/cloak_embedders.json",)),
    "cloak_pairs.py": Benchmark(needs="cloaked photos, and eyes to judge them"),
    "cloak_trials.py": Benchmark(needs="the trials to make, by name"),
    "cloak_video.py": Benchmark(needs="H.264 encoding; it adds rows beside itself"),
    "coverage.py": Benchmark(("run", "table")),
    "decode_speed.py": Benchmark(
        ("{shared}/imagenet-photos",), ("{shared}/imagenet-photos --limit 8 --repeats 1",)
    ),
    "defenses.py": Benchmark(needs="days of training; `run NAME ...`, then `table`"),
    "ensemble_vs_autoattack.py": Benchmark(
        (
            "--victim wongkolter-cifar --weights {shared}/weights/wongkolter_cifar_small_8px.pth "
            "--data {shared}/cifar10-jpg.zip -n 200 --rows {rows}/ensemble_vs_autoattack.jsonl",
        ),
        (
            "--victim wongkolter-cifar --weights {shared}/weights/wongkolter_cifar_small_8px.pth "
            "--data {shared}/cifar10-jpg.zip -n 4 --only ours "
            "--rows {rows}/ensemble_vs_autoattack.jsonl",
        ),
        peers=("pyautoattack",),
    ),
    "eot_kornia.py": Benchmark(
        ("--out {rows}/eot_kornia.jsonl",),
        ("--repeats 1 --only boxes --out {rows}/eot_kornia.jsonl",),
    ),
    "eot_peers.py": Benchmark(needs="the python of an environment with ART, as --art"),
    "eot_step.py": Benchmark(("--out {rows}/eot_step.jsonl",)),
    "epsilon_ball.py": Benchmark(
        (
            "--data {shared}/cifar10-jpg.zip --weights {work}/robust_net.pt "
            "--rows {rows}/epsilon_ball.jsonl",
            *(
                f"--net {net} --weights {{work}}/{file}.pt --data {{shared}}/cifar10-jpg.zip "
                "-n 32 --repeats 3 --rows {rows}/epsilon_ball.jsonl"
                for net, file, _ in TRAINED_NETS
            ),
            *(
                f"--net {net} --data {{shared}}/cifar10-jpg.zip -n 24 --steps 20 --repeats 3 "
                "--rows {rows}/epsilon_ball.jsonl"
                for net in ("ResNet", "'WRN, pre-activation'", "ViT", "ConvNeXt-like", "Mixer-like")
            ),
            "--net WRN-28-10 --data {shared}/cifar10-jpg.zip -n 4 --steps 10 --repeats 2 "
            "--rows {rows}/epsilon_ball.jsonl",
        ),
        ("--table",),
        before=(
            "scripts/train_benchmark_net.py {shared}/cifar10-jpg.zip {work}/robust_net.pt",
            *(
                f"scripts/train_benchmark_net.py {{shared}}/cifar10-jpg.zip {{work}}/{file}.pt "
                f"--net {net} --steps {steps}"
                for net, file, steps in TRAINED_NETS
            ),
        ),
        peers=ATTACK_PEERS,
    ),
    "everywhere.py": Benchmark(("",), ("",)),
    "fast_guard.py": Benchmark(("--data {shared}/mnist --seeds 3",)),
    "image_groups.py": Benchmark(("--rows {rows}/image_groups.jsonl",)),
    "journey.py": Benchmark(("--shared {shared} --out {rows}/journey",)),
    "minimum_norm.py": Benchmark(
        ("--data {shared}/mnist",),
        ("--data {shared}/mnist --images 4",),
        peers=("adv-lib", "tqdm"),
    ),
    "patch_defenses.py": Benchmark(needs="scenes first; `scenes`, then `judge NAME ...`"),
    "patch_defenses_bundles.py": Benchmark(needs="front ends by name and a bundle"),
    "patch_proofs.py": Benchmark(needs="proofs by name; `run ARCHIVE NAME ...`", quick=("table",)),
    "patch_remover.py": Benchmark(needs="stickers that were made before"),
    "path_traced.py": Benchmark(needs="Mitsuba 3 and drawings of the sign", quick=("table",)),
    "persons_for_twin.py": Benchmark(
        ("{shared}/coco128/images {work}/persons --weights {shared}/weights/yolox_nano_coco.onnx",)
    ),
    "pointwise.py": Benchmark(("--data {shared}/mnist",), peers=("foolbox",)),
    "published_nets.py": Benchmark(needs="weights of three public repositories, named at its head"),
    "reading_costs.py": Benchmark(("",)),
    "real_signs.py": Benchmark(
        (
            "stop-sticker-signs-v1 --signs {shared}/stop-photos/stop "
            "--boxes benchmarks/stop-photos-boxes.csv --rows {rows}/real_signs.jsonl",
        )
    ),
    "scaling.py": Benchmark(
        (
            "--data {shared}/cifar10-jpg.zip "
            "--weights {shared}/weights/wongkolter_cifar_small_8px.pth --rows {rows}/scaling.jsonl",
        ),
        ("--only sums --rows {rows}/scaling.jsonl",),
    ),
    "strength.py": Benchmark(("ours", "piece", "table"), ("table",)),
    "strength_limits.py": Benchmark(("scenes", "worlds", "table"), ("table",)),
    "strength_trials.py": Benchmark(
        ("shapes", "targets", "free", "losses", "table"), quick=("table",)
    ),
    "universal_in_twin.py": Benchmark(
        ("{shared}/imagenet-photos --rows {rows}/universal_in_twin.jsonl",)
    ),
    "visibility.py": Benchmark(
        ("--data {shared} --out {rows}/visibility.jsonl --page {work}/visibility.md",)
    ),
}
HELPERS = {
    "art_overlay.py": "asked by eot_peers.py",
    "art_patch.py": "run by strength.py",
    "peers.py": "stand-ins for what peers import",
    "path_traced_camera.py": "cameras of path_traced.py",
    "path_traced_poses.py": "poses of path_traced.py",
    "path_traced_scene.py": "scenes of path_traced.py",
    "resnet.py": "network of epsilon_ball.py",
}
"""Modules of benchmarks/ that others use."""


@dataclass(frozen=True)
class Outcome:
    """What a script did.

    Attributes:
        script: Its name.
        command: What was run, as typed.
        state: "ran", "failed (2)", "ended after 60 s", or why it did not run.
        seconds: Seconds of the clock.
        cpu_seconds: CPU seconds of its processes.
        output: What it printed.
    """

    script: str
    command: str
    state: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    output: str = ""


def missing_scripts() -> list[str]:
    """Return the scripts of benchmarks/ that are in neither table, and those of the tables that are
    not there."""
    there = {path.name for path in FOLDER.glob("*.py")}
    return sorted(there.symmetric_difference({*BENCHMARKS, *HELPERS}))


def run_script(
    script: str, *, quick: bool, out: Path, shared: Path, limit: float | None
) -> list[Outcome]:
    """Run every line of a script's arguments.

    Args:
        script: Its name.
        quick: Whether in seconds.
        out: Folder of what is made.
        shared: Folder of real data.
        limit: Seconds after which a line is ended; None for none.

    Returns:
        An outcome a line; one with the reason where none runs.
    """
    benchmark = BENCHMARKS[script]
    lines = benchmark.quick if quick else benchmark.full
    if not lines:
        reason = "has no quick form" if quick else f"needs {benchmark.needs}"
        return [Outcome(script, "", f"not run: {reason}")]
    if any("{shared}" in line for line in lines) and not shared.is_dir():
        return [Outcome(script, "", "not run: the folder of real data is not there")]

    names = {"shared": shared, "rows": make_folder(out / "rows"), "work": make_folder(out / "work")}
    path = [str(ROOT), str(ROOT / "cli")]
    if benchmark.peers:
        path.append(str(out / "peers"))
    found = [path, os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for part in found for p in part if p)}
    env.setdefault("OMP_NUM_THREADS", "1")
    asked = [] if quick else [*benchmark.before]
    asked += [f"benchmarks/{script} {line}".strip() for line in lines]
    return [_one_line(script, line, names, env, limit) for line in asked]


def _one_line(
    script: str, line: str, names: dict[str, Path], env: dict[str, str], limit: float | None
) -> Outcome:
    command = [sys.executable, *(word.format(**names) for word in shlex.split(line))]
    before, begun = os.times(), time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
        state = "ran" if done.returncode == 0 else f"failed ({done.returncode})"
        output = done.stdout
    except subprocess.TimeoutExpired as error:
        state, output = f"ended after {limit:g} s", str(error.output or "")
    after = os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return Outcome(
        script, f"python {line}", state, time.perf_counter() - begun, cpu, output.strip()
    )


def machine() -> dict[str, str]:
    """Return what the figures depend on: processor, cores, load, versions, and whether a GPU was
    there."""
    import torch

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "not measured on a GPU"
    return {
        "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Machine": f"{_processor()}, {os.cpu_count()} cores",
        "Load at the start": f"{load:.1f} processes; above the cores, others ran beside",
        "GPU": gpu,
        "Python, torch": f"{platform.python_version()}, {torch.__version__}",
        "Threads": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def _processor() -> str:
    """The processor's name; Linux tells it in a file alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def render(outcomes: Sequence[Outcome], facts: dict[str, str], *, quick: bool) -> str:
    """Return the page as Markdown.

    Args:
        outcomes: What ran, in order.
        facts: What the figures depend on.
        quick: Whether it was a quick run, whose figures mean nothing.
    """
    lines = ["# Benchmarks", ""]
    if quick:
        lines += ["A quick run: it shows that the scripts run. Its figures measure nothing.", ""]
    lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items()), ""]
    lines += ["| script | result | seconds | CPU seconds |", "|---|---|---|---|"]
    for outcome in outcomes:
        spent = [f"{outcome.seconds:.1f}", f"{outcome.cpu_seconds:.1f}"]
        cells = [outcome.script, outcome.state, *(spent if outcome.command else ["", ""])]
        lines.append("| " + " | ".join(cells) + " |")
    for outcome in (o for o in outcomes if o.command):
        kept = outcome.output.splitlines()[-LONGEST:]
        lines += ["", f"## {outcome.script}", "", f"`{outcome.command}`: {outcome.state}", ""]
        lines += kept if any(line.startswith("|") for line in kept) else ["```", *kept, "```"]
    return "\n".join(lines) + "\n"


def install_peers(folder: Path) -> None:
    """Install every peer into ``folder``, without what it requires: torch stays as it is."""
    names = sorted({name for benchmark in BENCHMARKS.values() for name in benchmark.peers})
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade"]
    subprocess.run([*command, "--target", str(folder), *names], check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and write the page; 1 where a script failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="seconds a script; measures nothing")
    parser.add_argument("--only", nargs="+", metavar="SCRIPT", choices=sorted(BENCHMARKS))
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--peers", action="store_true", help="install the peers first")
    parser.add_argument("--limit", type=float, help="seconds after which a script is ended")
    options = parser.parse_args(arguments)

    out = make_folder(options.out.resolve())
    if options.peers:
        install_peers(out / "peers")
    facts, page, outcomes = machine(), out / "benchmarks.md", list[Outcome]()
    for script in options.only or BENCHMARKS:
        outcomes += run_script(
            script,
            quick=options.quick,
            out=out,
            shared=options.shared.resolve(),
            limit=options.limit,
        )
        print(f"{script}: {outcomes[-1].state}", flush=True)
        write_text(page, render(outcomes, facts, quick=options.quick))
    print(page)
    return int(any(o.state.startswith(("failed", "ended")) for o in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
