"""Cut the sign typefaces down to the letters that stop signs have, from npm's @fontsource packages.

    npm install @fontsource/overpass ... && pip install fonttools brotli
    python scripts/subset_typefaces.py node_modules/@fontsource

Writes the fonts, as TrueType without hinting, and one LICENSE.txt with every copyright notice into
physadv/eot/scenes/typefaces/. Only typefaces without a Reserved Font Name are taken, since the
SIL Open Font License lets a changed version of others not keep its name.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from fontTools import subset

TARGET = Path(__file__).resolve().parents[1] / "physadv" / "eot" / "scenes" / "typefaces"
LATIN, CYRILLIC, CHINESE = "STOPALREDUÊ", "СТОП", "停"
SOURCES = {
    "overpass": ("overpass", "latin-800", LATIN),
    "barlow-condensed": ("barlow-condensed", "latin-700", LATIN),
    "barlow-semi-condensed": ("barlow-semi-condensed", "latin-700", LATIN),
    "roboto-condensed": ("roboto-condensed", "latin-700", LATIN),
    "roboto-condensed-cyrillic": ("roboto-condensed", "cyrillic-700", CYRILLIC),
    "oswald": ("oswald", "latin-600", LATIN),
    "public-sans": ("public-sans", "latin-700", LATIN),
    "asap-condensed": ("asap-condensed", "latin-700", LATIN),
    "cabin-condensed": ("cabin-condensed", "latin-700", LATIN),
    "archivo-narrow": ("archivo-narrow", "latin-700", LATIN),
    "sofia-sans-condensed": ("sofia-sans-condensed", "latin-800", LATIN),
    "bebas-neue": ("bebas-neue", "latin-400", LATIN),
    "b612": ("b612", "latin-700", LATIN),
    "noto-sans-sc": ("noto-sans-sc", "chinese-simplified-700", CHINESE),
}
"""Package, file and letters of each typeface."""


def cut_typeface(packages: Path, name: str) -> int:
    """Write the typeface ``name`` with its letters alone; return its size in bytes."""
    package, part, letters = SOURCES[name]
    options = subset.Options()
    options.layout_features, options.hinting, options.notdef_outline = [], False, False
    options.name_IDs, options.glyph_names = [0, 1, 2, 13, 14], False
    font = subset.load_font(
        packages / package / "files" / f"{package}-{part}-normal.woff2", options
    )
    cutter = subset.Subsetter(options)
    cutter.populate(text=letters)
    cutter.subset(font)
    font.flavor = None
    missing = set(map(ord, letters)) - set(font.getBestCmap())
    if missing:
        raise SystemExit(f"{name}: no glyph for {', '.join(map(chr, missing))}")
    target = TARGET / f"{name}.ttf"
    font.save(target)
    return target.stat().st_size


def main() -> None:
    """Cut every typeface and gather the notices."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path, help="node_modules/@fontsource")
    packages = parser.parse_args().packages
    TARGET.mkdir(exist_ok=True)
    sizes = {name: cut_typeface(packages, name) for name in SOURCES}

    notices, terms = [], ""
    for package in sorted({package for package, _, _ in SOURCES.values()}):
        text = (packages / package / "LICENSE").read_text(encoding="utf-8")
        if "reserved font name" in text.partition("This Font Software")[0].lower():
            raise SystemExit(f"{package} has a Reserved Font Name")
        # The first line repeats one notice for each file of the typeface.
        notices.append(f"{package}: {re.split(r' [^ ]+[.]ttf: ', text.splitlines()[0])[0]}")
        terms = text[text.index("This Font Software") :]
    intro = "Letters cut from these typefaces, each under the license below:\n\n"
    license_text = intro + "\n".join(notices) + "\n\n" + terms
    (TARGET / "LICENSE.txt").write_text(license_text, encoding="utf-8")
    print(sizes)


if __name__ == "__main__":
    main()
