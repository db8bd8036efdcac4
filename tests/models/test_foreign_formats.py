"""Model files of other libraries: one line that says what they are and the way through ONNX."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

import physadv
from physadv.core.errors import ModelError


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "net.h5",
            b"\x89HDF\r\n\x1a\n" + bytes(40),
            r"Keras model.*format='onnx'.*--keras net\.h5",
        ),
        ("net.bin", b"\x89HDF\r\n\x1a\n" + bytes(40), "Keras model"),
        ("net.keras", b"", "Keras model"),
        ("net.tflite", b"", r"Lite model.*--tflite net\.tflite --output net\.onnx"),
        ("net.bin", b"\x1c\0\0\0TFL3" + bytes(40), "TensorFlow Lite"),
        ("net.engine", b"ptrt", r"TensorRT.*to ONNX"),
    ],
)
def test_files_of_other_libraries_lead_through_onnx(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    """Known by their beginning or their suffix."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=words):
        physadv.load_model(tmp_path / name)


def test_an_archive_of_keras_is_not_taken_for_torchs(tmp_path: Path) -> None:
    """Keras 3 writes a zip, as torch.export does."""
    with zipfile.ZipFile(tmp_path / "net.zip", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"x")
    with pytest.raises(ModelError, match="Keras model"):
        physadv.load_model(tmp_path / "net.zip")


@pytest.mark.parametrize(
    ("member", "words"),
    [("saved_model.pb", "--saved-model"), ("config.json", "Use hf:"), ("x", "Name the file")],
)
def test_folders_name_what_to_give(member: str, words: str, tmp_path: Path) -> None:
    """A SavedModel, a folder of transformers, and any other."""
    (tmp_path / member).write_bytes(b"")
    with pytest.raises(ModelError, match=words):
        physadv.load_model(tmp_path)
