"""``make bench`` knows every script of benchmarks/, and its quick form runs cheap ones whole."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("bench_script", ROOT / "scripts" / "bench.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_script_of_benchmarks_is_in_the_list(bench: ModuleType) -> None:
    """A script that nobody put into the list fails here, and so does one that is gone."""
    assert bench.missing_scripts() == []
    for name, benchmark in bench.BENCHMARKS.items():
        assert benchmark.full or benchmark.needs, name
        assert not (benchmark.full and benchmark.needs), name


def test_no_argument_of_the_list_is_unknown_to_its_script(bench: ModuleType) -> None:
    """Every option that the list gives to a script stands in its source."""
    for name, benchmark in bench.BENCHMARKS.items():
        source = (ROOT / "benchmarks" / name).read_text(encoding="utf-8")
        for line in (*benchmark.full, *benchmark.quick):
            assert not any("{" in word and "}" not in word for word in line.split()), (name, line)
            for word in line.split():
                if word.startswith("-"):
                    assert f'"{word}"' in source, (name, word)


def test_quick_mode_runs_two_scripts_and_writes_one_page(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both run as subprocesses; the page holds machine, date, results and their tables."""
    scripts = ["epsilon_ball.py", "patch_proofs.py"]
    code = bench.main(["--quick", "--only", *scripts, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert code == 0, page
    assert "epsilon_ball.py: ran" in printed
    for words in (
        "| Date |",
        "| GPU |",
        "| epsilon_ball.py | ran |",
        "torchattacks",
        "A quick run",
    ):
        assert words in page


def test_what_fails_or_cannot_run_is_told(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing script gives exit code 1 and its own words; one without data or a quick form is
    named with the reason."""
    wrong = bench.Benchmark(quick=("--no-such-option",))
    monkeypatch.setitem(bench.BENCHMARKS, "attack_gate.py", wrong)
    asked = ["attack_gate.py", "certify_smoothing.py", "journey.py"]
    code = bench.main(
        ["--quick", "--only", *asked, "--out", str(tmp_path), "--shared", str(tmp_path / "none")]
    )
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert code == 1
    assert "| attack_gate.py | failed (2) |" in page
    assert "unrecognized arguments" in page
    assert "| certify_smoothing.py | not run: the folder of real data is not there |" in page
    assert "| journey.py | not run: has no quick form |" in page


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.name)
def test_no_script_reads_an_option_that_it_does_not_have(path: Path) -> None:
    """What a script reads of its parsed arguments is an argument that it declares."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    declared, parsed = set(), set()
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            names = [str(a.value) for a in call.args if isinstance(a, ast.Constant)]
            long = [name for name in names if name.startswith("--")] or names
            dest = [k.value for k in call.keywords if k.arg == "dest"]
            chosen = str(dest[0].value) if dest and isinstance(dest[0], ast.Constant) else long[0]
            declared.add(chosen.lstrip("-").replace("-", "_"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            function = node.value.func
            if isinstance(function, ast.Attribute) and function.attr == "parse_args":
                parsed |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in parsed
    }
    assert read <= declared, sorted(read - declared)
