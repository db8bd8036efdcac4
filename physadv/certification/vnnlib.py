"""Reading of VNNLIB files: properties of a network as sets of inputs and the outputs that none of
them may reach.

The part of the language that the competitions of neural network verification use is read: bounds on
single inputs and linear constraints on outputs, joined by ``and`` and ``or``. A file describes a
counterexample: the property holds where no input within the bounds has such outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physadv.certification.bounds.branch_and_bound import Clause
from physadv.core.errors import DataError
from physadv.core.parsing import parse_number
from physadv.core.text import read_text

_MOST_BYTES = 1 << 25
_MOST_VARIABLES = 1_000_000
_MOST_CASES = 10_000
_MOST_TERMS = 8_000_000
"""Most constraints of all cases together."""
_MOST_COEFFICIENTS = 1 << 26
_DEEPEST = 64
_TOKEN = re.compile(r"[()]|[^\s()]+")
_VARIABLE = re.compile(r"([XY])_(\d{1,7})", re.ASCII)
_REMEDY = "Correct the file"


@dataclass(frozen=True)
class VnnlibCase:
    """A box of inputs, and the outputs that none of them may reach.

    Attributes:
        lower: Least inputs (n,), float64.
        upper: Largest inputs (n,).
        clauses: Sets of outputs.
    """

    lower: Tensor
    upper: Tensor
    clauses: tuple[Clause, ...]


@dataclass(frozen=True)
class VnnlibProperty:
    """A property: that no input of a case reaches a clause of it.

    Attributes:
        inputs: Number of inputs.
        outputs: Number of outputs.
        cases: The cases; none where no input is within the bounds.
    """

    inputs: int
    outputs: int
    cases: tuple[VnnlibCase, ...]


@dataclass(frozen=True)
class _Constraint:
    """sum of factor times variable, plus ``constant``, <= 0; variables are ("X", 3) and so on."""

    factors: tuple[tuple[tuple[str, int], float], ...]
    constant: float


_Conjunction = tuple[_Constraint, ...]


def read_vnnlib(path: str | Path) -> VnnlibProperty:
    """Read a VNNLIB file.

    Args:
        path: The file.

    Returns:
        The property.

    Raises:
        DataError: The file cannot be read, is not of this part of the language, leaves an input
            without bounds, or describes too much.
    """
    text = read_text(path, most_bytes=_MOST_BYTES)
    return parse_vnnlib(text, str(path))


def parse_vnnlib(text: str, name: str = "property") -> VnnlibProperty:
    """Parse the text of a VNNLIB file.

    Args:
        text: The text.
        name: Name of the file, for errors.

    Raises:
        DataError: As :func:`read_vnnlib`.

    Example:
        >>> from physadv.certification.vnnlib import parse_vnnlib
        >>> found = parse_vnnlib(
        ...     "(declare-const X_0 Real) (declare-const Y_0 Real)"
        ...     "(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (<= Y_0 -2.5))"
        ... )
        >>> found.cases[0].upper.tolist(), found.cases[0].clauses[0].shift.tolist()
        ([1.0], [2.5])
    """
    declared: set[tuple[str, int]] = set()
    common: list[_Constraint] = []
    choices: list[list[_Conjunction]] = []
    for form in _forms(text, name):
        head = form[0] if form else ""
        if head in ("declare-const", "declare-fun"):
            declared.add(_declared(form, name))
        elif head == "assert" and len(form) == 2:
            cases = _conjunctions(form[1], name)
            if len(cases) == 1:
                common.extend(cases[0])
            else:
                choices.append(cases)
        elif head not in ("set-logic", "set-info", "set-option", "check-sat", "exit"):
            raise _error(name, f"'{str(head)[:40]}' is not known")
    return _property(declared, common, choices, name)


def _error(name: str, what: str) -> DataError:
    return DataError(
        f"'{name}': {what}",
        "Only VNNLIB of bounds on inputs and linear constraints on outputs is read",
        _REMEDY,
    )


def _forms(text: str, name: str) -> Iterator[list[Any]]:
    """Yield every form of the text: nested lists of words."""
    stack: list[list[Any]] = []
    for line in text.splitlines():
        for token in _TOKEN.findall(line.partition(";")[0]):
            if token == "(":
                if len(stack) >= _DEEPEST:
                    raise _error(name, f"forms are nested deeper than {_DEEPEST}")
                stack.append([])
            elif not stack:
                raise _error(name, f"'{token[:40]}' stands outside of a form")
            elif token == ")":
                done = stack.pop()
                if stack:
                    stack[-1].append(done)
                else:
                    yield done
            else:
                stack[-1].append(token)
    if stack:
        raise _error(name, "it ends within a form")


def _declared(form: list[Any], name: str) -> tuple[str, int]:
    between: list[list[str]] = [[]] if form[0] == "declare-fun" else []
    if form[2:] != [*between, "Real"] or not isinstance(form[1], str):
        raise _error(name, "a declaration is of no real number")
    return _variable(form[1], name)


def _variable(word: str, name: str) -> tuple[str, int]:
    match = _VARIABLE.fullmatch(word)
    if match is None or int(match[2]) >= _MOST_VARIABLES:
        raise _error(name, f"'{word[:40]}' is none of X_0, X_1, ..., Y_0, Y_1, ...")
    return match[1], int(match[2])


def _conjunctions(form: Any, name: str) -> list[_Conjunction]:
    """Return the cases of a formula, each a conjunction of constraints."""
    head = form[0] if isinstance(form, list) and form else ""
    if head == "or":
        return [case for part in form[1:] for case in _conjunctions(part, name)]
    if head == "and":
        parts = [_conjunctions(part, name) for part in form[1:]]
        common = _joined(part[0] for part in parts if len(part) == 1)
        return _product([part for part in parts if len(part) != 1], common, name)
    if head in ("<=", ">=", "<", ">") and len(form) == 3:
        first, second = (_linear(part, name) for part in form[1:])
        low, high = (first, second) if head.startswith("<") else (second, first)
        return [(_difference(low, high),)]
    raise _error(name, f"'{str(head)[:40]}' is no and, or, <= or >= of two terms")


def _joined(parts: Iterator[_Conjunction]) -> _Conjunction:
    return tuple(constraint for part in parts for constraint in part)


def _product(
    choices: Sequence[Sequence[_Conjunction]], common: _Conjunction, name: str
) -> list[_Conjunction]:
    """Return every choice of one case each, together with what is common."""
    count = 1
    for cases in choices:
        count *= len(cases)
        if count > _MOST_CASES:
            raise _error(name, f"it has more than {_MOST_CASES:,} cases")
    longest = len(common) + sum(max(map(len, cases), default=0) for cases in choices)
    if count * longest > _MOST_TERMS:
        raise _error(name, f"its cases have more than {_MOST_TERMS:,} constraints")
    return [(*common, *_joined(iter(chosen))) for chosen in product(*choices)]


def _linear(form: Any, name: str) -> _Constraint:
    """Return a linear term as factors and a constant."""
    if isinstance(form, str):
        if form[0] in "XY":
            return _Constraint(((_variable(form, name), 1.0),), 0.0)
        return _Constraint((), parse_number(form, "a number", name, most=1e30))
    head = form[0] if form else ""
    parts = [_linear(part, name) for part in form[1:]]
    if head == "+" and parts:
        return _total(parts)
    if head == "-" and len(parts) == 1:
        return _scaled(parts[0], -1.0)
    if head == "-" and len(parts) > 1:
        return _total([parts[0], *(_scaled(part, -1.0) for part in parts[1:])])
    if head == "*" and len(parts) == 2:
        for factor, other in (parts, parts[::-1]):
            if not factor.factors:
                return _scaled(other, factor.constant)
    raise _error(name, f"'{str(head)[:40]}' is no linear term")


def _total(parts: Sequence[_Constraint]) -> _Constraint:
    factors: dict[tuple[str, int], float] = {}
    for part in parts:
        for variable, factor in part.factors:
            factors[variable] = factors.get(variable, 0.0) + factor
    return _Constraint(tuple(factors.items()), sum(part.constant for part in parts))


def _scaled(part: _Constraint, factor: float) -> _Constraint:
    return _Constraint(tuple((v, f * factor) for v, f in part.factors), part.constant * factor)


def _difference(low: _Constraint, high: _Constraint) -> _Constraint:
    return _total([low, _scaled(high, -1.0)])


def _property(
    declared: set[tuple[str, int]],
    common: list[_Constraint],
    choices: list[list[_Conjunction]],
    name: str,
) -> VnnlibProperty:
    """Return the property of everything that was asserted."""
    inputs, outputs = (sum(kind == letter for kind, _ in declared) for letter in "XY")
    largest = {kind: max((i for k, i in declared if k == kind), default=-1) + 1 for kind in "XY"}
    if largest != {"X": inputs, "Y": outputs} or not inputs or not outputs:
        raise _error(name, "its inputs and outputs are not X_0, X_1, ... and Y_0, Y_1, ...")

    lower = torch.full((inputs,), -torch.inf, dtype=torch.float64)
    upper = -lower
    base_rows = _apply(common, lower, upper, declared, name)
    cases: dict[tuple[bytes, bytes], tuple[Tensor, Tensor, list[Clause]]] = {}
    total = 0
    for chosen in _product(choices, (), name):
        low, high = lower.clone(), upper.clone()
        rows = [*base_rows, *_apply(chosen, low, high, declared, name)]
        total += len(rows) * outputs + inputs
        if total > _MOST_COEFFICIENTS:
            raise _error(name, "its cases have too many coefficients")
        if not rows:
            raise _error(name, "a case has no constraint on the outputs")
        if not bool((low.isfinite() & high.isfinite()).all()):
            raise _error(name, "an input has no bounds")
        if bool((low > high).any()):
            continue  # no input is in this case
        key = low.numpy().tobytes(), high.numpy().tobytes()
        cases.setdefault(key, (low, high, []))[2].append(_clause(rows, outputs))
    return VnnlibProperty(
        inputs, outputs, tuple(VnnlibCase(low, high, tuple(c)) for low, high, c in cases.values())
    )


def _apply(
    constraints: Sequence[_Constraint],
    lower: Tensor,
    upper: Tensor,
    declared: set[tuple[str, int]],
    name: str,
) -> list[_Constraint]:
    """Cut the box by the constraints on single inputs, and return those on outputs."""
    rows = []
    for constraint in constraints:
        factors = [(v, f) for v, f in constraint.factors if f != 0]
        if any(variable not in declared for variable, _ in factors):
            raise _error(name, "a variable is not declared")
        kinds = {kind for (kind, _), _ in factors}
        if kinds == {"X"} and len(factors) == 1:
            ((_, place), factor) = factors[0]
            bound = -constraint.constant / factor
            if factor > 0:
                upper[place] = min(float(upper[place]), bound)
            else:
                lower[place] = max(float(lower[place]), bound)
        elif kinds <= {"Y"}:
            rows.append(_Constraint(tuple(factors), constraint.constant))
        else:
            raise _error(name, "a constraint is of several inputs, or of inputs and outputs")
    return rows


def _clause(constraints: Sequence[_Constraint], outputs: int) -> Clause:
    rows = torch.zeros((len(constraints), outputs), dtype=torch.float64)
    for i, constraint in enumerate(constraints):
        for (_, place), factor in constraint.factors:
            rows[i, place] = factor
    shift = torch.tensor([c.constant for c in constraints], dtype=torch.float64)
    return Clause(rows, shift)
