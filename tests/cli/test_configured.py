"""All commands: one option means one thing; help is complete; a recorded run can be repeated."""

from __future__ import annotations

import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import typer.main
from commandline import physadv
from typer.testing import CliRunner

from physadv.core.config import _is_required
from physadv_cli.commands.init_command import _configured
from physadv_cli.main import app


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that runs something, with the words that lead to it."""
    own = getattr(command, "commands", None)
    if own is None:
        yield path, command
        return
    if path and command.callback is not None and command.invoke_without_command:
        yield path, command
    for name, sub in own.items():
        yield from leaves(sub, (*path, name) if not name.startswith(":") else path)


COMMANDS = list(leaves(typer.main.get_command(app)))


def meaning(param: Any) -> str:
    """What the help tells of an option, apart from its default and panel."""
    return f"{param.help} {param.metavar} flag={param.is_flag}"


def test_an_option_means_one_thing_in_all_commands() -> None:
    """The same name has the same help and takes the same kind of value wherever it stands."""
    meanings: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path, command in COMMANDS:
        for param in command.params:
            if param.param_type_name == "option" and not param.hidden:
                meanings[param.opts[0]][meaning(param)].append(" ".join(path))
    wrong = {name: dict(uses) for name, uses in meanings.items() if len(uses) > 1}
    assert not wrong, json.dumps(wrong, indent=1)


@pytest.mark.parametrize("path", [path for path, _ in COMMANDS], ids=" ".join)
def test_every_command_has_clean_help(path: tuple[str, ...]) -> None:
    """-h works, the usage line names the command, and flags take no <bool>."""
    for width in ("80", "100"):
        done = CliRunner().invoke(app, [*path, "-h"], env={"COLUMNS": width}, prog_name="physadv")
        assert done.exit_code == 0, done.output
        usage = next(line for line in done.output.splitlines() if "Usage:" in line)
        assert f"Usage: physadv {' '.join(path)} " in usage
        assert "<bool>" not in done.output
        assert "BOOLEAN" not in done.output
        assert ":default" not in done.output
        assert "ictim" not in done.output


def test_every_activity_takes_a_config_file() -> None:
    """All commands are made of a configuration but those that only inform."""
    informing = {(name,) for name in ("ui", "init", "report", "merge", "runs", "compare", "doctor")}
    informing |= {("patch", "show"), ("patch", "list"), ("patch", "preview")}
    informing |= {path for path, _ in COMMANDS if path[0] == "models"} - {("models", "check")}
    made = {path for path, command in COMMANDS if any("--config" in p.opts for p in command.params)}
    assert {path for path, _ in COMMANDS} - made == informing


def test_help_needs_no_torch(tmp_path: Path) -> None:
    """``physadv --help`` and completion answer before anything heavy is imported."""
    import subprocess
    import sys

    code = (
        "import sys; from typer.testing import CliRunner; from physadv_cli.main import app;"
        "CliRunner().invoke(app, ['patch', '-h']); CliRunner().invoke(app, ['-h']);"
        "sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("physadv cloak ch", {"check"}),
        ("physadv patch v", {"verify", "visibility"}),
        ("physadv patch --test-d", {"--test-draws"}),
        ("physadv evaluate --threat", {"--threat"}),
    ],
)
def test_shells_complete_commands_that_are_groups(typed: str, offered: set[str]) -> None:
    """``patch`` and ``cloak`` run and hold commands: both are offered."""
    from typer.main import get_command

    context = get_command(app).make_context("physadv", [], resilient_parsing=True)
    command: Any = context.command
    *words, incomplete = typed.split()[1:]
    for word in words:
        command = command.commands[word]
        context = command.make_context(word, [], parent=context, resilient_parsing=True)
    assert {item.value for item in command.shell_complete(context, incomplete)} == offered


def test_python_m_physadv_is_the_command(tmp_path: Path) -> None:
    """The module runs the same program as the script."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "physadv", "--version"], capture_output=True, text=True
    )
    assert done.stdout.startswith("physadv ")


MODEL = """
import torch

class Brightness(torch.nn.Module):
    def forward(self, x):
        return 20 * x.mean((2, 3))[:, [2, 1, 0]]

def make():
    return Brightness()
"""


