"""Every example of the help and every command line of README and docs, run: words as they stand,
with few steps, images and draws added, on small files of the names that they use."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_files import (
    FILES,
    Maker,
    Pool,
    album,
    class_folders,
    cloaked_album,
    drawings,
    named_script,
    numbered_classes,
    own_weights,
    recorded_sticker,
    stop_photos,
)
from forked import Faults, shared_server
from reference_server import ReferenceBox, served
from small_commands import SMALL_COMMANDS, TINY_FACES
from test_configured import COMMANDS
from test_docs import CASES

from physadv_cli.help_page import split_examples

NOT_HERE = {
    r"(check|calibrate \w+) 0 ": "needs a camera; played ones stand before it in test_check_stream",
    r"(ui|cloak --serve)\b": "serves until it is ended, as in test_ui and test_cloak_page",
    r"models fetch (?!fastestdet)": "downloads; test_fetch does so from a server of its own",
    r"check films/ --model http": "needs films of a sign, as test_black_box_detectors has",
    r"study privacy --people": "needs photos of faces that a detector finds",
    r"cloak clip": "needs a film of faces; test_cloak_video makes one",
}
"""Examples that cannot run as they stand, by a pattern of their words, and why."""
_FEW = SMALL_COMMANDS["patch"].code
_PATCH = ("--steps", "2", "--draws", "4", "--test-draws", "4", "--force")
_VOTES = ("--limit", "2", "--n0", "10", "--n", "60")
SMALL: dict[str, tuple[tuple[str, ...], str]] = {
    "attack": (("--limit", "2", "--steps", "2"), ""),
    "calibrate": ((), ""),
    "certify": (("--limit", "2"), ""),
    "certify --model signs --data": (_VOTES, ""),
    "certify --config": (_VOTES, ""),
    "certify --vnnlib": ((), ""),
    "certify --model net.onnx": ((), ""),
    "check": ((), ""),
    "cloak": (("--threads", "1"), TINY_FACES),
    "cloak check": (("--no-adaptive", "--no-baselines", "--threads", "1"), TINY_FACES),
    "compare": ((), ""),
    "demo": (("--steps", "2", "--clips", "1", "--frames", "1"), SMALL_COMMANDS["demo"].code),
    "doctor": ((), ""),
    "evaluate": (("--limit", "2"), ""),
    "init": ((), ""),
    "merge": ((), ""),
    "models": ((), ""),
    "patch": (_PATCH, _FEW),
    "patch --model fastestdet": ((*_PATCH, "--restarts", "2"), _FEW),
    "patch list": ((), ""),
    "patch preview": (("--frames", "2"), _FEW),
    "patch show": ((), ""),
    "patch transfer": (("--test-draws", "4"), _FEW),
    "patch transfer --verify": ((), _FEW),
    "patch verify": (("--test-draws", "2"), _FEW),
    "patch visibility": ((), _FEW),
    "print": ((), ""),
    "report": ((), ""),
    "runs": ((), ""),
    "study": (("--quick",), ""),
    "study photographed": (("--picture-count", "2", "--eps255", "16"), ""),
    "study samples": (("--quick",), SMALL_COMMANDS["study samples"].code),
    "train": (("--epochs", "1"), ""),
    "train signs": (
        ("--epochs", "1", "--epoch-steps", "2", "--batch-size", "8", "--precision", "fp32"),
        SMALL_COMMANDS["train signs"].code,
    ),
    "twin": (("--clips", "1", "--frames", "2", "--frame-size", "320x240"), _FEW),
}
"""Options that make an example small, and code before it, by its first words; most words count."""
MORE = {
    r"runs": ("runs/before", "experiments"),
    r".*command:./classify": ("classify",),
    r"(certify|evaluate) --config": ("gtsrb.zip",),
}
"""Files that an example needs without naming them."""
OTHERS: dict[str, dict[str, Maker]] = {
    r"cloak": {"photos": album},
    r"report .*cloaked": {
        "photos": album,
        "photos-cloaked": cloaked_album,
        "cloaked": cloaked_album,
    },
    r"evaluate .*--data photos": {"photos": class_folders},
    r"models check .*--photos photos": {"photos": class_folders},
    r"attack --model 'command": {"signs": numbered_classes},
    r"patch --model fastestdet": {"photos": stop_photos},
    r"patch --model my_models": {"drawings": drawings},
    r"patch --model a.pt": {"a.pt": named_script, "w.pth": own_weights},
    r"patch transfer (sticker|runs/a) --verify": dict.fromkeys(
        ("sticker", "runs/a"), recorded_sticker
    ),
}
"""Files that some examples mean something else by, by a pattern of their words."""
WEIGHTS = re.compile(r"fastestdet|efficientnet|wongkolter|hide-the-sign")
"""Examples with weights that are not embedded: they are in the shared data."""


def _lines() -> Iterator[str]:
    """Each example once, help first."""
    seen = set()
    helps = [e for _, command in COMMANDS for e in split_examples(command.help or "")[1]]
    for line in (*helps, *(case.values[1] for case in CASES)):
        words = shlex.join(shlex.split(line, comments=True)[1:])
        if words not in seen:
            seen.add(words)
            yield words


def _reason(words: str) -> str:
    return next((why for pattern, why in NOT_HERE.items() if re.match(pattern, words)), "")


RUN = [words for words in _lines() if not _reason(words)]
CASES_TO_RUN = [pytest.param(words, id=words[:70]) for words in RUN]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    def run(folder: Path, words: tuple[str, ...], out: Path) -> None:
        code = TINY_FACES if words[0] == "cloak" else _FEW
        done = shared_server().run(folder, *words, "--out", str(out), faults=Faults(code=code))
        assert done.code == 0, done.stderr

    shared = Path(os.environ.get("PHYSADV_SHARED", Path(__file__).parents[3] / "shared")) / "data"
    made = Pool(tmp_path_factory.mktemp("pool"), shared if shared.is_dir() else None, run)
    if made.shared is not None:
        weights = str(made.shared / "weights/fastestdet_coco.pth")
        words = ("models", "fetch", "fastestdet", "--source", weights, "--accept-license")
        done = shared_server().run(made.folder, *words, faults=Faults(code=_cache(made)))
        assert done.code == 0, done.stderr
    return made


def _cache(pool: Pool) -> str:
    return f"import os; os.environ['PHYSADV_CACHE'] = {str(pool.folder / '.cache')!r}\n"


def _files_of(words: str) -> Iterator[str]:
    """The names of FILES that a line uses, as words or parts of them, but for its result."""
    if not words.startswith("report"):
        words = re.sub(r"--out \S+", "", words)
    for module in ("my_models:make", "mine:net"):
        words = words.replace(module, f"{module.split(':')[0]}.py ")
    for word in re.split(r"[\s=,@]+", words.replace("./", "")):
        name = word.strip("\"'").rstrip("/")
        yield from (file for file in FILES if name == file or name.startswith(f"{file}/"))


@pytest.mark.slow
@pytest.mark.parametrize("words", CASES_TO_RUN)
def test_an_example_runs(pool: Pool, tmp_path: Path, words: str) -> None:
    """It ends with success, or with the exit code of what it requires."""
    if WEIGHTS.search(words) and pool.shared is None:
        pytest.skip("needs weights of the shared data")
    others = {k: v for p, own in OTHERS.items() if re.match(p, words) for k, v in own.items()}
    more = (name for p, names in MORE.items() if re.match(p, words) for name in names)
    for name in dict.fromkeys((*_files_of(words), *more)):
        pool.copy(name, tmp_path, others.get(name))
    small, code = SMALL[max((k for k in SMALL if _begins(words, k)), key=len)]
    typed = shlex.split(words.replace("$SLURM_ARRAY_TASK_ID", "1").replace("/data/exp", "exp"))
    box = ReferenceBox(
        lambda images: images.mean((2, 3)), about={"classes": ["stop", "yield", "poster"]}
    )
    with served(box) as address:
        typed = [address if word == "http://127.0.0.1:8080/predict" else word for word in typed]
        if "box.toml" in words:
            (tmp_path / "box.toml").write_text(f'url = "{address}"\n')
        faults = Faults(code=_cache(pool) + code)
        done = shared_server().run(tmp_path, *typed, *small, faults=faults)
    assert done.code in ((0, 3) if "--require" in words else (0,)), done.stderr + done.stdout


def _begins(words: str, start: str) -> bool:
    return f"{words} ".startswith(f"{start} ")
