"""What a run wrote is never replaced by another one unasked, and one run at a time writes there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_fixtures import demo_bundle
from commandline import environment
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner, Result

from physadv.core.errors import DataError, OptionError, PhysadvError
from physadv.core.run_folder import locked_folder
from physadv_cli.main import app
from physadv_cli.runs import earlier_record_faults

FAST = ("--attack", "fgsm", "--limit", "2", "--model", "own:make")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a bundle, a data set and a model of its own."""
    monkeypatch.chdir(tmp_path)
    patch = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(5))
    demo_bundle(tmp_path / "patch", patch)

    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(4) % 2)
    (tmp_path / "own.py").write_text(
        "import torch\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))\n"
    )


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def refusal(*words: str) -> str:
    """The refusal in words of a command that must end with one."""
    result = invoke(*words)
    assert isinstance(result.exception, OptionError), result.output
    return str(result.exception)


def commands(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command below ``group`` with its words."""
    for word, command in group.commands.items():
        path = f"{name} {word}".strip()
        if hasattr(command, "commands"):
            yield from commands(command, path)
        else:
            yield path, command


def test_all_commands_that_write_can_be_told_to_overwrite() -> None:
    """--overwrite stands beside every --out, with one help text."""
    found = dict(commands(get_command(app)))
    writing = {n: c for n, c in found.items() if any("--out" in p.opts for p in c.params)}
    helps = {p.help for c in writing.values() for p in c.params if "--overwrite" in p.opts}
    assert len(writing) >= 16
    assert len(helps) == 1
    assert all(any("--overwrite" in p.opts for p in c.params) for c in writing.values())


TWIN = ("twin", "patch", "--clips", "1", "--frames", "1")
ATTACK = ("attack", "--data", "data.npz", *FAST)
RESULTS = {
    "print": (("print", "patch", "--paper", "a4"), ("--paper", "letter"), "--paper a4 -> letter"),
    "chart": (("calibrate", "chart"), ("--paper", "letter"), "--paper a4 -> letter"),
    "twin": (TWIN, ("--frames", "2"), "--frames 1 -> 2"),
    "attack": ((*ATTACK, "--eps", "1/255"), ("--eps", "2/255"), "threat"),
    "evaluate": (
        ("evaluate", *ATTACK[1:3], "--model", "own:make", "--limit", "2", "--eps", "1/255"),
        ("--limit", "3"),
        "",
    ),
    "certify": (
        (
            *("certify", "--data", "data.npz", "--model", "own:make", "--method", "ibp"),
            *("--limit", "2", "--eps", "1/255"),
        ),
        ("--eps", "2/255"),
        "",
    ),
    "transfer": (
        ("patch", "transfer", "stop-sticker-signs-v1", "--model", "signs", "--test-draws", "2"),
        ("--test-draws", "3"),
        "--test-draws 2 -> 3",
    ),
}


@pytest.mark.parametrize(("command", "other", "said"), RESULTS.values(), ids=RESULTS)
def test_another_configuration_is_refused_and_can_be_asked_for(
    tmp_path: Path, command: tuple[str, ...], other: tuple[str, ...], said: str
) -> None:
    """The difference is named and nothing is touched; the same settings pass; --overwrite
    replaces, and a folder's earlier run is kept beside it."""
    out = tmp_path / "o" / ("x.pdf" if command[0] in ("print", "calibrate") else "run")
    assert invoke(*command, "--out", str(out)).exit_code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "o").rglob("*") if p.is_file()}

    words = refusal(*command, *other, "--out", str(out))
    assert said in words
    assert "--overwrite" in words
    assert {p: p.read_bytes() for p in before} == before

    assert invoke(*command, "--out", str(out)).exit_code == 0
    assert invoke(*command, *other, "--out", str(out), "--overwrite").exit_code == 0
    if out.is_dir():
        kept = out.with_name("run-replaced-1")
        assert (kept / "config.toml").read_bytes() == before[out / "config.toml"]


def test_a_file_of_somebody_elses_is_not_replaced(tmp_path: Path) -> None:
    """A PDF that no record explains stays, unless --overwrite is given."""
    (tmp_path / "thesis.pdf").write_text("years of work")
    assert "no record says" in refusal("print", "patch", "--out", "thesis.pdf")
    assert (tmp_path / "thesis.pdf").read_text() == "years of work"


