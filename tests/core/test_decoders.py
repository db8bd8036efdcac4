"""Foreign bytes reach a decoder behind the budgets of the readers alone."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_DECODERS = {
    "Image": {"open"},
    "np": {"load", "fromfile", "memmap", "loadtxt", "genfromtxt"},
    "cv2": {"imread", "imdecode", "imreadmulti"},
    "av": {"open"},
    "zipfile": {"ZipFile", "is_zipfile"},
    "tarfile": {"open", "TarFile"},
    "gzip": {"open", "decompress", "GzipFile"},
    "zlib": {"decompress", "decompressobj"},
    "pickle": {"load", "loads", "Unpickler"},
    "torch": {"load"},
    "jit": {"load"},
    "export": {"load"},
    "pypdfium2": {"PdfDocument"},
    "resvg_py": {"svg_to_bytes"},
    "onnx": {"load"},
    "parquet": {"ParquetFile", "read_table", "read_schema"},
    "ipc": {"open_file", "open_stream"},
}
"""Calls that hand foreign bytes to a decoder, by their owner."""
_DECODER_NAMES = {"safe_open", "load_file", "ZipFile", "PdfDocument", "svg_to_bytes", "imdecode"}
"""The same, imported by name."""
_READERS = {
    "physadv/core/archive_files.py",
    "physadv/core/columnar_files.py",
    "physadv/core/figure_drawing.py",  # SVG that this program drew itself
    "physadv/core/opencv_pictures.py",
    "physadv/core/pdf_drawing.py",
    "physadv/core/picture_files.py",
    "physadv/core/svg_drawing.py",
    "physadv/core/tensor_files.py",
    "physadv/camera/video_reader.py",
    "physadv/models/exported_archive.py",
    "physadv/models/loading.py",
    "physadv/models/torch_zip.py",
}
"""Modules that judge what is announced first: core's readers, that of videos, those of torch."""


def _writes(call: ast.Call) -> bool:
    """Whether a file is opened to be written, which reads nothing."""
    return (
        len(call.args) > 1 and isinstance(call.args[1], ast.Constant) and call.args[1].value == "w"
    )


def _decoder_calls(source: str) -> list[str]:
    """Calls of decoders in a module, and bytes that are read without a budget."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Attribute):
            owner = getattr(called.value, "id", getattr(called.value, "attr", ""))
            is_decoder = called.attr in _DECODERS.get(owner, ())
        else:
            is_decoder = getattr(called, "id", "") in _DECODER_NAMES
        if is_decoder and not _writes(node):
            found.append(f"{node.lineno}: {ast.unparse(node)[:60]}")
    return found


def test_only_readers_hand_bytes_to_a_decoder() -> None:
    """A picture, archive, array, tensor, PDF, SVG or video is opened behind a budget alone."""
    found = {
        str(file.relative_to(ROOT)): calls
        for folder in ("physadv", "cli")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if file.relative_to(ROOT).as_posix() not in _READERS
        if (calls := _decoder_calls(file.read_text(encoding="utf-8")))
    }
    assert not found
    assert _decoder_calls("from PIL import Image\nImage.open('a.png')")
    assert _decoder_calls("import torch\ntorch.jit.load(path)")
    for reader in _READERS:
        assert _decoder_calls((ROOT / reader).read_text(encoding="utf-8")), f"{reader}: needless"
