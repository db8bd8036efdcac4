"""A faster copy of a victim to make the steps with: conv-BN folded, channels_last, frozen,
optionally in bfloat16.

The user's module is never touched: all is done on a deep copy, and the copy is used only if it
gives the victim's logits and input gradients on a probe. Verdicts stay with the victim itself (see
``logits.Best``).
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from physadv.attacks._classifier_step import Classifier, frozen_eval
from physadv.core.errors import OptionError

Speed = Literal["plain", "fold", "bf16"]
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class FusedModel:
    """A verified faster copy; callable like the victim it was made from.

    ``exact`` is the copy to make the last steps with: in bfloat16 the signs of small slopes are
    noise, and it is the small last steps that this noise costs most (see
    ``benchmarks/epsilon_ball.md``).
    """

    def __init__(
        self,
        module: nn.Module,
        channels_last: bool,
        bf16: bool = False,
        *,
        exact: FusedModel | None = None,
    ) -> None:
        self.module, self.channels_last, self.bf16 = module, channels_last, bf16
        self.exact: FusedModel = exact or self

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            logits: Tensor = self.module(images)
        return logits.float() if self.bf16 else logits


def full_precision(gradient_model: Classifier) -> Classifier:
    """The stepper in full precision, for the last steps."""
    return gradient_model.exact if isinstance(gradient_model, FusedModel) else gradient_model


def gradient_model_for(model: Classifier, speed: Speed | FusedModel, probe: Tensor) -> Classifier:
    """The victim itself for "plain", the given copy if it is one, else what :func:`fuse_model` makes."""
    if isinstance(speed, FusedModel):
        return speed
    if speed not in ("plain", "fold", "bf16"):
        raise OptionError(f"speed {speed!r}", "plain, fold or bf16", "choose one of these")
    return model if speed == "plain" else fuse_model(model, probe, bf16=speed == "bf16")


def fuse_model(model: Classifier, probe: Tensor, *, bf16: bool = False) -> Classifier:
    """A faster copy of ``model`` that is the same function on ``probe`` (b, c, h, w) and on noise,
    or ``model``.

    The model comes back as it is where it is no module, carries forward hooks (they may be the
    caller's instruments), cannot be copied, or where the copy's logits differ by more than 1e-4 of
    their scale (bfloat16: 10 %) or its input gradients point elsewhere. ``bf16`` runs convolutions
    and linear layers in bfloat16.
    """
    if not isinstance(model, nn.Module) or _has_hooks(model) or not len(probe):
        return model
    probe = _with_noise(probe.detach())
    try:
        with torch.inference_mode(False):
            module = copy.deepcopy(model).eval()
            module.requires_grad_(False)
            fold_batch_norm(module, probe)
            images = probe.ndim == 4
            if images:
                module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            exact = FusedModel(module, images)
            rough = (
                [FusedModel(_in_bf16(copy.deepcopy(module)), images, True, exact=exact)]
                if bf16
                else []
            )
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
        return model
    return next((c for c in (*rough, exact) if _agrees(c, model, probe)), model)


def fold_batch_norm(module: nn.Module, probe: Tensor) -> int:
    """Fold, in place, each batch norm into the convolution whose output it was seen to take;
    returns how many.

    Pairs are found by watching one forward pass: both are called once and the very tensor the
    convolution returns is what the batch norm gets. Whether that output also goes elsewhere is left
    to the caller's comparison of results.
    """
    produced: list[tuple[nn.Module, Tensor]] = []
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def watch(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(layer, _CONVS):
            produced.append((layer, output))
        else:
            pairs.extend((conv, layer) for conv, made in produced if inputs and inputs[0] is made)

    watched = [m for m in module.modules() if type(m) in (*_CONVS, *_NORMS)]
    handles = [m.register_forward_hook(watch) for m in watched]
    try:
        with torch.no_grad():
            module(probe)
    finally:
        for handle in handles:
            handle.remove()
    called = [layer for layer, _ in produced]
    folded = [
        p
        for p in pairs
        if called.count(p[0]) == 1 and _foldable(p[1]) and _count(pairs, p) == (1, 1)
    ]
    for conv, norm in folded:
        _replace(module, conv, fuse_conv_bn_eval(conv, norm))  # type: ignore[type-var, arg-type]
        _replace(module, norm, nn.Identity())
    module.requires_grad_(False)
    return len(folded)


def _count(
    pairs: list[tuple[nn.Module, nn.Module]], pair: tuple[nn.Module, nn.Module]
) -> tuple[int, int]:
    return sum(p[0] is pair[0] for p in pairs), sum(p[1] is pair[1] for p in pairs)


def _foldable(norm: nn.Module) -> bool:
    return (
        getattr(norm, "running_var", None) is not None and getattr(norm, "weight", None) is not None
    )


def _replace(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)


def _in_bf16(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, (*_CONVS, nn.Linear)):
            layer.to(torch.bfloat16)
    return module


def _has_hooks(module: nn.Module) -> bool:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(m, name) for m in module.modules() for name in names)


def _with_noise(probe: Tensor) -> Tensor:
    """One image of the probe and one made of noise, where batch norms and biases show."""
    noise = torch.rand((1, *probe.shape[1:]), generator=torch.Generator().manual_seed(0))
    return torch.cat([probe[:1], noise.to(probe)])


def _agrees(copy_: FusedModel, model: Classifier, probe: Tensor) -> bool:
    """Same logits within tolerance, and input gradients in the same direction, on the probe."""
    try:
        with frozen_eval(model):
            wanted, slope = _response(model, probe)
            format_ = torch.channels_last if copy_.channels_last else torch.contiguous_format
            found, found_slope = _response(copy_, probe.contiguous(memory_format=format_))
    except (RuntimeError, TypeError, ValueError):
        return False
    scale = float(wanted.abs().max().clamp_min(1e-6))
    near = float((wanted - found).abs().max()) <= (0.1 if copy_.bf16 else 1e-4) * scale
    along = F.cosine_similarity(slope.flatten(1), found_slope.flatten(1), dim=1)
    flat = slope.flatten(1).abs().amax(1) == 0
    return near and bool(((along > (0.8 if copy_.bf16 else 0.999)) | flat).all())


def _response(model: Classifier, probe: Tensor) -> tuple[Tensor, Tensor]:
    x = probe.detach().requires_grad_()
    logits = model(x)
    (slope,) = torch.autograd.grad(logits.amax(1).sum(), x)
    return logits.detach().double(), slope.detach().double().contiguous()
