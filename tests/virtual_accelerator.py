"""A device "vacc:0" whose tensors lie in the CPU's memory but refuse to be mixed with its own, as
those of a GPU do; run as a program, it takes the core paths of the toolkit through it.

PyTorch lets Python register a backend of one's own. Every mixing is noted as well as raised, since
code that falls back on an error would hide it. Prints a JSON table: by path "" or what went wrong.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

DEVICE = "vacc:0"
MIXED: list[str] = []
"""Operations on tensors of both devices, and where the toolkit called them."""
_MOVES = ("copy_", "_to_copy", "index.", "index_put")  # a GPU takes these from the CPU, too


HAS_DOUBLE = "--no-double" not in sys.argv
"""Whether the device has float64; Apple's has not."""
_DOUBLE = (torch.float64, torch.complex128)


def _refuse_double(operation: str) -> None:
    """Note an operation in float64 on a device that lacks it, and fail as Apple's does."""
    where = _caller()
    if _ASKS not in where:
        MIXED.append(f"float64 by {operation} in {where}")
    raise TypeError(f"{operation}: the framework of {DEVICE} doesn't support float64")


_ASKS = "core/tensors.py"
"""Where the toolkit asks whether a device has float64."""


class OnDevice(Tensor):
    """A tensor of the virtual device, held by ``raw``, a tensor of the CPU."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> OnDevice:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls, raw.size(), strides=raw.stride(), dtype=raw.dtype, device=DEVICE
        )

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.raw})"

    def tolist(self) -> Any:
        return self.raw.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        flat = [a for a in pytree.tree_flatten((args, kwargs))[0] if isinstance(a, Tensor)]
        others = [t for t in flat if not isinstance(t, OnDevice) and t.dim() > 0]
        if others and not func.__name__.startswith(_MOVES):
            MIXED.append(f"{func} in {_caller()}")
            raise RuntimeError(f"{func}: tensors on {DEVICE} and on the cpu")

        device = kwargs.get("device")
        if device is not None:
            kwargs["device"] = "cpu"
        args, kwargs = pytree.tree_map_only(OnDevice, lambda t: t.raw, (args, kwargs))
        result = func(*args, **kwargs)
        if device is not None and torch.device(device).type == "cpu":
            return result
        if not HAS_DOUBLE:
            doubles = [t for t in pytree.tree_flatten(result)[0] if isinstance(t, Tensor)]
            if any(t.dtype in _DOUBLE for t in doubles):
                _refuse_double(str(func))
        return pytree.tree_map_only(
            Tensor, lambda t: t if isinstance(t, OnDevice) else OnDevice(t), result
        )


def _caller() -> str:
    """The innermost line of the toolkit that is being run."""
    own = [f for f in traceback.extract_stack() if "/physadv/" in f.filename]
    return f"{own[-1].filename.split('/physadv/')[-1]}:{own[-1].lineno}" if own else "a test"


def _implement() -> None:
    """Register the device, and the kernels that make tensors, which no tensor leads to."""
    _setup_privateuseone_for_python_backend("vacc")

    def empty(size: Any, dtype: Any = None, **_: Any) -> OnDevice:
        if dtype in _DOUBLE and not HAS_DOUBLE:
            _refuse_double("empty")
        return OnDevice(torch.empty(size, dtype=dtype))

    def empty_strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> OnDevice:
        return OnDevice(torch.empty_strided(size, stride, dtype=dtype))

    def arange(*bounds: Any, dtype: Any = None, **_: Any) -> OnDevice:
        return OnDevice(torch.arange(*bounds, dtype=dtype))

    def linspace(first: Any, last: Any, steps: int, dtype: Any = None, **_: Any) -> OnDevice:
        return OnDevice(torch.linspace(first, last, steps, dtype=dtype))

    def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        raw = target.raw if isinstance(target, OnDevice) else target
        raw.copy_(source.raw if isinstance(source, OnDevice) else source)
        return target

    for names, kernel in (
        (["empty.memory_format"], empty),
        (["empty_strided"], empty_strided),
        (["arange", "arange.start", "arange.start_step"], arange),
        (["linspace"], linspace),
        (["_copy_from"], copy_from),
    ):
        for name in names:
            torch.library.impl(f"aten::{name}", "privateuseone")(kernel)


class _Stream(torch.Generator):
    """Random streams of the virtual device are the CPU's: its backend can have none of its own."""

    def __new__(cls, device: Any = "cpu") -> _Stream:
        return super().__new__(cls, device="cpu")


