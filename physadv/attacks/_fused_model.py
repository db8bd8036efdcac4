"""A faster copy of a model for gradient steps: conv-BN folded, channels_last, optionally bfloat16.

The caller's module is never touched: all work is done on a deep copy, which is used only if it
reproduces the model's logits and input gradients on a probe. Success is still measured on the
model itself, see :class:`physadv.attacks._classifier_step.BestIterates`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from physadv.attacks._classifier_step import Classifier, frozen_eval
from physadv.attacks._compiled_model import CompiledGradient, compiled_gradient
from physadv.attacks._guarded_model import GuardedModel, Observations
from physadv.attacks._image_groups import (
    fastest_group,
    group_sizes,
    grouped_name,
    in_groups,
    slices_of,
    split_name,
    timing_gradients,
)
from physadv.attacks._layer_swaps import replace_layers
from physadv.attacks._packed_linear import (
    any_number_of_rows,
    undo_packed_linear,
    use_packed_linear,
)
from physadv.attacks._speed_choice import choice_key, earlier_choice, keep_choice
from physadv.attacks._winograd import any_number_of_pixels, undo_winograd, use_winograd
from physadv.core.errors import OptionError
from physadv.core.memory_limit import MemoryLimit
from physadv.core.wording import count_noun
from physadv.models.outputs import read_logits

Speed = Literal["plain", "fold", "bf16", "auto", "timed"]
BY_TIME = ("auto", "timed")
"""Speeds that take the fastest copy: as an earlier run found it, and timed anew."""
_VARIANTS: dict[str, tuple[bool, bool]] = {
    "fold": (False, True),
    "fold, contiguous": (False, False),
    "bf16": (True, True),
    "bf16, contiguous": (True, False),
}
"""Copies that "auto" times beside the model itself: bfloat16, and channels last."""
_ROUNDS, _WORTH, _TIMED = 3, 0.97, 16
"""Times that each is timed, in turns; share of the model's own time below which a copy is taken;
images that a CPU times it on, where more of them run as fast."""
COMPILED = "compiled "
"""Begin of the name of a copy whose gradients are compiled."""
_CHECKS, _GAIN = 60, 6
"""A copy's checks cost as much as 5 gradients of an image and a pass of each; at a gain of 8 % that
takes 60 gradients and 6 of each image to repay."""
_TIMING = 10
"""Gradients for each that timing takes, from which on it is done."""
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class FusedModel:
    """A verified faster copy of a model, callable like the model itself.

    Args:
        module: The transformed copy.
        channels_last: Whether it runs fastest on images in that memory format.
        bf16: Run convolutions and linear layers in bfloat16.
        folded: Number of batch norms folded into the convolution before them.
        filtered: Number of convolutions by Winograd's method.
        packed: Number of linear layers whose weights are laid out anew.
        exact: The copy in full precision for the last, smallest steps, where rounding in bfloat16
            turns the signs of small gradients into noise (see ``benchmarks/robustness.md``).
        observations: Where to note what shows while it runs.

    Attributes:
        calls: Number of times it was called, which tells whether an attack used it.
        compiled: The copy with its gradients compiled, where that was found to be faster.
        at_once: Number of images at a time that gradients are taken of; 0 for all.
    """

    def __init__(
        self,
        module: nn.Module,
        channels_last: bool,
        bf16: bool = False,
        *,
        folded: int = 0,
        filtered: int = 0,
        packed: int = 0,
        exact: FusedModel | None = None,
        observations: Observations | None = None,
    ) -> None:
        self.module, self.channels_last, self.bf16 = module, channels_last, bf16
        self.folded, self.filtered, self.packed = folded, filtered, packed
        self.calls = 0
        self.compiled: CompiledGradient | None = None
        self.at_once = 0
        self.exact: FusedModel = exact or self
        self.observations = observations or Observations()

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits (b, classes) of ``images`` (b, ...)."""
        if 0 < self.at_once < len(images) and not torch.is_grad_enabled():
            return in_groups(self, images, self.at_once)
        self.calls += 1
        copy = self.observations.shielded(images)
        module, device = self.compiled or self.module, images.device.type
        if self.bf16 or torch.is_autocast_enabled(device):
            with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
                logits = read_logits(module(copy), len(images))
        else:
            logits = read_logits(module(copy), len(images))
        self.observations.note_logits(logits)
        return logits.float() if self.bf16 else logits.clone()

    @contextmanager
    def noting_one_batch(self) -> Iterator[list[Tensor]]:
        """Note the gradients of groups, put into the list within, as those of one batch."""
        gradients: list[Tensor] = []
        is_first = self.observations.gradients is None
        yield gradients
        if is_first and self.observations.gradients is not None:
            self.observations.gradients = None
            self.observations.note_gradient(torch.cat(gradients))

    def __str__(self) -> str:
        """What the copy does differently, in words."""
        parts = [f"{count_noun(self.folded, 'batch norm')} folded"] if self.folded else []
        if self.filtered:
            parts += [f"{count_noun(self.filtered, 'convolution')} by Winograd's method"]
        parts += [f"{count_noun(self.packed, 'linear layer')} packed"] if self.packed else []
        parts += ["channels last"] if self.channels_last else []
        parts += ["bfloat16 but for the last steps"] if self.bf16 else []
        parts += ["compiled"] if self.compiled else []
        parts += [f"{count_noun(self.at_once, 'image')} at a time"] if self.at_once else []
        return ", ".join(["a copy of the model", *parts])