OWN = ("--data", "data.npz", "--model", "own:make")
FOLDER_COMMANDS = (
    ("attack", *OWN, "--attack", "fgsm", "--eps", "1/255"),
    ("evaluate", *OWN, "--eps", "1/255"),
    ("certify", *OWN, "--method", "ibp", "--eps", "1/255"),
    ("train", "--data", "data.npz", "--defense", "standard"),
    ("check", "photo.png", "--bundle", "patch", "--locate", "frame"),
    ("twin", "patch"),
    ("patch", "--goal", "untargeted", "--size", "100x100"),
    ("patch", "transfer", "patch", "--model", "signs"),
    ("study", "masked", "--data", "data.npz"),
    ("study", "photographed", "--pictures", "patch"),
    ("demo",),
)


@pytest.mark.parametrize("words", FOLDER_COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_no_command_writes_among_another_ones_results(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    """Whatever the command, a folder that another one recorded is refused and left as it is."""
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "config.toml").write_text('command = "something-else"\n')
    assert "holds a run of `physadv something else`" in refusal(*words, "--out", "o")
    assert (tmp_path / "o" / "config.toml").read_text() == 'command = "something-else"\n'


def test_a_folder_of_another_command_is_refused() -> None:
    """An attack does not write into the folder of a twin."""
    assert invoke(*TWIN, "--out", "o").exit_code == 0
    assert "holds a run of `physadv twin`" in refusal(*ATTACK, "--eps", "1/255", "--out", "o")


@pytest.mark.parametrize("moved", range(4))
def test_a_kill_while_a_run_is_set_aside_mixes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """Killed after some files of the earlier run were moved away, the rest is still another run's:
    refused without --overwrite, and moved with it."""
    assert invoke(*ATTACK, "--eps", "1/255", "--out", "o").exit_code == 0
    real, count = Path.rename, iter(range(100))

    def killed(self: Path, target: Path) -> Path:
        if next(count) == moved:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    assert invoke(*ATTACK, "--eps", "2/255", "--out", "o", "--overwrite").exit_code != 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    refused = invoke(*ATTACK, "--eps", "2/255", "--out", "o")
    assert isinstance(refused.exception, PhysadvError)
    assert invoke(*ATTACK, "--eps", "2/255", "--out", "o", "--overwrite").exit_code == 0
    assert "2/255" in (tmp_path / "o" / "config.toml").read_text()
    kept = {p.name for n in (1, 2) for p in (tmp_path / f"o-replaced-{n}").iterdir()}
    assert {"config.toml", "rows.jsonl", "report.html"} <= kept


def test_two_names_of_one_data_set_are_the_same_run(tmp_path: Path) -> None:
    """A run goes on where --data is written in another way, and on another device."""
    assert invoke(*ATTACK, "--eps", "1/255", "--out", "o").exit_code == 0
    again = ["attack", "--data", str(tmp_path / "data.npz"), *FAST, "--eps", "1/255", "--out", "o"]
    assert invoke(*again, "--device", "cpu").exit_code == 0


HOLD = """
import sys, time
from pathlib import Path
from physadv.core.run_folder import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    "words",
    [
        ("twin", "patch", "--sheet", "bad"),
        ("evaluate", "--model", "own:make", "--data", "bad", "--threat", "linf:8/255"),
        ("certify", "--model", "own:make", "--data", "bad", "--threat", "linf:8/255"),
        ("train", "signs", "--data", "bad"),
        ("study", "masked", "--data", "bad"),
        ("patch", "--signs", "bad"),
        ("patch", "transfer", "patch", "--model", "bad"),
        ("check", "bad.mp4", "--bundle", "patch"),
        ("cloak", "bad"),
    ],
)
def test_a_run_that_never_began_leaves_no_folder(words: tuple[str, ...], tmp_path: Path) -> None:
    """Nothing stands in the way of the same command with the mistake corrected; a folder that was
    there before stays, without a result."""
    before = {path for path in tmp_path.rglob("*") if path.name != "runs"}
    result = invoke(*words, *(("--out", "out") if words[0] != "evaluate" else ()))
    assert isinstance(result.exception, PhysadvError), result.output
    after = {path for path in tmp_path.rglob("*") if path.name not in ("runs", "__pycache__")}
    assert {path for path in after if path.suffix != ".pyc"} == before

    (tmp_path / "out").mkdir(exist_ok=True)
    assert isinstance(invoke(*words, "--out", "out").exception, PhysadvError)
    assert (tmp_path / "out").is_dir()


def test_one_run_at_a_time_and_a_killed_one_is_no_obstacle(tmp_path: Path) -> None:
    """A second process is told which one writes there; after a kill the folder is free."""
    (tmp_path / "o").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, "o"], stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        said = refusal(*ATTACK, "--eps", "1/255", "--out", "o")
        assert f'"o" is in use by process {holder.pid}' in said
        assert not (tmp_path / "o" / "config.toml").exists()
    finally:
        holder.kill()
        holder.wait()
    assert invoke(*ATTACK, "--eps", "1/255", "--out", "o").exit_code == 0


def test_one_process_at_a_time_writes_a_file(tmp_path: Path) -> None:
    """While a sheet is being written, a second command for it is refused with the number of the
    first; other files are free. A killed one is no obstacle, and nothing of the lock stays."""
    code = """
import sys, time
from pathlib import Path
from physadv.core.run_folder import locked_file
with locked_file(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    held = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "s.pdf")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert held.stdout is not None
        assert held.stdout.readline() == "held\n"
        said = refusal("print", "patch", "--out", "s.pdf")
        assert f"is being written by process {held.pid}" in said
        assert not (tmp_path / "s.pdf").exists()
        assert invoke("print", "patch", "--out", "other.pdf").exit_code == 0
    finally:
        held.kill()
        held.wait()
    assert invoke("print", "patch", "--out", "s.pdf").exit_code == 0
    assert invoke("calibrate", "chart", "--out", f"{'x' * 230}.pdf").exit_code == 0
    assert not [p.name for p in tmp_path.iterdir() if p.name.endswith((".lock", ".pid"))]


def test_runs_that_start_in_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    """Two processes started together without --out write two runs."""
    command = [sys.executable, "-m", "physadv", *ATTACK, "--eps", "1/255", "--json"]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
        for _ in range(2)
    ]
    folders = [json.loads(run.communicate(timeout=240)[0])["out"] for run in runs]
    assert len(set(folders)) == 2
    assert all((tmp_path / folder / "config.toml").is_file() for folder in folders)


