"""Table of the presets for docs/eot.md; a test holds the page to it.

python -m physadv.eot.preset_table
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

from physadv.core.files import write_text
from physadv.eot.presets import PRESETS, SOURCES
from physadv.eot.ranges import EotRanges
from physadv.eot.stage import Range

BEGIN, END = "<!-- presets -->", "<!-- end of presets -->"


def presets_table() -> str:
    """Return Markdown: one line a parameter, one column a preset; a dash where the effect is
    off."""
    head = f"| parameter | {' | '.join(PRESETS)} |\n|---|{'---|' * len(PRESETS)}\n"
    lines = []
    for field in fields(EotRanges):
        cells = [_cell(field.name, ranges) for ranges in PRESETS.values()]
        lines.append(f"| `{field.name}` | {' | '.join(cells)} |\n")
    sources = "".join(f"- `{name}`: {text}.\n" for name, text in SOURCES.items())
    return f"{head}{''.join(lines)}\n{sources}"


def _cell(name: str, ranges: EotRanges) -> str:
    if not ranges.acts(name):
        return "-"
    low, high = bounds = getattr(ranges, name)
    return _number(low) if low == high else _span(bounds)


def _span(bounds: Range) -> str:
    return f"{_number(bounds[0])} to {_number(bounds[1])}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _main(page: Path) -> None:
    """Put the table into the page between its two marks."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    write_text(page, f"{before}{BEGIN}\n\n{presets_table()}\n{END}{after}")


if __name__ == "__main__":
    _main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/eot.md"))
