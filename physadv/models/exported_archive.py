"""Vetting of ``torch.export`` archives before torch opens them.

``torch.export.load`` unpickles members without restrictions, evaluates symbolic shapes, compiles
guards, imports modules that a table of its arguments names, writes names into Python source that it
compiles, and looks graph targets up by attribute from ``torch``: each runs code that the author of
a file chose. Here every member is read first, by an allowlist, and torch is given a new archive in
memory that holds nothing else.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physadv.core.archive_files import is_zip, member_names
from physadv.core.errors import ModelError
from physadv.models.torch_zip import assert_holds_its_members

_MOST_EMPTY = 1 << 24
"""Most elements of a tensor for which the archive holds fewer bytes, such as an expanded one."""
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
_IDENTIFIER = re.compile(r"(?:[A-Za-z_]\w*)?")
_DOTTED = re.compile(r"[\w.+:-]*")
_IDENTIFIERS = frozenset({"name", "as_name", "forward_arg_names"})
"""Keys of names that torch writes into the Python source of the model's forward."""
_TARGETS = frozenset({"target", "as_operator"})
_FREE = frozenset({"as_string", "as_strings"})
"""Keys of arguments that are text; torch quotes them."""
_CONTAINERS = frozenset(
    {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
)
_LONGEST_EXPRESSION, _MOST_POWERS, _LARGEST_POWER = 2000, 4, 16
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
            an object, a library, an operation outside torch's own, or code in a name or a size.
    """
    try:
        assert_holds_its_members(path)
        members = _read_members(path)
        pickled = _vet_tables(path, members)
        vetted = {
            name: _vetted(path, name, content, pickled=name in pickled)
            for name, content in members.items()
        }
    except ModelError:
        raise
    except Exception as error:  # whatever zipfile, json or a table of another form raises
        reason = f"{type(error).__name__} {error}".split("\n")[0][:160]
        raise ModelError(f"{path}", f"Not readable as an archive ({reason})", _ANEW) from error

    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as archive:
        for name, content in vetted.items():
            archive.writestr(f"model/{name}", content)
    copy.seek(0)
    return copy


def _read_members(path: Path) -> dict[str, bytes]:
    """The members' contents by their names below the archive's one root folder."""
    with zipfile.ZipFile(path) as archive:
        names = member_names(archive)
        roots = {name.partition("/")[0] for name in names}
        if len(roots) != 1 or len(set(names)) < len(names):
            raise _refusal(path, "Its members do not lie in one folder, each once")
        contents = {name: _content(archive, name) for name in names}
        for name, content in contents.items():
            if len(content) != archive.getinfo(name).file_size:
                raise _refusal(path, f"{name} does not hold the bytes that it states")
    return {name.partition("/")[2]: content for name, content in contents.items()}


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's content, of which no more is unpacked than the directory states."""
    with archive.open(name) as stream:
        # A byte more, so that the end is reached and the checksum looked at.
        return stream.read(archive.getinfo(name).file_size + 1)


def _vet_tables(path: Path, members: Mapping[str, bytes]) -> frozenset[str]:
    """The members that the archive's own tables call pickles.

    Raises ModelError where a table names anything but a member of numbers in its own folder, or
    more numbers than there are.
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
                continue
            sizes = [int(size["as_int"]) for size in entry["tensor_meta"]["sizes"]]
            if math.prod(sizes) > max(len(members.get(member, b"")), _MOST_EMPTY):
                raise _refusal(path, f"{name} states {math.prod(sizes)} numbers for {member}")
    return frozenset(pickled)


def _vetted(path: Path, name: str, content: bytes, *, pickled: bool) -> bytes:
    """What torch is given for the member ``name``; ModelError for anything that could run code."""
    if _MODEL.fullmatch(name):
        return _vetted_program(path, name, content)
    if pickled or _PICKLE.fullmatch(name):
        return _vetted_pickle(path, name, content, is_tensor=pickled)
    if not (name in _PLAIN or _TABLE.fullmatch(name) or _NUMBERS.fullmatch(name)):
        raise _refusal(path, f"{name} is neither a graph nor a tensor")
    return content


def _vetted_pickle(path: Path, name: str, content: bytes, *, is_tensor: bool) -> bytes:
    """The tensors of a pickle in one of our own making, which torch may open as it likes."""
    if not content:  # sample inputs that were left out
        return content
    if is_zip(content):
        assert_holds_its_members(io.BytesIO(content), name=f"{path}: {name}")
    try:
        value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever it met
        raise _refusal(path, f"{name} is a pickle of more than plain tensors") from error
    if is_tensor and not isinstance(value, Tensor):
        raise _refusal(path, f"{name} holds a {type(value).__name__} in place of a tensor")
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _vetted_program(path: Path, name: str, content: bytes) -> bytes:
    """A program without what is not needed to run it: guards, which torch compiles as Python, and
    metadata of its nodes.

    Raises ModelError where the graph calls, a size computes, or a name is more than it should be.
    """
    program = json.loads(content)
    program["guards_code"] = []
    _drop_metadata(program)
    for key, text in _strings(program):
        if key in _TARGETS:
            if not _OPERATIONS.fullmatch(text):
                raise _refusal(path, f"{name} calls {text!r}, which is none of torch's operations")
        elif key == "expr_str":
            if not _is_arithmetic(text):
                raise _refusal(path, f"{name} has a size {text[:60]!r} that is no arithmetic")
        elif key in ("in_spec", "out_spec"):
            if not _is_plain_structure(text):
                raise _refusal(path, f"{name} takes or returns more than lists and tables")
        elif key not in _FREE:
            pattern = _IDENTIFIER if key in _IDENTIFIERS else _DOTTED
            if not pattern.fullmatch(text):
                raise _refusal(path, f"{name} has a name {text[:60]!r} that is no name")
    return json.dumps(program).encode()


def _drop_metadata(value: Any) -> None:
    """Empty every table of metadata in a JSON value; the model runs without them."""
    if isinstance(value, dict):
        if "metadata" in value:
            value["metadata"] = {}
        for item in value.values():
            _drop_metadata(item)
    elif isinstance(value, list):
        for item in value:
            _drop_metadata(item)


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON value with the key it stands under; keys stand under "name"."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield "name", inner
            yield from _strings(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, str):
        yield key, value


def _is_plain_structure(text: str) -> bool:
    """Whether inputs or outputs, as pytree writes them down, are tuples, lists and tables of text.

    Other containers name classes and functions, which pytree imports.
    """
    try:
        protocol, root = json.loads(text)
        return protocol == 1 and _is_plain_node(root)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _is_plain_node(node: Any) -> bool:
    """Whether one node of such a structure, and all below it, are plain."""
    context = None if node["context"] is None else json.loads(node["context"])
    keys = context if isinstance(context, list) else [context]
    return (
        node["type"] in _CONTAINERS
        and all(key is None or isinstance(key, str | int) for key in keys)
        and all(_is_plain_node(child) for child in node["children_spec"])
    )


def _is_arithmetic(text: str) -> bool:
    """Whether a symbolic size consists of numbers, symbols and known functions of them.

    torch hands such a text to sympy, which evaluates it as Python.
    """
    if len(text) > _LONGEST_EXPRESSION:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    powers = [exponent for node in ast.walk(tree) if (exponent := _exponent(node)) is not None]
    return (
        all(_is_sound(node, called) for node in ast.walk(tree))
        and len(powers) <= _MOST_POWERS
        and all(_is_small(exponent) for exponent in powers)
    )


def _exponent(node: ast.AST) -> ast.AST | None:
    """The exponent where ``node`` is a power; towers of them would take all memory."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.LShift):
        return node.right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and "Pow" in node.func.id:
        return node.args[1] if len(node.args) == 2 else node
    return None


def _is_small(exponent: ast.AST) -> bool:
    value = exponent.operand if isinstance(exponent, ast.UnaryOp) else exponent
    if not isinstance(value, ast.Constant) or not isinstance(value.value, int | float):
        return False
    return abs(value.value) <= _LARGEST_POWER


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


_ANEW = "Export it anew with this version of torch"


def _refusal(path: Path, reason: str) -> ModelError:
    remedy = "Export the model of plain tensors alone, or name module:factory of your own"
    return ModelError(
        f"{path}", f"Refused before torch opens it, for it could run code. {reason}", remedy
    )