@pytest.mark.parametrize("name", ["[/b]x", "[bold]x"])
def test_brackets_in_names_are_text(name: str) -> None:
    """Names of files are no markup."""
    result = invoke(*ATTACK, "--eps", "1/255", "--out", f"runs/{name}")
    assert result.exit_code == 0
    assert f"runs/{name}" in "".join(result.stderr.split("\n"))


@pytest.mark.parametrize(
    "words",
    [
        ("check", ""),
        ("check", " "),
        ("print", "patch", "--out", ""),
        (*ATTACK[:1], "--data=", *FAST),
    ],
)
def test_an_empty_word_names_nothing(words: tuple[str, ...]) -> None:
    """An unset variable of a shell is no path: not the working folder."""
    assert "is empty: A value is needed" in refusal(*words)


def test_links_and_the_users_umask_are_honored(tmp_path: Path) -> None:
    """The file that a link leads to is written, and new files are as private as the umask says."""
    (tmp_path / "link.pdf").symlink_to("real.pdf")
    before = os.umask(0o077)
    try:
        assert invoke("print", "patch", "--out", "link.pdf").exit_code == 0
        assert invoke("print", "patch", "--out", "new.pdf").exit_code == 0
    finally:
        os.umask(before)
    assert (tmp_path / "link.pdf").is_symlink()
    assert (tmp_path / "real.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "new.pdf").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("out", ["afile", "afile/x", "afile/x/y.pdf"])
@pytest.mark.parametrize(
    "words",
    [("print", "patch"), ("calibrate", "chart"), (*ATTACK, "--eps", "1/255"), TWIN],
    ids=lambda words: words[0],
)
def test_a_file_in_the_way_is_one_line(words: tuple[str, ...], out: str, tmp_path: Path) -> None:
    """--out at or below a file is refused before any work, for files and folders alike."""
    (tmp_path / "afile").write_text("x")
    if out == "afile" and words[0] in ("print", "calibrate"):
        assert "no record says" in refusal(*words, "--out", out)
    else:
        assert "is no folder" in refusal(*words, "--out", out)
    assert (tmp_path / "afile").read_text() == "x"


def test_no_lock_is_left_held() -> None:
    """The lock ends with the command, also where it fails: the next one in the process runs."""
    assert invoke(*ATTACK, "--eps", "1/255", "--out", "o").exit_code == 0
    refusal(*ATTACK, "--eps", "2/255", "--out", "o")
    assert invoke(*ATTACK, "--eps", "1/255", "--out", "o").exit_code == 0


BREAK = """
import sys
from pathlib import Path
from physadv.core.run_folder import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_ctrl_c_frees_the_folder(tmp_path: Path) -> None:
    """An interrupted run leaves neither its lock nor the note of its process."""
    (tmp_path / "o").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", BREAK, "o"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGINT)
    assert holder.wait(timeout=60) != 0
    assert not (tmp_path / "o" / ".physadv.pid").exists()
    with locked_folder(tmp_path / "o"):
        pass


def test_an_interrupted_check_is_not_resumed_with_another_box(tmp_path: Path) -> None:
    """Rows of two boxes never stand in one file: the difference is named. With the same box a
    finished check says its result again."""
    for block in ("clean", "blank", "patch"):
        (tmp_path / "p").mkdir(exist_ok=True)
        image = np.random.default_rng(len(block)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "p" / f"{block}.png")
    words = ("check", "p", "--bundle", "patch", "--locate", "box", "--out", "o", "--box")
    assert invoke(*words, "8,8,40,40").exit_code == 0
    assert invoke(*words, "8,8,40,40").output.startswith("this check is finished")
    assert "--box 8,8,40,40 -> 9,9,50,50" in refusal(*words, "9,9,50,50")

    record = json.loads((tmp_path / "o" / "check.json").read_text())
    (tmp_path / "o" / "check.json").write_text(json.dumps({**record, "status": "stopped"}))
    assert "--box 8,8,40,40 -> 9,9,50,50" in refusal(*words, "9,9,50,50")
    assert invoke(*words, "8,8,40,40", "--timeout", "5").exit_code == 0


def test_records_that_are_damaged_are_one_error(tmp_path: Path) -> None:
    """A run goes on from what is in its folder; what is odd there is told of in a line that names
    the file, and not as a traceback."""
    command = (*ATTACK, "--eps", "64/255", "--out", "run")
    assert invoke(*command).exit_code == 0
    listed = tmp_path / "run" / "examples" / "examples.jsonl"
    listed.write_text('{"index": 0, "confidence": 0.5, "label": "0", "verdict": "1"}\n')
    (tmp_path / "run" / "report.html").unlink()

    failed = invoke(*command)
    assert isinstance(failed.exception, PhysadvError), failed.output
    assert "examples.jsonl" in str(failed.exception)
    assert invoke(*command[:-1], "anew").exit_code == 0


def test_a_fault_of_the_program_is_not_blamed_on_earlier_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command goes on from whole files: what fails then is the program, and stays what it
    is, in any step: the attack itself, or the page of it."""
    command = (*ATTACK, "--eps", "64/255", "--out", "run")
    assert invoke(*command).exit_code == 0
    (tmp_path / "run" / "report.html").unlink()
    rows = (tmp_path / "run" / "rows.jsonl").read_text().splitlines(keepends=True)

    def broken(*_: object, **__: object) -> None:
        raise KeyError("layer")

    with monkeypatch.context() as patched:
        patched.setattr("physadv.report.evaluate_report.write_evaluate_report", broken)
        assert isinstance(invoke(*command).exception, KeyError)
    (tmp_path / "run" / "rows.jsonl").write_text("".join(rows[:1]))
    (tmp_path / "run" / "rows.marks.jsonl").unlink()
    with monkeypatch.context() as patched:
        patched.setattr("physadv.evaluation.robust_accuracy.ProgressLog.write", broken)
        assert isinstance(invoke(*command).exception, KeyError)


def test_what_is_made_of_an_earlier_record_is_blamed_on_it_alone(tmp_path: Path) -> None:
    """Only where that record stood there before the work began; other ends of a command pass."""
    record = tmp_path / "rows.jsonl"
    with pytest.raises(KeyError), earlier_record_faults(record):
        raise KeyError("layer")
    begun = earlier_record_faults(record)
    record.write_text("{}")
    with pytest.raises(KeyError), begun:
        raise KeyError("layer")
    told = pytest.raises(DataError, match=r"rows\.jsonl.*layer")
    with told as error, earlier_record_faults(record):
        raise KeyError("layer")
    assert isinstance(error.value.__cause__, KeyError)  # shown by --verbose


def test_folders_that_are_no_runs_are_left_as_they_are(tmp_path: Path) -> None:
    """A photo folder named by mistake gets no lock file."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.txt").write_text("mine")
    for words in (("merge", "photos", "--out", "whole"), ("report", "photos")):
        assert "holds no run" in str(invoke(*words).exception)
    assert [file.name for file in photos.iterdir()] == ["a.txt"]
