"""Layouts of detection and segmentation sets, whose images have boxes or masks and no class."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import NoReturn

from physadv.core.errors import DataError
from physadv.datasets.file_access import FileSource

_COCO = re.compile(
    r"(^|/)((instances|captions|person_keypoints|panoptic|stuff|image_info)_[^/]*\.json"
    r"|_annotations\.coco\.json|annotations/[^/]*\.json)$",
    re.IGNORECASE,
)
_TABLES = re.compile(r"(^|/)(_annotations\.(csv|createml\.json|txt)|_darknet\.labels)$", re.I)
_BOX = re.compile(rb"\s*\d+([ \t]+[\d.]+){4,}\s*(\n|$)")
"""A line of YOLO's files: a class and the box, as numbers."""
_DESCRIPTIONS = frozenset({"data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names"})
"""Names of files, in lower case, that describe a set in the layout of YOLO."""
_GENERIC = frozenset(
    {"image", "images", "img", "imgs", "jpegimages", "pictures", "photos", "frames", "raw", "rgb"}
    | {"data", "dataset", "files", "image_2", "label_2"}
    | {"mask", "masks", "label", "labels", "annotation", "annotations", "gt", "groundtruth"}
    | {"ground_truth", "segmentation", "segmentationclass", "segmentationobject", "depth"}
    | {"leftimg8bit", "gtfine", "overlay", "overlays", "thumbnails"}
)
"""Names of folders, in lower case, that say what lies in them and not of which class it is."""


def is_generic(folder: str) -> bool:
    """Return whether a folder's name says what lies in it, such as "images" or "masks"."""
    return folder.casefold() in _GENERIC


def refuse_detection(source: FileSource, layout: str) -> NoReturn:
    """Refuse a set with boxes, where a class an image is needed.

    Args:
        source: Files of the data set.
        layout: Its layout, as :func:`detection_layout` returns it.

    Raises:
        DataError: Always.
    """
    raise DataError(
        f"{source.path}",
        f"is a set for detection ({layout}): its images have boxes, and no class each",
        "give it to a detector, or sort crops of the boxes as <class>/<image>",
    )


def detection_layout(source: FileSource) -> str:
    """Return the layout of a set with boxes in words; empty for other sets.

    Args:
        source: Files of the data set.
    """
    images = source.images()
    others = sorted(set(source.names) - set(images))
    stems = {PurePosixPath(name).stem for name in images} if others else set()
    described = any(PurePosixPath(name).name.casefold() in _DESCRIPTIONS for name in others)
    for name in others:
        path = PurePosixPath(name)
        suffix, folders = path.suffix.lower(), {part.casefold() for part in path.parts[:-1]}
        if _COCO.search(name):
            return f"COCO, {name}"
        if _TABLES.search(name):
            return f"Roboflow, {name}"
        if suffix == ".txt" and path.stem in stems:
            labels = any(folder.startswith("label") for folder in folders)
            if labels or described or _BOX.match(source.read(name)[:200]):
                return f"YOLO, {name}"
        if suffix == ".xml" and path.stem in stems:
            return f"Pascal VOC, {name}"
    return ""
