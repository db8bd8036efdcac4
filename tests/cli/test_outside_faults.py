"""A fault outside the program is one line and exit code 1."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import environment, physadv, write_colors

from physadv.patches.bundle import read_bundle
from physadv_cli import main as entry

PATCHES = Path(__file__).resolve().parents[2] / "patches"


def test_a_folder_below_a_file_is_one_line(tmp_path: Path) -> None:
    """--out below a file: no traceback."""
    (tmp_path / "file").write_text("x")
    done = physadv(
        tmp_path, "patch", "--steps", "1", "--draws", "1", "--test-draws", "1", "--out", "file/run"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("physadv: ")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "rows.jsonl"), "rows.jsonl: No space left"),
        (PermissionError(13, "Permission denied", "out"), "out: Permission denied"),
        (MemoryError(), "Memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "Memory ran out"),
        (RuntimeError("could not create a primitive"), "Memory ran out"),
    ],
)
def test_disk_and_memory_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    words: str,
) -> None:
    """Each ends with 1 and one line that names what it was."""

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(entry, "app", fail)
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith("physadv: ")
    assert words in line


def test_other_runtime_errors_stay_visible(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault of the program itself keeps its traceback, with what a terminal would obey written
    out."""

    def fail(**_: object) -> None:
        raise RuntimeError("a bug\x1b[1m")

    monkeypatch.setattr(entry, "app", fail)
    monkeypatch.setattr(sys, "argv", ["physadv"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 1
    assert r"RuntimeError: a bug\x1b[1m" in capsys.readouterr().err


SMALL = ("patch", "--steps", "1", "--draws", "2", "--test-draws", "2", "--out", "run")


def limited(folder: Path, limit: int, size: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command under a limit of the operating system: RLIMIT_FSIZE or RLIMIT_AS."""
    return subprocess.run(
        [sys.executable, "-m", "physadv_cli.main", *words],
        cwd=folder,
        env={**environment(), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(limit, (size, size)),
    )


def is_one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of stderr, the only one that reports an error."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("physadv: "), done.stderr
    return last


def test_a_file_that_may_not_grow_is_one_line(tmp_path: Path) -> None:
    """Where a file of over 2 kB cannot be written the run ends in one line, and no torn file stands
    where a whole one should."""
    last = is_one_line(limited(tmp_path, resource.RLIMIT_FSIZE, 2048, *SMALL))
    assert "disk" in last
    assert not [p for p in (tmp_path / "run").rglob("*.png") if p.stat().st_size == 2048]


def test_scenes_that_do_not_fit_are_drawn_in_parts(tmp_path: Path) -> None:
    """Where the address space is too small for all draws of a step, fewer are taken at once, and
    the run says so."""
    words = ("patch", "--steps", "1", "--draws", "3000", "--test-draws", "2", "--out", "run")
    done = limited(tmp_path, resource.RLIMIT_AS, 3 << 30, *words)
    assert done.returncode == 0, done.stderr
    assert re.search(r"memory ran out at 3000 draws at once; at most \d+ were", done.stderr)


def test_memory_that_is_refused_is_one_line(tmp_path: Path) -> None:
    """A model that does not fit in the address space with a single image: one line."""
    write_colors(tmp_path / "data", count=2, side=8, values=(0, 60), lead=120)
    (tmp_path / "hungry.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
        "        return torch.ones(1 << 30)[:3].expand(len(x), 3) + x.mean((1, 2, 3))[:, None]\n\n"
        "make = Net\n"
    )
    words = ("attack", "--model", "hungry:make", "--data", "data", "--attack", "fgsm")
    words += ("--classes", "blue,green,red", "--input-size", "8")
    last = is_one_line(limited(tmp_path, resource.RLIMIT_AS, 3 << 30, *words))
    assert "emory" in last


@pytest.fixture
def baited(tmp_path: Path) -> Path:
    """A ready-made bundle whose card names a module beside it, which leaves a mark when it runs."""
    (tmp_path / "bait.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\ndef make():\n    raise SystemExit\n"
    )
    source = sorted(p for p in PATCHES.iterdir() if (p / "card.toml").is_file())[0]
    bundle = tmp_path / "bundle"
    shutil.copytree(source, bundle)
    card = (bundle / "card.toml").read_text(encoding="utf-8")
    lines = [
        'name = "bait:make"'
        if table == "[victim]" and line.startswith("name =")
        else 'victim = "bait:make"'
        if line.startswith("victim =")
        else line
        for table, line in with_tables(card)
        if not line.startswith("sha256 =") or table != "[patch]"
    ]
    (bundle / "card.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read_bundle(bundle).card.victim.name == "bait:make"
    return bundle


def with_tables(card: str) -> list[tuple[str, str]]:
    """Each line of a TOML text with the table it stands in."""
    table, pairs = "", []
    for line in card.splitlines():
        table = line.strip() if line.startswith("[") else table
        pairs.append((table, line))
    return pairs


@pytest.mark.parametrize(
    "words",
    [
        ("patch", "verify", "bundle"),
        ("patch", "transfer", "bundle", "--model", "signs"),
        ("check", "clip.mp4", "--bundle", "bundle"),
    ],
)
def test_no_command_runs_a_module_that_a_card_names(
    baited: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """One line names the model and how to ask for it; the module has not been imported."""
    (tmp_path / "clip.mp4").write_bytes(b"")
    last = is_one_line(physadv(tmp_path, *words))
    assert "bait:make" in last
    assert "--model" in last
    assert not (tmp_path / "ran").exists()


INTERRUPTED = """
import os, signal, time
from physadv_cli import main as entry

class Callback:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

def work(**_):
    Callback()
    time.sleep(60)

entry.app = work
signal.signal(signal.SIGINT, signal.default_int_handler)
entry.main()
"""


def test_ctrl_c_within_a_callback_is_not_lost(tmp_path: Path) -> None:
    """Python prints an interrupt of a finalizer, or of its own import lock, and goes on."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "physadv: stopped" in done.stderr
