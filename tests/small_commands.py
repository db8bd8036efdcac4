"""Every command that writes, with the smallest settings that do real work, and its inputs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bundle_fixtures import demo_bundle
from PIL import Image

_OWN_MODELS = """
import torch

def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))

def deep():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(16, 5))
"""
TINY_FACES = """
import tinyface
import physadv.privacy.cloak_task as task
import physadv.privacy.cloak_faces as cloak
import physadv.models.faces.embedders as embedders
import physadv.models.faces.face_detection as detection
from dataclasses import replace

for _mode in ("low", "mid"):
    cloak.MODES[_mode] = replace(cloak.MODES[_mode], steps=6, draws=2, every=3)
embedders.load_embedders = lambda *a, **k: [tinyface.tiny_embedder()]
for module in (task, detection):
    module.default_finders = lambda *a, **k: [tinyface.KnownFinder()]
"""
"""Code that puts a small embedder and a known face in place of the real ones."""
_FEW_FACES = """
import physadv.training.sign_classifier.canvases as canvases
import physadv.training.sign_classifier.recipe as recipe

canvases.SYNTHETIC, recipe._DRAWS_OF_A_FACE = 2, 2
"""
"""Code that trains a sign classifier on few backgrounds and judges it on few drawn faces."""
_FEW_SCENES = """
import physadv.demo as demo
import physadv.eot.scenes.load as load
import physadv.patches.optimize as optimize
import physadv.patches.visibility as visibility
import physadv.printing.sheet as sheet
import physadv.twin.simulate as simulate
from dataclasses import replace
from inspect import unwrap

load._background_pools.__defaults__ = (2,)
unwrap(optimize.optimize_patch).__kwdefaults__["validation_draws"] = 4
unwrap(optimize.measure_controls).__defaults__ = (32,)
unwrap(visibility.measure_visibility).__kwdefaults__["draws_a_cell"] = 2
unwrap(sheet.write_sheet).__kwdefaults__["sign_dpi"] = 72
unwrap(simulate.simulate_clips).__kwdefaults__["frame_size"] = (320, 240)
settings = demo.demo_settings
demo.demo_settings = lambda **given: replace(settings(**given), draws=4, test_draws=4)
"""
"""Code that optimizes and judges a sticker on few draws before few backgrounds, and draws and films
it in few pixels."""
_FEW_SAMPLES = """
from physadv.studies.learning_studies_config import SamplesConfig

for name, value in {
    "dimension": 30, "trials": 4, "dimensions": (30, 60), "floor_dimension": 30, "floor_trials": 4
}.items():
    setattr(SamplesConfig, name, value)
"""
"""Code that counts samples in few dimensions and trials."""
WEIGHTS = bytes(range(256)) * 400
"""What the made-up model "tiny" has for weights."""
_TINY_WEIGHTS = f"""
import os
from physadv.models.cards import ModelCard
from physadv.models.faces.embedders import FETCHABLE

os.environ["PHYSADV_CACHE"] = OUT
FETCHABLE["tiny"] = ModelCard(
    name="tiny",
    sha256="{hashlib.sha256(WEIGHTS).hexdigest()}",
    extra=dict(size_bytes={len(WEIGHTS)}),
)
"""
"""Code that makes "tiny" a model to be fetched, and the result's place the cache."""
OWN = ("--data", "data.npz", "--model", "own:make")


@cache
def _photos_of(page: str) -> tuple[bytes, ...]:
    """JPEG photos of a calibration page, "chart" or "board", held before a camera."""
    import tempfile

    from guided_films import board_poses, frame, page_picture

    from physadv.calibration.charuco_board import write_board
    from physadv.calibration.color_chart import write_chart

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "page.pdf")
        write_chart(file) if page == "chart" else write_board(file)
        picture = page_picture(file)
    chart = [(0.0, 0.0, 90.0, 330.0, 0.0, 0.0), (4.0, 3.0, -86.0, 330.0, 8.0, 5.0)]
    poses = chart if page == "chart" else board_poses()[:8]
    return tuple(_jpeg(frame(picture, pose, seed=n)) for n, pose in enumerate(poses))


