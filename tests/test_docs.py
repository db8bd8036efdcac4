"""What README and docs tell people to type exists: every command, option and linked file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from physadv_cli.main import OTHER_SPELLINGS, app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]


JOBS = sorted((ROOT / "examples" / "ci").iterdir())


def job_commands(file: Path) -> Iterator[str]:
    """Every command of this program in a job of a CI service."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if found := re.search(r"\b(physadv [a-z][^\"\n]*)", line):
            yield found[1]


def commands(page: Path) -> Iterator[str]:
    """Every line of a fenced block that starts with ``physadv``, continued lines joined, comments
    cut."""
    for block in re.findall(
        r"```(?:sh|bash|console|text)?\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
    ):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(";"):
                if part.strip().removeprefix("$ ").startswith("physadv "):
                    yield part.strip().removeprefix("$ ")


CASES = [
    pytest.param(page, line, id=f"{page.name}: {line[:60]}")
    for page in PAGES
    for line in commands(page)
] + [
    pytest.param(file, line, id=f"{file.name}: {line[:60]}")
    for file in JOBS
    for line in job_commands(file)
]


def spelling(option: str) -> str:
    """An option as the help spells it."""
    name = option.removeprefix("--")
    return f"--{OTHER_SPELLINGS.get(name, name)}" if option.startswith("--") else option


def test_files_that_are_named_are_there() -> None:
    """Every page, script and table of the repository that code or docs name by its path exists."""
    named = re.compile(
        r"(?<![\w/.-])(?:benchmarks|docs|scripts)/[\w/.-]+\.(?:md|py|jsonl?|csv|sh)\b"
    )
    sources = [
        *PAGES,
        *(
            p
            for room in ("physadv", "cli", "tests", "benchmarks")
            for p in ROOT.glob(f"{room}/**/*.py")
        ),
    ]
    lost = {
        f"{page.relative_to(ROOT)}: {name}"
        for page in sources
        for name in named.findall(page.read_text(encoding="utf-8"))
        if not (ROOT / name).is_file()
    }
    assert not lost


@pytest.mark.parametrize(("page", "line"), CASES)
def test_what_a_page_says_can_be_typed(page: Path, line: str) -> None:
    """The sub-command is known and has each of the options."""
    words = shlex.split(line, comments=True)[1:]
    root: Any = typer.main.get_command(app)
    command = root
    while words and getattr(command, "commands", {}).get(words[0]) is not None:
        command = command.commands[words.pop(0)]
    assert command is not root, f"{page.name}: no such command: {line}"
    command = getattr(
        command, "default_command", command
    )  # `cloak PHOTOS`: a group that is a command as well
    known = {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    wanted = {spelling(word.split("=")[0]) for word in words if re.match(r"--?[a-z]", word)}
    assert wanted <= known | {"--help", "--version"}, (
        f"{page.name}: {sorted(wanted - known)} in: {line}"
    )


def test_a_job_judges_and_keeps_what_the_gate_writes() -> None:
    """The example for each CI service runs one command with a requirement, and names the files that
    it writes for that service."""
    assert [file.name for file in JOBS] == ["Jenkinsfile", "github.yml", "gitlab-ci.yml"]
    for file in JOBS:
        (line,) = job_commands(file)
        assert "--require 'robust >= 0.5'" in line
        text = file.read_text(encoding="utf-8")
        assert ("requirements.sarif" if file.name == "github.yml" else "requirements.xml") in text


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_the_pages_exist(page: Path) -> None:
    """Every relative link points at a file or folder of the project."""
    for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_no_help_text_is_taken_for_markup() -> None:
    """The help is set by rich, which swallows words in square brackets: defaults are told in round
    ones."""
    for file in sorted((ROOT / "cli").rglob("*.py")):
        assert not re.search(r'help="[^"]*\[[a-z]', file.read_text(encoding="utf-8")), file.name