@pytest.fixture
def colors(tmp_path: Path) -> Path:
    """A folder with a model and class folders of small images."""
    from commandline import write_colors

    (tmp_path / "colors.py").write_text(MODEL)
    write_colors(tmp_path / "data", count=4, side=16, values=(90, 160), lead=2)
    return tmp_path


def rates(stdout: str) -> dict[str, Any]:
    """The part of a result that must not depend on when and where it ran."""
    result = json.loads(stdout)
    return {
        k: v for k, v in result.items() if k not in {"seconds", "attack_seconds", "out", "report"}
    }


ROBUST = ("--norm", "linf", "--eps", "4/255")
SMOOTH = ("--norm", "l2", "--eps", "0.05", "--sigma", "0.1", "--n", "300", "--n0", "20")


@pytest.mark.parametrize(
    ("command", "options", "threat"),
    [
        ("attack", ROBUST, "linf:4/255"),
        ("evaluate", ROBUST, "linf:4/255"),
        ("certify", SMOOTH, "l2:0.05"),
    ],
)
def test_a_run_is_repeated_from_its_config(
    colors: Path, command: str, options: tuple[str, ...], threat: str
) -> None:
    """--config with the recorded file gives the same result; an option overrules the file. A model
    that is code is named again, for no file runs code."""
    options = ("--victim", "colors:make", "--data", "data", *options)
    first = physadv(colors, command, *options, "--limit", "7", "--out", "run", "--json")
    assert first.returncode == 0, first.stderr
    recorded = tomllib.loads((colors / "run" / "config.toml").read_text())
    assert recorded["model"] == "colors:make"
    assert recorded["threat"] == threat

    repeated = (command, "--config", "run/config.toml", "--model", "colors:make")
    again = physadv(colors, *repeated, "--out", "again", "--json")
    assert again.returncode == 0, again.stderr
    assert rates(again.stdout) == rates(first.stdout)
    assert tomllib.loads((colors / "again" / "config.toml").read_text()) == recorded

    fewer = physadv(colors, *repeated, "--limit", "3", "--json")
    assert json.loads(fewer.stdout)["images"] == 3

    refused = physadv(colors, command, *options, "--limit", "3", "--out", "run")
    assert refused.returncode == 1
    assert "Name another --out" in refused.stderr
    assert tomllib.loads((colors / "run" / "config.toml").read_text()) == recorded


def test_a_wrong_config_file_is_one_line(colors: Path) -> None:
    """An unknown key, another command's file and a missing required option say what to do."""
    (colors / "typo.toml").write_text('modle = "signs"\n')
    done = physadv(colors, "evaluate", "--config", "typo.toml")
    assert done.returncode == 1
    assert "id you mean 'model'?" in done.stderr
    assert len(done.stderr.splitlines()) == 1

    (colors / "other.toml").write_text('command = "attack"\nmodel = "signs"\n')
    done = physadv(colors, "evaluate", "--config", "other.toml")
    assert done.returncode == 1
    assert "physadv attack --config" in done.stderr

    (colors / "some.toml").write_text('model = "signs"\n')
    done = physadv(colors, "evaluate", "--config", "some.toml")
    assert done.returncode == 2
    assert "--data" in done.stderr


def test_verbose_prints_the_traceback(colors: Path) -> None:
    """--verbose adds the traceback of a known error and of a fault of the disk; the line stays
    last."""
    (colors / "file").write_text("")
    options = ("--model", "colors:make", "--threat", "linf:4/255", "--verbose")
    for words in (("--data", "nowhere"), ("--data", "data", "--out", "file/run")):
        done = physadv(colors, "evaluate", *options, *words)
        assert done.returncode == 1
        assert "Traceback (most recent call last)" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("physadv: ")


def test_quiet_prints_nothing_and_plain_lines_stand_for_a_bar(colors: Path) -> None:
    """Without a terminal progress is text on stderr; --quiet leaves stderr empty."""
    options = ("--model", "colors:make", "--data", "data", "--threat", "linf:4/255")
    loud = physadv(colors, "attack", *options, "--out", "a")
    assert "attacking 12/12" in loud.stderr
    quiet = physadv(colors, "attack", *options, "--out", "b", "--quiet", "--json")
    assert quiet.stderr == ""
    assert json.loads(quiet.stdout)["images"] == 12


