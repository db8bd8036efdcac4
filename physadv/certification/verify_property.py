"""Verification of VNNLIB properties of a network by branch and bound."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from physadv.certification.bounds.branch_and_bound import (
    FALSIFIED,
    TIMEOUT,
    VERIFIED,
    verify_clauses,
)
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.graph_check import evaluated
from physadv.certification.bounds.input_ball import InputBox
from physadv.certification.bounds.rounding import rounding_of_margins
from physadv.certification.bounds.tracing import folded_graph
from physadv.certification.bounds.verify import TIME_LIMIT
from physadv.certification.vnnlib import VnnlibProperty, read_vnnlib
from physadv.core.errors import DataError, OptionError, PhysadvError
from physadv.core.parsing import parse_number
from physadv.core.text import read_text
from physadv.core.wording import count_noun
from physadv.models.onnx_model import load_onnx_model

_MOST_INSTANCES = 100_000
REFUSED = "refused"
"""Verdict on a property that cannot be read, or whose network cannot be bounded."""


@dataclass(frozen=True)
class PropertyResult:
    """Outcome of a property.

    Attributes:
        verdict: "verified", "falsified" or "timeout".
        counterexample: Inputs (n,) that break it, where falsified; float64.
        outputs: What the network returns for them (m,).
        parts: Number of parts of the input region that were bounded.
        seconds: Time it took.
    """

    verdict: str
    counterexample: Tensor | None
    outputs: Tensor | None
    parts: int
    seconds: float

    def as_row(self) -> dict[str, Any]:
        """Return the outcome as plain values."""
        lists = {"counterexample": self.counterexample, "outputs": self.outputs}
        return {
            "verdict": self.verdict,
            "seconds": round(self.seconds, 3),
            "parts": self.parts,
            **{name: value.tolist() for name, value in lists.items() if value is not None},
        }


@dataclass(frozen=True)
class Instance:
    """A network and a property of it, as a line of an instances.csv names them.

    Attributes:
        model: Path of the ONNX file.
        property: Path of the VNNLIB file.
        time_limit: Seconds that the line allows; None where it names none.
    """

    model: Path
    property: Path
    time_limit: float | None


def property_graph(model: nn.Module, shape: tuple[int, ...]) -> LayerGraph:
    """Return the graph of a network, for several properties of it.

    Args:
        model: Network from inputs (b, *shape) to outputs (b, m).
        shape: Shape of an input.

    Raises:
        ModelError: Bounds cannot pass one of its operations.
    """
    return folded_graph(model, shape, least_outputs=1)


@torch.no_grad()
def verify_property(
    model: nn.Module,
    required: VnnlibProperty | str | Path,
    shape: tuple[int, ...],
    *,
    graph: LayerGraph | None = None,
    time_limit: float = TIME_LIMIT,
    seed: int = 0,
) -> PropertyResult:
    """Prove a property of a network, or find inputs that break it.

    Args:
        model: Network from inputs (b, *shape) to outputs (b, m).
        required: The property, or its file.
        shape: Shape of an input; the property numbers its values in order.
        graph: Graph of the network from :func:`property_graph`; None makes it.
        time_limit: Seconds after which the search gives up.
        seed: Seed of the attack that comes before the search.

    Returns:
        The verdict; a counterexample is one by the network's own outputs.

    Raises:
        DataError: The property cannot be read, or has other numbers of inputs or outputs.
        ModelError: Bounds cannot pass an operation of the network.

    Example:
        >>> import torch
        >>> from physadv.certification.vnnlib import parse_vnnlib
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU())
        >>> never_negative = parse_vnnlib(
        ...     "(declare-const X_0 Real) (declare-const Y_0 Real)"
        ...     "(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (<= Y_0 -0.5))"
        ... )
        >>> verify_property(net, never_negative, (1,)).verdict
        'verified'
    """
    start = time.monotonic()
    wanted = required if isinstance(required, VnnlibProperty) else read_vnnlib(required)
    graph = graph or property_graph(model, shape)
    inputs = int(torch.Size(shape).numel())
    if (wanted.inputs, wanted.outputs) != (inputs, graph.classes):
        raise DataError(
            f"a property of {count_noun(wanted.inputs, 'input')} and "
            f"{count_noun(wanted.outputs, 'output')}",
            f"this network has {inputs} and {graph.classes}",
            "Name the network that it belongs to",
        )

    own = next((t for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()), None)
    like = torch.zeros((), dtype=torch.float32) if own is None else own
    parts, verdict = 0, VERIFIED
    for case in wanted.cases:
        clauses = case.clauses

        def breaks(point: Tensor, number: int, clauses: tuple[Any, ...] = clauses) -> bool:
            with evaluated(model):
                outputs = model(point.to(like)).double().cpu()[0]
            values = clauses[number].rows @ outputs + clauses[number].shift
            return bool((values <= 0).all())

        box = InputBox.between(*(end.view(1, *shape) for end in (case.lower, case.upper)))
        result = verify_clauses(
            graph,
            box,
            clauses,
            check=breaks,
            rounding=float(rounding_of_margins(graph.traced or graph, box.center.to(like))),
            time_limit=max(time_limit - (time.monotonic() - start), 0.0),
            seed=seed,
        )
        parts += result.parts
        if result.verdict == FALSIFIED and result.counterexample is not None:
            point = result.counterexample
            with evaluated(model):
                outputs = model(point[None].to(like)).double().cpu()[0]
            return PropertyResult(
                FALSIFIED, point.flatten(), outputs, parts, time.monotonic() - start
            )
        verdict = verdict if result.verdict == VERIFIED else TIMEOUT
    return PropertyResult(verdict, None, None, parts, time.monotonic() - start)


def read_instances(path: str | Path, model: str | Path | None = None) -> list[Instance]:
    """Read what to verify: one VNNLIB file, an instances.csv, or the folder that holds one.

    Args:
        path: A VNNLIB file; a file of lines "network, property, seconds" whose paths are relative
            to its folder; or a folder with such a file, named instances.csv or ..._instances.csv.
        model: The network of a single VNNLIB file; beside a list, which names its own, it picks the
            lines of this network.

    Returns:
        The instances in the order of the file.

    Raises:
        DataError: The file cannot be read, or names paths outside of its folder.
        OptionError: A single property without a network, or no line is of this network.
    """
    file = Path(path)
    if file.is_dir():
        lists = sorted(file.glob("*instances.csv"))
        if len(lists) != 1:
            raise DataError(
                f"'{file}' holds {count_noun(len(lists), 'file')} *instances.csv",
                "One is needed",
                "Name the file",
            )
        file = lists[0]
    if file.suffix != ".csv":
        if model is None:
            raise OptionError(
                "a property without a network", "One is needed", "Add --model net.onnx"
            )
        return [Instance(Path(model), file, None)]

    instances = []
    lines = [line.split(",") for line in read_text(file).splitlines()]
    for number, line in enumerate(lines, 1):
        words = [word.strip() for word in line]
        if not any(words):
            continue
        if len(words) not in (2, 3) or number > _MOST_INSTANCES:
            raise DataError(
                f"'{file}:{number}'", "Lines are: network, property, seconds", "Correct the line"
            )
        paths = [_inside(file, word, number) for word in words[:2]]
        seconds = _seconds(words[2], file, number) if len(words) > 2 else None
        if model is None or paths[0].name == Path(model).name:
            instances.append(Instance(paths[0], paths[1], seconds))
    if not instances:
        raise OptionError(f"model '{model}'", f"no line of '{file}' is of it", "Leave it out")
    return instances


def verify_instances(
    instances: Sequence[Instance],
    *,
    time_limit: float = TIME_LIMIT,
    seed: int = 0,
    keep_refused: bool = False,
) -> Iterator[dict[str, Any]]:
    """Verify instances one after the other, and yield a row each: its files, the verdict, seconds,
    CPU seconds, parts and, where falsified, the counterexample with the outputs.

    Args:
        instances: Networks and properties, from :func:`read_instances`.
        time_limit: Most seconds an instance; one that names less has less.
        seed: Seed of the attacks.
        keep_refused: Whether what the errors below refuse becomes a row of the verdict "refused"
            with its ``reason``, and the others go on.

    Raises:
        ModelError: A network cannot be read, or bounds cannot pass one of its operations.
        DataError: A property cannot be read or does not fit its network.
    """
    loaded: tuple[Path, nn.Module, tuple[int, ...], LayerGraph] | None = None
    refusal: tuple[Path, PhysadvError] | None = None
    for instance in instances:
        seconds = min(time_limit, instance.time_limit or time_limit)
        row: dict[str, Any] = {
            "model": instance.model.name,
            "property": instance.property.name,
            "limit": seconds,
        }
        start, cpu_start = time.monotonic(), time.process_time()
        try:
            if refusal is not None and refusal[0] == instance.model:
                raise refusal[1]
            if loaded is None or loaded[0] != instance.model:
                try:
                    loaded = (instance.model, *load_instance(instance))
                except PhysadvError as error:
                    refusal = instance.model, error
                    raise
            _, model, shape, graph = loaded
            result = verify_property(
                model, instance.property, shape, graph=graph, time_limit=seconds, seed=seed
            )
            row |= result.as_row()
        except PhysadvError as error:
            if not keep_refused:
                raise
            spent = round(time.monotonic() - start, 3)
            row |= {"verdict": REFUSED, "seconds": spent, "parts": 0, "reason": str(error)}
        yield {**row, "cpu_seconds": round(time.process_time() - cpu_start, 3)}


def load_instance(instance: Instance) -> tuple[nn.Module, tuple[int, ...], LayerGraph]:
    """Return network, shape of an input and graph of an instance.

    Raises:
        ModelError: The network cannot be read, or bounds cannot pass one of its operations.
        DataError: A side of its input is free.
    """
    model = load_onnx_model(instance.model)
    if any(side is None for side in model.input_shape):
        raise DataError(
            f"'{instance.model}' takes inputs of any size", "A fixed one is needed", "Export it so"
        )
    shape = tuple(side for side in model.input_shape if side is not None)
    return model, shape, property_graph(model, shape)


def _inside(file: Path, word: str, number: int) -> Path:
    """Return the path of a line, below the folder of its file."""
    path = Path(word)
    if path.is_absolute() or ".." in path.parts or not word:
        raise DataError(
            f"'{file}:{number}' names '{word[:80]}'",
            "Only paths below its folder are read",
            "Correct the line",
        )
    return file.parent / path


def _seconds(word: str, file: Path, number: int) -> float:
    return parse_number(word, "the time limit", f"{file}:{number}", most=1e6)
