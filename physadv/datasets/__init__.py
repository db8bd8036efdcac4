"""Labeled images from the layouts people have, with groups that a split must not tear apart."""

from physadv.datasets.base import ImageDataset, in_memory
from physadv.datasets.read import read_dataset
from physadv.datasets.split import split_by_group
from physadv.datasets.summary import DatasetSummary

__all__ = ["DatasetSummary", "ImageDataset", "in_memory", "read_dataset", "split_by_group"]
