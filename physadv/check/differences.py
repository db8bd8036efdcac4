"""Difference that the patch makes against its controls, with an interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from physadv.check.rates import BlockRates
from physadv.core.rows import Row
from physadv.evaluation.metrics.intervals import (
    DifferenceInterval,
    difference_interval,
    paired_difference,
)


def control_differences(
    table: Mapping[str, BlockRates],
    rows: Iterable[Row],
    *,
    simulation: bool,
    sequential: bool = False,
) -> dict[str, DifferenceInterval]:
    """Return the patch's success less that of each control with frames.

    Clips of the twin show all blocks along the same path in the same light, so their frames are
    compared one by one; filmed blocks are compared by their rates.

    Args:
        table: Rates by block.
        rows: Rows of the check.
        simulation: Whether the frames are those of the twin.
        sequential: Whether the data could decide when filming ended.

    Returns:
        The difference by control, "clean" and "blank"; empty without the patch.

    Example:
        >>> from physadv.check.rates import tabulate_rates
        >>> rows = [
        ...     {"block": b, "clip": f"{b}-{k}", "frame": 0, "true": True, "success": b == "patch"}
        ...     for b in ("blank", "patch")
        ...     for k in range(8)
        ... ]
        >>> print(control_differences(tabulate_rates(rows), rows, simulation=True)["blank"])
        +100.0 points [+26.1, +100.0]
    """
    if "patch" not in table:
        return {}

    outcomes: dict[str, dict[tuple[str, int], bool]] = {block: {} for block in table}
    for row in rows:
        path = str(row["clip"]).removeprefix(f"{row['block']}-")
        outcomes[row["block"]][path, int(row.get("frame", -1))] = bool(row["success"])

    differences = {}
    for block in ("clean", "blank"):
        if block not in table:
            continue
        first, second = outcomes[block], outcomes["patch"]
        # Frames that were left out of one block alone have no partner, and would bias the rest.
        if simulation and first.keys() == second.keys():
            frames = sorted(second)
            differences[block] = paired_difference(
                [first[frame] for frame in frames],
                [second[frame] for frame in frames],
                [path for path, _ in frames],
                sequential=sequential,
            )
        else:
            differences[block] = difference_interval(table[block].attack, table["patch"].attack)
    return differences
