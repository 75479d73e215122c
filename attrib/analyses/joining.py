"""From batches to tables: the rows of all batches and processes, joined in the data's order, by model."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from attrib.analyses.base import Analysis
from attrib.analyses.measured import Context, Files, Findings
from attrib.analyses.partial import Part, Row
from attrib.models.specs import Model

KEYS = ("split", "model", "seed", "epoch", "images", "index")
"""The possible first columns of a table; ``Analysis.keys`` names those that an analysis has."""


def pairs_of_files(models: Sequence[Model]) -> list[tuple[int, int]]:
    """The positions of every two models with different names, without saved epochs."""
    return [
        (a, b) for (a, one), (b, other) in combinations(enumerate(models), 2)
        if one.name != other.name and one.epoch is None and other.epoch is None
    ]  # fmt: skip


def joined(
    analysis: Analysis, models: Sequence[Model], part: Part, facts: Sequence[Mapping[str, Any]],
    splits: Mapping[int, str], context: Context,
) -> Findings:  # fmt: skip
    """Everything that was measured, by model."""
    keys = [(model.name, model.seed, -1 if model.epoch is None else model.epoch) for model in models]
    heads = [dict(zip(("model", "seed", "epoch"), key, strict=True)) for key in keys]
    rows = _table(part.rows, heads, splits)
    names = [{"a": models[a].name, "b": models[b].name} for a, b in pairs_of_files(models)]
    across = _table(part.across, names, splits)
    rows_of = dict(iter(rows.groupby(["model", "seed", "epoch"], sort=False))) if len(rows) else {}
    columns = [column for column in rows if column not in KEYS or column in analysis.keys]
    files = [
        Files(
            [model], [rows_of[key][columns] if key in rows_of else rows],
            [analysis.condense(
                {name: total.sum(0).numpy() for name, total in part.sums.get(place, {}).items()}
                | {name: total.numpy() for name, total in part.resampled.get(place, {}).items()}
            )],
            [facts[place]],
        )
        for place, (model, key) in enumerate(zip(models, keys, strict=True))
    ]  # fmt: skip
    by_name: dict[str, Files] = {}
    epochs: dict[str, list[Files]] = {}
    for file in files:
        model = file.models[0]
        if model.epoch is not None:
            epochs.setdefault(model.name, []).append(file)
        else:
            by_name[model.name] = by_name[model.name].joined(file) if model.name in by_name else file
    return Findings(context, by_name, epochs, rows[columns], across, part.examples)


def _table(
    rows: Mapping[int, Sequence[Row]], heads: Sequence[Mapping[str, Any]], splits: Mapping[int, str]
) -> pd.DataFrame:
    """The rows of all batches as one table, in the order of ``ordered``."""
    frames = []
    for number in sorted(rows):
        for place, kind, columns in rows[number]:
            arrays = {
                name: values.numpy() if isinstance(values, Tensor) else values for name, values in columns.items()
            }
            frames.append(pd.DataFrame({"split": splits[number], **heads[place], "images": kind, **arrays}))
    if not frames:
        return pd.DataFrame()
    return ordered(pd.concat(frames, ignore_index=True))


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by split and model (in order of appearance), seed, epoch and image; rows of one image keep their order.

    Unsorted rows go batch by batch, so their order would depend on the batch size.
    """
    first = [pd.factorize(table[name])[0] for name in ("b", "a", "model", "split") if name in table]
    keys = [table[name].to_numpy() for name in ("index", "epoch", "seed") if name in table]
    return table.iloc[np.lexsort((*keys, *first))].reset_index(drop=True)
