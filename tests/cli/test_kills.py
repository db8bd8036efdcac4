"""A command killed at any moment, and repeated, ends with the result of an undisturbed one.

``make kills`` kills PHYSADV_KILLS times (240 where it is not set) by the seed PHYSADV_SEED.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from forked import Faults, Finished, ForkServer, shared_server
from small_commands import (
    READING_COMMANDS,
    SMALL_COMMANDS,
    assert_same,
    result_of,
    write_inputs,
)

SIGNALS = (*[signal.SIGKILL] * 3, signal.SIGTERM, signal.SIGINT)
MOST_IN_A_ROW = 3


@dataclass
class KilledCommand:
    """A command, its undisturbed result, and how long that took in seconds."""

    name: str
    folder: Path
    server: ForkServer

    def __post_init__(self) -> None:
        command = SMALL_COMMANDS[self.name]
        self.out = self.folder / "runs" / command.out
        shutil.rmtree(self.out.parent, ignore_errors=True)
        done = self._run()
        assert done.code == 0, (self.name, done)
        self.seconds = done.seconds
        self.expected = result_of(self.out)
        shutil.rmtree(self.out.parent)

    def _run(self, kill: tuple[int, float] | None = None) -> Finished:
        command = SMALL_COMMANDS[self.name]
        command.set_up(self.folder, self.out)
        faults = Faults(code=command.code_for(self.out), kill=kill)
        return self.server.run(self.folder, *command.line(self.out), faults=faults)

    def kill(self, draw: random.Random) -> Counter[str]:
        """Kill the command up to three times at random moments, let it end, and compare; return
        how often it was killed, by signal."""
        counts: Counter[str] = Counter()
        story = []
        for _ in range(draw.randint(1, MOST_IN_A_ROW)):
            number, moment = draw.choice(SIGNALS), draw.uniform(0.02, self.seconds)
            done = self._run((number, moment))
            story.append(f"{number.name} at {moment:.3f} s: {done.code}")
            assert "Traceback" not in done.stderr, (self.name, story, done.stderr)
            if done.code in (-number, 130):
                counts[number.name] += 1

        last = self._run()
        assert last.code == 0, (self.name, story, last.stderr)
        try:
            assert_same(result_of(self.out), self.expected, SMALL_COMMANDS[self.name])
        except AssertionError as error:
            raise AssertionError(f"{self.name}, {story}: {error}") from None
        left = [path.name for path in self.out.parent.rglob(".physadv-writing-*")]
        assert left == [], (self.name, story)
        shutil.rmtree(self.out.parent)
        return counts


@pytest.fixture(scope="module")
def server() -> ForkServer:
    return shared_server()


def killed(name: str, folder: Path, server: ForkServer) -> KilledCommand:
    """The command ``name`` with inputs of its own."""
    (folder / "w").mkdir()
    write_inputs(folder / "w", name)
    return KilledCommand(name, folder / "w", server)


@pytest.mark.parametrize("name", ["attack", "print", "twin", "check", "cloak", "models fetch"])
def test_a_killed_command_ends_as_undisturbed(
    name: str, tmp_path: Path, server: ForkServer
) -> None:
    """A few kills of the quickest commands, the same in each run."""
    command, draw = killed(name, tmp_path, server), random.Random(name)
    for _ in range(2):
        command.kill(draw)


@pytest.mark.slow
@pytest.mark.parametrize("name", READING_COMMANDS)
def test_a_killed_command_that_only_prints_leaves_nothing(
    name: str, tmp_path: Path, server: ForkServer
) -> None:
    """Neither files nor half an answer."""
    write_inputs(tmp_path, name)
    command, draw = READING_COMMANDS[name], random.Random(name)
    words, before = (*command.words, "--json"), result_of(tmp_path)
    whole = server.run(tmp_path, *words, faults=Faults(code=command.code))
    assert whole.code == 0, whole.stderr
    answer = json.loads(whole.stdout)
    for _ in range(4):
        kill = draw.choice(SIGNALS), draw.uniform(0.02, whole.seconds)
        done = server.run(tmp_path, *words, faults=Faults(code=command.code, kill=kill))
        assert "Traceback" not in done.stderr
        # Numbers of two runs need not be alike, but an answer is there whole.
        assert done.stdout == "" or json.loads(done.stdout).keys() == answer.keys()
        assert result_of(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_COMMANDS)
@pytest.mark.timeout(3600)
def test_many_kills(
    name: str, tmp_path: Path, server: ForkServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command that writes, killed at random moments; the seed is printed."""
    seed = int(os.environ.get("PHYSADV_SEED", random.SystemRandom().randrange(10**6)))
    wanted = -(-int(os.environ.get("PHYSADV_KILLS", "240")) // len(SMALL_COMMANDS))
    command, draw = killed(name, tmp_path, server), random.Random(f"{seed} {name}")
    counts: Counter[str] = Counter()
    with capsys.disabled():
        print(f"\n{name}: {command.seconds:.2f} s, PHYSADV_SEED={seed}", flush=True)
        while counts.total() < wanted:
            counts += command.kill(draw)
        print(f"{name}: {dict(counts)}, each ended as undisturbed", flush=True)