def calls_of_copy(model: Classifier) -> int:
    """Return how often ``model`` was called in place of another; 0 for one that is no copy."""
    if not isinstance(model, FusedModel):
        return 0
    return model.calls + (model.exact.calls if model.exact is not model else 0)


def full_precision(gradient_model: Classifier) -> Classifier:
    """Return the full-precision version of ``gradient_model``, for the last steps."""
    return gradient_model.exact if isinstance(gradient_model, FusedModel) else gradient_model


def gradient_model_for(
    model: Classifier, speed: Speed | FusedModel, probe: Tensor, gradients: int | None = None
) -> Classifier:
    """Return the model that gradients are taken of.

    Args:
        model: Model under attack.
        speed: "plain" for the model itself, "fold" or "bf16" for a copy made by
            :func:`fuse_model`, "auto" for the fastest of these that agrees, as an earlier run found
            it (:mod:`physadv.attacks._speed_choice`) or timed on ``probe``, "timed" for the same
            timed anew, or a copy made before.
        probe: Images (b, c, h, w) on which a copy must agree with the model.
        gradients: Number of gradients of single images that will be taken; None for many. Of few
            the model itself takes less time than the checks of a copy, and nothing is timed.

    Returns:
        The copy, or ``model`` where no copy agrees.

    Raises:
        OptionError: ``speed`` is none of these.
    """
    if isinstance(speed, FusedModel):
        return speed
    if speed not in get_args(Speed):
        raise OptionError(f"speed {speed!r}", ", ".join(get_args(Speed)), "Choose one of these")
    known = model.fastest if isinstance(model, GuardedModel) else None
    if gradients is not None and known is None:
        timing = _ROUNDS * (1 + len(_VARIANTS)) * _timed_on(probe)
        speed = "fold" if speed in BY_TIME and gradients < _TIMING * timing else speed
        speed = "plain" if speed == "fold" and gradients < _CHECKS + _GAIN * len(probe) else speed
    if speed in BY_TIME:
        return _fastest(model, probe, anew=speed == "timed", gradients=gradients)
    return model if speed == "plain" else fuse_model(model, probe, bf16=speed == "bf16")


def _timed_on(probe: Tensor) -> int:
    """Number of images of the probe that candidates are timed on: on a GPU all, which it takes at
    once."""
    return min(len(probe), _TIMED) if probe.device.type == "cpu" else len(probe)


