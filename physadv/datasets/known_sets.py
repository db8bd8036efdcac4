"""Class numbers and names of published data sets, by which folders and models are told apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from physadv.core.names import plain_name
from physadv.core.text import read_text

_LABEL_MAPS = Path(__file__).resolve().parent / "label_maps"
_SYNSET = re.compile(r"(n\d{8})(?![0-9a-z])")
_FILES = {
    "GTSRB": "gtsrb.txt",
    "CIFAR-10": "cifar10.txt",
    "CIFAR-100": "cifar100.txt",
    "MNIST": "mnist.txt",
    "Fashion-MNIST": "fashion_mnist.txt",
    "ImageNet": "imagenet.txt",
}


@dataclass(frozen=True)
class KnownSet:
    """Classes of a published data set, by their number.

    Attributes:
        name: Name of the set.
        aliases: Names of each class; the first is the one shown.

    Example:
        >>> signs = known_set("GTSRB")
        >>> len(signs.classes), signs.find("Speed limit (20km/h)"), signs.find("give way")
        (43, 0, None)
    """

    name: str
    aliases: tuple[tuple[str, ...], ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class."""
        return tuple(names[0] for names in self.aliases)

    def find(self, name: str) -> int | None:
        """Return the number of the class that ``name`` is a name of, however it is spelled; None
        for another name. A WordNet id may be followed by words, as in n01491361_tiger_shark."""
        synset = _SYNSET.match(name)
        return _numbers(self).get(plain_name(synset[1] if synset else name))


@cache
def known_set(name: str) -> KnownSet:
    """Return the known set called ``name``; the names are those of :func:`known_sets`."""
    lines = read_text(_LABEL_MAPS / _FILES[name]).splitlines()
    rows = [line.split(" | ") for line in lines if line and not line.startswith("#")]
    return KnownSet(name, tuple(tuple(row) for row in rows))


def known_sets() -> list[KnownSet]:
    """Return all known sets."""
    return [known_set(name) for name in _FILES]


def sets_with(names: Sequence[str]) -> list[KnownSet]:
    """Return the known sets that have a class for each of ``names``.

    Example:
        >>> [found.name for found in sets_with(["Cat", "dog"])]
        ['CIFAR-10']
        >>> sets_with(["cat", "unicorn"])
        []
    """
    return [known for known in known_sets() if all(known.find(n) is not None for n in names)]


@cache
def _numbers(known: KnownSet) -> dict[str, int]:
    """The number by each name in the form that spellings are compared in."""
    return {
        plain_name(name): number for number, names in enumerate(known.aliases) for name in names
    }