def _jpeg(pixels: np.ndarray) -> bytes:
    """Pixels (h, w, 3) uint8 as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _write_photos_of_chart(folder: Path) -> None:
    for number, photo in enumerate(_photos_of("chart")):
        (folder / f"chart-{number}.jpg").write_bytes(photo)


def _write_photos_of_board(folder: Path) -> None:
    (folder / "board").mkdir()
    for number, photo in enumerate(_photos_of("board")):
        (folder / "board" / f"{number}.jpg").write_bytes(photo)


def _write_weights(folder: Path) -> None:
    (folder / "tiny.pth").write_bytes(WEIGHTS)


def _write_check(folder: Path) -> None:
    """A finished check of a sticker, without its report."""
    from commandline import physadv

    words = SMALL_COMMANDS["check"].words
    done = physadv(folder, *words, "--out", "checked")
    assert done.returncode == 0, done.stderr
    for name in ("report.html", "report.json"):
        (folder / "checked" / name).unlink()


def _write_shards(folder: Path) -> None:
    """Both shards of an attack."""
    from commandline import physadv

    for number in (1, 2):
        words = (*SMALL_COMMANDS["attack"].words, "--shard", f"{number}/2")
        done = physadv(folder, *words, "--out", f"shard-{number}")
        assert done.returncode == 0, done.stderr


def _write_bundle(folder: Path) -> None:
    """A bundle with measured rates, without its report."""
    from physadv.core.package_data import bundle_folder

    source = bundle_folder(Path("stop-sticker-signs-v1"))
    shutil.copytree(source, folder / "measured", ignore=shutil.ignore_patterns("report.html"))


def _write_sign_tracks(folder: Path) -> None:
    """A tiny GTSRB: three classes of colored squares, four tracks each, two frames a track."""
    with zipfile.ZipFile(folder / "gtsrb.zip", "w") as archive:
        for label, color in {1: (200, 200, 200), 14: (180, 20, 30), 33: (20, 40, 200)}.items():
            lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
            for track, shot in np.ndindex(4, 2):
                pixels = np.full((20, 20, 3), 20 * track, np.uint8)
                pixels[2:18, 2:18] = color
                name, buffer = f"{track:05d}_{shot:05d}.ppm", io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PPM")
                archive.writestr(f"GTSRB/{label:05d}/{name}", buffer.getvalue())
                lines.append(f"{name};20;20;2;2;18;18;{label}")
            archive.writestr(f"GTSRB/{label:05d}/GT-{label:05d}.csv", "\n".join(lines))


@dataclass(frozen=True)
class SmallCommand:
    """A command and its result.

    Attributes:
        words: Words of the command line without the place of the result.
        out: What it writes, a folder or a file.
        code: Python run before it, in which OUT is the place of the result.
        place: Words that name the place of the result, in which OUT is that.
        start: Folder among the inputs that it works on: a copy stands at the place of the result
            beforehand. Empty for none.
        finished: Files that a finished run has, of which none may be missing.
        varying: Patterns of files that two runs need not have alike.
        prepare: Writes inputs that no other command has into a folder; None for none.
    """

    words: tuple[str, ...]
    out: str = "out"
    code: str = ""
    place: tuple[str, ...] = ("--out", "OUT")
    start: str = ""
    finished: tuple[str, ...] = ()
    varying: tuple[str, ...] = ()
    prepare: Callable[[Path], None] | None = None

    def line(self, out: Path) -> tuple[str, ...]:
        """The whole command line, with the result at ``out``."""
        return (*self.words, *(str(out) if word == "OUT" else word for word in self.place))

    def code_for(self, out: Path) -> str:
        """The code run before it, with the result at ``out``."""
        return self.code.replace("OUT", repr(str(out)))

    def set_up(self, inputs: Path, out: Path) -> None:
        """Put what it works on at ``out``, unless something stands there."""
        if self.start and not os.path.lexists(out):
            shutil.copytree(inputs / self.start, out, ignore=shutil.ignore_patterns(*_LEFT_OUT[1:]))


SMALL_COMMANDS = {
    "attack": SmallCommand(
        ("attack", *OWN, "--attack", "pgd", "--steps", "3", "--eps", "20/255", "--batch-size", "2"),
        finished=("rows.jsonl", "report.html"),
    ),
    "evaluate": SmallCommand(
        ("evaluate", *OWN, "--eps", "8/255", "--limit", "4", "--batch-size", "2"),
        finished=("rows.jsonl", "report.html"),
    ),
    "certify": SmallCommand(
        ("certify", *OWN, "--method", "ibp", "--eps", "1/255", "--batch-size", "2"),
        finished=("rows.jsonl", "report.html"),
        varying=("rows.marks.jsonl",),  # They count seconds, which a fault may lose.
    ),
    "certify by smoothing": SmallCommand(
        (
            *("certify", *OWN, "--method", "smoothing", "--threat", "l2:0.1", "--sigma", "0.25"),
            *("--n0", "20", "--n", "200"),
        ),
        finished=("rows.jsonl", "report.html"),
        varying=("rows.marks.jsonl",),
    ),
    "train": SmallCommand(
        (
            *("train", "--data", "toy.npz", "--defense", "fgsm", "--epochs", "3"),
            *("--batch-size", "16", "--eps", "0.1", "--validation", "0.2"),
        ),
        finished=("model.safetensors", "model.safetensors.toml"),
    ),
    "train signs": SmallCommand(
        (
            *("train", "signs", "--data", "gtsrb.zip", "--epochs", "2", "--epoch-steps", "2"),
            *("--batch-size", "8", "--precision", "fp32", "--faces", "plain"),
        ),
        code=_FEW_FACES,
        finished=("signs.safetensors", "signs.toml", "rows.jsonl"),
        prepare=_write_sign_tracks,
    ),
    "study masked": SmallCommand(
        (
            *("study", "masked", "--data", "toy.npz", "--limit", "4", "--train-images", "24"),
            *("--epochs", "1", "--attack-steps", "2", "--queries", "0", "--rounds", "1"),
        ),
        finished=("rows.jsonl", "report.html", "table.md"),
        varying=("report.html", "table.md"),  # They hold seconds; they are made of the rows.
    ),
    "study photographed": SmallCommand(
        (
            *("study", "photographed", "--pictures", "photos", "--picture-count", "3"),
            *("--picture-size", "64", "--model", "own:deep", "--eps255", "8"),
        ),
        finished=("rows.jsonl", "table.md"),
    ),
    "study samples": SmallCommand(
        ("study", "samples"),
        code=_FEW_SAMPLES,
        finished=("rows.jsonl", "report.html", "report.json"),
        varying=("evaluation.json",),
    ),
    "study all": SmallCommand(
        ("study", "all", "--study", "samples"),
        code=_FEW_SAMPLES,
        finished=("samples/rows.jsonl", "booklet.html", "booklet.pdf"),
        varying=("booklet.pdf", "samples/evaluation.json"),  # It holds its time.
    ),
    "patch": SmallCommand(
        (
            *("patch", "--steps", "3", "--draws", "4", "--test-draws", "4", "--size", "200x200"),
            *("--force",),
        ),
        code=_FEW_SCENES,
        finished=("card.toml", "patch.png", "mask.png", "rows.jsonl", "report.html"),
    ),
    "patch transfer": SmallCommand(
        ("patch", "transfer", "stop-sticker-signs-v1", "--model", "signs", "--test-draws", "4"),
        code=_FEW_SCENES,
        finished=("transfer.jsonl", "transfer.md"),
    ),
    "patch preview": SmallCommand(
        ("patch", "preview", "sticker", "--frames", "2", "--overwrite"),
        "out.gif",
        code=_FEW_SCENES,
        place=("--video", "OUT"),
    ),
    "print": SmallCommand(("print", "sticker", "--paper", "a4"), "out.pdf"),
    "calibrate chart": SmallCommand(("calibrate", "chart"), "out.pdf"),
    "calibrate fit": SmallCommand(
        ("calibrate", "fit", "chart-0.jpg", "chart-1.jpg"),
        "out.json",
        prepare=_write_photos_of_chart,
    ),
    "calibrate camera": SmallCommand(
        ("calibrate", "camera", "board"), "out.json", prepare=_write_photos_of_board
    ),
    "twin": SmallCommand(
        ("twin", "sticker", "--clips", "2", "--frames", "2", "--frame-size", "160x120"),
        finished=("twin.json", "truth.jsonl", "contact.png"),
    ),
    "check": SmallCommand(
        ("check", "views", "--bundle", "sticker", "--locate", "box", "--box", "8,8,56,56"),
        finished=("rows.jsonl", "check.json", "report.html"),
        # Pictures for the report are drawn at random of what one process saw.
        varying=("examples/.*", "report.html", "report.json", "check.json"),
    ),
    "report": SmallCommand(
        ("report",),
        place=("OUT",),
        start="checked",
        finished=("report.html", "report.json"),
        prepare=_write_check,
    ),
    "report of a bundle": SmallCommand(
        ("report",),
        place=("OUT",),
        start="measured",
        finished=("report.html",),
        prepare=_write_bundle,
    ),
    "init": SmallCommand(("init", "evaluate", "--overwrite"), "out.toml"),
    "merge": SmallCommand(
        ("merge", "shard-1", "shard-2"), finished=("rows.jsonl",), prepare=_write_shards
    ),
    "models fetch": SmallCommand(
        ("models", "fetch", "tiny", "--source", "tiny.pth", "--accept-license"),
        code=_TINY_WEIGHTS,
        place=(),
        prepare=_write_weights,
    ),
    "cloak": SmallCommand(
        ("cloak", "faces", "--threads", "1"),
        code=TINY_FACES,
        finished=("cloak-manifest.jsonl", "a-0.jpg"),
    ),
    "cloak check": SmallCommand(
        ("cloak", "check", "cloaked", "--originals", "faces", "--no-adaptive", "--threads", "1"),
        code=TINY_FACES,
        finished=("rows.jsonl", "check.json", "report.html"),
    ),
    "demo": SmallCommand(
        ("demo", "--steps", "2", "--clips", "1", "--frames", "1"),
        code=_FEW_SCENES,
        finished=("sheet.pdf", "check/report.html"),
        # The card of the sticker holds the time that it took, and its digest goes on from there.
        varying=("sheet.pdf", "twin/twin.json", "check/(?!rows).*"),
    ),
}

FILES = tuple(name for name, command in SMALL_COMMANDS.items() if "." in command.out)
"""Commands whose result is one file."""


READING_COMMANDS = {
    "models list": SmallCommand(("models", "list"), place=()),
    "models show": SmallCommand(("models", "show", "signs"), place=()),
    "models check": SmallCommand(("models", "check", "signs"), place=()),
    "patch show": SmallCommand(("patch", "show", "sticker"), place=()),
    "patch verify": SmallCommand(
        ("patch", "verify", "stop-sticker-signs-v1", "--test-draws", "2"),
        code=_FEW_SCENES,
        place=(),
    ),
    "patch visibility": SmallCommand(("patch", "visibility"), code=_FEW_SCENES, place=()),
    "patch list": SmallCommand(("patch", "list"), place=()),
    "runs": SmallCommand(("runs", "."), place=(), prepare=_write_shards),
    "compare": SmallCommand(("compare", "shard-1", "shard-1"), place=(), prepare=_write_shards),
    "doctor": SmallCommand(("doctor",), place=()),
}
"""Commands that write no file: their result goes to stdout alone."""


def write_inputs(folder: Path, *names: str) -> None:
    """Write the inputs that most commands have, and those of the commands ``names``, into
    ``folder``: the same bytes each time."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images, labels=np.arange(6) % 2)
    (folder / "own.py").write_text(_OWN_MODELS)
    _write_toy(folder / "toy.npz", random)
    patch = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(5))
    demo_bundle(folder / "sticker", patch)

    for name in ("photos", "views", "faces", "cloaked"):
        (folder / name).mkdir()
    for number in range(3):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
            folder / "photos" / f"{number}.png"
        )
    for block in ("clean", "blank", "patch"):
        for number in range(3):
            Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
                folder / "views" / f"{block}-{number}.png"
            )
    _write_faces(folder)
    for name in names:
        write_own_inputs(folder, name)