def test_a_patch_is_repeated_from_its_config_and_not_replaced_by_another(tmp_path: Path) -> None:
    """--config with the recorded file gives the same pixels; another configuration leaves the
    finished bundle alone unless --overwrite is given."""
    small = ("--steps", "2", "--draws", "2", "--test-draws", "4", "--resolution", "8", "--json")
    first = physadv(
        tmp_path, "patch", *small, "--size", "150x100", "--center", "0,90", "--out", "a"
    )
    assert first.returncode == 0, first.stderr
    recorded = tomllib.loads((tmp_path / "a" / "config.toml").read_text())
    assert recorded["size_mm"] == [150.0, 100.0]
    assert recorded["device"] == "auto"

    again = physadv(tmp_path, "patch", "--config", "a/config.toml", "--out", "b", "--json")
    assert again.returncode == 0, again.stderr
    pixels = (tmp_path / "a" / "patch.png").read_bytes()
    assert (tmp_path / "b" / "patch.png").read_bytes() == pixels
    assert tomllib.loads((tmp_path / "b" / "config.toml").read_text()) == recorded

    other = physadv(tmp_path, "patch", *small, "--out", "a")
    assert other.returncode == 1
    assert "width_mm" in other.stderr
    assert "--overwrite" in other.stderr
    assert len(other.stderr.splitlines()) == 1
    assert (tmp_path / "a" / "patch.png").read_bytes() == pixels
    assert tomllib.loads((tmp_path / "a" / "config.toml").read_text()) == recorded

    forced = physadv(tmp_path, "patch", *small, "--out", "a", "--overwrite")
    assert forced.returncode == 0, forced.stderr
    assert (tmp_path / "a" / "patch.png").read_bytes() != pixels


CONFIGURED = {" ".join(path): kind for path, kind in _configured(typer.main.get_command(app))}


@pytest.mark.parametrize("words", CONFIGURED)
def test_a_commented_file_holds_every_setting(words: str, tmp_path: Path) -> None:
    """As written, with what is needed filled in, it changes nothing; uncommented, it states the
    defaults; and it names every setting with its help."""
    kind = CONFIGURED[words]
    text = kind.commented_toml()
    file = tmp_path / "settings.toml"
    needed = [field.name for field in fields(kind) if _is_required(field)]
    file.write_text("\n".join(line for line in text.splitlines() if "<" not in line))
    assert kind.read_toml(file) == {}

    written = re.findall(r"^(?:# )?(\w+) =", text, re.M)
    assert sorted(written) == sorted(["command", *(field.name for field in fields(kind))])
    assert set(re.findall(r"^(\w+) =", text, re.M)) == {"command", *needed}
    defaults = [line[2:] for line in text.splitlines() if re.match(r"# \w+ = ?\S", line)]
    file.write_text("\n".join(defaults))
    for name, value in kind.read_toml(file).items():
        field = next(field for field in fields(kind) if field.name == name)
        default = field.default_factory() if field.default is MISSING else field.default
        assert value == default, name


def test_init_writes_a_file_that_the_command_takes(tmp_path: Path) -> None:
    """The file is not replaced unasked, and a placeholder left in it is an error of the command."""
    assert physadv(tmp_path, "init", "evaluate").returncode == 0
    again = physadv(tmp_path, "init", "evaluate")
    assert again.returncode == 1
    assert "stands there already" in again.stderr
    assert physadv(tmp_path, "init", "patch", "transfer", "--out", "t.toml").returncode == 0
    unknown = physadv(tmp_path, "init", "nothing")
    assert unknown.returncode == 1
    assert "one of demo, print" in unknown.stderr
    left = physadv(tmp_path, "evaluate", "--config", "evaluate.toml")
    assert left.returncode == 1
    assert left.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ['a\nmodel = "evil:make"\n#.toml', "b\x1b[31m.toml", "c\x7f.toml"])
def test_the_name_of_a_settings_file_is_no_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The file repeats its name in a comment, which a new line would end and TOML not take."""
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["init", "print", "--out", name]).exit_code == 0
    assert set(tomllib.loads(Path(name).read_text(encoding="utf-8"))) <= {"command", "bundle"}
