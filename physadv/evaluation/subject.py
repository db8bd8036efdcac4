"""What an evaluation is of, read alike for classifiers and detectors: the model and the threat."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from physadv.attacks._classifier_step import frozen_eval
from physadv.core.errors import ModelError, OptionError
from physadv.core.files import digest_of
from physadv.core.plain_attributes import attribute_digests
from physadv.core.tensor_digests import named_state, tensor_bytes
from physadv.core.tensors import device_of
from physadv.datasets.class_matching import LabelMap
from physadv.defenses.load_model import load_model
from physadv.evaluation.progress_log import CHANGING
from physadv.models.black_box import black_box_within
from physadv.models.cards import LoadedModel
from physadv.models.load import as_model
from physadv.models.loading import pick_device
from physadv.models.preserved_state import preserved_state
from physadv.threat.constraints import LpBall
from physadv.threat.parsing import NormLike, parse_norm, parse_threat

_OTHER_TASK = {
    "classify": (
        "a classifier is needed, and this is a detector",
        "use physadv.evaluate_detector, or make_patch",
    ),
    "detect": ("A detector is needed, and this is a classifier", "Use physadv.evaluate"),
}


def ball_of(
    threat: str | tuple[NormLike, str | float] | LpBall, *, eight_bit: bool, sparse: bool = False
) -> LpBall:
    """Return the ball that ``threat`` names.

    Args:
        threat: Norm and radius.
        eight_bit: Whether images are of 8 bits.
        sparse: Whether l_0, a number of pixels, is a norm as well.

    Raises:
        OptionError: ``threat`` cannot be read.
    """
    levels = 255 if eight_bit else None
    if isinstance(threat, LpBall):
        parse_norm(threat.norm, sparse=sparse)
        return replace(threat, levels=levels) if eight_bit else threat
    norm, eps = parse_threat(threat, sparse=sparse)
    return LpBall(norm, eps, levels)


def load_subject(
    model: nn.Module | str | Path,
    task: str,
    weights: str | Path | None,
    device: str | torch.device | None,
    settings: Mapping[str, Any],
) -> LoadedModel:
    """Return the model under test with its card, on its device; a module is copied.

    Args:
        model: A module, or the name, file or ``module:factory`` of one.
        task: What it has to do: "classify" or "detect".
        weights: State dict for a named model.
        device: Where to compute; None is the module's own, the CPU for a name.
        settings: How a model of the user's own is read.

    Raises:
        ModelError: It cannot be loaded, or does something else.
        OptionError: Weights or settings for a module, which carries its own.
    """
    if isinstance(model, str | Path):
        loaded = load_model(model, weights=weights, device=device or "cpu", settings=settings)
    elif settings:
        raise OptionError(
            f"model_settings {', '.join(settings)}",
            "A module is wrapped with its settings by as_model",
            "Pass as_model(module, ...)",
        )
    elif weights is not None:
        raise OptionError(
            f"weights {weights}", "a module carries its own", "load them into the module"
        )
    else:
        loaded = as_model(model)
        loaded = loaded if device is None else loaded.to(pick_device(device))
    if loaded.card.task != task:
        raise ModelError(f"model {loaded.card.name!r}", *_OTHER_TASK[task])
    return loaded


def state_facts(model: LoadedModel) -> dict[str, str]:
    """Return the hash of a model that has no file of its own, as a fact of a run."""
    return {} if model.card.sha256 else {"model_state": state_digest(model)}


def attribute_facts(model: nn.Module, image: Tensor) -> dict[str, str]:
    """Return the hash of each plain attribute of a model's layers by its name, such as that of a
    temperature, which a run that resumes has to share.

    The model is asked once; what that changes, such as a counter or a cache, is said to change and
    is not compared. A model that only answers is not asked.

    Args:
        model: The model under test.
        image: Image (1, c, h, w) in [0, 1] to ask it about.

    Example:
        >>> attribute_facts(nn.Flatten(), torch.rand(1, 3, 2, 2)).keys()
        dict_keys(['classes of layers', 'end_dim', 'start_dim'])
    """
    before = attribute_digests(model)
    if black_box_within(model) is None:
        device = device_of(model) or image.device
        # What is wrong with the model is told where the run begins to work.
        kept = preserved_state(device=device)
        with kept, frozen_eval(model), torch.no_grad(), suppress(Exception):
            model(image.to(device))
    after = attribute_digests(model)
    return {
        name: after[name] if before.get(name) == after.get(name) else CHANGING
        for name in sorted(before.keys() | after.keys())
    }


def model_digest(model: nn.Module, image: Tensor) -> str:
    """Return one hash of the tensors of ``model``, and after a dash one of its plain attributes,
    but for those that change when it is asked about ``image`` (1, c, h, w)."""
    attributes = attribute_facts(model, image)
    kept = repr([pair for pair in attributes.items() if pair[1] != CHANGING])
    return f"{state_digest(model)}-{digest_of(kept.encode())}"


def is_same_model(one: str, other: str) -> bool:
    """Return whether two hashes of :func:`model_digest` are of one model; those of earlier versions
    are of the tensors alone.

    Example:
        >>> is_same_model("12-34", "12"), is_same_model("12-34", "12-56")
        (True, False)
    """
    return all(a == b for a, b in zip(one.split("-"), other.split("-"), strict=False))


def state_digest(model: nn.Module) -> str:
    """Return a hash of the parameters and buffers of ``model``, by which a run that resumes knows
    it again: a module and a factory have no file.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> before = state_digest(net)
        >>> _ = net.weight.data.add_(1)
        >>> state_digest(net) == before
        False
    """
    digest = hashlib.sha256()
    for name, tensor in named_state(model):
        digest.update(name)
        update_digest(digest, tensor)
    return digest.hexdigest()[:16]


def update_digest(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Add the numbers of ``tensor`` to ``digest``; of one that has no bytes to read, as a sparse
    one, none."""
    with suppress(RuntimeError, NotImplementedError, TypeError, ValueError):
        digest.update(tensor_bytes(tensor))


def reading_facts(
    model_settings: Mapping[str, Any] | None, labels: LabelMap = None
) -> dict[str, str]:
    """Return the facts of a run that say how the model and the data's classes are read, which a
    run that resumes it has to share.

    Args:
        model_settings: How a model of the user's own is read.
        labels: The model's classes by class of the data.
    """
    facts = {}
    if model_settings:
        facts["model_settings"] = ", ".join(f"{k} {v}" for k, v in model_settings.items())
    if labels is not None:
        facts["labels"] = labels if isinstance(labels, str) else "a label map"
    return facts