def _fastest(
    model: Classifier, probe: Tensor, *, anew: bool, gradients: int | None = None
) -> Classifier:
    """The model or the copy whose gradient of ``probe`` takes the least time.

    What a guarded model was found to be fastest as is kept with it, and not timed again; an earlier
    run's choice is taken unless it is to be made ``anew``.
    """
    if not len(probe):
        return model
    guard = model if isinstance(model, GuardedModel) else None
    if guard is not None and guard.fastest is not None:
        return _known(model, guard.fastest, probe)

    source = guard.source if guard is not None else model
    timed_on, names = probe[: _timed_on(probe)], (*_VARIANTS, *_group_names(probe))
    key = choice_key(source, timed_on, names) if isinstance(source, nn.Module) else None
    earlier = earlier_choice(key) if key and not anew else None
    by_earlier = _chosen_earlier(model, earlier, probe)
    if by_earlier is None:
        chosen, fastest = _chosen_by_time(model, probe)
        if gradients is None or gradients >= _TIMING * timing_gradients(probe):
            chosen, fastest = _grouped(model, chosen, fastest, probe)
    else:
        chosen, fastest = by_earlier
    if guard is not None:
        guard.fastest, guard.chosen_earlier = chosen, chosen == earlier
    if key and chosen != earlier:
        keep_choice(key, chosen)
    return fastest


def _chosen_earlier(
    model: Classifier, name: str | None, probe: Tensor
) -> tuple[str, Classifier] | None:
    """An earlier choice and its copy, made and compared with the model anew; None where there is
    none, or it does not agree."""
    if name == "plain":
        return name, model
    if name is None or split_name(name)[0] not in _VARIANTS:
        return None
    copy = _variant(model, name, probe)
    return (name, copy) if _is_variant(copy, name) else None


def _group_names(probe: Tensor) -> list[str]:
    """What the fastest groups depend on beside the copies: their sizes, and about how many images
    are in a batch."""
    return [f"{size} of 2^{len(probe).bit_length()}" for size in group_sizes(probe)]


def _grouped(
    model: Classifier, name: str, fastest: Classifier, probe: Tensor
) -> tuple[str, Classifier]:
    """The fastest copy with gradients of groups, where these are faster and agree; else as it is.
    A model that is fastest as it is, is divided as a copy."""
    base = name if name in _VARIANTS else "fold, contiguous"
    copy = fastest if base == name else _variant(model, base, probe)
    if not isinstance(copy, FusedModel):
        return name, fastest
    with frozen_eval(model), copy.observations.paused():
        size = fastest_group(
            lambda images: _own_response(fastest, images),
            lambda images: _own_response(copy, images),
            probe,
        )
    _clear_calls(copy)
    if size and _divided(copy, model, probe, size):
        return grouped_name(base, size), copy
    return name, fastest


def _divided(copy: FusedModel, model: Classifier, probe: Tensor, size: int) -> bool:
    """Take gradients of ``size`` images at a time from here on, where that makes no difference.
    Returns whether it makes none."""
    images = probe.detach()[: size + 1]
    copies = {id(part): part for part in (copy, copy.exact)}.values()
    try:
        with frozen_eval(model), copy.observations.paused():
            agree = all(
                _same_response(
                    _own_response(part, images), _grouped_response(part, images, size), part.bf16
                )
                for part in copies
            )
    except Exception:  # the user's model, which may take no other number of images
        return False
    _clear_calls(copy)
    for part in copies if agree else ():
        part.at_once = size
    return agree


