"""Summary of what a data set was taken for: layout, part, classes, sizes, and what was skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from physadv.core.wording import count_noun
from physadv.datasets.class_matching import ClassMatch

CLASS_FOLDERS = "class folders"
"""Layout in which labels come from sorting the names of folders."""
_LISTED_CLASSES = 8
_LISTED_PAIRS = 6


@dataclass(frozen=True)
class DatasetSummary:
    """Facts that a run prints and records about its data.

    A reader fills in where the images come from; whoever chooses images and matches their classes
    to a model's adds the rest with :meth:`of_choice`.

    Attributes:
        path: Folder or file that was read.
        layout: Layout that was recognized, such as "class folders".
        part: Part that was read: "train", "val", "test", or "all".
        parts: Parts that are there; empty where the set has none.
        known_set: Name of the published set whose class numbers the labels are, such as "GTSRB".
        skipped: Number of files left out, by the reason.
        notes: Further facts in words, such as how labels were converted.
        counts: Number of images by class name.
        image_sizes: Sizes of the images, such as "32x32".
        mapping: The model's class by class name of the data.
        matched: Rule of that mapping, such as "by name".

    Example:
        >>> summary = DatasetSummary("signs", "class folders", "test", ("train", "test"))
        >>> print("\\n".join(summary.of_choice({"stop": 3}, image_sizes="32x32").lines()))
        class folders, part test of train, test; 3 images of 1 class: stop 3
        images 32x32
    """

    path: str = ""
    layout: str = "images in memory"
    part: str = "all"
    parts: tuple[str, ...] = ()
    known_set: str = ""
    skipped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    image_sizes: str = ""
    mapping: Mapping[str, str] = field(default_factory=dict)
    matched: str = ""

    def of_choice(
        self,
        counts: Mapping[str, int],
        *,
        image_sizes: str = "",
        mapping: Mapping[str, str] | None = None,
        matched: str = "",
        notes: Sequence[str] = (),
    ) -> DatasetSummary:
        """Return the summary of the images that a run uses.

        Args:
            counts: Number of images by class name.
            image_sizes: Sizes of the images.
            mapping: The model's class by class name of the data.
            matched: Rule of that mapping.
            notes: Facts to add.

        Returns:
            The completed summary.
        """
        return replace(
            self,
            counts=dict(counts),
            image_sizes=image_sizes,
            mapping=dict(mapping or {}),
            matched=matched,
            notes=(*self.notes, *notes),
        )

    def of_labels(
        self,
        labels: Sequence[int],
        classes: Sequence[str],
        *,
        match: ClassMatch | None = None,
        image_sizes: str = "",
        notes: Sequence[str] = (),
    ) -> DatasetSummary:
        """Return the summary of chosen images, by their labels.

        Args:
            labels: Label of each image.
            classes: Class names by label; a label beyond them is its own name.
            match: How the classes were matched with the model's; None where no model is asked.
            image_sizes: Sizes of the images.
            notes: Facts to add.

        Returns:
            The completed summary.
        """
        present = Counter(labels)
        names = {i: classes[i] if i < len(classes) else str(i) for i in present}
        counts = {name: present.get(i, 0) for i, name in enumerate(classes)}
        counts |= {names[i]: count for i, count in sorted(present.items())}
        mapping = {} if match is None else {names[i]: match.names[i] for i in sorted(present)}
        return self.of_choice(
            counts,
            image_sizes=image_sizes,
            mapping=mapping,
            matched="" if match is None else match.rule,
            notes=notes,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without those that say nothing."""
        table = {
            "layout": self.layout,
            "path": self.path,
            "part": self.part,
            "parts": list(self.parts),
            "images": sum(self.counts.values()),
            "images_by_class": dict(self.counts),
            "image_sizes": self.image_sizes,
            "classes_matched": self.matched,
            "class_mapping": dict(self.mapping),
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
        }
        return {key: value for key, value in table.items() if value not in ("", [], {})}

    def facts(self) -> dict[str, str]:
        """Return the summary in words, by heading, for a report."""
        words = {
            "Layout": self._layout_in_words(),
            "Images": self._counts_in_words(),
            "Image sizes": self.image_sizes,
            "Classes": self._mapping_in_words(),
            "Skipped": _listed(self.skipped),
            "Notes": "; ".join(self.notes),
        }
        return {heading: text for heading, text in words.items() if text}

    def lines(self) -> list[str]:
        """Return the summary as one or two lines for people."""
        words = self.facts()
        first = "; ".join(words[key] for key in ("Layout", "Images") if key in words)
        rest = [
            words.get("Classes", ""),
            f"images {self.image_sizes}" if self.image_sizes else "",
            f"skipped {words['Skipped']}" if self.skipped else "",
            words.get("Notes", ""),
        ]
        second = "; ".join(text for text in rest if text)
        return [line for line in (first, second) if line]

    def _layout_in_words(self) -> str:
        if not self.parts:
            whole = ", no parts: all of it" if self.layout != "images in memory" else ""
            return self.layout + whole
        part = "all parts" if self.part == "all" else f"part {self.part}"
        return f"{self.layout}, {part} of {', '.join(self.parts)}"

    def _counts_in_words(self) -> str:
        present = {name: count for name, count in self.counts.items() if count}
        if not present:
            return ""

        total = sum(present.values())
        images = count_noun(total, "image")
        absent = len(self.counts) - len(present)
        classes = count_noun(len(present), "class")
        if absent:
            classes += f" ({absent} without an image)"
        if len(present) <= _LISTED_CLASSES:
            between = ": " if any(name[:1].isdigit() for name in present) else " "
            each = ", ".join(f"{name}{between}{count}" for name, count in present.items())
            return f"{images} of {classes}: {each}"
        fewest = min(present, key=lambda name: present[name])
        most = max(present, key=lambda name: present[name])
        if present[fewest] == present[most]:
            return f"{images} of {classes}, {present[most]} each"
        return (
            f"{images} of {classes}: from {present[fewest]} of class {fewest} to "
            f"{present[most]} of class {most}"
        )

    def _mapping_in_words(self) -> str:
        if not self.matched:
            return ""
        changed = [f"{own} = {model}" for own, model in self.mapping.items() if own != model]
        if not changed:
            return f"classes {self.matched}"
        shown = ", ".join(changed[:_LISTED_PAIRS])
        more = f", and {len(changed) - _LISTED_PAIRS} more" if len(changed) > _LISTED_PAIRS else ""
        return f"classes {self.matched}: {shown}{more}"


