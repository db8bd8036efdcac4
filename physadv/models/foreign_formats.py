"""Model files of other libraries: what they are, and the way through ONNX."""

from __future__ import annotations

import contextlib
from pathlib import Path

from physadv.core.archive_files import is_zip, open_zip
from physadv.core.errors import ModelError
from physadv.models.weight_folders import file_in_folder

_HDF5, _TFLITE = b"\x89HDF\r\n\x1a\n", b"TFL3"
_SUFFIXES = {
    ".mlmodel": "a Core ML model",
    ".mlpackage": "a Core ML model",
    ".engine": "a TensorRT engine",
    ".plan": "a TensorRT engine",
    ".pb": "a TensorFlow graph",
    ".pdmodel": "a Paddle model",
    ".caffemodel": "a Caffe model",
    ".xml": "an OpenVINO model",
}


def refuse_foreign_format(path: Path) -> None:
    """Raise ModelError, with the command that leads through ONNX, for a model of another library.

    Args:
        path: A file or folder that was named as a model.

    Raises:
        ModelError: It is a model of Keras, TensorFlow Lite, TensorFlow, or another library, or a
            folder.
    """
    if path.is_dir():
        raise _folder_error(path)
    convert = f"python -m tf2onnx.convert --{{}} {path.name} --output {path.stem}.onnx"
    if is_keras(path):
        raise ModelError(
            f"{path} is a Keras model",
            "torch cannot run it",
            f"Export it to ONNX and name that file: model.export('{path.stem}.onnx', "
            f"format='onnx') in Keras 3, or {convert.format('keras')}",
        )
    with path.open("rb") as stream:
        beginning = stream.read(8)
    if beginning[4:] == _TFLITE or path.suffix == ".tflite":
        remedy = f"Convert it to ONNX and name that file: {convert.format('tflite')}"
        raise ModelError(f"{path} is a TensorFlow Lite model", "torch cannot run it", remedy)
    if kind := _SUFFIXES.get(path.suffix.lower()):
        remedy = "Export the model to ONNX from where it was trained, and name that file"
        raise ModelError(f"{path} is {kind}", "torch cannot run it", remedy)


def is_keras(path: Path) -> bool:
    """Return whether ``path`` is a model file of Keras: HDF5, or an archive of Keras 3."""
    if path.suffix.lower() in (".keras", ".h5", ".hdf5"):
        return True
    with path.open("rb") as stream:
        if stream.read(8) == _HDF5:
            return True
    if not is_zip(path):
        return False
    try:
        with open_zip(path, str(path), error=ModelError) as archive:
            return "model.weights.h5" in archive.namelist()
    except ModelError:
        return False


def _folder_error(path: Path) -> ModelError:
    if (path / "saved_model.pb").is_file():
        return ModelError(
            f"{path} is a SavedModel of TensorFlow",
            "torch cannot run it",
            "Convert it to ONNX and name that file: python -m tf2onnx.convert --saved-model "
            f"{path} --output {path.name}.onnx",
        )
    if (path / "config.json").is_file():
        return ModelError(f"{path} is a folder", "A model file is needed", f"Use hf:{path}")
    with contextlib.suppress(ModelError):
        file_in_folder(path)
        limit, remedy = "holds weights without a model", "Name module:factory and give it with"
        return ModelError(f"{path}", limit, f"{remedy} --weights {path}")
    return ModelError(f"{path} is a folder", "A model file is needed", "Name the file in it")
