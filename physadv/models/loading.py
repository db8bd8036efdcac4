"""Reading of models from files and import paths, without ever running code that a pickle asks
for."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import pathlib
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from physadv.core.archive_files import is_zip
from physadv.core.errors import ModelError
from physadv.core.reading import foreign_errors
from physadv.core.tables import read_table
from physadv.core.trust import assert_may_run
from physadv.models.exported_archive import vetted_archive
from physadv.models.torch_zip import assert_holds_its_members
from physadv.models.weight_folders import weight_files

_STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "weights", "params", "network")
"""Keys under which checkpoints hold the weights, the commonest first."""
_COMPILED = "_orig_mod."
"""What torch.compile puts before the keys of the net, or of a part, that it compiled."""
_PACKED = "_packed_params._packed_params"
"""End of the key of a quantized linear layer, which holds its weight and its bias."""
_QUANTIZATION = (_PACKED, "_packed_params.dtype", "scale", "zero_point")
_PROFILE = ("total_ops", "total_params")
_COUNTER = ".num_batches_tracked"
_MEANS = ("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict")
"""Keys under which checkpoints hold a running mean of the weights."""
_INERT: list[Any] = [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath]
"""Classes that checkpoints hold beside weights and that hold text and numbers alone."""
_ONNX_BEGINNING = b"\x08"
"""Key of the first field of an ONNX file, its version, a whole number from 1 to 127."""
_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
Kind = Literal["torchscript", "exported", "weights", "safetensors", "onnx", "unknown"]


def kind_of(path: Path) -> Kind:
    """Return what the model file ``path`` holds, detected from its content; its suffix does not
    matter.

    Raises:
        ModelError: The file is absent, or an archive that is damaged or states too much.
    """
    if not path.is_file():
        raise ModelError(f"{path}", "no such file", "check the path")
    if path.suffix == ".safetensors":
        return "safetensors"

    if is_zip(path):
        assert_holds_its_members(path)
        damaged = foreign_errors(str(path), ModelError, "a damaged archive", "fetch it anew")
        with damaged, zipfile.ZipFile(path) as archive:
            members = {name.partition("/")[2] or name for name in archive.namelist()}
        if any(m.startswith("code/") for m in members):
            return "torchscript"
        return "weights" if "data.pkl" in members else "exported"

    with path.open("rb") as stream:
        first, second = stream.read(1), stream.read(1)
    if path.suffix == ".onnx" or (first == _ONNX_BEGINNING and b"\x01" <= second <= b"\x7f"):
        return "onnx"
    return "weights" if first == b"\x80" else "unknown"


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from ``path``, a safetensors or torch file, onto the CPU.

    A checkpoint that holds the state dict beside other things, as ``{"model": ..., "epoch": 3}``
    does, is unwrapped, and a common ``module.`` prefix is stripped. Shards are read by their index
    (``*.index.json``), and a folder as accelerate, ``save_pretrained`` or DeepSpeed writes it.
    Nothing is unpickled but what ``weights_only=True`` takes, options of argparse and paths.

    Raises:
        ModelError: The file holds a whole pickled module, TorchScript, several state dicts of which
            none has a usual name or which differ, or anything else.
    """
    state: dict[str, Tensor] = {}
    for file in weight_files(Path(path)):
        own = _read_file(file)
        if twice := sorted(state.keys() & own.keys()):
            raise ModelError(f"{path}", f"two shards hold {twice[0]}", "save the model anew")
        state.update(own)
    return state


def _read_file(file: Path) -> dict[str, Tensor]:
    """The state dict in one file."""
    kind = kind_of(file)
    if kind == "safetensors":
        return _read_safetensors(file)
    if kind != "weights":
        raise ModelError(
            f"{file}", f"holds no state dict ({kind})", "save model.state_dict() and name that file"
        )

    state = _dequantized(_unwrapped(_unpickle_weights(file), file))
    if not _is_state(state):
        raise ModelError(
            f"{file}",
            "holds something else than a state dict",
            "save model.state_dict() on its own",
        )
    prefixed = bool(state) and all(k.startswith("module.") for k in state)
    return {k.removeprefix("module.") if prefixed else k: v for k, v in state.items()}


