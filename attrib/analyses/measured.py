"""Measurements: of a batch by a model, of the files behind a name, and of everything. No torch until it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attrib import stats
from attrib.stats import ANYTHING, Values

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor

    from attrib.data import Dataset
    from attrib.models.specs import Model

CLEAN = "clean"
"""The kind of images without an attack; attacked images are called after their attack."""
Array = NDArray[Any]


class Measured(NamedTuple):
    """The measurements of one model on one batch of N images."""

    columns: "Mapping[str, Mapping[str, Tensor | list[str]]]"
    """Kind of images (clean, or the attack's name) to columns (N,)."""
    sums: "Mapping[str, Tensor]" = MappingProxyType({})
    """Sums (float64) that are added over all batches, exactly in any order."""
    resampled: "Mapping[str, Tensor]" = MappingProxyType({})
    """Sums in resamples (float64) that are added over all batches; too large to add exactly."""
    examples: Mapping[int, Mapping[str, Any]] = MappingProxyType({})
    """Position in the data to the arrays and texts for the figure of examples."""
    maps: "tuple[Tensor, Tensor] | None" = None
    """Maps (N,H,W) and spans (N,H,W) to write to a file while the analysis runs."""
    keep: Any = None
    """Passed to ``Analysis.across`` with those of the other models, then dropped."""


class Pass(NamedTuple):
    """Images that an analysis measures."""

    data: "Dataset"
    positions: "Tensor | None" = None
    """(M,) int64; None: all."""


@dataclass(frozen=True)
class Context:
    """The device, data and models of a running analysis."""

    device: "torch.device"
    data: "Dataset | None"
    batch_size: int
    shown: tuple[int, ...] = ()
    """Positions of the images in the figure of examples."""
    models: "tuple[Model, ...]" = ()
    """All models to measure."""
    partial: Path | None = None
    """The folder of partial results, if there is one."""

    @property
    def images(self) -> "Dataset":
        """The data, for an analysis that needs data."""
        assert self.data is not None
        return self.data

    def classes_of(self, model: "Model") -> tuple[str, ...]:
        """The class names: the data's, else the model's own (the models may differ if the data is unlabelled)."""
        return self.images.classes or model.classes or ()


@dataclass(frozen=True)
class Files:
    """The measurements of the S files behind a name, all on the same N images."""

    models: "Sequence[Model]"
    rows: "Sequence[pd.DataFrame]"
    """For every file, a row per image."""
    sums: Sequence[Mapping[str, Array]]
    """For every file, the result of ``Analysis.condense``, by name."""
    facts: Sequence[Mapping[str, Any]]
    """For every file, the result of ``Analysis.describe``."""

    def where(self, **equal: object) -> "Files":
        """Only the rows whose columns have these values."""
        rows = self.rows
        for name, value in equal.items():
            rows = [part[part[name] == value] for part in rows]
        return replace(self, rows=rows)

    def joined(self, other: "Files") -> "Files":
        """These files and the others."""
        return Files(
            [*self.models, *other.models], [*self.rows, *other.rows], [*self.sums, *other.sums],
            [*self.facts, *other.facts],
        )  # fmt: skip

    def only(self, number: int) -> "Files":
        """One of the files."""
        return Files([self.models[number]], [self.rows[number]], [self.sums[number]], [self.facts[number]])

    def identity(self) -> dict[str, Any]:
        """Name, checkpoint, fingerprint and map file, for a result; lists if there are several files."""
        identities = [model.identity() for model in self.models]
        if len(identities) == 1:
            return identities[0]
        keys = [key for key in ("checkpoint", "fingerprint", "maps") if all(key in entry for entry in identities)]
        lists = {key: [entry[key] for entry in identities] for key in keys}
        return {"name": self.models[0].name, **lists}

    def kinds(self) -> list[str]:
        """The kinds of images that were measured, clean first."""
        return list(self.rows[0]["images"].unique())

    def __len__(self) -> int:
        return len(self.models)

    def __contains__(self, column: str) -> bool:
        return any(column in rows and not rows[column].isna().all() for rows in self.rows)

    def __getitem__(self, column: str) -> Values:
        """A column of every file, (S,N), as ``attrib.stats`` takes it; NaN for a file without the column."""
        missing = (np.full(len(rows), np.nan) for rows in self.rows)
        return np.array(
            [
                rows[column].to_numpy(float) if column in rows else nan
                for rows, nan in zip(self.rows, missing, strict=True)
            ]
        )

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.rows[0])

    def mean(self, column: str, *, among: "Array | None" = None) -> float:
        """The mean of a column; among: bool (S,N), the images to use."""
        values = self[column]
        return stats.mean(values if among is None else np.where(among, values, np.nan))

    def interval(self, column: str, *, seed: int, within: tuple[float, float] = ANYTHING) -> list[float]:
        """The 95 % interval of a column's mean: over images or, for several files, over seeds and images."""
        return list(stats.interval(self[column], seed=seed, within=within))

    def count(self, column: str) -> int | float:
        """The number of images for which a bool column is true; for several files the mean."""
        counts = self[column].sum(1)
        return int(counts[0]) if len(counts) == 1 else float(counts.mean())

    def sum(self, name: str) -> Array:
        """A sum of every file, (S,...)."""
        return np.array([sums[name] for sums in self.sums])


class Findings(NamedTuple):
    """All measurements, joined in the first process."""

    context: Context
    files: dict[str, Files]
    """By the models' names."""
    epochs: dict[str, list[Files]]
    """The saved epochs of every run, a single file each."""
    rows: "pd.DataFrame"
    """Every row: by model, seed, epoch and image."""
    across: "pd.DataFrame"
    """Rows about pairs of files: a, b, images, index and the columns of ``Analysis.across``; may be empty."""
    examples: Mapping[int, Mapping[str, Mapping[str, Any]]]
    """Position in the data to model (``Model.shown_as``) to its arrays in the figure of examples."""
