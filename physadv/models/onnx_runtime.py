"""ONNX files run by onnxruntime: to hold a conversion to, and to ask where there is none."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physadv.core.errors import ModelError
from physadv.core.reading import MAX_MODEL_BYTES, foreign_errors
from physadv.core.text import read_file
from physadv.models.black_box import AskedModel
from physadv.models.loading import in_pieces
from physadv.models.onnx_external import assert_external_within

REMEDY = "pip install 'physadv[onnx]'"
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
"""onnxruntime's names of the types that images can have."""


def has_onnxruntime() -> bool:
    """Return whether onnxruntime is installed."""
    return find_spec("onnxruntime") is not None


class OnnxRuntimeModel(AskedModel):
    """An ONNX file as onnxruntime runs it on the CPU: outputs without a gradient.

    Args:
        path: The file.

    Raises:
        ModelError: onnxruntime is not installed or cannot run the file, the file names others
            outside of its folder, or it does not take one batch of images.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.session = _open_session(path)
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _TYPES or len(inputs[0].shape) != 4:
            taken = ", ".join(f"{i.type}{list(i.shape)}" for i in inputs[:4])
            raise ModelError(f"{path}", f"it takes {taken}", "Export a model of one image batch")
        self.input, self.input_type = inputs[0].name, _TYPES[inputs[0].type]
        self.batch, *sides = (s if isinstance(s, int) and s > 0 else None for s in inputs[0].shape)
        self.input_shape = tuple(sides)
        outputs = self.session.get_outputs()
        self.output_names = tuple(output.name for output in outputs)
        self.gives_rows = self.batch == 1 and _are_rows([list(o.shape or ()) for o in outputs])

    def forward(self, images: Tensor) -> Any:
        """Return the file's output for ``images`` (b, *input_shape), a tuple where it has several;
        images are rounded to whole numbers where the file takes those.

        A list with a tuple for each image where the file takes one at a time and gives any number
        of boxes, as suppression leaves them.
        """
        self.sent += len(images)
        if self.gives_rows:
            return [self._run(image) for image in torch.split(images, 1)]
        if self.batch is not None:
            return in_pieces(self._run, images, self.batch)
        return self._run(images)

    def _run(self, images: Tensor) -> Any:
        values = images.detach().cpu().numpy()
        if self.input_type is np.uint8:
            values = np.clip(np.rint(values), 0, 255)
        with foreign_errors("onnxruntime", ModelError, "cannot run the model on these images"):
            found = self.session.run(None, {self.input: values.astype(self.input_type)})
        tensors = [torch.from_numpy(np.array(v)).to(images.device) for v in found]
        whole = [t.float() if t.is_floating_point() else t for t in tensors]
        return whole[0] if len(whole) == 1 else tuple(whole)


def _are_rows(shapes: list[list[Any]]) -> bool:
    """Whether outputs of these declared shapes are any number of boxes (n, 4) beside their scores
    and classes."""
    free = all(shape and not isinstance(shape[0], int) for shape in shapes)
    boxes = [shape for shape in shapes if len(shape) == 2 and shape[1] == 4]
    return free and len(shapes) == 3 and len(boxes) == 1 and sum(map(len, shapes)) == 4


def _open_session(path: Path) -> Any:
    """A session on as many threads as torch has, with onnxruntime's own operations alone."""
    if not has_onnxruntime():
        raise ModelError(f"{path}", "onnxruntime is not installed", REMEDY)
    import onnxruntime

    data = read_file(path, most_bytes=MAX_MODEL_BYTES, error=ModelError)
    with foreign_errors(f"{path}", ModelError, "onnxruntime cannot run it", "Export it anew"):
        assert_external_within(data, path.parent)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