class _Resizing(Protocol):
    """How images are brought to the input of a model, such as
    :class:`physadv.models.resizing.InputResizing`."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in px of the input."""
        ...

    def in_words(self, sizes: Iterable[tuple[int, int]] = ()) -> str:
        """Return the rule in words, for images of ``sizes``."""
        ...


def sizes_in_words(sizes: Iterable[tuple[int, int]], resizing: _Resizing | None = None) -> str:
    """Return the sizes (height, width) in px of images as width x height, in words, and how they
    are resized.

    Args:
        sizes: Sizes of the images.
        resizing: How the images are brought to the model's input; None where they are not.

    Returns:
        The words, which say how images are resized if one of them has another size than the input.

    Example:
        >>> sizes_in_words([(32, 32), (32, 32)]), sizes_in_words([(20, 30), (40, 25)])
        ('32x32 px', '25x20 to 30x40 px')
    """
    distinct = set(sizes)
    heights, widths = zip(*distinct, strict=True)
    least, most = f"{min(widths)}x{min(heights)}", f"{max(widths)}x{max(heights)}"
    words = f"{least} px" if least == most else f"{least} to {most} px"
    if resizing is None or distinct == {resizing.size}:
        return words
    return f"{words}, {'all' if len(distinct) == 1 else 'each'} {resizing.in_words(distinct)}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
