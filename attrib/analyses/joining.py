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
"""The columns that begin a row; an analysis names those that it needs."""


def pairs_of_files(models: Sequence[Model]) -> list[tuple[int, int]]:
    """The positions of every two models that have different names."""
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
    of_model = dict(iter(rows.groupby(["model", "seed", "epoch"], sort=False))) if len(rows) else {}
    kept = [column for column in rows if column not in KEYS or column in analysis.keys]
    files = [
        Files(
            [model], [of_model[key][kept] if key in of_model else rows],
            [analysis.condense(
                {name: total.sum(0).numpy() for name, total in part.sums.get(place, {}).items()}
                | {name: total.numpy() for name, total in part.resampled.get(place, {}).items()}
            )],
            [facts[place]],
        )
        for place, (model, key) in enumerate(zip(models, keys, strict=True))
    ]  # fmt: skip
    of_name: dict[str, Files] = {}
    epochs: dict[str, list[Files]] = {}
    for file in files:
        model = file.models[0]
        if model.epoch is not None:
            epochs.setdefault(model.name, []).append(file)
        else:
            of_name[model.name] = of_name[model.name].joined(file) if model.name in of_name else file
    return Findings(context, of_name, epochs, rows[kept], across, part.examples)


def _table(
    rows: Mapping[int, Sequence[Row]], heads: Sequence[Mapping[str, Any]], splits: Mapping[int, str]
) -> pd.DataFrame:
    """The rows of all batches as one table: by model, seed, epoch and image; of one image as they come."""
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
    """Rows by split and model (in the order they come), seed, epoch and image; of one image as they come.

    Batch by batch, a batch's rows of all models would follow one another: an order that says how large batches were.
    """
    first = [pd.factorize(table[name])[0] for name in ("b", "a", "model", "split") if name in table]
    keys = [table[name].to_numpy() for name in ("index", "epoch", "seed") if name in table]
    return table.iloc[np.lexsort((*keys, *first))].reset_index(drop=True)
