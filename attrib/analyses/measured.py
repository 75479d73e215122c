"""What is measured: of one batch by one model, of the files behind a name, of everything. No torch until it runs."""

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
"""The kind of images that nobody attacked; the other kind is called after its attack."""
Array = NDArray[Any]


class Measured(NamedTuple):
    """What one model makes of one batch of N images."""

    columns: "Mapping[str, Mapping[str, Tensor | list[str]]]"
    """Kind of images (clean, or the attack's name) to columns (N,)."""
    sums: "Mapping[str, Tensor]" = MappingProxyType({})
    """Added over all batches, exactly in whatever order (float64)."""
    resampled: "Mapping[str, Tensor]" = MappingProxyType({})
    """Added over all batches as they come (float64): sums in resamples, which are too large to add exactly."""
    examples: Mapping[int, Mapping[str, Any]] = MappingProxyType({})
    """Position in the data to arrays and words for a picture."""
    maps: "tuple[Tensor, Tensor] | None" = None
    """Maps (N,H,W) and spans (N,H,W) to write to a file while the analysis runs."""
    keep: Any = None
    """Handed to ``Analysis.across`` with those of the other models, then dropped."""


class Pass(NamedTuple):
    """Images that an analysis measures."""

    data: "Dataset"
    positions: "Tensor | None" = None
    """(M,) int64; None: all."""


@dataclass(frozen=True)
class Context:
    """Where and on what an analysis runs."""

    device: "torch.device"
    data: "Dataset | None"
    batch_size: int
    shown: tuple[int, ...] = ()
    """Positions of the images that the pictures show."""
    models: "tuple[Model, ...]" = ()
    """All that are measured."""
    partial: Path | None = None
    """The folder of partial results, if there is one."""

    @property
    def images(self) -> "Dataset":
        """The data of an analysis that cannot do without."""
        assert self.data is not None
        return self.data

    def classes_of(self, model: "Model") -> tuple[str, ...]:
        """The names of the classes: the data's, or of unlabelled data the model's, where models have different ones."""
        return self.images.classes or model.classes or ()


@dataclass(frozen=True)
class Files:
    """What was measured of the S files behind a name, all on the same N images of one kind."""

    models: "Sequence[Model]"
    rows: "Sequence[pd.DataFrame]"
    """Of every file, a row per image."""
    sums: Sequence[Mapping[str, Array]]
    """Of every file, by name: what ``Analysis.condense`` made of its ``sums`` and ``resampled``."""
    facts: Sequence[Mapping[str, Any]]
    """Of every file, what ``Analysis.describe`` returned."""

    def where(self, **equal: object) -> "Files":
        """The rows in which a column has this value."""
        rows = self.rows
        for name, value in equal.items():
            rows = [part[part[name] == value] for part in rows]
        return replace(self, rows=rows)

    def joined(self, other: "Files") -> "Files":
        """These files and those."""
        return Files(
            [*self.models, *other.models], [*self.rows, *other.rows], [*self.sums, *other.sums],
            [*self.facts, *other.facts],
        )  # fmt: skip

    def only(self, number: int) -> "Files":
        """One of the files."""
        return Files([self.models[number]], [self.rows[number]], [self.sums[number]], [self.facts[number]])

    def identity(self) -> dict[str, Any]:
        """What a result says of the files: name, checkpoint, fingerprint and file of maps, of several as lists."""
        each = [model.identity() for model in self.models]
        if len(each) == 1:
            return each[0]
        keys = [key for key in ("checkpoint", "fingerprint", "maps") if all(key in identity for identity in each)]
        lists = {key: [identity[key] for identity in each] for key in keys}
        return {"name": self.models[0].name, **lists}

    def kinds(self) -> list[str]:
        """The kinds of images that were measured, clean first."""
        return list(self.rows[0]["images"].unique())

    def __len__(self) -> int:
        return len(self.models)

    def __contains__(self, column: str) -> bool:
        return any(column in rows and not rows[column].isna().all() for rows in self.rows)

    def __getitem__(self, column: str) -> Values:
        """A column of every file, (S,N), which ``attrib.stats`` takes; NaN where a file has no such column."""
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
        """The mean of a column; among: bool (S,N), only there."""
        values = self[column]
        return stats.mean(values if among is None else np.where(among, values, np.nan))

    def interval(self, column: str, *, seed: int, within: tuple[float, float] = ANYTHING) -> list[float]:
        """The 95 % interval of that mean: over images, of several files over seeds and images (``attrib.stats``)."""
        return list(stats.interval(self[column], seed=seed, within=within))

    def count(self, column: str) -> int | float:
        """How many images a bool column holds; of several files the mean."""
        counts = self[column].sum(1)
        return int(counts[0]) if len(counts) == 1 else float(counts.mean())

    def sum(self, name: str) -> Array:
        """A sum of every file, (S,...)."""
        return np.array([each[name] for each in self.sums])


class Findings(NamedTuple):
    """All that was measured, for one process."""

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
    """Position in the data to model (``Model.shown_as``) to what the picture shows of it."""
