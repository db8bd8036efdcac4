"""Names of operations: one plain name for the forms of a function, and words for error messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.overrides import resolve_name

# Functions that read no values: they are run and leave no layer.
_METADATA_NAMES = (
    "shape ndim dtype device layout requires_grad is_leaf is_cuda is_mps is_sparse is_quantized "
    "is_meta is_nested size dim ndimension numel nelement __len__ is_floating_point is_complex "
    "is_contiguous stride get_device element_size names"
)
METADATA = frozenset(_METADATA_NAMES.split())
_SYNONYMS = {
    "iadd": "add",
    "radd": "add",
    "isub": "sub",
    "imul": "mul",
    "rmul": "mul",
    "truediv": "div",
    "itruediv": "div",
    "true_divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "divide": "div",
    "view": "reshape",
    "unflatten": "reshape",
    "squeeze": "reshape",
    "unsqueeze": "reshape",
    "flatten": "reshape",
    "swapdims": "swapaxes",
    "moveaxis": "movedim",
    "upsample": "interpolate",
    "negative": "neg",
}
# What people call an operation, where its function's name does not say it.
_WORDS = {
    "output": "the output of the model",
    "to": "a cast",
    "type": "a cast",
    "float": "a cast to float32",
    "where": "a choice by a mask",
    "max": "a maximum",
    "min": "a minimum",
    "maximum": "a maximum",
    "minimum": "a minimum",
    "rand": "a random number",
    "randn": "a random number",
    "max_pool2d": "max pooling",
    "adaptive_max_pool2d": "max pooling",
    "setitem": "assignment into a tensor, x[...] = value",
    "item": "reading a number, .item()",
    "bool": "a decision, such as if or while, by values of the images",
    "int": "turning a value into a whole number",
    "tolist": "reading numbers, .tolist()",
    "numpy": "conversion to numpy",
    "array": "conversion to numpy",
    "cat": "concatenation",
    "concat": "concatenation",
    "concatenate": "concatenation",
    "stack": "stacking",
    "matmul": "a matrix product",
    "bmm": "a matrix product",
    "clamp": "clipping",
    "clip": "clipping",
    "half": "a cast to half precision",
    "bfloat16": "a cast to bfloat16",
    "double": "a cast to double precision",
    "round": "rounding",
    "data": "access past autograd, .data",
    "layer_norm": "layer normalization",
    "group_norm": "group normalization",
    "instance_norm": "instance normalization",
    "scaled_dot_product_attention": "attention",
    "hardtanh": "clipping",
    "silu": "SiLU",
    "gelu": "GELU",
    "leaky_relu": "leaky ReLU",
    "elu": "ELU",
    "prelu": "PReLU",
    "softmax": "softmax",
    "fake_quantize_per_tensor_affine": "fake quantization",
    "fake_quantize_per_channel_affine": "fake quantization",
    "fused_moving_avg_obs_fake_quant": "fake quantization",
    "quantize_per_tensor": "quantization",
}
_INSTEAD = {
    "softmax": "Return the logits before it, or use --method smoothing",
    "log_softmax": "Return the logits before it, or use --method smoothing",
}


def operation_name(func: Callable[..., Any]) -> str:
    """Return the plain name of ``func``, a function of torch.

    That is relu for F.relu, torch.relu_ and Tensor.relu, add for Tensor.__add__, shape for its
    getter. Functions that torch does not list, such as custom operators, keep their full name, so
    that none passes for another.
    """
    full = str(resolve_name(func) or func)
    if not full.startswith("torch."):
        return full
    last = full.removesuffix(".__get__").split(".")[-1]
    if last in METADATA:
        return last

    plain = last.strip("_")
    return _SYNONYMS.get(plain, plain)


def kernel_name(func: Any) -> str:
    """Return the plain name of the kernel ``func``: add for aten::add_.Tensor."""
    plain = str(func._schema.name).split("::")[-1].strip("_")
    return {"local_scalar_dense": "item", "is_nonzero": "bool"}.get(plain, plain)


def operation_words(name: str) -> tuple[str, str]:
    """Return what people call an operation, and what to do where it cannot be bounded.

    Args:
        name: Its plain name, of :func:`operation_name` or :func:`kernel_name`.

    Example:
        >>> from physadv.certification.bounds.operation_names import operation_words
        >>> operation_words("max_pool2d")[0]
        'max pooling (max_pool2d)'
    """
    words = _WORDS.get(name)
    called = f"{words} ({name})" if words else f"operation {name!r}"
    return called, _INSTEAD.get(name, "Use --method smoothing")
