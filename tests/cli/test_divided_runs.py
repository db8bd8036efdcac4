"""One run in several processes: shards that are merged, and what torchrun starts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import commandline
import numpy as np
import pytest
import torch
from commandline import environment
from typer.testing import CliRunner

from physadv.core.errors import OptionError
from physadv.core.rows import read_rows
from physadv.core.tensor_files import read_tensors
from physadv_cli.main import app
from physadv_cli.torchrun import refuse_several

MODEL = """
import torch

def make():
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(512, 4))
"""
FRAIL = """
import os, signal
import own

def make():
    net, calls = own.make(), []
    def count(*_):
        calls.append(0)
        if len(calls) > 40:
            os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("RANK") == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        net.register_forward_pre_hook(count)
    return net
"""
"""The same model, which kills the second of several processes once."""
EVALUATE = ("evaluate", "--threat", "linf:0.01", "--curve", "0.005", "--batch-size", "5")
PATCH = ("patch", "--steps", "3", "--draws", "5", "--test-draws", "12", "--resolution", "8")
CERTIFY = ("certify", "--threat", "l2:0.1", "--sigma", "0.25", "--n", "200", "--batch-size", "64")
COMMON = ("--model", "own:make", "--data", "data.npz", "--trust", "--threads", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data that it reads rightly, and undisturbed runs of one process."""
    folder = tmp_path_factory.mktemp("divided")
    (folder / "own.py").write_text(MODEL)
    code = (
        "import own, numpy, torch; net = own.make()\n"
        "x = numpy.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=numpy.uint8)\n"
        "y = net(torch.from_numpy(x).permute(0, 3, 1, 2) / 255).argmax(1)\n"
        "numpy.savez('data.npz', images=x, labels=y.numpy())\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    assert len(np.load(folder / "data.npz")["labels"]) == 24
    for name, command in (("evaluated", EVALUATE), ("certified", CERTIFY)):
        physadv(folder, *command, *COMMON, "--out", name)
    return folder


def torchrun(processes: int, *options: str) -> list[str]:
    """The command line that starts physadv in so many processes. Without the two dashes, torchrun
    takes options such as --n for its own."""
    return commandline.torchrun(processes, *options, "-m", "--", "physadv")


def physadv(
    folder: Path, *words: str, processes: int = 0, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """The finished command, alone or started by torchrun, with its options, in several
    processes."""
    if processes:
        done = subprocess.run(
            [*torchrun(processes, *options), *words],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    else:
        done = commandline.physadv(folder, *words)
    assert done.returncode == 0, done.stderr
    return done


def rows(folder: Path) -> dict[str, list[str]]:
    """The rows of each file of a run, sorted."""
    return {
        file.name: sorted(json.dumps(row, sort_keys=True) for row in read_rows(file))
        for file in folder.glob("*.jsonl")
        if not file.name.endswith("marks.jsonl")
    }


@pytest.mark.parametrize(
    ("command", "whole"), [(EVALUATE, "evaluated"), (CERTIFY, "certified")], ids=lambda x: x[:1]
)
def test_shards_merge_to_the_run_of_one_process(
    place: Path, tmp_path: Path, command: tuple[str, ...], whole: str
) -> None:
    """Three shards, merged and finished by the same command, have every row of one process."""
    parts = [str(tmp_path / str(number)) for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        said = physadv(place, *command, *COMMON, "--shard", f"{number}/3", "--out", part).stderr
        assert f"shard {number}/3 of the run:" in said
        assert "physadv merge" in said
    merged = str(tmp_path / "merged")
    done = physadv(place, "merge", *parts, "--out", merged, "--json")
    assert json.loads(done.stdout)["complete"]
    physadv(place, *command, *COMMON, "--out", merged)
    assert rows(Path(merged)) == rows(place / whole)
    assert (Path(merged) / "report.html").is_file()


def test_another_run_is_replaced_when_asked_alone(place: Path, tmp_path: Path) -> None:
    """merge refuses a folder of other settings; --overwrite keeps that run aside."""
    physadv(place, *EVALUATE, *COMMON, "--shard", "1/2", "--out", str(tmp_path / "1"))
    taken = tmp_path / "taken"
    physadv(place, *CERTIFY, *COMMON, "--shard", "1/2", "--out", str(taken))
    refused = commandline.physadv(place, "merge", str(tmp_path / "1"), "--out", str(taken))
    assert refused.returncode == 1
    assert "other settings" in refused.stderr
    physadv(place, "merge", str(tmp_path / "1"), "--out", str(taken), "--overwrite")
    assert (tmp_path / "taken-replaced-1/evaluation.json").is_file()


@pytest.mark.parametrize(
    ("command", "whole"), [(EVALUATE, "evaluated"), (CERTIFY, "certified")], ids=lambda x: x[:1]
)
def test_two_processes_of_torchrun_agree_with_one(
    place: Path, tmp_path: Path, command: tuple[str, ...], whole: str
) -> None:
    """Rows, counts and certificates are those of one process, exactly; one process prints."""
    done = physadv(place, *command, *COMMON, "--out", str(tmp_path), "--json", processes=2)
    assert rows(tmp_path) == rows(place / whole)
    assert json.loads(done.stdout)["complete"]
    assert done.stderr.count("rows and report in") == 1
    assert not (tmp_path / "ranks").exists()


def kill_one(job: subprocess.Popen[str]) -> None:
    """Kill a process of torchrun's, and wait for the end of the others."""
    children = subprocess.run(
        ["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    assert children
    os.kill(int(children[-1]), signal.SIGKILL)
    assert job.wait(120) != 0


def kill_and_go_on(place: Path, words: tuple[str, ...]) -> None:
    """Kill one of two processes after a checkpoint, which one line must say, and let one go on in
    "killed"; "whole" is of an undisturbed run."""
    with (place / "log").open("w") as log:
        job = subprocess.Popen(
            [*torchrun(2), *words, "--out", "killed"],
            cwd=place,
            env=environment(),
            stdout=log,
            stderr=log,
            text=True,
        )
        while not (place / "killed/checkpoint.safetensors").is_file() and job.poll() is None:
            time.sleep(0.02)
        kill_one(job)
    said = (place / "log").read_text()
    assert said.count("physadv: ") == 1
    assert "The same command goes on from what is saved, with any number of processes" in said
    physadv(place, *words, "--out", "killed")
    physadv(place, *words, "--out", "whole")


def test_processes_of_other_weights_do_no_work(place: Path, tmp_path: Path) -> None:
    """A factory that draws its weights anew in each process is refused before any batch, in a line
    that says what to do, and leaves no folder."""
    (place / "unseeded.py").write_text(MODEL.replace("    torch.manual_seed(3)\n", ""))
    words = ("--model", "unseeded:make", *COMMON[2:], "--out", str(tmp_path / "out"))
    ended = subprocess.run(
        [*torchrun(2), *EVALUATE, *words],
        cwd=place,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert re.search(r"The processes differ: .*model_state.*draw them from a seed", ended.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--fsdp",)], ids=["whole", "fsdp"])
def test_a_killed_training_says_so_in_a_line_and_goes_on_alone(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    """One of two is killed after an epoch; one process goes on from its checkpoint to the weights
    of an undisturbed run, up to rounding. So it is where each holds a shard of the weights."""
    source = np.random.default_rng(0)
    images, labels = source.integers(0, 200, (150, 16, 16, 3), dtype=np.uint8), np.arange(150) % 3
    for image, label in zip(images, labels, strict=True):
        image[..., label] //= 2
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    words = ("train", "--defense", "standard", "--data", "data.npz", "--epochs", "8")
    words = (*words, *more, "--batch-size", "32", "--validation", "0.2", "--threads", "1")
    kill_and_go_on(tmp_path, words)
    killed, whole = (
        torch.cat(
            [t.flatten() for t in read_tensors(tmp_path / run / "model.safetensors")[0].values()]
        )
        for run in ("killed", "whole")
    )
    assert float((killed - whole).norm() / whole.norm()) < 1e-5


@pytest.mark.slow
def test_a_killed_process_ends_the_job_which_resumes_with_another_number(
    place: Path, tmp_path: Path
) -> None:
    """One of three is killed: all end; what they had finished is kept, by one process or two."""
    out = tmp_path / "out"
    job = subprocess.Popen(
        [*torchrun(3), *EVALUATE, *COMMON, "--out", str(out)],
        cwd=place,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for _ in range(1200):
        if list(out.glob("ranks/*/rows.marks.jsonl")) or job.poll() is not None:
            break
        time.sleep(0.05)
    kill_one(job)
    physadv(place, *EVALUATE, *COMMON, "--out", str(out), processes=2)
    assert rows(out) == rows(place / "evaluated")


@pytest.mark.slow
def test_torchrun_starts_ended_processes_again(place: Path, tmp_path: Path) -> None:
    """With --max-restarts, both are started again where one is killed, and end with all rows."""
    (place / "frail.py").write_text(FRAIL)
    words = (*EVALUATE, *COMMON, "--model", "frail:make", "--out", str(tmp_path / "out"))
    done = physadv(place, *words, processes=2, options=("--max-restarts", "1"))
    assert done.stderr.count("torchrun ended the job") == 1
    assert rows(tmp_path / "out") == rows(place / "evaluated")


def test_a_patch_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """Draws are shared: the patches agree within 1e-5 and the held-out rows are the same; one
    process writes and prints."""
    options = ("--model", "signs", "--threads", "1", "--force", "--json")
    alone = physadv(tmp_path, *PATCH, *options, "--out", "one")
    both = physadv(tmp_path, *PATCH, *options, "--out", "two", processes=2)
    one, two = (
        read_tensors(tmp_path / run / "checkpoint.safetensors")[0] for run in ("one", "two")
    )
    for name in ("patch", "exp_avg"):
        gap = (one[name] - two[name]).norm() / one[name].norm()
        assert float(gap) < 1e-5
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    assert json.loads(both.stdout)["success"] == json.loads(alone.stdout)["success"]
    assert both.stderr.count("bundle: two") == 1


@pytest.mark.slow
def test_a_killed_patch_says_so_in_a_line_and_goes_on_alone(tmp_path: Path) -> None:
    """One of two is killed after a checkpoint; one process goes on from it to the patch of an
    undisturbed run, up to rounding."""
    options = ("--model", "signs", "--threads", "1", "--force", "--test-draws", "4")
    words = ("patch", "--draws", "2", "--resolution", "8", "--steps", "54", *options)
    kill_and_go_on(tmp_path, words)
    killed, whole = (
        read_tensors(tmp_path / run / "checkpoint.safetensors")[0]["patch"]
        for run in ("killed", "whole")
    )
    assert float((killed - whole).norm() / whole.norm()) < 1e-3


def test_other_commands_are_not_started_twice(place: Path) -> None:
    """A command that is not divided says so in one line and ends with exit code 1."""
    several = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "physadv", "patch", "verify", "stop-sticker"],
        cwd=place,
        env=environment() | several,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "physadv patch verify under torchrun: attack, evaluate, certify, " in done.stderr
    with pytest.MonkeyPatch.context() as patched:
        for name, value in several.items():
            patched.setenv(name, value)
        with pytest.raises(OptionError, match="physadv twin under torchrun"):
            refuse_several("twin")
        for words in (
            ("merge", "a", "b", "--out", "c"),
            ("report", "a"),
            ("compare", "a", "b"),
            ("runs",),
            ("doctor",),
            ("init", "patch"),
            ("models", "list"),
            ("patch", "list"),
            ("demo",),
            ("print", "a"),
            ("cloak", "check", "a", "--originals", "b", "--gallery", "c"),
            ("study", "all"),
        ):
            error = CliRunner().invoke(app, list(words)).exception
            assert "under torchrun" in str(error), words
