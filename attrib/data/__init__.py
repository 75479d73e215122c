"""Data: batches, the public data sets and their files, folders of pictures, arrays."""

from attrib.data.catalog import CATALOG, DATA_SETS, DEFAULT_ATTACK, Budget, default_attack
from attrib.data.datasets import SPLITS, WHOLE, Batch, Dataset, dataset, training_split

__all__ = [
    "CATALOG", "DATA_SETS", "DEFAULT_ATTACK", "SPLITS", "WHOLE", "Batch", "Budget", "Dataset", "dataset",
    "default_attack", "training_split",
]  # fmt: skip
