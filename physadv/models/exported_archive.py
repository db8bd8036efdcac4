"""Vetting of ``torch.export`` archives before torch opens them.

``torch.export.load`` unpickles members without restrictions, evaluates symbolic shapes, compiles
guards, and looks graph targets up by attribute from ``torch``: each runs code that the author of a
file chose. Here every member is read first, by an allowlist, and torch is given a new archive in
memory that holds nothing else.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physadv.core.errors import ModelError

_MAX_BYTES = 1 << 34
_PLAIN = frozenset(
    {"archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id"}
)
_TABLE = re.compile(r"data/(?:weights|constants)/[\w.-]+_(?:weights|constants)_config\.json")
_MODEL = re.compile(r"models/[\w.-]+\.json")
_NUMBERS = re.compile(r"data/(?:weights/weight|constants/tensor)_\d+")
_PICKLE = re.compile(r"data/(?:sample_inputs|weights|constants)/[\w.-]+\.pt")
_OPERATIONS = re.compile(
    r"torch\.ops\.(?:aten|torchvision)\.(?!_*from_file)"
    r"(?:[a-z]\w*|_[a-z]\w*|__(?:and|or|xor|lshift|rshift)__)(?:\.[A-Za-z]\w*)?"
    r"|torch\.ops\.higher_order\.wrap_with_(?:set_grad_enabled|autocast)"
    r"|_operator\.(?:getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|eq|ne|lt|le|gt|ge"
    r"|and_|or_|not_)"
    r"|math\.[a-z]\w*|torch\.sym_[a-z]+|torch\._sym_[a-z]+"
)
_SYMBOLIC = frozenset(
    [
        "Symbol",
        "Integer",
        "Rational",
        "Float",
        "Max",
        "Min",
        "Mod",
        "PythonMod",
        "FloorDiv",
        "CleanDiv",
        "ModularIndexing",
        "Where",
        "CeilToInt",
        "FloorToInt",
        "RoundToInt",
        "TruncToInt",
        "ToFloat",
        "IntTrueDiv",
        "FloatTrueDiv",
        "PowByNatural",
        "Pow",
        "FloatPow",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "And",
        "Or",
        "Not",
        "ceiling",
        "floor",
        "int_oo",
        "oo",
        "true",
        "false",
    ]
)
_SYMBOL = re.compile(r"[a-z]+\d+")


def vetted_archive(path: Path) -> io.BytesIO:
    """Return a copy in memory of the ``torch.export`` archive ``path`` that runs no code.

    Raises:
        ModelError: The file is not such an archive, or a member is a pickle of more than tensors,
            an object, a library, an operation outside torch's own, or code in a symbolic shape.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [member.filename for member in archive.infolist() if not member.is_dir()]
            members = _relative(path, archive, names)
            pickled = _pickled_numbers(path, members)
            for name, content in members.items():
                _vet(path, name, content, pickled=name in pickled)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise ModelError(f"{path}", f"Not readable as an archive ({reason})", _ANEW) from error

    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", _without_guards(name, content))
    copy.seek(0)
    return copy


def _relative(path: Path, archive: zipfile.ZipFile, names: list[str]) -> dict[str, bytes]:
    """The members' contents by their names below the archive's one root folder."""
    roots = {name.partition("/")[0] for name in names}
    if len(roots) != 1 or len(set(names)) < len(names):
        raise _refusal(path, "Its members do not lie in one folder, each once")
    if sum(member.file_size for member in archive.infolist()) > _MAX_BYTES:
        raise _refusal(path, f"Its members hold more than {_MAX_BYTES >> 30} GiB")
    return {name.partition("/")[2]: archive.read(name) for name in names}


def _pickled_numbers(path: Path, members: Mapping[str, bytes]) -> frozenset[str]:
    """The members that the archive's own tables call pickles.

    Raises ModelError where a table names anything but a member of numbers in its own folder.
    """
    pickled = set[str]()
    for name, content in members.items():
        if not _TABLE.fullmatch(name):
            continue
        for entry in json.loads(content)["config"].values():
            member = f"{name.rpartition('/')[0]}/{entry['path_name']}"
            if not _NUMBERS.fullmatch(member):
                raise _refusal(path, f"{name} names {entry['path_name']!r}, which is no tensor")
            if entry.get("use_pickle") is not False:
                pickled.add(member)
    return frozenset(pickled)


def _vet(path: Path, name: str, content: bytes, *, pickled: bool) -> None:
    """Raise ModelError unless the member ``name`` is a table, numbers, or a pickle of tensors."""
    if _MODEL.fullmatch(name):
        _vet_program(path, name, json.loads(content))
    elif pickled or _PICKLE.fullmatch(name):
        try:
            value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever it met
            raise _refusal(path, f"{name} is a pickle of more than plain tensors") from error
        if pickled and not isinstance(value, Tensor):
            raise _refusal(path, f"{name} holds a {type(value).__name__} in place of a tensor")
    elif not (name in _PLAIN or _TABLE.fullmatch(name) or _NUMBERS.fullmatch(name)):
        raise _refusal(path, f"{name} is neither a graph nor a tensor")


def _vet_program(path: Path, name: str, program: Any) -> None:
    """Raise ModelError where the graph calls, or a shape computes, more than arithmetic."""
    for key, text in _strings(program):
        if key in ("target", "as_operator") and not _OPERATIONS.fullmatch(text):
            raise _refusal(path, f"{name} calls {text!r}, which is none of torch's operations")
        if key == "expr_str" and not _is_arithmetic(text):
            raise _refusal(path, f"{name} has a size {text[:60]!r} that is no arithmetic")
        if "default_factory" in text:  # a defaultdict's factory is imported by its name
            raise _refusal(path, f"{name} takes or returns a mapping that names a function")


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON value with the key it stands under."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _strings(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, str):
        yield key, value


def _is_arithmetic(text: str) -> bool:
    """Whether a symbolic size consists of numbers, symbols and known functions of them.

    torch hands such a text to sympy, which evaluates it as Python.
    """
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return all(_is_sound(node, called) for node in ast.walk(tree))


def _is_sound(node: ast.AST, called: set[int]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in _SYMBOLIC or (id(node) not in called and bool(_SYMBOL.fullmatch(node.id)))
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name)
    if isinstance(node, ast.Constant):
        is_symbol = isinstance(node.value, str) and bool(_SYMBOL.fullmatch(node.value))
        return is_symbol or isinstance(node.value, bool | int | float)
    arithmetic = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.keyword)
    kinds = (ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.expr_context)
    return isinstance(node, arithmetic + kinds)


def _without_guards(name: str, content: bytes) -> bytes:
    """A program without the guards on its input's size: torch compiles them as Python."""
    if not _MODEL.fullmatch(name):
        return content
    program = json.loads(content)
    if program.get("guards_code"):
        program["guards_code"] = []
    return json.dumps(program).encode()


_ANEW = "Export it anew with this version of torch"


def _refusal(path: Path, reason: str) -> ModelError:
    remedy = "Export the model of plain tensors alone, or name module:factory of your own"
    return ModelError(
        f"{path}", f"Refused before torch opens it, for it could run code. {reason}", remedy
    )