def _grouped_response(model: FusedModel, images: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """What :func:`_own_response` returns, ``size`` images at a time."""
    groups = [_own_response(model, images[part]) for part in slices_of(len(images), size)]
    logits, slopes = (torch.cat(parts) for parts in zip(*groups, strict=True))
    return logits, slopes


def _chosen_by_time(model: Classifier, probe: Tensor) -> tuple[str, Classifier]:
    """The name of what is fastest on ``probe``, and the model or copy of that name."""
    candidates: dict[str, Classifier] = {"plain": model}
    for name in _VARIANTS:
        variant = _variant(model, name, probe)
        if _is_variant(variant, name):
            candidates[name] = variant
    seconds = _least_seconds(candidates, probe)
    chosen = min(seconds, key=lambda name: seconds[name])
    if seconds[chosen] > _WORTH * seconds["plain"]:
        chosen = "plain"
    return chosen, candidates[chosen]


def _is_variant(copy: Classifier, name: str) -> bool:
    """Whether ``copy`` is of that name, and not what replaces one that does not agree."""
    return isinstance(copy, FusedModel) and copy.bf16 == _VARIANTS[split_name(name)[0]][0]


def _variant(model: Classifier, name: str, probe: Tensor) -> Classifier:
    """The copy of that name; the model where it does not agree, or where there is none."""
    base, size = split_name(name)
    if base not in _VARIANTS:
        return model
    bf16, channels_last = _VARIANTS[base]
    copy = fuse_model(model, probe, bf16=bf16, channels_last=channels_last, timed=True)
    if size and isinstance(copy, FusedModel):
        _divided(copy, model, probe, size)
    return copy


def _known(model: Classifier, name: str, probe: Tensor) -> Classifier:
    """The copy that was found to be the fastest before. One that is compiled is kept while it
    agrees; where it cannot be compiled, it runs as it is."""
    if not name.startswith(COMPILED):
        return _variant(model, name, probe)
    kept = model.compiled if isinstance(model, GuardedModel) else None
    if isinstance(kept, FusedModel) and _agrees(kept, model, _with_noise(probe.detach())):
        return kept
    copy = _variant(model, name.removeprefix(COMPILED), probe)
    compiled = isinstance(copy, FusedModel) and _compile(copy, model, probe)
    if compiled and isinstance(model, GuardedModel):
        model.compiled = copy
    return copy


def compile_fastest(model: GuardedModel, probe: Tensor) -> bool:
    """Compile the gradients of the fastest copy of ``model``, and take it where that is faster.

    For runs of :data:`physadv.attacks._compiled_model.LEAST_SECONDS` or more. A model that is
    fastest as it is, is compiled as a copy.

    Args:
        model: Model whose fastest copy is known.
        probe: Images (b, c, h, w) to time it on.

    Returns:
        Whether the compiled copy is the fastest from now on.
    """
    name = model.fastest or "plain"
    if not len(probe) or name.startswith(COMPILED):
        return False
    base = name if split_name(name)[0] in _VARIANTS else "fold, contiguous"
    before, copy = _variant(model, name, probe), _variant(model, base, probe)
    if not isinstance(copy, FusedModel) or not _compile(copy, model, probe):
        return False
    seconds = _least_seconds({"plain": before, COMPILED: copy}, probe)
    if seconds[COMPILED] > _WORTH * seconds["plain"]:
        return False
    model.fastest, model.compiled, model.chosen_earlier = COMPILED + base, copy, False
    return True


def _compile(copy: FusedModel, model: Classifier, probe: Tensor) -> bool:
    """Compile a copy's gradients, in place. Returns whether that was possible, and it agrees."""
    images = probe.detach()[: max(2, _timed_on(probe))]
    images = images.contiguous(memory_format=_format_of(copy))
    for part in {id(part): part for part in (copy, copy.exact)}.values():
        _undo_kernels(part)  # the compiler takes none of them
        part.compiled = compiled_gradient(part.module, images, bf16=part.bf16)
        # At once on as many images as it was compiled for, and on two.
        if part.compiled is None or not all(
            _agrees(part, model, some) for some in (images, _with_noise(images))
        ):
            copy.compiled = copy.exact.compiled = None
            return False
    return True


def _format_of(model: Classifier) -> torch.memory_format:
    """The memory format in which ``model`` runs fastest."""
    last = isinstance(model, FusedModel) and model.channels_last
    return torch.channels_last if last else torch.contiguous_format


def _least_seconds(candidates: dict[str, Classifier], probe: Tensor) -> dict[str, float]:
    """Seconds of each candidate, on as many images as memory holds at once."""
    probe = probe[: _timed_on(probe)]
    return MemoryLimit().run(
        len(probe), lambda first, last: _timed(candidates, probe[first:last]) if not first else {}
    )[0]


def _timed(candidates: dict[str, Classifier], probe: Tensor) -> dict[str, float]:
    """Least seconds of a gradient of ``probe`` by each model, in turns, so that what else the
    machine does meets all alike."""
    seconds = dict.fromkeys(candidates, float("inf"))
    synchronize = getattr(getattr(torch, probe.device.type), "synchronize", lambda: None)
    for _ in range(_ROUNDS if len(candidates) > 1 else 0):
        for name, model in candidates.items():
            images = probe.detach().contiguous(memory_format=_format_of(model))
            guards = [c.observations for c in candidates.values() if isinstance(c, FusedModel)]
            with frozen_eval(model), ExitStack() as quiet:
                for observations in guards:
                    quiet.enter_context(observations.paused())
                synchronize()
                begun = perf_counter()
                _response(model, images)
                synchronize()
            seconds[name] = min(seconds[name], perf_counter() - begun)
    for model in candidates.values():
        _clear_calls(model)
    return seconds


def _clear_calls(model: Classifier) -> None:
    """Count no calls of a copy that only timed or compared it."""
    if isinstance(model, FusedModel):
        model.calls = model.exact.calls = 0


def fuse_model(
    model: Classifier,
    probe: Tensor,
    *,
    bf16: bool = False,
    channels_last: bool = True,
    timed: bool = False,
) -> Classifier:
    """Make a faster copy of a model that computes the same function.

    The model itself is returned where it is no module, carries forward hooks (they may be the
    caller's instruments), cannot be copied, or where the copy disagrees: logits that differ by
    more than 1e-4 of their scale (bfloat16: 10 %), or input gradients of another direction.

    Args:
        model: Model under attack; not changed.
        probe: Images (b, c, h, w) to compare on, together with one image of noise.
        bf16: Run convolutions and linear layers in bfloat16.
        channels_last: Lay out weights and images with the channels last.
        timed: Whether the copy is only taken where it is found to be faster. Otherwise it does
            nothing that may be slower: Winograd's method is, where several threads share cores.

    Returns:
        The copy, or ``model``.
    """
    source = model.source if isinstance(model, GuardedModel) else model
    observations = model.observations if isinstance(model, GuardedModel) else Observations()
    if not isinstance(source, nn.Module) or _has_hooks(source) or not len(probe):
        return model

    probe = _with_noise(probe.detach())
    try:
        with torch.inference_mode(False):
            module = copy.deepcopy(source).eval()
            module.requires_grad_(False)
            folded = fold_batch_norm(module, probe)
            channels_last = channels_last and probe.ndim == 4
            if channels_last:
                module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            reduced = _in_bf16(copy.deepcopy(module)) if bf16 else None
            filter_wide = channels_last and (timed or torch.get_num_threads() == 1)
            exact = FusedModel(
                module,
                channels_last,
                folded=folded,
                filtered=use_winograd(module) if filter_wide else 0,
                packed=use_packed_linear(module),
                observations=observations,
            )
            candidates = [exact]
            if reduced is not None:
                candidates.insert(
                    0,
                    FusedModel(
                        reduced,
                        channels_last,
                        True,
                        folded=folded,
                        exact=exact,
                        observations=observations,
                    ),
                )
    except Exception:  # whatever the user's model raises on two images, or when it is copied
        return model  # it is attacked as it is

    if exact.filtered or exact.packed:
        with any_number_of_pixels(module), any_number_of_rows(module):
            same = _agrees(exact, model, probe)
        if same and not bf16:
            return exact
        if not same:
            _undo_kernels(exact)
    return next((c for c in candidates if _agrees(c, model, probe)), model)


def _undo_kernels(copy: FusedModel) -> None:
    """Put torch's own convolutions and linear layers back into a copy, in place."""
    undo_winograd(copy.module)
    undo_packed_linear(copy.module)
    copy.filtered = copy.packed = 0


def fold_batch_norm(module: nn.Module, probe: Tensor) -> int:
    """Fold each batch norm of ``module`` into the convolution before it, in place.

    Pairs are found by watching one forward pass on ``probe``: both are called once, and the very
    tensor that the convolution returns is what the batch norm gets. Whether that output also goes
    elsewhere is left to the caller's comparison of results. Returns the number of pairs folded.
    """
    outputs: list[tuple[nn.Module, Tensor]] = []
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def watch(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(layer, _CONVS):
            outputs.append((layer, output))
        else:
            pairs.extend((conv, layer) for conv, y in outputs if inputs and inputs[0] is y)

    watched = [m for m in module.modules() if type(m) in (*_CONVS, *_NORMS)]
    handles = [m.register_forward_hook(watch) for m in watched]
    try:
        with torch.no_grad():
            module(probe)
    finally:
        for handle in handles:
            handle.remove()

    # A convolution called twice, or with two batch norms behind it, cannot absorb either.
    called = [layer for layer, _ in outputs]
    folded = [
        p
        for p in pairs
        if called.count(p[0]) == 1 and _foldable(p[1]) and _count(pairs, p) == (1, 1)
    ]
    for conv, norm in folded:
        replace_layers(module, {conv: fuse_conv_bn_eval(conv, norm)})  # type: ignore[type-var, arg-type]
        replace_layers(module, {norm: nn.Identity()})
    module.requires_grad_(False)
    return len(folded)


def _count(
    pairs: list[tuple[nn.Module, nn.Module]], pair: tuple[nn.Module, nn.Module]
) -> tuple[int, int]:
    return sum(p[0] is pair[0] for p in pairs), sum(p[1] is pair[1] for p in pairs)


def _foldable(norm: nn.Module) -> bool:
    # A model may put a layer into training mode itself, where it normalizes by the batch.
    return (
        not norm.training
        and getattr(norm, "running_var", None) is not None
        and getattr(norm, "weight", None) is not None
    )


def _in_bf16(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, (*_CONVS, nn.Linear)):
            layer.to(torch.bfloat16)
    return module


def _has_hooks(module: nn.Module) -> bool:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(m, name) for m in module.modules() for name in names)


def _with_noise(probe: Tensor) -> Tensor:
    """Return one image of the probe and one of noise, where batch norms and biases show."""
    noise = torch.rand((1, *probe.shape[1:]), generator=torch.Generator().manual_seed(0))
    return torch.cat([probe[:1], noise.to(probe)])


def _agrees(candidate: FusedModel, model: Classifier, probe: Tensor) -> bool:
    """Check that logits agree within tolerance, and input gradients in direction, on the probe."""
    try:
        with frozen_eval(model), candidate.observations.paused(), _without_tf32():
            logits, gradient = _response(model, probe)
            own = _own_response(candidate, probe)
    except Exception:  # the user's model, which may take no two images
        return False
    return _same_response((logits, gradient), own, candidate.bf16)


def _same_response(response: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], bf16: bool) -> bool:
    """Whether logits agree within tolerance, and input gradients in direction."""
    (logits, gradient), (own_logits, own_gradient) = response, own
    scale = float(logits.abs().max().clamp_min(1e-6))
    tolerance = (0.1 if bf16 else 1e-4) * scale
    same_logits = float((logits - own_logits).abs().max()) <= tolerance

    # Where the model's gradient is zero there is no direction to compare.
    cosine = F.cosine_similarity(gradient.flatten(1), own_gradient.flatten(1), dim=1)
    zero_gradient = gradient.flatten(1).abs().amax(1) == 0
    same_direction = (cosine > (0.8 if bf16 else 0.999)) | zero_gradient
    return same_logits and bool(same_direction.all())


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Multiply in full float32 within: TF32's rounding is larger than what copies may differ by."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = False, False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _own_response(model: Classifier, probe: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`_response` returns, of images in the memory format that the model likes."""
    return _response(model, probe.contiguous(memory_format=_format_of(model)))


def _response(model: Classifier, probe: Tensor) -> tuple[Tensor, Tensor]:
    x = probe.detach().requires_grad_()
    logits = model(x)
    (slope,) = torch.autograd.grad(logits.amax(1).sum(), x)
    return logits.detach().double(), slope.detach().double().contiguous()