def _complete_backend() -> None:
    """Give the backend what torch asks of every one: random state and autocast."""
    backend = torch.vacc  # type: ignore[attr-defined]
    backend.get_rng_state = lambda device=None: torch.zeros(1, dtype=torch.uint8)
    backend.set_rng_state = lambda state, device=None: None
    backend.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    backend.is_autocast_enabled = lambda: False
    backend.get_autocast_dtype = lambda: torch.bfloat16
    torch.Generator = _Stream  # type: ignore[misc]


def net() -> nn.Module:
    """A small net on the CPU with what copies of a model fold."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4 * 64, 3)).eval()


def data() -> tuple[Tensor, Tensor]:
    """Images on the CPU and the net's classes, by which every attack has something to do."""
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return images, net()(images).argmax(1)


_ATTACKS: dict[str, dict[str, Any]] = {
    "fgsm": {"eps": 0.05},
    **{key: {"eps": 0.05, "steps": 3} for key in ("pgd", "gradient_ascent", "mi_fgsm")},
    "apgd": {"eps": 0.05, "steps": 5},
    **{key: {"steps": 9} for key in ("fab", "deepfool", "superdeepfool", "ddn", "fmn", "alma")},
    "cw_l2": {"steps": 4, "searches": 2},
    "square_attack": {"eps": 0.05, "queries": 10},
    "rays": {"eps": 0.1, "queries": 40},
    **{key: {"eps": 0.5, "queries": 90} for key in ("hopskipjump", "surfree", "geoda")},
    "saliency_attack": {"pixels": 2},
    "pointwise": {"pixels": 2, "queries": 90},
    "sparse_search": {"pixels": 2, "queries": 8},
    "universal_perturbation": {"eps": 0.05, "epochs": 2},
}


def _attack(name: str, **options: Any) -> None:
    from physadv import attacks

    images, labels = data()
    run = getattr(attacks, name)
    found = run(net().to(DEVICE), images.to(DEVICE), labels.to(DEVICE), **options)
    assert isinstance(found.images, OnDevice), "images came back on the CPU"


def _evaluate(**settings: Any) -> None:
    import physadv

    result = physadv.evaluate(net().to(DEVICE), data(), "linf:0.05", **settings)
    assert result.complete


def _views() -> None:
    from physadv import attacks

    for view in (
        attacks.DiverseInputs(),
        attacks.BlockShuffle(copies=2),
        attacks.StructureInvariant(copies=2),
        attacks.DeformationWarp(copies=2),
    ):
        _attack("mi_fgsm", eps=0.05, steps=2, diverse=view)
    _attack("mi_fgsm", eps=0.05, steps=2, relevance=attacks.GradientRelevance(neighbors=2))


def _copies() -> None:
    """The folded and the bfloat16 copy are used, not dropped for an error on the way."""
    from physadv.attacks._fused_model import FusedModel, fuse_model
    from physadv.models.own_device import OnOwnDevice

    model = net().to(DEVICE)
    if HAS_DOUBLE:
        assert isinstance(fuse_model(model, data()[0].to(DEVICE)), FusedModel)
    else:
        apart = OnOwnDevice(model, torch.device(DEVICE))
        assert isinstance(fuse_model(apart, data()[0]), FusedModel)


def _smoothing() -> None:
    import physadv

    physadv.certify_smoothing(net().to(DEVICE), data()[0].to(DEVICE), sigma=0.25, n0=16, n=64)


def _bounds(method: str) -> None:
    import physadv

    images, labels = (tensor.to(DEVICE) for tensor in data())
    physadv.certify_bounds(net().to(DEVICE), images, labels, eps=0.01, method=method)


def _patch(**options: Any) -> None:
    import tempfile

    import physadv

    with tempfile.TemporaryDirectory() as folder:
        physadv.make_patch(
            model="signs", steps=2, draws=2, test_draws=4, out=folder, device=DEVICE, **options
        )