def load_state(net: nn.Module, state: Mapping[str, Tensor], *, name: str) -> None:
    """Load ``state`` into ``net``, every key and shape; ``name`` is what an error calls the
    weights.

    What wrappers put before the keys is taken off: ``_orig_mod.`` of torch.compile, and any prefix,
    as Lightning's ``model.``, where exactly one leaves the net's own keys. Counters of batches may
    be missing, as in files of old, and those of thop are left out: no result depends on them.

    Raises:
        ModelError: Keys or shapes do not fit; the message names the first of them.
    """
    own = net.state_dict()
    state = _with_keys_of(own, _without_profile(own, state))
    lacking, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)

    if lacking or unknown or shapes:
        parts = {"missing": lacking, "unknown": unknown, "of another shape": shapes}
        said = "; ".join(
            f"{len(k)} keys {what} ({', '.join(k[:2])} ...)" for what, k in parts.items() if k
        )
        raise ModelError(
            f"weights of {name}", f"do not fit the architecture: {said}", "name the right file"
        )
    net.load_state_dict(state, strict=True)


def load_torchscript(path: Path) -> nn.Module:
    """Load the TorchScript module in ``path`` onto the CPU.

    TorchScript is code: it can read and write files.

    Raises:
        ModelError: The file cannot be read, or may not run.
    """
    assert_may_run(str(path), "torchscript")
    try:
        return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-any-return, no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path}", f"not readable as TorchScript ({_first_line(error)})", "export it anew"
        ) from error


def load_exported(path: Path) -> tuple[nn.Module, tuple[int, int] | None]:
    """A ``torch.export`` file as a module, and the (height, width) px it was exported for (None
    where that is free).

    Raises ModelError where it cannot be read, may not run, or takes more than the image.
    """
    assert_may_run(str(path), "exported")
    archive = vetted_archive(path)
    try:
        program = torch.export.load(archive)
        module = program.module()
    except Exception as error:  # torch.export raises whatever its deserializer met
        said = f"not readable as a torch.export file ({_first_line(error)})"
        raise ModelError(f"{path}", said, "export it anew with this version of torch") from error
    names = program.graph_signature.user_inputs
    if len(names) != 1:
        raise ModelError(
            f"{path}", f"takes {len(names)} inputs", "export a model of one image batch"
        )
    value = next((n.meta.get("val") for n in program.graph.nodes if n.name == names[0]), None)
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    batch, height, width = (shape[0], *shape[2:]) if len(shape) == 4 else (None, None, None)
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return Exported(module, batch if isinstance(batch, int) else None), size


class Exported(nn.Module):
    """An exported program as a plain module: takes any number of images, and keeps the mode it was
    exported in.

    ``batch`` is the number of images it takes at a time, None where that is free.
    """

    def __init__(self, net: nn.Module, batch: int | None) -> None:
        super().__init__()
        self.net, self.batch = net, batch

    def train(self, mode: bool = True) -> Self:
        """Mark only this module: the program inside was fixed when it was exported, and refuses to
        be told."""
        self.training = mode
        for module in self.net.modules():  # their flags say nothing of what was exported
            module.training = mode
        return self

    def forward(self, images: Tensor) -> Any:
        """(b, 3, h, w) -> the program's output for all b images; a short last piece is filled up by
        repetition."""
        if self.batch is None:
            return self.net(images)
        return in_pieces(self.net, images, self.batch)


