"""No module writes files but by :mod:`physadv.core.files`, :mod:`physadv.core.rows` and
:mod:`physadv.core.run_folder`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYER = {"physadv/core/files.py", "physadv/core/rows.py", "physadv/core/run_folder.py"}
WRITING_METHODS = {
    *("write_text", "write_bytes", "touch", "rename", "replace_file", "symlink_to", "hardlink_to"),
    *("savefig", "to_csv", "to_json", "to_parquet", "tofile", "imwrite", "save_file", "savez"),
    *("savez_compressed", "savetxt", "VideoWriter", "NamedTemporaryFile", "mkstemp", "mkdtemp"),
    *("TemporaryDirectory", "copyfile", "copy2", "copytree", "copyfileobj", "extractall"),
    *("truncate", "makedirs", "rmtree", "unlink"),
}
"""Calls that write files, or make their names, whatever they belong to."""
ALLOWED = {
    ("physadv/twin/recording.py", "VideoWriter"): "inside atomic_path; its length is checked",
    (
        "physadv/evaluation/merge_runs.py",
        "rmtree",
    ): "removes processes' rows, joined, in a run's own folder",
    ("physadv/demo.py", "rmtree"): "removes the check of an earlier run in its own folder",
    ("cli/physadv_cli/runs.py", "fdopen"): "the process's own stdout",
    ("physadv/check/check_patch.py", "TemporaryDirectory"): "a check that keeps nothing",
    ("physadv/privacy/cloak_page.py", "TemporaryDirectory"): "copies that go with the page",
    ("physadv/report/patch_film.py", "TemporaryDirectory"): "clips of which a film is made",
    (
        "physadv/models/black_box_connections.py",
        "TemporaryDirectory",
    ): "pictures for a command to read",
    ("physadv/models/black_box_connections.py", "write_bytes"): "the same, kept by nobody",
    ("physadv/core/utf8_paths.py", "TemporaryDirectory"): "a link for a library, and no file",
    ("physadv/core/utf8_paths.py", "symlink_to"): "the same",
    (
        "cli/physadv_cli/commands/ui_command.py",
        "TemporaryDirectory",
    ): "the way in that the browser is shown; goes with the page",
}
OF_THE_SYSTEM = {"replace", "rename", "link", "symlink", "mkfifo", "write", "unlink", "fdopen"}
"""Functions of ``os`` that write, or change what a folder holds."""
OWN_FUNCTIONS = {"write_text", "write_bytes"}
"""Names that the layer exports: called as functions they are the layer, as methods they are not."""
BUFFERS = {"buffer", "whole", "copy", "archive", "stream", "out"}
"""Names of streams in memory that libraries save into."""


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    """All calls of a module."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def opens_to_write(call: ast.Call) -> bool:
    """Whether one of a call's words is a mode that writes, or a mode that is not written out."""
    words = [*call.args, *(k.value for k in call.keywords if k.arg == "mode")]
    return any(
        (isinstance(w, ast.Constant) and bool(re.fullmatch(r"[rbt]*[wax+][wax+bt]*", str(w.value))))
        or (isinstance(w, ast.Name) and w.id == "mode")
        for w in words
    )


def writes(call: ast.Call) -> str:
    """The name under which a call writes a file; empty where it does not."""
    if isinstance(call.func, ast.Name):
        name, owner = call.func.id, ""
    elif isinstance(call.func, ast.Attribute):
        name, owner = call.func.attr, ast.unparse(call.func.value)
    else:
        return ""
    to_memory = any(ast.unparse(word) in BUFFERS for word in call.args)

    if name in ("open", "ZipFile"):
        return name if opens_to_write(call) and not to_memory else ""
    if name == "save" and owner:
        is_own = owner in ("self", "session.examples", "example")
        return name if call.args and not to_memory and not is_own else ""
    if owner == "os":
        return name if name in OF_THE_SYSTEM else ""
    if name == "move":
        return name if owner == "shutil" else ""
    known = WRITING_METHODS if owner else WRITING_METHODS - OWN_FUNCTIONS
    return name if name in known and owner != "self" and not to_memory else ""


MODULES = sorted(
    path
    for folder in (ROOT / "physadv", ROOT / "cli")
    for path in folder.rglob("*.py")
    if path.relative_to(ROOT).as_posix() not in LAYER
)


def test_every_write_goes_through_the_layer() -> None:
    """Over all modules; what is allowed beside is listed above with its reason, and is in use."""
    found = {
        (path.relative_to(ROOT).as_posix(), name, call.lineno)
        for path in MODULES
        for call in calls(ast.parse(path.read_text(encoding="utf-8")))
        if (name := writes(call))
    }
    assert sorted(f for f in found if f[:2] not in ALLOWED) == []
    assert ALLOWED.keys() == {f[:2] for f in found}


@pytest.mark.parametrize(
    "line",
    [
        "open(p, 'w')",
        "open(p, mode='ab')",
        "p.open('wb')",
        "p.open(mode)",
        "p.write_text('x')",
        "Path(p).write_bytes(b'x')",
        "image.save(p)",
        "torch.save(x, p)",
        "np.savez(p, x=x)",
        "zipfile.ZipFile(p, 'w')",
        "os.replace(a, b)",
        "cv2.imwrite(p, x)",
        "av.open(p, 'w')",
        "shutil.copyfile(a, b)",
        "pdf.save(temporary)",
        "safetensors.torch.save_file(x, p)",
    ],
)
def test_the_test_sees_a_direct_write(line: str) -> None:
    """Each usual way to write a file is recognized."""
    assert any(writes(call) for call in calls(ast.parse(line)))


@pytest.mark.parametrize(
    "line", ["open(p)", "p.open('rb')", "write_text(p, 'x')", "x.save(buffer)"]
)
def test_the_test_lets_others_pass(line: str) -> None:
    """Reading, the layer's own functions and buffers in memory are no direct writes."""
    assert not any(writes(call) for call in calls(ast.parse(line)))