def write_own_inputs(folder: Path, name: str) -> None:
    """Write the inputs that only the command ``name`` has."""
    prepare = {**SMALL_COMMANDS, **READING_COMMANDS}[name].prepare
    if prepare is not None:
        prepare(folder)


def _write_toy(file: Path, random: np.random.Generator) -> None:
    """Three classes of gray images: a bright third of each."""
    parts: dict[str, Any] = {}
    for part, count in (("train", 60), ("test", 12)):
        labels = np.arange(count) % 3
        images = random.integers(0, 60, (count, 12, 12))
        for image, label in zip(images, labels, strict=True):
            image[:, 4 * label : 4 * label + 4] += 180
        parts |= {f"{part}_images": images.astype(np.uint8), f"{part}_labels": labels}
    np.savez(file, **parts)


def _write_faces(folder: Path) -> None:
    """Two drawn photos of each of three people, and the same slightly changed."""
    from tinyface import drawn_photo, face_at

    for person, name in enumerate("abc"):
        for shot in range(2):
            photo = drawn_photo(96, 96, face_at(24, 24, 48), person=person, shot=shot)
            Image.fromarray(photo).save(folder / "faces" / f"{name}-{shot}.jpg", quality=95)
            Image.fromarray(photo // 2 + 40).save(
                folder / "cloaked" / f"{name}-{shot}.jpg", quality=95
            )