def in_pieces(net: Callable[[Tensor], Any], images: Tensor, size: int) -> Any:
    """Return what ``net`` returns for ``images`` (b, ...), given to it ``size`` at a time; a short
    last piece is filled up by repetition."""
    outputs = []
    for piece in torch.split(images, size):
        short = size - piece.shape[0]
        filling = piece[-1:].expand(short, *piece.shape[1:])
        outputs.append(net(torch.cat([piece, filling]) if short else piece))
    return _joined(outputs, images.shape[0])


def _joined(outputs: Sequence[Any], count: int) -> Any:
    """The first ``count`` rows of outputs of one structure: tensors, or lists or tables of them."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(list(outputs))[:count]
    if isinstance(first, Mapping):
        return {key: _joined([output[key] for output in outputs], count) for key in first}
    return tuple(_joined(pieces, count) for pieces in zip(*outputs, strict=True))


def is_import_path(text: str) -> bool:
    """Return whether ``text`` is ``module:factory``, which names code.

    Example:
        >>> is_import_path("my_models:make"), is_import_path("signs")
        (True, False)
    """
    return _IMPORT_PATH.fullmatch(text) is not None


def load_import_path(text: str) -> tuple[Any, bool]:
    """Import what ``text``, ``module:factory``, names, and return it with whether a call made it.

    The working folder can be imported from. A class or function is called without arguments; a
    module instance is returned as it is.

    Raises:
        ModelError: It may not run, or import, attribute or call fails.
    """
    assert_may_run(text, "module")
    module_name, _, attribute = text.partition(":")
    with _working_folder_importable():
        try:
            found: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                found = getattr(found, part)
        except ImportError as error:
            raise ModelError(
                text, f"cannot be imported ({error})", "run where the module lies, or install it"
            ) from error
        except AttributeError as error:
            raise ModelError(
                text, f"has no such attribute ({error})", "name a function or a model of it"
            ) from error

        if isinstance(found, nn.Module):
            return found, False
        if not callable(found):
            raise ModelError(
                text, f"is a {type(found).__name__}", "name a function that returns the model"
            )
        try:
            return found(), True
        except ModelError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {_first_line(error)}"
            said = f"failed when called without arguments ({reason})"
            raise ModelError(text, said, "name a function that needs none") from error


def sidecar(path: Path) -> dict[str, Any]:
    """Return the table of ``<path>.toml`` beside a model file (classes, mean, std, input_size,
    task ...), or an empty one.

    Raises:
        ModelError: The file is not TOML.
    """
    file = path.with_name(path.name + ".toml")
    return read_table(file, error=ModelError, remedy="repair the file") if file.is_file() else {}


def pick_device(name: str | torch.device) -> torch.device:
    """Return the device ``name``: "auto" (cuda, then mps, then cpu) or a torch device.

    Raises:
        ModelError: The device is not usable here.
    """
    if str(name) == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )

    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" makes tensors that hold nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"device {name}", f"not usable ({_first_line(error)})", "try --device cpu"
        ) from error
    return device


def _dequantized(found: Any) -> Any:
    """``found`` with the linear layers that torch's dynamic quantization packed as plain weights;
    as it is where there are none."""
    if not isinstance(found, Mapping) or not any(str(k).endswith(_PACKED) for k in found):
        return found
    state: dict[str, Any] = {}
    for key, value in found.items():
        layer = str(key).removesuffix(_PACKED)
        if layer != key and isinstance(value, tuple) and len(value) == 2:
            weight, bias = value
            state[f"{layer}weight"] = weight.dequantize() if weight.is_quantized else weight
            if bias is not None:
                state[f"{layer}bias"] = bias.detach()
    packed = {key.removesuffix("weight") for key in state if key.endswith("weight")}
    beside = {f"{layer}{name}" for layer in packed for name in _QUANTIZATION}
    return {k: v for k, v in found.items() if k not in beside} | state


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(v, Tensor) for v in value.values())


def _unwrapped(found: Any, file: Path) -> Any:
    """The state dict within a checkpoint, at most two tables deep; raise ModelError where several
    could be meant."""
    for _ in range(2):
        if not isinstance(found, Mapping) or (found and _is_state(found)):
            return found

        # A cascade keeps one state dict a stage: the first is the net.
        inner = {k: v[0] if isinstance(v, list) and v else v for k, v in found.items()}
        tables = {k: v for k, v in inner.items() if isinstance(v, Mapping) and v}
        usual = next((k for k in _STATE_KEYS if k in tables), None)
        states = [k for k in tables if _is_state(tables[k])]
        if usual is None and len(states) > 1:
            raise ModelError(
                f"{file}",
                f"holds {len(states)} state dicts ({', '.join(map(str, states[:4]))})",
                "save the one that is meant on its own",
            )
        if usual is None:
            usual = next(iter(states or tables), None)
        if usual is None:
            return found
        _refuse_two_meanings(tables, usual, file)
        found = tables[usual]
    return found


def _refuse_two_meanings(tables: Mapping[str, Any], usual: str, file: Path) -> None:
    """Raise ModelError where a running mean of the weights lies beside others than it."""
    mean = next((k for k in _MEANS if k in tables and k != usual), None)
    if mean is None or not (_is_state(tables[usual]) and _is_state(tables[mean])):
        return
    plain, running = (
        {k.removeprefix("module."): v for k, v in tables[name].items()} for name in (usual, mean)
    )
    shared = plain.keys() & running.keys()
    if shared and not all(torch.equal(plain[k], running[k]) for k in shared):
        one = f"torch.save(torch.load('{file.name}')['{mean}'], 'meant.pth')"
        limit = f"holds weights under '{usual}' and a running mean of them under '{mean}'"
        raise ModelError(f"{file}", limit, f"Save the one that is meant: {one}")


def _without_profile(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """``state`` without the counts that thop leaves in a net that it measured."""
    odd = [k for k in state if k.rpartition(".")[2] in _PROFILE and k not in own]
    return {k: v for k, v in state.items() if k not in odd} if odd else state


def _with_counters(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``state`` with the net's own counters of batches where it lacks exactly those."""
    lacking = own.keys() - state.keys()
    if not lacking or not all(key.endswith(_COUNTER) for key in lacking):
        return state
    return {**state, **{key: own[key] for key in lacking}}