def _train() -> None:
    from physadv.core.random_streams import generator
    from physadv.training.loop import update_average
    from physadv.training.methods import adversarial, certified, fast, noise_augmentation
    from physadv.training.methods.base import StandardTraining, TrainingPosition

    images, labels = (tensor.to(DEVICE) for tensor in data())
    for method in (
        StandardTraining(),
        adversarial.FgsmTraining(0.03),
        adversarial.FgsmTraining(0.5, "l2"),
        adversarial.PgdTraining(0.03),
        adversarial.FreeTraining(0.03),
        adversarial.TradesTraining(0.03),
        adversarial.GradientPenalty(),
        fast.FastTraining(0.03),
        certified.IbpTraining(0.03),
        certified.CrownIbpTraining(0.03),
        noise_augmentation.GaussianAugmentation(0.2),
        noise_augmentation.SmoothAdvTraining(0.2),
    ):
        model, mean = net().to(DEVICE).train(), net().to(DEVICE)
        loss, _ = method.loss(model, images, labels, TrainingPosition(0, 10, generator(0, "step")))
        loss.backward()
        torch.optim.SGD(model.parameters(), 0.1, momentum=0.9).step()
        update_average(mean, model, 0.9)


def _own_model() -> None:
    """A net on the device that is wrapped with its normalization stays there as a whole."""
    from physadv.models.load import as_model

    model = as_model(net().to(DEVICE), mean=[0.5, 0.5, 0.5], std=[0.2, 0.2, 0.2])
    assert isinstance(model(data()[0].to(DEVICE)), OnDevice)
    assert model.device.type == ("vacc" if HAS_DOUBLE else "cpu")
    assert HAS_DOUBLE or not isinstance(model(data()[0]), OnDevice)


def _mixed() -> None:
    """What must fail: a CPU tensor beside one of the device, also where the error is caught."""
    try:
        data()[0].to(DEVICE) + data()[0]
    except RuntimeError:
        return


def _cloak() -> None:
    import tinyface

    import physadv

    face = tinyface.face_at(20.0, 20.0, 60.0)
    photo = tinyface.drawn_photo(100, 100, face)
    embedder = tinyface.tiny_embedder().to(DEVICE)
    finder = tinyface.KnownFinder()
    physadv.cloak_photo(photo, embedders=[embedder], finders=[finder], device=DEVICE)


PATHS: dict[str, Callable[[], None]] = {
    **{name: partial(_attack, name, **options) for name, options in _ATTACKS.items()},
    "pgd in l2": partial(_attack, "pgd", eps=0.5, steps=3, norm="l2"),
    "pgd in l1": partial(_attack, "pgd", eps=3.0, steps=3, norm="l1"),
    "pgd in bfloat16": partial(_attack, "pgd", eps=0.05, steps=4, speed="bf16"),
    "pgd in 8 bits": partial(_attack, "pgd", eps=0.05, steps=3, levels=255),
    "views for transfer": _views,
    "folded copy": _copies,
    "evaluate": _evaluate,
    "attack, with a curve": partial(_evaluate, attack="pgd", steps=3, curve="auto"),
    "attack, targeted": partial(_evaluate, attack="hopskipjump", steps=80, targeted=True),
    "certify by smoothing": _smoothing,
    **{f"certify by {m}": partial(_bounds, m) for m in ("ibp", "crown", "alpha-crown", "bab")},
    "patch": partial(_patch, goal="untargeted"),
    "train": _train,
    "a model of one's own": _own_model,
    "mixed on purpose": _mixed,
    "cloak": _cloak,
}


def main(names: list[str]) -> None:
    """Take the paths of ``names``, or all, and print what became of each."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _implement()
    _complete_backend()
    table = {}
    for name in names or PATHS:
        MIXED.clear()
        try:
            PATHS[name]()
            table[name] = "; ".join(sorted(set(MIXED)))
        except Exception:
            table[name] = traceback.format_exc(limit=-6)
    print(json.dumps(table))


if __name__ == "__main__":
    main([word for word in sys.argv[1:] if not word.startswith("--")])
