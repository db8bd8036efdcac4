"""Help pages, shell completion and ``python -m physadv``, as a terminal shows them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import ROOT, assert_taken_whole, environment, physadv
from test_configured import COMMANDS
from typer.testing import CliRunner

from physadv_cli.help_page import split_examples
from physadv_cli.main import PANELS, app

MODULE = [sys.executable, "-m", "physadv"]


def help_of(path: tuple[str, ...], columns: int) -> list[str]:
    """The lines of a command's help page in a terminal of that width."""
    done = CliRunner().invoke(app, [*path, "-h"], env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("path", [path for path, _ in COMMANDS], ids=" ".join)
def test_help_fits_the_terminal_and_lists_every_option(path: tuple[str, ...], columns: int) -> None:
    """No line is longer than the terminal, and no option is lost to a narrow column."""
    lines = help_of(path, columns)
    examples = next((i for i, line in enumerate(lines) if line.startswith("Example")), len(lines))
    assert max(map(len, lines[:examples])) <= columns

    names = [line.strip("│ ").split("  ")[0] for line in lines if line.startswith("│")]
    listed = set(re.findall(r"--[a-z][\w-]*", " ".join(names)))
    command = dict(COMMANDS)[path]
    expected = {p.opts[0] for p in command.params if p.param_type_name == "option" and not p.hidden}
    assert expected <= listed


@pytest.mark.parametrize("path", [path for path, _ in COMMANDS], ids=" ".join)
def test_examples_of_the_help_can_be_pasted(path: tuple[str, ...]) -> None:
    """An example that is broken over lines is one command to a shell, the one of the docstring."""
    _, examples = split_examples(dict(COMMANDS)[path].help)
    lines = help_of(path, 60)
    printed = "\n".join(lines[lines.index(next(i for i in lines if i.startswith("Example"))) + 1 :])
    commands = [c for c in re.split(r"(?<!\\)\n", printed) if c.strip()]
    assert [shlex.split(c.replace("\\\n", "")) for c in commands] == [
        shlex.split(e) for e in examples
    ]


EXAMPLES = [
    pytest.param(example, id=example[:70])
    for _, command in COMMANDS
    for example in split_examples(command.help or "")[1]
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_help_is_taken_whole(
    example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its options, its values and the configuration made of them are accepted."""
    assert_taken_whole(example, monkeypatch)


def test_commands_are_listed_in_the_order_of_the_journey() -> None:
    """The root's help has the panels and commands of PANELS, in order, before its options."""
    lines = help_of((), 100)
    titles = [t[1] for line in lines if (t := re.match(r"╭─ (.*?) ─", line))]
    assert titles == [*PANELS, "Options"]
    entries = [e[1] for line in lines if (e := re.match(r"│ ([a-z]+) ", line))]
    assert entries == [name for names in PANELS.values() for name in names]


def test_brackets_of_a_help_text_are_printed() -> None:
    """[PORT] and [default: ...] are text, not markup."""
    page = "\n".join(help_of(("check",), 200))
    assert "--serve [PORT]" in page
    if "65535" in page:  # older versions of typer show no range
        assert re.search(r"\[0( to |<=x<=)65535\]", page)
    assert "[default: 0.3]" in page


def shell_completion(words: str, folder: Path) -> list[str]:
    """What bash is given for the words typed so far."""
    request = {
        "_PHYSADV_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(
        MODULE, cwd=folder, env={**environment(), **request}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_completion_installs_and_completes(tmp_path: Path) -> None:
    """--install-completion writes bash's script, which then completes commands and options."""
    home = {**environment(), "HOME": str(tmp_path), "SHELL": "/bin/bash"}
    home["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    done = subprocess.run(
        [*MODULE, "--install-completion", "bash"], env=home, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    script = next((tmp_path / ".bash_completions").iterdir())
    assert "complete -o default -F _physadv_completion physadv" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()

    shown = subprocess.run(
        [*MODULE, "--show-completion", "bash"], env=home, capture_output=True, text=True
    )
    assert "_PHYSADV_COMPLETE" in shown.stdout

    assert shell_completion("physadv che", tmp_path) == ["check"]
    assert shell_completion("physadv calibrate ", tmp_path) == ["chart", "fit", "camera"]
    assert shell_completion("physadv check --locate f", tmp_path) == [
        "fiducials",
        "features",
        "frame",
    ]
    assert "stop-sticker-signs-v1" in shell_completion("physadv print st", tmp_path)
    assert shell_completion("physadv check --camera-", tmp_path) == [
        "--camera-profile",
        "--camera-size",
    ]


def test_python_m_physadv_works_from_any_folder(tmp_path: Path) -> None:
    """In a folder of the user's: version, help, and exit codes of wrong use and of an error."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MODULE, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    assert run("--version").stdout.startswith("physadv ")
    assert "Usage: physadv check [OPTIONS] SOURCE\n" in run("check", "-h").stdout
    assert run("chek").returncode == 2
    assert run("print", "nowhere").returncode == 1
    assert not list(tmp_path.iterdir())


def test_threads_that_no_machine_has_are_refused(tmp_path: Path) -> None:
    """A million threads would be started one by one."""
    result = physadv(tmp_path, "evaluate", "--threads", "1000000")
    assert result.returncode == 2
    assert "1024" in result.stderr
