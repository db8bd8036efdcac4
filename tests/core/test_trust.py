"""Code runs where the user names it, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physadv.core.errors import ModelError
from physadv.core.trust import KINDS, assert_may_run, only_code_named


@pytest.mark.parametrize("kind", KINDS)
def test_python_may_run_what_it_names(kind: str) -> None:
    """Outside the command line the caller has named it."""
    assert_may_run("my_models:make", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_runs_that_no_option_names(kind: str) -> None:
    """The rule of the command line before any option is read allows no code."""
    with only_code_named(), pytest.raises(ModelError, match="--model evil:make"):
        assert_may_run("evil:make", kind)
    assert_may_run("evil:make", kind)


@pytest.mark.parametrize(
    "typed",
    [
        "own:make",
        "own:make+jpeg",
        "own:make+jpeg+median:size5",
        "own:make=w.pth",
        "net.toml=own:make",
    ],
)
def test_a_typed_name_may_run_in_every_form(typed: str) -> None:
    """Behind defenses, with weights, and as the net of a descriptor."""
    with only_code_named([typed]):
        assert_may_run("own:make", "module")


@pytest.mark.parametrize("typed", ["./net.ts", "a/../net.ts", "net.ts+jpeg"])
def test_a_file_is_the_same_in_every_spelling(typed: str) -> None:
    """A path that was typed with a dot names the file without."""
    with only_code_named([typed]):
        assert_may_run(str(Path("net.ts")), "torchscript")


@given(st.text(max_size=12), st.text(max_size=12))
def test_another_name_never_passes(typed: str, named: str) -> None:
    """Only a part of what was typed may run."""
    if named in typed:
        return
    with only_code_named([typed]):
        try:
            assert_may_run(named, "module")
        except ModelError:
            return
    # normpath makes one spelling of several names of a file
    assert Path(named) == Path() or not named or "/" in named or named.startswith(".")


def test_the_error_names_the_file_that_asked() -> None:
    """A name from a file of options is refused with that file's name."""
    with (
        only_code_named(in_files={"evil:make+jpeg": "exp.toml"}),
        pytest.raises(ModelError, match=r'"exp.toml" names it.*--model evil:make'),
    ):
        assert_may_run("evil:make", "module")


def test_code_is_announced_once() -> None:
    """One line for each name, however often it is loaded."""
    lines: list[str] = []
    with only_code_named(["a:make", "net.ts"], announce=lines.append):
        for _ in range(3):
            assert_may_run("a:make", "module")
            assert_may_run("net.ts", "torchscript")
    assert len(lines) == 2
    assert "Python code" in lines[0]
    assert "read and write files" in lines[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_environment_forbids_all(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """PHYSADV_TRUST=never forbids from Python and on the command line; other values are refused."""
    monkeypatch.setenv("PHYSADV_TRUST", "never")
    with pytest.raises(ModelError, match="never forbids"):
        assert_may_run("own:make", kind)
    with only_code_named(["own:make"]), pytest.raises(ModelError, match="never forbids"):
        assert_may_run("own:make", kind)
    monkeypatch.setenv("PHYSADV_TRUST", "nevr")
    with pytest.raises(ModelError, match="never or unset"):
        assert_may_run("own:make", kind)
