"""Weights of YOLOX, from ONNX files and published checkpoints, for the architecture here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights

from physadv.core.errors import ModelError
from physadv.core.image_io import to_tensor
from physadv.core.opencv_log import quiet_opencv
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.models.architectures.yolox import SIDE, STRIDES, YoloX, decode_boxes
from physadv.models.loading import kind_of, load_state, read_state
from physadv.models.onnx_file import OnnxGraph, read_onnx

_BATCH_NORM_EPSILON = 1e-3
"""Epsilon of the batch norms that YOLOX is trained with; torch's own is 1e-5."""
_TOLERANCE = 1e-2
"""Largest difference from what OpenCV makes of the file, in units of the outputs' spread."""
_LEAST_SCORE = 1e-6
"""Scores below this are not told apart."""


def load_yolox(file: Path) -> tuple[YoloX, tuple[int, int]]:
    """Build the size of YOLOX that the ONNX file ``file`` holds, with its weights.

    Returns:
        The network, and (height, width) in px of its input.

    Raises:
        ModelError: The file cannot be read, or is another network.
    """
    graph = read_onnx(file)
    shapes = [tuple(convolution.weight.shape) for convolution in graph.convolutions]
    net = YoloX.from_shapes(shapes)
    if net is None:
        raise ModelError(
            f"{file}",
            f"its {len(shapes)} convolutions are not those of a YOLOX; of ONNX files only these "
            "are read",
            "Export the model with torch.export, or name module:factory",
        )
    load_state(net, _state_of(net, graph, file), name=file.name)
    size = graph.input_size or (SIDE, SIDE)
    _require_same_outputs(net.eval(), file, size)
    return net, size


def load_yolox_weights(net: YoloX, file: Path, *, name: str) -> None:
    """Load ``file``, an ONNX file or a published checkpoint, into ``net``.

    Batch norms of a checkpoint are folded into their convolutions; those of an ONNX file were when
    it was exported.

    Args:
        net: The network; its weights are replaced.
        file: The file.
        name: What an error calls the weights.

    Raises:
        ModelError: The file cannot be read, or is another network or another size.
    """
    if kind_of(file) != "onnx":
        load_state(net, without_batch_norms(read_state(file)), name=name)
        return
    graph = read_onnx(file)
    load_state(net, _state_of(net, graph, file), name=name)
    _require_same_outputs(net.eval(), file, graph.input_size or (SIDE, SIDE))


def without_batch_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold each batch norm ``NAME.bn`` of ``state`` into the convolution ``NAME.conv``.

    Example:
        >>> ones = {f"bn.{key}": torch.ones(1) for key in ("weight", "bias", "running_mean")}
        >>> state = {"conv.weight": torch.ones(1, 1, 1, 1), **ones, "bn.running_var": torch.ones(1)}
        >>> sorted(without_batch_norms(state))
        ['conv.bias', 'conv.weight']
    """
    folded = {key: value for key, value in state.items() if ".bn." not in f".{key}"}
    for key, variance in state.items():
        prefix = key.removesuffix("bn.running_var")
        weight_key, bias_key = f"{prefix}conv.weight", f"{prefix}conv.bias"
        if prefix == key or weight_key not in state:
            continue

        values = [state.get(f"{prefix}bn.{k}") for k in ("running_mean", "weight", "bias")]
        mean, scale, shift = (torch.zeros_like(variance) if v is None else v for v in values)
        weight, bias = fuse_conv_bn_weights(
            state[weight_key],
            state.get(bias_key),
            mean,
            variance,
            _BATCH_NORM_EPSILON,
            scale,
            shift,
        )
        folded[weight_key], folded[bias_key] = weight.detach(), bias.detach()
    return folded


def _state_of(net: YoloX, graph: OnnxGraph, file: Path) -> dict[str, Tensor]:
    """A state dict for ``net`` of the convolutions of ``graph``, one after the other."""
    names = {module: name for name, module in net.named_modules()}
    own = list(net.convolutions())
    if len(own) != len(graph.convolutions):
        raise ModelError(
            f"{file}",
            f"it has {len(graph.convolutions)} convolutions, and this size of YOLOX {len(own)}",
            "name the right file, or give the ONNX file itself as the model",
        )
    state = {}
    for module, read in zip(own, graph.convolutions, strict=True):
        state[f"{names[module]}.weight"] = read.weight
        state[f"{names[module]}.bias"] = read.bias
    return state


@torch.no_grad()
def _require_same_outputs(net: YoloX, file: Path, size: tuple[int, int]) -> None:
    """Raise ModelError unless ``net`` computes what OpenCV computes from the file's own graph.

    Convolutions of these shapes may be connected otherwise, or be followed by other activations.
    """
    height, width = size
    image = to_tensor(synthetic_background(0, "yolox", 0, height=height, width=width))[None]
    raw = net.raw_outputs(image)
    boxes = torch.cat([o[:, :4].flatten(2) for o in raw], 2).transpose(1, 2)
    corners = torch.cat(
        [decode_boxes(o[:, :4], stride) for o, stride in zip(raw, STRIDES, strict=True)], 1
    )
    scores = torch.cat([o[:, 4:].flatten(2) for o in raw], 2).transpose(1, 2)

    given = _outputs_in_opencv(file, 255 * image.flip(1))
    expected_shape = (*boxes.shape[:2], 4 + scores.shape[2])
    if given.shape != expected_shape:
        raise ModelError(
            f"{file}",
            f"its output {tuple(given.shape)} is not {expected_shape}",
            "export it with its three strides in one output",
        )

    # Some exports decode the boxes to centers and sizes in px themselves.
    center, half = given[..., :2], given[..., 2:4] / 2
    same_boxes = _are_close(boxes, given[..., :4]) or _are_close(
        corners, torch.cat((center - half, center + half), -1)
    )
    if not (same_boxes and _are_close(scores, given[..., 4:].logit(_LEAST_SCORE))):
        raise ModelError(
            f"{file}",
            "its convolutions have the shapes of a YOLOX, and its outputs are not those of one",
            "Export the model with torch.export, or name module:factory",
        )


def _outputs_in_opencv(file: Path, images: Tensor) -> Tensor:
    """What OpenCV makes of ``images`` (1, 3, h, w), BGR in 0 to 255, with the graph of ``file``."""
    try:
        with quiet_opencv():
            net = cv2.dnn.readNetFromONNX(str(file))
            net.setInput(images.numpy())
            return torch.from_numpy(net.forward())
    except cv2.error as error:
        reason = str(error).strip().splitlines()[0][-100:]
        raise ModelError(
            f"{file}", f"OpenCV cannot run it ({reason})", "export it anew, for images of one size"
        ) from error


def _are_close(found: Tensor, expected: Tensor) -> bool:
    limit = torch.tensor(_LEAST_SCORE).logit()
    difference = (found.clamp(limit, -limit) - expected.clamp(limit, -limit)).abs().max()
    return bool(difference <= _TOLERANCE * expected.std())