def _with_keys_of(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``state`` without what wrappers put before and within its keys, or as it is where none of
    that leaves the keys of ``own``."""
    plain = {key.replace(_COMPILED, ""): value for key, value in state.items()}
    for candidate in (_with_counters(own, state), _with_counters(own, plain)):
        if candidate.keys() == own.keys():
            return candidate

    first = next(iter(own), "")
    prefixes = [key.removesuffix(first) for key in plain if key.endswith(f".{first}")]
    fitting = []
    for prefix in prefixes:
        within = {k.removeprefix(prefix): v for k, v in plain.items() if k.startswith(prefix)}
        inner = _with_counters(own, within)
        if inner.keys() == own.keys():
            fitting.append(inner)
    return fitting[0] if len(fitting) == 1 else state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}", f"not readable as safetensors ({_first_line(error)})", "fetch it anew"
        ) from error


def _unpickle_weights(path: Path) -> Any:
    try:
        with warnings.catch_warnings():  # torch remarks on pickle protocols; what matters is raised
            warnings.simplefilter("ignore", UserWarning)
            with torch.serialization.safe_globals(_INERT):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}",
            "is a pickle of more than weights, and opening it could run any code",
            "save model.state_dict() and name module:factory with --weights, or save TorchScript "
            "or torch.export",
        ) from error
    except Exception as error:  # torch.load raises whatever it met
        raise ModelError(
            f"{path}", f"damaged or not a torch file ({_first_line(error)})", "fetch it anew"
        ) from error


@contextlib.contextmanager
def _working_folder_importable() -> Iterator[None]:
    folder = os.getcwd()  # noqa: PTH109 - sys.path holds text
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if added:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