_VARYING = re.compile(
    r'"(?:\w*seconds\w*|(?:train|attack)_s|started|finished|speed|fps|latency\w*|created|'
    r'bundle_sha256)": [^,}\n]+'
    r"|cpu_seconds = [\d.]+|Seconds</th><td>[\d.]+|\b\d+(?:\.\d+)? (?:CPU seconds|s\b)"
    r"|\d{4}-\d\d-\d\d[T ][\d:]+(?:Z| UTC)|\d{8}T\d{6}Z"
)
_LEFT_OUT = ("environment.json", ".physadv.lock", ".physadv.pid")


def result_of(out: Path) -> dict[str, object]:
    """What a run left in its folder or file, by name: bytes, and texts without times and the place
    of the run."""
    files = [out] if out.is_file() else sorted(p for p in out.rglob("*") if p.is_file())
    root = out.parent if out.is_file() else out
    return {
        os.fspath(file.relative_to(root)): _content(file, os.fspath(root))
        for file in files
        if file.name not in _LEFT_OUT
    }


def assert_same(
    found: dict[str, object],
    expected: dict[str, object],
    command: SmallCommand,
    rounded: bool = False,
) -> None:
    """Compare two results of a command; what may differ need not even be there.

    ``rounded`` compares the numbers of rows to five digits: a net's float32 scores differ in their
    last bits between sizes of a batch, which a lack of memory halves.
    """
    if rounded:
        found, expected = _rounded(found), _rounded(expected)
    files = {name for name in (*found, *expected) if not _may_differ(name, command)}
    differing = {name for name in files if found.get(name) != expected.get(name)}
    assert not differing, {name: _first_difference(found, expected, name) for name in differing}


