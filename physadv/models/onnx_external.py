"""Numbers of an ONNX file that lie in other files of its folder, and in no other place."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from physadv.core.errors import ModelError
from physadv.core.reading import MAX_MODEL_BYTES
from physadv.core.text import read_file
from physadv.models.protobuf import message_in, messages_in, numbers_in, text_in

_TENSOR_OUTSIDE, _TENSOR_LOCATION, _IN_ANOTHER_FILE = 13, 14, 1
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_MODEL_GRAPH, _MODEL_FUNCTION, _FUNCTION_NODE = 7, 25, 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE, _SPARSE_PARTS = 1, 5, 15, (1, 2)
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
"""Fields of an attribute: of one such value, and of a list of them."""
_IN_MEMORY = "_ORT_MEM_ADDR_"
"""Part of a location by which onnxruntime means an address in its memory, not a file."""
_DEEPEST = 20
"""Most graphs within each other."""
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)


class ExternalData:
    """Files beside an ONNX file, each read once.

    Args:
        folder: Folder of the ONNX file; a location outside of it is refused.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, memoryview] = {}

    @property
    def size(self) -> int:
        """Bytes that were read."""
        return sum(len(content) for content in self._files.values())

    def content_of(self, tensor: memoryview) -> memoryview | None:
        """Return the bytes of a stored ``tensor`` that lie in another file; None where they are
        within.

        Raises:
            ModelError: The file is missing, or outside of the folder.
            ValueError: The place is beyond the end of that file.
        """
        found = _place_of(tensor)
        if found is None:
            return None
        location, start, length = found
        if location not in self._files:
            file = file_in(self.folder, location)
            most = MAX_MODEL_BYTES - self.size
            self._files[location] = memoryview(read_file(file, most_bytes=most, error=ModelError))
        content = self._files[location]
        end = len(content) if length is None else start + length
        if end > len(content) or start > end:
            raise ValueError(f"{location[:80]!r} ends before byte {max(start, end)}")
        return content[start:end]


def file_in(folder: Path, location: str) -> Path:
    """Return the file that ``location`` names within ``folder``.

    Raises:
        ModelError: It is no path below the folder, or leads out of it through a link.

    Example:
        >>> file_in(Path("models"), "net.onnx.data").name
        'net.onnx.data'
    """
    path = PurePosixPath(location)
    odd = not location or path.is_absolute() or ".." in path.parts or "\\" in location
    odd = odd or _IN_MEMORY in path.parts
    if odd or "\0" in location or not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise ModelError(
            f"weights in {location[:80]!r}",
            "An ONNX file may name files of its own folder alone",
            "Copy them beside it, or save the weights inside",
        )
    return folder / path


def assert_external_within(data: bytes, folder: Path) -> None:
    """Refuse an ONNX file that names a file outside of its folder, in any of its parts.

    Args:
        data: The file's content.
        folder: Its folder.

    Raises:
        ModelError: It does, or a file that it names is missing.
        ValueError: The content is no ONNX file.
    """
    model = memoryview(data)
    nodes = [
        node
        for function in messages_in(model, _MODEL_FUNCTION)
        for node in messages_in(function, _FUNCTION_NODE)
    ]
    waiting = [(message_in(model, _MODEL_GRAPH), 0)]
    waiting += [(graph, 1) for node in nodes for graph in _graphs_in(node)]
    tensors = [tensor for node in nodes for tensor in _tensors_in(node)]
    while waiting:
        graph, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError("its graphs are nested too deeply")
        tensors += messages_in(graph, _GRAPH_INITIALIZER)
        tensors += _parts_of(messages_in(graph, _GRAPH_SPARSE))
        for node in messages_in(graph, _GRAPH_NODE):
            tensors += _tensors_in(node)
            waiting += [(inner, depth + 1) for inner in _graphs_in(node)]

    for location in {found[0] for tensor in tensors if (found := _place_of(tensor))}:
        file = file_in(folder, location)
        if not file.is_file():
            raise ModelError(f"{file}", "holds weights of the model, and is missing", "Copy it too")


def _tensors_in(node: memoryview) -> list[memoryview]:
    return _values_in(node, _ATTRIBUTE_TENSORS) + _parts_of(_values_in(node, _ATTRIBUTE_SPARSE))


def _graphs_in(node: memoryview) -> list[memoryview]:
    return _values_in(node, _ATTRIBUTE_GRAPHS)


def _values_in(node: memoryview, fields: tuple[int, int]) -> list[memoryview]:
    """Messages in attributes of a node: of a field of one, merged where it repeats, and of one of
    many."""
    one, many = fields
    attributes = messages_in(node, _NODE_ATTRIBUTE)
    values = [v for a in attributes for v in (message_in(a, one), *messages_in(a, many))]
    return [value for value in values if value]


def _parts_of(sparse: list[memoryview]) -> list[memoryview]:
    """Values and indices of sparse tensors."""
    return [message_in(tensor, key) for tensor in sparse for key in _SPARSE_PARTS]


def _place_of(tensor: memoryview) -> tuple[str, int, int | None] | None:
    """Location, first byte and number of bytes (None: to the end) of what lies in another file."""
    # Of 32 bits, as other libraries read it; any of several, as they differ in which they take.
    if _IN_ANOTHER_FILE not in (n & 0xFFFFFFFF for n in numbers_in(tensor, _TENSOR_LOCATION)):
        return None
    records = messages_in(tensor, _TENSOR_OUTSIDE)
    entries = {text_in(r, _ENTRY_KEY): text_in(r, _ENTRY_VALUE) for r in records}
    if len(entries) < len(records):
        raise ValueError("it tells a place in another file twice")
    numbers = [entries.get(key) for key in ("offset", "length")]
    if any(n is not None and _NUMBER.fullmatch(n) is None for n in numbers):
        raise ValueError("a place in another file is no number")
    start, length = (None if n is None else int(n) for n in numbers)
    return entries.get("location", ""), start or 0, length