def _rounded(result: dict[str, object]) -> dict[str, object]:
    def five_digits(match: re.Match[str]) -> str:
        return f"{float(match[0]):.4e}"

    return {
        name: re.sub(r"-?\d+\.\d+(?:e-?\d+)?", five_digits, str(content))
        if name.endswith(".jsonl")
        else content
        for name, content in result.items()
    }


def _first_difference(found: dict[str, object], expected: dict[str, object], name: str) -> str:
    if name not in found or name not in expected:
        return "missing" if name in expected else "too many"
    one, other = str(found[name]), str(expected[name])
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    return f"...{one[max(0, at - 60) : at + 60]}... for ...{other[max(0, at - 60) : at + 60]}..."


def _may_differ(name: str, command: SmallCommand) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in command.varying)


def _content(file: Path, place: str) -> object:
    if file.suffix == ".jsonl":
        return _rows(file)
    if file.suffix == ".safetensors":
        return _tensors(file)
    if file.suffix in (".json", ".toml", ".md", ".html"):
        text = file.read_text(encoding="utf-8").replace(place, "OUT").replace(" --json", "")
        return _VARYING.sub("", text)
    return file.read_bytes()


def _tensors(file: Path) -> object:
    """Tensors of a checkpoint, without the seconds that its header counts."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return header, data[8 + length :]


def _rows(file: Path) -> list[str]:
    """The rows of a file without their times, in their order; of a manifest the last of each
    photo."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if file.name == "cloak-manifest.jsonl":
        rows = list({row["source"]: row for row in rows}.values())
    return [_VARYING.sub("", json.dumps(row, sort_keys=True)) for row in rows]
